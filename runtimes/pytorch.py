"""PyTorch modules, eager or through `torch.compile`, on the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from graphprune.errors import BackendError, InputError

from .base import Inputs, TensorSpec

if TYPE_CHECKING:
    import torch


class PyTorch:
    """Runs an `nn.Module` as it is, or a copy compiled by `torch.compile` (which needs a C++ compiler)."""

    def __init__(self, name: str = "pytorch", *, compiled: bool = False) -> None:
        self.name = name
        self.compiled = compiled

    @property
    def version(self) -> str:
        """Version of the installed torch."""
        return version("torch")

    def is_available(self) -> bool:
        """Whether torch is installed."""
        return find_spec("torch") is not None

    def missing(self) -> str:
        """The package to install."""
        return "pip install torch"

    def compile(self, model: Any, *, threads: int | None = None) -> TorchExecutable:
        """Wrap a module; the module's train or eval mode is the caller's own, and stays."""
        import torch

        if not isinstance(model, torch.nn.Module):
            raise InputError(f"the runtime '{self.name}' runs a torch.nn.Module, not a {type(model).__name__}")
        return TorchExecutable(torch.compile(model) if self.compiled else model, threads)

    def peak_memory(self, model: Any, inputs: Inputs, *, threads: int | None = None) -> int | None:
        """Not measured: a module cannot be handed to a fresh process without pickle."""
        return None


class TorchExecutable:
    """A callable module and the number of threads to run it on."""

    inputs: tuple[TensorSpec, ...] = ()

    def __init__(self, module: Any, threads: int | None) -> None:
        self.module = module
        self.threads = threads

    def run(self, inputs: Inputs) -> list[np.ndarray]:
        """Feed a mapping as keyword arguments, a sequence as positional ones; all output tensors in order."""
        import torch

        keywords = {name: _tensor(array) for name, array in inputs.items()} if isinstance(inputs, Mapping) else {}
        positional = [] if isinstance(inputs, Mapping) else [_tensor(array) for array in inputs]
        try:
            with _threads(self.threads), torch.inference_mode():
                result = self.module(*positional, **keywords)
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise BackendError(f"pytorch cannot run the model: {lines[0]}") from error
        return [_array(tensor) for tensor in _leaves(result)]


@contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    if threads is None or threads == before:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _leaves(result: Any) -> list[torch.Tensor]:
    """Every tensor in nested tuples, lists, dicts and registered dataclasses, in order."""
    import torch
    from torch.utils._pytree import tree_leaves

    if hasattr(result, "to_tuple"):
        result = result.to_tuple()
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]


def _tensor(array: np.ndarray) -> torch.Tensor:
    import ml_dtypes
    import torch

    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(np.require(array, requirements=["C", "W"]).view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))


def _array(tensor: torch.Tensor) -> np.ndarray:
    import ml_dtypes
    import torch

    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
