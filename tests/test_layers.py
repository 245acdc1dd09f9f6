"""Imports run one way, each framework stays behind its wall, and nothing loads a backend before it is asked for."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ORDER = [
    {"cli"},
    {"api"},
    {"pipelines", "bench"},
    {"report"},
    {"verification", "passes"},
    {"sparsity", "depth"},
    {"pruning"},
    {"calibration"},
    {"runtimes"},
    {"coupling"},
    {"frontends"},
    {"ops"},
    {"ir"},
    {"atomic", "options"},
    {"registry"},
    {"errors"},
]
RANK = {layer: rank for rank, layers in enumerate(ORDER) for layer in layers}
WALLS = {
    "torch": (
        "graphprune.frontends.torch",
        "graphprune.frontends.checkpoint",
        "graphprune.runtimes.pytorch",
        "graphprune.runtimes.pytorch_sparse",
        "graphprune.runtimes.tensorrt_memory",
    ),
    "transformers": ("graphprune.frontends.checkpoint",),
    "torchvision": (),
    "onnx": ("graphprune.frontends.onnx", "graphprune.runtimes.reference"),
    "onnx_graphsurgeon": ("graphprune.frontends.onnx",),
    "onnxruntime": ("graphprune.runtimes",),
    "tensorrt": ("graphprune.runtimes",),
    "cuda": ("graphprune.runtimes.tensorrt_memory",),
    "pickle": (),
}


def _sources() -> dict[str, Path]:
    """Every module as installed, by dotted name; a package under its own name plus `.__init__`."""
    found = {}
    for folder, package in (
        ("graphprune", "graphprune"),
        ("passes", "graphprune.passes"),
        ("runtimes", "graphprune.runtimes"),
    ):
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join([package, *parts])] = path
    return found


SOURCES = _sources()


def _imports(module: str, text: str) -> Iterator[str]:
    """Absolute names of everything `module` imports, at its top, in functions and for types alike."""
    package = module.split(".")[:-1]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            prefix = ".".join([*base, *(node.module.split(".") if node.module else [])])
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def _layer(name: str) -> str | None:
    """The layer an imported name belongs to; None outside the package and for the package itself."""
    parts = name.split(".")
    if parts[0] != "graphprune" or len(parts) < 2 or parts[1] == "__init__":
        return None
    return parts[1]


def _edges() -> Iterator[tuple[str, str, str]]:
    """(importing module, its layer, imported layer), within the package."""
    for module, path in SOURCES.items():
        layer = _layer(module)
        for name in _imports(module, path.read_text(encoding="utf-8")):
            target = _layer(name)
            if layer is not None and target is not None and target != layer:
                yield module, layer, target


def test_the_reader_of_imports_sees_every_form() -> None:
    text = "import a.b\nfrom ..ops import conv\nfrom . import x\ndef f():\n    from ...errors import E\n"
    found = set(_imports("graphprune.frontends.onnx.load", text))
    assert found == {
        "a.b",
        "graphprune.frontends.ops.conv",
        "graphprune.frontends.onnx.x",
        "graphprune.errors.E",
    }


def test_every_module_has_a_layer() -> None:
    homeless = [module for module in SOURCES if _layer(module) not in {None, *RANK}]
    assert not homeless, f"not in tests/test_layers.py ORDER: {homeless}"


def test_imports_run_one_way() -> None:
    back = [f"{module} imports {target}" for module, layer, target in _edges() if RANK[target] < RANK[layer]]
    assert not back


def test_layers_of_one_rank_form_no_circle() -> None:
    graph: dict[str, set[str]] = {}
    for _, layer, target in _edges():
        graph.setdefault(layer, set()).add(target)
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("framework", WALLS)
def test_frameworks_stay_behind_their_walls(framework: str) -> None:
    outside = [
        module
        for module, path in SOURCES.items()
        if not any(f"{module}.".startswith(f"{home}.") for home in WALLS[framework])
        and any(name.split(".")[0] == framework for name in _imports(module, path.read_text(encoding="utf-8")))
    ]
    assert not outside, f"only {WALLS[framework]} may import {framework}"


def test_importing_graphprune_imports_no_backend() -> None:
    code = "import sys, graphprune, graphprune.runtimes; print(sorted({'onnxruntime', 'tensorrt'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
