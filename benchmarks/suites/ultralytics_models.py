"""ultralytics: the smallest scale of each detector generation, and its heads for other tasks."""

from __future__ import annotations

import functools
import os
import tempfile
import warnings
from types import ModuleType
from typing import Any

from torch import nn

from benchmarks import zoo

from . import tables

_CLASSES = {"": "Detection", "-seg": "Segmentation", "-pose": "Pose", "-obb": "OBB", "-cls": "Classification"}
_NAMES = (
    "yolov8n-cls", "yolov8n", "yolov8n-seg", "yolov8n-pose", "yolov8n-obb", "yolo11n-cls", "yolo11n", "yolo11n-seg",
    "yolo11n-pose", "yolo11n-obb", "yolo26n", "yolo26n-seg", "yolo26n-pose", "yolo12n", "yolov10n", "yolov9t",
    "yolov6n", "yolov5n", "yolov8n-p2", "yolov8n-p6", "yolov8n-ghost", "yolov3-tiny", "yolov8n-rtdetr",
    "rtdetr-resnet50", "rtdetr-l",
)  # fmt: skip
_SIDE = 64


def names() -> list[str]:
    """The generations, each with its tasks."""
    return list(_NAMES)


def build(name: str) -> tuple[nn.Module, Any]:
    """A network from the configuration that the package holds, and one picture."""
    tasks = library()
    task = next((task for task in _CLASSES if task and name.endswith(task)), "")
    kind = "RTDETRDetection" if "rtdetr" in name else _CLASSES[task]
    make = getattr(tasks, f"{kind}Model")
    return tables.ready(lambda: make(f"{name}.yaml", verbose=False), lambda s: s.noise(1, 3, _SIDE, _SIDE))


@functools.cache
def library() -> ModuleType:
    """The package's networks; its settings go to a folder of their own, and nothing is looked up."""
    os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.mkdtemp(prefix="ultralytics"))
    os.environ.setdefault("YOLO_OFFLINE", "true")
    warnings.filterwarnings("ignore")
    zoo.torchvision()
    import ultralytics.nn.tasks as tasks

    return tasks
