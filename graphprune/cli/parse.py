"""Option values: text in, typed values out, `InputError` naming the option where the text makes no sense."""

from __future__ import annotations

from collections.abc import Sequence

from graphprune.errors import InputError
from graphprune.pruning.budgets.targets import KINDS as TARGETS
from graphprune.registry import pick

_LATER_TARGETS = ("latency",)

Shapes = list[tuple[int, ...]] | dict[str, tuple[int, ...]]


def parse_targets(texts: Sequence[str]) -> list[str]:
    """The targets given (`macs=0.5`), each checked; raises InputError for two of one kind."""
    kinds = [_target_kind(text) for text in texts]
    for kind in kinds:
        if kinds.count(kind) > 1:
            raise InputError(f"--target {kind} is given {kinds.count(kind)} times; give each kind of target once")
    return list(texts)


def _target_kind(text: str) -> str:
    """What a target is about, once all of it is checked."""
    key, equals, value = text.partition("=")
    if key in _LATER_TARGETS:
        raise InputError(f"--target {key}=... comes with a later version; the targets are {_listed(TARGETS)}")
    try:
        key = pick("target", key.strip(), TARGETS)
    except InputError as error:
        raise InputError(f"--target '{text}': {error} (written {TARGETS[0]}=0.5)") from None
    if not equals:
        raise InputError(f"--target '{text}' has no value; write for instance {key}=0.5")
    parse_ratio(value, f"--target '{text}'")
    return key


def parse_ratio(text: str, option: str) -> float:
    """A share to keep, in (0, 1]."""
    try:
        ratio = float(text)
    except ValueError:
        raise InputError(f"{option}: '{text}' is not a number") from None
    if not 0 < ratio <= 1:
        raise InputError(f"{option}: the share to keep must be above 0 and at most 1, not {text}")
    return ratio


def parse_overrides(texts: Sequence[str]) -> dict[str, float]:
    """`layer1.*=0.75` as {"layer1.*": 0.75}."""
    overrides = {}
    for text in texts:
        pattern, equals, value = text.rpartition("=")
        if not equals or not pattern:
            raise InputError(f"--override '{text}': write GLOB=RATIO, for instance 'layer1.*=0.75'")
        overrides[pattern] = parse_ratio(value, f"--override '{text}'")
    return overrides


def parse_shapes(texts: Sequence[str]) -> Shapes | None:
    """`1,3,224,224`, in the order of the inputs, or `name=1,3,224,224`; None where none is given."""
    if not texts:
        return None
    named: dict[str, tuple[int, ...]] = {}
    ordered: list[tuple[int, ...]] = []
    for text in texts:
        name, equals, sizes = text.rpartition("=")
        if equals and (not name or name in named):
            raise InputError(f"--input-shape '{text}': {'the input has no name' if not name else 'given twice'}")
        if equals:
            named[name] = _sizes(sizes, text)
        else:
            ordered.append(_sizes(sizes, text))
    if named and ordered:
        raise InputError("--input-shape: give a name with every shape or with none")
    return named or ordered


def _sizes(text: str, option: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise InputError(f"--input-shape '{option}': sizes are whole numbers above 0 with commas, as in 1,3,224,224")
    return tuple(map(int, parts))


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]} (written {names[0]}=0.5)"
