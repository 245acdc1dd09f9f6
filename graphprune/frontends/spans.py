"""A model cut into spans that run one after the other, each once: what a span reads, makes and hands on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Runs a span: values by name in (arrays, or what the framework has beside them), values by name out.
SpanRunner = Callable[[Mapping[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Span:
    """A part of a model. `reads` were made by earlier spans or are inputs of the model, `makes` is what is read later.

    `taps` are the names under which the values that were asked for can then be found (`makes` has them, or an earlier
    span's, or the inputs); `done` is what no later span needs. `open` compiles it with the weights as they are now.
    """

    reads: tuple[str, ...]
    makes: tuple[str, ...]
    taps: tuple[str, ...]
    done: tuple[str, ...]
    open: Callable[[], SpanRunner]


@dataclass(frozen=True)
class Cut:
    """Steps (by position, in order) of one span, and its names; see `Span`."""

    steps: tuple[int, ...]
    reads: tuple[str, ...]
    makes: tuple[str, ...]
    done: tuple[str, ...]


def cut(
    steps: Sequence[tuple[Sequence[str], Sequence[str]]], inputs: Sequence[str], taps: Sequence[Sequence[str]]
) -> list[Cut]:
    """For each group of taps: the steps (what each reads and makes) that they need beyond those of groups before."""
    makers = {name: i for i, (_, made) in enumerate(steps) for name in made}
    known, past = {*makers, *inputs}, set[int]()
    spans: list[list[int]] = []
    for group in taps:
        spans.append(sorted(_needed(group, steps, makers, past)))
        past.update(spans[-1])
    made = [[name for i in span for name in steps[i][1]] for span in spans]
    reads = [_from_outside(span, steps, known - set(own)) for span, own in zip(spans, made, strict=True)]
    last = {name: k for k, group in enumerate(taps) for name in (*reads[k], *group)}
    found = []
    for k, span in enumerate(spans):
        makes = tuple(name for name in made[k] if last.get(name, -1) > k or name in taps[k])
        done = tuple(name for name, at in last.items() if at == k)
        found.append(Cut(tuple(span), reads[k], makes, done))
    return found


def _from_outside(
    span: Sequence[int], steps: Sequence[tuple[Sequence[str], Sequence[str]]], known: set[str]
) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for i in span for name in steps[i][0] if name in known))


def _needed(
    names: Sequence[str],
    steps: Sequence[tuple[Sequence[str], Sequence[str]]],
    makers: Mapping[str, int],
    past: set[int],
) -> set[int]:
    found: set[int] = set()
    queue = [makers[name] for name in names if name in makers]
    while queue:
        at = queue.pop()
        if at not in found and at not in past:
            found.add(at)
            queue += [makers[name] for name in steps[at][0] if name in makers]
    return found
