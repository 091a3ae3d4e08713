"""The endless stream of augmented training samples, and a picture of it to look at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info
from torchvision import tv_tensors

from vidseg.training.augment import Policy, frames_of
from vidseg.training.bank import Bank
from vidseg.training.compose import Scene, draw_scene
from vidseg.training.pictures import Array, Rng, Size


class Batch(NamedTuple):
    """What a network is shown at once, uint8; ``T`` is 1 for stills.

    Attributes:
        rgb: ``(N, T, 3, h, w)``.
        alpha: ``(N, T, 1, h, w)``, 255 = person; for class training class numbers, 255 = unknown.
        weight: ``(N, T, 1, h, w)``, 255 where the truth is known, 0 where not.
    """

    rgb: Tensor
    alpha: Tensor
    weight: Tensor


class Sampler:
    """Draws one sample after the other: a scene, and what light and camera do to it.

    Args:
        bank: Pictures to draw from.
        policy: What is done how often.
        rng: Random numbers; the samples are a function of its state.
    """

    def __init__(self, bank: Bank, policy: Policy, rng: Rng) -> None:
        self.bank, self.policy, self.rng = bank, policy, rng
        fill, things = (255, ()) if bank.classes else (0, tuple(bank.objects))
        self._taken = policy.transform(rng, things, fill)
        # The parts of a composite are lit already.
        self._composed = replace(policy, light=0.6 * policy.light).transform(rng, things, fill)

    def batch(self, size: Size, count: int, frames: int = 1) -> Batch:
        """Draw ``count`` samples of ``size`` ``(h, w)``."""
        scenes = [self.draw(size, frames) for _ in range(count)]
        return Batch(
            torch.from_numpy(np.stack([scene.rgb for scene in scenes]).transpose(0, 1, 4, 2, 3)),
            torch.from_numpy(np.stack([scene.alpha for scene in scenes])[:, :, None]),
            torch.from_numpy(255 - np.stack([scene.ignore for scene in scenes])[:, :, None]),
        )

    def draw(self, size: Size, frames: int = 1) -> Scene:
        """Draw a sample of ``size`` ``(h, w)``."""
        scene = draw_scene(self.rng, self.bank, size, frames, self.policy)
        augmented = self._composed if scene.composed else self._taken
        rgb, alpha, ignore = augmented(
            tv_tensors.Video(torch.from_numpy(scene.rgb).permute(0, 3, 1, 2)),
            tv_tensors.Mask(torch.from_numpy(scene.alpha)),
            tv_tensors.Mask(torch.from_numpy(scene.ignore)),
        )
        return Scene(frames_of(rgb), alpha.numpy(), ignore.numpy(), scene.composed)


class Samples(IterableDataset[Batch]):
    """Endless batches; all of a batch have one of ``sizes`` ``(h, w)``.

    The stream is a function of ``seed`` and the worker's number.

    Args:
        bank: Pictures to draw from.
        sizes: ``(h, w)``, drawn evenly.
        batch: Samples in a batch.
        seed: Of the stream.
        pasted: See ``Policy``.
        frames: Consecutive frames of each sample.
        policy: What is done how often.
    """

    def __init__(
        self,
        bank: Bank,
        sizes: Sequence[Size],
        batch: int,
        seed: int,
        pasted: float | None = None,
        frames: int = 1,
        policy: Policy = Policy(),  # noqa: B008
    ) -> None:
        self.bank, self.sizes, self.batch, self.seed, self.frames = bank, list(sizes), batch, seed, frames
        self.policy = policy if pasted is None else replace(policy, pasted=pasted)

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        if worker:
            cv2.setNumThreads(0)
        rng = np.random.default_rng([self.seed, worker.id if worker else 0])
        sampler = Sampler(self.bank, self.policy, rng)
        while True:
            size = self.sizes[rng.integers(len(self.sizes))]
            yield sampler.batch(size, self.batch, self.frames)


_COLOURS = np.random.default_rng(5).integers(40, 256, (256, 3)).astype(np.uint8)


def contact_sheet(
    bank: Bank,
    size: Size,
    seed: int,
    rows: int = 6,
    columns: int = 8,
    frames: int = 1,
    policy: Policy = Policy(),  # noqa: B008
) -> Array:
    """Return a picture of augmented samples, each above its alpha: what a network is really shown.

    Blue is what is not asked for. With more than one frame each row is the film strip of one sample.
    """
    sampler = Sampler(bank, policy, np.random.default_rng(seed))
    strips = []
    for _ in range(rows):
        scenes = [sampler.draw(size, frames) for _ in range(1 if frames > 1 else columns)]
        strips.append(np.hstack([np.vstack([s.rgb[t], _shown(bank, s, t)]) for s in scenes for t in range(frames)]))
    return np.vstack(strips)


def _shown(bank: Bank, scene: Scene, frame: int) -> Array:
    alpha, ignore = scene.alpha[frame], scene.ignore[frame]
    if bank.classes:
        return np.where(alpha[..., None] < 255, _COLOURS[alpha], np.array([0, 0, 255])).astype(np.uint8)
    return np.dstack([alpha, alpha, np.where(ignore > 127, 255, alpha)])
