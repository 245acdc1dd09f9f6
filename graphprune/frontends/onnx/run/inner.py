"""Values inside a model, made outputs for a while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, ValueInfoProto


@contextmanager
def tapped(model: ModelProto | str | Path, names: Sequence[str]) -> Iterator[tuple[ModelProto, dict[str, int]]]:
    """The model with further outputs while this lasts, and which of its outputs each name is; names that no node makes
    are left out.
    """
    whole: Any = onnx.load(model) if isinstance(model, str | Path) else model
    outputs = whole.graph.output
    count, made = len(outputs), {name for node in whole.graph.node for name in node.output}
    known = {info.name for info in outputs}
    outputs.extend(ValueInfoProto(name=name) for name in names if name in made and name not in known)
    places = {info.name: at for at, info in enumerate(outputs)}
    try:
        yield whole, {name: places[name] for name in names if name in places}
    finally:
        del outputs[count:]
