"""Names that a caller gives: the one that is meant, or a sentence that says which there are."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from .errors import InputError


def pick(what: str, name: str, known: Iterable[str]) -> str:
    """The name among those known that is meant: itself, or the only one that differs in upper and lower case.

    `what` is what is named: "criterion". Raises InputError, which lists the known names and asks for a near one.
    """
    names = list(known)
    if name in names:
        return name
    alike = [other for other in names if other.casefold() == name.casefold()]
    if len(alike) == 1:
        return alike[0]
    raise InputError(f"unknown {what} '{name}'{meant(name, names)}; known are {', '.join(names)}")


def meant(name: str, known: Iterable[str]) -> str:
    """The end of a sentence that asks whether a near name was meant; empty where none is near."""
    by_fold = {other.casefold(): other for other in known}
    near = get_close_matches(name.casefold(), by_fold, n=1)
    return f", did you mean '{by_fold[near[0]]}'?" if near else ""
