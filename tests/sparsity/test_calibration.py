"""Calibration data: how they are read, cut and refused, and how a model is run in spans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import graphprune as gp
from graphprune import frontends
from graphprune.calibration.samples import Flow, read_samples
from graphprune.calibration.store import Scratch
from graphprune.errors import InputError
from graphprune.frontends.spans import cut

DIGITS = Path(__file__).parents[2] / "models" / "digits_resnet.onnx"


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.body = nn.Embedding(10, 8), nn.Linear(8, 4)

    def forward(self, ids: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return self.body(self.table(ids)) * scale


TWO = gp.capture(Two().eval(), (torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 1, 1)))


def arrays(count: int = 6) -> dict[str, np.ndarray]:
    return {"ids": np.ones((count, 3), np.int64), "scale": np.ones((count, 1, 1), np.float32)}


def test_arrays_are_cut_into_the_batches_of_the_model() -> None:
    found = read_samples(TWO, arrays(7))
    assert (found.count, [len(b["ids"]) for b in found.batches]) == (6, [2, 2, 2])
    assert found.note == "1 samples fill no batch of 2 and were left out"
    free = read_samples(gp.load(DIGITS), {"pictures": np.zeros((40, 1, 8, 8), np.float32)})
    assert [len(b["pictures"]) for b in free.batches] == [16, 16, 8]


@pytest.mark.parametrize(
    "batches",
    [
        [(torch.ones(3, 3, dtype=torch.long), torch.ones(3, 1, 1))] * 2,
        [{"ids": torch.ones(1, 3, dtype=torch.long), "scale": torch.ones(1, 1, 1)}] * 6,
        torch.utils.data.DataLoader(
            torch.utils.data.TensorDataset(torch.ones(6, 3, dtype=torch.long), torch.ones(6, 1, 1), torch.ones(6)), 4
        ),
    ],
)
def test_batches_come_as_the_model_takes_them(batches: Any) -> None:
    assert read_samples(TWO, batches).count == 6


def test_files_may_name_inputs_or_number_them(tmp_path: Path) -> None:
    np.savez(tmp_path / "named.npz", **arrays())
    np.savez(tmp_path / "numbered.npz", *arrays().values())
    for name in ("named.npz", "numbered.npz"):
        assert read_samples(TWO, tmp_path / name).count == 6


BAD = [
    ({"ids": arrays()["ids"]}, "lacks the input 'scale'; it has ids, and the inputs of 'Two' are ids, scale"),
    ({**arrays(), "mask": np.ones(6)}, "has 'mask', which is no input"),
    ({**arrays(), "ids": np.ones((6, 3), np.float32)}, "for 'ids' are float32, but the input is int64"),
    (
        {**arrays(), "ids": np.ones((6, 4), np.int64)},
        r"for 'ids' have the shape \[6, 4\]; the input takes \[samples, 3\]",
    ),
    ({**arrays(), "ids": np.ones((5, 3), np.int64)}, "different numbers of samples: {'ids': 5, 'scale': 6}"),
    (arrays(0), "hold no samples"),
    (arrays(1), "takes batches of 2, and the calibration data hold 1"),
    ("nothing.npz", "there is no file 'nothing.npz'"),
    ([(torch.ones(2, 3),)], "batch 0 of the calibration data does not give the inputs ids, scale"),
]


@pytest.mark.parametrize(("data", "text"), BAD)
def test_data_that_do_not_fit_are_told(data: Any, text: str) -> None:
    with pytest.raises(InputError, match=text):
        read_samples(TWO, data)


def test_no_pickle_is_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", ids=np.array([{}], dtype=object), scale=np.ones(1))
    with pytest.raises(InputError, match="pickled objects, which are never loaded"):
        read_samples(TWO, tmp_path / "bad.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(InputError, match="cannot be read as calibration data"):
        read_samples(TWO, tmp_path / "text.npz")
    np.save(tmp_path / "one.npy", np.ones(3))
    with pytest.raises(InputError, match="one array without a name"):
        read_samples(TWO, tmp_path / "one.npy")


def test_steps_are_cut_where_values_are_asked_for() -> None:
    steps = [(["x"], ["a"]), (["a"], ["b"]), (["x"], ["other"]), (["a", "b"], ["c"]), (["c"], ["d"])]
    first, second = cut(steps, ["x"], [["b"], ["c"]])
    assert (first.steps, first.reads, first.makes) == ((0, 1), ("x",), ("a", "b"))
    assert (second.steps, second.reads, second.makes) == ((3,), ("a", "b"), ("c",))
    assert set(second.done) == {"a", "b", "c"}
    assert first.done == ("x",)


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_spans_compute_what_the_whole_does(kind: str) -> None:
    """Each value is made once, by spans that see only what earlier ones handed on."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(256, 3))
    graph = gp.load(DIGITS) if kind == "onnx" else gp.capture(net.eval(), torch.zeros(4, 1, 8, 8))
    x = np.random.default_rng(0).standard_normal((12, 1, 8, 8)).astype(np.float32)
    values = [node.outputs[0] for node in graph.nodes]
    samples = read_samples(graph, {graph.inputs[0].name: x})
    taps = [[value] for value in values[1::2]] + [[graph.outputs[0], values[0]]]
    flow = Flow(graph, samples, taps)
    for _ in taps:
        flow.advance()
    found = np.concatenate(list(flow.values(graph.outputs[0])))
    if kind == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(DIGITS), providers=["CPUExecutionProvider"])
        expected = session.run([graph.outputs[0].name], {graph.inputs[0].name: x})[0]
    else:
        expected = net(torch.from_numpy(x)).detach().numpy()
    assert np.allclose(found, expected, atol=1e-5)
    assert frontends.of(graph).named_inputs(graph, [x])


def test_arrays_beyond_the_limit_lie_in_files() -> None:
    import ml_dtypes

    scratch = Scratch(limit=100)
    items = [
        np.arange(20, dtype=np.float32).reshape(4, 5),
        np.ones((3, 40), ml_dtypes.bfloat16),
        np.float32(3) * np.ones(()),
    ]
    for key, item in enumerate(items):
        scratch[key] = item
    for key, item in enumerate(items):
        assert scratch[key].dtype == item.dtype
        assert np.array_equal(scratch[key], item)
    del scratch[1], scratch[0]
    with pytest.raises(KeyError):
        scratch[1]
