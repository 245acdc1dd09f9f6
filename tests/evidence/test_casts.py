"""A cast to few bits differs everywhere: what is measured is whether it differs by more than the bits explain."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import graphprune as gp
from graphprune.errors import InputError, VerificationError
from graphprune.ir.graph import Graph, Weight
from graphprune.passes.cast_precision import CastPrecision
from graphprune.pipelines.proving import verify_pass
from tests.evidence.quiet import headed

node = helper.make_node
FLOAT = (TensorProto.FLOAT, [1, 3, 6, 6])


def shallow() -> onnx.ModelProto:
    """Scores that vary by less than a step of float16."""
    tail = [node("Mul", ["z", "tiny"], ["t"]), node("Add", ["t", "one"], ["y"])]
    return headed(tail, {"y": FLOAT}, tiny=np.full(1, 1e-5), one=np.ones(1))


def wide() -> onnx.ModelProto:
    """A constant that dwarfs what follows the input."""
    return headed([node("Add", ["z", "far"], ["y"])], {"y": FLOAT}, far=np.full(1, 300.0))


def flat() -> onnx.ModelProto:
    """Probabilities that are nearly zero or one."""
    tail = [node("Mul", ["z", "sharp"], ["s"]), node("Sigmoid", ["s"], ["y"])]
    return headed(tail, {"y": FLOAT}, sharp=np.full(1, 3.0))


@pytest.mark.parametrize("make", [shallow, wide, flat], ids=lambda m: m.__name__)
def test_a_cast_that_loses_no_more_than_its_bits_is_not_refused(make: type[onnx.ModelProto]) -> None:
    gp.optimize(gp.load(make()), "cast-precision", verify_each=True)


def spoiled(graph: Graph) -> Graph:
    value = next(v for v in graph.weights().values() if v.sizes == (3, 8, 1, 1))
    assert value.weight is not None
    value.weight = Weight.of(np.roll(value.weight.array(), 1, 1))
    return graph


@pytest.mark.parametrize("make", [shallow, wide, flat], ids=lambda m: m.__name__)
def test_a_broken_cast_is_never_proven(make: type[onnx.ModelProto]) -> None:
    step, before = CastPrecision(), gp.load(make())
    try:
        told = verify_pass(before, spoiled(step.run(before)), step, None, False)
    except VerificationError:
        return
    assert make is shallow, "the outputs tell"
    assert "NOT PROVEN" in told[0].text


def test_samples_decide_on_a_cast(tmp_path: Path) -> None:
    """With loud inputs the scores vary by more than a step of float16."""
    step, before = CastPrecision(), gp.load(shallow())
    loud = {"x": (1e3 * np.random.default_rng(0).standard_normal((4, 4, 6, 6))).astype(np.float32)}
    assert not verify_pass(before, step.run(before), step, loud, True)
    with pytest.raises(VerificationError, match="the outputs differ by"):
        verify_pass(before, spoiled(step.run(before)), step, loud, False)
    np.savez(tmp_path / "loud.npz", **loud)
    gp.optimize(before, "cast-precision", verify_each=True, data=tmp_path / "loud.npz", strict=True)


def test_data_that_nobody_looks_at_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.zeros((1, 4, 6, 6), np.float32))
    with pytest.raises(InputError, match="looks at data .* neither does --verify-each"):
        gp.optimize(gp.load(wide()), "cleanup", data=tmp_path / "d.npz")
    gp.optimize(gp.load(wide()), "fold-constants", verify_each=True, data=tmp_path / "d.npz")
