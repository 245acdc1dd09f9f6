"""`torch.export` under settings that let more modules through and change no result."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch._functorch import config as functorch_config
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.distributions import Distribution
from torch.export import ExportedProgram
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode
from torch.utils import _pytree as pytree
from torch.utils._mode_utils import no_dispatch

from ...chance import Alike
from ..run.drawing import following
from ..run.examples import fresh_like
from .packing import padded_packing

#: Where an exported program remembers that it holds for what the example decides.
_DECIDED = "decided by the example"
TRIALS = 8  # fresh inputs that must take the branches of the example
NUMBERS = (int, float, torch.SymInt, torch.SymFloat, torch.SymBool)


def run_export(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any) -> ExportedProgram:
    """Export with gradients on, as in training; else without; else with branches as the example takes them.

    The last only if fresh inputs take the same branches. Raises what the first attempt raised.
    """
    with _plain_attention(), _unchecked_distributions(), _idle_conversions():
        try:
            with torch.enable_grad():
                return _attempt(module, args, kwargs, shapes)
        except Exception as error:
            branches = isinstance(error, GuardOnDataDependentSymNode) and not module.training
            for decided in (False, True) if branches else (False,):
                try:
                    with torch.no_grad():
                        program = _attempt(module, args, kwargs, shapes, decided)
                        if not decided or (_settled(program) and _agrees(program, module, (args, kwargs))):
                            return program
                except Exception:  # what the first attempt says is nearest to the module
                    continue
            raise


def by_example(program: ExportedProgram) -> bool:
    """Whether a program takes the branches that its example takes, whatever its inputs."""
    return bool(program.graph_module.meta.get(_DECIDED))


def _attempt(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], shapes: Any, decided: bool = False
) -> ExportedProgram:
    settings = _with_values() if decided else nullcontext()
    with settings, padded_packing() as packed:
        program = torch.export.export(module, args, kwargs, dynamic_shapes=shapes, strict=False)
    if packed and not _same(program, module, args, kwargs):
        raise NotImplementedError(f"{packed[0]}: the longest sequence of the example must be as long as its data")
    program.graph_module.meta[_DECIDED] = decided
    return program


@contextmanager
def _with_values() -> Iterator[None]:
    """Let the exporter compute real values beside its fake ones; of parameters it would take memory as it was found."""
    original = FakeTensorMode.from_tensor

    def from_tensor(self: FakeTensorMode, tensor: torch.Tensor, **options: Any) -> FakeTensor:
        fake = original(self, tensor, **options)
        if isinstance(tensor, nn.Parameter) and not isinstance(tensor, FakeTensor) and fake.real_tensor is not None:
            with torch.no_grad(), no_dispatch():
                fake.real_tensor = tensor.detach().clone()
        return fake

    FakeTensorMode.from_tensor = from_tensor  # type: ignore[method-assign]
    try:
        with functorch_config.patch(fake_tensor_propagate_real_tensors=True):
            yield
    finally:
        FakeTensorMode.from_tensor = original  # type: ignore[method-assign]


def _settled(program: ExportedProgram) -> bool:
    """Whether all sizes are numbers and no tensor is computed from a number that is not."""
    for node in program.graph.nodes:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            known = all(isinstance(size, int) for size in value.shape)
            if not known or any(isinstance(n.meta.get("val"), NUMBERS) for n in node.all_input_nodes):
                return False
    return True


def _agrees(program: ExportedProgram, module: nn.Module, example: Any) -> bool:
    """Whether a program that its example decides computes what its module does on fresh inputs as well."""
    return all(_same(program, module, *fresh_like(example, seed), seed=seed) for seed in range(TRIALS))


def _same(
    program: ExportedProgram, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, seed: int = 0
) -> bool:
    """Whether a program and its module give the same."""
    exported = program.module(check_guards=False)
    pairs = zip(*(_leaves(m, args, kwargs, seed) for m in (exported, module)), strict=True)
    tensors = [(a, b) for a, b in pairs if isinstance(a, torch.Tensor)]
    return all(a.shape == b.shape and torch.allclose(a, b, 1e-3, 1e-5, equal_nan=True) for a, b in tensors)


def _leaves(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], seed: int) -> list[Any]:
    """What a module returns, where chance is the same for the same seed."""
    with following(Alike(seed)):
        return pytree.tree_leaves(module(*args, **kwargs))


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Keep `nn.MultiheadAttention` and `nn.TransformerEncoderLayer` from their one-kernel inference path."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _unchecked_distributions() -> Iterator[None]:
    """Distributions look at the values of their arguments only to complain."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


@contextmanager
def _idle_conversions() -> Iterator[None]:
    """`child.to(dtype)` inside `forward` would put new parameters in place of those being traced, also where they have
    that type already.
    """
    original = nn.Module.to

    def convert(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        return self if _is_idle(self, *args, **kwargs) else original(self, *args, **kwargs)

    nn.Module.to = convert  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.to = original  # type: ignore[method-assign]


def _is_idle(module: nn.Module, *args: Any, **kwargs: Any) -> bool:
    """Whether all tensors of a module are where and what they are to become."""
    device, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)
    tensors = [*module.parameters(), *module.buffers()]
    same_type = all(not t.is_floating_point() or dtype in (None, t.dtype) for t in tensors)
    return layout is None and same_type and all(device in (None, t.device) for t in tensors)
