"""``vidseg ctl``: changes a running ``vidseg webcam``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from vidseg.cli import options as opt
from vidseg.cli.console import Console

EXAMPLES = opt.example(
    "vidseg ctl background office.jpg",
    "vidseg ctl blur 70",
    "vidseg ctl pause",
    "vidseg ctl preset evening",
    "vidseg ctl status --json",
    "vidseg ctl stop --session video10",
)


class Action(NamedTuple):
    """One word of ``vidseg ctl``.

    Attributes:
        values: What follows it, for a person.
        text: What it does.
        request: Makes the request of the words that follow.
    """

    values: str
    text: str
    request: Callable[[Sequence[str]], dict[str, Any]]


def _setting(name: str, read: Callable[[str], Any] = str) -> Callable[[Sequence[str]], dict[str, Any]]:
    def request(words: Sequence[str]) -> dict[str, Any]:
        from vidseg.live.config import resolved

        return {"do": "change", "values": resolved({name: read(words[0])}, Path.cwd())}

    return request


def _fixed(**values: Any) -> Callable[[Sequence[str]], dict[str, Any]]:
    return lambda words: {"do": "change", "values": values}


def _flag(word: str) -> bool:
    if word.lower() not in ("on", "off"):
        raise ValueError(f"{word!r} is neither on nor off")
    return word.lower() == "on"


def _blur(words: Sequence[str]) -> dict[str, Any]:
    return {"do": "change", "values": {"background": f"blur:{float(words[0]):g}" if words else "blur"}}


def _place(words: Sequence[str]) -> dict[str, Any]:
    return {"do": "change", "values": {"position": [float(words[0]), float(words[1])]}}


ACTIONS = {
    "background": Action("BACKGROUND", f"put this behind you: {opt.LIVE_CHOICES}", _setting("background")),
    "blur": Action("[STRENGTH]", "the room itself, out of focus, 0 to 100", _blur),
    "fit": Action("FIT", "how a picture fills the frame: cover, contain or stretch", _setting("fit")),
    "pause": Action("", "show a card instead of you", _fixed(paused=True)),
    "resume": Action("", "show you again", _fixed(paused=False)),
    "mirror": Action("on|off", "mirror the picture, left to right", _setting("mirror", _flag)),
    "scale": Action("FACTOR", "your size", _setting("scale", float)),
    "position": Action("RIGHT DOWN", "shift you, in shares of width and height (-0.1 0)", _place),
    "subject": Action("WHO", "who stays: all, largest or center", _setting("subject")),
    "auto-frame": Action("on|off", "crop so that you stay framed", _setting("auto_frame", _flag)),
    "smoothing": Action("SECONDS", "how much the mask is steadied", _setting("smoothing", float)),
    "model": Action("MODEL", "another network; see 'vidseg models'", _setting("model")),
    "preset": Action("NAME", "a preset of the configuration", lambda words: {"do": "preset", "name": words[0]}),
    "status": Action("", "show how it goes", lambda words: {"do": "status"}),
    "stop": Action("", "end the session", lambda words: {"do": "stop"}),
}


def _complete(incomplete: str) -> list[tuple[str, str]]:
    return [(name, action.text) for name, action in ACTIONS.items() if name.startswith(incomplete)]


def ctl(
    action: Annotated[
        str,
        typer.Argument(
            metavar="ACTION",
            help="\n\n".join(f"{name} {a.values}: {a.text}.".replace(" :", ":") for name, a in ACTIONS.items()),
            autocompletion=_complete,
        ),
    ],
    words: Annotated[list[str] | None, typer.Argument(metavar="VALUE", help="What the action needs.")] = None,
    session: Annotated[
        str | None,
        typer.Option("--session", metavar="OUT", help="Which session, if several run: its output, as in video10."),
    ] = None,
    quiet: opt.QuietOption = False,
    as_json: opt.JsonOption = False,
    verbose: opt.VerboseOption = False,
) -> None:
    """Change a running 'vidseg webcam', from any terminal, script or hot key of your desktop."""
    console = Console(quiet, as_json, verbose)
    request = _request(action, words or [])
    with console.outcome():
        from vidseg.live.control import ask

        answer = ask(request, session)
        console.result({name: value for name, value in answer.items() if name not in ("ok", "stopping")})
        if action == "status":
            console.answer(report(answer))


def _request(action: str, words: Sequence[str]) -> dict[str, Any]:
    """Return what is asked of the session.

    Raises:
        typer.BadParameter: There is no such action, or it needs other values.
    """
    if action not in ACTIONS:
        raise typer.BadParameter(f"there is no {action!r}; there are {', '.join(ACTIONS)}", param_hint="'ACTION'")
    needed = ACTIONS[action].values.split()
    least = sum(not value.startswith("[") for value in needed)
    if not least <= len(words) <= len(needed):
        form = " ".join([action, *needed])
        raise typer.BadParameter(f"it takes the form 'vidseg ctl {form}'", param_hint=f"'{action}'")
    try:
        return ACTIONS[action].request(words)
    except ValueError as error:
        raise typer.BadParameter(
            f"{error}; {action} takes {ACTIONS[action].values}", param_hint=f"'{action}'"
        ) from None


def report(answer: dict[str, Any]) -> str:
    """Return the status of a session in a few lines."""
    width = max(map(len, [*answer["settings"], *answer["status"], "session"]))
    rows = {"session": f"{answer['session']} (process {answer['pid']})", **answer["status"], **answer["settings"]}
    return "\n".join(f"{name:<{width}}  {_shown(value)}" for name, value in rows.items() if _shown(value))


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_shown(part) for part in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value if value is not None else "")
