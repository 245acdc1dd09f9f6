"""Parameters that no run reads, in inference or in training: stages of an encoder that a caller left aside."""

from __future__ import annotations

from torch import nn

from graphprune.ir.graph import Graph

from ..origin import origin_of

#: Modules that a sentence names.
_NAMED = 4


def unused_parameters(graph: Graph) -> tuple[str, ...]:
    """A sentence that names the modules whose parameters are never used, and what share of all they are; none if none.

    They are in no count of a report: no graph has them.
    """
    tensors = {name: t for name, t in origin_of(graph).tensors.tensors.items() if isinstance(t, nn.Parameter)}
    read = graph.weights()
    unused = [name for name in tensors if name not in read]
    if not unused:
        return ()
    used = {prefix for name in tensors if name in read for prefix in _prefixes(name)}
    owners = list(dict.fromkeys(_owner(name, used) for name in unused))
    shown = ", ".join(f"'{owner}'" for owner in owners[:_NAMED])
    more = f" and {len(owners) - _NAMED} more" if len(owners) > _NAMED else ""
    count, total = (sum(tensors[name].numel() for name in names) for names in (unused, tensors))
    return (
        f"these parameters are never used: {shown}{more}, {count:,} of {total:,} ({count / max(1, total):.0%}); "
        "they stay as they are and are left out of the counts",
    )


def _prefixes(name: str) -> list[str]:
    """The modules that a parameter lies in, outermost first; "a.b" and "a" for "a.b.weight" come as "a", "a.b"."""
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def _owner(name: str, used: set[str]) -> str:
    """The outermost module around a parameter of which nothing is used, or the parameter itself."""
    return next((prefix for prefix in _prefixes(name) if prefix not in used), name)
