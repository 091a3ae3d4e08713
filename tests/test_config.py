"""The configuration: where it lies, what is said of a wrong one, what writing keeps, and what a change tells."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from vidseg.errors import ConfigError
from vidseg.live import config
from vidseg.live.config import ConfigWatch, default_path, read_config, resolved, save_config

TEXT = """\
# my own words
background = "office.jpg"
position = [0.1, 0]
camera = "C920"
out = ["virtual", "talk.mkv"]

[preset.evening]
background = "blur:70"   # dark outside
smoothing = 0.2

[preset."at home"]
background = "~/beach.png"
"""


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text(TEXT)
    return file


def touch(path: Path, text: str) -> None:
    """Write ``text`` with a time that differs, however coarse the clock of the file system is."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_text(text)
    os.utime(path, ns=(before + 10**9, before + 10**9))


# --- where it lies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("system", "environment", "expected"),
    [
        ("linux", {}, "/home/ada/.config/vidseg/config.toml"),
        ("linux", {"XDG_CONFIG_HOME": "/elsewhere"}, "/elsewhere/vidseg/config.toml"),
        ("linux", {"XDG_CONFIG_HOME": "relative"}, "/home/ada/.config/vidseg/config.toml"),
        ("darwin", {"XDG_CONFIG_HOME": "/x"}, "/home/ada/Library/Application Support/vidseg/config.toml"),
        ("win32", {"APPDATA": "/roaming"}, "/roaming/vidseg/config.toml"),
        ("win32", {}, "/home/ada/AppData/Roaming/vidseg/config.toml"),
    ],
)
def test_the_place_is_the_systems_own(monkeypatch, system, environment, expected):
    for name in ("XDG_CONFIG_HOME", "APPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/ada")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", system)
    assert default_path().as_posix() == expected


def test_the_default_need_not_exist_but_a_named_one_must(monkeypatch, tmp_path):
    monkeypatch.setattr(config, "default_path", lambda: tmp_path / "config.toml")
    assert read_config() == config.Config(tmp_path / "config.toml")
    with pytest.raises(ConfigError, match=r"other\.toml does not exist; --save-config writes one"):
        read_config(tmp_path / "other.toml")


# --- reading ----------------------------------------------------------------------------------------------------


def test_what_it_says_and_nothing_else(path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    read = read_config(path)
    assert read.settings == {"background": str(path.parent / "office.jpg"), "position": [0.1, 0]}
    assert read.start == {"camera": "C920", "out": ("virtual", str(path.parent / "talk.mkv"))}
    assert read.preset("evening") == {"background": "blur:70", "smoothing": 0.2}
    assert read.preset("at home") == {"background": "/home/ada/beach.png"}
    with pytest.raises(ConfigError, match=r"there is no preset 'noon'; there are evening, at home"):
        read.preset("noon")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("mirror = true\nbakground = 'blur'", ", line 2: there is no setting 'bakground'; did you mean background?"),
        ("a1b2c3d4 = 1", ", line 1: there is no setting 'a1b2c3d4'; there are background, fit,"),
        ("\n\nmirror = 1", ", line 3: mirror is 1; it must be true or false"),
        ("fit = 'cover'\nsize = '12'", ", line 2: size is '12'; write WIDTHxHEIGHT, as in 1280x720"),
        ("out = ['a', 1]", ", line 1: out is ('a', 1); it must be a list of names"),
        ("[preset.x]\nsmoothing = -1\n[preset.y]\n", ", line 2: smoothing is -1; it must be from 0 to 10"),
        ("smoothing = 1\n[preset.x]\n'smoothing' = 11", ", line 3: smoothing is 11; it must be from 0 to 10"),
        ("[preset.x]\ncamera = '0'", ", line 2: there is no setting 'camera'; it is not for presets"),
        ("[presets.x]\nfit = 'cover'", ", line 1: there is no setting 'presets'; did you mean preset?"),
        ("preset = 3", ", line 1: a preset is a table: write [preset.NAME]"),
        ("mirror = yes", "is no TOML: invalid value at line 1, column 10"),
        ("mirror = true\nmirror = false\n", "is no TOML: cannot overwrite a value at line 2"),
    ],
)
def test_a_wrong_file_is_one_sentence_with_file_and_line(tmp_path, text, told):
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_config(file)
    assert str(caught.value).startswith(str(file))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_text_and_what_cannot_be_read(tmp_path):
    file = tmp_path / "config.toml"
    file.write_bytes(b"mirror = \xff")
    with pytest.raises(ConfigError, match="is no text in UTF-8"):
        read_config(file)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        read_config(tmp_path)


def test_paths_begin_where_they_are_written(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    (tmp_path / "plain").write_bytes(b"")
    (tmp_path / "3").write_bytes(b"")

    def found(name, text):
        value = resolved({name: text}, tmp_path)[name]
        return value.replace(str(tmp_path), "HERE") if value != text else "as it is"

    for name, text, expected in [
        ("background", "a.jpg", "HERE/a.jpg"),
        ("background", "sub/../a.jpg", "HERE/a.jpg"),
        ("background", "~/a.jpg", "/home/ada/a.jpg"),
        ("background", "plain", "HERE/plain"),
        ("background", "/a.jpg", "as it is"),
        ("background", "navy", "as it is"),
        ("background", "#1e90ff", "as it is"),
        ("background", "Blur:70.5", "as it is"),
        ("background", "https://example.org/a.mp4", "as it is"),
        ("background", "none", "as it is"),
        ("model", "unet-s", "as it is"),
        ("model", "./unet-s", "HERE/unet-s"),
        ("model", "m.onnx", "HERE/m.onnx"),
        ("camera", "3", "as it is"),
        ("camera", "HD Pro 2.0", "as it is"),
        ("camera", "plain", "HERE/plain"),
        ("camera", "./talk.mp4", "HERE/talk.mp4"),
        ("camera", "/dev/video0", "as it is"),
        ("camera", "screen::0", "as it is"),
        ("out", ("-", "-:raw", "preview", "a.mkv"), ("-", "-:raw", "preview", str(tmp_path / "a.mkv"))),
    ]:
        if name == "out":
            assert resolved({"out": text}, tmp_path)["out"] == expected
        else:
            assert found(name, text) == expected, (name, text)


# --- writing ----------------------------------------------------------------------------------------------------


def test_what_is_written_is_what_is_read_and_the_rest_stays(path):
    presets = read_config(path).presets
    values = {
        "background": '/a "b"\\c\x7f\n\té.jpg', "position": (0.5, -1.0), "mirror": True, "smoothing": 0.0,
        "fps": None, "max_cpu": 0.5, "threads": 2, "out": ("virtual",),
    }  # fmt: skip
    save_config(path, values)
    read = read_config(path)
    assert read.values == {name: v for name, v in values.items() if v is not None} | {"position": [0.5, -1.0]}
    assert read.presets == presets
    text = path.read_text()
    assert text.startswith("# my own words\n")
    assert "# dark outside" in text
    assert path.stat().st_mode & 0o777 == 0o600
    save_config(path, values)
    assert path.read_text() == text


def test_a_new_file_in_a_new_folder(tmp_path):
    file = tmp_path / "a" / "b" / "config.toml"
    save_config(file, {"mirror": True})
    assert file.read_text() == "mirror = true\n"
    assert os.listdir(file.parent) == ["config.toml"]


def test_a_link_stays_a_link(tmp_path):
    real, link = tmp_path / "dotfiles.toml", tmp_path / "config.toml"
    real.write_text("")
    link.symlink_to(real)
    save_config(link, {"mirror": True})
    assert link.is_symlink()
    assert real.read_text() == "mirror = true\n"


@pytest.mark.parametrize("text", ["mirror = ", "note = '''\n[\n'''\n"])
def test_a_file_that_is_not_understood_is_not_touched(tmp_path, text):
    file = tmp_path / "config.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.toml"):
        save_config(file, {"fit": "cover"})
    assert file.read_text() == text
    assert os.listdir(tmp_path) == ["config.toml"]


def test_names_that_toml_cannot_hold_are_refused(tmp_path):
    file = tmp_path / "config.toml"
    with pytest.raises(ConfigError, match="cannot be written"):
        save_config(file, {"background": "/\udcff.jpg"})
    assert os.listdir(tmp_path) == []


# --- changes ----------------------------------------------------------------------------------------------------


def test_only_what_changed_in_the_file_is_told(path):
    watch = ConfigWatch(read_config(path))
    assert watch.changes() == {}
    touch(path, TEXT.replace("[0.1, 0]", "[0.1, 0]\nmirror = true").replace("0.2", "0.3").replace("C920", "0"))
    assert watch.changes() == {}  # it may still be being written
    assert watch.changes() == {"mirror": True}
    assert watch.changes() == {}
    assert watch.config.preset("evening")["smoothing"] == 0.3


def test_a_setting_that_vanishes_changes_nothing_and_tells_when_it_is_back(path):
    watch = ConfigWatch(read_config(path))
    touch(path, "")
    assert [watch.changes(), watch.changes()] == [{}, {}]
    touch(path, "position = [0.2, 0]\n")
    assert [watch.changes(), watch.changes()] == [{}, {"position": [0.2, 0]}]


def test_a_file_that_is_gone_for_a_moment(path):
    watch = ConfigWatch(read_config(path))
    path.unlink()
    assert [watch.changes(), watch.changes()] == [{}, {}]
    touch(path, "mirror = true\n")
    assert [watch.changes(), watch.changes()] == [{}, {"mirror": True}]


def test_a_wrong_change_is_said_once(path):
    watch = ConfigWatch(read_config(path))
    touch(path, "mirror = 1\n")
    assert watch.changes() == {}
    with pytest.raises(ConfigError, match="line 1: mirror is 1"):
        watch.changes()
    assert watch.changes() == {}
    touch(path, "mirror = true\n")
    assert [watch.changes(), watch.changes()] == [{}, {"mirror": True}]
