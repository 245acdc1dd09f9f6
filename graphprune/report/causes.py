"""What stays and why, in lines: the causes that a user can do most about come first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .data import FrozenRow, UnknownRow
from .folding import fold, without_numbers

#: Kinds of causes in the order in which they are shown, each with what a user can do about it.
_HEADINGS = {
    "unknown": "operators that graphprune has no rule for (write that part with others, or report them as missing)",
    "sizes": "sizes that are not known (give --input-shape with sizes at which the model runs)",
    "operator": "operators that need every index (another way to write that part may free them)",
    "constant": "constants, which are part of the model's definition (leave them, or make them parameters)",
    "lookup": "tables whose rows are looked up by index, which a caller may choose (nothing to do)",
    "position": "positions in space or sequence, as many as the input has (nothing to do)",
    "input": "the model's inputs, which keep their shape (nothing to do)",
    "output": "the model's outputs, which keep their shape (nothing to do)",
}
_SHOWN, _NAMED = 8, 3


def frozen_lines(frozen: Sequence[FrozenRow], *, every: bool = False) -> list[str]:
    """How much is frozen, then by kind of cause what and where; of many lines only those with most indices."""
    if not frozen:
        return ["Frozen: nothing."]
    weights = len({row.weight for row in frozen})
    total = sum(row.indices for row in frozen)
    lines = [f"Frozen: {_count(total, 'index', 'indices')} on {_count(len(frozen), 'axis', 'axes')} of"
             f" {_count(weights, 'weight', 'weights')} must stay because of"]  # fmt: skip
    found = _merged(frozen)
    shown = found if every else sorted(found, key=lambda item: -item[1])[:_SHOWN]
    for cause, heading in _HEADINGS.items():
        own = [item for item in found if item[0] == cause and item in shown]
        if own:
            lines += [f"  {heading}:", *(f"    {text}" for _, _, text in sorted(own, key=lambda item: -item[1]))]
    if len(found) > len(shown):
        lines.append(f"  and {len(found) - len(shown)} more reasons (inspect --all shows them)")
    return lines


def _merged(frozen: Sequence[FrozenRow]) -> list[tuple[str, int, str]]:
    """(cause, indices, text): weights that are alike as one name, and names with the same reason in one line."""
    reasons = [_reason(row) for row in frozen]
    keys = [(row.cause, row.indices, without_numbers(reason)) for row, reason in zip(frozen, reasons, strict=True)]
    merged: dict[tuple[str, str], list[tuple[str, int]]] = {}
    for name, rows in fold([f"{row.weight}[{row.axis}]" for row in frozen], keys):
        found = fold([reasons[i] for i in rows])
        reason = found[0][0] if len(found) == 1 else f"{reasons[rows[0]]}, and alike"
        times = f" x{len(rows)}" if len(rows) > 1 else ""
        indices = sum(frozen[i].indices for i in rows)
        merged.setdefault((frozen[rows[0]].cause, reason), []).append((name + times, indices))
    return [(cause, sum(n for _, n in found), _line(found, reason)) for (cause, reason), found in merged.items()]


def _reason(row: FrozenRow) -> str:
    if not row.node:
        return row.reason
    scope = "" if "/" in row.node else row.scope  # such names say where they are
    inside = " in ".join(part for part in (row.op, scope) if part)
    return f"{row.reason}, at {row.node}" + (f" ({inside})" if inside else "")


def _line(found: Sequence[tuple[str, int]], reason: str) -> str:
    names = [name for name, _ in found[:_NAMED]]
    if len(found) > _NAMED:
        names.append(f"{len(found) - _NAMED} more")
    return f"{', '.join(names)} ({_count(sum(n for _, n in found), 'index', 'indices')}): {reason}"


def unknown_lines(unknown: Sequence[UnknownRow]) -> list[str]:
    """Operators without a rule."""
    if not unknown:
        return ["Unknown operators: none."]
    without = [row for row in unknown if not row.why and not row.sizes]
    missing = ", ".join(f"{row.op} x{row.count} (first: {row.first_node})" for row in without)
    sizeless = ", ".join(f"{row.op} x{row.count} (first: {row.first_node})" for row in unknown if row.sizes)
    failing = "; ".join(
        f"{row.op} x{row.count} (first: {row.first_node}): {row.why}" for row in unknown if row.why and not row.sizes
    )
    lines = [f"Unknown operators, which freeze everything they touch: {missing}."] if missing else []
    if sizeless:
        sizes = "Sizes that are not known freeze everything that meets them; give --input-shape with sizes at which the"
        lines.append(f"{sizes} model runs: {sizeless}.")
    fails = "Operators whose rule fails here (operands that do not fit, or a mistake in graphprune: please report it)"
    return lines + ([f"{fails}, which freeze everything they touch: {failing}."] if failing else [])


def assumed_lines(assumed: Mapping[str, Mapping[str, int]]) -> list[str]:
    """The sizes that nobody gave."""
    sizes = [f"{name} axis {axis} = {size}" for name, axes in assumed.items() for axis, size in axes.items()]
    if not sizes:
        return []
    return [f"Sizes that nobody gave were assumed: {', '.join(sizes)}; --input-shape gives others."]


def _count(number: int, one: str, several: str) -> str:
    return f"{number:,} {one if number == 1 else several}"
