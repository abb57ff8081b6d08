"""YAML in which a name stands once: the language's own reading lets the last one win without a word."""

from __future__ import annotations

from typing import Any

from ..errors import needed


def read_yaml(text: str) -> Any:
    """What the YAML `text` holds. Raises ValueError for text that is none, or gives a name of a group twice."""
    with needed("Reading a config needs PyYAML", "pyyaml>=6.0"):
        import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen: set[str] = set()
            for key, _ in node.value:
                name = str(key.value)
                if name in seen:
                    raise yaml.MarkedYAMLError(None, None, f"'{name}' is given twice; keep one", key.start_mark)
                seen.add(name)
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:  # others, for dates and bytes that are none, are ValueErrors already
        raise ValueError(str(error)) from error
