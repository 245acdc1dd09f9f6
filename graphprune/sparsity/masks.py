"""Masks: which entries of weights stay. Held as bits, saved as safetensors, applied to a model in training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from json import dumps, loads
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as to_bytes

from graphprune.atomic import whole
from graphprune.errors import InputError
from graphprune.ops.base import Array

from .. import frontends

_FORMAT = "graphprune-masks/2"
#: What safetensors calls its own part of the header.
_RESERVED = "__metadata__"


class Masks(Mapping[str, Array]):
    """Boolean arrays by the name of the weight, True where an entry stays; eight entries take a byte."""

    def __init__(self, pattern: str = "") -> None:
        self.pattern = pattern
        self._bits: dict[str, Array] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}

    def add(self, name: str, mask: Array) -> None:
        """Take a mask in."""
        self._bits[name] = np.packbits(mask.reshape(-1))
        self._shapes[name] = mask.shape

    def __getitem__(self, name: str) -> Array:
        shape = self._shapes[name]
        return np.unpackbits(self._bits[name], count=prod(shape)).astype(bool).reshape(shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self._bits)

    def __len__(self) -> int:
        return len(self._bits)

    def save(self, path: str | Path) -> None:
        """Write them as a `.safetensors` file: bits (uint8), shapes in the metadata; whole or not at all.

        Raises InputError where the file cannot be written.
        """
        if _RESERVED in self._bits:
            raise InputError(f"a weight named '{_RESERVED}' cannot lie in a safetensors file")
        data = to_bytes(dict(self._bits), {"format": _FORMAT, "pattern": self.pattern, "shapes": dumps(self._shapes)})
        with whole(path) as draft:
            draft.write_bytes(data)

    @classmethod
    def load(cls, path: str | Path) -> Masks:
        """Read what `save` wrote; raises InputError for anything else."""
        try:
            with safe_open(str(path), "numpy") as file:
                known = file.metadata() or {}
                if known.get("format") != _FORMAT:
                    raise InputError(f"'{path}' holds no masks of graphprune")
                made, shapes = cls(known["pattern"]), loads(known["shapes"])
                for name in file.keys():  # noqa: SIM118 (no mapping)
                    made._bits[name] = file.get_tensor(name)
                    made._shapes[name] = tuple(int(n) for n in shapes[name])
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise InputError(f"'{path}' cannot be read as masks: {error}") from error
        return made._checked(path)

    def _checked(self, path: str | Path) -> Masks:
        for name, bits in self._bits.items():
            if bits.dtype != np.uint8 or bits.size != -(-prod(self._shapes[name]) // 8):
                raise InputError(f"'{path}': the mask of '{name}' does not have the size that its shape says")
        return self

    def apply(self, module: Any) -> None:
        """Set the masked entries of an `nn.Module`'s parameters to zero, in place; call it after an optimiser's step.
        The module may be wrapped (`torch.compile`, `DistributedDataParallel`).

        Raises InputError where the module has no parameter of a mask's name and shape.
        """
        frontends.frontend("torch").zero_entries(module, self)

    def hold(self, module: Any, optimizer: Any) -> Any:
        """Apply the masks now and after every step of a `torch.optim.Optimizer`; returns a handle with `remove()`."""
        return frontends.frontend("torch").hold_zero(module, optimizer, self)
