"""The contract of a pass and the register of passes by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from graphprune.errors import GraphPruneError
from graphprune.ir.graph import Graph
from graphprune.registry import pick


class Names:
    """The names of a graph's values, for those that a pass makes."""

    def __init__(self, graph: Graph) -> None:
        self._taken = {value.name for value in graph.values()}

    def fresh(self, base: str) -> str:
        """A name nobody has: `base`, or with the first number that makes it one."""
        name, count = base, 1
        while name in self._taken:
            count += 1
            name = f"{base}.{count}"
        self._taken.add(name)
        return name


@dataclass(frozen=True)
class Remark:
    """What a pass tells of the node or weight `about` (nothing: of the whole model)."""

    about: str
    text: str


@dataclass(frozen=True)
class Pass(ABC):
    """A rewrite `Graph -> Graph`. A pass is a frozen dataclass: its fields are its options, in pipelines and in Python.

    `run` returns a new graph, or the same object if nothing changed; the graph it was given stays as it was.
    """

    name: ClassVar[str]

    @abstractmethod
    def run(self, graph: Graph) -> Graph:
        """Apply the pass."""

    def applied(self, graph: Graph) -> tuple[Graph, list[Remark]]:
        """What `run` returns, and what the user should know."""
        return self.run(graph), []


_PASSES: dict[str, type[Pass]] = {}


def register(cls: type[Pass]) -> type[Pass]:
    """Make a pass known by its name."""
    if cls.name in _PASSES:
        raise GraphPruneError(f"two passes are named '{cls.name}'")
    _PASSES[cls.name] = cls
    return cls


def find(name: str) -> type[Pass]:
    """The pass of a name; raises InputError listing the known ones."""
    return _PASSES[pick("pass", name, sorted(_PASSES))]
