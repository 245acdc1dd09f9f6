"""What was measured on a GPU: from how many rows of data the sparse product is faster than the dense one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log2
from pathlib import Path
from typing import Any

from graphprune.errors import InputError

#: Where `benchmarks/gpu_sparse.py` leaves its numbers; not part of an installed package.
FILE = Path(__file__).resolve().parents[2] / "docs" / "measurements" / "gpu_sparse.json"

#: A layer is compared with the measured shape next to it, at most this many doublings away in both sizes together.
_FAR = 2.0


@dataclass(frozen=True)
class Product:
    """A measured weight of `outputs` by `length`: rows of data from which sparse always won (None: it did not), and the
    largest gain seen (1 is as fast as dense, 2 the ideal).
    """

    outputs: int
    length: int
    dtype: str
    from_rows: int | None
    best: float


@dataclass(frozen=True)
class Measured:
    """The products measured on one device."""

    products: tuple[Product, ...]

    def nearest(self, outputs: int, length: int, dtype: str) -> Product | None:
        """The measured product most like a weight; None where none is near. What was not measured in the type is
        compared with float16, in which a cast graph would run.
        """
        known = [p for p in self.products if p.dtype == dtype] or [p for p in self.products if p.dtype == "float16"]
        distances = [(abs(log2(outputs / p.outputs)) + abs(log2(length / p.length)), p) for p in known]
        distance, product = min(distances, key=lambda pair: pair[0], default=(_FAR + 1, None))
        return product if distance <= _FAR else None


def read_measured(path: Path | None = None) -> Measured | None:
    """The measurements of a file, by default of this project's; None where that is not there.

    The file is a list of `{"k": length, "n": outputs, "dtype", "wins_from_rows", "speedup": {rows: ratio}, ..}`. Raises
    InputError where it holds something else, and where a file that was named does not exist.
    """
    if path is None and not FILE.is_file():
        return None
    path = path or FILE
    if not path.is_file():
        raise InputError(f"there is no file '{path}'")
    try:
        data: Sequence[Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return Measured(tuple(_product(line) for line in data if line["speedup"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"'{path}' holds no measurements of sparse products: {error!r}") from error


def _product(line: Mapping[str, Any]) -> Product:
    rows = line["wins_from_rows"]
    best = max(float(ratio) for ratio in line["speedup"].values())
    dtype = str(line["dtype"]).removeprefix("torch.")
    return Product(int(line["n"]), int(line["k"]), dtype, None if rows is None else int(rows), best)
