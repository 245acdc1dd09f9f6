"""How TensorRT is to build an engine: typed options, and the range of sizes that they come to for each input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from graphprune.errors import InputError

from .base import InputShapes, TensorSpec, cache_folder
from .inputs import bind_shapes, named_shapes

PRECISIONS = ("model", "fp16", "bf16")
MEMORIES = ("auto", "torch", "cuda-python")
_LEVELS = range(6)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class TensorRTOptions:
    """What the builder is told.

    `precision`: "model" builds a strongly typed network, which computes in the types that the graph carries; "fp16" and
    "bf16" let TensorRT 10 lower an fp32 graph (TensorRT 11 cannot). `sparse` lets it time sparse kernels for weights in
    the 2:4 pattern. `workspace_gib` bounds the scratch memory of a layer, `optimization_level` (0 to 5) the time spent.
    `min_shapes` and `max_shapes` widen the sizes an engine takes beyond those it is built for, each written as trtexec
    has it, `input:1x3x224x224`. `cache` is the folder of engines and timings ("": the user's own, "off": none kept),
    `memory` what holds the data on the device.
    """

    precision: str = "model"
    sparse: bool = True
    workspace_gib: float | None = None
    optimization_level: int | None = None
    min_shapes: tuple[str, ...] = ()
    max_shapes: tuple[str, ...] = ()
    cache: str = ""
    memory: str = "auto"

    def __post_init__(self) -> None:
        for option, value, known in (("precision", self.precision, PRECISIONS), ("memory", self.memory, MEMORIES)):
            if value not in known:
                raise InputError(f"runtime 'tensorrt': {option} must be one of {', '.join(known)}, not '{value}'")
        if self.optimization_level is not None and self.optimization_level not in _LEVELS:
            raise InputError(f"runtime 'tensorrt': optimization_level is 0 to 5, not {self.optimization_level}")
        if self.workspace_gib is not None and self.workspace_gib <= 0:
            raise InputError(f"runtime 'tensorrt': workspace_gib must be above 0, not {self.workspace_gib:g}")
        for text in (*self.min_shapes, *self.max_shapes):
            _shape(text)

    @property
    def folder(self) -> Path | None:
        """Where engines and timings are kept; None where they are not."""
        return cache_folder(self.cache, "tensorrt")

    def built_from(self) -> dict[str, object]:
        """The options that change an engine."""
        return {
            "precision": self.precision,
            "sparse": self.sparse,
            "workspace_gib": self.workspace_gib,
            "optimization_level": self.optimization_level,
            "min_shapes": sorted(self.min_shapes),
            "max_shapes": sorted(self.max_shapes),
        }


@dataclass(frozen=True)
class Profile:
    """The sizes that an engine takes for one input, and those that it is tuned for."""

    name: str
    least: Shape
    usual: Shape
    most: Shape


def profiles(specs: Sequence[TensorSpec], shapes: InputShapes | None, options: TensorRTOptions) -> list[Profile]:
    """One for each input that leaves a size open. Raises `InputError` for shapes that do not fit.

    An engine takes exactly the shapes it is built for, which is fastest, unless the options say more.
    """
    usual = bind_shapes(specs, shapes)
    asked = named_shapes(specs, shapes)
    least, most = (_limits(specs, texts) for texts in (options.min_shapes, options.max_shapes))
    found = []
    for spec in specs:
        if None in spec.shape:
            low, high = least.get(spec.name), most.get(spec.name)
            middle = usual[spec.name] if spec.name in asked else _within(usual[spec.name], low, high)
            found.append(_checked(Profile(spec.name, low or middle, middle, high or middle)))
    return found


def _limits(specs: Sequence[TensorSpec], texts: Sequence[str]) -> Mapping[str, Shape]:
    given = dict(map(_shape, texts))
    bound = bind_shapes(specs, given)
    return {name: bound[name] for name in given}


def _within(shape: Shape, low: Shape | None, high: Shape | None) -> Shape:
    """The shape nobody asked for, moved into what was asked for."""
    raised = tuple(map(max, shape, low or shape))
    return tuple(map(min, raised, high or raised))


def _checked(profile: Profile) -> Profile:
    for a, b, c in zip(profile.least, profile.usual, profile.most, strict=True):
        if not a <= b <= c:
            sizes = " to ".join("x".join(map(str, s)) for s in (profile.least, profile.usual, profile.most))
            raise InputError(f"the shapes of '{profile.name}' must grow from least over usual to most, not {sizes}")
    return profile


def _shape(text: str) -> tuple[str, Shape]:
    """`input:1x3x224x224` in its parts; the name itself may hold colons."""
    name, _, sizes = text.rpartition(":")
    parts = sizes.split("x")
    if not name or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InputError(f"runtime 'tensorrt': '{text}' is no shape; write input:1x3x224x224")
    return name, tuple(map(int, parts))
