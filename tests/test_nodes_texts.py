"""What a user reads: tooltips, search words, help pages and the translation file cover every node and input."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from comfy_inprocess import pack
from paths import ROOT
from write_locales import LOCALE, node_texts

NODES = [
    "VINOModelLoader",
    "VINOTextEncoderLoader",
    "VINOTokensLoader",
    "VINOPreset",
    "VINOReferences",
    "VINOEncoder",
    "VINOLearnableTokens",
    "VINOReferenceLatents",
    "VINOEmptyLatent",
    "VINOScheduler",
    "VINODualCFGGuider",
    "VINOSampler",
    "VINOPromptRewriter",
    "VINOAsk",
    "VINOThink",
    "VINOLoraDataset",
    "VINOTrainLora",
]
"""Node ids are saved in people's workflows: a rename or a loss here breaks them."""


def classes() -> dict[str, Any]:
    async def listed() -> list[Any]:
        return await (await pack("nodes").comfy_entrypoint()).get_node_list()

    return {node.__name__: node for node in asyncio.run(listed())}


def all_inputs(schema: Any) -> Iterator[Any]:
    """Inputs and what is nested in dynamic ones."""
    for entry in schema.inputs:
        yield entry
        template = getattr(entry, "template", None)
        if template is not None:
            yield template.input
        for option in getattr(entry, "options", None) or ():
            yield from getattr(option, "inputs", ())


def test_no_node_is_lost_or_renamed() -> None:
    assert list(classes()) == NODES
    assert [node.define_schema().node_id for node in classes().values()] == NODES


@pytest.mark.parametrize("name", NODES)
def test_everything_is_explained(name: str) -> None:
    schema = classes()[name].GET_SCHEMA()  # validates names as ComfyUI does
    assert schema.display_name.startswith("VINO ") and schema.category.startswith("VINO/")
    assert schema.description and schema.search_aliases
    unexplained = [entry.id for entry in all_inputs(schema) if not entry.tooltip or not entry.tooltip.endswith(".")]
    assert not unexplained
    assert all(entry.tooltip for entry in schema.outputs)


@pytest.mark.parametrize("name", NODES)
def test_help_page_names_every_input(name: str) -> None:
    schema = classes()[name].define_schema()
    page = (ROOT / "web" / "docs" / f"{name}.md").read_text()
    assert page.startswith(f"# {schema.display_name}\n")
    assert [entry.id for entry in schema.inputs if f"`{entry.id}`" not in page] == []


def test_no_help_page_without_a_node() -> None:
    assert {path.stem for path in (ROOT / "web" / "docs").glob("*.md")} == set(NODES)


def test_translation_file_is_current() -> None:
    assert json.loads(LOCALE.read_text()) == node_texts(), "run tools/write_locales.py"
    # vue-i18n would read these as markup.
    assert not set("{}@|") & set(LOCALE.read_text().replace("{\n", "").replace("}", "")) - {"{"}
