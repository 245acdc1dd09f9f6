"""From an ONNX file to a serialised TensorRT engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import ml_dtypes
import numpy as np

from graphprune.errors import BackendError, InputError, UnsupportedError

from .base import InputShapes, Progress, TensorSpec
from .tensorrt_cache import Built, write_whole
from .tensorrt_log import BuildLog, Watch, listening, monitor
from .tensorrt_options import TensorRTOptions, profiles

if TYPE_CHECKING:
    import tensorrt as trt

#: The builder flags of TensorRT 10 that let it lower an fp32 graph; TensorRT 11 has none.
LOWERING = {"fp16": "FP16", "bf16": "BF16"}
#: The types of TensorRT that numpy arrays can have, by their names there.
DTYPES: dict[str, np.dtype[Any]] = {
    "FLOAT": np.dtype(np.float32),
    "HALF": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "INT8": np.dtype(np.int8),
    "UINT8": np.dtype(np.uint8),
    "INT32": np.dtype(np.int32),
    "INT64": np.dtype(np.int64),
    "BOOL": np.dtype(np.bool_),
}
_WIDE = {"FLOAT", "INT32", "INT64", "BOOL", "UINT8"}  # a graph of these alone has nothing for sparse kernels
_OLDEST, _STRONG = 10, 11  # the first major versions that are supported, and that always build strongly typed networks
_GIB = 1 << 30
_SHOWN = 3

Made = TypeVar("Made")


def build(
    path: Path,
    options: TensorRTOptions,
    shapes: InputShapes | None = None,
    timings: Path | None = None,
    progress: Progress | None = None,
) -> Built:
    """Build an engine for the model at `path`, fed `shapes`; timings of earlier builds are used and kept at `timings`.

    Raises `UnsupportedError` and `BackendError` with TensorRT's reason, `InputError` for options it cannot follow.
    """
    import tensorrt as trt

    flags = _network_flags(options)
    log, watch = BuildLog(), Watch(progress or (lambda text: None))
    with listening(log) as logger:
        builder = made(lambda: trt.Builder(logger), "a builder")
        network = builder.create_network(flags)
        parser = made(lambda: trt.OnnxParser(network, logger), "a parser")  # owns the weights until the engine is built
        parse(parser, path)
        config = builder.create_builder_config()
        _configure(config, options)
        _add_profile(builder, config, network, shapes, options)
        note = _fp32_note(network, options)
        timings_note = "" if timings is None else _attach_timings(config, timings)
        config.progress_monitor = monitor(watch)
        plan = builder.build_serialized_network(network, config)
    if watch.failure is not None:
        raise watch.failure
    if plan is None:
        raise BackendError(f"TensorRT cannot build an engine for '{path}'{log.because()}")
    if timings is not None:
        write_whole(timings, bytes(config.get_timing_cache().serialize()))
    del parser
    return Built(
        bytes(plan), log.eligible, log.chosen, tuple(filter(None, [note])), tuple(filter(None, [timings_note]))
    )


def made(make: Callable[[], Made], what: str) -> Made:
    """One of TensorRT's objects; its constructors raise TypeError where the library returns none."""
    try:
        return make()
    except (TypeError, RuntimeError) as error:
        reason = "it needs an NVIDIA GPU, its driver, and libraries of the version of the bindings"
        raise BackendError(f"TensorRT cannot make {what} here: {reason} ({error})") from error


def major() -> int:
    """TensorRT's major version; raises `BackendError` for one that is too old."""
    import tensorrt as trt

    number = int(trt.__version__.partition(".")[0])
    if number < _OLDEST:
        raise BackendError(f"TensorRT {trt.__version__} is too old: 10 or 11 is needed (pip install -U tensorrt)")
    return number


def parse(parser: trt.OnnxParser, path: Path) -> None:
    """Read a model; raises an error that names the nodes TensorRT stumbles over."""
    if parser.parse_from_file(str(path)):
        return
    errors = [parser.get_error(i) for i in range(parser.num_errors)]
    lines = [_parse_error(error) for error in errors[:_SHOWN]]
    if len(errors) > _SHOWN:
        lines.append(f"and {len(errors) - _SHOWN} more")
    unsupported = any(error.code().name.startswith("UNSUPPORTED") for error in errors)
    kind = UnsupportedError if unsupported else BackendError
    raise kind(f"TensorRT cannot read '{path}': {'; '.join(lines) or 'it does not say why'}")


def _parse_error(error: trt.ParserError) -> str:
    reason = " ".join(error.desc().split())
    if error.node() < 0:
        return reason
    name = error.node_name() or f"number {error.node()}"
    within = "".join(f" in function '{function}'" for function in error.local_function_stack())
    return f"node '{name}' ({error.node_operator()}){within}: {reason}"


def _network_flags(options: TensorRTOptions) -> int:
    """Strongly typed, unless TensorRT 10 is to choose precisions itself."""
    import tensorrt as trt

    strong = major() >= _STRONG
    if strong and options.precision in LOWERING:
        raise InputError(
            f"TensorRT {trt.__version__} computes in the types that the graph carries and cannot lower it to"
            f" {options.precision}: run 'graphprune opt --passes cast-precision' on the model first"
        )
    if strong or options.precision in LOWERING:
        return 0
    return 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)


def _configure(config: trt.IBuilderConfig, options: TensorRTOptions) -> None:
    import tensorrt as trt

    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # kernels by name, for the report of layers
    if options.sparse:
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    if options.precision in LOWERING:
        config.set_flag(getattr(trt.BuilderFlag, LOWERING[options.precision]))
    if options.workspace_gib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(options.workspace_gib * _GIB))
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level


def _add_profile(
    builder: trt.Builder,
    config: trt.IBuilderConfig,
    network: trt.INetworkDefinition,
    shapes: InputShapes | None,
    options: TensorRTOptions,
) -> None:
    """Tell the sizes of inputs that leave some open."""
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    for tensor in inputs:
        if tensor.is_shape_tensor:
            raise UnsupportedError(
                f"the input '{tensor.name}' holds sizes of other tensors; make it a constant of the model first"
            )
    wanted = profiles([spec(t.name, t.shape, t.dtype) for t in inputs], shapes, options)
    if not wanted:
        return
    profile = builder.create_optimization_profile()
    try:
        for one in wanted:
            profile.set_shape(one.name, one.least, one.usual, one.most)
        taken = config.add_optimization_profile(profile) >= 0
    except ValueError:  # what `set_shape` raises
        taken = False
    if not taken:
        told = ", ".join(f"{p.name} {p.least} to {p.most}" for p in wanted)
        raise BackendError(f"TensorRT takes no engine for the sizes {told}")


def spec(name: str, shape: trt.Dims, dtype: trt.DataType) -> TensorSpec:
    """What the model says of an input or output."""
    if dtype.name not in DTYPES:
        raise UnsupportedError(f"'{name}' is of type {dtype.name}, which graphprune cannot feed or read")
    return TensorSpec(name, tuple(n if n >= 0 else None for n in shape), DTYPES[dtype.name])


def _fp32_note(network: trt.INetworkDefinition, options: TensorRTOptions) -> str:
    """What to say of a graph that carries no type sparse kernels take; "" where it does, or need not."""
    if options.precision in LOWERING:
        return ""
    layers = (network.get_layer(i) for i in range(network.num_layers))
    found = {layer.get_output(k).dtype.name for layer in layers for k in range(layer.num_outputs)}
    if not found <= _WIDE:
        return ""
    sparse = " and can run no sparse kernel (these take fp16, bf16 and int8)" if options.sparse else ""
    return (
        f"the graph is fp32 throughout, so the engine computes in fp32{sparse}: run"
        " 'graphprune opt --passes cast-precision' on the model first"
    )


def _attach_timings(config: trt.IBuilderConfig, path: Path) -> str:
    """Start from the timings of earlier builds; a note where they cannot be used."""
    data = path.read_bytes() if path.exists() else b""
    kept = config.create_timing_cache(data)
    if kept is not None and config.set_timing_cache(kept, False):
        return ""
    config.set_timing_cache(config.create_timing_cache(b""), False)
    return f"the timings kept in '{path}' do not suit this device or version and were begun anew"
