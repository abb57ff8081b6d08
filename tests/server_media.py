"""Pictures and clips for the server tests, and checks of the files that come back."""

from __future__ import annotations

import copy
import shutil
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from comfy_server import ROOT, ComfyServer, Graph
from PIL import Image
from server_graphs import LOADERS, nodes
from workflows.samples import annotated, canvas
from workflows.training import FOLDER

GOLDENS = ROOT / "tests" / "goldens" / "vino" / "media"
REAL = ROOT.parent / "shared" / "media" / "vino_test_data"

# What the shipped workflows load, by the name they load it under.
FILES = {
    "person.png": GOLDENS / "img_a.png",
    "shirt.png": GOLDENS / "img_b.png",
    "hat.png": GOLDENS / "img_d.png",
    "landscape.png": GOLDENS / "img_c.png",
    "clip.mp4": GOLDENS / "clip_a.mp4",
}

# The same from published examples, where they lie beside the project.
REAL_FILES = {
    "person.png": REAL / "images/ti2v_1.jpg",
    "shirt.png": REAL / "images/ti2v_2.jpg",
    "hat.png": REAL / "images/ti2v_3.jpg",
    "landscape.png": REAL / "images/i2v_1.jpg",
    "clip.mp4": REAL / "videos/tiv2v_1.mp4",
}


UNIVIDEO = ROOT.parent / "shared" / "media" / "univideo_demo"
UNIVIDEO_FILES = {
    "vogue_image_to_video": ("i2v_1.png",),
    "vogue_edit_image": ("i2i_edit_1.jpg",),
    "vogue_edit_image_with_reference": ("in-context-v2v_id_addition_images.jpeg", "i2i_edit_1.jpg"),
    "vogue_references_to_video": tuple(f"in-context-generation_{name}" for name in ("1.png", "2.png", "3.jpg")),
    "vogue_edit_video": ("v2v_edit_video.mp4",),
    "vogue_edit_video_with_reference": ("in-context-v2v_id_swap_ID.jpeg", "v2v_edit_video.mp4"),
    "vogue_understand": ("understanding_1.mp4",),
    "vogue_think_annotated": ("i2v_1.png",),
    "vogue_think_canvas": ("in-context-generation_1.png",),
}
"""Published examples by workflow, in the order of its Load nodes; they lie beside the project, or not."""


def upload_media(server: ComfyServer) -> None:
    """Send every file, through the route that the frontend uses."""
    for name, path in FILES.items():
        server.upload(path, name)
    for name, path in REAL_FILES.items():
        if path.exists():
            server.upload(path, f"real_{name}")
    for path in UNIVIDEO.glob("*.*"):
        server.upload(path)
    for name, drawn in (("annotated", annotated()), ("canvas", canvas())):
        drawn.save(server.folders["input"] / f"{name}.png")
    write_dataset(server.folders["input"] / FOLDER)


def write_dataset(folder: Path) -> None:
    """Pictures with captions, as a user puts them into ComfyUI's input folder to train on."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, caption in (("person", "a person"), ("hat", "a hat"), ("landscape", "a landscape")):
        shutil.copy(FILES[f"{name}.png"], folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"{caption} in flat colours", encoding="utf-8")


def media_sets() -> list[str]:
    """Prefixes of the uploaded sets: the small one always, the published one where it is at hand."""
    return ["", "real_"] if all(path.exists() for path in REAL_FILES.values()) else [""]


def published_files(graph: Graph, name: str) -> Graph:
    """The graph of workflow `name`, loading the published examples where there are some and they are at hand."""
    graph = copy.deepcopy(graph)
    files = iter(UNIVIDEO_FILES.get(name, ()) if UNIVIDEO.is_dir() else ())
    for kind, file in LOADERS.items():
        for inputs in nodes(graph, kind):
            inputs[file] = next(files, inputs[file])
    return graph


@dataclass(frozen=True)
class Saved:
    """A saved picture or clip: uint8 frames [T, H, W, 3], and frames per second for a clip."""

    frames: np.ndarray
    rate: float | None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.frames.shape[2], self.frames.shape[1]


def read_saved(path: Path) -> Saved:
    """Decode a file that the server saved."""
    if path.suffix == ".png":
        return Saved(np.asarray(Image.open(path).convert("RGB"))[None], None)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        rate = float(stream.average_rate)
        return Saved(np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]), rate)


def assert_alive(saved: Saved) -> None:
    """The picture is not constant, nor, in a clip, the time: NaN and unused weights end as flat frames."""
    assert saved.frames[0].std() > 2, "the first frame is flat"
    if len(saved.frames) > 1:
        change = np.abs(np.diff(saved.frames.astype(np.float32), axis=0)).mean()
        assert change > 0.5, "nothing changes between frames"
