"""The U-Net: encoder, skip connections, decoder (Ronneberger et al. 2015, arXiv:1505.04597), and nothing else.

Plain 3x3 convolutions throughout: on CPUs they beat separable ones in int8 speed, training speed and capacity.
The first convolution halves the picture and the last one doubles it again by pixel shuffle (Shi et al. 2016,
arXiv:1609.05158), because convolutions at full input size would cost more than the rest of the network together.

For video, gates at the coarse scales carry half of their channels from frame to frame. The state is passed in and out,
as RobustVideoMatting does (Lin et al. 2021, arXiv:2108.11515); a still is a clip of one frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

UNET_S_CHANNELS = (24, 40, 72, 128, 192)


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


State = tuple[Tensor, ...]
"""What a network carries from frame to frame of a clip, float ``(N, c, H / s, W / s)`` each; empty at its start."""


class Gate(nn.Module):
    """A learned running mean over time: ``h = z h' + (1 - z) x`` with ``z`` from a convolution over both.

    A ConvGRU (Ballas et al. 2016, arXiv:1511.06432) without candidate and reset gate: one convolution for three, and
    values that stay in the range of ``x``, which eight bits can hold. Half of the channels pass by it untouched.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Conv2d(channels, channels // 2, 3, padding=1)
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, -3.0)  # type: ignore[arg-type]

    def forward(self, x: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return ``x`` with its second half steadied, and the state for the next frame."""
        half = self.gate.out_channels
        passing, now = x.split([half, half], 1)
        before = torch.zeros_like(now) if before is None else before
        z = self.gate(torch.cat([now, before], 1)).sigmoid()
        held = now + z * (before - now)
        return torch.cat([passing, held], 1), held


class UNet(nn.Module):
    """A U-Net that turns a picture into the logits of its alpha.

    Args:
        channels: Width of each level, finest first. Level ``i`` works at ``1 / 2 ** (i + 1)`` of the input.
        head: Width of the last hidden layer.
        outputs: Channels of the logits: 1 is an alpha, more are classes.
        gates: How many of the coarsest levels are recurrent.
    """

    def __init__(
        self, channels: Sequence[int] = UNET_S_CHANNELS, head: int = 16, outputs: int = 1, gates: int = 0
    ) -> None:
        super().__init__()
        if not 0 <= gates < len(channels):
            raise ValueError(f"from 0 to {len(channels) - 1} levels can be recurrent: {gates = }")
        self.stem = _block(3, channels[0], 2)
        self.encoder = nn.ModuleList(
            nn.Sequential(_block(fine, coarse, 2), _block(coarse, coarse)) for fine, coarse in pairwise(channels)
        )
        self.bottom = _block(channels[-1], channels[-1])
        self.decoder = nn.ModuleList(
            _block(coarse + fine, fine) for coarse, fine in zip(channels[:0:-1], channels[-2::-1], strict=True)
        )
        self.head = _block(channels[0], head)
        self.out = nn.Conv2d(head, 4 * outputs, 3, padding=1)
        self.gates = nn.ModuleList(Gate(width) for width in channels[: -gates - 1 : -1])

    @property
    def multiple(self) -> int:
        """Height and width of the input must be multiples of this."""
        return 1 << (len(self.encoder) + 1)

    @property
    def states(self) -> tuple[tuple[int, int], ...]:
        """Channels and stride of each state, in order."""
        coarsest = len(self.encoder) + 1
        return tuple((gate.gate.out_channels, 1 << (coarsest - i)) for i, gate in enumerate(self.gates))  # type: ignore[union-attr,misc]

    def forward(self, src: Tensor, state: State = ()) -> tuple[Tensor, State]:
        """Return logits ``(N, outputs, H, W)`` for ``src`` ``(N, 3, H, W)``, normalised RGB, and the new state."""
        features = [self.stem(src)]
        for stage in self.encoder:
            features.append(stage(features[-1]))
        x = self.bottom(features.pop())
        held = []
        for level in range(len(self.decoder) + 1):
            if level:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
                x = self.decoder[level - 1](torch.cat([x, features.pop()], 1))
            if level < len(self.gates):
                x, kept = self.gates[level](x, state[level] if state else None)
                held.append(kept)
        return F.pixel_shuffle(self.out(self.head(x)), 2), tuple(held)
