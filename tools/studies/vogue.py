"""The studies of VOGUE, on vogue-tiny: who sees the references, one task or many, and what was never taught."""

from __future__ import annotations

from pathlib import Path

from vino_core.systems.vogue_tiny import VOGUE_TINY
from vino_core.toyworld.edits import EDITS

from .definition import Course, Exam, Measure, Stage, Study, Variant, first_frame, share
from .measures import final_loss
from .systems import MMDIT_ALONE, VLM_ALONE

_TASKS = ("t2i", "t2v", "i2v", "ti2i", "ti2i_baseimg", "tiv2v", "tv2v", "ti2v")
"""Those of stage 3's config."""
_EXAMS = (
    Exam("ti2i", "ti2i", 256),
    Exam("i2v", "i2v", 64),
    Exam("ti2v", "ti2v", 96),
    Exam("tiv2v", "tiv2v", 96),
    Exam("tv2v", "tv2v", 96),
)
_SEEN = ("ti2i", "i2v", "ti2v", "tiv2v")


def _only(task: str) -> tuple[Stage]:
    """Stage 3 with nothing but one task."""
    return (Stage(3, tuple(f"data.tasks.{name}.weight={float(name == task)}" for name in _TASKS)),)


_EDITS_DONE = share("edits done, pictures", "ti2i", "passed", tuple(EDITS))
_SUBJECTS = (share("prompt followed, subjects", "ti2v", "followed"), share("own surface, subjects", "ti2v", "identity"))
_CLIP_EDITS = (
    share("edit followed, clips", "tiv2v", "followed"),
    share("own surface, clips", "tiv2v", "identity"),
)

VOGUE = Course(
    system=VOGUE_TINY,
    about="What VOGUE's design and its mixture of tasks are worth (its paper's table 5 and figure 5), measured on "
    "[vogue-tiny](tiny.md). All variants share stages 1 and 2, which know no reference but the picture to reconstruct, "
    "and that the text encoder alone is shown.",
    config="vogue_tiny_stage{}.yaml",
    base=Path("runs/vogue_tiny_stage0/export/model.safetensors"),
    steps=(200, 300, 600),
    exams=_EXAMS,
    variants=(
        Variant("full", "as shipped", (Stage(1), Stage(2), Stage(3)), tuple(exam.name for exam in _EXAMS)),
        Variant("no_vlm_visuals", "references to the MMDiT only", (Stage(3),), _SEEN, "full", MMDIT_ALONE),
        Variant("no_mmdit_visuals", "references to the text encoder only", (Stage(3),), _SEEN, "full", VLM_ALONE),
        Variant("only_tiv2v", "clip edits with references only", _only("tiv2v"), ("tiv2v",), "full"),
        Variant("only_ti2v", "subjects in clips only", _only("ti2v"), ("ti2v",), "full"),
        Variant("no_clip_edits", "no edits of clips", (Stage(3, ("data.tasks.tiv2v.weight=0",)),),
                ("ti2i", "tv2v"), "full"),
        Variant("clip_edits", "edits of clips in words too", (Stage(3, ("data.tasks.tv2v.weight=0.2",)),),
                ("ti2i", "tv2v"), "full"),
    ),
    studies=(
        Study(
            "visuals",
            "Who sees the references",
            "As shipped, both do: the text encoder as pictures, the MMDiT as latents. Subjects: clips of one to four "
            "subjects, each given by a picture; clips: edits of a clip with a reference picture. Own surface: every "
            "subject shows the pattern of its reference. First frame: PSNR between the picture an i2v clip starts from "
            "and its first frame, which the MMDiT otherwise keeps as it is.",
            ("full", "no_vlm_visuals", "no_mmdit_visuals"),
            (
                Measure("loss at the end", final_loss, 1, 4, False),
                _EDITS_DONE,
                *_SUBJECTS,
                *_CLIP_EDITS,
                first_frame("i2v"),
            ),
        ),
        Study(
            "tasks",
            "One task against many",
            "A model for each task, which sees nothing else in stage 3, has as many steps as the one of all tasks: the "
            "latter spends a fifth of its steps on edits of clips and a tenth on subjects.",
            ("full", "only_tiv2v", "only_ti2v"),
            (*_CLIP_EDITS, *_SUBJECTS),
            curves=False,
        ),
        Study(
            "zero_shot",
            "Edits of clips that were never taught",
            "Tested on edits of clips in words alone. As shipped, stage 3 has edits of pictures, in words and with "
            "references, and edits of clips with references. Followed: the edit is there; done: everything else is "
            "as it was, too.",
            ("full", "no_clip_edits", "clip_edits"),
            (share("followed", "tv2v", "followed"), share("done", "tv2v", "passed"), _EDITS_DONE),
            curves=False,
        ),
    ),
)  # fmt: skip
