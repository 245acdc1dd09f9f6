"""Routes of a model into graphprune: `torch`, or an ONNX file by one of the exporters and what a tool made of it.

`torch-pruning` takes the module of `torch` into the peer of that name.

`default` is the module once more as a user holds it, where a suite can build that (`build_default`): nothing around it
and no setting of ours, so that results hold key-value caches.

`onnx` is the dynamo exporter at opset 18; `torchscript-17` and `dynamo-23` say exporter and opset; `onnx+qdq` says what
was done to the file (`onnx_tools.CHANGES`). The file of a route is made by a case of its own, `suite/export/model` for
`onnx` and `suite/export@ROUTE/model` for others, so that an exporter's failure is told from ours.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks import common, onnx_tools, suites, zoo

PEER = "torch-pruning"
AS_HELD = "default"
MODULES = {"torch": "build", AS_HELD: "build_default", PEER: "build"}  # take the module itself; who makes it
DEFAULT = ("torch", AS_HELD, "onnx")
_EXPORT = "export@"


def title(route: str) -> str:
    """What the page calls a route."""
    titles = {"torch": "PyTorch", AS_HELD: "default configuration", "onnx": "ONNX", PEER: "Torch-Pruning"}
    return titles.get(route, route)


def exports(route: str) -> list[str]:
    """The exports that must have been made before a route, first things first."""
    base, changed, _ = route.partition("+")
    return [_export(base), *([_export(route)] if changed else [])]


def exported(export: str) -> str | None:
    """The route whose file an export makes; None where it is no export."""
    return "onnx" if export == "export" else export.removeprefix(_EXPORT) if export.startswith(_EXPORT) else None


def source(cache: Path, suite: str, route: str, name: str) -> Path:
    """Where the file of a route lies."""
    return cache / suite / ("" if route == "onnx" else route) / f"{name}.onnx"


def make(cache: Path, suite: str, route: str, name: str) -> Path:
    """Make the file of a route, and the one it is made from where that is missing."""
    base, _, changed = route.partition("+")
    path = source(cache, suite, route, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not changed:
        _write(suite, base, name, path)
        return path
    before = source(cache, suite, base, name)
    if not before.exists():
        make(cache, suite, base, name)
    partial = path.with_name(f"partial.{path.name}")
    shutil.copyfile(before, partial)
    common.tell(step=changed)
    onnx_tools.change(changed, partial)
    partial.replace(path)
    return path


def discard(cache: Path, suite: str, routes: list[str], names: list[str]) -> None:
    """Remove files: of many routes over hundreds of models only the plain exports are worth their room."""
    made = {part for route in routes for part in (route, route.partition("+")[0])} - set(DEFAULT)
    for route in made:
        for name in names:
            source(cache, suite, route, name).unlink(missing_ok=True)


def _write(suite: str, route: str, name: str, path: Path) -> None:
    common.tell(step="building the model")
    if hasattr(suites.suite(suite), "write"):
        suites.files(suite).write(name, path)
        return
    module, inputs = suites.suite(suite).build(name)
    common.tell(step="exporting", parameters=zoo.parameters(module))
    exporter, _, opset = ("dynamo-18" if route == "onnx" else route).partition("-")
    zoo.export(module, inputs, path, int(opset), dynamo=exporter == "dynamo")


def _export(route: str) -> str:
    return "export" if route == "onnx" else f"{_EXPORT}{route}"
