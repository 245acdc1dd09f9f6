"""Options as text: `name=value` pairs that become the fields of a dataclass, for passes and runtimes alike."""

from __future__ import annotations

import re
import types
import typing
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from graphprune.errors import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Made = TypeVar("Made", bound="DataclassInstance")

_OPTION = re.compile(r"""\s*([\w-]+)\s*=\s*((?:"[^"]*"|'[^']*'|[^\s"'=])+)(?=\s|$)""")
_TRUTH = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}


def fill(owner: str, cls: type[Made], text: str) -> Made:
    """An instance of a dataclass, its fields given as `name=value name=value`.

    `owner` is whose options they are, for messages: "pass 'sparsify'". Raises InputError.
    """
    hints = get_type_hints(cls)
    known = {f.name: f for f in fields(cls) if f.init}
    given: dict[str, Any] = {}
    for key, value in _options(owner, text):
        own = key.replace("-", "_")
        if own not in known:
            raise InputError(f"{owner} has no option '{key}'; {_listed(known)}")
        if own in given:
            raise InputError(f"{owner}: option '{key}' is given twice")
        given[own] = _parse(owner, key, value, hints[own])
    missing = [f.name for f in known.values() if f.name not in given and f.default is f.default_factory is MISSING]
    if missing:
        raise InputError(f"{owner} needs the option '{missing[0]}'")
    return cls(**given)


def _listed(known: dict[str, Any]) -> str:
    return f"its options are {', '.join(sorted(known))}" if known else "it has no options"


def _options(owner: str, text: str) -> list[tuple[str, str]]:
    found, position = [], 0
    while text[position:].strip():
        option = _OPTION.match(text, position)
        if option is None:
            rest = text[position:].strip()
            raise InputError(f"{owner}: expected option=value (options are separated by spaces), found '{rest}'")
        found.append((option[1], re.sub("[\"']", "", option[2])))
        position = option.end()
    return found


def _parse(owner: str, option: str, text: str, hint: Any) -> Any:
    """A value of the type a field is declared with: int, float, bool, str, a tuple of str, or one of these or None."""
    if get_origin(hint) in (types.UnionType, typing.Union):
        hint = next(a for a in get_args(hint) if a is not type(None))
    if get_origin(hint) is tuple:
        return tuple(part for part in text.split(",") if part)
    try:
        return _TRUTH[text.lower()] if hint is bool else hint(text)
    except (ValueError, KeyError) as error:
        wanted = {int: "a whole number", float: "a number", bool: "true or false"}.get(hint, str(hint))
        raise InputError(f"{owner}: option '{option}' must be {wanted}, not '{text}'") from error
