"""`make bench` runs scripts that need no words of their own."""

from __future__ import annotations

import ast
import re
import subprocess

from paths import ROOT


def needed(script: str) -> list[str]:
    """Names of the positional arguments that a script cannot do without."""
    calls = (node for node in ast.walk(ast.parse((ROOT / script).read_text())) if isinstance(node, ast.Call))
    found = []
    for call in calls:
        if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument":
            name = ast.literal_eval(call.args[0])
            options = {option.arg for option in call.keywords}
            found += [] if name.startswith("-") or "nargs" in options else [name]
    return found


def test_every_script_of_make_bench_runs_as_it_is() -> None:
    shown = subprocess.run(["make", "-n", "bench"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = re.search(r"for script in (.*?);", shown)[1]
    scripts = set(listed.split())
    assert {script: needed(script) for script in scripts if needed(script)} == {}
    apart = {path.relative_to(ROOT).as_posix() for path in (ROOT / "benchmarks").glob("*.py")} - scripts
    assert apart == {"benchmarks/convert_memory.py"}
