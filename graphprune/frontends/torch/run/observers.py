"""Models between `prepare_qat` and `convert`: their observers rest while a model is captured, run and proven.

An observer follows the range of what it sees also in eval mode, so that a model would be another one after each run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

aten = torch.ops.aten

#: Buffers of a fake quantiser that switch following of ranges.
_SWITCHES = ("observer_enabled", "static_enabled")
_FUSED = (aten._fused_moving_avg_obs_fq_helper_functional.default, aten._fused_moving_avg_obs_fq_helper.default)


@contextmanager
def resting(module: nn.Module) -> Iterator[None]:
    """Switch observers off; quantisers that have seen nothing yet let everything pass. Back afterwards."""
    found = [buffer for quantiser in _quantisers(module) for buffer in _switches(quantiser)]
    before = [buffer.clone() for buffer in found]
    for buffer in found:
        buffer.zero_()
    try:
        yield
    finally:
        for buffer, value in zip(found, before, strict=True):
            buffer.copy_(value)


def _quantisers(module: nn.Module) -> list[nn.Module]:
    library = sys.modules.get("torch.ao.quantization.fake_quantize")
    return [m for m in module.modules() if isinstance(m, library.FakeQuantizeBase)] if library is not None else []


def _switches(quantiser: nn.Module) -> list[Tensor]:
    names = (
        _SWITCHES
        if _has_seen(getattr(quantiser, "activation_post_process", None))
        else (*_SWITCHES, "fake_quant_enabled")
    )
    buffers = quantiser._buffers
    return [buffer for name in names if (buffer := buffers.get(name)) is not None and buffer.device.type != "meta"]


def _has_seen(observer: Any) -> bool:
    """Whether an observer (if there is one) has a range; a fresh one has none, or an infinite one."""
    low = getattr(observer, "min_val", None)
    return not isinstance(low, Tensor) or (low.numel() > 0 and bool(low.isfinite().all()))


def follows_range(node: fx.Node) -> bool:
    """Whether a call is an observer and a quantiser in one."""
    return node.target in _FUSED


def quantiser_at_rest(module: fx.GraphModule, node: fx.Node) -> Any:
    """What an observer and quantiser in one computes where its ranges stay as they are."""
    switch, low = (_tensor(module, node.args[at]) for at in (2, 3))
    on = switch is None or bool(switch.any())
    seen = low is None or (low.numel() > 0 and bool(low.isfinite().all()))

    def rest(
        x: Tensor, observer_on: Tensor, fake_quant_on: Tensor, running_min: Tensor, running_max: Tensor, scale: Tensor,
        zero_point: Tensor, averaging_const: float, quant_min: int, quant_max: int, ch_axis: int,
        per_row_fake_quant: bool = False, symmetric_quant: bool = False,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        if not (on and seen):
            out, mask = x.clone(), torch.ones_like(x, dtype=torch.bool)
        elif per_row_fake_quant:
            step = scale + 0 * (running_max - running_min)  # read beside the scale, ranges are sliced with it
            out, mask = aten.fake_quantize_per_channel_affine_cachemask(
                x, step, zero_point, ch_axis, quant_min, quant_max
            )
        else:
            out, mask = aten._fake_quantize_per_tensor_affine_cachemask_tensor_qparams(
                x, scale, zero_point, fake_quant_on, quant_min, quant_max
            )
        return out, mask, running_min, running_max, scale, zero_point

    return rest


def _tensor(module: fx.GraphModule, argument: Any) -> Tensor | None:
    """The buffer that an argument reads."""
    if not isinstance(argument, fx.Node) or argument.op != "get_attr":
        return None
    found: Any = module
    for part in str(argument.target).split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, Tensor) else None
