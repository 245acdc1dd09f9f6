"""Lets torchvision be imported where its compiled operators do not load (a CPU build of another torch).

Importing torchvision registers fake implementations of detection operators and fails if their schemas are missing. The
classification and segmentation models use none of them, so bare schemas are enough. Import this before torchvision.
"""

from __future__ import annotations

import torch

_OPERATORS = (
    "nms qnms roi_align _roi_align_backward roi_pool _roi_pool_backward ps_roi_align _ps_roi_align_backward "
    "ps_roi_pool _ps_roi_pool_backward deform_conv2d _deform_conv2d_backward"
).split()


def _define_missing() -> torch.library.Library | None:
    try:
        import torchvision  # noqa: F401
    except (RuntimeError, AttributeError):
        library = torch.library.Library("torchvision", "DEF")
        for name in _OPERATORS:
            library.define(f"{name}(Tensor x) -> Tensor")
        return library
    return None


# The library unregisters its schemas when it is collected.
LIBRARY = _define_missing()
