"""Methods by name, with the data that they look at."""

from __future__ import annotations

from collections.abc import Callable

from graphprune.calibration.samples import Data, Samples, read_samples
from graphprune.errors import InputError
from graphprune.ir.graph import Graph
from graphprune.registry import pick

from .calibrated import Calibrated
from .methods import METHODS, Method
from .sparsegpt import SparseGPT
from .wanda import Wanda

#: Methods that look at data, by name.
WITH_DATA: dict[str, Callable[[Samples], Calibrated]] = {"wanda": Wanda, "sparsegpt": SparseGPT}

#: All of them.
NAMES = (*METHODS, *WITH_DATA)

#: What is used where no name is given: with data, and without.
_BEST, _PLAIN = "sparsegpt", "magnitude"


def make_method(graph: Graph, name: str, data: Data | None) -> tuple[str, Method]:
    """The method of a name (none: the best for what is given) and its name.

    Raises InputError for a name that there is not, data that do not fit, and a method that lacks them.
    """
    name = pick("method", name, NAMES) if name else (_BEST if data is not None else _PLAIN)
    if name in METHODS:
        return name, METHODS[name]()
    if data is None:
        raise InputError(f"the method '{name}' looks at data: give some (--data FILE.npz, data=)")
    return name, WITH_DATA[name](read_samples(graph, data))
