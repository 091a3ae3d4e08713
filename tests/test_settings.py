"""Settings: what is allowed, what is said of the rest, and that JSON and TOML carry them unchanged."""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib

import pytest

from vidseg.live.config import Start, _toml
from vidseg.live.settings import Settings

OTHER = Settings(
    background="/home/ada/beach.jpg", fit="contain", model="my-model", smoothing=0.0, mirror=True, scale=0.5,
    position=(-0.25, 1.0), subject="largest", auto_frame=True, paused=True,
)  # fmt: skip


def test_every_field_of_the_example_differs_from_its_default():
    assert all(getattr(OTHER, field.name) != field.default for field in dataclasses.fields(Settings))


@pytest.mark.parametrize("settings", [Settings(), OTHER], ids=["default", "other"])
def test_json_and_toml_carry_them_unchanged(settings):
    values = settings.to_dict()
    assert Settings.from_dict(json.loads(json.dumps(values))) == settings
    text = "\n".join(f"{name} = {_toml(value)}" for name, value in values.items())
    assert Settings.from_dict(tomllib.loads(text)) == settings


def test_values_are_laid_over_a_base():
    assert Settings.from_dict({"mirror": False, "position": [0, 0]}, OTHER) == dataclasses.replace(
        OTHER, mirror=False, position=(0, 0)
    )
    assert Settings.from_dict({}) == Settings()


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("background", "", "background is ''; it must not be empty"),
        ("background", " ", "it must not be empty"),
        ("background", "a\0b", "it must not be empty"),
        ("background", 3, "background is 3; it must be text"),
        ("model", None, "model is None; it must be text"),
        ("fit", "fill", "fit is 'fill'; it must be one of cover, contain, stretch"),
        ("subject", "me", "subject is 'me'; it must be one of all, largest, center"),
        ("subject", ["all"], "it must be one of all"),
        ("mirror", 1, "mirror is 1; it must be true or false"),
        ("auto_frame", "yes", "it must be true or false"),
        ("paused", None, "it must be true or false"),
        ("smoothing", -0.1, "smoothing is -0.1; it must be from 0 to 10"),
        ("smoothing", math.nan, "it must be from 0 to 10"),
        ("smoothing", "0.1", "smoothing is '0.1'; it must be a number"),
        ("scale", 0, "scale is 0; it must be from 0.1 to 4"),
        ("scale", math.inf, "it must be from 0.1 to 4"),
        ("scale", True, "it must be a number"),
        ("position", [0.0], "two numbers"),
        ("position", "00", "two numbers"),
        ("position", [0, 1.5], "position is 1.5; it must be from -1 to 1"),
        ("bakground", "blur", "there is no setting 'bakground'; there are background, fit"),
    ],
)
def test_what_is_wrong_is_said(name, value, told):
    with pytest.raises((TypeError, ValueError)) as caught:
        Settings.from_dict({name: value})
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("camera", "", "camera is ''"),
        ("size", "1280", "size is '1280'; write WIDTHxHEIGHT, as in 1280x720"),
        ("size", "1279x720", "both sides must be even"),
        ("size", "0x720", "from 2 to"),
        ("size", 720, "write WIDTHxHEIGHT"),
        ("fps", 0, "fps is 0; it must be from 1 to 1000"),
        ("fps", "1/0", "fps is '1/0'"),
        ("fps", "fast", "fps is 'fast'"),
        ("fps", True, "fps is True"),
        ("fps", math.nan, "fps is nan"),
        ("pixel_format", "rgb", "it must be one of auto, mjpeg, yuyv, nv12"),
        ("on_failure", "raw", "it must be one of background, hold, stop"),
        ("sync", "loose", "it must be one of strict, fast"),
        ("max_cpu", 0, "max_cpu is 0; it must be more than 0"),
        ("max_cpu", math.nan, "it must be more than 0"),
        ("target_fps", "30", "it must be a number"),
        ("threads", 0, "a whole number from 1"),
        ("threads", 1.5, "a whole number from 1"),
        ("always_on", "no", "it must be true or false"),
        ("out", "preview", "it must be a list of names"),
        ("out", ["preview", ""], "it must be a list of names"),
    ],
)
def test_what_a_run_cannot_be_started_with_is_said(name, value, told):
    with pytest.raises((TypeError, ValueError)) as caught:
        Start.from_dict({name: value})
    assert told in str(caught.value)


def test_sizes_and_rates():
    start = Start.from_dict({"size": "1280 x 720", "fps": "30000/1001", "out": ["virtual", "preview"]})
    assert start.wanted_size() == (720, 1280)
    assert str(start.wanted_fps()) == "30000/1001"
    assert str(Start(fps=29.97).wanted_fps()) == "2997/100"
    assert start.out == ("virtual", "preview")
    assert (Start().wanted_size(), Start().wanted_fps()) == (None, None)
