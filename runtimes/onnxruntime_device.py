"""Sessions on a device: where their nodes were placed, and data that stays there while they are timed."""

from __future__ import annotations

import contextlib
import io
from collections import Counter
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from graphprune.errors import BackendError

from .onnxruntime_options import CPU, CUDA, TENSORRT, ProviderOptions

if TYPE_CHECKING:
    import onnxruntime as ort

RECORD = "session.record_ep_graph_assignment_info"
_ONNX_BFLOAT16 = 16  # TensorProto.BFLOAT16, for inputs numpy has no type of its own for
_SHOWN = 5
_LIBRARIES = {
    CUDA: "CUDA's and cuDNN's libraries (pip install onnxruntime-gpu[cuda,cudnn]) or the GPU's driver",
    TENSORRT: "TensorRT's libraries (pip install tensorrt, the version this onnxruntime wants), CUDA's or the driver",
}


def find_libraries() -> None:
    """Let onnxruntime find the libraries that pip brought; what it prints of others is of no use here."""
    import onnxruntime as ort

    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(OSError):
            ort.preload_dlls()


def placement(session: ort.InferenceSession, name: str, options: ProviderOptions) -> tuple[str, ...]:
    """What there is to say of nodes that run elsewhere than on the wanted provider.

    onnxruntime leaves a provider out without an error where its libraries do not load, and gives the CPU every node
    that no other takes. Raises `BackendError` for the first, where no node is on the wanted provider, and, where the
    options are strict, for any node on the CPU.
    """
    wanted = options.provider
    if wanted not in session.get_providers():
        instead, why = ", ".join(session.get_providers()), _LIBRARIES.get(wanted, "its libraries")
        raise BackendError(
            f"the runtime '{name}' would not run on the GPU: onnxruntime gave up {wanted} when it loaded the model and"
            f" fell back to {instead}; {why} did not load"
        )
    if wanted == CPU:
        return ()
    placed = _placed(session)
    if placed is None:
        return (f"this onnxruntime does not tell which nodes run elsewhere than on {wanted}",)
    on_cpu = placed.pop(CPU, Counter())
    if not placed.get(wanted) and (on_cpu or placed):
        raise BackendError(f"the runtime '{name}' would not run on {wanted}: it took none of the model's nodes")
    if on_cpu and options.strict:
        raise BackendError(f"the runtime '{name}' is strict, but {_counted(on_cpu)} would run on the CPU")
    elsewhere = {provider: ops for provider, ops in placed.items() if provider != wanted} | {CPU: on_cpu}
    return tuple(f"{_counted(ops)} run on {provider}, not on {wanted}" for provider, ops in elsewhere.items() if ops)


def _placed(session: ort.InferenceSession) -> dict[str, Counter[str]] | None:
    """How many nodes of which operator each provider took; None where onnxruntime cannot tell (before 1.24)."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    found: dict[str, Counter[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        found.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
    return found


def _counted(operators: Counter[str]) -> str:
    shown = ", ".join(f"{count} {op}" for op, count in operators.most_common(_SHOWN))
    more = len(operators) - _SHOWN
    return f"{operators.total()} node(s) ({shown}{f' and {more} more operators' if more > 0 else ''})"


def bound(
    session: ort.InferenceSession, feed: dict[str, np.ndarray], outputs: tuple[str, ...], device: str, index: int
) -> Any:
    """A binding whose inputs lie on the device, and whose outputs stay there."""
    binding = session.io_binding()
    for name, array in feed.items():
        binding.bind_ortvalue_input(name, value(array, device, index))
    for output in outputs:
        binding.bind_output(output, device, index)
    binding.synchronize_inputs()
    return binding


def value(array: np.ndarray, device: str = "cpu", index: int = 0) -> ort.OrtValue:
    """The array as onnxruntime holds it; bfloat16 goes in as its bits, and to the device when it is bound."""
    import onnxruntime as ort

    if array.dtype == ml_dtypes.bfloat16:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), _ONNX_BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(array, device, index)
