"""Every error that vidseg raises on purpose.

::

    VidsegError(Exception)
    ├── SourceError                     .url (credentials redacted)
    │   └── SourceNotFoundError(…, FileNotFoundError)
    ├── EngineError                     .path, .runtime
    │   ├── ModelMismatchError(…, ValueError)      the file is not the network or size the manifest says
    │   ├── EngineBuildError            a runtime could not compile it for this device
    │   └── MaskError                   a mask that cannot be of people in this picture
    ├── SinkError                       .url
    │   ├── OutputExistsError(…, FileExistsError)
    │   └── OutputClosedError       whoever looked has gone: an end, not a failure
    ├── DeviceUnavailableError(SourceError, SinkError, OSError)   a camera, virtual camera or screen; a reason a line
    ├── ConfigError                     .path
    ├── ControlError                    no session of `vidseg webcam` answers, or it refuses
    └── MissingDependencyError(…, ImportError)     the text is the command that mends it

Mistakes of a caller are ``ValueError`` or ``TypeError`` with the value in the text. Adapters map the errors of their
library in one context manager at their edge. A text is one sentence that names the file or device and the mend.
"""

from __future__ import annotations

import re


def redacted(url: str) -> str:
    """Return ``url`` without its user name and password."""
    return re.sub(r"(?<=://)[^/@\s]+@", "…@", url)


class VidsegError(Exception):
    """The root: one clear sentence, shown to a person as it is."""


class SourceError(VidsegError):
    """A video, picture or camera could not be read."""

    def __init__(self, message: str, *, url: str = "") -> None:
        super().__init__(redacted(message))
        self.url = redacted(url)


class SourceNotFoundError(SourceError, FileNotFoundError):
    """There is nothing under that name."""

    def __str__(self) -> str:
        return str(self.args[0])


class EngineError(VidsegError):
    """A network could not be loaded or run."""

    def __init__(self, message: str, *, path: str = "", runtime: str = "") -> None:
        super().__init__(message)
        self.path, self.runtime = path, runtime


class ModelMismatchError(EngineError, ValueError):
    """The file is not the network that its manifest describes."""


class EngineBuildError(EngineError):
    """A network could not be compiled for this device, or what was compiled is of no use on it."""


class MaskError(EngineError):
    """A mask that cannot be of the people in this picture; it must not be used."""


class SinkError(VidsegError):
    """An output could not be opened or written."""

    def __init__(self, message: str, *, url: str = "") -> None:
        super().__init__(redacted(message))
        self.url = redacted(url)


class OutputExistsError(SinkError, FileExistsError):
    """The output is there already and may not be overwritten."""

    def __str__(self) -> str:
        return str(self.args[0])


class OutputClosedError(SinkError):
    """Whoever looked at a live output has gone: the window was closed, the pipe's other end ended. No failure."""


class DeviceUnavailableError(SourceError, SinkError, OSError):
    """A camera, virtual camera or screen could not be opened: it is absent, busy or may not be used.

    The text is a sentence; where several ways were tried, each adds one reason on a line of its own.
    """

    def __str__(self) -> str:
        return str(self.args[0])


class ConfigError(VidsegError):
    """A configuration file cannot be read or written, or holds what is no setting."""

    def __init__(self, message: str, *, path: str = "") -> None:
        super().__init__(message)
        self.path = path


class ControlError(VidsegError):
    """A running session does not answer, or refuses what it was asked."""


class MissingDependencyError(VidsegError, ImportError):
    """An optional package is not installed; the text is the command that mends it."""

    def __init__(self, feature: str, extra: str) -> None:
        super().__init__(f"{feature} needs a package that is not installed: pip install 'vidseg[{extra}]'")
        self.extra = extra
