"""What a network half believes, decided by what lies around it, as ``vidseg.settling``."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from vidseg.settling import FADED, RIM, SURE, TRACE

ROUNDS = 7
"""Turns of the longest way through a patch that are gone without a look at whether it has ended."""


def settle(alpha: Tensor, rounds: int = ROUNDS) -> tuple[Tensor, Tensor]:
    """Return ``alpha`` without fog in the room and without dents in a person, and whether that is final.

    A CPU labels the patches. Here what is sure spreads through its patch, along rows, along columns and to the
    diagonals; a labyrinth takes more rounds than a person.

    Args:
        alpha: float32 ``(N, h, w)`` in [0, 1]; it is not changed.
        rounds: How often it spreads.

    Returns:
        float32 ``(N, h, w)``, and bool ``(N,)``: False where more rounds would change something.
    """
    belief, final = _belief(alpha, rounds)
    settled = alpha * belief
    dents, final_too = _belief(1 - settled, rounds)
    return torch.where(dents < 1, 1 - (1 - settled) * dents, settled), final & final_too


def _belief(alpha: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    trace = alpha > TRACE
    reached, final = _spread(alpha > SURE, trace, rounds)
    side = max(alpha.shape[1:])
    middle, slope = round((RIM + FADED) / 2 * side), round((FADED - RIM) / 2 * side)
    likely = (alpha > 0.5).float()[:, None]
    reach = F.max_pool2d(likely, 2 * middle + 1, 1, middle)
    reach = F.avg_pool2d(F.pad(reach, (slope,) * 4, mode="reflect"), 2 * slope + 1, 1)
    reach = (reach * 255).round_()[:, 0] * (1 / 255)
    return torch.where(reached | ~trace, reach, 0), final


def _spread(sure: Tensor, trace: Tensor, rounds: int) -> tuple[Tensor, Tensor]:
    """Return where ``trace`` hangs together with ``sure``, bool ``(N, h, w)``, and bool ``(N,)``: whether all of it."""
    # What lies between two gaps of a row or column has a number of its own there.
    rows, columns = (~trace).cumsum(2), (~trace).cumsum(1)
    inside = trace.float()
    reached = sure.float()
    before = reached
    for _ in range(rounds):
        before = reached
        reached = _along(_along(_beside(reached) * inside, rows, 2), columns, 1) * inside
    return reached > 0, (reached == before).flatten(1).all(1)


def _beside(reached: Tensor) -> Tensor:
    return F.max_pool2d(reached[:, None], 3, 1, 1)[:, 0]


def _along(reached: Tensor, runs: Tensor, axis: int) -> Tensor:
    shape = list(reached.shape)
    shape[axis] += 1
    return torch.zeros(shape, device=reached.device).scatter_reduce_(axis, runs, reached, "amax").gather(axis, runs)
