"""The surface of TensorRT's Python bindings as data: `python tensorrt_surface.py` prints that of the ones installed.

Needs nothing but the bindings: pybind11 writes each method's signature into its docstring.
"""

from __future__ import annotations

import ctypes
import json
import re
import sys
from typing import Any

CLASSES = """Builder Dims EngineInspector IBuilderConfig ICudaEngine IExecutionContext IHostMemory ILayer ILogger
INetworkDefinition IOptimizationProfile IProgressMonitor ITensor ITimingCache OnnxParser ParserError Runtime""".split()
ENUMS = """BuilderFlag DataType ErrorCode ILogger.Severity LayerInformationFormat MemoryPoolType
NetworkDefinitionCreationFlag ProfilingVerbosity TensorIOMode""".split()

_SPECIAL = ("__init__", "__len__", "__getitem__", "__iter__")
_SIGNATURE = re.compile(r"^(?:\d+\. )?\w*\((.*)\) -> (.*)$")
_RENAMED = [
    (r"(?:tensorrt_bindings|tensorrt)\.tensorrt\.", ""),
    (r"typing\.SupportsInt|SupportsIndex", "int"),
    (r"typing\.SupportsFloat", "float"),
    (r"typing_extensions\.Buffer|\bbuffer\b", "Buffer"),
    (r"collections\.abc\.Sequence|\bList\b", "Sequence"),
    (r"nvonnxparser::IParserError", "ParserError"),
    (r"nvinfer1::", ""),
]
_PLAIN = {"int", "float", "str", "bool", "Buffer", "tuple", "list", "object", "None"}
_BUFFER_SLOT = 160 // ctypes.sizeof(ctypes.c_void_p)  # tp_as_buffer of CPython's type object, on 64 bits


def surface(module: Any) -> dict[str, Any]:
    """Every class and enum in use here, with all members, but for the `add_...` of networks built by hand."""
    return {
        "version": module.__version__,
        "classes": {name: _class(_find(module, name)) for name in CLASSES},
        "enums": {name: sorted(_find(module, name).__members__) for name in ENUMS},
    }


def _find(module: Any, name: str) -> Any:
    for part in name.split("."):
        module = getattr(module, part)
    return module


def _class(cls: Any) -> dict[str, Any]:
    names = [n for n in dir(cls) if (n in _SPECIAL or not n.startswith("_")) and not n.startswith("add_")]
    names += ["add_optimization_profile"] if hasattr(cls, "add_optimization_profile") else []
    members = {name: _member(getattr(cls, name)) for name in names}
    return {"buffer": _has_buffer(cls), "members": {n: m for n, m in sorted(members.items()) if m is not None}}


def _member(member: Any) -> dict[str, Any] | None:
    """A property's type and whether it can be set, or a method's signatures; None for anything else."""
    if isinstance(member, property):
        type_ = _signatures(member.fget)[-1:] or [{"returns": "Any"}]
        return {"type": type_[0]["returns"], "settable": member.fset is not None}
    found = _signatures(member) if callable(member) else None
    return {"signatures": found} if found else None


def _signatures(member: Any) -> list[dict[str, Any]]:
    lines = (getattr(member, "__doc__", None) or "").splitlines()
    matches = [match for line in lines if (match := _SIGNATURE.match(line.strip()))]
    matches = [m for m in matches if "*args, **kwargs" not in m[1]]
    return [{"takes": _arguments(m[1]), "returns": _type(m[2])} for m in matches]


def _arguments(text: str) -> list[list[str]]:
    """[name, type, "optional" or "required"] of each argument but `self`."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[(<") - (letter in "])>")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    found = []
    for part in parts[1:]:
        name, _, rest = part.strip().partition(":")
        type_, equals, _ = rest.partition("=")
        found.append([name, _type(type_), "optional" if equals else "required"])
    return found


def _type(text: str) -> str:
    text = text.strip()
    for pattern, new in _RENAMED:
        text = re.sub(pattern, new, text)
    inner = re.fullmatch(r"Sequence\[(.*)\]|list\[(.*)\]", text)
    if inner:
        return f"Sequence[{_type(inner[1] or inner[2])}]"
    return text if text in {*_PLAIN, *CLASSES, *ENUMS} else "Any"


def _has_buffer(cls: type) -> bool:
    """Whether instances can be read as bytes: what `__buffer__` tells from Python 3.12 on."""
    slots = ctypes.cast(id(cls), ctypes.POINTER(ctypes.POINTER(ctypes.c_void_p)))
    return bool(slots[_BUFFER_SLOT]) and bool(slots[_BUFFER_SLOT][0])


def stub(surface: dict[str, Any]) -> str:
    """The surface as a `.pyi`, for mypy."""
    head = ["from collections.abc import Iterator, Sequence", "from typing import Any, overload"]
    lines = [*head, "from typing_extensions import Buffer", "__version__: str"]
    for name, members in surface["enums"].items():
        if "." not in name:
            lines += _enum_stub(name, name, members, "")
    for name, found in surface["classes"].items():
        lines.append(f"class {name}:")
        for inner, members in surface["enums"].items():
            if inner.startswith(f"{name}."):
                lines += _enum_stub(inner, inner.partition(".")[2], members, "    ")
        if found["buffer"]:
            lines.append("    def __buffer__(self, flags: int, /) -> memoryview: ...")
        for member, about in found["members"].items():
            lines += _member_stub(member, about)
        if "__getitem__" in found["members"]:  # what can be indexed from 0 on can be iterated
            lines.append("    def __iter__(self) -> Iterator[int]: ...")
    return "\n".join(lines) + "\n"


def _enum_stub(full: str, name: str, members: list[str], indent: str) -> list[str]:
    body = [f"    {member}: {full}" for member in members]
    return [indent + line for line in (f"class {name}:", *body, "    name: str", "    def __int__(self) -> int: ...")]


def _member_stub(name: str, about: dict[str, Any]) -> list[str]:
    if "type" in about:
        lines = ["    @property", f"    def {name}(self) -> {about['type']}: ..."]
        setter = [f"    @{name}.setter", f"    def {name}(self, value: {about['type']}) -> None: ..."]
        return lines + (setter if about["settable"] else [])
    lines = []
    for signature in about["signatures"]:
        takes = [f"{n}: {_taken(t)}{' = ...' if o == 'optional' else ''}" for n, t, o in signature["takes"]]
        lines += ["    @overload"] if len(about["signatures"]) > 1 else []
        lines.append(f"    def {name}({', '.join(['self', *takes])}) -> {signature['returns']}: ...")
    return lines


def _taken(type_: str) -> str:
    """Sequences are converted to `Dims`."""
    return "Dims | Sequence[int]" if type_ == "Dims" else type_


if __name__ == "__main__":
    import tensorrt

    json.dump(surface(tensorrt), sys.stdout, indent=1, sort_keys=True)
