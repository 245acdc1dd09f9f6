"""PyTorch modules, eager or through `torch.compile`, on the CPU or an NVIDIA GPU."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from graphprune.errors import BackendError, InputError

from .base import Inputs, LayerChoice, TensorSpec

if TYPE_CHECKING:
    import torch

    from .pytorch_sparse import SemiStructured

_PRECISIONS = {"model": None, "fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_DEVICE = re.compile(r"cpu|cuda(?::(\d+))?")
_KERNELS = ("cusparselt", "cutlass")


@dataclass(frozen=True)
class PyTorchOptions:
    """Where a module runs and in what type: `device` is "cpu", "cuda" or "cuda:1", `precision` the module's own or
    another.

    `sparse` runs linear layers with 2:4 weights on torch's sparse `kernels` (a GPU's); `rows`, the tokens a layer sees
    at once, lets cuSPARSELt search for its fastest.
    """

    device: str = "cpu"
    precision: str = "model"
    sparse: bool = False
    kernels: str = "cusparselt"
    rows: int | None = None

    def __post_init__(self) -> None:
        if not _DEVICE.fullmatch(self.device):
            raise InputError(f"runtime 'pytorch': device is cpu, cuda or cuda:1, not '{self.device}'")
        for option, found, known in (("precision", self.precision, _PRECISIONS), ("kernels", self.kernels, _KERNELS)):
            if found not in known:
                raise InputError(f"runtime 'pytorch': {option} must be one of {', '.join(known)}, not '{found}'")
        if self.sparse and not self.on_gpu:
            raise InputError("runtime 'pytorch': torch has 2:4 kernels for GPUs only: sparse=true needs device=cuda")

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU."""
        return self.device != "cpu"

    @property
    def as_it_is(self) -> bool:
        """Whether the caller's own module can run."""
        return not self.on_gpu and self.precision == "model"


class PyTorch:
    """Runs an `nn.Module` as it is, or a copy compiled by `torch.compile` (which needs a C++ compiler)."""

    def __init__(self, name: str = "pytorch", options: PyTorchOptions | None = None, *, compiled: bool = False) -> None:
        self.name = name
        self.options = options or PyTorchOptions()
        self.compiled = compiled

    @property
    def version(self) -> str:
        """Version of the installed torch."""
        return version("torch")

    def is_available(self) -> bool:
        """Whether torch is installed, and finds the GPU that is asked for."""
        return self._lacks() is None

    def missing(self) -> str:
        """What to install."""
        return self._lacks() or "nothing"

    def _lacks(self) -> str | None:
        if find_spec("torch") is None:
            return "pip install torch"
        if not self.options.on_gpu:
            return None
        import torch

        if not torch.cuda.is_available():
            return f"it needs an NVIDIA GPU with its driver, which torch {torch.__version__} does not find"
        index, found = int(self.options.device.partition(":")[2] or 0), torch.cuda.device_count()
        return None if index < found else f"there is no GPU {index}: torch finds {found}"

    def compile(self, model: Any, *, threads: int | None = None) -> TorchExecutable:
        """Wrap a module, or a copy of it where the device or the type is another.

        The module's train or eval mode is the caller's own, and stays.
        """
        import torch

        if not isinstance(model, torch.nn.Module):
            raise InputError(f"the runtime '{self.name}' runs a torch.nn.Module, not a {type(model).__name__}")
        lacks = self._lacks()
        if lacks is not None:
            raise BackendError(f"the runtime '{self.name}' is not available on this machine: {lacks}")
        placed = self._placed(model)
        sparse = self._sparse(placed)
        module = sparse.module if sparse else placed
        ready = torch.compile(module) if self.compiled else module
        if self.options.on_gpu:
            return CudaExecutable(ready, self.options, sparse)
        return TorchExecutable(ready, self.options, threads)

    def _placed(self, model: torch.nn.Module) -> torch.nn.Module:
        """The module in its place and type."""
        if self.options.as_it_is:
            return model
        try:
            return copy.deepcopy(model).to(device=self.options.device, dtype=_dtype(self.options))
        except Exception as error:
            raise BackendError(f"pytorch cannot bring the model to {self.options.device}: {_said(error)}") from error

    def _sparse(self, module: torch.nn.Module) -> SemiStructured | None:
        if not self.options.sparse:
            return None
        from .pytorch_sparse import kernels, semi_structured

        return semi_structured(module, use=kernels(self.options.kernels), rows=self.options.rows)

    def peak_memory(self, model: Any, inputs: Inputs, *, threads: int | None = None) -> int | None:
        """Not measured: a module cannot be handed to a fresh process without pickle."""
        return None


class TorchExecutable:
    """A callable module, where and in which type its inputs are to be, and the number of threads to run it on."""

    inputs: tuple[TensorSpec, ...] = ()

    def __init__(self, module: Any, options: PyTorchOptions, threads: int | None) -> None:
        self.module = module
        self.options = options
        self.threads = threads

    def run(self, inputs: Inputs) -> list[np.ndarray]:
        """Feed a mapping as keyword arguments, a sequence as positional ones; all output tensors in order."""
        return [_array(tensor) for tensor in _leaves(self._call(*self._fed(inputs)))]

    def _fed(self, inputs: Inputs) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        """The inputs as tensors on the device, floats in the type that is asked for."""
        if isinstance(inputs, Mapping):
            return [], {name: self._ready(array) for name, array in inputs.items()}
        return [self._ready(array) for array in inputs], {}

    def _ready(self, array: np.ndarray) -> torch.Tensor:
        tensor = _tensor(array).to(self.options.device)
        return tensor.to(_dtype(self.options)) if tensor.is_floating_point() else tensor

    def _call(self, positional: list[torch.Tensor], keywords: dict[str, torch.Tensor]) -> Any:
        import torch

        try:
            with _threads(self.threads), torch.inference_mode():
                return self.module(*positional, **keywords)
        except Exception as error:
            raise BackendError(f"pytorch cannot run the model: {_said(error)}") from error


class CudaExecutable(TorchExecutable):
    """A module on a GPU, timed between two of its events; `sparse` says which layers run 2:4 kernels."""

    clock = "its own events, launches from Python included"

    def __init__(self, module: Any, options: PyTorchOptions, sparse: SemiStructured | None = None) -> None:
        super().__init__(module, options, None)
        self.sparse = sparse

    @property
    def device(self) -> str:
        """The GPU's name."""
        import torch

        return str(torch.cuda.get_device_name(self.options.device))

    @property
    def notes(self) -> tuple[str, ...]:
        """Which layers run sparse kernels, where that is asked for."""
        return (self.sparse.note(),) if self.sparse else ()

    def layers(self) -> tuple[LayerChoice, ...]:
        """The layers that could run sparse kernels, where that is asked for, and which do."""
        if self.sparse is None:
            return ()
        chosen = [LayerChoice(name, "Linear", self.sparse.backend, "", True, True) for name in self.sparse.replaced]
        return (*chosen, *(LayerChoice(name, kernel=f"dense: {why}", eligible=False) for name, why in self.sparse.left))

    def stopwatch(self, inputs: Inputs) -> Callable[[], float]:
        """A call that runs on `inputs`, which lie on the device, and returns the seconds between two events."""
        import torch

        positional, keywords = self._fed(inputs)
        place = torch.cuda.device(self.options.device)
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]

        def once() -> float:
            with place:
                start.record()
                self._call(positional, keywords)
                end.record()
                end.synchronize()
            return float(start.elapsed_time(end)) / 1e3

        return once


def _dtype(options: PyTorchOptions) -> torch.dtype | None:
    import torch

    name = _PRECISIONS[options.precision]
    return None if name is None else getattr(torch, name)


def _said(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


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
