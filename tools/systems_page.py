"""Write docs/systems.md: VINO and VOGUE side by side, for choosing between them.

vino eval toy models/vino-tiny --count 1000 --out runs/eval/vino-tiny
vino eval toy models/vogue-tiny --count 1000 --out runs/eval/vogue-tiny
python tools/systems_page.py --reports runs/eval/vino-tiny/report.json runs/eval/vogue-tiny/report.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from comparison.measuring import load, race, read_reports  # noqa: E402
from comparison.page import systems_page  # noqa: E402

from vino_core.errors import InputError  # noqa: E402
from vino_core.media.output import write_image, write_text  # noqa: E402
from vino_core.systems import get_system  # noqa: E402
from vino_core.toyworld.requests import Settings  # noqa: E402
from vino_core.toyworld.sheet import comparison_sheet  # noqa: E402


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, nargs=2, default=[ROOT / "models/vino-tiny", ROOT / "models/vogue-tiny"],
                        help="folders of the two miniatures")  # fmt: skip
    parser.add_argument("--reports", type=Path, nargs=2, required=True, help="report.json of each, in the same order")
    parser.add_argument("--shown", type=int, default=2, help="examples of each task in the picture (default: 2)")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="default: docs")
    arguments = parser.parse_args(given)
    try:
        reports = read_reports(arguments.reports)
        known = next(iter(reports.values()))["settings"]
        settings = Settings(**{name: known[name] for name in Settings.__dataclass_fields__ if name in known})
        raced = race([load(folder) for folder in arguments.models], settings, arguments.shown)
        picture = arguments.docs / "systems" / "side_by_side.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        write_image(picture, comparison_sheet(raced.cards))
        page = arguments.docs / "systems.md"
        write_text(page, systems_page([get_system("vino"), get_system("vogue")], reports, raced.seconds))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{page}\n{picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
