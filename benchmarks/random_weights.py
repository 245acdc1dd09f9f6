"""Random weights that let a proof see something: outputs that depend on inputs, and vectors whose entries differ."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

#: What training starts small so that a branch begins as nearly nothing: layer scales, the last norm of a branch.
TINY = 1e-2


def call(model: nn.Module, inputs: Any) -> Any:
    """Run a model on a tensor, a tuple of positional or a dict of keyword arguments."""
    with torch.no_grad():
        if isinstance(inputs, dict):
            return model(**inputs)
        return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def tensors(output: Any) -> list[Tensor]:
    """All tensors in a model's output, in order."""
    if isinstance(output, Tensor):
        return [output]
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, (tuple, list)) else ()
    return [tensor for part in parts for tensor in tensors(part)]


def awaken(model: nn.Module, first: Any, second: Any) -> None:
    """Make the output differ between two inputs, where initial weights do not let it.

    They let signals fade in some models (ShuffleNet, segmentation heads) and zero the head of others (ViT); comparing
    outputs would prove nothing there.
    """
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear) and not module.weight.any():
                nn.init.normal_(module.weight, std=0.02)
        one, two = (tensors(call(model.eval(), inputs))[0].float() for inputs in (first, second))
        if (one - two).std() > 1e-3 * one.std():
            return
        for module in model.modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


def vary(model: nn.Module) -> None:
    """Give every constant parameter, and every running statistic, entries that differ.

    Between equal entries a wrong choice of the right number cannot be seen; a branch scaled by 1e-6 is not seen at all.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.is_floating_point() and parameter.numel() > 1 and (parameter == parameter.flatten()[0]).all():
                _spread(name, parameter)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.02)
            elif name.endswith("running_var"):
                buffer.uniform_(0.8, 1.2)


def _spread(name: str, parameter: Tensor) -> None:
    """Random entries of the size that training would give: small for what is added, near one for what scales."""
    constant = float(parameter.flatten()[0])
    if abs(constant) > TINY:
        parameter.mul_(torch.empty_like(parameter).uniform_(0.8, 1.2))
    elif constant != 0 or (parameter.ndim == 1 and not name.endswith("bias")):
        parameter.uniform_(0.5, 1.0)
    else:
        parameter.normal_(std=0.02)
