"""How much of what 2:4 loses an order of channels wins back: on random matrices and whole models.

Cases of `python -m benchmarks.sparse_speed`. Share: of the magnitude that 2:4 loses against the best half of each
weight without a pattern, over all weights that can be 2:4. "By rows": against the best half of each row, as NVIDIA's
published figures are.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common, zoo

#: Seconds of a search: of ResNet-50's and of the others.
SECONDS, SMALL_SECONDS = 60.0, 10.0
MATRICES = ("published", "normal", "uniform")
#: Matrices, or searches in the published one (NVIDIA/apex, permutation_tests), and seconds of each.
_SEEDS, _SECONDS = 25, 0.95
#: Trained ones, but for ResNet-50, whose weights are random.
MODELS = ("digits", "resnet20", "resnet56", "encoder", "resnet50")
#: Those whose weights are not shipped: `--data` names their folder.
_OTHERS = frozenset({"resnet20", "resnet56"})


def cases(data: Path | None) -> list[str]:
    """Names of all cases for which there are weights."""
    return [f"order-{name}" for name in (*MATRICES, *MODELS) if data is not None or name not in _OTHERS]


def matrix(kind: str, seed: int) -> Any:
    """A random matrix of 128x64; the published one whatever the seed."""
    if kind == "published":
        return np.random.RandomState(1).rand(128, 64)
    random = np.random.default_rng(seed)
    return np.abs(random.standard_normal((128, 64))) if kind == "normal" else random.random((128, 64))


def matrices(kind: str) -> None:
    """Twenty-five matrices, or as many searches in the published one; processor time."""
    from graphprune.sparsity.search import kept_magnitude, search

    shares, by_rows = [], []
    for seed in range(_SEEDS):
        scores = matrix(kind, seed)
        order = search(scores, 2, 4, seconds=_SECONDS, seed=seed, clock=time.process_time)
        before, after = (kept_magnitude(m, 2, 4) for m in (scores, scores[:, order]))
        free, rows = (np.sort(scores, axis=axis) for axis in (None, 1))
        shares.append((after - before) / (free[scores.size // 2 :].sum() - before))
        by_rows.append((after - before) / (rows[:, rows.shape[1] // 2 :].sum() - before))
    common.tell(recovered=float(np.mean(shares)), least=min(shares), most=max(shares), search_s=_SECONDS)
    common.tell(by_rows=float(np.mean(by_rows)))


def cifar(path: Path) -> Any:
    """A ResNet for CIFAR (He et al. 2016, section 4.2, shortcuts without parameters) from its weights."""
    import torch
    from safetensors.torch import load_file
    from torch import nn

    class Block(nn.Module):
        def __init__(self, before: int, width: int) -> None:
            super().__init__()
            self.more, self.stride = (width - before) // 2, 1 if width == before else 2
            self.conv1 = nn.Conv2d(before, width, 3, self.stride, 1, bias=False)
            self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
            self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            if self.stride > 1:
                x = nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more, self.more))
            return torch.relu(x + y)

    class ResNet(nn.Module):
        def __init__(self, blocks: int) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
            for stage, (before, width) in enumerate(((16, 16), (16, 32), (32, 64)), 1):
                layers = [Block(before if not i else width, width) for i in range(blocks)]
                self.add_module(f"layer{stage}", nn.Sequential(*layers))
            self.linear = nn.Linear(64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.layer3(self.layer2(self.layer1(torch.relu(self.bn1(self.conv1(x))))))
            return self.linear(x.mean((2, 3)))

    weights = load_file(path)
    net = ResNet(sum(name.startswith("layer1.") and name.endswith(".conv1.weight") for name in weights))
    net.load_state_dict(weights, strict=False)
    assert set(net.state_dict()) - set(weights) <= {n for n in net.state_dict() if n.endswith("num_batches_tracked")}
    return net.eval()


def _model(name: str, options: Any) -> tuple[Any, Any]:
    """A model and its example input."""
    import torch

    if name == "digits":
        return common.ROOT / "models" / "digits_resnet.onnx", None
    if name == "resnet50":
        return zoo.exported(name, options.cache), None
    if name == "encoder":
        from benchmarks.sparse_quality import LENGTH, encoder

        ids = torch.ones(2, LENGTH, dtype=torch.int64)
        return encoder(), {"input_ids": ids, "attention_mask": ids}
    return cifar(options.data / "cifar10-jpeg" / f"{name}.safetensors"), torch.randn(2, 3, 32, 32)


def model(name: str, options: Any) -> None:
    """One model: what its order gains, and how far the reordered model is from the original, nothing being zero yet."""
    import graphprune as gp
    from graphprune.passes.permute import Permute

    given, example = _model(name, options)
    graph = gp.load(given) if example is None else gp.capture(given, example)
    plain, free = (gp.sparsify(graph, pattern=p, verify=False) for p in ("2:4", "unstructured:0.5"))
    busy, start = time.process_time(), time.perf_counter()
    reordered = Permute(seconds=SECONDS if name == "resnet50" else SMALL_SECONDS).run(graph)
    busy, taken = time.process_time() - busy, time.perf_counter() - start
    ordered = gp.sparsify(reordered, pattern="2:4", verify=False)
    before, after, best = (_kept(result, list(plain.masks)) for result in (plain, ordered, free))
    common.tell(
        recovered=(after - before) / (best - before),
        lost=1 - before / best,
        search_s=round(taken, 1),
        cpu_s=round(busy, 1),
        max_error=_difference(graph, reordered),
    )


def _difference(graph: Any, reordered: Any) -> float:
    """The largest of the outputs' differences on random inputs, relative to the largest output."""
    import graphprune as gp
    from graphprune.calibration.random_inputs import random_inputs
    from graphprune.calibration.running import runner

    runs = [runner(g, gp.emit(g)) for g in (graph, reordered)]
    found = []
    for seed in range(3):
        feed = random_inputs(graph, seed)
        for one, other in zip(*(run(feed) for run in runs), strict=True):
            found.append(np.abs(one - other).max() / np.abs(one).max())
    return float(max(found))


def _kept(result: Any, names: list[str]) -> float:
    """Magnitude that is left in some weights."""
    weights = result.graph.weights()
    return sum(float(np.abs(weights[name].weight.array()).sum(dtype=np.float64)) for name in names)


def run(case: str, options: Any) -> None:
    """One case."""
    name = case.removeprefix("order-")
    if name in MATRICES:
        matrices(name)
    else:
        zoo.torchvision()
        model(name, options)


def table(results: dict[str, dict[str, Any]]) -> str:
    """A row for each case."""
    rows = []
    for case, r in results.items():
        keys = ("recovered", "least", "most", "by_rows", "lost")
        shares = [None if r.get(key) is None else f"{100 * r[key]:.1f} %" for key in keys]
        error = None if r.get("max_error") is None else f"{r['max_error']:.1e}"
        rows.append([case.removeprefix("order-"), *shares, r.get("search_s"), r.get("cpu_s"), error, r.get("error")])
    head = ["what", "recovered", "least", "most", "by rows", "2:4 loses", "search s", "CPU s"]
    head += ["max error", "error"]
    return common.table(head, rows)
