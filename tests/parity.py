"""Compare the core with a folder of reference numbers: `python tests/parity.py DIR`.

Prints one line per quantity, `case quantity max_abs limit ok`, and exits with 1 when any exceeds its limit.
The format of such a folder is described in the README.md of tests/goldens/vino and tests/goldens/vogue; its files tell
whose it is. Groups whose index file is absent are skipped.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from parity_groups import Row  # noqa: E402

VINO = {name: name for name in ("data", "scheduler", "transformer", "vae", "mm_encoder", "pipeline")}
VOGUE = {
    "data": "vogue.data",
    "schedule": "vogue.schedule",
    "transformer": "vogue.transformer",
    "vae": "vogue.vae",
    "mllm": "mllm",
    "pipeline": "vogue.pipeline",
}
"""Groups, and the modules that check them."""
GROUPS = tuple(dict.fromkeys((*VINO, *VOGUE)))


def groups_of(folder: Path) -> dict[str, str]:
    """The groups of the system that `folder` is about."""
    return VOGUE if (folder / "tasks.json").is_file() else VINO


def rows(folder: Path, only: tuple[str, ...] = GROUPS) -> Iterator[tuple[str, Row]]:
    """Yield (group, row) for every group of `only` that the folder has. Raises FileNotFoundError when it has none."""
    found = False
    for group, name in groups_of(folder).items():
        if group not in only:
            continue
        module = importlib.import_module(f"parity_groups.{name}")
        if (folder / module.INDEX).is_file():
            found = True
            for row in module.check(folder):
                yield group, row
    if not found:
        raise FileNotFoundError(f"{folder}: none of the index files of the groups {', '.join(only)} is here")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=GROUPS, help="groups to check (default: all)")
    arguments = parser.parse_args()
    count = failed = 0
    for group, row in rows(arguments.folder, tuple(arguments.only)):
        count += 1
        failed += not row.ok
        verdict = "ok" if row.ok else "FAILED"
        print(f"{group}/{row.case} {row.quantity} {row.max_abs:.3g} {row.limit:.3g} {verdict}", flush=True)
    print(f"{count - failed} of {count} quantities within their limits")
    return 1 if failed or not count else 0


if __name__ == "__main__":
    sys.exit(main())
