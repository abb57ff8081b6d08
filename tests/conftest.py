"""What several test files share: one ComfyUI server for the whole session."""

from __future__ import annotations

import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
for folder in (ROOT, ROOT / "tools", ROOT / "tests"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))

from comfy_server import ComfyServer  # noqa: E402
from server_media import upload_media  # noqa: E402
from tiny_vogue_weights import write_tiny_vogue_weights  # noqa: E402
from tiny_weights import write_tiny_weights  # noqa: E402


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A running ComfyUI with this pack, the tests' own nodes, miniature random weights, and pictures and a clip."""
    comfyui = ComfyServer(tmp_path_factory.mktemp("comfyui"), stubs=True)
    write_tiny_weights(comfyui.models)
    write_tiny_vogue_weights(comfyui.models)
    with comfyui:
        upload_media(comfyui)
        yield comfyui


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
