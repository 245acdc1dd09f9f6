"""Prune the digits network to half of its MACs, as ONNX and as a PyTorch module, and show what it cost and gained.

python -m models.demo [--criterion bn-scale] [--macs 0.5]
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import graphprune as gp
from graphprune import runtimes
from models.digits_data import load_digits
from models.digits_resnet import ONNX, digits_resnet
from models.export_digits import export

BATCHES = (1, 64)
SECONDS = 6.0
Classify = Callable[[np.ndarray], np.ndarray]


@dataclass
class Route:
    """One way through the compiler: the dense and the pruned model, and how to run each."""

    name: str
    result: Any
    classify: tuple[Classify, Classify]
    files: tuple[Path, Path]


def onnx_classifier(path: Path) -> Classify:
    """Logits of an ONNX file on onnxruntime."""
    executable = runtimes.get("onnxruntime").compile(path, threads=1)
    return lambda pictures: executable.run([pictures])[0]


def torch_classifier(model: torch.nn.Module) -> Classify:
    """Logits of a module."""

    def classify(pictures: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return np.asarray(model(torch.from_numpy(pictures)))

    return classify


def accuracy(classify: Classify) -> float:
    """Share of the held-out pictures that are classified correctly."""
    pictures, labels = load_digits("test")
    return float(np.mean(classify(pictures).argmax(1) == labels))


def onnx_route(target: Any, criterion: str, folder: Path) -> Route:
    """File in, file out."""
    result = gp.prune(ONNX, target=target, criterion=criterion)
    pruned = folder / "digits_resnet.onnx"
    result.save(pruned)
    return Route("ONNX", result, (onnx_classifier(ONNX), onnx_classifier(pruned)), (ONNX, pruned))


def torch_route(target: Any, criterion: str, folder: Path) -> Route:
    """Module in, module out; exported like any other module for the latency."""
    model = digits_resnet()
    result = gp.prune(model, example_inputs=torch.zeros(2, 1, 8, 8), target=target, criterion=criterion)
    pruned = folder / "digits_resnet_torch.onnx"
    export(result.model, pruned)
    return Route("PyTorch", result, (torch_classifier(model), torch_classifier(result.model)), (ONNX, pruned))


def latencies(files: tuple[Path, Path]) -> list[list[str]]:
    """Milliseconds a batch on onnxruntime, one thread: for the dense and for the pruned file, a cell a batch size."""
    pictures, _ = load_digits("test")
    rows: list[list[str]] = [[], []]
    for batch in BATCHES:
        effort = runtimes.Effort(seconds=SECONDS / len(BATCHES))
        dense, pruned = runtimes.compare(files, threads=1, inputs=[pictures[:batch]], effort=effort)
        rows[0].append(f"{dense.median * 1e3:.3f}")
        rows[1].append(f"{pruned.median * 1e3:.3f} ({pruned.ratio:.2f}x)")
    return rows


def show(routes: list[Route], title: str) -> Table:
    """One table: a line for each dense and each pruned model."""
    table = Table(title=title, title_justify="left")
    table.add_column("model")
    heads = ["parameters", "MACs", "accuracy", *(f"ms at batch {batch}" for batch in BATCHES), "verified"]
    for head in heads:
        table.add_column(head, justify="right")
    for route in routes:
        report = route.result.report
        times = latencies(route.files)
        dense, pruned = report.before, report.after
        scores = [f"{accuracy(classify):.2%}" for classify in route.classify]
        table.add_row(route.name, f"{dense.parameters:,}", f"{dense.macs:,}", scores[0], *times[0], "")
        table.add_row(
            f"{route.name}, pruned",
            f"{pruned.parameters:,} ({pruned.parameters / dense.parameters:.2f}x)",
            f"{pruned.macs:,} ({pruned.macs / dense.macs:.2f}x)",
            scores[1],
            *times[1],
            f"max error {report.proof.max_error:.0e}",
            end_section=True,
        )
    return table


def main() -> None:
    """Both routes, one table."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is not installed
    parser = argparse.ArgumentParser(prog="python -m models.demo", description="Prune the digits network.")
    parser.add_argument("--macs", type=float, default=0.5, help="share of the MACs to keep")
    parser.add_argument("--criterion", default="bn-scale")
    options = parser.parse_args()
    target = gp.macs(options.macs)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        made = [route(target, options.criterion, Path(folder)) for route in (onnx_route, torch_route)]
        table = show(made, f"Digits ResNet at macs={options.macs:g} ({options.criterion}), 360 held-out pictures")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
