"""The studies of VOGUE, on vogue-tiny: who sees the references, one task or many, and what was never taught."""

from __future__ import annotations

from pathlib import Path

from vino_core.systems.vogue_tiny import VOGUE_TINY
from vino_core.toyworld.edits import EDITS

from .definition import Course, Exam, Stage, Study, Variant, first_frame, graded, held_out, share
from .systems import MMDIT_ALONE, VLM_ALONE

_TASKS = ("t2i", "t2v", "i2v", "ti2i", "ti2i_baseimg", "tiv2v", "tv2v", "ti2v")
"""Those of stage 3's config."""
_BATCHES = {"t2i": 16, "t2v": 6, "i2v": 6, "ti2i": 12, "ti2i_baseimg": 12, "tiv2v": 4, "tv2v": 4, "ti2v": 4}
"""Half of the shipped ones and less, so that a variant takes one core some minutes."""
_EXAMS = (
    Exam("ti2i", "ti2i", 192),
    Exam("i2v", "i2v", 48),
    Exam("ti2v", "ti2v", 48),
    Exam("tiv2v", "tiv2v", 64),
    Exam("tv2v", "tv2v", 64),
)
_SEEN = ("ti2i", "i2v", "ti2v", "tiv2v")


def _only(task: str) -> tuple[Stage]:
    """Stage 3 with nothing but one task."""
    return (Stage(3, tuple(f"data.tasks.{name}.weight={float(name == task)}" for name in _TASKS)),)


_EDITS = (
    share("edits followed, pictures", "ti2i", "followed", tuple(EDITS)),
    graded("left alone, pictures, dB", "ti2i", "untouched", kinds=tuple(EDITS)),
)
_SUBJECTS = (
    share("prompt followed, subjects", "ti2v", "followed"),
    graded("likeness, subjects", "ti2v", "likeness", 3),
)
_CLIP_EDITS = (
    share("edit followed, clips", "tiv2v", "followed"),
    graded("left alone, clips, dB", "tiv2v", "untouched"),
)

VOGUE = Course(
    system=VOGUE_TINY,
    about="What VOGUE's design and its mixture of tasks are worth (its paper's table 5 and figure 5), measured on "
    "[vogue-tiny](tiny.md). All variants start from its own stage 2, which knows no reference but the picture to "
    "reconstruct, and that the text encoder alone is shown. Left alone: PSNR where the edit changes nothing. Likeness: "
    "correlation with the right surface, 0 to 1.",
    config="vogue_tiny_stage{}.yaml",
    base=Path("runs/vogue_tiny_stage2/export/model.safetensors"),
    steps=(0, 0, 1200),
    changes=tuple(f"data.tasks.{task}.batch={batch}" for task, batch in _BATCHES.items()),
    exams=_EXAMS,
    variants=(
        Variant("full", "as shipped", (Stage(3),), tuple(exam.name for exam in _EXAMS)),
        Variant("no_vlm_visuals", "references to the MMDiT only", (Stage(3),), _SEEN, system=MMDIT_ALONE),
        Variant("no_mmdit_visuals", "references to the text encoder only", (Stage(3),), _SEEN, system=VLM_ALONE),
        Variant("only_tiv2v", "clip edits with references only", _only("tiv2v"), ("tiv2v",)),
        Variant("only_ti2v", "subjects in clips only", _only("ti2v"), ("ti2v",)),
        Variant("no_clip_edits", "no edits of clips", (Stage(3, ("data.tasks.tiv2v.weight=0",)),), ("ti2i", "tv2v")),
        Variant("clip_edits", "edits of clips in words too", (Stage(3, ("data.tasks.tv2v.weight=0.2",)),),
                ("ti2i", "tv2v")),
    ),
    studies=(
        Study(
            "visuals",
            "Who sees the references",
            "As shipped, both do: the text encoder as pictures, the MMDiT as latents. Subjects: clips of one to four "
            "subjects, each given by a picture; clips: edits of a clip with a reference picture. First frame: PSNR "
            "between the picture an i2v clip starts from and its first frame, which the MMDiT else keeps as it is.",
            ("full", "no_vlm_visuals", "no_mmdit_visuals"),
            (
                held_out("edits of pictures", "ti2i"),
                held_out("subjects", "ti2v"),
                held_out("edits of clips", "tiv2v"),
                *_EDITS,
                *_SUBJECTS,
                *_CLIP_EDITS,
                first_frame("i2v"),
            ),
        ),
        Study(
            "tasks",
            "One task against many",
            "A model for each task, which sees nothing else in stage 3, has as many steps as the one of all tasks: the "
            "latter spends a tenth of its steps on edits of clips with references and a tenth on subjects.",
            ("full", "only_tiv2v", "only_ti2v"),
            (held_out("edits of clips", "tiv2v"), *_CLIP_EDITS, held_out("subjects", "ti2v"), *_SUBJECTS),
            curves=False,
        ),
        Study(
            "zero_shot",
            "Edits of clips that were never taught",
            "Tested on edits of clips in words alone. As shipped, stage 3 has edits of pictures, in words and with "
            "references, and edits of clips with references. Followed: the edit is there; done: everything else is "
            "as it was, too.",
            ("full", "no_clip_edits", "clip_edits"),
            (
                held_out("edits of clips in words", "tv2v"),
                share("followed", "tv2v", "followed"),
                share("done", "tv2v", "passed"),
                graded("left alone, dB", "tv2v", "untouched"),
                held_out("edits of pictures", "ti2i"),
            ),
            curves=False,
        ),
    ),
)  # fmt: skip
