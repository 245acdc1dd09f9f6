"""Pipelines."""
from __future__ import annotations
from dataclasses import dataclass
from typing import Any
@dataclass(frozen=True)
class PassTiming:
    name: str
    seconds: float
    changed: bool
def parse_pipeline(text: str) -> Any: ...
def run_pipeline(graph: Any, passes: Any, *, verify_each: bool = False) -> Any: ...
