"""Running a checkpoint's graph operator by operator, so that only the weights in use are in memory."""

from __future__ import annotations

from ..torch.run.drawing import is_random
from ..torch.run.execute import change_inputs, instrument, random_inputs, run, run_all
from ..torch.run.inner import run_inner
from ..torch.run.spans import named_inputs, spans

__all__ = [
    "change_inputs",
    "instrument",
    "is_random",
    "named_inputs",
    "random_inputs",
    "run",
    "run_all",
    "run_inner",
    "spans",
]
