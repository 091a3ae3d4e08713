"""Ranks: the processes that train one network together, started by torchrun; usually there is one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import distributed


@dataclass(frozen=True)
class Ranks:
    """This process among its likes.

    Attributes:
        rank: Its number; 0 writes the files and does the talking.
        world: How many there are.
        device: Where it computes.
    """

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and talks."""
        return self.rank == 0

    def agreed(self, flag: bool) -> bool:
        """Return whether any rank says yes: all of them have to leave a loop in the same step."""
        if self.world == 1:
            return flag
        flags = torch.tensor([float(flag)], device=self.device)
        distributed.all_reduce(flags, distributed.ReduceOp.MAX)
        return bool(flags.item())

    def wait(self) -> None:
        """Wait until all are here."""
        if self.world > 1:
            distributed.barrier()


@contextmanager
def joined(device: str | None = None) -> Iterator[Ranks]:
    """Join the group that torchrun has made, and leave it at the end.

    Args:
        device: ``cpu``, ``cuda``, ``mps``; None takes the best there is.
    """
    world, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    if device is None:
        mps = "mps" if torch.backends.mps.is_available() else "cpu"
        device = "cuda" if torch.cuda.is_available() else mps
    place = torch.device(device, local) if device == "cuda" else torch.device(device)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if world == 1:
        yield Ranks(0, 1, place)
        return
    distributed.init_process_group("nccl" if place.type == "cuda" else "gloo")
    try:
        yield Ranks(distributed.get_rank(), world, place)
    finally:
        distributed.destroy_process_group()
