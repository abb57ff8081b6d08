"""A ComfyUI graph as Python objects: nodes, links, and the groups in which a reader meets them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

Graph = dict[str, dict[str, Any]]
"""A graph in ComfyUI's API format."""


@dataclass(frozen=True)
class Output:
    """Output number `slot` of a node."""

    node: str
    slot: int


@dataclass(frozen=True)
class Node:
    """One node. `node[0]` is its first output; `height` stretches nodes that hold long text or show a picture;
    `frontend` holds values of widgets that only the frontend has."""

    id: str
    type: str
    title: str | None
    inputs: dict[str, Any]
    height: int | None
    frontend: dict[str, Any]

    def __getitem__(self, slot: int) -> Output:
        return Output(self.id, slot)


@dataclass
class Group:
    """Nodes drawn as one column, `width` pixels wide, inside a titled frame of the given colour."""

    title: str
    colour: str
    width: int
    nodes: list[Node] = field(default_factory=list)


@dataclass
class Workflow:
    """A graph with its reading order: a note, then groups from left to right."""

    name: str
    title: str
    note: str
    groups: list[Group] = field(default_factory=list)

    @contextmanager
    def group(self, title: str, colour: str, width: int = 300) -> Iterator[None]:
        """Nodes added inside this block belong to a new group."""
        self.groups.append(Group(title, colour, width))
        yield

    def add(
        self,
        type_: str,
        inputs: dict[str, Any],
        title: str | None = None,
        height: int | None = None,
        frontend: dict[str, Any] | None = None,
    ) -> Node:
        """Add a node to the current group; input values that are `Output` become links."""
        number = sum(len(group.nodes) for group in self.groups) + 1
        node = Node(str(number), type_, title, inputs, height, frontend or {})
        self.groups[-1].nodes.append(node)
        return node

    def nodes(self) -> Iterator[Node]:
        for group in self.groups:
            yield from group.nodes

    def api(self) -> Graph:
        """The graph in API format, as `POST /prompt` takes it."""
        graph: Graph = {}
        for node in self.nodes():
            inputs = {
                name: [value.node, value.slot] if isinstance(value, Output) else value
                for name, value in node.inputs.items()
            }
            graph[node.id] = {"class_type": node.type, "inputs": inputs}
            if node.title:
                graph[node.id]["_meta"] = {"title": node.title}
        return graph
