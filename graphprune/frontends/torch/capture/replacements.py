"""Operators that ATen itself does not take apart, written with operators that have lowerings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import fold, linear


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Groups and the channels in each change places."""
    n, c, *rest = x.shape
    return x.reshape(n, groups, c // groups, *rest).transpose(1, 2).reshape(n, c, *rest)


def cat_without_empty(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """A concatenation without the empty one-dimensional tensors that ATen skips, whatever the rank of the others."""
    return torch.cat([t for t in tensors if tuple(t.shape) != (0,)], dim)


def windows_in_memory(x: Tensor, size: Sequence[int], stride: Sequence[int], offset: int | None = None) -> Tensor:
    """`as_strided` where it makes windows along the last axis, as `torch.stft` does."""
    *lead, count, width = size
    step = stride[-2]
    along = list(stride) == [*x.stride()[:-1], step, x.stride(-1)] and lead == list(x.shape[:-1])
    if not along or offset or not step or (count - 1) * step + width > x.shape[-1]:
        raise NotImplementedError("only windows along the last axis")
    return x.unfold(-1, width, step).narrow(-2, 0, count)


def weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> tuple[Tensor, Tensor]:
    """Directions and lengths, as `torch.nn.utils.weight_norm` joins them."""
    others = [axis for axis in range(v.ndim) if axis != dim]
    norm = torch.linalg.vector_norm(v, 2, others, keepdim=True)
    return v * (g / norm), norm


def select_scatter(x: Tensor, src: Tensor, dim: int, index: int) -> Tensor:
    """One index of an axis is overwritten."""
    start = index % x.shape[dim]
    return torch.slice_scatter(x, src.unsqueeze(dim), dim, start, start + 1)


def with_mean(spread: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    """`var_mean` and `std_mean`: the spread and the mean over the same axes."""

    def both(x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        found = spread(x, *args, **kwargs)
        dim = kwargs.get("dim", args[0] if args and not isinstance(args[0], bool) else None)
        return found, torch.mean(x, dim if dim else list(range(x.ndim)), keepdim=found.ndim == x.ndim)

    return both


def vdot(a: Tensor, b: Tensor) -> Tensor:
    """Of real vectors, the dot product."""
    if a.is_complex():
        raise NotImplementedError("vdot of complex numbers")
    return torch.dot(a, b)


def cdist(a: Tensor, b: Tensor, p: float, mode: int | None = None) -> Tensor:
    """Distances of all rows of `a` to all rows of `b`."""
    return torch.linalg.vector_norm(a.unsqueeze(-2) - b.unsqueeze(-3), p, -1)


def trilinear(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    expand_a: Sequence[int],
    expand_b: Sequence[int],
    expand_c: Sequence[int],
    axes: Sequence[int],
    unroll: int = 1,
) -> Tensor:
    """The product of three tensors, each with new axes, summed (`nn.Bilinear`)."""
    for axis in expand_a:
        a = a.unsqueeze(axis)
    for axis in expand_b:
        b = b.unsqueeze(axis)
    for axis in expand_c:
        c = c.unsqueeze(axis)
    return (a * b * c).sum(list(axes))


def index_add(x: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1) -> Tensor:
    """Rows of `source` are added to the rows that `index` names."""
    shape = [-1 if axis == dim % x.ndim else 1 for axis in range(x.ndim)]
    return x.scatter_add(dim, index.reshape(shape).expand_as(source), source * alpha if alpha != 1 else source)


def index_put(x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False) -> Tensor:
    """`x[:, .., i, j, ..] = values` where neighbouring axes are addressed, by integers: as one axis. Where a mask names
    places that all get the same, it is chosen place by place.
    """
    given = [i for i in indices if i is not None]
    axis = next(place for place, i in enumerate(indices) if i is not None)
    split_up = any(i is None for i in indices[axis : axis + len(given)])
    if len(given) == 1 and given[0].dtype == torch.bool and values.ndim <= x.ndim - axis - given[0].ndim:
        mask = given[0].reshape(*given[0].shape, *[1] * (x.ndim - axis - given[0].ndim))
        return torch.where(mask, x + values if accumulate else values, x)
    if split_up or any(i.dtype in (torch.bool, torch.uint8) for i in given):
        raise NotImplementedError("only integers for axes that are neighbours")
    before, sizes, rest = x.shape[:axis], x.shape[axis : axis + len(given)], x.shape[axis + len(given) :]
    at = torch.zeros_like(given[0])
    for ids, size in zip(given, sizes, strict=True):
        at = at * size + torch.where(ids < 0, ids + size, ids)
    values = values.expand(*before, *at.shape, *rest).reshape(*before, -1, *rest)
    ids = at.long().reshape(-1, *[1] * len(rest)).expand_as(values)
    rows = x.reshape(*before, prod(sizes), *rest) if len(sizes) > 1 else x
    found = rows.scatter_add(axis, ids, values) if accumulate else rows.scatter(axis, ids, values)
    return found.reshape(x.shape)


def unfold_backward(windows: Tensor, sizes: Sequence[int], axis: int, size: int, step: int) -> Tensor:
    """Windows added up where they lay along an axis, as `torch.istft` does: as columns of images of one row."""
    if not windows.is_floating_point() or windows.numel() == 0:
        raise NotImplementedError("only real windows")
    axis %= len(sizes)
    windows = windows.movedim(axis, -2)
    columns = windows.reshape(-1, *windows.shape[-2:]).transpose(1, 2)
    rows = fold(columns, (1, sizes[axis]), (1, size), stride=(1, step))
    added = rows.reshape(*windows.shape[:-2], sizes[axis]).movedim(-1, axis)
    if list(added.shape) == list(sizes):
        return added
    return added.expand(list(sizes))  # the window itself, the same for all samples


def lstm_cell(
    x: Tensor, state: Sequence[Tensor], w: Tensor, u: Tensor, b: Tensor | None = None, c: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One step of `nn.LSTMCell`, which ATen computes in place."""
    hidden, cell = state
    write, forget, new, read = (linear(x, w, b) + linear(hidden, u, c)).chunk(4, 1)
    cell = forget.sigmoid() * cell + write.sigmoid() * new.tanh()
    return read.sigmoid() * cell.tanh(), cell


def gru_cell(
    x: Tensor, hidden: Tensor, w: Tensor, u: Tensor, b: Tensor | None = None, c: Tensor | None = None
) -> Tensor:
    """One step of `nn.GRUCell`."""
    (reset, update, new), (old_reset, old_update, old) = linear(x, w, b).chunk(3, 1), linear(hidden, u, c).chunk(3, 1)
    share = (update + old_update).sigmoid()
    new = (new + (reset + old_reset).sigmoid() * old).tanh()
    return new + share * (hidden - new)


def rnn_cell(activation: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """One step of `nn.RNNCell`."""

    def step(
        x: Tensor, hidden: Tensor, w: Tensor, u: Tensor, b: Tensor | None = None, c: Tensor | None = None
    ) -> Tensor:
        return activation(linear(x, w, b) + linear(hidden, u, c))

    return step


def embedding_bag(
    table: Tensor,
    ids: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    factors: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
) -> tuple[Tensor, ...]:
    """Rows of a table added up, or averaged, from one offset to the next; only the first result is of use."""
    if mode == 2:
        raise NotImplementedError("the largest of a bag")
    starts = offsets[:-1] if include_last_offset else offsets
    bag = ((torch.arange(len(ids), device=ids.device).unsqueeze(1) >= starts).sum(1) - 1).clamp(min=0)
    counted = (ids != padding_idx).to(table.dtype)
    rows = table[ids] * (counted if factors is None else counted * factors).unsqueeze(1)
    total = torch.zeros(len(starts), table.shape[1], dtype=table.dtype, device=table.device)
    total = index_add(total, 0, bag, rows)
    if mode == 1:
        many = index_add(torch.zeros_like(starts, dtype=table.dtype), 0, bag, counted)
        total = total / many.clamp(min=1).unsqueeze(1)
    return total, offsets, offsets, offsets


def in_place(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The operator that writes the result of `function` into its first argument."""

    def write(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return x.copy_(function(x, *args, **kwargs))

    return write


#: By ATen packet name. A replacement that raises leaves the operator as it is.
REPLACEMENTS: dict[str, Callable[..., Any]] = {
    "channel_shuffle": channel_shuffle,
    "native_channel_shuffle": channel_shuffle,
    "_weight_norm_interface": weight_norm,
    "as_strided": windows_in_memory,
    "select_scatter": select_scatter,
    "var_mean": with_mean(torch.var),
    "std_mean": with_mean(torch.std),
    "vdot": vdot,
    "_cdist_forward": cdist,
    "_trilinear": trilinear,
    "lstm_cell": lstm_cell,
    "gru_cell": gru_cell,
    "rnn_tanh_cell": rnn_cell(torch.tanh),
    "rnn_relu_cell": rnn_cell(torch.relu),
    "_embedding_bag": embedding_bag,
    "index_add": index_add,
    "index_add_": in_place(index_add),
    "index_put": index_put,
    "unfold_backward": unfold_backward,
    "index_put_": in_place(index_put),
}
