"""Videos: each in a folder of its own that only this user may read, worked on one at a time, and taken away in time."""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from vidseg.server.desk import RefusedError
from vidseg.server.limits import Limits
from vidseg.server.processes import Network, Process, WorkerGoneError

_PREFIX = "vidseg-serve-"
_PROBE = 60.0
"""Seconds in which a worker has to say what a video is."""


@dataclass(slots=True, eq=False)
class Job:
    """One video.

    Attributes:
        id: Nobody can guess it: who knows it may have the result.
        folder: Where it lies.
        state: How far it is.
        progress: What the pipeline reports.
        reason: Why it failed.
        video: ``width``, ``height``, ``seconds``, ``frames``.
        until: Moment from which on it may be taken away, or None while it is worked on.
        changed: Set, and replaced by another, at every change.
    """

    id: str
    folder: Path
    state: Literal["waiting", "running", "done", "failed"] = "waiting"
    progress: dict[str, Any] = field(default_factory=dict)
    reason: str = ""
    video: dict[str, Any] = field(default_factory=dict)
    until: float | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    @property
    def result(self) -> Path:
        """The new video."""
        return self.folder / "result.mp4"

    @property
    def over(self) -> bool:
        """Whether nothing more will happen."""
        return self.state in ("done", "failed")

    def tell(self) -> None:
        """Wake whoever watches."""
        self.changed.set()
        self.changed = asyncio.Event()


class Jobs:
    """All videos.

    Args:
        network: What computes.
        limits: How many, how large, how long.
    """

    def __init__(self, network: Network, limits: Limits) -> None:
        self._network, self._limits = network, limits
        self._jobs: dict[str, Job] = {}
        self._coming = 0
        self._turn = asyncio.Lock()
        _clear_leftovers()
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX))  # mode 700
        self._lock = _locked(self.folder)

    @property
    def active(self) -> int:
        """How many are not over."""
        return self._coming + sum(not job.over for job in self._jobs.values())

    def get(self, id: str) -> Job | None:
        """Return a job, if it is still there."""
        return self._jobs.get(id)

    async def add(self, chunks: AsyncIterator[bytes], background: str, upload: bytes) -> Job:
        """Take a video and put it into the queue.

        Raises:
            RefusedError: It is no video that is taken, or there are too many.
        """
        if self.active >= self._limits.jobs or len(self._jobs) >= 4 * self._limits.jobs:
            raise RefusedError(503, "too many videos wait: try again later")
        self._coming += 1
        job = Job(secrets.token_urlsafe(16), Path(tempfile.mkdtemp(dir=self.folder)))
        process: Process | None = None
        try:
            with (job.folder / "input").open("wb") as file:
                async for chunk in chunks:
                    file.write(chunk)
            limits = self._limits
            options = {
                **self._network.options(),
                "source": str(job.folder / "input"),
                "output": str(job.result),
                "background": background,
                "pixels": limits.video_pixels,
                "seconds": limits.video_seconds,
                "slack": limits.slack,
                "bytes": 2 * limits.video_bytes,
                "memory": limits.memory,
            }
            process = await Process.start("job", options)
            async with asyncio.timeout(_PROBE):
                answer, _ = await process.receive()
            if answer.get("status") != 201:
                raise RefusedError(int(answer.get("status", 500)), str(answer.get("reason")))
            job.video = {key: value for key, value in answer.items() if key != "status"}
        except BaseException as error:
            if process is not None:
                await process.end()
            shutil.rmtree(job.folder, ignore_errors=True)
            if isinstance(error, WorkerGoneError | TimeoutError) and process is not None:
                raise RefusedError(422, "the video cannot be opened") from None
            raise
        finally:
            self._coming -= 1
        self._jobs[job.id] = job
        job.task = asyncio.create_task(self._work(job, process, upload))
        return job

    async def remove(self, job: Job) -> None:
        """End a job and take away all of it."""
        self._jobs.pop(job.id, None)
        if job.task is not None:
            job.task.cancel()
            with suppress(asyncio.CancelledError):
                await job.task
        if not job.over:
            job.state, job.reason = "failed", "it was taken away"
        shutil.rmtree(job.folder, ignore_errors=True)
        job.tell()

    async def sweep(self) -> None:
        """Take away what is over for long."""
        for job in list(self._jobs.values()):
            if job.until is not None and time.monotonic() > job.until:
                await self.remove(job)

    async def close(self) -> None:
        """End all and take everything away."""
        for job in list(self._jobs.values()):
            await self.remove(job)
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()

    async def _work(self, job: Job, process: Process, upload: bytes) -> None:
        """Let the worker do a job, when it is its turn."""
        try:
            async with self._turn:
                job.state = "running"
                job.tell()
                process.post({})
                process.post({}, upload)
                seconds = job.video.get("seconds") or self._limits.video_seconds
                async with asyncio.timeout(_PROBE + seconds * self._limits.slack):
                    await self._follow(job, process)
        except (WorkerGoneError, TimeoutError) as error:
            job.reason = "it took too long" if isinstance(error, TimeoutError) else "the video has ended its process"
        finally:
            await process.end()
            for file in job.folder.iterdir() if job.folder.exists() else ():
                if file != job.result or job.state != "done":
                    file.unlink(missing_ok=True)
            if job.state != "done":
                job.state = "failed"
            job.until = time.monotonic() + self._limits.kept
            job.tell()

    async def _follow(self, job: Job, process: Process) -> None:
        """Hear of a job until it is done, or has failed."""
        while True:
            answer, _ = await process.receive()
            if "progress" in answer:
                job.progress = answer["progress"]
                job.tell()
            elif "done" in answer:
                if not job.result.is_file():
                    raise WorkerGoneError("there is no result")
                job.progress = {**job.progress, **answer["done"]}
                job.state = "done"
                return
            else:
                job.reason = str(answer.get("failed"))
                return


def _locked(folder: Path) -> BinaryIO:
    """Return a lock on a folder, which the system takes away when this process ends, however it does."""
    file = (folder / "lock").open("wb")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


def _clear_leftovers() -> None:
    """Take away folders of servers that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            with (folder / "lock").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
