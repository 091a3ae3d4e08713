"""FCN and DeepLabV3 on torchvision's MobileNetV3: the classics that our U-Nets are compared with."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torchvision.models import mobilenet_v3_large, mobilenet_v3_small
from torchvision.models.segmentation.deeplabv3 import ASPP
from torchvision.models.segmentation.fcn import FCNHead

from vidseg.unet import State

BACKBONES = {"mobilenet_v3_small": mobilenet_v3_small, "mobilenet_v3_large": mobilenet_v3_large}
STRIDE = 16
"""The last stage is dilated instead of strided, as in torchvision's own segmentation networks."""


class _Dense(nn.Module):
    """A backbone, a head at 1 / ``STRIDE`` of the picture, and bilinear interpolation back to its size."""

    multiple = STRIDE
    states: tuple[tuple[int, int], ...] = ()

    def __init__(self, backbone: str) -> None:
        super().__init__()
        if backbone not in BACKBONES:
            raise ValueError(f"the backbone is one of {', '.join(BACKBONES)}: {backbone = }")
        self.backbone = BACKBONES[backbone](weights=None, dilated=True).features
        self.features: int = self.backbone[-1].out_channels
        self.head: nn.Module = nn.Identity()

    def forward(self, src: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """Return logits ``(N, outputs, H, W)`` for ``src`` ``(N, 3, H, W)``, normalised RGB, and no state."""
        logits = self.head(self.backbone(src))
        return F.interpolate(logits, scale_factor=float(STRIDE), mode="bilinear", align_corners=False), ()


class FCN(_Dense):
    """A fully convolutional network (Long et al. 2015, arXiv:1411.4038).

    Args:
        backbone: ``mobilenet_v3_small`` or ``mobilenet_v3_large``.
        outputs: Channels of the logits: 1 is an alpha, more are classes.
    """

    def __init__(self, backbone: str = "mobilenet_v3_large", outputs: int = 1) -> None:
        super().__init__(backbone)
        self.head = FCNHead(self.features, outputs)


class DeepLabV3(_Dense):
    """Atrous spatial pyramid pooling (Chen et al. 2017, arXiv:1706.05587). A training batch has two pictures or more.

    Args:
        backbone: ``mobilenet_v3_small`` or ``mobilenet_v3_large``.
        outputs: Channels of the logits: 1 is an alpha, more are classes.
        rates: Dilations of the pyramid. Those of the paper, 12, 24 and 36, are for pictures of 513 pixels: on a map of
            16x10, as a webcam's picture gives, all but the middle tap would lie outside.
        width: Channels of each branch.
    """

    def __init__(
        self,
        backbone: str = "mobilenet_v3_large",
        outputs: int = 1,
        rates: Sequence[int] = (3, 6, 9),
        width: int = 128,
    ) -> None:
        super().__init__(backbone)
        self.head = nn.Sequential(
            ASPP(self.features, list(rates), width),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, outputs, 1),
        )
