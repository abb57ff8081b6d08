"""A real ComfyUI on the CPU, in a folder of its own, driven through its HTTP API.

Used by the server and browser tests, by the demo and by the workflow builder, so it depends on nothing but
ComfyUI's own requirements (aiohttp for the progress messages) and knows nothing about pytest.

    with ComfyServer(folder) as server:
        result = server.run(api_graph)
        result.files("9")     # what node 9 saved
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STUBS = ROOT / "tests" / "comfy_stubs"
PACK_NAME = "vino"

Graph = dict[str, dict[str, Any]]


class PromptRejected(RuntimeError):
    """The server refused the graph before running it; `details` is its JSON answer."""

    def __init__(self, details: Mapping[str, Any]) -> None:
        super().__init__(json.dumps(details, indent=1))
        self.details = details


class PromptFailed(RuntimeError):
    """A node raised while the graph ran."""

    def __init__(self, error: Mapping[str, Any], log: str) -> None:
        self.node_type = str(error.get("node_type", ""))
        self.message = str(error.get("exception_message", "")).strip()
        super().__init__(f"{self.node_type}: {self.message}\n{log}")


class PromptInterrupted(RuntimeError):
    """The run was stopped by `interrupt`."""


@dataclass
class Result:
    """What one finished prompt left behind: `outputs` by node id, `cached` node ids, the folder of each file kind."""

    prompt_id: str
    outputs: dict[str, Any]
    cached: list[str]
    seconds: float
    folders: Mapping[str, Path] = field(repr=False)

    def files(self, node: str | None = None) -> list[Path]:
        """Files saved by `node`, or by every node, in the order the server lists them."""
        nodes = [node] if node is not None else list(self.outputs)
        entries = [
            item
            for name in nodes
            for group in self.outputs.get(name, {}).values()
            for item in group
            if isinstance(item, dict) and "filename" in item
        ]
        return [self.folders[e["type"]] / e.get("subfolder", "") / e["filename"] for e in entries]

    def text(self, node: str) -> str:
        """Text shown by `node`."""
        return "".join(self.outputs[node]["text"])


def find_comfyui() -> Path:
    """Folder of the ComfyUI to use: COMFYUI_PATH, else the copy that the setup keeps in `.cache/comfyui`.

    Raises FileNotFoundError when neither holds a `main.py`.
    """
    chosen = os.environ.get("COMFYUI_PATH")
    folder = Path(chosen) if chosen else ROOT / ".cache" / "comfyui"
    if not (folder / "main.py").is_file():
        raise FileNotFoundError(
            f"no ComfyUI at {folder}: run `make setup`, or set COMFYUI_PATH to a folder that contains ComfyUI's main.py"
        )
    return folder


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _become(command: list[str]) -> None:
    """Replace this process by `command`, bound to its parent's life."""
    # A test runner killed with SIGKILL runs no clean-up of its own; Linux then ends the server for it.
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    os.execv(command[0], command)


class ComfyServer:
    """One ComfyUI process with its own models, input, output, user and custom_nodes folders under `base`.

    `stubs` also loads the tests-only nodes of tests/comfy_stubs. `pack=False` starts ComfyUI without this pack.
    """

    def __init__(self, base: Path, *, stubs: bool = False, pack: bool = True, python: str = sys.executable) -> None:
        self.base = Path(base).resolve()
        self.comfyui = find_comfyui()
        self.python = python
        self.log_path = self.base / "server.log"
        self.client_id = uuid.uuid4().hex
        self.messages: list[dict[str, Any]] = []
        self.previews = 0
        self.url = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._listener: threading.Thread | None = None
        self._prepare(pack, stubs)

    def _prepare(self, pack: bool, stubs: bool) -> None:
        for name in ("models", "input", "output", "temp", "user/default", "custom_nodes"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        # No tutorial over the canvas; and drawn without a GPU, 60 frames a second would take a processor core.
        settings = {"Comfy.TutorialCompleted": True, "LiteGraph.Canvas.MaximumFps": 5}
        (self.base / "user/default/comfy.settings.json").write_text(json.dumps(settings))
        packs = [(pack, PACK_NAME, ROOT), (stubs, "test_stubs", STUBS)]
        for wanted, name, source in packs:
            link = self.base / "custom_nodes" / name
            if wanted and not link.is_symlink():
                link.symlink_to(source, target_is_directory=True)

    @property
    def models(self) -> Path:
        """Where the server looks for models."""
        return self.base / "models"

    @property
    def pid(self) -> int:
        """Process id of the running server. Raises RuntimeError when it is not running."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    @property
    def folders(self) -> dict[str, Path]:
        """Where the server keeps files of type input, output and temp."""
        return {kind: self.base / kind for kind in ("input", "output", "temp")}

    def __enter__(self) -> ComfyServer:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, timeout: float = 180.0) -> None:
        """Start the process and wait until it answers. Raises RuntimeError with the end of the log when it does not."""
        self.launch()
        self.connect(timeout)

    def launch(self) -> None:
        """Start the process, without waiting for it."""
        port = _free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [self.python, str(self.comfyui / "main.py"), "--cpu", "--port", str(port)]
        command += ["--base-directory", str(self.base), "--database-url", f"sqlite:///{self.base}/user/comfyui.db"]
        # The default cache empties itself when memory is short: tests of caching would depend on the machine.
        command += ["--disable-auto-launch", "--disable-api-nodes", "--cache-classic", "--preview-method", "latent2rgb"]
        # What ComfyUI uses on GPUs; its choice for CPUs is ten times slower at the lengths of real references.
        command += ["--use-pytorch-cross-attention"]
        with open(self.log_path, "wb") as log:
            self._process = subprocess.Popen(
                [self.python, __file__, *command],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.base,
                start_new_session=True,
            )

    def connect(self, timeout: float = 180.0) -> None:
        """Wait until the process answers, and listen to it. Raises RuntimeError with the end of the log when it does
        not."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        deadline = time.monotonic() + timeout
        while True:
            if self._process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended with code {self._process.returncode} while starting\n{self.log()}")
            try:
                self.get("/system_stats", timeout=5)
                break
            except (OSError, urllib.error.URLError):
                if time.monotonic() > deadline:
                    raise RuntimeError(f"ComfyUI did not answer within {timeout:.0f} s\n{self.log()}") from None
                time.sleep(0.2)
        connected = threading.Event()
        self._listener = threading.Thread(target=lambda: asyncio.run(self._listen(connected)), daemon=True)
        self._listener.start()
        if not connected.wait(30):
            raise RuntimeError(f"no websocket connection to {self.url}\n{self.log()}")

    def stop(self) -> None:
        """End the process and everything it started; safe to call twice."""
        process, self._process = self._process, None
        if process is None:
            return
        for sent in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, sent)
            except ProcessLookupError:
                break
            try:
                process.wait(10)
                break
            except subprocess.TimeoutExpired:
                continue
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait(10)
        if self._listener is not None:
            self._listener.join(10)

    def log(self, lines: int = 60) -> str:
        """The last lines of the server's log."""
        text = self.log_path.read_text(errors="replace") if self.log_path.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    async def _listen(self, connected: threading.Event) -> None:
        import aiohttp

        socket_url = f"{self.url.replace('http', 'ws', 1)}/ws?clientId={self.client_id}"
        try:
            async with aiohttp.ClientSession() as session, session.ws_connect(socket_url, max_msg_size=0) as stream:
                connected.set()
                async for message in stream:
                    if message.type == aiohttp.WSMsgType.TEXT:
                        self.messages.append(json.loads(message.data))
                    elif message.type == aiohttp.WSMsgType.BINARY:
                        self.previews += 1
        except aiohttp.ClientError:
            # The server went away; callers learn that from their own requests.
            return

    def get(self, path: str, timeout: float = 60.0) -> Any:
        """GET `path`, parsed as JSON."""
        with urllib.request.urlopen(self.url + path, timeout=timeout) as answer:
            return json.loads(answer.read())

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """POST `body` as JSON; the JSON answer, or None for an empty one."""
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            data = answer.read()
        return json.loads(data) if data else None

    def object_info(self, node: str) -> dict[str, Any]:
        """What the server says about node `node`. Raises KeyError for a node it does not have."""
        info = self.get(f"/object_info/{urllib.parse.quote(node)}")
        if node not in info:
            raise KeyError(f"the server has no node {node!r}\n{self.log()}")
        return info[node]

    def upload(self, path: Path, name: str | None = None) -> str:
        """Send a picture or clip through the upload route; the name by which loader nodes know it."""
        boundary = uuid.uuid4().hex
        file_name = name or path.name
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n'.encode(),
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{file_name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n".encode(),
            path.read_bytes(),
            f"\r\n--{boundary}--\r\n".encode(),
        ]
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        request = urllib.request.Request(self.url + "/upload/image", b"".join(parts), headers, method="POST")
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(json.loads(answer.read())["name"])

    def queue(self, graph: Graph) -> str:
        """Queue an API-format graph; its prompt id. Raises PromptRejected when validation fails."""
        try:
            answer = self.post("/prompt", {"prompt": graph, "client_id": self.client_id})
        except urllib.error.HTTPError as error:
            raise PromptRejected(json.loads(error.read())) from None
        if answer["node_errors"]:
            # Outputs without errors still run: wait for them, so that the next prompt starts on an idle server.
            self.wait(answer["prompt_id"])
            raise PromptRejected(answer)
        return str(answer["prompt_id"])

    def wait(self, prompt_id: str, timeout: float = 300.0) -> Result:
        """Wait for a queued prompt. Raises PromptFailed, PromptInterrupted or TimeoutError."""
        entry = self._poll(lambda: self.get(f"/history/{prompt_id}").get(prompt_id), timeout, f"prompt {prompt_id}")
        events = dict(entry["status"]["messages"])
        if "execution_interrupted" in events:
            raise PromptInterrupted(prompt_id)
        if "execution_error" in events:
            raise PromptFailed(events["execution_error"], self.log())
        ended = events.get("execution_success", events["execution_start"])
        seconds = (ended["timestamp"] - events["execution_start"]["timestamp"]) / 1000
        cached = events.get("execution_cached", {}).get("nodes", [])
        return Result(prompt_id, entry["outputs"], list(cached), seconds, self.folders)

    def run(self, graph: Graph, timeout: float = 300.0) -> Result:
        """Queue and wait."""
        return self.wait(self.queue(graph), timeout)

    def interrupt(self) -> None:
        """Ask the running prompt to stop."""
        self.post("/interrupt", {})

    def events(self, prompt_id: str, kind: str) -> list[dict[str, Any]]:
        """Websocket messages of type `kind` (progress, executing, executed, ...) that belong to a prompt."""
        sent = (m["data"] for m in list(self.messages) if m.get("type") == kind)
        return [data for data in sent if data.get("prompt_id") == prompt_id]

    def wait_for_progress(self, prompt_id: str, node: str, timeout: float = 120.0) -> dict[str, Any]:
        """Wait until `node` reports its first finished step; that message's data."""

        def first() -> dict[str, Any] | None:
            steps = (data for data in self.events(prompt_id, "progress") if data["node"] == node)
            return next((data for data in steps if data["value"] >= 1), None)

        return self._poll(first, timeout, f"progress of prompt {prompt_id}")

    def _poll(self, ask: Callable[[], Any], timeout: float, what: str) -> Any:
        deadline = time.monotonic() + timeout
        while not (answer := ask()):
            if self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended while waiting for {what}\n{self.log()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} took more than {timeout:.0f} s\n{self.log()}")
            time.sleep(0.05)
        return answer


if __name__ == "__main__":
    _become(sys.argv[1:])
