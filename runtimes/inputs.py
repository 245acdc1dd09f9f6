"""Random inputs for a model, from what it declares and the shapes the user gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphprune.errors import InputError

from .base import Inputs, InputShapes, TensorSpec

_BATCH, _IMAGE, _OTHER = 1, 224, 16
_IMAGE_RANK = 4


def random_inputs(
    specs: Sequence[TensorSpec], shapes: InputShapes | None = None, seed: int = 0
) -> dict[str, np.ndarray] | list[np.ndarray]:
    """Normal floats, zeros and ones for integers and booleans, so that an index is valid for any table of two rows.

    Where the model does not say its inputs (`specs` is empty), `shapes` makes float32 arrays, in order or by name.
    """
    rng = np.random.default_rng(seed)
    if not specs:
        return _undeclared(rng, shapes)
    bound = bind_shapes(specs, shapes)
    return {spec.name: _sample(rng, bound[spec.name], spec.dtype) for spec in specs}


def bind_shapes(specs: Sequence[TensorSpec], shapes: InputShapes | None = None) -> dict[str, tuple[int, ...]]:
    """A concrete shape per input: the user's where given, else declared sizes with open ones filled in."""
    given = named_shapes(specs, shapes)
    return {spec.name: _checked(spec, given[spec.name]) if spec.name in given else _default(spec) for spec in specs}


def named_shapes(specs: Sequence[TensorSpec], shapes: InputShapes | None) -> dict[str, tuple[int, ...]]:
    """`shapes` by input name; raises `InputError` for a name or a position the model does not have."""
    known = [spec.name for spec in specs]
    if shapes is None:
        return {}
    if isinstance(shapes, Mapping):
        for name in shapes:
            if name not in known:
                raise InputError(f"the model has no input '{name}'; its inputs are {', '.join(known)}")
        return {name: tuple(shape) for name, shape in shapes.items()}
    if len(shapes) > len(known):
        raise InputError(f"{len(shapes)} input shapes were given, but the model's inputs are {', '.join(known)}")
    return {name: tuple(shape) for name, shape in zip(known, shapes, strict=False)}


def _checked(spec: TensorSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
    fits = len(shape) == len(spec.shape) and all(
        want is None or want == n for want, n in zip(spec.shape, shape, strict=True)
    )
    if not fits or any(n < 1 for n in shape):
        raise InputError(f"the shape {_text(shape)} does not fit the input '{spec.name}' of shape {_text(spec.shape)}")
    return shape


def _default(spec: TensorSpec) -> tuple[int, ...]:
    image = len(spec.shape) >= _IMAGE_RANK

    def size(axis: int, declared: int | None) -> int:
        if declared is not None:
            return declared
        if axis == 0:
            return _BATCH
        return _IMAGE if image and axis >= 2 else _OTHER

    return tuple(size(axis, declared) for axis, declared in enumerate(spec.shape))


def _undeclared(rng: np.random.Generator, shapes: InputShapes | None) -> dict[str, np.ndarray] | list[np.ndarray]:
    if not shapes:
        raise InputError("the model does not say its input shapes; give them with --input-shape (input_shapes=)")
    float32 = np.dtype(np.float32)
    if isinstance(shapes, Mapping):
        return {name: _sample(rng, tuple(shape), float32) for name, shape in shapes.items()}
    return [_sample(rng, tuple(shape), float32) for shape in shapes]


def _sample(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
    if dtype.kind in "iu":
        return rng.integers(0, 2, shape).astype(dtype)
    if dtype.kind == "b":
        # Masks of all True: a row that masks everything would make softmax return NaN.
        return np.ones(shape, bool)
    return np.asarray(rng.standard_normal(shape)).astype(dtype)


def ordered(specs: Sequence[TensorSpec], inputs: Inputs) -> dict[str, np.ndarray]:
    """`inputs` by name; raises `InputError` where one is missing, unknown or too many."""
    known = [spec.name for spec in specs]
    if not isinstance(inputs, Mapping):
        if len(inputs) != len(known):
            raise InputError(f"the model takes {len(known)} inputs ({', '.join(known)}), but {len(inputs)} were given")
        return dict(zip(known, inputs, strict=True))
    if set(inputs) != set(known):
        raise InputError(f"the model takes the inputs {', '.join(known)}, but {', '.join(inputs)} were given")
    return dict(inputs)


def _text(shape: Sequence[int | None]) -> str:
    return "x".join("?" if n is None else str(n) for n in shape) or "()"
