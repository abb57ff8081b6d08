"""The rules of the house that a machine can check (docs/architecture.md, "House rules")."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vino_core import __version__
from vino_core.systems import SYSTEMS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
CORE = sorted((ROOT / "vino_core").rglob("*.py"))
NODES = [ROOT / "__init__.py", *sorted((ROOT / "nodes").rglob("*.py"))]
SHIPPED = [path for path in (*CORE, *NODES) if path.is_file()]
EVERYTHING = [*SHIPPED, *(p for folder in ("tests", "tools", "benchmarks") for p in (ROOT / folder).rglob("*.py"))]

COMFY = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "execution", "folder_paths", "latent_preview"}
COMFY |= {"node_helpers", "nodes", "server"}
LAZY = {"accelerate", "deepspeed", "diffusers", "peft", "ray", "tensorboard", "transformers", "webdataset", "yaml"}
NETWORK = {"aiohttp", "ftplib", "http", "huggingface_hub", "pip", "requests", "socket", "subprocess", "urllib"}
MATHEMATICS = {"addmm", "baddbmm", "bmm", "conv2d", "conv3d", "einsum", "fft", "interpolate", "layer_norm", "linear"}
MATHEMATICS |= {"matmul", "mm", "scaled_dot_product_attention", "softmax"}
MAX_LINES = 450

Finding = tuple[int, str]


def imports(tree: ast.AST) -> Iterator[Finding]:
    """Line and dotted name of every absolute import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.lineno, node.module


def imports_of(tree: ast.AST, forbidden: set[str]) -> list[Finding]:
    return [(line, f"imports {name}") for line, name in imports(tree) if name.partition(".")[0] in forbidden]


def imports_comfy(tree: ast.AST) -> list[Finding]:
    return imports_of(tree, COMFY)


def imports_own_package_absolutely(tree: ast.AST) -> list[Finding]:
    """Inside ComfyUI the core is a part of the pack, and no module `vino_core` exists."""
    return imports_of(tree, {"vino_core"})


def reaches_outside(tree: ast.AST) -> list[Finding]:
    return imports_of(tree, NETWORK)


def imports_lazy_packages_early(tree: ast.Module) -> list[Finding]:
    """Imports of slow, optional packages that run when the module is imported, not when a function is called."""
    pending: list[ast.AST] = list(tree.body)
    early: list[ast.stmt] = []
    while pending:
        node = pending.pop()
        is_typing_only = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or is_typing_only:
            continue
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            early.append(node)
        pending.extend(ast.iter_child_nodes(node))
    return imports_of(ast.Module(early, []), LAZY)


def does_mathematics(tree: ast.AST) -> list[Finding]:
    found = [(line, f"imports {name}") for line, name in imports(tree) if name.startswith("torch.nn")]
    for node in ast.walk(tree):
        if isinstance(node, (ast.BinOp, ast.AugAssign)) and isinstance(node.op, ast.MatMult):
            found.append((node.lineno, "uses @"))
        elif isinstance(node, ast.Attribute) and node.attr in MATHEMATICS:
            found.append((node.lineno, f"uses .{node.attr}"))
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.nn":
            found.append((node.lineno, "uses torch.nn"))
    return found


def asks_which_system(tree: ast.AST) -> list[Finding]:
    """Comparisons with a system, its name, or the literal name of a known one."""

    def is_system(node: ast.expr) -> bool:
        if isinstance(node, ast.Constant):
            return node.value in SYSTEMS
        if isinstance(node, (ast.Tuple, ast.List, ast.Set)):
            return any(is_system(element) for element in node.elts)
        return re.search(r"(^|\.|\b)system(_name|\.name)?$", ast.unparse(node)) is not None

    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            is_none_check = any(isinstance(c, ast.Constant) and c.value is None for c in node.comparators)
            if not is_none_check and any(is_system(side) for side in (node.left, *node.comparators)):
                found.append((node.lineno, ast.unparse(node)))
        elif isinstance(node, ast.Match) and is_system(node.subject):
            found.append((node.lineno, f"match {ast.unparse(node.subject)}"))
    return found


def keyed_by_system(tree: ast.AST) -> list[Finding]:
    """Dictionaries with the literal names of several systems among their keys."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            names = {key.value for key in node.keys if isinstance(key, ast.Constant)} & SYSTEMS.keys()
            found += [(node.lineno, f"has an entry for each of {sorted(names)}")] if len(names) > 1 else []
    return found


def calls_unsafe(tree: ast.AST) -> list[Finding]:
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        options = {word.arg: ast.unparse(word.value) for word in node.keywords}
        unsafe = name in {"eval", "exec", "os.system", "pickle.load", "pickle.loads", "pickle.Unpickler"}
        unsafe |= name == "torch.load" and options.get("weights_only") != "True"
        unsafe |= options.get("shell") == "True"
        if unsafe:
            found.append((node.lineno, f"calls {name}"))
    return found


def too_long(text: str) -> list[Finding]:
    lines = text.count("\n")
    return [(lines, f"has {lines} lines, more than {MAX_LINES}")] if lines > MAX_LINES else []


def check(rule: Callable[[ast.Module], list[Finding]], files: list[Path]) -> None:
    assert files, "no file to look at"
    found = [
        f"{path.relative_to(ROOT)}:{line} {what}" for path in files for line, what in rule(ast.parse(path.read_text()))
    ]
    assert not found, "\n".join(found)


def test_core_never_imports_comfyui() -> None:
    check(imports_comfy, CORE)


def test_pack_and_core_import_each_other_relatively() -> None:
    check(imports_own_package_absolutely, SHIPPED)


def test_core_imports_slow_packages_only_inside_functions() -> None:
    check(imports_lazy_packages_early, CORE)


def test_nodes_hold_no_mathematics() -> None:
    check(does_mathematics, [path for path in NODES if "comfy" not in path.relative_to(ROOT).parts])


def test_only_systems_know_which_system_it_is() -> None:
    outside = [path for path in SHIPPED if "systems" not in path.relative_to(ROOT).parts]
    check(asks_which_system, outside)
    check(keyed_by_system, outside)


def test_nothing_unsafe_is_called() -> None:
    check(calls_unsafe, EVERYTHING)


def test_pack_and_core_neither_reach_the_network_nor_start_programs() -> None:
    check(reaches_outside, SHIPPED)


def test_files_are_short() -> None:
    long = [f"{path.relative_to(ROOT)} {what}" for path in EVERYTHING for _, what in too_long(path.read_text())]
    assert not long, "\n".join(long)


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        (imports_comfy, "def f():\n    from comfy.utils import x"),
        (imports_comfy, "import torch, nodes"),
        (imports_lazy_packages_early, "try:\n    import transformers.models\nexcept ImportError:\n    pass"),
        (imports_lazy_packages_early, "class A:\n    from diffusers import B"),
        (imports_own_package_absolutely, "from vino_core.config import MMDiTConfig"),
        (reaches_outside, "import urllib.request"),
        (does_mathematics, "import torch.nn.functional as F"),
        (does_mathematics, "y = a @ b"),
        (does_mathematics, "y = torch.einsum('ij->i', a)"),
        (does_mathematics, "y = torch.nn.Linear(1, 1)"),
        (asks_which_system, "x = 1 if system == other else 2"),
        (asks_which_system, "if model.system.name in names: pass"),
        (asks_which_system, f"ok = entry == {next(iter(SYSTEMS))!r}"),
        (asks_which_system, "match request.system:\n    case 1: pass"),
        (keyed_by_system, f"jobs = {dict.fromkeys(SYSTEMS, 1)}"),
        (calls_unsafe, "eval(text)"),
        (calls_unsafe, "torch.load(path)"),
        (calls_unsafe, "subprocess.run(text, shell=True)"),
    ],
)
def test_rules_see_what_they_forbid(rule: Callable[[ast.Module], list[Finding]], code: str) -> None:
    assert rule(ast.parse(code))


@pytest.mark.parametrize(
    ("rule", "code"),
    [
        (imports_comfy, "from .nodes import x\nimport comfyless"),
        (imports_lazy_packages_early, "def f():\n    import transformers"),
        (imports_lazy_packages_early, "if TYPE_CHECKING:\n    import transformers"),
        (does_mathematics, "@decorator\ndef f():\n    return size * 2"),
        (asks_which_system, "if system is None or filesystem == 3: pass"),
        (keyed_by_system, "metadata = {**others, 'vino': 1, 'a': 2}"),
        (calls_unsafe, "model.eval()\ntorch.load(path, weights_only=True, mmap=True)"),
    ],
)
def test_rules_let_the_rest_pass(rule: Callable[[ast.Module], list[Finding]], code: str) -> None:
    assert not rule(ast.parse(code))


def requirement_lines() -> list[str]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_requirements_are_floors_and_leave_torch_and_numpy_alone() -> None:
    lines = requirement_lines()
    assert lines == project()["dependencies"]
    assert lines == sorted(lines)
    assert not {re.split(r"\W", line)[0].lower() for line in lines} & {"torch", "torchvision", "torchaudio", "numpy"}


def test_every_dependency_has_a_floor_and_nothing_else() -> None:
    extras = [line for group in project()["optional-dependencies"].values() for line in group]
    wrong = [line for line in (*requirement_lines(), *extras) if not re.fullmatch(r"[\w.-]+>=\d+(\.\d+)*", line)]
    assert not wrong


def test_versions_agree() -> None:
    assert project()["version"] == __version__


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/training.md"])
def test_links_between_files_lead_somewhere(page: str) -> None:
    path = ROOT / page
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)", path.read_text())
    assert [target for target in targets if not (path.parent / target).exists()] == []


def test_core_uses_what_it_declares_and_declares_what_it_uses() -> None:
    module_names = {"pillow": "PIL"}
    names = [re.split(r"[>=]", line)[0] for line in requirement_lines()]
    declared = {module_names.get(name, name) for name in names}
    used = {name.partition(".")[0] for path in CORE for _, name in imports(ast.parse(path.read_text()))}
    third_party = used - set(sys.stdlib_module_names) - {"vino_core"}
    assert declared <= third_party, "declared and never imported"
    assert third_party <= declared | LAZY | {"torch", "numpy"}, "imported and never declared"


IMPORT_ALL = """
import importlib, pkgutil, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked in this test")

sys.meta_path.insert(0, Blocked())
import vino_core
for module in pkgutil.walk_packages(vino_core.__path__, "vino_core."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
        print(module.name)
"""


def test_core_imports_without_comfyui_and_optional_packages() -> None:
    code = f"BLOCKED = {LAZY | COMFY!r}\n{IMPORT_ALL}"
    # -I keeps the working folder off the path, so that only the installed package can be meant.
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "vino_core.mmdit.model" in done.stdout.split()
