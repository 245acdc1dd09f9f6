"""Linear layers of PyTorch modules with 2:4 weights on torch's sparse kernels (cuSPARSELt or CUTLASS), on NVIDIA GPUs.

Imports torch and the errors alone, so that `benchmarks/gpu_sparse.py` can use it where nothing else is installed.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from graphprune.errors import BackendError, InputError

BACKENDS = ("cusparselt", "cutlass")
_CLASSES = {"cusparselt": "SparseSemiStructuredTensorCUSPARSELT", "cutlass": "SparseSemiStructuredTensorCUTLASS"}
_AMPERE = (8, 0)
_SHOWN = 3
_ROWS = 8  # torch pads inputs to so many


@dataclass(frozen=True)
class Kernels:
    """Kernels for 2:4 weights: by type, what rows and columns must be multiples of, and how a weight is packed.

    `pack` takes the weight and the number of rows (tokens) it will be multiplied with, None where that is not known.
    """

    name: str
    limits: Mapping[torch.dtype, tuple[int, int]]
    pack: Callable[[torch.Tensor, int | None], torch.Tensor]


class LeftOut(NamedTuple):
    """A layer that stays dense."""

    name: str
    why: str


class SemiStructured(NamedTuple):
    """A module whose layers `replaced` run sparse kernels, beside those that do not."""

    module: torch.nn.Module
    replaced: tuple[str, ...]
    left: tuple[LeftOut, ...]
    backend: str = ""

    def note(self) -> str:
        """What became of the layers, in a sentence."""
        whys = [f"'{name}' ({why})" for name, why in self.left[:_SHOWN]]
        more = len(self.left) - len(whys)
        dense = f"; {len(self.left)} stay dense: {', '.join(whys)}{f' and {more} more' if more else ''}"
        return f"{len(self.replaced)} linear layers run 2:4 kernels ({self.backend}){dense if self.left else ''}"


def lacking() -> str | None:
    """What is missing for 2:4 kernels, as the end of a sentence; None where it is there."""
    if not torch.cuda.is_available():
        return f"they need an NVIDIA GPU with its driver, which torch {torch.__version__} does not find"
    capability = torch.cuda.get_device_capability()
    if capability < _AMPERE:
        found = f"{torch.cuda.get_device_name()} has {capability[0]}.{capability[1]}"
        return f"they need a GPU of compute capability 8.0 (Ampere) or later; {found}"
    return None


def kernels(backend: str = "cusparselt") -> Kernels:
    """Torch's kernels for 2:4 weights. Raises `InputError` for an unknown one, `BackendError` where it cannot run."""
    if backend not in BACKENDS:
        raise InputError(f"there are no 2:4 kernels '{backend}'; there are {', '.join(BACKENDS)}")
    lacks = lacking()
    if lacks is None and backend == "cusparselt" and not torch.backends.cusparselt.is_available():
        lacks = f"torch {torch.__version__} is built without cuSPARSELt; use cutlass"
    if lacks is not None:
        raise BackendError(f"torch's 2:4 kernels ({backend}) cannot be used here: {lacks}")
    return Kernels(backend, limits(backend), _pack_cusparselt if backend == "cusparselt" else _pack_cutlass)


def limits(backend: str) -> dict[torch.dtype, tuple[int, int]]:
    """What rows and columns of a weight must be multiples of, by type, as the installed torch has it."""
    table = getattr(torch.sparse, _CLASSES[backend])._DTYPE_SHAPE_CONSTRAINTS
    return {dtype: (entry.sparse_min_rows, entry.sparse_min_cols) for dtype, entry in table.items()}


def semi_structured(module: torch.nn.Module, *, use: Kernels | None = None, rows: int | None = None) -> SemiStructured:
    """A module like `module` whose linear layers with 2:4 weights run sparse kernels; the two share all other tensors.

    `module` is in its final place and type. `rows` (tokens a layer sees at once) lets cuSPARSELt search for the fastest
    of its kernels. Raises `BackendError` where there is no GPU for it.
    """
    use = use or kernels()
    twin = _sharing(module)
    replaced, left = [], []
    found = list(_weights(twin))
    with torch.no_grad():
        for weight in found:
            why = weight.why or _misfit(weight.tensor, use)
            if why:
                left.append(LeftOut(weight.name, why))
                continue
            packed = torch.nn.Parameter(use.pack(weight.tensor.detach(), rows), requires_grad=False)
            weight.put(packed)
            replaced.append(weight.name)
    return SemiStructured(twin, tuple(replaced), tuple(left), use.name)


class _Weight(NamedTuple):
    """A weight of a layer: where it is put, and why it must stay dense, "" if nothing speaks against it."""

    name: str
    tensor: torch.Tensor
    put: Callable[[torch.nn.Parameter], None]
    why: str = ""


def _sharing(module: torch.nn.Module) -> torch.nn.Module:
    """A copy of the module's structure that holds the very same tensors."""
    memo: dict[int, Any] = {id(t): t for t in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, memo)


def _weights(module: torch.nn.Module) -> Iterator[_Weight]:
    """Weights of linear and convolution layers, in modules and in captured graphs."""
    for name, layer in module.named_modules():
        if isinstance(layer, torch.nn.Linear):
            yield _Weight(name, layer.weight, _putter(layer, "weight"), _reads_otherwise(module, name, layer))
        elif isinstance(layer, torch.nn.modules.conv._ConvNd):
            yield _Weight(name, layer.weight, _putter(layer, "weight"), "torch has 2:4 kernels for linear layers only")
        elif isinstance(layer, torch.fx.GraphModule):
            yield from _captured(layer)


def _putter(layer: torch.nn.Module, attribute: str) -> Callable[[torch.nn.Parameter], None]:
    return lambda packed: setattr(layer, attribute, packed)


def _reads_otherwise(module: torch.nn.Module, name: str, layer: torch.nn.Linear) -> str:
    """Why a layer's weight may be read by something that knows dense tensors only."""
    parent = module.get_submodule(name.rpartition(".")[0])
    if isinstance(parent, torch.nn.MultiheadAttention | torch.nn.TransformerEncoderLayer):
        return f"nn.{type(parent).__name__} reads its weight past the layer"
    if type(layer).forward is not torch.nn.Linear.forward:
        return f"{type(layer).__name__} has a forward of its own"
    if torch.nn.utils.parametrize.is_parametrized(layer):
        return "its weight is computed by a parametrization"
    return ""


def _captured(graph: torch.fx.GraphModule) -> Iterator[_Weight]:
    """Weights of `aten.linear` in an exported graph; one that something else reads too stays dense."""
    linear = torch.ops.aten.linear.default
    for node in graph.graph.nodes:
        if node.op != "get_attr" or not any(u.target is linear and u.args[1] is node for u in node.users):
            continue
        path, _, attribute = str(node.target).rpartition(".")
        holder = graph.get_submodule(path)
        alone = all(u.target is linear and u.args[1] is node for u in node.users)
        why = "" if alone else "something else reads its weight too"
        yield _Weight(str(node.target), getattr(holder, attribute), _putter(holder, attribute), why)


def _misfit(weight: torch.Tensor, use: Kernels) -> str:
    """Why the kernels do not take a weight, "" if they do."""
    if weight.dtype not in use.limits:
        known = ", ".join(_plain(dtype) for dtype in use.limits)
        return f"its weight is {_plain(weight.dtype)}, the kernels take {known}"
    rows, columns = use.limits[weight.dtype]
    if weight.shape[0] % rows or weight.shape[1] % columns:
        return f"its weight is {weight.shape[0]}x{weight.shape[1]}, the kernels want multiples of {rows}x{columns}"
    return "" if is_2_4(weight) else "its weight is not 2:4"


def is_2_4(weight: torch.Tensor) -> bool:
    """Whether at most two of every four consecutive inputs have a weight other than zero, in every output."""
    if weight.shape[1] % 4:
        return False
    return bool(((weight.reshape(-1, 4) != 0).sum(1) <= 2).all())


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _pack_cusparselt(weight: torch.Tensor, rows: int | None) -> torch.Tensor:
    with _fused_transpose():
        packed = torch.sparse.SparseSemiStructuredTensorCUSPARSELT.from_dense(weight.contiguous())
    if rows is not None:
        packed.alg_id_cusparselt = fastest(weight, rows)  # older versions do not take it as an argument
    return packed


def fastest(weight: torch.Tensor, rows: int) -> int:
    """cuSPARSELt's fastest kernel for a weight of this shape and a number of rows, by its own search."""
    return _searched(tuple(weight.shape), weight.dtype, weight.device, -(-rows // _ROWS) * _ROWS)


@lru_cache(maxsize=4096)
def _searched(shape: tuple[int, int], dtype: torch.dtype, device: torch.device, rows: int) -> int:
    half = torch.tensor([0, 0, 1, 1], dtype=dtype, device=device)
    inputs = torch.randn(rows, shape[1], dtype=dtype, device=device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is to be renamed
        compressed = torch._cslt_compress(torch.randn(shape, dtype=dtype, device=device) * half.repeat(shape[1] // 4))
        return int(torch._cslt_sparse_mm_search(compressed, inputs.t(), transpose_result=True))


def _pack_cutlass(weight: torch.Tensor, rows: int | None) -> torch.Tensor:
    return torch.sparse.SparseSemiStructuredTensorCUTLASS.from_dense(weight.contiguous())


@contextmanager
def _fused_transpose() -> Iterator[None]:
    """Let cuSPARSELt write its result row by row; until torch 2.12 it is left transposed unless this is asked for."""
    tensor = torch.sparse.SparseSemiStructuredTensor
    before = tensor._FUSE_TRANSPOSE
    tensor._FUSE_TRANSPOSE = True
    try:
        yield
    finally:
        tensor._FUSE_TRANSPOSE = before
