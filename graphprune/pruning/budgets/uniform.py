"""Groups that must keep equal parts where one configuration is to describe the result."""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from math import gcd

from graphprune.coupling import Group

#: Groups in order with what rules their sizes.
_Family = tuple[set[tuple[Hashable, Hashable]], list[Group]]


def families(
    groups: Sequence[Group], options: Sequence[Hashable], rulers: Callable[[], Mapping[str, Hashable]]
) -> list[list[Group]]:
    """The groups, those together that are alike up to numbers in their names (the layers of a transformer), or whose
    sizes the same settings rule (an encoder's and a decoder's heads; heads and a residual stream as wide as they are).

    Only groups with the same `options` go together. `rulers` gives what rules a weight's axis.
    """
    named: dict[Hashable, tuple[Hashable, list[Group]]] = {}
    for group, option in zip(groups, options, strict=True):
        key = re.sub(r"\d+", "#", group.name), group.components.shape, group.width, option
        named.setdefault(key, (option, []))[1].append(group)
    ruler = rulers()
    joined: list[_Family] = []
    for option, members in named.values():
        family: _Family = {(ruler[g.name], option) for g in members if g.name in ruler}, members
        for other in [known for known in joined if known[0] & family[0]]:
            if common_parts([*other[1], *family[1]]) > 1:
                joined.remove(other)
                family = other[0] | family[0], [*other[1], *family[1]]
        joined.append(family)
    return [members for _, members in joined]


def common_parts(groups: Sequence[Group]) -> int:
    """Into how many equal parts all the groups (their rows) can be cut."""
    return gcd(*(group.components.shape[1] for group in groups))
