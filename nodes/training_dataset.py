"""A folder of pictures and clips with captions, to train on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import folder_paths
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy_api.latest import io

from ..vino_core.errors import InputError
from ..vino_core.interruption import interruptible
from ..vino_core.training.example import ExampleSource
from ..vino_core.training.survey import Chosen, Survey, folder_sources, survey
from .comfy.messages import show

DatasetType = io.Custom("VINO_DATASET")
_NAMED = 20
"""Problems that a message lists before it counts the rest."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """What VINO LoRA Dataset found in `folder`."""

    folder: Path
    survey: Survey

    @property
    def tasks(self) -> Mapping[str, int]:
        """How many examples there are of each task."""
        return {task: len(rows) for task, rows in self.survey.rows.items()}

    @property
    def fingerprint(self) -> str:
        """Another one when a file or a caption changed."""
        return self.survey.stamp

    def sources(self, frames: int, seen: int) -> dict[str, ExampleSource]:
        """The examples of each task; of clips the first `frames` frames are read, of reference clips `seen` more over
        the whole, for the text encoder."""
        sources = folder_sources(self.folder, frames, seen)
        return {task: Chosen(sources[task], rows) for task, rows in self.survey.rows.items()}


class VINOLoraDataset(io.ComfyNode):
    """Looks through a folder of ComfyUI's input directory."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="VINOLoraDataset",
            display_name="VINO LoRA Dataset",
            category="VINO/training",
            description="Pictures and clips with captions to train a LoRA on. Every file is looked at, and what is "
            "wrong with one is said by its name.",
            search_aliases=["training data", "image folder", "load image dataset from folder", "captions", "vino"],
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=folder_paths.get_input_subfolders(),
                    tooltip="A folder in ComfyUI's input folder: pictures or clips, each with its caption in a text "
                    "file of the same name (cat.png, cat.txt), or a manifest.jsonl.",
                ),
                io.Boolean.Input(
                    "skip_unusable",
                    default=False,
                    tooltip="Leave out what cannot be used, such as a picture without a caption, instead of stopping.",
                ),
            ],
            outputs=[
                DatasetType.Output(display_name="dataset", tooltip="For VINO Train LoRA."),
                io.String.Output(display_name="summary", tooltip="What the folder holds, in words."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str, skip_unusable: bool) -> str:
        """Another one when a file in the folder is added, removed or written."""
        files = []
        for root, _, names in os.walk(_path(folder)):
            for name in names:
                found = os.stat(os.path.join(root, name))
                files.append(f"{root}/{name} {found.st_size} {found.st_mtime_ns}")
        return "\n".join(sorted(files))

    @classmethod
    def execute(cls, folder: str, skip_unusable: bool) -> io.NodeOutput:
        path = _path(folder)
        with interruptible(throw_exception_if_processing_interrupted):
            found = survey(path)
        if found.problems and not (skip_unusable and found.count):
            listed = [f"- {problem}" for problem in found.problems[:_NAMED]]
            rest = len(found.problems) - len(listed)
            advice = "Correct them, or switch skip_unusable on to train without them." if found.count else ""
            raise InputError(
                "\n".join(
                    [f"folder '{folder}': {len(found.problems)} of {found.count + len(found.problems)} examples cannot "
                     f"be used. {advice}", *listed, *([f"- and {rest} more"] if rest else [])]
                )
            )  # fmt: skip
        return io.NodeOutput(
            Dataset(path, found), found.summary(), ui=show("VINO LoRA Dataset", found.problems, cls.hidden)
        )


def _path(folder: str) -> Path:
    """Raises InputError for a folder outside of ComfyUI's input folder, and for one that is gone."""
    root = folder_paths.get_input_directory()
    path = Path(os.path.abspath(os.path.join(root, folder)))
    if not folder_paths.is_within_directory(root, str(path)) or not path.is_dir():
        raise InputError(f"folder '{folder}': there is no such folder in {root}. Put your pictures into one there.")
    return path
