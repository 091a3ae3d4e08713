"""The examples in the documentation run, and the reference can be made from the docstrings."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from typer.main import get_command

import vidseg
from tests import media
from vidseg.cli.app import app

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def examples(language):
    """Yield the code blocks of all pages."""
    for page in PAGES:
        for number, match in enumerate(
            re.finditer(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.S | re.M)
        ):
            yield pytest.param(match[1], id=f"{page.name}-{number}")


def needed(code):
    """Return the packages that an example imports."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    media.clip(tmp_path / "talk.mp4", 6, (96, 128))
    rgb = media.picture(0, (96, 128)).to_ndarray(format="bgr24")
    for name in ("beach.jpg", "portrait.jpg"):
        cv2.imwrite(str(tmp_path / name), rgb)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("code", [*examples("python")])
def test_an_example_runs(code, folder):
    missing = [name for name in needed(code) if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed")
    exec(compile(code, "example", "exec"), {"__name__": "example"})


def commands():
    """Yield what comes after ``vidseg`` in each line of the shell examples."""
    for page in PAGES:
        for block in re.findall(r"^```sh\n(.*?)^```$", page.read_text("utf-8"), re.S | re.M):
            for line in block.splitlines():
                for part in re.split(r"\||&&|;", re.sub(r"(?:^|\s)#.*", "", line)):
                    words = shlex.split(part)
                    if words and words[0].removeprefix(".venv/bin/") == "vidseg":
                        yield pytest.param(words[1:], id=f"{page.name}-{' '.join(words[1:])}")


@pytest.mark.parametrize("words", [*commands()])
def test_a_command_is_one_that_there_is(words):
    """Its options are known and take such values; it is not run."""
    group = get_command(app)
    command = group.get_command(group.make_context("vidseg", [], resilient_parsing=True), words[0])
    assert command is not None
    command.make_context(words[0], words[1:])


def test_the_reference_has_every_public_name(tmp_path):
    for name in ("pdoc", "aiortc", "livekit"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    assert "\npython docs/reference.py site\n" in (ROOT / "docs/python.md").read_text("utf-8")
    command = [sys.executable, "docs/reference.py", str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    html = (tmp_path / "vidseg.html").read_text("utf-8")
    for name in vidseg.__all__:
        assert f'id="{name}"' in html, name
    assert 'id="Compositor.reset"' in html
    assert 'id="to_frame"' in (tmp_path / "vidseg/convert.html").read_text("utf-8")
    assert "Warn" not in done.stderr
