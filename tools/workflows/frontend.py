"""ComfyUI's real frontend in a headless Chromium."""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .graph import Graph, Workflow
from .layout import arrange

VIEW = {"width": 1600, "height": 900}
BORDER = 24

# Sizes that the frontend itself gives a node with this content: what no layout may undercut.
_SIZES = """() => Object.fromEntries(app.graph.nodes.map(node => {
    const wanted = node.computeSize()
    return [String(node.id), [wanted[0], wanted[1]]]
}))"""

_ARRANGE = """({nodes, frames, note, text, title}) => {
    for (const node of app.graph.nodes) {
        const box = nodes[String(node.id)]
        node.pos = [box.x, box.y]
        node.setSize([box.width, box.height])
    }
    for (const frame of frames) {
        const group = new LiteGraph.LGraphGroup(frame.title)
        group.color = frame.colour
        group.pos = [frame.box.x, frame.box.y]
        group.size = [frame.box.width, frame.box.height]
        app.graph.add(group)
    }
    const memo = LiteGraph.createNode('MarkdownNote')
    memo.title = title
    memo.pos = [note.x, note.y]
    memo.widgets[0].value = text
    app.graph.add(memo)
    memo.setSize([note.width, note.height])
    app.graph.setDirtyCanvas(true, true)
}"""

# The rectangle around everything on the canvas: left, top, width, height.
_BOUNDS = """() => {
    const boxes = [...app.graph.nodes.map(n => [n.pos[0], n.pos[1] - 30, n.size[0], n.size[1] + 30]),
                   ...app.graph.groups.map(g => [g.pos[0], g.pos[1], g.size[0], g.size[1]])]
    const left = Math.min(...boxes.map(b => b[0])), top = Math.min(...boxes.map(b => b[1]))
    const right = Math.max(...boxes.map(b => b[0] + b[2])), bottom = Math.max(...boxes.map(b => b[1] + b[3]))
    return [left, top, right - left, bottom - top]
}"""

_LOOK_AT = """([left, top, width, height]) => {
    const canvas = app.canvas.canvas.getBoundingClientRect()
    const scale = Math.min(canvas.width / width, canvas.height / height)
    app.canvas.ds.scale = scale
    app.canvas.ds.offset[0] = canvas.width / scale / 2 - (left + width / 2)
    app.canvas.ds.offset[1] = canvas.height / scale / 2 - (top + height / 2)
    app.canvas.setDirty(true, true)
}"""

_SET_WIDGETS = """([type, values]) => {
    for (const node of app.graph.nodes.filter(node => node.type === type)) {
        for (const [name, value] of values) {
            const widget = node.widgets?.find(widget => widget.name === name)
            if (!widget) continue
            widget.value = value
            widget.callback?.(value)
        }
    }
}"""

_PROBLEMS = """() => app.graph.nodes.flatMap(node => {
    const found = []
    if (!LiteGraph.registered_node_types[node.type]) found.push(`${node.title}: no node ${node.type}`)
    if (node.has_errors) found.push(`${node.title}: marked red`)
    return found
})"""

_LISTEN = """() => {
    window.endedPrompts = new Set()
    app.api.addEventListener('execution_success', event => window.endedPrompts.add(event.detail.prompt_id))
}"""

_DRAWN = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"

_DIALOGS = ".p-dialog:visible, [role=alertdialog]:visible"


def _is_prompt(answer: Any) -> bool:
    return answer.request.method == "POST" and answer.url.endswith("/prompt") and answer.ok


def find_chromium() -> str | None:
    """The system's Chromium or Chrome, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for name in names if (path := shutil.which(name))), None)


class Frontend:
    """One browser page that shows the frontend of the server at `url`."""

    def __init__(self, page: Any, url: str) -> None:
        self.page = page
        self.url = url
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))

    def open(self) -> None:
        """Load the frontend and wait until it can take a graph."""
        self.page.goto(self.url)
        self.page.wait_for_function("window.app?.vueAppReady && window.app.rootGraph && window.LiteGraph")
        # The frontend opens a graph of its own at the end of its start; one loaded before that would vanish.
        self.page.wait_for_function("window.app.graph.nodes.length > 0")
        self.page.wait_for_timeout(500)
        # The canvas leaves out all text when it is zoomed out to show a whole graph, unless told otherwise.
        self.page.evaluate("() => { app.canvas.min_font_size_for_lod = 0; app.canvas.show_info = false }")
        self.page.evaluate(_LISTEN)

    def load(self, workflow: dict[str, Any]) -> None:
        """Open a UI-format workflow as if the user had."""
        self.page.evaluate("workflow => app.loadGraphData(workflow)", workflow)
        self._settle(len(workflow["nodes"]))

    def load_api(self, graph: Graph, name: str) -> None:
        """Open an API-format graph; the frontend makes the nodes."""
        self.page.evaluate("([graph, name]) => app.loadApiJson(graph, name)", [graph, name])
        self._settle(len(graph))

    def _settle(self, nodes: int) -> None:
        self.page.wait_for_function("count => app.graph.nodes.length === count", arg=nodes)
        # Previews of loaded pictures arrive later and stretch their nodes.
        self.page.wait_for_load_state("networkidle")
        self.page.wait_for_timeout(300)

    def draw(self, flow: Workflow) -> dict[str, Any]:
        """Show `flow` with its layout, groups and note, as a user sees it after opening; the UI-format workflow."""
        self.load_api(flow.api(), flow.name)
        for node in flow.nodes():
            self.set_widgets(node.type, node.frontend)
        # Nodes with dynamic inputs take their final size only when they are opened from a saved workflow.
        self.load(self.workflow())
        layout = arrange(flow, self.page.evaluate(_SIZES))
        boxes = {"nodes": {name: asdict(box) for name, box in layout.nodes.items()}, "note": asdict(layout.note)}
        frames = [asdict(frame) for frame in layout.frames]
        self.page.evaluate(_ARRANGE, {**boxes, "frames": frames, "text": flow.note, "title": "Read me"})
        drawn = _tidy(self.workflow(), flow.name)
        self.load(drawn)
        return drawn

    def workflow(self) -> dict[str, Any]:
        """The graph on the canvas in UI format."""
        return self.page.evaluate("async () => (await app.graphToPrompt()).workflow")

    def api(self) -> Graph:
        """The graph on the canvas in API format, as Run would send it."""
        return self.page.evaluate("async () => (await app.graphToPrompt()).output")

    def set_widgets(self, class_type: str, values: dict[str, Any]) -> None:
        """Set widgets of every node of a type, in order, as if the user had; a node without such a widget is left."""
        self.page.evaluate(_SET_WIDGETS, [class_type, list(values.items())])

    def run(self) -> str:
        """Press Run (the first of two buttons of that name; the other opens its menu); the id of the prompt.

        On a busy machine a press can go nowhere while the frontend redraws, so it is repeated until the server has
        this very graph. Raises RuntimeError when it never arrives.
        """
        graph = self.api()
        answers: list[Any] = []

        def note(answer: Any) -> None:
            if _is_prompt(answer) and answer.request.post_data_json["prompt"] == graph:
                answers.append(answer)

        self.page.on("response", note)
        button = self.page.get_by_role("button", name="Run", exact=True).first
        try:
            for _ in range(5):
                button.click()
                deadline = time.monotonic() + 15
                while not answers and time.monotonic() < deadline:
                    self.page.wait_for_timeout(100)
                if answers:
                    return answers[0].json()["prompt_id"]
        finally:
            self.page.remove_listener("response", note)
        raise RuntimeError(f"Run sent no prompt; on the page: {self.problems()}")

    def wait_for_end(self, prompt: str) -> None:
        """Wait until the page knows that a prompt which `run` sent has succeeded, and shows it."""
        self.page.wait_for_function("prompt => window.endedPrompts.has(prompt)", arg=prompt)
        self.page.evaluate(_DRAWN)

    def problems(self) -> list[str]:
        """Unknown nodes, nodes marked red, dialogs in the way, and errors of the page, in words."""
        dialogs = (f"dialog: {text}" for text in self.page.locator(_DIALOGS).all_inner_texts())
        return [*self.page.evaluate(_PROBLEMS), *dialogs, *self.errors]

    def picture(self, path: Path, width: int = 1920) -> None:
        """Save the whole graph as a JPEG of `width` pixels, without the panels around the canvas."""
        left, top, graph_width, graph_height = self.page.evaluate(_BOUNDS)
        view = (left - BORDER, top - BORDER, graph_width + 2 * BORDER, graph_height + 2 * BORDER)
        shown = "#graph-canvas, .dom-widget, .dom-widget *"
        hide = f"body * {{ visibility: hidden !important }} {shown} {{ visibility: visible !important }}"
        style = self.page.add_style_tag(content=hide)
        self.page.set_viewport_size({"width": width, "height": round(width * view[3] / view[2])})
        self.page.wait_for_timeout(300)
        self.page.evaluate(_LOOK_AT, view)
        self.page.wait_for_timeout(500)
        self.page.screenshot(path=str(path), type="jpeg", quality=85)
        style.evaluate("element => element.remove()")
        self.page.set_viewport_size(VIEW)


@contextmanager
def frontend(url: str) -> Iterator[Frontend]:
    """A Chromium page on the frontend of the server at `url`, already open. It reaches no other host.

    Raises FileNotFoundError when there is no Chromium.
    """
    from playwright.sync_api import sync_playwright

    browser_path = find_chromium()
    if browser_path is None:
        raise FileNotFoundError("no Chromium on PATH: install it (Debian: apt-get install chromium)")
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=options)
        try:
            page = browser.new_page(viewport=VIEW)
            page.route(
                lambda address: address.startswith("http") and not address.startswith(url), lambda route: route.abort()
            )
            shown = Frontend(page, url)
            shown.open()
            yield shown
        finally:
            browser.close()


def _tidy(workflow: dict[str, Any], name: str) -> dict[str, Any]:
    """The workflow as it is shipped: the same whenever and wherever it is made, and with no fixed view."""

    def kept(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            # A null link says that nothing is connected; null widget values keep the others in place.
            return {k: kept(k, v) for k, v in value.items() if v is not None or k in ("link", "links")}
        if isinstance(value, list) and key != "widgets_values":
            return [kept("", item) for item in value]
        return value

    cleaned = kept("", workflow)
    cleaned["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, name))
    cleaned["extra"].pop("ds", None)
    return cleaned
