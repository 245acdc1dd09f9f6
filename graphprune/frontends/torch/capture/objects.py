"""Results that are objects of a class of their own: dataclasses, and what keeps state between runs (key-value caches).

`torch.export` takes and returns trees of containers that it knows. What it does not know is made known: a dataclass by
its fields, any other object that holds tensors by its attributes. That lasts as long as the process, since modules that
return such objects do.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Container, Iterator, Mapping
from contextlib import suppress
from dataclasses import is_dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

#: Classes that were made known here by their attributes.
_KNOWN: set[type] = set()
_MOST_DEEP = 8


class _Rest(dict[str, Any]):
    """What an object holds beside tensors. Two trees are alike whatever that is, as long as it has the same names."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Rest) and self.keys() == other.keys()

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None


def make_known(tree: Any) -> bool:
    """Make the classes known to torch's trees that a nest of containers and objects is made of; whether any was new."""
    new = False
    for item in _walk(tree, 0):
        cls = type(item)
        if cls in pytree.SUPPORTED_NODES:
            continue
        new = True
        if is_dataclass(cls):
            torch.export.register_dataclass(cls)
        else:
            _KNOWN.add(cls)
            pytree.register_pytree_node(
                cls,
                _flatten,
                partial(_unflatten, cls),
                serialized_type_name=f"{cls.__module__}.{cls.__qualname__}",
                flatten_with_keys_fn=_flatten_with_keys,
            )
    return new


def _walk(item: Any, depth: int) -> Iterator[Any]:
    """The dataclasses, and the objects that hold tensors, in a nest; those inside others first."""
    if depth > _MOST_DEEP or isinstance(item, (torch.Tensor, nn.Module, type, str, bytes)):
        return
    if isinstance(item, (Mapping, list, tuple)):
        for part in item.values() if isinstance(item, Mapping) else item:
            yield from _walk(part, depth + 1)
        return
    own = getattr(item, "__dict__", None)
    if own is None or callable(item):
        return
    for part in own.values():
        yield from _walk(part, depth + 1)
    if is_dataclass(item) or any(_holds_tensors(part, depth + 1) for part in own.values()):
        yield item


def _holds_tensors(item: Any, depth: int) -> bool:
    if isinstance(item, torch.Tensor):
        return True
    if depth > _MOST_DEEP or isinstance(item, (nn.Module, type, str, bytes)) or callable(item):
        return False
    if isinstance(item, (Mapping, list, tuple)):
        return any(_holds_tensors(i, depth + 1) for i in (item.values() if isinstance(item, Mapping) else item))
    return any(_holds_tensors(part, depth + 1) for part in getattr(item, "__dict__", {}).values())


def _flatten(item: Any) -> tuple[list[Any], Any]:
    own = vars(item)
    held = [name for name, part in own.items() if _holds_tensors(part, 1)]
    return [own[name] for name in held], (held, _Rest({n: part for n, part in own.items() if n not in held}))


def _flatten_with_keys(item: Any) -> tuple[list[tuple[Any, Any]], Any]:
    parts, context = _flatten(item)
    return [(pytree.GetAttrKey(name), part) for name, part in zip(context[0], parts, strict=True)], context


def _unflatten(cls: type, children: Any, context: Any) -> Any:
    held, rest = context
    made: Any = object.__new__(cls)
    made.__dict__.update(rest)
    made.__dict__.update(zip(held, children, strict=True))
    return made


def handed_back(module: nn.Module | None, spec: pytree.TreeSpec, given: Container[str]) -> list[bool]:
    """For each leaf of a module's result: whether it lies in an object that the caller hands back in the next run.

    Such an object (a key-value cache) comes out under the name of an argument of `forward`, or is of a class that an
    argument is annotated with. Nobody looks into it, so that its tensors may have other sizes. A list or tuple (a
    recurrent state) is one where it has the name of an argument that is not among those `given`, so that the model
    makes the first by itself.
    """
    parameters = {} if module is None else _parameters(module)

    def look(node: pytree.TreeSpec, key: Any, inside: bool) -> Iterator[bool]:
        if node.is_leaf():
            yield inside
            return
        inside = inside or (node.type in _KNOWN and _is_argument(node.type, key, parameters))
        inside = inside or (node.type in (list, tuple) and key in parameters and key not in given)
        children = node.children()
        context = node.context
        keyed = isinstance(node.type, type) and issubclass(node.type, Mapping) and isinstance(context, (list, tuple))
        names = context if keyed and len(context) == len(children) else [None] * len(children)
        for name, child in zip(names, children, strict=True):
            yield from look(child, name, inside)

    return list(look(spec, None, False))


def _parameters(module: nn.Module) -> dict[str, Any]:
    """The arguments of `forward`, each with what it is annotated with."""
    hints: dict[str, Any] = {}
    with suppress(Exception):
        hints = typing.get_type_hints(type(module).forward)
    found: dict[str, Any] = {}
    with suppress(ValueError, TypeError):
        for name, parameter in inspect.signature(module.forward).parameters.items():
            found[name] = hints.get(name, parameter.annotation)
    return found


def _is_argument(cls: type, key: Any, parameters: Mapping[str, Any]) -> bool:
    if key in parameters:
        return True
    names = {base.__name__ for base in cls.__mro__ if base is not object}
    for annotation in parameters.values():
        wanted = [annotation, *typing.get_args(annotation)]
        if any(isinstance(want, type) and want is not object and issubclass(cls, want) for want in wanted):
            return True
        if isinstance(annotation, str) and names & set(re.findall(r"\w+", annotation)):
            return True
    return False
