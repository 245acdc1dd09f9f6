"""Packed sequences where a module is exported: kept padded, since no exporter can follow sizes that lengths decide.

While `padded_packing` lasts, the `data` of a `PackedSequence` are padded, time first; its `batch_sizes` are as ever.
Recurrent layers run on all positions, backwards from the last one of each sequence; states are taken from there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, linear, pad
from torch.nn.utils.rnn import PackedSequence

_LAYERS: tuple[type[nn.RNNBase], ...] = (nn.LSTM, nn.GRU, nn.RNN)
States = tuple[Tensor, ...]


@contextmanager
def padded_packing() -> Iterator[list[str]]:
    """Pack without packing; gives a list that is empty as long as nothing was packed."""
    used: list[str] = []

    def pack(x: Tensor, lengths: Tensor, batch_first: bool) -> tuple[Tensor, Tensor]:
        used.append("pack_padded_sequence")
        data = x.transpose(0, 1) if batch_first else x
        steps = torch.arange(data.shape[0], device=lengths.device)
        return data, (lengths > steps.unsqueeze(1)).sum(1)

    original = {kind: kind.forward for kind in _LAYERS}
    functions: Any = torch._VF
    functions._pack_padded_sequence, functions._pad_packed_sequence = pack, _unpack
    for kind in _LAYERS:
        kind.forward = _forward_of(kind.forward)
    try:
        yield used
    finally:
        del functions._pack_padded_sequence, functions._pad_packed_sequence
        for kind, forward in original.items():
            kind.forward = forward


def _lengths(data: Tensor, batch_sizes: Tensor) -> Tensor:
    """The length of each sequence, which are in order: the i-th is in all steps of more than i."""
    return (batch_sizes > torch.arange(data.shape[1]).unsqueeze(1)).sum(1)


def _unpack(
    data: Tensor, batch_sizes: Tensor, batch_first: bool, padding_value: float, total_length: int
) -> tuple[Tensor, Tensor]:
    lengths = _lengths(data, batch_sizes)
    inside = torch.arange(data.shape[0]).unsqueeze(1) < lengths
    found = data.masked_fill(~inside.to(data.device).reshape(*inside.shape, *[1] * (data.ndim - 2)), padding_value)
    if total_length > data.shape[0]:
        found = pad(found, [0, 0] * (data.ndim - 1) + [0, total_length - data.shape[0]], value=padding_value)
    return found.transpose(0, 1) if batch_first else found, lengths


def _forward_of(original: Any) -> Any:
    def forward(self: nn.RNNBase, x: Any, hx: Any = None) -> Any:
        return _run(self, x, hx) if isinstance(x, PackedSequence) else original(self, x, hx)

    return forward


def _run(layer: nn.RNNBase, x: PackedSequence, hx: Any) -> tuple[PackedSequence, Any]:
    """All layers and directions of a recurrent layer on padded data."""
    data, lengths = x.data, _lengths(x.data, x.batch_sizes).to(x.data.device)
    given: States | None = None if hx is None else tuple(hx) if isinstance(hx, tuple) else (hx,)
    if given is not None and x.sorted_indices is not None:
        given = tuple(state.index_select(1, x.sorted_indices) for state in given)
    last: list[States] = []
    ways = ("", "_reverse") if layer.bidirectional else ("",)
    for number in range(layer.num_layers):
        sides = []
        for way in ways:
            at = len(last)
            start = _zeros(layer, data) if given is None else tuple(state[at : at + 1] for state in given)
            output, states = _one(layer, f"_l{number}{way}", _turned(data, lengths) if way else data, start, lengths)
            sides.append(_turned(output, lengths) if way else output)
            last.append(states)
        data = torch.cat(sides, 2) if len(sides) > 1 else sides[0]
        if layer.dropout and number + 1 < layer.num_layers:
            data = dropout(data, layer.dropout, layer.training)
    joined = tuple(torch.stack(states) for states in zip(*last, strict=True))
    if x.unsorted_indices is not None:
        joined = tuple(state.index_select(1, x.unsorted_indices) for state in joined)
    packed = PackedSequence(data, x.batch_sizes, x.sorted_indices, x.unsorted_indices)
    return packed, joined if layer.mode == "LSTM" else joined[0]


def _zeros(layer: nn.RNNBase, data: Tensor) -> States:
    hidden = data.new_zeros(1, data.shape[1], layer.proj_size or layer.hidden_size)
    if layer.mode != "LSTM":
        return (hidden,)
    return hidden, data.new_zeros(1, data.shape[1], layer.hidden_size)


def _turned(data: Tensor, lengths: Tensor) -> Tensor:
    """Each sequence backwards; what lies behind it is anything."""
    places = (lengths - 1 - torch.arange(data.shape[0], device=lengths.device).unsqueeze(1)).clamp(min=0)
    return data.gather(0, places.unsqueeze(-1).expand(data.shape))


def _one(layer: nn.RNNBase, name: str, data: Tensor, start: States, lengths: Tensor) -> tuple[Tensor, States]:
    """One layer in one direction: all outputs, and the states where each sequence ends."""
    kinds = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if layer.bias else [])]
    weights = [getattr(layer, kind + name) for kind in kinds]
    projection = [getattr(layer, "weight_hr" + name)] if layer.proj_size else []
    run = getattr(torch._VF, layer.mode.lower())
    hx = start if layer.mode == "LSTM" else start[0]
    output = run(data, hx, [*weights, *projection], layer.bias, 1, 0.0, layer.training, False, False)[0]
    end = (lengths - 1).reshape(1, -1, 1)

    def at_end(states: Tensor) -> Tensor:
        return states.gather(0, end.expand(1, *states.shape[1:])).squeeze(0)

    if layer.mode != "LSTM":
        return output, (at_end(output),)
    return output, (at_end(output), at_end(_cells(data, output, start, weights, layer.bias)))


def _cells(data: Tensor, output: Tensor, start: States, weights: list[Tensor], bias: bool) -> Tensor:
    """The cell of an LSTM at every step: the operator gives its outputs at all steps, which say the gates."""
    before = torch.cat([start[0], output[:-1]])
    inner, outer = (weights[2], weights[3]) if bias else (None, None)
    gates = linear(data, weights[0], inner) + linear(before, weights[1], outer)
    write, forget, new, _ = gates.chunk(4, -1)
    cell, found = start[1][0], []
    for kept, added in zip(forget.sigmoid().unbind(0), (write.sigmoid() * new.tanh()).unbind(0), strict=True):
        cell = kept * cell + added
        found.append(cell)
    return torch.stack(found)
