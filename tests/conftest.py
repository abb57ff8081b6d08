"""What several test files share: one ComfyUI server for the whole session, and one worker with runs of two processes.

Both are started before the first test if a test will want them, and get ready while the others run.
"""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
for folder in (ROOT, ROOT / "tools", ROOT / "tests"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from comfy_server import ComfyServer  # noqa: E402
from server_media import upload_media  # noqa: E402
from tiny_vogue_weights import write_tiny_vogue_weights  # noqa: E402
from tiny_weights import write_tiny_weights  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def settled() -> None:
    """What is in memory before a test file, most of it imported libraries, is never searched for garbage again: that
    took a tenth of all time, and more where the code itself collects."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def worker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A `beside_the_tests.Worker` with what `WORKS` of the chosen test files names; None where that is nothing."""
    modules = dict.fromkeys(getattr(item, "module", None) for item in request.session.items)
    names = dict.fromkeys(name for module in modules for name in getattr(module, "WORKS", ()))
    if not names:
        yield None
        return
    from beside_the_tests import Worker

    running = Worker(tmp_path_factory.mktemp("worker"), names)
    yield running
    running.stop()


@pytest.fixture(scope="session", autouse=True)
def starting_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyServer | None]:
    """A ComfyUI that need not answer yet, with this pack, the tests' own nodes and miniature random weights."""
    if not any("server" in getattr(item, "fixturenames", ()) for item in request.session.items):
        yield None
        return
    comfyui = ComfyServer(tmp_path_factory.mktemp("comfyui"), stubs=True)
    write_tiny_weights(comfyui.models)
    write_tiny_vogue_weights(comfyui.models)
    try:
        comfyui.launch()
        yield comfyui
    finally:
        comfyui.stop()


@pytest.fixture(scope="session")
def server(starting_server: ComfyServer) -> ComfyServer:
    """A running ComfyUI with this pack, the tests' own nodes, miniature random weights, and pictures and a clip."""
    starting_server.connect()
    upload_media(starting_server)
    return starting_server


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the end of the server's log under a failed test that used it; end where a command was told to end."""
    report = yield
    told = 128 + signal.SIGTERM  # how `vino` leaves, while it runs in a test: without this the test would just fail
    if call.excinfo is not None and call.excinfo.errisinstance(SystemExit) and call.excinfo.value.code == told:
        pytest.exit(f"terminated in {item.nodeid}", returncode=told)
    comfyui = getattr(item, "funcargs", {}).get("server")
    if report.failed and isinstance(comfyui, ComfyServer):
        report.sections.append(("end of ComfyUI's log", comfyui.log()))
    return report
