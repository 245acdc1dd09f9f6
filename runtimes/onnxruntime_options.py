"""How onnxruntime's execution providers for NVIDIA GPUs are to run: typed options, and what they are called there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from graphprune.errors import InputError

from .base import cache_folder

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
PRECISIONS = ("model", "fp16", "bf16")
SEARCHES = ("exhaustive", "heuristic", "default")
_LEVELS = range(6)

Provider = tuple[str, dict[str, str]]
"""A provider with its options, as a session takes them."""


@dataclass(frozen=True)
class CpuOptions:
    """The CPU has none; `strict` is for those of GPUs, which may leave nodes to it."""

    provider: ClassVar[str] = CPU
    device: ClassVar[int] = 0
    strict: ClassVar[bool] = False

    def providers(self, model: str) -> list[Provider]:
        """What a session is given, the first choice first; `model` tells one model's caches from another's."""
        return [(CPU, {})]


@dataclass(frozen=True)
class CudaOptions:
    """CUDA kernels. `device` is the number of the GPU, `strict` refuses models of which nodes run on the CPU.

    `tf32` lets float32 products run in TF32; `convolution_search` is how cuDNN's algorithms are chosen; `memory_gib`
    bounds the arena.
    """

    device: int = 0
    strict: bool = False
    tf32: bool = True
    convolution_search: str = "exhaustive"
    memory_gib: float | None = None

    provider: ClassVar[str] = CUDA

    def __post_init__(self) -> None:
        _one_of("onnxruntime-cuda", "convolution_search", self.convolution_search, SEARCHES)
        _positive("onnxruntime-cuda", "memory_gib", self.memory_gib)

    def providers(self, model: str) -> list[Provider]:
        """What a session is given, the first choice first."""
        given = {
            "device_id": str(self.device),
            "use_tf32": str(int(self.tf32)),
            "cudnn_conv_algo_search": self.convolution_search.upper(),
        }
        if self.memory_gib is not None:
            given["gpu_mem_limit"] = _bytes(self.memory_gib)
        return [(CUDA, given), (CPU, {})]


@dataclass(frozen=True)
class TensorRTProviderOptions:
    """TensorRT as onnxruntime drives it; what it does not take runs on CUDA, and what that does not take on the CPU.

    `precision` "fp16" or "bf16" lets it lower a float32 graph, `sparse` lets it time sparse kernels. The three kinds of
    shapes (`input:1x3x224x224`) go together and bound sizes that the model leaves open. `cache` is the folder of
    engines and timings ("": the user's own, "off": none kept).
    """

    device: int = 0
    strict: bool = False
    precision: str = "model"
    sparse: bool = True
    workspace_gib: float | None = None
    optimization_level: int | None = None
    min_shapes: tuple[str, ...] = ()
    usual_shapes: tuple[str, ...] = ()
    max_shapes: tuple[str, ...] = ()
    cache: str = ""

    provider: ClassVar[str] = TENSORRT

    def __post_init__(self) -> None:
        owner = "onnxruntime-tensorrt"
        _one_of(owner, "precision", self.precision, PRECISIONS)
        _positive(owner, "workspace_gib", self.workspace_gib)
        if self.optimization_level is not None and self.optimization_level not in _LEVELS:
            raise InputError(f"runtime '{owner}': optimization_level is 0 to 5, not {self.optimization_level}")
        named = [{text.rpartition(":")[0] for text in texts} for texts in self._shapes().values()]
        if any(names != named[0] for names in named):
            raise InputError(f"runtime '{owner}': min_shapes, usual_shapes and max_shapes must be of the same inputs")

    def providers(self, model: str) -> list[Provider]:
        """What a session is given, the first choice first."""
        given = {
            "device_id": str(self.device),
            "trt_fp16_enable": str(self.precision == "fp16"),
            "trt_sparsity_enable": str(self.sparse),
        }
        if self.precision == "bf16":
            given["trt_bf16_enable"] = "True"  # older versions do not know the name
        if self.workspace_gib is not None:
            given["trt_max_workspace_size"] = _bytes(self.workspace_gib)
        if self.optimization_level is not None:
            given["trt_builder_optimization_level"] = str(self.optimization_level)
        given |= {name: ",".join(texts) for name, texts in self._shapes().items() if texts}
        return [(TENSORRT, given | self._kept(model)), (CUDA, {"device_id": str(self.device)}), (CPU, {})]

    @property
    def folder(self) -> Path | None:
        """Where engines and timings are kept; None where they are not."""
        return cache_folder(self.cache, "onnxruntime-tensorrt")

    def _kept(self, model: str) -> dict[str, str]:
        """onnxruntime's name of an engine says nothing of the weights, so each model gets a folder of its own."""
        if self.folder is None:
            return {}
        engines = self.folder / model / f"{self.precision}{'-sparse' if self.sparse else ''}"
        engines.mkdir(parents=True, exist_ok=True)
        return {
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": str(engines),
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": str(self.folder),
        }

    def _shapes(self) -> dict[str, tuple[str, ...]]:
        return {
            "trt_profile_min_shapes": self.min_shapes,
            "trt_profile_opt_shapes": self.usual_shapes,
            "trt_profile_max_shapes": self.max_shapes,
        }


ProviderOptions = CpuOptions | CudaOptions | TensorRTProviderOptions


def _one_of(owner: str, option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"runtime '{owner}': {option} must be one of {', '.join(known)}, not '{value}'")


def _positive(owner: str, option: str, value: float | None) -> None:
    if value is not None and value <= 0:
        raise InputError(f"runtime '{owner}': {option} must be above 0, not {value:g}")


def _bytes(gib: float) -> str:
    return str(int(gib * 2**30))
