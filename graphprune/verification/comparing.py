"""Whether the results of two models are the same, are different, or say too little to tell.

Three numbers decide, for each output: how much it varies with the input (the signal), how much float arithmetic alone
moves it (the noise, measured on the reference), and how far the two models are apart. A difference is one if it is
clearly above the noise; agreement means something only where the signal is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphprune.ops.base import Array

from .leaves import Leaves

PASSED, FAILED, UNDECIDED = "passed", "FAILED", "undecided"

#: A difference is forgiven if it is at most this many times what rounding does to the reference itself.
ROUNDING = 10.0
#: What is allowed in all may be at most this share of the signal: else agreement says nothing.
RESOLVED = 0.1
#: Larger numbers stand for infinity, in masks mostly, and would drown everything else.
_ENDLESS = 1e30
#: Outputs whose indices along an axis are of sizes further apart than this (boxes and scores) are compared in parts.
_APART = 1e2
#: Indices of an axis along which parts are looked for.
_MOST_INDICES = 4096


#: What is said of an output without any finite element.
NOWHERE = "is nowhere a number"


@dataclass(frozen=True)
class Limits:
    """The difference allowed: as a share of the signal; as a share of each element, for roundings; and as a multiple of
    the noise. `typical` asks for the typical difference (its root mean square) in the place of the largest.
    """

    share: float
    floor: float
    rounding: float = ROUNDING
    typical: bool = False


@dataclass(frozen=True)
class Finding:
    """What comparing one output gave: the largest difference and what was allowed, both as shares of the signal.

    `measured` says whether the noise is among what was allowed: before it is, nothing but a pass is final.
    """

    output: str
    verdict: str
    error: float = 0.0
    allowed: float = 0.0
    why: str = ""
    measured: bool = False

    @property
    def open(self) -> bool:
        """Whether measuring the noise may still change the verdict."""
        return self.verdict != PASSED and not self.measured


Runs = Sequence[Leaves]
#: What the reference gave, and what is compared with it (nothing where that has no such output).
Pairs = Sequence[tuple[Array, Array | None]]


def compare(
    expected: Runs, found: Runs, limits: Limits, noise: Sequence[Runs] | None = None, units: Runs | None = None
) -> list[Finding]:
    """A finding for each output, over runs on several inputs. `noise` are the reference's results with roundings, each
    for the first inputs; `units` are the runs of the reference that say how much it varies, if not the expected ones.
    """
    odd = next((text for w, h in zip(expected, found, strict=True) if (text := _odd(w, h))), None)
    if odd is not None:
        fixed = len({tuple(run) for run in expected}) == 1
        shaky = any(set(w) != set(n) for runs in noise or () for w, n in zip(expected, runs, strict=False))
        verdict = UNDECIDED if shaky else FAILED
        return [Finding(odd[0], verdict, float("inf"), limits.share, odd[1], fixed or noise is not None)]
    names = list(dict.fromkeys(name for run in expected for name in run))
    found_units = expected if units is None else units
    return [
        _one(
            name,
            _pairs(name, expected, found),
            limits,
            None if noise is None else [pair for runs in noise for pair in _pairs(name, expected, runs)],
            [run[name] for run in found_units if name in run],
        )
        for name in names
    ]


def _odd(want: Leaves, have: Leaves) -> tuple[str, str] | None:
    """An output that only one of two runs has, and what to say of it."""
    for name in (*want, *have):
        if name not in have or name not in want:
            return name, f"{name} is {'missing' if name in want else 'more than there should be'}"
    return None


def _pairs(name: str, expected: Runs, found: Runs) -> Pairs:
    return [(w[name], h.get(name)) for w, h in zip(expected, found, strict=False) if name in w]


def _one(name: str, pairs: Pairs, limits: Limits, moved: Pairs | None, scale: Sequence[Array]) -> Finding:
    """One output; its parts where they are of different sizes."""
    odd = next(((w, h) for w, h in pairs if h is None or w.shape != h.shape), None)
    if odd is not None:
        text = f"{name} has shape {None if odd[1] is None else odd[1].shape} instead of {odd[0].shape}"
        fixed = len({array.shape for array in scale}) == 1
        shaky = any(n is None or w.shape != n.shape for w, n in moved or ())
        verdict = UNDECIDED if shaky else FAILED
        return Finding(name, verdict, float("inf"), limits.share, text, fixed or moved is not None)
    judged = [
        _judge(name, _cut(pairs, p), limits, None if moved is None else _cut(moved, p), [a[p] for a in scale])
        for p in _parts(scale)
    ]
    told = [f for f in judged if f.verdict == PASSED]
    quiet = [f for f in judged if f.verdict == UNDECIDED and f.error == 0]
    heard = [f for f in judged if f not in quiet]
    return max(heard if told else judged, key=lambda f: (f.verdict == FAILED, f.verdict == UNDECIDED, f.error))


def _cut(pairs: Pairs, part: Any) -> Pairs:
    return [(w[part], None if n is None or n.shape != w.shape else n[part]) for w, n in pairs]


def _judge(name: str, pairs: Pairs, limits: Limits, moved: Pairs | None, scale: Sequence[Array]) -> Finding:
    signal, floats = variation(scale), any(w.dtype.kind not in "iub" for w, _ in pairs)
    floor = limits.floor if floats else 0.0
    gap = max((_gap(w, h, floor, limits.typical) for w, h in pairs), default=0.0)
    shaken = max((_gap(w, n, floor, limits.typical) for w, n in moved or ()), default=0.0)
    allowed, unit = max(limits.share * signal, limits.rounding * shaken), signal or 1.0
    spoken = signal > 0 and max(allowed, floor * _size(scale)) <= max(RESOLVED, limits.share) * signal
    rest = gap / unit, allowed / unit
    if gap == 0 and _nowhere([w for w, _ in pairs]):
        return Finding(name, UNDECIDED, *rest, f"{name} {NOWHERE}", moved is not None)
    if gap > allowed:
        return Finding(name, FAILED, *rest, f"results differ by {gap / unit:.2g}", moved is not None)
    why = _shaky(shaken / unit, limits) if spoken else _silence(name, signal, shaken)
    return Finding(name, PASSED if spoken else UNDECIDED, *rest, why, moved is not None)


def _nowhere(arrays: Sequence[Array]) -> bool:
    """Whether there are elements, and none of them is finite."""
    some = [array.astype(np.float64) for array in arrays if array.size]
    return bool(some) and not any(np.isfinite(array).any() for array in some)


def _shaky(noise: float, limits: Limits) -> str:
    """What is worth saying of an output that passed."""
    if limits.rounding * noise <= limits.share:
        return ""
    return f"the model is ill-conditioned: rounding its inputs and weights alone changes its outputs by {noise:.2g}"


def _silence(name: str, signal: float, noise: float) -> str:
    """Why an output says nothing."""
    if noise > 0 and signal > 0:
        return f"rounding alone changes {name} by {noise / signal:.2g} of how much it depends on the input"
    return f"{name} hardly depends on the input, so this proves little"


def variation(runs: Sequence[Array]) -> float:
    """How much an output varies with the input: the standard deviation over runs, averaged over what is finite; the
    spread of one run where there is no more, or where sizes follow the input.
    """
    if not runs or not any(run.size for run in runs):
        return 0.0
    if len(runs) == 1 or any(run.shape != runs[0].shape for run in runs):
        flat = np.concatenate([run.reshape(-1).astype(np.float64) for run in runs])
        flat = flat[np.abs(flat) < _ENDLESS]
        return float(flat.std()) if flat.size else 0.0
    stack = np.stack([run.astype(np.float64) for run in runs])
    usual = (np.abs(stack) < _ENDLESS).all(axis=0)
    return float(stack[:, usual].std(axis=0).mean()) if usual.any() else 0.0


def _size(runs: Sequence[Array]) -> float:
    flat = np.concatenate([np.abs(run.reshape(-1).astype(np.float64)) for run in runs]) if runs else np.zeros(0)
    flat = flat[flat < _ENDLESS]
    return float(flat.mean()) if flat.size else 0.0


def _gap(want: Array, have: Array | None, floor: float, typical: bool) -> float:
    """Largest (or typical) absolute difference of finite elements beyond `floor` of their size; infinite where one is
    finite and the other is not.
    """
    if have is None or want.shape != have.shape:
        return float("inf")
    wide, other = want.astype(np.float64), have.astype(np.float64)
    finite = np.isfinite(wide)
    if (finite != np.isfinite(other)).any():
        return float("inf")
    if not finite.any():
        return 0.0
    wide, other = wide[finite], other[finite]
    beyond = np.maximum(np.abs(wide - other) - floor * np.abs(wide), 0)
    return float(np.sqrt(np.mean(beyond**2)) if typical else beyond.max())


def _parts(runs: Sequence[Array]) -> list[tuple[Any, ...]]:
    """Indexers of the parts of an output: all of it, or what is of one size along the axis where sizes differ most."""
    first = runs[0]
    if first.ndim < 2 or not first.size or any(run.shape != first.shape for run in runs):
        return [()]
    sizes = np.max([np.abs(np.nan_to_num(run.astype(np.float64), posinf=0, neginf=0)) for run in runs], axis=0)
    best, axis, along = _APART, -1, np.zeros(0)
    for at, count in enumerate(first.shape):
        if 1 < count <= _MOST_INDICES:
            own = sizes.max(axis=tuple(a for a in range(first.ndim) if a != at))
            some = own[own > 0]
            if some.size and some.max() / some.min() > best:
                best, axis, along = float(some.max() / some.min()), at, own
    if axis < 0:
        return [()]
    level = np.floor(np.log10(np.maximum(along, along.max() * 1e-30) / along.max()) / 2)
    return [(*[slice(None)] * axis, np.flatnonzero(level == one)) for one in np.unique(level)]
