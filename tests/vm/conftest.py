"""Tests that run inside the virtual machine of ``tests/vm/guest``; ``tests/test_vm.py`` boots it and runs them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.vm.network import small_network

if "VIDSEG_IN_GUEST" not in os.environ:
    collect_ignore_glob = ["test_*.py"]

CAMERA, VIRTUAL, FEED = "/dev/video0", "/dev/video10", "/dev/video11"
BARS = [
    *((180, 128, 128), (162, 44, 142), (131, 156, 44), (112, 72, 58)),
    *((84, 184, 198), (65, 100, 212), (35, 212, 114), (16, 128, 128)),
]
"""Bars of 75 %, white to black, in BT.601 of limited range (ITU-R BT.801), as vivid shows them."""
_DRIVER = Path("/sys/bus/platform/drivers/vivid")


def pytest_configure(config: pytest.Config) -> None:
    """Make known what marks tests that only ``VIDSEG_REQUIRE_VM=all`` runs."""
    config.addinivalue_line("markers", "further: left out where time is short")


class Plug:
    """Pulls vivid's camera out and puts it back, through its driver."""

    driver = _DRIVER

    def pull(self) -> None:
        (_DRIVER / "unbind").write_text("vivid.0")

    def put(self) -> None:
        (_DRIVER / "bind").write_text("vivid.0")
        wait_for(lambda: os.path.exists(CAMERA), "the camera's node")


@pytest.fixture
def plug() -> Iterator[Plug]:
    yield Plug()
    if not (_DRIVER / "vivid.0").exists():
        Plug().put()


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a model that an emulated processor keeps up with."""
    return small_network(tmp_path_factory.mktemp("network"))


def wait_for(done: Callable[[], object], what: str, seconds: float = 300) -> None:
    """Wait until ``done``; the machine is emulated and slow, so generously."""
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, f"{what} did not come within {seconds} s"
        time.sleep(0.05)


sys.modules["vm"] = sys.modules[__name__]  # so that tests may say: from vm import wait_for
