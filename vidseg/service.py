"""Service: a systemd user unit that keeps ``vidseg webcam`` running from login to logout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from vidseg.errors import VidsegError
from vidseg.live.config import Config, write_whole

NAME = "vidseg.service"
_UNIT = """\
# Written by 'vidseg service install'; 'vidseg service uninstall' removes it.
[Unit]
Description=vidseg: a virtual camera that never shows the room
# A session that ends at once, again and again, is wrongly set up: leave it to its owner.
StartLimitIntervalSec=120
StartLimitBurst=5

[Service]
Type=exec
ExecStart={command}
Restart=on-failure
RestartSec=3
# What a restart does not mend: wrong usage. What is no failure: having been told to end.
RestartPreventExitStatus=2
SuccessExitStatus=129 130 143
TimeoutStopSec=10

# Limits. A core dump would hold pictures of the room.
CPUQuota={cpu}%
MemoryHigh=700M
MemoryMax=1G
TasksMax=128
LimitCORE=0
OOMScoreAdjust=200

# Hardening, of what a user's own service manager can do without namespaces.
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
# {network}
RestrictAddressFamilies={families}
UMask=0077

[Install]
WantedBy=default.target
"""


def unit_path() -> Path:
    """Return where the unit of a user lies (systemd.unit(5))."""
    given = Path(os.environ.get("XDG_CONFIG_HOME") or ".")
    return (given if given.is_absolute() else Path.home() / ".config") / "systemd" / "user" / NAME


def unit_text(config: Config) -> str:
    """Return the unit that runs ``config``.

    It may use the network only if the configuration names something that is there.
    """
    named = [*config.values.values(), *(value for preset in config.presets.values() for value in preset.values())]
    words = [word for value in named for word in (value if isinstance(value, tuple) else (value,))]
    remote = any("://" in word for word in words if isinstance(word, str))
    command = [sys.executable, "-m", "vidseg", "webcam", "--config", str(config.path), "--quiet"]
    budget = config.values.get("max_cpu")
    return _UNIT.format(
        command=" ".join(map(_quoted, command)),
        # Twice the budget that the session keeps by itself, since starting up takes more.
        cpu=round(max(1.0, 2 * budget) * 100) if budget else 200,
        network="The configuration names something on the network." if remote else "Nothing here needs the network.",
        # Netlink tells of cameras that come and go.
        families="AF_UNIX AF_NETLINK" + (" AF_INET AF_INET6" if remote else ""),
    )


def _quoted(word: str) -> str:
    """Return one word of a command line as systemd reads it (systemd.service(5), "COMMAND LINES")."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if escaped != word or not word or any(letter in word for letter in " \t'") else word


def install(config: Config) -> Path:
    """Write the unit, start it, and have it started at each login; returns its path.

    Raises:
        VidsegError: There is no configuration to run, or systemd refuses.
    """
    _require_systemd()
    if not config.path.is_file():
        raise VidsegError(
            f"{config.path} does not exist: write it with 'vidseg webcam --bg … --save-config', then install"
        )
    path = unit_path()
    try:
        write_whole(path, unit_text(config))
    except OSError as error:
        raise VidsegError(f"{path} cannot be written: {error.strerror}") from error
    _systemctl("daemon-reload")
    _systemctl("enable", NAME)
    _systemctl("restart", NAME)
    return path


def uninstall() -> bool:
    """Stop the service and remove its unit; returns whether there was one.

    Raises:
        VidsegError: systemd refuses, or the file cannot be removed.
    """
    path = unit_path()
    if not path.exists():
        return False
    _require_systemd()
    _systemctl("disable", "--now", NAME)
    try:
        path.unlink()
    except OSError as error:
        raise VidsegError(f"{path} cannot be removed: {error.strerror}") from error
    _systemctl("daemon-reload")
    return True


def status() -> dict[str, str]:
    """Return whether the unit is there, whether it starts at login, and how it goes, in systemd's words."""
    found = {"unit": str(unit_path()) if unit_path().exists() else ""}
    if shutil.which("systemctl") is None:
        return {**found, "enabled": "unknown", "active": "unknown"}
    enabled, active = (_systemctl(word, NAME, check=False) for word in ("is-enabled", "is-active"))
    return {**found, "enabled": enabled or "unknown", "active": active or "unknown"}


def _require_systemd() -> None:
    if shutil.which("systemctl") is None:
        raise VidsegError(
            "this system has no systemd: let your desktop start 'vidseg webcam' at login, and see --print for the unit"
        )


def _systemctl(*words: str, check: bool = True) -> str:
    """Run ``systemctl --user`` and return the first line of what it says."""
    command: Sequence[str] = ("systemctl", "--user", *words)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise VidsegError(f"'{' '.join(command)}' cannot be run: {error}") from error
    if check and done.returncode:
        raise VidsegError(f"'{' '.join(command)}' failed: {done.stderr.strip() or done.returncode}")
    return (done.stdout.strip().splitlines() or [""])[0]
