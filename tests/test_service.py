"""``vidseg service``: a unit that systemd itself accepts; ``systemctl`` is a fake that remembers what it was told."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vidseg.cli.main import main
from vidseg.live.config import Config
from vidseg.service import unit_text

pytestmark = pytest.mark.skipif(os.name != "posix", reason="systemd is Linux")

SYSTEMCTL = """\
#!/bin/sh
echo "$@" >> "$0.log"
case "$2" in
  is-enabled) echo enabled ;;
  is-active) echo inactive; exit 3 ;;
  "$REFUSED") echo "Failed: Access denied" >&2; exit 1 ;;
esac
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home with a configuration, and the fake."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    fake = tmp_path / "bin" / "systemctl"
    fake.parent.mkdir()
    fake.write_text(SYSTEMCTL)
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:/bin:/usr/bin")
    config = tmp_path / "config" / "vidseg" / "config.toml"
    config.parent.mkdir(parents=True)
    config.write_text('background = "navy"\n')
    return tmp_path


def told(home: Path) -> list[str]:
    log = home / "bin" / "systemctl.log"
    return log.read_text().splitlines() if log.exists() else []


def unit(home: Path) -> Path:
    return home / "config" / "systemd" / "user" / "vidseg.service"


def test_install_status_uninstall(home, capsys):
    assert main(["service", "install"]) == 0
    assert told(home)[:3] == ["--user daemon-reload", "--user enable vidseg.service", "--user restart vidseg.service"]
    text = unit(home).read_text()
    command = f"{sys.executable} -m vidseg webcam --config {home}/config/vidseg/config.toml --quiet"
    assert f"ExecStart={command}\n" in text
    assert "is installed and runs" in capsys.readouterr().err

    assert main(["service", "status", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"unit": str(unit(home)), "enabled": "enabled", "active": "inactive"}
    assert main(["service", "status"]) == 0
    assert capsys.readouterr().out == f"unit    {unit(home)}\nenabled enabled\nactive  inactive\n"

    (home / "bin" / "systemctl.log").unlink()
    assert main(["service", "uninstall"]) == 0
    assert told(home)[:2] == ["--user disable --now vidseg.service", "--user daemon-reload"]
    assert not unit(home).exists()
    assert main(["service", "uninstall"]) == 0
    assert "was not installed" in capsys.readouterr().err
    assert main(["service", "status"]) == 0
    assert "unit    not installed\n" in capsys.readouterr().out


def test_print_changes_nothing(home, capsys):
    assert main(["service", "install", "--print"]) == 0
    assert capsys.readouterr().out.startswith("# Written by 'vidseg service install'")
    assert main(["service", "install", "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unit"] == str(unit(home))
    assert told(home) == []
    assert not unit(home).exists()


def test_there_must_be_something_to_run(home, capsys):
    (home / "config" / "vidseg" / "config.toml").unlink()
    assert main(["service", "install"]) == 1
    assert "write it with 'vidseg webcam --bg … --save-config', then install" in capsys.readouterr().err
    (home / "config" / "vidseg" / "config.toml").write_text("mirror = 3")
    assert main(["service", "install"]) == 1
    assert "line 1: mirror is 3" in capsys.readouterr().err
    assert told(home) == []


def test_what_systemd_refuses_is_said(home, monkeypatch, capsys):
    monkeypatch.setenv("REFUSED", "enable")
    assert main(["service", "install"]) == 1
    said = capsys.readouterr().err
    assert said == "vidseg: 'systemctl --user enable vidseg.service' failed: Failed: Access denied\n"


def test_without_systemd(home, monkeypatch, capsys):
    monkeypatch.setenv("PATH", "/does/not/exist")
    assert main(["service", "install"]) == 1
    assert "this system has no systemd: let your desktop start 'vidseg webcam' at login" in capsys.readouterr().err
    assert main(["service", "status"]) == 0
    assert "active  unknown" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("values", "presets", "remote"),
    [
        ({"background": "navy"}, {}, False),
        ({"camera": "rtsp://host/1"}, {}, True),
        ({"out": ("virtual", "srt://host:9000")}, {}, True),
        ({}, {"a": {"background": "https://example.org/a.mp4"}}, True),
    ],
)
def test_the_network_is_open_only_if_something_there_is_named(values, presets, remote):
    text = unit_text(Config(Path("/c.toml"), values, presets))
    families = "AF_UNIX AF_NETLINK AF_INET AF_INET6" if remote else "AF_UNIX AF_NETLINK"
    assert f"RestrictAddressFamilies={families}\n" in text


@pytest.mark.parametrize(("budget", "quota"), [(None, 200), (0.25, 100), (0.9, 180), (2, 400)])
def test_the_quota_leaves_room_to_start(budget, quota):
    text = unit_text(Config(Path("/c.toml"), {"max_cpu": budget} if budget else {}))
    assert f"CPUQuota={quota}%\n" in text


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("name", ["config.toml", 'a b "c" \\d 100% $HOME é.toml'])
def test_systemd_accepts_it(tmp_path, name):
    path = tmp_path / "vidseg.service"
    path.write_text(unit_text(Config(tmp_path / name)))

    def verify() -> str:
        environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "SYSTEMD_LOG_LEVEL": "info"}
        command = ["systemd-analyze", "--user", "--man=no", "verify", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
        return f"{done.stdout}{done.stderr}{done.returncode or ''}"

    assert verify() == ""
    path.write_text(re.sub("^Restart=.*", "Restart=perhaps\nNonsense=yes", path.read_text(), flags=re.MULTILINE))
    assert "Nonsense" in verify()  # it would have said so
