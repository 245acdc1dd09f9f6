"""graphprune: a compiler that makes trained neural networks smaller and really faster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import (
        Masks,
        Plan,
        Result,
        SparseResult,
        apply,
        benchmark,
        blocks,
        capture,
        channels,
        couple,
        emit,
        inspect,
        inspect_sparsity,
        load,
        load_compact,
        macs,
        optimize,
        params,
        plan,
        prune,
        restore_compact,
        save,
        save_compact,
        sparsify,
        verify,
        verify_files,
    )

__all__ = [
    "Masks",
    "Plan",
    "Result",
    "SparseResult",
    "apply",
    "benchmark",
    "blocks",
    "capture",
    "channels",
    "couple",
    "emit",
    "inspect",
    "inspect_sparsity",
    "load",
    "load_compact",
    "macs",
    "optimize",
    "params",
    "plan",
    "prune",
    "restore_compact",
    "save",
    "save_compact",
    "sparsify",
    "verify",
    "verify_files",
]


def __getattr__(name: str) -> Any:
    """Names of the public functions, found on first use so that `import graphprune` stays light."""
    if name in __all__:
        from importlib import import_module

        value = getattr(import_module(".api", __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
