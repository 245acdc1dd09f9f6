"""Checks on the files a command line names, made before any work starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile

from graphprune.errors import InputError

_TORCH_OUTPUTS = (".pt2", ".safetensors", ".onnx")


def is_factory(model: str) -> bool:
    """Whether `model` is written `package.module:factory`."""
    module, colon, factory = model.rpartition(":")
    return bool(colon) and factory.isidentifier() and all(part.isidentifier() for part in module.split("."))


def check_model(model: str) -> None:
    """Raise where `model` is neither a factory nor a file."""
    if is_factory(model):
        return
    if not Path(model).exists():
        raise InputError(f"there is no file '{model}'")
    if Path(model).is_dir():
        if not (Path(model) / "config.json").is_file():
            raise InputError(f"'{model}' is a folder without config.json: no transformers folder")
    elif not Path(model).is_file():
        raise InputError(f"'{model}' is not a file")


def check_file(path: Path) -> None:
    """Raise where `path` is not a file that can be read."""
    if not path.is_file():
        raise InputError(f"there is no file '{path}'" if not path.exists() else f"'{path}' is not a file")


def model_suffixes(model: str) -> tuple[str, ...]:
    """The kinds of file a pruned `model` can be written to; none for a folder, which becomes a folder."""
    if Path(model).is_dir():
        return ()
    return _TORCH_OUTPUTS if is_factory(model) or Path(model).suffix == ".pt2" else (".onnx",)


def check_outputs(inputs: Sequence[str | Path], outputs: Sequence[tuple[str, Path | None, Sequence[str]]]) -> None:
    """Raise where an output (option, path, fitting suffixes) cannot be written, is an input, or is named twice."""
    taken = {Path(path).resolve(): "an input" for path in inputs}
    for option, path, suffixes in outputs:
        if path is None:
            continue
        place = path.resolve()
        if place in taken:
            raise InputError(f"{option} '{path}' is {taken[place]} as well; give another file")
        taken[place] = option
        _check_output(option, path, suffixes)


def _check_output(option: str, path: Path, suffixes: Sequence[str]) -> None:
    if suffixes and path.suffix not in suffixes:
        raise InputError(f"{option} '{path}' must end in {' or '.join(suffixes)}")
    if not suffixes and path.suffix in (".onnx", *_TORCH_OUTPUTS):
        raise InputError(f"{option} '{path}': a transformers folder becomes a folder, not a {path.suffix} file")
    if not suffixes and path.exists() and (path.is_file() or any(path.iterdir())):
        raise InputError(f"{option} '{path}' exists already; a transformers folder is written to a new one")
    if suffixes and path.is_dir():
        raise InputError(f"{option} '{path}' is a folder")
    if not path.parent.is_dir():
        raise InputError(f"{option} '{path}': there is no folder '{path.parent}'")
    try:
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise InputError(f"{option} '{path}' cannot be written: {error.strerror}") from error
