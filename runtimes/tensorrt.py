"""ONNX models on TensorRT 10 and 11, through its own Python API: engines built, kept, run and looked into."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from graphprune.errors import BackendError, InputError, UnsupportedError

from .base import Inputs, InputShapes, LayerChoice, Progress, TensorSpec
from .inputs import ordered
from .modelfile import as_file
from .tensorrt_build import build, made, major, spec
from .tensorrt_cache import Built, EngineCache, Fingerprint, model_hash, read_engine, write_engine, write_whole
from .tensorrt_layers import read_layers, sparse_note
from .tensorrt_log import BuildLog, listening
from .tensorrt_memory import Block, DeviceMemory, lacking, open_memory
from .tensorrt_options import TensorRTOptions

if TYPE_CHECKING:
    import tensorrt as trt

_INSTALL = "pip install tensorrt (and an NVIDIA GPU with its driver)"


class TensorRT:
    """Builds an engine for a model given as a path, as bytes, or as an object with `SerializeToString`.

    `shapes` are what the engine is to be fed, where the model leaves sizes open; `progress` is told how far a build is.
    """

    def __init__(
        self,
        name: str = "tensorrt",
        options: TensorRTOptions | None = None,
        shapes: InputShapes | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.name = name
        self.options = options or TensorRTOptions()
        self.shapes = shapes
        self.progress = progress

    def specialized(self, input_shapes: InputShapes | None, progress: Progress | None) -> Self:
        """This backend, for models that will be fed these shapes."""
        return type(self)(self.name, self.options, input_shapes or self.shapes, progress or self.progress)

    @property
    def version(self) -> str:
        """Version of the installed TensorRT."""
        import tensorrt as trt

        return str(trt.__version__)

    def is_available(self) -> bool:
        """Whether TensorRT is installed, and a GPU and memory on it can be had."""
        return self._lacks() is None

    def missing(self) -> str:
        """What to install."""
        return self._lacks() or "nothing"

    def _lacks(self) -> str | None:
        if find_spec("tensorrt") is None:
            return _INSTALL
        try:
            import tensorrt  # noqa: F401
        except (ImportError, OSError) as error:  # the bindings are there, their libraries are not
            return f"{_INSTALL}; the one that is there does not load: {error}"
        return lacking(self.options.memory)

    def compile(self, model: Any, *, threads: int | None = None) -> TensorRTExecutable:
        """Build an engine, or take the one kept from the last time; `threads` says nothing on a GPU.

        Notes, above all that a graph is fp32 throughout, are warnings as well as the engine's `notes`.
        """
        lacks = self._lacks()
        if lacks is not None:
            raise BackendError(f"the runtime '{self.name}' is not available on this machine: {lacks}")
        if not isinstance(model, str | Path | bytes) and not hasattr(model, "SerializeToString"):
            raise InputError(f"TensorRT runs ONNX models, not a {type(model).__name__}; export it to ONNX first")
        major()
        memory = open_memory(self.options.memory)
        with as_file(model) as path:
            executable = self._engine(path, memory)
        for note in (*executable.built.events, *executable.built.notes):
            warnings.warn(note, stacklevel=2)
        return executable

    def peak_memory(self, model: Any, inputs: Inputs, *, threads: int | None = None) -> int | None:
        """Not measured: what counts is the GPU's."""
        return None

    def _engine(self, path: Path, memory: DeviceMemory) -> TensorRTExecutable:
        """The kept engine where it fits and loads, else a new one."""
        device = memory.device()
        wanted = Fingerprint(model_hash(path), device, self.version, self.options.built_from(), self._shapes())
        folder = self.options.folder
        if folder is None:
            return TensorRTExecutable(self._build(path, None), memory, wanted)
        cache = EngineCache(folder)
        place = cache.engine(path.stem, wanted)
        kept, note = read_engine(place, wanted)
        if kept is not None:
            try:
                return TensorRTExecutable(kept, memory, wanted)
            except BackendError as error:
                note = f"the kept engine '{place}' does not load, so it was built anew ({error})"
        built = self._build(path, cache.timings(device, self.version))
        write_engine(place, built, wanted)
        return TensorRTExecutable(replace(built, events=(*filter(None, [note]), *built.events)), memory, wanted)

    def _build(self, path: Path, timings: Path | None) -> Built:
        return build(path, self.options, self.shapes, timings, self.progress)

    def _shapes(self) -> Any:
        """The shapes asked for, as JSON has them."""
        if isinstance(self.shapes, Mapping):
            return {name: list(shape) for name, shape in sorted(self.shapes.items())}
        return [list(shape) for shape in self.shapes] if self.shapes else None


class TensorRTExecutable:
    """An engine with one context on one stream; blocks on the device are kept from run to run."""

    def __init__(self, built: Built, memory: DeviceMemory, fingerprint: Fingerprint | None = None) -> None:
        import tensorrt as trt

        self.built = replace(built, plan=b"")  # the engine holds it from here on
        self.memory = memory
        self.fingerprint = fingerprint
        self._log = BuildLog()
        with listening(self._log) as logger:
            self._runtime = made(lambda: trt.Runtime(logger), "a runtime")
            engine = self._runtime.deserialize_cuda_engine(built.plan)
            if engine is None:
                raise BackendError(f"TensorRT cannot load the engine{self._log.because()}")
            context = engine.create_execution_context()
            if context is None:
                raise BackendError(f"TensorRT cannot make room for the engine{self._log.because()}")
        self._engine: trt.ICudaEngine = engine
        self._context: trt.IExecutionContext = context
        self._blocks: dict[str, Block] = {}

    @cached_property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs in order; open sizes are None, though the engine may take only some."""
        return tuple(s for s, given in self._tensors if given)

    @cached_property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """The outputs in order."""
        return tuple(s for s, given in self._tensors if not given)

    @cached_property
    def _tensors(self) -> list[tuple[TensorSpec, bool]]:
        """Every tensor that goes in or out, and whether it goes in."""
        import tensorrt as trt

        engine = self._engine
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        return [
            (
                spec(name, engine.get_tensor_shape(name), engine.get_tensor_dtype(name)),
                engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
            )
            for name in names
        ]

    @cached_property
    def device(self) -> str:
        """The GPU that it was built for, and its compute capability."""
        found = self.memory.device()
        return f"{found.name} ({found.capability})"

    @property
    def notes(self) -> tuple[str, ...]:
        """What there is to say about the engine, sentence by sentence."""
        return tuple(filter(None, [*self.built.events, *self.built.notes, sparse_note(self.built)]))

    def run(self, inputs: Inputs) -> list[np.ndarray]:
        """All outputs in order."""
        self._bind(inputs)
        self._enqueue()
        context = self._context
        return [
            self.memory.download(self._blocks[out.name], tuple(context.get_tensor_shape(out.name)), out.dtype)
            for out in self.outputs
        ]

    def stopwatch(self, inputs: Inputs) -> Callable[[], float]:
        """A call that runs on `inputs`, which lie on the device already, and returns the seconds between two events."""
        self._bind(inputs)
        return lambda: self.memory.seconds(self._enqueue)

    def layers(self) -> tuple[LayerChoice, ...]:
        """What the engine inspector tells: each layer, its kernel, and whether that is a sparse one."""
        return read_layers(self._engine, self._context, self.built)

    def save(self, path: str | Path) -> None:
        """Write the engine for `trtexec` or another program, with what it was built from beside it (`.json`)."""
        plan = bytes(self._engine.serialize())
        if self.fingerprint is None:
            write_whole(Path(path), plan)
        else:
            write_engine(Path(path), replace(self.built, plan=plan), self.fingerprint)

    def _bind(self, inputs: Inputs) -> None:
        """Put the inputs on the device and tell the engine where everything lies."""
        for name, array in ordered(self.inputs, inputs).items():
            self._give(name, array)
        unknown = self._context.infer_shapes()
        if unknown:
            raise BackendError(f"TensorRT cannot tell the sizes of {', '.join(unknown)}{self._log.because()}")
        for out in self.outputs:
            shape = tuple(self._context.get_tensor_shape(out.name))
            if any(n < 0 for n in shape):
                raise UnsupportedError(
                    f"the size of the output '{out.name}' depends on the data, which cannot be run here"
                )
            self._place(out.name, int(np.prod(shape, dtype=np.int64)) * out.dtype.itemsize)

    def _give(self, name: str, array: np.ndarray) -> None:
        want = next(s for s in self.inputs if s.name == name)
        if array.dtype != want.dtype:
            raise InputError(f"the input '{name}' is of type {want.dtype}, but {array.dtype} was given")
        if not self._context.set_input_shape(name, array.shape):
            raise InputError(self._misfit(want, array.shape))
        self.memory.upload(array, self._place(name, array.nbytes))

    def _misfit(self, want: TensorSpec, shape: tuple[int, ...]) -> str:
        """Why a shape is refused: the engine was built for others."""
        given = "x".join(map(str, shape))
        if None not in want.shape:
            return f"the shape {given} does not fit the input '{want.name}' of shape {'x'.join(map(str, want.shape))}"
        bounds = self._engine.get_tensor_profile_shape(want.name, 0)
        least, _, most = ("x".join(map(str, tuple(shape))) for shape in bounds)
        return (
            f"the engine takes '{want.name}' from {least} to {most}, not {given}: build it for that shape, or for a"
            f" range (tensorrt{{min-shapes={want.name}:... max-shapes={want.name}:...}})"
        )

    def _place(self, name: str, size: int) -> Block:
        """A block of at least so many bytes for a tensor, known to the engine."""
        block = self._blocks.get(name)
        if block is None or block.size < size:
            block = self._blocks[name] = self.memory.empty(size)
        if not self._context.set_tensor_address(name, block.address):
            raise BackendError(f"TensorRT refuses the memory of '{name}'{self._log.because()}")
        return block

    def _enqueue(self) -> None:
        with listening(self._log):
            done = self._context.execute_async_v3(self.memory.stream)
        if not done:
            raise BackendError(f"TensorRT cannot run the engine{self._log.because()}")
