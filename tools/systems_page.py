"""Write docs/systems.md: VINO and VOGUE side by side, for choosing between them.

vino eval toy models/vino-tiny --count 200 --out runs/eval/vino-tiny
vino eval toy models/vogue-tiny --count 200 --out runs/eval/vogue-tiny
python tools/systems_page.py --reports runs/eval/vino-tiny/report.json runs/eval/vogue-tiny/report.json

Pictures and clips may be measured apart (`--tasks`, another `--count`): then give all the reports.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from comparison.jobs import TITLES  # noqa: E402
from comparison.measuring import check_systems, load, race, read_reports  # noqa: E402
from comparison.page import PICTURE, systems_page  # noqa: E402

from vino_core.errors import InputError  # noqa: E402
from vino_core.media.output import check_folder, write_image, write_text  # noqa: E402
from vino_core.toyworld.sheet import comparison_sheet  # noqa: E402


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, nargs=2, default=[ROOT / "models/vino-tiny", ROOT / "models/vogue-tiny"],
                        help="folders of the two miniatures, VINO's first")  # fmt: skip
    parser.add_argument("--reports", type=Path, nargs="+", required=True, help="report.json of both, in any order")
    parser.add_argument("--shown", type=int, default=2, help="examples of each task in the picture (default: 2)")
    parser.add_argument("--device", help="default: cuda, mps or cpu, the first that works")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="default: docs")
    arguments = parser.parse_args(given)
    page, picture = arguments.docs / "systems.md", arguments.docs / PICTURE
    try:
        if arguments.shown < 1:
            raise InputError(f"--shown {arguments.shown}: at least one example of each task is shown.")
        reports = read_reports(arguments.reports)
        pipelines = [load(folder, arguments.device) for folder in arguments.models]
        systems = [each.system for each in pipelines]
        check_systems(systems, reports)
        check_folder(picture.parent)
        raced = race(pipelines, reports, arguments.shown)
        write_image(picture, comparison_sheet(raced.cards, TITLES))
        write_text(page, systems_page(systems, reports, raced))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{page}\n{picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
