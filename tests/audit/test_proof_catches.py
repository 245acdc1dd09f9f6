"""A proof that passes everything proves nothing: any weight of a pruned model that is off must show."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import graphprune as gp
from tests.audit.models import network

WEIGHTS = [t.name for t in network().graph.initializer if t.data_type == onnx.TensorProto.FLOAT]


@pytest.fixture(scope="module")
def pruned() -> gp.Result:
    return gp.prune(network(), target=gp.channels(0.5))


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_weight_that_is_off_fails_verification(pruned: gp.Result, name: str) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(pruned.model)
    tensor = next(t for t in model.graph.initializer if t.name == name)
    array = numpy_helper.to_array(tensor)
    noise = np.random.default_rng(0).random(array.shape, np.float32)
    tensor.CopyFrom(numpy_helper.from_array(array * (1 + 0.2 * noise), name))
    proof = gp.verify(pruned.coupling, model, pruned.plan, inputs=2)
    assert not proof.passed
    assert proof.max_error > 2 * proof.tolerance
