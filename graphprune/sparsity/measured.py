"""What was measured on a GPU: from how many rows of data the sparse product is faster than the dense one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import log2
from pathlib import Path
from typing import Any

from ..errors import InputError

#: Where `benchmarks/gpu_sparse.py` leaves its numbers; not part of an installed package.
FILE = Path(__file__).resolve().parents[2] / "docs" / "measurements" / "gpu_sparse.json"

#: A layer is compared with the measured shape next to it, at most this many doublings away in both sizes together.
_FAR = 2.0


@dataclass(frozen=True)
class Product:
    """A measured weight of `outputs` by `length`: rows of data from which sparse wins (None: it never did), and the
    largest gain seen (1 is as fast as dense, 2 the ideal).
    """

    outputs: int
    length: int
    from_rows: int | None
    best: float


@dataclass(frozen=True)
class Measured:
    """The products measured on one device in one type."""

    device: str
    dtype: str
    products: tuple[Product, ...]

    def nearest(self, outputs: int, length: int) -> Product | None:
        """The measured product most like a weight; None where none is near."""
        distances = [(abs(log2(outputs / p.outputs)) + abs(log2(length / p.length)), p) for p in self.products]
        distance, product = min(distances, key=lambda pair: pair[0], default=(_FAR + 1, None))
        return product if distance <= _FAR else None


def read_measured(path: Path | None = None) -> Measured | None:
    """The measurements of a file, by default of this project's; None where that is not there.

    The file holds `{"device": .., "dtype": .., "products": [{"outputs", "length", "from_rows", "best"}, ..]}` and
    whatever else. Raises InputError where it holds something else, and where a file that was named does not exist.
    """
    if path is None and not FILE.is_file():
        return None
    path = path or FILE
    if not path.is_file():
        raise InputError(f"there is no file '{path}'")
    try:
        data: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        products = tuple(
            Product(int(p["outputs"]), int(p["length"]), _optional(p["from_rows"]), float(p["best"]))
            for p in data["products"]
        )
        return Measured(str(data["device"]), str(data["dtype"]), products)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"'{path}' holds no measurements of sparse products: {error!r}") from error


def _optional(rows: Any) -> int | None:
    return None if rows is None else int(rows)
