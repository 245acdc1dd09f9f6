"""timm: of each module that registers models the one with the fewest parameters.

Which that is, is written in `timm_smallest.json`; `python -m benchmarks.suites.timm_models` finds them again (minutes).
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import zoo
from benchmarks.random_weights import awaken, vary

TABLE = Path(__file__).with_name("timm_smallest.json")


def names() -> list[str]:
    """One model of each module, smallest first."""
    rows = json.loads(TABLE.read_text())["models"].values()
    return [row["model"] for row in sorted(rows, key=lambda row: row["parameters"])]


def build(name: str) -> tuple[nn.Module, Tensor]:
    """The model and one random picture of the size that its default configuration names."""
    torch.manual_seed(0)
    model: nn.Module = _timm().create_model(name, pretrained=False).eval()
    first, second = (_picture(model, seed) for seed in (1, 2))
    vary(model)
    awaken(model, first, second)
    return model, first


def _picture(model: nn.Module, seed: int) -> Tensor:
    size = model.pretrained_cfg.get("input_size", (3, 224, 224))  # type: ignore[union-attr, operator]
    return torch.randn(1, *size, generator=torch.Generator().manual_seed(seed))


def _timm() -> Any:
    zoo.torchvision()  # timm imports it, which needs help beside a CPU build of torch
    warnings.filterwarnings("ignore")
    import timm

    return timm


def find_smallest() -> dict[str, Any]:
    """For each module its smallest model, and how many parameters that has."""
    timm = _timm()
    found = {}
    for module in timm.list_modules():
        counts = {name: _count(timm, name) for name in timm.list_models(module=module)}
        name = min(counts, key=lambda name: (counts[name], name))
        found[module] = {"model": name, "parameters": counts[name]}
    return {"timm": timm.__version__, "models": found}


def _count(timm: Any, name: str) -> int:
    """Parameters of a model; what cannot be built without memory for its weights is built with it."""
    try:
        with torch.device("meta"):
            return zoo.parameters(timm.create_model(name))
    except (RuntimeError, NotImplementedError):
        return zoo.parameters(timm.create_model(name))


if __name__ == "__main__":
    TABLE.write_text(json.dumps(find_smallest(), indent=1) + "\n")
