"""A stand-in for TensorRT, generated from the real bindings' surface (`tensorrt-10.json`, `tensorrt-11.json`).

It knows the classes, members, signatures and enum values that the bindings have and no others, records every call, and
does what a `World` tells it to: no engine is built. Its engine reads and writes the addresses it is given.
"""

from __future__ import annotations

import ctypes
import json
import sys
import weakref
from collections.abc import Sequence
from enum import IntEnum
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest

from graphprune.runtimes import tensorrt_log
from graphprune.runtimes.tensorrt_build import DTYPES
from tests.runtimes import cuda_fake
from tests.runtimes.tensorrt_world import PLAN, Tensor, World


def load_surface(major: int) -> dict[str, Any]:
    """The committed surface of a major version."""
    found: dict[str, Any] = json.loads(Path(__file__).with_name(f"tensorrt-{major}.json").read_text())
    return found


def module(major: int, world: World) -> ModuleType:
    """A module to put in the place of `tensorrt`."""
    return _Maker(load_surface(major), world).module


class _Object:
    """An instance of one of the classes; `made` is what it stands for."""

    surface: ClassVar[dict[str, Any]] = {}
    world: ClassVar[World]

    def __setattr__(self, name: str, value: Any) -> None:
        about = self.surface["members"].get(name, {})
        if name != "made" and type(self).__module__ == "tensorrt" and not about.get("settable"):
            raise AttributeError(f"{type(self).__name__} has no settable '{name}'")
        if name in self.surface["members"]:
            self.world.set_to[name] = value
        object.__setattr__(self, name, value)


class _Maker:
    def __init__(self, surface: dict[str, Any], world: World) -> None:
        self.surface, self.world = surface, world
        self.module = ModuleType("tensorrt")
        self.module.__spec__ = ModuleSpec("tensorrt", None)
        self.module.__version__ = surface["version"]  # type: ignore[attr-defined]
        self.acts = _Acts(self)
        for name, about in surface["classes"].items():
            setattr(self.module, name, self._class(name, about))
        for name, members in surface["enums"].items():
            *owner, last = name.split(".")
            enum = IntEnum(last, {member: i for i, member in enumerate(members)})  # type: ignore[misc]
            setattr(getattr(self.module, owner[0]) if owner else self.module, last, enum)

    def _class(self, name: str, about: dict[str, Any]) -> type:
        body: dict[str, Any] = {"__module__": "tensorrt", "surface": about, "world": self.world}
        for member, what in about["members"].items():
            body[member] = self._property(name, member) if "type" in what else self._method(name, member, what)
        if about["buffer"]:
            body["__bytes__"] = lambda this: this.made
        return type(name, (_Object,), body)

    def _property(self, owner: str, name: str) -> property:
        def fset(this: Any, value: Any) -> None:
            this.__dict__[name] = value

        return property(lambda this: self.acts.do(owner, name, this, []), fset)

    def _method(self, owner: str, name: str, about: dict[str, Any]) -> Any:
        def method(this: Any, *args: Any, **keywords: Any) -> Any:
            given = self._bound(f"{owner}.{name}", about["signatures"], args, keywords)
            self.world.calls.append((f"{owner}.{name}", given))
            return self.acts.do(owner, name, this, given)

        return method

    def _bound(self, name: str, signatures: list[dict[str, Any]], args: Any, keywords: Any) -> list[Any]:
        """The arguments in order, where one signature takes them; as pybind11, TypeError otherwise."""
        for signature in signatures:
            takes = signature["takes"]
            named = dict(zip((a[0] for a in takes), args, strict=False))
            if len(args) > len(takes) or named.keys() & keywords.keys():
                continue
            named |= keywords
            known = {a[0] for a in takes}
            needed = {a[0] for a in takes if a[2] == "required"}
            if (
                named.keys() <= known
                and needed <= named.keys()
                and all(self._fits(named[n], kind) for n, kind, _ in takes if n in named)
            ):
                return list(named.values())
        raise TypeError(f"{name}(): incompatible function arguments: {args} {keywords}")

    def _fits(self, value: Any, kind: str) -> bool:
        if kind == "Buffer":
            return isinstance(value, bytes | bytearray | memoryview) or hasattr(value, "__bytes__")
        if kind in ("Dims", "Sequence[int]"):
            return isinstance(value, self.module.Dims) or all(isinstance(n, int) for n in value)
        plain = {"int": int, "str": str, "bool": bool, "float": float, "tuple": tuple, "list": list}
        if kind in plain:
            return isinstance(value, plain[kind]) and (kind != "int" or not isinstance(value, bool))
        return kind in ("Any", "object") or isinstance(value, self._named(kind))

    def _named(self, kind: str) -> Any:
        found: Any = self.module
        for part in kind.split("."):
            found = getattr(found, part)
        return found

    def make(self, name: str, made: Any = None) -> Any:
        """An instance, without its constructor."""
        cls = getattr(self.module, name)
        this = cls.__new__(cls)
        object.__setattr__(this, "made", made)
        return this

    def enum(self, name: str, member: str) -> Any:
        return self._named(name)[member]

    def dims(self, sizes: Sequence[int]) -> Any:
        return self.make("Dims", tuple(sizes))


class _Acts:
    """What each member does. One that is not here is an error: the backend does not use it, or it is missing here."""

    def __init__(self, maker: _Maker) -> None:
        self.maker, self.world = maker, maker.world
        self.timings: Any = None
        self.parser: Any = None

    def do(self, owner: str, name: str, this: Any, given: list[Any]) -> Any:
        if name in this.__dict__:
            return this.__dict__[name]
        return getattr(self, f"{owner}_{name}".replace("__", "").lower())(this, *given)

    def _refuse(self, what: str) -> None:
        if self.world.refuses == what:
            raise TypeError("pybind11::init(): factory function returned nullptr")

    def _say(self, logger: Any) -> None:
        for severity, message in self.world.messages:
            logger.log(self.maker.enum("ILogger.Severity", severity), message)

    def ilogger_init(self, this: Any) -> None: ...

    def iprogressmonitor_init(self, this: Any) -> None: ...

    def builder_init(self, this: Any, logger: Any) -> None:
        self._refuse("Builder")
        this.made = logger

    def builder_create_network(self, this: Any, flags: int = 0) -> Any:
        return self.maker.make("INetworkDefinition", flags)

    def builder_create_builder_config(self, this: Any) -> Any:
        return self.maker.make("IBuilderConfig")

    def builder_create_optimization_profile(self, this: Any) -> Any:
        return self.maker.make("IOptimizationProfile")

    def builder_build_serialized_network(self, this: Any, network: Any, config: Any) -> Any:
        assert self.parser() is not None, "the network's weights are the parser's"
        self._say(this.made)
        monitor = config.progress_monitor
        monitor.phase_start("Building", None, self.world.steps)
        answers = [monitor.step_complete("Building", step) for step in range(self.world.steps)]
        monitor.phase_finish("Building")
        return self.maker.make("IHostMemory", self.world.plan) if self.world.plan and all(answers) else None

    def inetworkdefinition_num_inputs(self, this: Any) -> int:
        return len(self.world.inputs)

    def inetworkdefinition_get_input(self, this: Any, index: int) -> Any:
        return self.maker.make("ITensor", self.world.inputs[index])

    def inetworkdefinition_num_layers(self, this: Any) -> int:
        return len(self.world.layers)

    def inetworkdefinition_get_layer(self, this: Any, index: int) -> Any:
        return self.maker.make("ILayer", self.world.layers[index])

    def ilayer_num_outputs(self, this: Any) -> int:
        return 1

    def ilayer_get_output(self, this: Any, index: int) -> Any:
        return self.maker.make("ITensor", Tensor("", (), this.made))

    def itensor_name(self, this: Any) -> str:
        return str(this.made.name)

    def itensor_shape(self, this: Any) -> Any:
        return self.maker.dims(this.made.shape)

    def itensor_dtype(self, this: Any) -> Any:
        return self.maker.enum("DataType", this.made.dtype)

    def itensor_is_shape_tensor(self, this: Any) -> bool:
        return self.world.shape_tensor

    def dims_getitem(self, this: Any, index: int) -> int:
        return int(this.made[index])

    def dims_len(self, this: Any) -> int:
        return len(this.made)

    def ibuilderconfig_set_flag(self, this: Any, flag: Any) -> None:
        self.world.flags.add(flag.name)

    def ibuilderconfig_set_memory_pool_limit(self, this: Any, pool: Any, size: int) -> None:
        self.world.set_to[pool.name] = size

    def ibuilderconfig_add_optimization_profile(self, this: Any, profile: Any) -> int:
        return 0 if self.world.takes_profile else -1

    def ioptimizationprofile_set_shape(self, this: Any, name: str, *sizes: Any) -> None:
        if self.world.refuses == "set_shape":
            raise ValueError("Shape provided for min is inconsistent with other shapes.")
        self.world.profile[name] = sizes  # type: ignore[assignment]

    def ibuilderconfig_create_timing_cache(self, this: Any, data: bytes) -> Any:
        return self.maker.make("ITimingCache", data)

    def ibuilderconfig_set_timing_cache(self, this: Any, cache: Any, ignore: bool) -> bool:
        taken = self.world.takes_timings or not cache.made
        self.timings = cache if taken else self.timings
        return taken

    def ibuilderconfig_get_timing_cache(self, this: Any) -> Any:
        return self.timings

    def itimingcache_serialize(self, this: Any) -> Any:
        return self.maker.make("IHostMemory", this.made + b"+")

    def onnxparser_init(self, this: Any, network: Any, logger: Any) -> None:
        self._refuse("OnnxParser")
        self.parser = weakref.ref(this)

    def onnxparser_parse_from_file(self, this: Any, path: str) -> bool:
        assert Path(path).is_file()
        return not self.world.parser_errors

    def onnxparser_num_errors(self, this: Any) -> int:
        return len([error for error in self.world.parser_errors if error])

    def onnxparser_get_error(self, this: Any, index: int) -> Any:
        return self.maker.make("ParserError", self.world.parser_errors[index])

    def parsererror_code(self, this: Any) -> Any:
        return self.maker.enum("ErrorCode", this.made.get("code", "INVALID_GRAPH"))

    def parsererror_desc(self, this: Any) -> str:
        return str(this.made["desc"])

    def parsererror_node(self, this: Any) -> int:
        return int(this.made.get("node", -1))

    def parsererror_node_name(self, this: Any) -> str:
        return str(this.made.get("name", ""))

    def parsererror_node_operator(self, this: Any) -> str:
        return str(this.made["op"])

    def parsererror_local_function_stack(self, this: Any) -> list[str]:
        return list(this.made.get("functions", []))

    def runtime_init(self, this: Any, logger: Any) -> None:
        self._refuse("Runtime")
        this.made = logger

    def runtime_deserialize_cuda_engine(self, this: Any, plan: bytes) -> Any:
        self._say(this.made)
        return self.maker.make("ICudaEngine") if self.world.loads and plan == PLAN else None

    def icudaengine_create_execution_context(self, this: Any) -> Any:
        return self.maker.make("IExecutionContext", {}) if self.world.context else None

    def icudaengine_num_io_tensors(self, this: Any) -> int:
        return len(self._tensors())

    def icudaengine_get_tensor_name(self, this: Any, index: int) -> str:
        return self._tensors()[index].name

    def icudaengine_get_tensor_shape(self, this: Any, name: str) -> Any:
        return self.maker.dims(self._tensor(name).shape)

    def icudaengine_get_tensor_dtype(self, this: Any, name: str) -> Any:
        return self.maker.enum("DataType", self._tensor(name).dtype)

    def icudaengine_get_tensor_mode(self, this: Any, name: str) -> Any:
        return self.maker.enum("TensorIOMode", "INPUT" if self._tensor(name) in self.world.inputs else "OUTPUT")

    def icudaengine_get_tensor_profile_shape(self, this: Any, name: str, profile: int) -> Any:
        return [self.maker.dims(sizes) for sizes in self.world.profile[name]]

    def icudaengine_create_engine_inspector(self, this: Any) -> Any:
        return self.maker.make("EngineInspector")

    def icudaengine_serialize(self, this: Any) -> Any:
        return self.maker.make("IHostMemory", PLAN)

    def engineinspector_get_engine_information(self, this: Any, form: Any) -> str:
        assert form.name == "JSON"
        assert this.execution_context is not None
        return self.world.inspected

    def iexecutioncontext_set_input_shape(self, this: Any, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self.world.profile.get(name, (self._tensor(name).shape,) * 3)
        this.made[f"{name} shape"] = shape
        return len(shape) == len(least) and all(a <= n <= b for a, n, b in zip(least, shape, most, strict=True))

    def iexecutioncontext_get_tensor_shape(self, this: Any, name: str) -> Any:
        batch = this.made[f"{self.world.inputs[0].name} shape"][:1]
        shape = self._tensor(name).shape
        return self.maker.dims((*batch, *shape[1:]) if shape and shape[0] < 0 else shape)

    def iexecutioncontext_infer_shapes(self, this: Any) -> list[str]:
        return list(self.world.insufficient)

    def iexecutioncontext_set_tensor_address(self, this: Any, name: str, address: int) -> bool:
        this.made[name] = address
        return self.world.takes_memory

    def iexecutioncontext_execute_async_v3(self, this: Any, stream: int) -> bool:
        if not self.world.runs:
            return False
        arrays = [self._read(this, tensor) for tensor in self.world.inputs]
        for tensor, result in zip(self.world.outputs, self.world.compute(*arrays), strict=True):
            data = result.astype(DTYPES[tensor.dtype]).tobytes()
            ctypes.memmove(this.made[tensor.name], data, len(data))
        return True

    def _read(self, context: Any, tensor: Tensor) -> np.ndarray:
        dtype, shape = DTYPES[tensor.dtype], context.made[f"{tensor.name} shape"]
        size = int(np.prod(shape)) * dtype.itemsize
        return np.frombuffer(ctypes.string_at(context.made[tensor.name], size), dtype).reshape(shape)

    def _tensors(self) -> list[Tensor]:
        return [*self.world.inputs, *self.world.outputs]

    def _tensor(self, name: str) -> Tensor:
        return next(tensor for tensor in self._tensors() if tensor.name == name)


def install(monkeypatch: pytest.MonkeyPatch, major: int, world: World, cuda: ModuleType | None = None) -> None:
    """Put the stand-ins where the backend looks for TensorRT and for cuda-python."""
    monkeypatch.setitem(sys.modules, "tensorrt", module(major, world))
    monkeypatch.setattr(tensorrt_log, "_shared", [])
    for name, made in cuda_fake.packages(cuda or cuda_fake.runtime()).items():
        monkeypatch.setitem(sys.modules, name, made)
