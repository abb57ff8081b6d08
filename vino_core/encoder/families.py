"""The VLMs that transformers runs for the systems, what differs between them, and building one from its weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError


@dataclass(frozen=True)
class Family:
    """One architecture, as transformers knows it. `renames` lead from the names of older files to today's."""

    model_type: str
    title: str
    config: str
    model: str
    whole: bool
    """Whether the states are those behind the final norm. Otherwise they are what enters the last decoder layer."""
    mark: str
    """A weight that no other family has. Every file's name for it ends so."""
    renames: tuple[tuple[str, str], ...] = ()

    def today(self, name: str) -> str:
        """Today's name of a weight (`model.language_model.*`, `model.visual.*`, `lm_head.weight`)."""
        return next((new + name[len(old) :] for old, new in self.renames if name.startswith(old)), name)


FAMILIES = {
    family.model_type: family
    for family in (
        Family(
            "qwen3_vl",
            "Qwen3-VL-4B-Instruct",
            "Qwen3VLConfig",
            "Qwen3VLForConditionalGeneration",
            whole=False,
            mark="visual.deepstack_merger_list.0.norm.weight",
        ),
        Family(
            "qwen2_5_vl",
            "Qwen2.5-VL-7B-Instruct",
            "Qwen2_5_VLConfig",
            "Qwen2_5_VLForConditionalGeneration",
            whole=True,
            mark="visual.merger.ln_q.weight",
            # Until transformers 4.51 the text model had no name of its own.
            renames=(
                ("visual.", "model.visual."),
                *((f"model.{part}.", f"model.language_model.{part}.") for part in ("layers", "embed_tokens", "norm")),
            ),
        ),
    )
}


def transformers_library() -> Any:
    """The module. Raises InputError when it does not load or is too old."""
    try:
        import transformers
    except ImportError as error:
        raise InputError(
            f"The text encoder needs the transformers package, 4.57 or later, and it does not load ({error}). "
            "Install it: `pip install 'transformers>=4.57'`."
        ) from error
    if not hasattr(transformers, "Qwen3VLForConditionalGeneration"):
        raise InputError(
            f"transformers {transformers.__version__} does not know Qwen3-VL. Install 4.57 or later: "
            "`pip install -U transformers`."
        )
    return transformers


def family_of(model_type: str, source: str) -> Family:
    """The family that a config's `model_type` names. Raises InputError, naming `source`, for another one."""
    if model_type not in FAMILIES:
        wanted = " or ".join(f"'{family.model_type}' ({family.title})" for family in FAMILIES.values())
        raise InputError(f"{source} describes a model of type '{model_type}'; {wanted} is needed.")
    return FAMILIES[model_type]


def family_in(names: Iterable[str]) -> Family | None:
    """The family whose weights are called `names`, in files of any age; None for none of them."""
    names = tuple(names)
    return next((family for family in FAMILIES.values() if any(name.endswith(family.mark) for name in names)), None)


def agreed_family(
    config: Mapping[str, Any], names: Iterable[str], source: str, config_from: str = "its config"
) -> Family:
    """What the weights called `names` are, and `config`, a config.json's content, says that they are, if it says.

    Raises InputError, naming `source` and where the config is from, where the two differ and where neither tells.
    """
    found, named = family_in(names), config.get("model_type")
    if found is not None and named not in (None, found.model_type):
        raise InputError(
            f"{source} holds a Qwen-VL of type '{found.model_type}' ({found.title}; {found.mark} is in it), but "
            f"{config_from} describes one of type '{named}'. Put the config.json that came with the weights in its "
            "place, or name the folder of a whole download."
        )
    if found is not None:
        return found
    if named is None:
        titles = " and no ".join(family.title for family in FAMILIES.values())
        raise InputError(
            f"{source} holds no {titles}: their vision tower's weights are not in it, and {config_from} names no "
            "model_type. Choose another file."
        )
    return family_of(named, f"{source}: {config_from}")


def check_names(family: Family, missing: Iterable[str], unexpected: Iterable[str], source: str) -> None:
    """Raise InputError when there is any name that is missing or unexpected."""
    found = (("missing", sorted(missing)), ("unexpected", sorted(unexpected)))
    problems = [
        f"{len(names)} {word} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for word, names in found
        if names
    ]
    if problems:
        raise InputError(
            f"{source}: weights {' and '.join(problems)}. Use the complete weights of {family.title}, or the config "
            "that belongs to them."
        )


def build(
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    dtype: torch.dtype,
    device: torch.device | str,
    source: str = "Text encoder weights",
    config_from: str = "their config",
) -> Any:
    """The model of a config.json's content with weights by their names of today or of an older file.

    The model takes `state`'s tensors over where they need no change. Raises InputError, naming `source` and listing
    names and shapes, when keys are missing, unexpected or of another shape, and when the config is another model's.
    """
    library = transformers_library()
    family = agreed_family(config, state, source, config_from)
    built = getattr(library, family.config)(**{key: value for key, value in config.items() if key != "model_type"})
    with torch.device("meta"):  # filling a whole model with random numbers first takes minutes
        model = getattr(library, family.model)(built)
    own = {name: value.shape for name, value in model.state_dict().items()}
    state = {family.today(name): value for name, value in state.items()}
    tied = {"lm_head.weight"} if built.tie_word_embeddings else set()
    check_names(family, own.keys() - state.keys() - tied, state.keys() - own.keys(), source)
    misshapen = [
        f"{name} {tuple(value.shape)} instead of {tuple(own[name])}"
        for name, value in state.items()
        if value.shape != own[name]
    ]
    if misshapen:
        raise InputError(
            f"{source}: {len(misshapen)} weights have other shapes than {config_from} says, first {misshapen[0]}. "
            "Use the config that belongs to the weights."
        )
    placed = {name: value.to(device, dtype) for name, value in state.items()}
    model.load_state_dict(placed, strict=False, assign=True)
    if "lm_head.weight" not in state:
        model.lm_head.weight = model.get_input_embeddings().weight
    _compute_frequencies(model)
    return model.to(device)


def _compute_frequencies(model: Any) -> None:
    """Give the rotary embeddings their frequencies, which no file holds. They stay in float32 in any model."""
    text, vision = model.model.language_model, model.model.visual
    rotary = type(text.rotary_emb)(text.config)
    for module in text.modules():
        if "rotary_emb" in module._modules:  # transformers 4 has one in each attention too
            module.rotary_emb = rotary
    # Versions make a vision tower's rotary embedding from different arguments, so a tower of one block makes it here.
    small = copy.deepcopy(vision.config)
    small.depth = 1
    vision.rotary_pos_emb = type(vision)(small).rotary_pos_emb
