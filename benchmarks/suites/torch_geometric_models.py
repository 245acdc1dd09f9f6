"""torch_geometric: each convolution between a linear layer and another, and the package's whole models."""

from __future__ import annotations

import functools
import warnings
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from . import tables
from .tables import Source

_NODES, _EDGES, _WIDTH = 12, 30, 32


class Between(nn.Module):
    """Two layers of one convolution between linear layers, and a class for each graph of the batch."""

    def __init__(self, convolution: Any, width: int = _WIDTH, out: int = _WIDTH) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, width), nn.Linear(out, 5)
        self.one, self.two = convolution(width), convolution(out)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Classes of the nodes."""
        x = self.first(x).relu()
        x = self.one(x, edge_index).relu()
        x = self.two(x, edge_index).relu()
        return self.last(x)


class Pooled(nn.Module):
    """A network over nodes, then one answer for each graph."""

    def __init__(self, body: nn.Module, pool: str) -> None:
        super().__init__()
        self.body, self.pool, self.last = body, pool, nn.Linear(_WIDTH, 5)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        """Classes of the graphs."""
        pool = getattr(library().nn, f"global_{self.pool}_pool")
        return self.last(pool(self.body(x, edge_index), batch, 2))


def _graph(source: Source) -> dict[str, Tensor]:
    return {"x": source.noise(_NODES, 16), "edge_index": source.ids(_NODES, 2, _EDGES)}


def _batch(source: Source) -> dict[str, Tensor]:
    return {**_graph(source), "batch": torch.arange(_NODES) // (_NODES // 2)}


def _featured(source: Source) -> dict[str, Tensor]:
    return {**_batch(source), "edge_attr": source.noise(_EDGES, 8)}


def _atoms(source: Source) -> dict[str, Tensor]:
    return {"z": source.ids(10, _NODES), "pos": source.noise(_NODES, 3), "batch": torch.zeros(_NODES).long()}


def _mlp(wide: int) -> nn.Module:
    return nn.Sequential(nn.Linear(wide, 48), nn.ReLU(), nn.Linear(48, _WIDTH))


_CONVOLUTIONS: dict[str, Any] = {
    "GCNConv": {}, "SAGEConv": {}, "GraphConv": {}, "ChebConv": {"K": 3}, "TAGConv": {"K": 2}, "ARMAConv": {},
    "SGConv": {"K": 2}, "ClusterGCNConv": {}, "LEConv": {}, "ResGatedGraphConv": {}, "TransformerConv": {},
    "GATConv": {"heads": 4, "concat": False}, "GATv2Conv": {"heads": 4, "concat": False}, "SuperGATConv": {"heads": 2,
    "concat": False}, "GENConv": {}, "MFConv": {}, "FeaStConv": {"heads": 2}, "GeneralConv": {},
}  # fmt: skip
_STACKS = {"GCN": {}, "GraphSAGE": {}, "GIN": {"norm": "batch_norm"}, "GAT": {"heads": 4}, "EdgeCNN": {},
    "GCN_jk": {"jk": "cat"}, "GraphSAGE_norm": {"norm": "layer_norm", "jk": "max"}}  # fmt: skip


def _between(name: str, settings: dict[str, Any]) -> nn.Module:
    made = getattr(library().nn, name)
    return Between(lambda wide: made(wide, _WIDTH, **settings))


def _stack(name: str, settings: dict[str, Any]) -> nn.Module:
    made = getattr(library().nn, name.partition("_")[0])
    return Pooled(made(16, 32, 2, _WIDTH, **settings), "mean")


def _special(name: str) -> Any:
    made = library().nn
    if name in ("GINConv", "EdgeConv"):
        factor = 2 if name == "EdgeConv" else 1
        return Between(lambda wide: getattr(made, name)(_mlp(factor * wide)))
    if name == "GATConv_concat":
        return Between(lambda wide: made.GATConv(wide, 8, heads=4))
    if name == "PNAConv":
        degree = torch.tensor([1, 4, 5, 2])
        settings = {"aggregators": ["mean", "max", "std"], "scalers": ["identity", "amplification"], "deg": degree}
        return Between(lambda wide: made.PNAConv(wide, _WIDTH, **settings))
    if name == "GatedGraphConv":
        return Between(lambda wide: made.GatedGraphConv(_WIDTH, 2))
    if name == "APPNP":
        return Between(lambda wide: made.APPNP(3, 0.1))
    if name == "AttentiveFP":
        return made.AttentiveFP(16, 32, 5, edge_dim=8, num_layers=2, num_timesteps=2)
    if name == "SchNet":
        return made.SchNet(32, 32, 2, 16, interaction_graph=_complete)
    if name == "DeepGCN":
        layers = [made.DeepGCNLayer(made.GENConv(_WIDTH, _WIDTH), nn.LayerNorm(_WIDTH), nn.ReLU()) for _ in range(2)]
        return Between(lambda wide: layers.pop())
    raise KeyError(name)


def _complete(pos: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Every pair of atoms."""
    row, column = torch.triu_indices(_NODES, _NODES, 1)
    edges = torch.cat([torch.stack([row, column]), torch.stack([column, row])], 1)
    return edges, (pos[edges[0]] - pos[edges[1]]).norm(dim=-1)


def _attentive(source: Source) -> dict[str, Tensor]:
    return _featured(source)


_SPECIAL: dict[str, tables.Inputs] = {
    "GINConv": _graph, "EdgeConv": _graph, "GATConv_concat": _graph, "PNAConv": _graph, "GatedGraphConv": _graph,
    "APPNP": _graph, "DeepGCN": _graph, "AttentiveFP": _featured, "SchNet": _atoms,
}  # fmt: skip


def names() -> list[str]:
    """Convolutions, stacks with pooling, special models."""
    return [*_CONVOLUTIONS, *_STACKS, *_SPECIAL]


def build(name: str) -> tuple[nn.Module, Any]:
    """A model in evaluation mode and a random graph."""
    if name in _CONVOLUTIONS:
        return tables.ready(lambda: _between(name, _CONVOLUTIONS[name]), _graph)
    if name in _STACKS:
        return tables.ready(lambda: _stack(name, _STACKS[name]), _batch)
    return tables.ready(lambda: _special(name), _SPECIAL[name])


@functools.cache
def library() -> ModuleType:
    """The package."""
    warnings.filterwarnings("ignore")
    import torch_geometric
    import torch_geometric.nn

    return torch_geometric
