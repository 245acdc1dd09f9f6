"""Fixtures that the tests of TensorRT share."""

from __future__ import annotations

import pytest

from tests.runtimes import models
from tests.runtimes.tensorrt_fake import install
from tests.runtimes.tensorrt_world import World


@pytest.fixture(params=[10, 11])
def major(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, major: int) -> World:
    """A TensorRT for `models.linear`, of both versions in turn; its networks are fp16 inside."""
    made = World(compute=lambda x: [x @ models.weight(models.linear()) + 1], layers=("HALF", "INT64"))
    install(monkeypatch, major, made)
    return made
