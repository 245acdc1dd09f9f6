"""What the components of a group are (channels, heads, rows of a table ...), read off how operators use their axes.

Engineers who ask for half of the channels do not mean half of a codebook. Rules say nothing about this: it is told from
what they know already, which operand is contracted along which axis, what is counted by positions, what vanishes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from graphprune.errors import InputError
from graphprune.ir.graph import Node
from graphprune.ops.base import Array
from graphprune.registry import meant

from .axes import Axes
from .contracting import contractions
from .tables import Table

#: Names of roles, each with what one component is.
ROLES = {
    "channels": "an index of a width that several layers share",
    "neurons": "a hidden unit between two layers",
    "heads": "an attention head, or another block with weights of its own",
    "head-width": "an index of the width of every head",
    "experts": "an expert that a router picks",
    "soft-experts": "an operand of a mixture in which all take part",
    "tokens": "a learned position of a sequence: a register, a latent, a query",
    "table-rows": "a row that is looked up: of a codebook, of a vocabulary",
    "coordinates": "a coordinate of the input's own space",
}
#: Those that go unless others are asked for.
DEFAULT = frozenset({"channels", "neurons", "heads", "head-width", "experts"})
#: All roles at once.
ALL = "all"


def pick_roles(names: Iterable[str]) -> frozenset[str]:
    """The roles of these names, in any case, singular or plural; raises InputError for one that is unknown."""
    found: set[str] = set()
    for name in names:
        plain = name.strip().casefold().replace(" ", "-").replace("_", "-")
        if plain == ALL:
            found |= set(ROLES)
            continue
        known = next((role for role in ROLES if plain in (role, role.removesuffix("s"), f"{role}s")), None)
        if known is None:
            raise InputError(f"unknown role '{name}'{meant(plain, ROLES)}; known are {', '.join(ROLES)}, {ALL}")
        found.add(known)
    return frozenset(found)


def on_request(role: str) -> str:
    """Why a role is left alone by default; empty where it is not."""
    return "" if role in DEFAULT else f"role {role} goes on request: --roles {role}"


@dataclass
class _Facts:
    """Of each component, whether something is so."""

    count: int

    def __post_init__(self) -> None:
        self._found: dict[str, Array] = {}

    def say(self, fact: str, components: Array | None) -> None:
        """It is so for these."""
        if components is not None:
            self._found.setdefault(fact, np.zeros(self.count, bool))[components] = True

    def hold(self, fact: str, components: Array) -> bool:
        """Whether it is so for most of these."""
        known = self._found.get(fact)
        return known is not None and bool(known[components].mean() > 0.5)


class Roles:
    """Tells the role of sets of components; `present` are those that whole values go with."""

    def __init__(self, axes: Axes, present: Array, tables: Iterable[Table]) -> None:
        self._facts = _Facts(len(axes.picked))
        self._axes = axes
        say = self._facts.say
        say("picked", np.flatnonzero(axes.picked))
        say("present", present)
        for table in tables:
            say("requested", axes.of_weight(table.weight, table.axis))
        for node in axes.nodes:
            self._look(node)

    def of(self, components: Array) -> str:
        """The role of these components of one group."""
        flat = components.reshape(-1)

        def have(fact: str) -> bool:
            return self._facts.hold(fact, flat)

        if have("present") or have("matrices"):
            if have("picked"):
                return "experts"
            return "soft-experts" if have("shared") or (have("present") and not have("heads")) else "heads"
        learned = not have("made") and (have("position") or not have("taken"))
        told = {
            "table-rows": have("requested") or have("looked up"),
            "coordinates": have("coordinate"),
            "heads": have("heads"),
            "head-width": have("head width") and not have("channel"),
            "tokens": learned,
            "channels": have("channel"),
        }
        return next((role for role, so in told.items() if so), "neurons")

    def _look(self, node: Node) -> None:
        axes, say = self._axes, self._facts.say
        if node.kind == "softmax":
            say("shared", axes.of(node, 0, node.attrs["axis"]))
        elif node.kind == "attention":
            for slot, fact in ((0, "head width"), (1, "head width"), (2, "head width"), (0, "heads"), (2, "heads")):
                value = node.inputs[slot]
                back = 1 if fact == "head width" else 3
                if value is not None and value.rank >= back:
                    say(fact, axes.of(node, slot, value.rank - back))
        elif node.kind in ("gather", "lookup", "take_along"):
            self._look_up(node)
        elif node.kind == "elementwise" and node.attrs.get("fn") in ("add", "sum"):
            self._add(node)
        else:
            self._contract(node)

    def _add(self, node: Node) -> None:
        """What is made twice and added up is a width that layers share."""
        sides = [slot for slot, value in enumerate(node.inputs) if value is not None and value in self._axes.data]
        for axis in range(node.outputs[0].rank) if len(sides) > 1 else ():
            self._facts.say("channel", self._axes.made_by(node, axis))

    def _look_up(self, node: Node) -> None:
        """Rows of what is learned, by positions along them; each may be a matrix of its own."""
        axes, table = self._axes, node.inputs[0]
        if table is None or table in axes.data:
            return
        looked = node.attrs["axes"] if node.kind == "lookup" else (node.attrs["axis"],)
        others = [a for a in range(table.rank) if a not in looked]
        wide = sum(table.sizes[a] > 1 for a in others) > 1
        for axis in looked:
            self._facts.say("matrices" if wide else "looked up", axes.among(axes.of(node, 0, axis)))
        for axis in others:
            self._facts.say("made", axes.of(node, 0, axis))
            if not wide:
                self._facts.say("channel", axes.of(node, 0, axis))

    def _contract(self, node: Node) -> None:
        for said in contractions(node, self._axes):
            self._facts.say(said.fact, said.components)
