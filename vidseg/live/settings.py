"""Settings: all of a live run that can change while it runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

FitName = Literal["cover", "contain", "stretch"]
SubjectName = Literal["all", "largest", "center"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What is shown, and how; ``dataclasses.replace`` makes the next one.

    Attributes:
        background: A picture, a video, a colour, ``blur``, ``blur:STRENGTH``, or ``none``, which shows the room.
        fit: How a picture of another shape fills the frame.
        model: A model's name, a folder with a manifest or an ONNX file.
        smoothing: Time constant of the mask in seconds; 0 is none.
        mirror: Whether the picture is mirrored, left to right.
        scale: Size of the person, as a factor.
        position: Shift of the person to the right and down, in shares of the width and the height.
        subject: Who is kept when several people are in the picture.
        auto_frame: Whether the picture is cropped, smoothly, so that the person stays framed.
        paused: Whether a card is shown instead of the person (privacy).

    Raises:
        TypeError: A value has another type.
        ValueError: A value is out of its range; the text says which and what is allowed.
    """

    background: str = "blur"
    fit: FitName = "cover"
    model: str = "unet-s"
    smoothing: float = 0.12
    mirror: bool = False
    scale: float = 1.0
    position: tuple[float, float] = (0.0, 0.0)
    subject: SubjectName = "all"
    auto_frame: bool = False
    paused: bool = False

    def __post_init__(self) -> None:
        for name in ("background", "model"):
            text = getattr(self, name)
            if not isinstance(text, str):
                raise TypeError(f"{name} is {text!r}; it must be text")
            if not text.strip() or "\0" in text:
                raise ValueError(f"{name} is {text!r}; it must not be empty")
        for name, allowed in (("fit", get_args(FitName)), ("subject", get_args(SubjectName))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}")
        for name in ("mirror", "auto_frame", "paused"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} is {getattr(self, name)!r}; it must be true or false")
        _check_number("smoothing", self.smoothing, 0.0, 10.0)
        _check_number("scale", self.scale, 0.1, 4.0)
        if not isinstance(self.position, tuple) or len(self.position) != 2:
            raise TypeError(f"position is {self.position!r}; it must be two numbers: right and down")
        for share in self.position:
            _check_number("position", share, -1.0, 1.0)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON and TOML can hold."""
        return {**asdict(self), "position": list(self.position)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], base: Settings | None = None) -> Settings:
        """Return ``base`` (else the defaults) with ``values`` laid over it.

        Raises:
            TypeError: A value has another type.
            ValueError: A name is unknown, or a value is out of its range.
        """
        known = [field.name for field in fields(cls)]
        unknown = [name for name in values if name not in known]
        if unknown:
            raise ValueError(f"there is no setting {unknown[0]!r}; there are {', '.join(known)}")
        laid = {name: getattr(base or cls(), name) for name in known} | dict(values)
        if isinstance(laid["position"], list):
            laid["position"] = tuple(laid["position"])
        return cls(**laid)


def _check_number(name: str, value: object, least: float, most: float) -> None:
    """Raise unless ``value`` is a finite number from ``least`` to ``most``."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} is {value!r}; it must be a number")
    if not (math.isfinite(value) and least <= value <= most):
        raise ValueError(f"{name} is {value!r}; it must be from {least:g} to {most:g}")
