"""Lowerings of reductions, scans, pools, resizes and generators."""

from __future__ import annotations

from typing import Any

from .registry import Call, Spec, lowers

_REDUCE = {
    "mean": "mean", "sum": "sum", "amax": "max", "amin": "min", "max": "max", "min": "min", "prod": "prod",
    "var": "var", "std": "std", "logsumexp": "logsumexp", "argmax": "argmax", "argmin": "argmin",
    "var_mean": "var", "std_mean": "std", "any": "any", "all": "all", "nanmean": "mean", "nansum": "sum",
    "count_nonzero": "sum",
}  # fmt: skip


def _reduce(call: Call, fn: str) -> Spec:
    rank = call.rank("self")
    dims = call.get("dim")
    dims = [dims] if isinstance(dims, int) else dims
    axes = sorted(d % rank for d in dims) if dims else list(range(rank))
    return Spec("reduce", ("self",), {"fn": fn, "axes": axes, "keepdims": bool(call.get("keepdim", False))})


@lowers(*_REDUCE)
def reduce(call: Call) -> Spec | None:
    """Over some axes, or all; `max(a, b)` of two tensors is elementwise."""
    if call.has("other"):
        return Spec("elementwise", ("self", "other"), {"fn": "maximum" if call.name == "max" else "minimum"})
    return _reduce(call, _REDUCE[call.name])


@lowers("median", "nanmedian", "mode")
def middle(call: Call) -> Spec:
    """The middle (or most frequent) of one axis with its position; of all numbers, alone."""
    return _reduce(call, call.name)


@lowers("kthvalue")
def kthvalue(call: Call) -> Spec:
    """The k-th of the numbers along one axis, so that k of them must stay."""
    spec = _reduce(call, "kthvalue")
    return Spec(spec.kind, spec.inputs, {**spec.attrs, "least": call["k"]})


@lowers("bucketize", "searchsorted")
def searched(call: Call) -> Spec | None:
    """Where numbers would go among sorted ones."""
    if not call.has("self") or call.has("sorter") or not call.rank("self"):
        return None
    return Spec("searchsorted", ("self", "boundaries" if call.name == "bucketize" else "sorted_sequence"))


@lowers("segment_reduce")
def segment_reduce(call: Call) -> Spec:
    """Neighbors along one axis become one, as many as lengths (or offsets) say."""
    named = [name for name in ("lengths", "indices", "offsets") if call.has(name)]
    return Spec("axiswise", ("data", *named), {"axes": [call.axis("data", call["axis"])]})


@lowers("norm", "linalg_vector_norm")
def norm(call: Call) -> Spec | None:
    """The 1-, 2- and maximum norm."""
    order = call.get("p", call.get("ord", 2))
    fn = {1.0: "l1", 2.0: "l2", float("inf"): "max", None: "l2"}.get(order if order is None else float(order))
    return None if fn is None else _reduce(call, fn)


@lowers("cumsum")
def cumsum(call: Call) -> Spec:
    """Running sums along one axis."""
    return Spec("cumsum", ("self",), {"axis": call.axis("self", call["dim"])})


@lowers("sort")
def sort(call: Call) -> Spec:
    """Values in order along one axis, and where they were."""
    return Spec("sort", ("self",), {"axis": call.axis("self", call["dim"])})


@lowers("histc")
def count_positions(call: Call) -> Spec | None:
    """How often each integer from zero on occurs, where a bin is as wide as that."""
    if call["min"] != 0 or call["max"] != call["bins"] - 1:
        return None
    return Spec("count_positions", ("self",), {"classes": call["bins"]})


@lowers("cumprod", "logcumsumexp", "cummax", "cummin", "argsort", "fft_fft", "fft_ifft", "fft_rfft", "fft_irfft")
def axiswise(call: Call) -> Spec | None:
    """Mixes along one axis."""
    dim = call.get("dim", -1)
    return Spec("axiswise", ("self",), {"axes": [call.axis("self", dim)]}) if isinstance(dim, int) else None


@lowers("_fft_r2c", "_fft_c2r", "_fft_c2c")
def fourier(call: Call) -> Spec:
    """Transforms along several axes."""
    return Spec("axiswise", ("self",), {"axes": [d % call.rank("self") for d in call["dim"]]})


@lowers("view_as_complex", "view_as_real")
def complex_view(call: Call) -> Spec:
    """Real and imaginary parts lie along a last axis, which comes or goes."""
    axes = [call.rank("self") - 1] if call.name == "view_as_complex" else []
    return Spec("axiswise", ("self",), {"axes": axes, "trailing": True})


@lowers("topk")
def topk(call: Call) -> Spec:
    """The largest (or smallest) entries along one axis and their positions."""
    return Spec("topk", ("self",), {"axis": call.axis("self", call["dim"])})


_SPATIAL = [
    f"{name}{n}d{tail}"
    for n in (1, 2, 3)
    for name in ("max_pool", "avg_pool", "adaptive_avg_pool", "_adaptive_avg_pool", "adaptive_max_pool")
    for tail in ("", "_with_indices")
]
_SPATIAL += ["fractional_max_pool2d", "fractional_max_pool3d"]
_UPSAMPLE = ["nearest1d", "nearest2d", "nearest3d", "linear1d", "bilinear2d", "bicubic2d", "trilinear3d"]
_UPSAMPLE += [
    "_nearest_exact1d",
    "_nearest_exact2d",
    "_nearest_exact3d",
    "_bilinear2d_aa",
    "_bicubic2d_aa",
    "_lanczos2d_aa",
]


@lowers(*_SPATIAL, *(f"_upsample{n}" if n.startswith("_") else f"upsample_{n}" for n in _UPSAMPLE))
def spatial(call: Call) -> Spec | None:
    """Batch and channels pass; unbatched data is left unknown."""
    data = "self" if "self" in call else "input"
    digits = next(int(c) for c in call.name if c.isdigit())
    if call.rank(data) != digits + 2:
        return None
    return Spec("spatial", (data,), {"axes": _worked(call, digits)})


def _worked(call: Call, count: int) -> list[int]:
    """The axes along which a pool works: a window of one index leaves its axis as it is."""
    if "kernel_size" not in call or "stride" not in call or "indices" in call.name:
        return list(range(2, count + 2))
    window, step, pad = (_each(call[name], count) for name in ("kernel_size", "stride", "padding"))
    alone = [w == 1 and s in (None, 1) and not p for w, s, p in zip(window, step, pad, strict=True)]
    return [axis + 2 for axis in range(count) if not alone[axis]]


def _each(given: Any, count: int) -> list[Any]:
    """One number for each axis, from one for all or a list that may be empty."""
    items = list(given) if isinstance(given, (list, tuple)) else [given]
    return items * count if len(items) == 1 else items or [None] * count


@lowers("grid_sampler", "grid_sampler_2d", "grid_sampler_3d")
def grid_sampler(call: Call) -> Spec:
    """The data is read at the places that the grid names."""
    return Spec("spatial", ("input", "grid"))


@lowers("affine_grid_generator")
def affine_grid(call: Call) -> Spec:
    """Coordinates of each place of an image under a matrix, of which nothing may go."""
    return Spec("axiswise", ("theta",), {"axes": [1, call.rank("theta") - 1], "trailing": True})


@lowers(
    "randperm", "zeros_like", "ones_like", "full_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty",
    "zeros", "ones", "full", "empty", "arange", "linspace", "eye", "scalar_tensor",
)  # fmt: skip
def fill(call: Call) -> Spec:
    """Values independent of the input's values (those that are constant have been folded before)."""
    return Spec("fill", call.tensors())
