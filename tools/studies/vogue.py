"""The studies of VOGUE, on vogue-tiny: who sees the references, one task or many, and what was never taught."""

from __future__ import annotations

from pathlib import Path

from vino_core.systems.vogue_tiny import VOGUE_TINY
from vino_core.toyworld.edits import EDITS

from .definition import Course, Exam, Stage, Study, Variant, batches, graded, held_out, share, weights
from .systems import MMDIT_ALONE, VLM_ALONE

_TASKS = ("t2i", "t2v", "i2v", "ti2i", "ti2i_baseimg", "tiv2v", "tv2v", "ti2v")
"""Those of stage 3's config."""
_BATCHES = {"t2i": 16, "t2v": 6, "i2v": 6, "ti2i": 16, "ti2i_baseimg": 16, "tiv2v": 6, "tv2v": 6, "ti2v": 4}
"""Half of the shipped ones and less, so that a variant takes one core some minutes."""
_PICTURES = {"t2i": 0.2, "ti2i": 0.5, "ti2i_baseimg": 0.3}
"""Where clips are not asked for: ten steps of pictures take as long as three of clips."""
_CLIPS = {"t2i": 0.1, "t2v": 0.1, "ti2i": 0.4, "ti2i_baseimg": 0.1, "tiv2v": 0.3}
_EXAMS = (
    Exam("ti2i", "ti2i", 192),
    Exam("ti2i_baseimg", "ti2i_baseimg", 128),
    Exam("tv2v", "tv2v", 96),
)
_SEEN = ("ti2i", "ti2i_baseimg")


def _weighted(given: dict[str, float]) -> tuple[Stage]:
    """Stage 3 with these tasks and no others."""
    return (Stage(3, weights({name: given.get(name, 0.0) for name in _TASKS})),)


_EDITS = (
    held_out("edits", "ti2i"),
    share("edits followed", "ti2i", "followed", tuple(EDITS)),
    graded("left alone, dB", "ti2i", "untouched", kinds=tuple(EDITS)),
)
_REFERRED = (
    held_out("with a reference", "ti2i_baseimg"),
    share("with a reference, followed", "ti2i_baseimg", "followed"),
    graded("likeness", "ti2i_baseimg", "likeness", 3),
)

VOGUE = Course(
    system=VOGUE_TINY,
    about="What VOGUE's design and its mixture of tasks are worth (its paper's table 5 and figure 5), measured on "
    "[vogue-tiny](tiny.md). All variants start from its own stage 2, which knows no reference but the picture to "
    "reconstruct, and that the text encoder alone is shown. Left alone: PSNR where the edit changes nothing. Likeness: "
    "correlation with the right surface, 0 to 1. Scorers did not yet read every frame and every leftover then.",
    config="vogue_tiny_stage{}.yaml",
    base=Path("runs/vogue_tiny_stage2/export/model.safetensors"),
    steps=(0, 0, 2400),
    changes=("optimizer.muon_rate=1.0e-3", *batches(_BATCHES)),
    exams=_EXAMS,
    variants=(
        Variant("full", "references to both, all picture tasks", _weighted(_PICTURES), _SEEN),
        Variant("no_vlm_visuals", "references to the MMDiT only", _weighted(_PICTURES), _SEEN, system=MMDIT_ALONE),
        Variant("no_mmdit_visuals", "references to the text encoder only", _weighted(_PICTURES), _SEEN,
                system=VLM_ALONE),
        Variant("only_referred", "edits with a reference only", _weighted({"ti2i_baseimg": 1.0}), ("ti2i_baseimg",)),
        Variant("zero_shot", "edits of clips with references only", _weighted(_CLIPS), ("ti2i", "tv2v")),
        Variant("no_pictures", "no edits of pictures in words", _weighted({**_CLIPS, "ti2i": 0.0}), ("tv2v",)),
        Variant("taught", "edits of clips in words too", _weighted({**_CLIPS, "tv2v": 0.3}), ("ti2i", "tv2v")),
    ),
    studies=(
        Study(
            "visuals",
            "Who sees the references",
            "In VOGUE both do: the text encoder as pictures, the MMDiT as latents.",
            ("full", "no_vlm_visuals", "no_mmdit_visuals"),
            (*_EDITS, *_REFERRED),
            reading="References for the MMDiT alone are followed least: the text encoder knows best what stands in a "
            "picture. References for the text encoder alone leave the highest losses, but cost few of the edits. Both "
            "together are best. None of the three learns surfaces of references so soon, so likeness says nothing yet.",
        ),
        Study(
            "tasks",
            "One task against many",
            "A model for one task, which sees nothing else in stage 3, has as many steps as the one of all tasks that "
            "edit or draw pictures; the latter spends three tenths of them on that task.",
            ("full", "only_referred"),
            _REFERRED,
            curves=False,
            reading="Unlike in the paper, the mixture costs more than it gives here: training is short, and the one "
            "task gets more than three times as many steps when it is alone.",
        ),
        Study(
            "zero_shot",
            "Edits of clips that were never taught",
            "Tested on edits of clips in words alone. The first variant has edits of pictures, in words and with "
            "references, and edits of clips with references, as the paper's model. The second has no edits of pictures "
            "in words and the others more often: half of its steps are edits of clips with references, a sixth edits "
            "of pictures with references. Followed: the edit is there; done: everything else is as it was, too.",
            ("zero_shot", "no_pictures", "taught"),
            (
                held_out("edits of clips in words", "tv2v"),
                share("followed", "tv2v", "followed"),
                share("done", "tv2v", "passed"),
                graded("left alone, dB", "tv2v", "untouched"),
                share("edits of pictures, followed", "ti2i", "followed", tuple(EDITS)),
            ),
            curves=False,
            reading="Of 96 clips 6 are edited as told by a model that was never shown it, 1 without edits of pictures "
            "in words, 16 once it is taught; the losses are in the same order. Little carries over from pictures to "
            "clips, if so few say anything; the paper's large model shows more.",
        ),
    ),
)  # fmt: skip
