"""The public surface is a list, and every name on it is there."""

from __future__ import annotations

import re

import pytest

import vidseg


def test_the_list_is_sorted_and_complete():
    assert vidseg.__all__ == sorted(vidseg._HOMES)
    assert re.fullmatch(r"\d+\.\d+\.\d+", vidseg.__version__)


@pytest.mark.parametrize("name", vidseg.__all__)
def test_every_name_is_importable_and_documented(name):
    assert getattr(vidseg, name).__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        vidseg.nonsense  # noqa: B018
