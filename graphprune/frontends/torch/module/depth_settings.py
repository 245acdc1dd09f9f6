"""Numbers that go with the depth of a model: how many layers a list has, and which one a layer is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

_DEPTH = frozenset("layer layers block blocks depth h".split())
_FILLERS = frozenset("num n number of hidden type types".split())


def renumber(children: list[nn.Module], places: list[int]) -> None:
    """Attributes that hold the place of each child in its list follow it to its new place."""
    staying = [at for at in range(len(children)) if at not in places]
    if len(children) < 2:
        return
    for path, module in children[0].named_modules():
        for name in vars(module):
            owners = [_owner(child, path) for child in children]
            if all(_number(owner, name) == at for at, owner in enumerate(owners)):
                for new, old in enumerate(staying):
                    setattr(owners[old], name, new)


def _owner(child: nn.Module, path: str) -> nn.Module | None:
    try:
        return child.get_submodule(path)
    except AttributeError:
        return None


def _number(owner: nn.Module | None, name: str) -> int | None:
    value = vars(owner).get(name) if owner is not None else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def follow(module: nn.Module, path: str, count: int, places: list[int]) -> list[str]:
    """Settings that count the children of the list at `path`, or list something for each, lose `places`.

    A setting does where its value is that count (or so many items) and its name speaks of layers or of the list itself
    (`num_experts` of `experts`), and of no other part of the model than one on the path. Looked at are the modules on
    the path and the plain objects they hold.
    """
    notes = []
    for label, holder in _holders(module, path):
        found = {name: value for name, value in vars(holder).items() if _counts(name, value, count, path)}
        named = {name for name in found if _words(name) & _words(path) - _DEPTH}
        for name, value in found.items():
            if named and name not in named and isinstance(value, int):
                continue
            fresh = value - len(places) if isinstance(value, int) else _shorter(value, places)
            setattr(holder, name, fresh)
            if isinstance(value, int):
                notes.append(f"{label}{name}: {value} -> {fresh}")
    return notes


def _holders(module: nn.Module, path: str) -> Iterator[tuple[str, Any]]:
    """The modules from the whole model down to the list, and the objects that their attributes hold, each once."""
    parts, seen = path.split(".") if path else [], set()
    for depth in range(len(parts) + 1):
        owner = module.get_submodule(".".join(parts[:depth]))
        yield "".join(f"{part}." for part in parts[:depth]), owner
        for name, value in list(vars(owner).items()):
            if not name.startswith("_") and _plain(value) and id(value) not in seen:
                seen.add(id(value))
                yield "".join(f"{part}." for part in [*parts[:depth], name]), value


def _plain(value: Any) -> bool:
    return hasattr(value, "__dict__") and not callable(value) and not isinstance(value, nn.Module | type)


def _counts(name: str, value: Any, count: int, path: str) -> bool:
    many = value if isinstance(value, int) and not isinstance(value, bool) else None
    if isinstance(value, list | tuple):
        many = len(value)
    words = _words(name)
    own = _words(path.rpartition(".")[2])
    speaks = bool(words & (_DEPTH | own)) and words <= _DEPTH | _FILLERS | _words(path)
    return many == count and speaks and not name.startswith("_")


def _words(name: str) -> set[str]:
    return set(name.lower().replace(".", "_").split("_"))


def _shorter(items: Any, places: list[int]) -> Any:
    return type(items)(item for at, item in enumerate(items) if at not in places)
