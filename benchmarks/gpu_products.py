"""Single products `[rows, k] @ [k, n]` at the shapes of known networks: dense, 2:4 and channel-pruned."""

from __future__ import annotations

import importlib.util
import math
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch.nn import functional

from benchmarks.common import ROOT
from benchmarks.gpu_clock import Call, Clock, first_line, in_turns

RESNET_50 = (
    *((64, 64), (576, 64), (64, 256), (256, 64), (256, 128), (1152, 128), (128, 512), (256, 512), (512, 128)),
    *((512, 256), (2304, 256), (256, 1024), (512, 1024), (1024, 256), (1024, 512), (4608, 512), (512, 2048)),
    *((1024, 2048), (2048, 512), (2048, 1000)),
)
VIT_L = ((1024, 3072), (1024, 1024), (1024, 4096), (4096, 1024))
LLAMA_8B = ((4096, 1024), (4096, 4096), (4096, 6144), (4096, 14336), (14336, 4096), (4096, 28672))
GROUPS = {"ViT-L": VIT_L, "Llama-3-8B": LLAMA_8B, "ResNet-50": RESNET_50}
ROWS = (*(2**i for i in range(13)), 16384)
FEWER_ROWS = (1, 16, 64, 256, 1024, 4096, 16384)
WIN = 1.05  # less is within what one run differs from the next
_MOST_COPIES = 64
_WRONG = 2e-2


@dataclass
class Product:
    """One shape in one type: seconds of each variant by rows, and what could not be run or was wrong."""

    group: str
    k: int
    n: int
    dtype: str
    seconds: dict[str, dict[int, float]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def ratios(self, *variants: str) -> dict[int, float]:
        """Dense over the fastest of the variants, by rows."""
        found: dict[int, float] = {}
        for rows, dense in self.seconds.get("dense", {}).items():
            times = [self.seconds[name][rows] for name in variants if rows in self.seconds.get(name, {})]
            if times:
                found[rows] = dense / min(times)
        return found

    def wins_from(self, *variants: str) -> int | None:
        """The fewest rows from which on the variants win at every size measured."""
        first = None
        for rows, ratio in sorted(self.ratios(*variants).items(), reverse=True):
            if ratio < WIN:
                break
            first = rows
        return first

    def record(self) -> dict[str, Any]:
        """As JSON has it; `speedup` is that of the faster of cuSPARSELt's two, as a tuner would choose."""
        rounded = {
            name: {str(rows): round(ratio, 3) for rows, ratio in self.ratios(*variants).items()}
            for name, variants in (
                ("speedup", ("sparse", "tuned")),
                ("untuned", ("sparse",)),
                ("cutlass", ("cutlass",)),
                ("half_k", ("half k",)),
                ("half_n", ("half n",)),
            )
        }
        dense = {str(rows): round(1e6 * t, 2) for rows, t in self.seconds.get("dense", {}).items()}
        return {
            "k": self.k,
            "n": self.n,
            "dtype": self.dtype,
            "wins_from_rows": self.wins_from("sparse", "tuned"),
            **{name: ratios for name, ratios in rounded.items() if ratios or name == "speedup"},
            "dense_us": dense,
            "of": self.group,
            **({"failed": self.failed} if self.failed else {}),
        }


class Weights:
    """A 2:4 weight in every form, in as many copies as it takes that none is found in the cache."""

    def __init__(self, k: int, n: int, dtype: torch.dtype, where: str, cutlass: bool) -> None:
        weight = prune_2_4(torch.randn(n, k, dtype=dtype, device=where) / math.sqrt(k))
        copies = _copies(weight, where)
        self.dense = [weight.clone() for _ in range(copies)]
        self.half_k = [w[:, : k // 2].contiguous() for w in self.dense]
        self.half_n = [w[: n // 2].contiguous() for w in self.dense]
        self.packed, self.why = _attempt(lambda: [packed(w, "cusparselt") for w in self.dense])
        self.cutlass, self.why_cutlass = _attempt(lambda: [packed(w, "cutlass") for w in self.dense] if cutlass else [])


def prune_2_4(weight: torch.Tensor) -> torch.Tensor:
    """The weight with the two larger of every four consecutive inputs."""
    groups = weight.reshape(-1, 4)
    kept = torch.zeros_like(groups).scatter_(1, groups.abs().topk(2, 1).indices, 1)
    return (groups * kept).reshape(weight.shape)


def packed(weight: torch.Tensor, backend: str) -> torch.Tensor:
    """The weight as torch's sparse kernels take it; on a CPU, as it is (dry run)."""
    found: torch.Tensor = sparse_module().kernels(backend).pack(weight, None) if weight.is_cuda else weight.clone()
    return found


@cache
def sparse_module() -> Any:
    """`graphprune.runtimes.pytorch_sparse`, from its file where graphprune is not installed."""
    spec = importlib.util.spec_from_file_location("pytorch_sparse", ROOT / "runtimes" / "pytorch_sparse.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["pytorch_sparse"] = module
    spec.loader.exec_module(module)
    return module


def measure(
    group: str, k: int, n: int, dtype: torch.dtype, rows: Sequence[int], clock: Clock, where: str, cutlass: bool
) -> Iterator[Product]:
    """The product as far as it is measured, after every number of rows."""
    product = Product(group, k, n, str(dtype).removeprefix("torch."))
    weights = Weights(k, n, dtype, where, cutlass)
    for name, why in (("sparse", weights.why), ("cutlass", weights.why_cutlass)):
        if why:
            product.failed[name] = why
    for count in rows:
        x = torch.randn(count, k, dtype=dtype, device=where)
        calls = _right(_calls(weights, x), product)
        seconds, failed = in_turns(clock, calls)
        product.failed.update({f"{name}, {count} rows": why for name, why in failed.items()})
        for name, found in seconds.items():
            product.seconds.setdefault(name, {})[count] = found
        yield product


def refused(backend: str, dtype: torch.dtype, where: str) -> str:
    """Why torch's sparse kernels of one kind do not run here at all, "" where they do."""
    weight = prune_2_4(torch.randn(128, 128, dtype=dtype, device=where))
    return _attempt(lambda: functional.linear(weight, packed(weight, backend)))[1]


def _calls(weights: Weights, x: torch.Tensor) -> dict[str, list[Call]]:
    k = x.shape[1]
    half = x[:, : k // 2].contiguous()
    calls = {
        "dense": _products(x, weights.dense),
        "half k": _products(half, weights.half_k),
        "half n": _products(x, weights.half_n),
        "sparse": _products(x, weights.packed),
        "tuned": _tuned(x, weights.packed),
        "cutlass": _products(x, weights.cutlass),
    }
    return {name: found for name, found in calls.items() if found}


def _products(x: torch.Tensor, weights: Sequence[torch.Tensor]) -> list[Call]:
    return [lambda w=w: functional.linear(x, w) for w in weights]  # type: ignore[misc]


def _tuned(x: torch.Tensor, weights: Sequence[torch.Tensor]) -> list[Call]:
    """cuSPARSELt called directly, with the kernel that its own search finds fastest for these rows."""
    if not weights or not x.is_cuda:
        return []
    rows = len(x)
    padded = functional.pad(x, (0, 0, 0, -rows % 8))
    first: Any = weights[0]
    try:
        choice = _search(first.packed, padded)
    except Exception:  # the search is a private function of torch, and may go
        return []

    def call(w: Any) -> torch.Tensor:
        full = functional.pad(x, (0, 0, 0, -rows % 8)) if rows % 8 else x
        return torch._cslt_sparse_mm(w.packed, full.t(), transpose_result=True, **choice)[:rows]

    return [lambda w=w: call(w) for w in weights]  # type: ignore[misc]


def _search(weight: torch.Tensor, x: torch.Tensor) -> dict[str, int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        search = getattr(getattr(torch._C, "_cusparselt", None), "mm_search", None)
        if search is None:
            return {"alg_id": int(torch._cslt_sparse_mm_search(weight, x.t(), transpose_result=True))}
        found = search(weight, x.t(), None, None, None, True)
    names = [argument.name for argument in torch.ops.aten._cslt_sparse_mm.default._schema.arguments]
    first = names.index("alg_id")  # then how k is split; the last one's name is not that of every version
    return {name: int(choice) for name, choice in zip(names[first:], found, strict=False)}


def _right(calls: dict[str, list[Call]], product: Product) -> dict[str, list[Call]]:
    """The variants whose result is that of the dense product; others are named, and not timed."""
    want = calls["dense"][0]().float()
    for name in [name for name in ("sparse", "tuned", "cutlass") if name in calls]:
        got, why = _attempt(calls[name][0])
        if not why:
            error = float((got.float() - want).norm() / want.norm())
            why = "" if error < _WRONG else f"its result is off by {error:.2g}"
        if why:
            product.failed[f"{name}, {len(want)} rows"] = why
            del calls[name]
    return calls


def _attempt(make: Call) -> tuple[Any, str]:
    """What is made, and why it could not be."""
    try:
        return make(), ""
    except Exception as error:  # refusals are part of what is measured
        return [], first_line(error)


def _copies(weight: torch.Tensor, where: str) -> int:
    """So many that even the halved weights together are twice the second-level cache."""
    if where == "cpu":
        return 2
    second_level = getattr(torch.cuda.get_device_properties(0), "L2_cache_size", 50 * 2**20)
    return min(_MOST_COPIES, max(4, math.ceil(4 * second_level / weight.nbytes)))
