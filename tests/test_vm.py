"""Boots a virtual machine with a real kernel and real V4L2 devices once, and runs tests/vm inside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = sorted(path.name for path in (HERE / "vm").glob("test_*.py"))
if shutil.which("chromium") is None:
    FILES.remove("test_browser.py")
LIMIT = 3000
"""Seconds for everything: the machine is emulated."""


def missing() -> str:
    """Return what the machine needs and this system lacks, or ""."""
    lacking = [name for name in ("qemu-system-x86_64", "busybox", "cpio", "modprobe") if shutil.which(name) is None]
    if not any(Path("/boot").glob("vmlinuz-*-amd64")):
        lacking.append("a Debian kernel")
    if not any(Path("/lib/modules").glob("*/updates/dkms/v4l2loopback.ko*")):
        lacking.append("v4l2loopback")
    return f"needs {', '.join(lacking)}: see the head of tests/vm/guest" if lacking else ""


@pytest.fixture(scope="module")
def report(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[tuple[str, str]]]:
    """Return for each file its tests inside the machine: name, and why it did not pass or ""."""
    if not os.environ.get("VIDSEG_REQUIRE_VM"):
        pytest.skip("needs VIDSEG_REQUIRE_VM=1 (or all): the machine is emulated and takes minutes")
    lacking = missing()
    assert not lacking, lacking
    out = tmp_path_factory.mktemp("vm")
    environment = {
        "VIDSEG_IN_GUEST": "1",
        "PYTHONPATH": str(HERE.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # none is needed, and each takes seconds to import inside
        # The emulated processor is another one, and slow to compile for: both sides agree on a plain one.
        "NUMBA_CPU_NAME": "x86-64",
        "NUMBA_CPU_FEATURES": "",
        "NUMBA_CACHE_DIR": str(out / "numba"),
    }
    warm = [sys.executable, str(HERE / "vm" / "warm.py"), str(out)]
    subprocess.run(warm, env={**os.environ, **environment}, check=True, timeout=900)
    environment["NUMBA_CACHE_DIR"] = "/mnt/out/numba"
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml=/mnt/out/report.xml"]
    tests += ["-o", "junit_logging=all"]
    if os.environ["VIDSEG_REQUIRE_VM"] != "all":
        tests += ["-m", "not further"]
    chosen = {item.callspec.params["file"] for item in request.session.items if item.path == Path(__file__)}
    names = os.environ.get("VIDSEG_VM_TESTS", "")  # as for pytest -k, to try a few
    command = [
        "env",
        *(f"{name}={value}" for name, value in environment.items()),
        *tests,
        *(str(HERE / "vm" / name) for name in sorted(chosen)),
    ]
    command += ["-k", names] if names else []
    console = out / "console.txt"  # can be followed while it runs
    for _ in range(2):  # on a busy machine the emulated kernel may fail to start
        with console.open("wb") as said:
            done = subprocess.run(
                [str(HERE / "vm" / "guest"), "--out", str(out), "--timeout", str(LIMIT), "--", *command],
                stdout=said,
                stderr=subprocess.STDOUT,
                timeout=LIMIT + 60,
                cwd=HERE.parent,
            )
        if done.returncode != 125:
            break
    text = console.read_text("utf-8", "replace")[-8000:]
    print(text)
    assert (out / "report.xml").exists(), f"the machine ran no test (status {done.returncode}):\n{text}"
    found: dict[str, list[tuple[str, str]]] = {}
    for case in ET.parse(out / "report.xml").iter("testcase"):
        bad = [*case.findall("failure"), *case.findall("error"), *case.findall("skipped")]
        file = case.get("classname", "").rpartition(".")[2] + ".py"
        why = "\n".join(f"{entry.get('message')}\n{entry.text}" for entry in bad)
        why += (case.findtext("system-out") or "") if bad else ""
        found.setdefault(file, []).append((case.get("name", ""), why))
    return found


@pytest.mark.parametrize("file", FILES)
def test_inside(report, file):
    assert report.get(file), f"no test of {file} ran"
    wrong = [f"{name}: {why}" for name, why in report[file] if why]
    assert not wrong, "\n\n".join(wrong)
