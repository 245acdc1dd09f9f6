"""A transformers model without its weights: parameters of the right sizes that take no memory until they are read."""

from __future__ import annotations

import importlib
import json
import mmap
import re
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from graphprune.errors import InputError

from ..torch.capture.unloadable import cause_of, without_unloadable
from ..torch.run.modes import quiet

_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
_ALIGNMENT = 64


def transformers() -> Any:
    """The package; raises InputError saying what to install."""
    try:
        with quiet():
            import transformers as package
    except ModuleNotFoundError as error:
        raise InputError("a transformers folder needs the package: pip install 'graphprune[hf]'") from error
    except ImportError as error:
        raise InputError(f"transformers cannot be imported: {cause_of(error)}") from error
    return package


def read_config(folder: Path) -> Any:
    """The configuration of a folder; no code in the folder is run."""
    if not (folder / "config.json").is_file():
        raise InputError(f"'{folder}' has no config.json: it is no transformers folder")
    try:
        with quiet():
            return without_unloadable(partial(_read_config, folder))
    except InputError:
        raise
    except Exception as error:
        own = "; it names code of its own (auto_map), which graphprune does not run" if _own_code(folder) else ""
        raise InputError(f"'{folder / 'config.json'}' cannot be read: {cause_of(error)}{own}") from error


def _read_config(folder: Path) -> Any:
    return transformers().AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _own_code(folder: Path) -> bool:
    try:
        return "auto_map" in json.loads((folder / "config.json").read_text())
    except (OSError, ValueError, TypeError):
        return False


def class_of(config: Any, where: str) -> Any:
    """The model class that a configuration names."""
    names = config.architectures or []
    try:
        with quiet():
            found = without_unloadable(lambda: getattr(transformers(), names[0], None)) if names else None
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"'{where}': transformers cannot import '{names[0]}': {cause_of(error)}") from error
    if found is None:
        named = f"names the class '{names[0]}', which transformers does not have" if names else "names no architecture"
        raise InputError(f"'{where}': config.json {named}")
    return found


def skeleton(config: Any, cls: Any, dtype: torch.dtype | None = None) -> nn.Module:
    """The model of a configuration in eval mode: real buffers, parameters that are all zero and take no memory.

    Raises InputError where the class cannot be built from the configuration.
    """
    try:
        with quiet():
            model = without_unloadable(lambda: on_meta(config, cls, dtype))
            _fill_buffers(model)
    except Exception as error:
        raise InputError(f"{cls.__name__} cannot be built from its configuration: {cause_of(error)}") from error
    _place_parameters(model)
    return model.eval()


def on_meta(config: Any, cls: Any, dtype: torch.dtype | None) -> nn.Module:
    """The model of a configuration with sizes alone; raises whatever its class does."""
    with ExitStack() as stack:
        stack.enter_context(torch.device("meta"))
        stack.enter_context(_safe_creation())
        model: nn.Module = cls._from_config(config, dtype=dtype or config.dtype)
        _keep_types(model, dtype or config.dtype)
    return model


def _keep_types(model: Any, dtype: torch.dtype | None) -> None:
    """Give what a class keeps in a wider type (a router's correction, say) that type, as `from_pretrained` does."""
    plan = model._get_dtype_plan(dtype) if hasattr(model, "_get_dtype_plan") else {}
    kept = [(re.compile(pattern.replace("*", ".*")), wide) for pattern, wide in plan.items()]
    for prefix, module in model.named_modules() if kept else ():
        for own in (module._parameters, module._buffers):
            for name, tensor in own.items():
                wide = next((t for p, t in kept if p.search(f"{prefix}.{name}")), None)
                if tensor is not None and wide is not None and tensor.is_floating_point():
                    tensor.data = tensor.data.to(wide)


def floating_dtype(model: nn.Module) -> torch.dtype:
    """The type of a model's first floating-point parameter."""
    return next(p.dtype for p in model.parameters() if p.is_floating_point())


def _safe_creation() -> AbstractContextManager[Any]:
    """What transformers itself enters when it builds on the meta device, where this version has it."""
    try:
        initialization = importlib.import_module("transformers.initialization")
        return initialization.meta_device_safe_creation_ops()
    except (ImportError, AttributeError):
        return nullcontext()


def _fill_buffers(model: Any) -> None:
    """Give buffers their values, by the initialisation that transformers itself runs after building on meta."""
    for module in model.modules():
        module._is_hf_initialized = False
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                module._buffers[name] = torch.zeros_like(buffer, device="cpu")
    for parameter in model.parameters():
        parameter._is_hf_initialized = True
    with torch.no_grad():
        model.initialize_weights()


def _place_parameters(model: nn.Module) -> None:
    """Put every parameter into one anonymous mapping, of which only what is written to takes memory."""
    parameters = {id(p): p for p in model.parameters() if p.is_meta}
    starts, size = {}, 0
    for key, parameter in parameters.items():
        starts[key] = size
        size += -(-parameter.numel() * parameter.element_size() // _ALIGNMENT) * _ALIGNMENT
    room = mmap.mmap(-1, max(size, _ALIGNMENT), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)
    fresh = {key: _parameter(p, room, starts[key]) for key, p in parameters.items()}
    for module in model.modules():
        for name, own in module._parameters.items():
            if own is not None and id(own) in fresh:
                module._parameters[name] = fresh[id(own)]


def _parameter(like: nn.Parameter, room: mmap.mmap, start: int) -> nn.Parameter:
    if not like.numel():
        return nn.Parameter(torch.empty(like.shape, dtype=like.dtype), requires_grad=like.requires_grad)
    flat = torch.frombuffer(room, dtype=like.dtype, count=like.numel(), offset=start)
    return nn.Parameter(flat.view(like.shape), requires_grad=like.requires_grad)
