"""The search for the values of size attributes at which the caller's own class computes what the graph computes.

First every attribute of a module whose own operators changed takes its new size. A class that raises is mended where it
raises: the attributes of the modules on the way to the error take other values, and what lets more of it run stays.
Where that does not do, attributes of modules further up that `forward` reads join, and it is mended again. Last, values
are tried in turn: first of all that had the same size, which may be another size by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, combinations, islice
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from graphprune.ir.graph import Graph

from ..origin import origin_of
from ..run.modes import mode_of, split_inputs
from .causes import modules_on_the_way
from .size_settings import Setting, reads, settings, size_changes, with_descendants, with_results

#: Attributes, or sets of alike ones, for which other values are tried.
_MOST_TRIED = 16
#: Runs of a class that raises.
_MOST_RUNS = 100

#: Says what is wrong with a module; nothing if it will do.
Trial = Callable[[nn.Module], str]


class Adapting:
    """The size attributes of a rebuilt module, and the search for their values."""

    def __init__(self, graph: Graph, module: nn.Module, inputs: Any) -> None:
        self._graph, self._module, self._inputs = graph, module, inputs
        changes = size_changes(graph)
        self._changes = changes
        self._near = settings(module, changes)
        self._chosen: dict[Setting, Any] = {}
        self._runs_left = _MOST_RUNS

    def search(self, trial: Trial) -> str | None:
        """Set the attributes; what they became, in words, or None where nothing helped."""
        first = {s: s.candidates[0] for s in self._near}
        self._choose(first)
        if first and (not trial(self._module) or (self._mended() and not trial(self._module))):
            return self.describe()
        self._choose(first | {s: s.candidates[0] for s in self._further()})
        if not self._chosen:
            return None
        if self._runs() and (not trial(self._module) or self._put_back(trial) or self._toggle(trial)):
            return self.describe()
        return None

    def describe(self) -> str:
        """What became of the attributes."""
        changed = [(s, v) for s, v in self._chosen.items() if v != s.before]
        moved = [f"{s.path}.{s.name}: {s.before} -> {v}".lstrip(".") for s, v in changed]
        more = f" and {len(moved) - 3} more" if len(moved) > 3 else ""
        return ", ".join(moved[:3]) + more

    def _choose(self, values: dict[Setting, Any]) -> None:
        self._chosen.update(values)
        for setting, value in values.items():
            setting.set(value)

    def _further(self) -> list[Setting]:
        """Attributes of modules that hold changed ones, or make results of other sizes, where the class reads them."""
        known = {(s.path, s.name) for s in self._near}
        changes = with_results(self._graph, with_descendants(self._changes))
        further = [s for s in settings(self._module, changes) if (s.path, s.name) not in known]
        if not further:
            return []
        read = _read_by(self._graph)
        return further if read is None else [s for s in further if (s.path, s.name) in read]

    def _mended(self) -> bool:
        """Whether attributes took other values, by which the class runs."""
        before = dict(self._chosen)
        return self._runs() and self._chosen != before

    def _runs(self) -> bool:
        """Let the class run on the example by other values where it raises; whether it does."""
        stop: _Stop | None = _run(self._module, self._inputs)
        self._runs_left = _MOST_RUNS
        while stop is not None and stop.error is not None:
            stop = self._further_than(stop)
        return stop is not None

    def _further_than(self, stop: _Stop) -> _Stop | None:
        """Take the first way by which more of the class runs; how far it comes then, None where no way does."""
        for values in self._ways_on(stop):
            if not self._runs_left:
                return None
            self._runs_left -= 1
            before = {s: self._chosen[s] for s in values}
            self._choose(values)
            found = _run(self._module, self._inputs)
            if found.error is None or found.reached > stop.reached:
                return found
            self._choose(before)
        return None

    def _ways_on(self, stop: _Stop) -> Iterator[dict[Setting, Any]]:
        """Other values of what the modules on the way to an error have, innermost first, with alike ones to come."""
        assert stop.error is not None
        for owner in modules_on_the_way(stop.error):
            for setting in [s for s in self._chosen if s.owner is owner]:
                alike = [s for s in self._chosen if _key(s) == _key(setting) and s.owner not in stop.done]
                for value in (setting.before, *setting.candidates):
                    if value != self._chosen[setting]:
                        yield dict.fromkeys([setting, *alike], value)

    def _put_back(self, trial: Trial) -> bool:
        """Try what has one of some sizes as it was: a number of positions may equal one of channels by chance."""
        sizes: dict[str, list[Setting]] = {}
        for setting in self._chosen:
            sizes.setdefault(repr(setting.before), []).append(setting)
        several = chain.from_iterable(combinations(sizes.values(), count) for count in range(1, len(sizes)))
        for some in islice(several, _MOST_TRIED):
            before = {s: self._chosen[s] for same in some for s in same}
            self._choose({s: s.before for s in before})
            if not trial(self._module):
                return True
            self._choose(before)
        return False

    def _toggle(self, trial: Trial) -> bool:
        """Try other values for alike attributes together, then one by one."""
        alike = _alike(self._chosen)
        for same in [*alike, *([one] for several in alike if len(several) > 1 for one in several)][:_MOST_TRIED]:
            before = {s: self._chosen[s] for s in same}
            for value in (same[0].before, *same[0].candidates):
                if value != self._chosen[same[0]]:
                    self._choose(dict.fromkeys(same, value))
                    if not trial(self._module):
                        return True
            self._choose(before)
        return False


def _key(setting: Setting) -> str:
    return f"{type(setting.owner)} {setting.name} {setting.before} {setting.candidates}"


def _alike(found: Iterable[Setting]) -> list[list[Setting]]:
    """Attributes of one name and value in modules of one class: the layers of a network."""
    groups: dict[str, list[Setting]] = {}
    for setting in found:
        groups.setdefault(_key(setting), []).append(setting)
    return list(groups.values())


def _read_by(graph: Graph) -> set[tuple[str, str]] | None:
    """The attributes that the caller's own module reads when it runs, in either mode; None where it cannot be run."""
    origin = origin_of(graph)
    assert origin.module is not None
    found: set[tuple[str, str]] | None = None
    for training in (False, True):
        with suppress(Exception), mode_of(origin.module, training=training), torch.no_grad():
            with reads(origin.module) as seen:
                origin.module(*origin.args, **origin.kwargs)
            found = seen | (found or set())
    return found


@dataclass(frozen=True)
class _Stop:
    """How far a run came: the error, the operators before it, the modules that were done."""

    error: Exception | None
    reached: int
    done: frozenset[nn.Module]


class _Counting(TorchFunctionMode):
    """Counts what is asked of tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def _run(module: nn.Module, inputs: Any) -> _Stop:
    args, kwargs = split_inputs(inputs)
    entered: list[nn.Module] = []
    handle = register_module_forward_pre_hook(lambda child, _: entered.append(child))
    error, counting = None, _Counting()
    try:
        with mode_of(module, training=False), torch.no_grad(), counting:
            module(*args, **kwargs)
    except Exception as raised:
        error = raised
    finally:
        handle.remove()
    open_still = set() if error is None else set(modules_on_the_way(error))
    return _Stop(error, counting.count, frozenset(m for m in entered if m not in open_still))
