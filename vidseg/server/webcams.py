"""Running sessions of ``vidseg webcam`` of this user, as the page controls them: by the socket of ``vidseg ctl``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field

from vidseg.errors import ControlError
from vidseg.live import control
from vidseg.live.config import resolved
from vidseg.live.settings import Settings


class Change(BaseModel):
    """What a session is asked to do, as with ``vidseg ctl``.

    Attributes:
        do: ``change`` lays ``values`` over the settings, ``preset`` takes those of that ``name``.
        values: By the names of ``settings``.
        name: Of a preset.
    """

    do: Literal["change", "preset", "stop"]
    values: dict[str, Any] = Field(default_factory=dict)
    name: str = Field("", max_length=200)


class Webcams(BaseModel):
    """Running sessions, each with its ``session``, ``settings``, ``status`` and ``presets``."""

    controlled: bool
    sessions: list[dict[str, Any]]


def running() -> list[dict[str, Any]]:
    """Return what all sessions say of themselves. Waits for them."""
    found = []
    try:
        for name in control.sessions():
            try:
                found.append(control.ask({"do": "status"}, name))
            except ControlError:  # it has just ended
                continue
    except ControlError:  # there can be none here
        return []
    return found


def act(session: str, change: Change) -> dict[str, Any]:
    """Change a session, and return what it says then. Waits for it.

    Raises:
        ControlError: There is none of the name, or it refuses.
    """
    request: dict[str, Any] = {"do": change.do}
    if change.do == "change":
        try:
            Settings.from_dict(change.values)
        except (TypeError, ValueError) as error:
            raise ControlError(str(error)) from error
        request["values"] = resolved(change.values, Path.home())
    elif change.do == "preset":
        request["name"] = change.name
    return control.ask(request, session)
