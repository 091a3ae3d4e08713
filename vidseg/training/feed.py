"""What a run is fed with: a batch for each step, the same one whenever and wherever that step is taken."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import cv2
import numpy as np
from torch.utils.data import DataLoader, Dataset

from vidseg.training.augment import STRENGTHS, Policy
from vidseg.training.bank import Bank
from vidseg.training.pictures import Rng
from vidseg.training.ranks import Ranks
from vidseg.training.recipe import Phase
from vidseg.training.samples import Batch, Sampler

Draw = Callable[[Rng, Phase], Batch]
"""Draws the batch that belongs to the state of the random numbers."""


def policy_of(augmentation: Mapping[str, Any]) -> Policy:
    """Return what a recipe's ``augmentation`` means: fields of ``Policy``, and ``strength``, the policy they change.

    Raises:
        ValueError: There is no such strength or field.
    """
    values = dict(augmentation)
    strength = values.pop("strength", "standard")
    if strength not in STRENGTHS:
        raise ValueError(f"the strength of augmentation is one of {', '.join(STRENGTHS)}: {strength!r}")
    if unknown := set(values) - {field.name for field in fields(Policy)}:
        raise ValueError(f"augmentation has no {', '.join(sorted(unknown))}")
    return replace(STRENGTHS[strength], **values)


@dataclass(frozen=True)
class Drawn:
    """Draws batches from a bank."""

    bank: Bank
    policy: Policy

    def __call__(self, rng: Rng, phase: Phase) -> Batch:
        """Return the batch that belongs to the state of ``rng``."""
        sampler = Sampler(self.bank, replace(self.policy, pasted=phase.pasted), rng)
        size = phase.sizes[rng.integers(len(phase.sizes))]
        return sampler.batch(size, phase.batch, phase.frames)


class _Steps(Dataset[Batch]):
    def __init__(self, draw: Draw, phase: Phase, seed: int, rank: int) -> None:
        self._draw, self._phase, self._seed, self._rank = draw, phase, seed, rank

    def __getitem__(self, step: int) -> Batch:
        return self._draw(np.random.default_rng([self._seed, step, self._rank]), self._phase)


def batches(
    draw: Draw, phase: Phase, seed: int, steps: range, ranks: Ranks, workers: int = 0
) -> Iterator[tuple[int, Batch]]:
    """Yield each step with its batch, which is a function of ``seed``, the step and the rank.

    So it does not matter how many workers draw, or where a run was cut off.
    """
    loader = DataLoader(
        _Steps(draw, phase, seed, ranks.rank),
        batch_size=None,
        sampler=steps,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        pin_memory=ranks.device.type == "cuda",
        worker_init_fn=_start_worker,
    )
    return zip(steps, loader, strict=True)


def _start_worker(_: int) -> None:
    # Ctrl-C goes to all processes of a terminal: the trainer alone answers, and ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cv2.setNumThreads(0)
