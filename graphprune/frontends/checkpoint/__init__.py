"""The checkpoint frontend: a `transformers` folder (config.json and safetensors) in, a folder out.

The graph is captured without weights; they are read from the shards one at a time, whenever one is asked for.
"""

from __future__ import annotations

from .configured import emit_configured, is_configured, outdated
from .emission import emit
from .loading import from_config, let_states_follow, load
from .pretrained import pretrained
from .ruling import rulers
from .running import change_inputs, instrument, is_random, named_inputs, random_inputs, run, run_all, run_inner, spans
from .writing import save

__all__ = [
    "change_inputs",
    "emit",
    "emit_configured",
    "from_config",
    "instrument",
    "is_configured",
    "is_random",
    "let_states_follow",
    "load",
    "named_inputs",
    "outdated",
    "pretrained",
    "random_inputs",
    "rulers",
    "run",
    "run_all",
    "run_inner",
    "save",
    "spans",
]
