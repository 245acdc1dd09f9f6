"""What depth pruning may take out: residual branches and whole repeated blocks, found from the graph alone."""

from __future__ import annotations

from .data import Block
from .find import find_blocks
from .scores import SCORES, Score, score
from .selection import choose

__all__ = ["SCORES", "Block", "Score", "choose", "find_blocks", "score"]
