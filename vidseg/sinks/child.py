"""Child: a process of vidseg's own that takes pictures on its standard input and answers in lines.

What may block for ever or end its process stands there: windows and servers. It can be ended at any moment.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol


class Data(Protocol):
    """Bytes of one dimension, as ``memoryview`` takes them."""

    def __buffer__(self, flags: int, /) -> memoryview: ...


class ChildEnded(Exception):  # noqa: N818  # not an error by itself: whoever started it knows
    """It has ended, or was ended since it took nothing for too long; the text says why, as far as it has said so."""


class Child:
    """Runs ``SCRIPT.py`` of this folder, which must import nothing of vidseg.

    Args:
        script: Its name.
        arguments: Its command line; anybody on this machine can read it.
        begin: Sent first.
        patience: Seconds within which it has to say ``ok``. It says ``error: WHY`` instead when it cannot begin.
        heard: Called on another thread with each further line.

    Raises:
        ChildEnded: It has not begun.
    """

    def __init__(
        self,
        script: str,
        arguments: list[str],
        *,
        begin: bytes = b"",
        patience: float = 10.0,
        heard: Callable[[str], None] | None = None,
    ) -> None:
        self._heard = heard
        self._reason = ""
        self._ended = self._silenced = False
        self._process = subprocess.Popen(
            # -P: this folder is no place to look for libraries
            [sys.executable, "-P", str(Path(__file__).with_name(f"{script}.py")), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        assert self._process.stdin is not None
        self._input = self._process.stdin.fileno()
        self._poll = None
        if hasattr(select, "poll"):
            os.set_blocking(self._input, False)
            self._poll = select.poll()
            self._poll.register(self._input, select.POLLOUT)
        self._began = threading.Event()
        self._listener = threading.Thread(target=self._listen, name=f"vidseg-{script}", daemon=True)
        self._listener.start()
        try:
            self.send(begin)
            if not self._began.wait(patience):
                raise ChildEnded(f"no answer for {patience:.0f} seconds")
            if self._reason:
                raise ChildEnded(self._reason)
        except BaseException:
            self.end(0)
            raise

    def send(self, *parts: Data, patience: float | None = None) -> None:
        """Send bytes.

        Args:
            parts: One after the other.
            patience: Seconds that it may take nothing; None waits for ever.

        Raises:
            ChildEnded: It has ended or takes nothing.
        """
        for part in parts:
            rest = memoryview(part)
            since = time.monotonic()
            while len(rest):
                try:
                    rest = rest[os.write(self._input, rest) :]
                    since = time.monotonic()
                except BlockingIOError:
                    assert self._poll is not None
                    self._poll.poll(200)
                    if patience is not None and time.monotonic() - since > patience:
                        self.kill()
                        raise ChildEnded(f"no answer for {patience:.0f} seconds") from None
                except OSError:
                    self._listener.join(2.0)  # it may have said why
                    raise ChildEnded(self._reason or "it has ended unexpectedly") from None

    def kill(self) -> None:
        """End it at once. From any thread; ``send`` then raises."""
        with suppress(OSError):
            self._process.kill()

    def end(self, patience: float) -> str:
        """Let it finish what it has got, for so many seconds, and return what it had to say, or nothing."""
        if self._ended:
            return ""
        self._ended = True
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._heard = None
        with suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(patience)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
            self._reason = self._reason or f"no answer for {patience:.0f} seconds"
        if threading.current_thread() is not self._listener:
            self._listener.join()
            self._process.stdout.close()
        return self._reason

    def _listen(self) -> None:
        lines = self._process.stdout
        assert lines is not None
        said = False
        for raw in iter(lines.readline, b""):
            line = raw.decode("utf-8", "replace").rstrip("\r\n")
            heard = self._heard
            if line.startswith("error: "):
                self._reason = line.removeprefix("error: ")
            elif said and heard is not None and line:
                heard(line)
            said = True
            self._began.set()
        if not said:
            self._reason = "it has ended at once"
        self._began.set()
