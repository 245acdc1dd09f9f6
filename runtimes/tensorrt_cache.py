"""Engines that were built before: each is kept beside what it was built from, and used again only for that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from graphprune.atomic import whole
from graphprune.errors import InputError

from .tensorrt_log import Told
from .tensorrt_memory import Device

_FORMAT = 1  # of the description
_SHOWN = 16
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Fingerprint:
    """All that an engine depends on: the model's hash, the device, the versions, the options, the shapes asked for."""

    model: str
    device: Device
    tensorrt: str
    options: Mapping[str, Any]
    shapes: Any = None

    def described(self) -> dict[str, Any]:
        """As JSON-ready data."""
        data: dict[str, Any] = json.loads(json.dumps({"format": _FORMAT, **asdict(self)}, sort_keys=True))
        return data

    @property
    def key(self) -> str:
        """A short text that differs where anything differs."""
        return hashlib.sha256(json.dumps(self.described(), sort_keys=True).encode()).hexdigest()[:_SHOWN]


@dataclass(frozen=True)
class Built:
    """A serialised engine, and what TensorRT said about sparse kernels while building it.

    `notes` are about the engine and kept with it, `events` about how it was come by this time.
    """

    plan: bytes
    eligible: Told | None = None
    chosen: Told | None = None
    notes: tuple[str, ...] = ()
    events: tuple[str, ...] = ()


class EngineCache:
    """A folder of `<model>-<key>.engine` files, each with a `.json` that describes it, and of timing caches."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def engine(self, model: str, fingerprint: Fingerprint) -> Path:
        """Where the engine of a model is kept."""
        return self.folder / f"{model}-{fingerprint.key}.engine"

    def timings(self, device: Device, tensorrt: str) -> Path:
        """Where the timings that a builder can use again are kept: those of one device and version."""
        name = "-".join(
            "".join(c if c.isalnum() or c in "._" else "_" for c in part) for part in (device.name, tensorrt)
        )
        return self.folder / f"{name}.timing"


def read_engine(path: Path, fingerprint: Fingerprint) -> tuple[Built | None, str]:
    """The engine kept at `path`, and why it cannot be used where it is None; no reason where there is none at all."""
    about = _description(path)
    if not path.exists() and not about.exists():
        return None, ""
    try:
        plan, told = path.read_bytes(), json.loads(about.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return None, f"the kept engine '{path}' cannot be read ({type(error).__name__}), so it was built anew"
    changed = _changed(told, fingerprint, plan)
    if changed:
        return None, f"the kept engine '{path}' is of another {changed}, so it was built anew"
    return Built(plan, _read_told(told, "eligible"), _read_told(told, "chosen"), tuple(told.get("notes", ()))), ""


def write_engine(path: Path, built: Built, fingerprint: Fingerprint) -> None:
    """Keep an engine: first its bytes, then what makes them valid. Each appears whole or not at all."""
    told = {
        "fingerprint": fingerprint.described(),
        "sha256": hashlib.sha256(built.plan).hexdigest(),
        "eligible": asdict(built.eligible) if built.eligible else None,
        "chosen": asdict(built.chosen) if built.chosen else None,
        "notes": built.notes,
    }
    _description(path).unlink(missing_ok=True)
    write_whole(path, built.plan)
    write_whole(_description(path), (json.dumps(told, indent=2) + "\n").encode())


def write_whole(path: Path, data: bytes) -> None:
    """Write beside `path`, then rename; folders are made. Raises `InputError` where that cannot be."""
    try:
        with whole(path, parents=True) as draft:
            draft.write_bytes(data)
    except InputError as error:
        raise InputError(f"{error}; name another folder (tensorrt{{cache=FOLDER}}) or cache=off") from error


def model_hash(path: Path) -> str:
    """SHA-256 over a model file and the files that hold its weights."""
    from graphprune.frontends.onnx.read.reading import data_files

    digest = hashlib.sha256()
    for file in (path, *data_files(path)):
        digest.update(file.stat().st_size.to_bytes(8, "little"))
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def _description(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _changed(told: Any, fingerprint: Fingerprint, plan: bytes) -> str:
    """Which part of what an engine was built from differs; "" where none does."""
    kept = told.get("fingerprint", {}) if isinstance(told, dict) else {}
    wanted = fingerprint.described()
    for part in ("format", *wanted):
        if kept.get(part) != wanted[part]:
            return part
    return "" if told.get("sha256") == hashlib.sha256(plan).hexdigest() else "content than its description"


def _read_told(told: Mapping[str, Any], part: str) -> Told | None:
    found = told.get(part)
    return Told(int(found["count"]), tuple(found["names"])) if found else None
