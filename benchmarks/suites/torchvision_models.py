"""torchvision beyond classification: what of detectors needs no compiled operator, video and optical flow.

Detectors are taken as users can run them beside any torch: backbone, pyramid and heads over one batch of pictures;
selecting boxes (`nms`) is left out, and has no weights.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from benchmarks import zoo

from . import tables
from .tables import Source

_NO_WEIGHTS = {"weights": None}


class Heads(nn.Module):
    """Backbone and heads of a one-stage detector, or of the region proposals of a two-stage one."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.head = detector.rpn.head if hasattr(detector, "rpn") else detector.head

    def forward(self, pictures: Tensor) -> Any:
        """What the heads say at each level and place."""
        return self.head(list(self.backbone(pictures).values()))


class Boxes(nn.Module):
    """What a two-stage detector computes for regions once these are cut out."""

    def __init__(self, heads: Any, branch: str) -> None:
        super().__init__()
        names = {"box": ("box_head", "box_predictor"), "mask": ("mask_head", "mask_predictor")}
        names["keypoint"] = ("keypoint_head", "keypoint_predictor")
        self.parts = nn.ModuleList(getattr(heads, name) for name in names[branch])

    def forward(self, regions: Tensor) -> Any:
        """Head, then predictor."""
        for part in self.parts:
            regions = part(regions)
        return regions


def _pyramid(name: str) -> Any:
    make = library().models.detection.backbone_utils.resnet_fpn_backbone
    return make(backbone_name=name, weights=None, trainable_layers=5)


def _on_resnet18(name: str) -> nn.Module:
    return Heads(getattr(library().models.detection, name)(_pyramid("resnet18"), num_classes=21))


def _as_shipped(name: str) -> nn.Module:
    return Heads(getattr(library().models.detection, name)(weights=None, weights_backbone=None))


def _branch(name: str, branch: str) -> nn.Module:
    detector: Any = getattr(library().models.detection, name)(_pyramid("resnet18"), num_classes=21)
    return Boxes(detector.roi_heads, branch)


def _video(name: str) -> nn.Module:
    return library().models.get_model(name, **_NO_WEIGHTS)


def _mvit() -> nn.Module:
    video: Any = library().models.video.mvit
    settings = [
        video.MSBlockConfig(num_heads=heads, input_channels=wide, output_channels=out, kernel_q=kernel,
            kernel_kv=(3, 3, 3), stride_q=stride, stride_kv=kv)
        for heads, wide, out, kernel, stride, kv in (
            (1, 32, 64, [], [], (1, 4, 4)),
            (2, 64, 64, (3, 3, 3), (1, 2, 2), (1, 2, 2)),
            (2, 64, 64, [], [], (1, 2, 2)),
        )
    ]  # fmt: skip
    return video.MViT(spatial_size=(32, 32), temporal_size=4, block_setting=settings, residual_pool=True,
        residual_with_cls_embed=False, rel_pos_embed=True, proj_after_attn=True, num_classes=10)  # fmt: skip


def _swin3d() -> nn.Module:
    return library().models.video.SwinTransformer3d(patch_size=[2, 4, 4], embed_dim=32, depths=[2, 2], num_heads=[2, 4],
        window_size=[2, 4, 4], num_classes=10)  # fmt: skip


def _raft() -> nn.Module:
    return library().models.optical_flow.raft_small(weights=None)


def _picture(source: Source) -> Any:
    return source.noise(1, 3, 64, 64)


def _clip(frames: int, side: int) -> tables.Inputs:
    return lambda source: source.noise(1, 3, frames, side, side)


def _regions(side: int) -> tables.Inputs:
    return lambda source: source.noise(2, 256, side, side)


def _two(source: Source) -> Any:
    return {"image1": source.noise(1, 3, 128, 128), "image2": source.noise(1, 3, 128, 128), "num_flow_updates": 2}


_ENTRIES: dict[str, tuple[Callable[[], nn.Module], tables.Inputs]] = {
    "ssdlite320_mobilenet_v3_large": (lambda: _as_shipped("ssdlite320_mobilenet_v3_large"),
        lambda source: source.noise(1, 3, 320, 320)),
    "retinanet_resnet18": (lambda: _on_resnet18("RetinaNet"), _picture),
    "fcos_resnet18": (lambda: _on_resnet18("FCOS"), _picture),
    "fasterrcnn_resnet18": (lambda: _on_resnet18("FasterRCNN"), _picture),
    "fasterrcnn_mobilenet_v3_large_320_fpn": (lambda: _as_shipped("fasterrcnn_mobilenet_v3_large_320_fpn"), _picture),
    "ssd300_vgg16": (lambda: _as_shipped("ssd300_vgg16"), lambda source: source.noise(1, 3, 300, 300)),
    "fasterrcnn_boxes": (lambda: _branch("FasterRCNN", "box"), _regions(7)),
    "maskrcnn_masks": (lambda: _branch("MaskRCNN", "mask"), _regions(14)),
    "keypointrcnn_keypoints": (lambda: _branch("KeypointRCNN", "keypoint"), _regions(14)),
    "r3d_18": (lambda: _video("r3d_18"), _clip(4, 32)),
    "mc3_18": (lambda: _video("mc3_18"), _clip(4, 32)),
    "r2plus1d_18": (lambda: _video("r2plus1d_18"), _clip(4, 32)),
    "s3d": (lambda: _video("s3d"), _clip(14, 224)),
    "mvit": (_mvit, _clip(4, 32)),
    "swin3d": (_swin3d, _clip(4, 32)),
    "raft_small": (_raft, _two),
}  # fmt: skip


def names() -> list[str]:
    """Detectors, video, flow."""
    return list(_ENTRIES)


def build(name: str) -> tuple[nn.Module, Any]:
    """A model in evaluation mode and example inputs."""
    return tables.ready(*_ENTRIES[name])


def library() -> ModuleType:
    """The package."""
    return zoo.torchvision()
