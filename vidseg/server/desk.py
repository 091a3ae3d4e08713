"""The desk for pictures: one worker, which does one picture at a time, and uploads that are kept in memory."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any

from vidseg.server.limits import Limits
from vidseg.server.processes import Network, Process, WorkerGoneError


class RefusedError(Exception):
    """What was sent is not taken.

    Attributes:
        status: In HTTP's words.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Desk:
    """Pictures in, pictures out. The worker is started when the first comes, and ends when none has come for long.

    Args:
        network: What computes.
        limits: How much may wait.
    """

    def __init__(self, network: Network, limits: Limits) -> None:
        self._network, self._limits = network, limits
        self._process: Process | None = None
        self._turn = asyncio.Lock()
        self.waiting = 0
        self._used = time.monotonic()

    async def ask(self, header: dict[str, Any], picture: bytes, background: bytes = b"") -> bytes:
        """Return the worker's answer.

        Raises:
            RefusedError: It takes the picture for none, too many wait, or it took too long.
        """
        if self.waiting >= self._limits.pictures:
            raise RefusedError(503, "too many pictures wait: try again soon")
        self.waiting += 1
        try:
            async with self._turn:
                return await self._asked({**header, "bytes": len(picture)}, picture + background)
        finally:
            self.waiting -= 1

    async def _asked(self, header: dict[str, Any], payload: bytes) -> bytes:
        process = self._process or await self._started()
        try:
            async with asyncio.timeout(self._limits.patience):
                process.post(header, payload)
                answer, data = await process.receive()
        except BaseException as error:  # also when the visitor has gone: the next one must not get this answer
            self._process = None
            await process.end()
            if isinstance(error, TimeoutError):
                raise RefusedError(503, f"it took longer than {self._limits.patience:g} s") from None
            if isinstance(error, WorkerGoneError):
                raise RefusedError(422, "the picture has ended the process that worked on it") from None
            raise
        finally:
            self._used = time.monotonic()
        if answer.get("status") != 200:
            raise RefusedError(int(answer.get("status", 500)), str(answer.get("reason")))
        return data

    async def _started(self) -> Process:
        options = {"pixels": self._limits.picture_pixels, "memory": self._limits.memory, **self._network.options()}
        process = await Process.start("pictures", {**options, "bytes": self._limits.picture_bytes})
        try:
            await process.receive()
        except BaseException as error:
            await process.end()
            if isinstance(error, WorkerGoneError):
                raise RefusedError(500, "the worker for pictures does not start") from None
            raise
        self._process = process
        return process

    async def sweep(self) -> None:
        """End the worker if nobody has needed it for long."""
        if self._process is not None and not self.waiting and time.monotonic() - self._used > self._limits.kept:
            await self.close()

    async def close(self) -> None:
        """End the worker."""
        process, self._process = self._process, None
        if process is not None:
            await process.end()


class Uploads:
    """Backgrounds of visitors, as JPEGs that the worker has written; in memory only, under names nobody can guess.

    Args:
        limits: How many, and for how long without use.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._kept: dict[str, tuple[bytes, float]] = {}

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._kept)

    def keep(self, jpeg: bytes) -> str:
        """Keep one and return its name, ``upload:ID``.

        Raises:
            RefusedError: There are too many.
        """
        self.sweep()
        if len(self._kept) >= self._limits.uploads:
            raise RefusedError(503, "too many backgrounds are kept: try again later")
        name = f"upload:{secrets.token_urlsafe(16)}"
        self._kept[name] = jpeg, time.monotonic()
        return name

    def get(self, background: str) -> bytes:
        """Return an upload's JPEG, or nothing for a background that is none.

        Raises:
            ValueError: It is not there any more.
        """
        if not background.startswith("upload:"):
            return b""
        if background not in self._kept:
            raise ValueError("this background is not kept any more: upload it again")
        jpeg, _ = self._kept[background]
        self._kept[background] = jpeg, time.monotonic()
        return jpeg

    def forget(self, background: str) -> bool:
        """Forget one; returns whether it was there."""
        return self._kept.pop(background, None) is not None

    def sweep(self) -> None:
        """Forget those that nobody has used for long."""
        since = time.monotonic() - self._limits.kept
        self._kept = {name: kept for name, kept in self._kept.items() if kept[1] >= since}
