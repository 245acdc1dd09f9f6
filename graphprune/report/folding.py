"""Names that differ by layer numbers alone, as one: `blocks.{0-11}.mlp.weight`."""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from math import prod

#: A number in a name; `[0]` at the end of a weight's name is an axis and tells rows apart.
_NUMBER = re.compile(r"(\d+)(?!\d*\])")


def without_numbers(text: str) -> str:
    """A text with a mark in place of every number that `fold` folds."""
    return _NUMBER.sub("#", text)


def fold(names: Sequence[str], keys: Sequence[Hashable] | None = None) -> list[tuple[str, list[int]]]:
    """Clusters of names (as positions) that are alike up to numbers and have equal keys, each with a name for all.

    A name's braces stand for exactly the numbers in the cluster, all combinations of them; a `*` stands for a number
    that merely goes along with one in braces. Clusters come in order of their first name. Equal names fold as well.
    """
    alike: dict[Hashable, list[int]] = {}
    parts = [_NUMBER.split(name) for name in names]
    for i, part in enumerate(parts):
        alike.setdefault((tuple(part[::2]), None if keys is None else keys[i]), []).append(i)
    numbers = [tuple(part[1::2]) for part in parts]
    clusters = [cluster for found in alike.values() for cluster in _clusters(found, numbers)]
    return [(_named(parts[c[0]][::2], [numbers[i] for i in c]), c) for c in sorted(clusters)]


def _clusters(found: list[int], numbers: Sequence[tuple[str, ...]]) -> list[list[int]]:
    """Split until a cluster's numbers are all combinations, or go along with one another."""
    columns = list(zip(*(numbers[i] for i in found), strict=True))
    distinct = {column for column in columns if len(set(column)) > 1}
    rows = len({numbers[i] for i in found})
    if prod(len(set(column)) for column in distinct) == rows or all(len(set(c)) == rows for c in distinct):
        return [found]
    column = min((c for c in columns if 1 < len(set(c)) < rows), key=lambda c: len(set(c)))
    apart: dict[str, list[int]] = {}
    for i, number in zip(found, column, strict=True):
        apart.setdefault(number, []).append(i)
    return [cluster for part in apart.values() for cluster in _clusters(part, numbers)]


def _named(texts: Sequence[str], rows: Sequence[tuple[str, ...]]) -> str:
    columns = list(zip(*rows, strict=True))
    distinct = list(dict.fromkeys(column for column in columns if len(set(column)) > 1))
    combined = prod(len(set(column)) for column in distinct) == len(set(rows))
    name = texts[0]
    for column, text in zip(columns, texts[1:], strict=True):
        if len(set(column)) == 1:
            name += column[0]
        else:
            name += _braces(column) if combined or column == distinct[0] else "*"
        name += text
    return name


def _braces(column: Sequence[str]) -> str:
    """`{0-3,5}`; numbers with leading zeros are listed one by one."""
    found = sorted(set(column), key=lambda number: (int(number), number))
    runs: list[list[str]] = []
    for number in found:
        plain = runs and all(n == str(int(n)) for n in (runs[-1][-1], number))
        if plain and int(number) == int(runs[-1][-1]) + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    shown = [",".join(run) if len(run) < 3 else f"{run[0]}-{run[-1]}" for run in runs]
    return f"{{{','.join(shown)}}}"
