"""Control: the socket's promises, changes in order, keys, and ``vidseg ctl``. The session beneath is a fake."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from vidseg.cli.main import main
from vidseg.errors import ControlError, SourceNotFoundError
from vidseg.live import control
from vidseg.live.config import ConfigWatch, read_config
from vidseg.live.control import KEYS, Control, ask, keys_text, session_name, sessions
from vidseg.live.settings import Settings

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="Unix sockets")

CONFIG = """\
[preset.evening]
background = "navy"
smoothing = 0.2

[preset.room]
background = "none"
"""


@dataclass(frozen=True)
class Status:
    fps: float = 29.97
    camera: str = "live"


class FakeSession:
    """Stands for ``LiveSession``: remembers what it was told; a background named ``missing`` cannot be opened."""

    def __init__(self) -> None:
        self.settings = Settings()
        self.history: list[Settings] = []
        self.stopped = threading.Event()
        self.changed = threading.Condition()
        self.slow = threading.Event()
        self.slow.set()

    def change(self, settings: Settings) -> None:
        self.slow.wait(10)
        if settings.background.endswith("missing.jpg"):
            raise SourceNotFoundError(f"the background {settings.background} does not exist")
        if settings.model == "broken":
            raise ZeroDivisionError("oh")
        with self.changed:
            self.settings = settings
            self.history.append(settings)
            self.changed.notify_all()

    def wait(self, number: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.history) >= number, 10), self.history

    def status(self) -> Status:
        return Status()

    def stop(self) -> None:
        self.stopped.set()


@pytest.fixture
def folder(tmp_path_factory, monkeypatch):
    """A runtime folder whose name is short enough for a socket."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="vs") as name:
        monkeypatch.setenv("XDG_RUNTIME_DIR", name)
        yield Path(name) / "vidseg"


@pytest.fixture
def session():
    return FakeSession()


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def running(folder, session, config):
    said: list[str] = []
    with Control(session, "video10", ConfigWatch(read_config(config)), said.append) as running:
        running.said = said
        yield running


def raw(path: Path, data: bytes) -> bytes:
    """Send bytes as they are, and return all that comes back."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(path))
        with contextlib.suppress(BrokenPipeError):
            connection.sendall(data)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(4096):
                answer += chunk
        return answer


def until(condition) -> None:
    """Wait for something that will be so soon."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# --- what is carried --------------------------------------------------------------------------------------------


def test_a_change_and_its_answer(running, session):
    answer = ask({"do": "change", "values": {"background": "navy", "position": [0.1, 0]}})
    assert session.settings == Settings(background="navy", position=(0.1, 0))
    assert answer["settings"] == session.settings.to_dict()
    assert answer["status"] == {"fps": 29.97, "camera": "live"}
    assert (answer["session"], answer["pid"], answer["presets"]) == ("video10", os.getpid(), ["evening", "room"])


def test_a_preset_is_laid_over_what_is_there(running, session):
    ask({"do": "change", "values": {"mirror": True}})
    ask({"do": "preset", "name": "evening"})
    assert session.settings == Settings(mirror=True, background="navy", smoothing=0.2)


def test_stop_is_answered_first(running, session):
    assert ask({"do": "stop"})["stopping"] is True
    assert session.stopped.wait(10)


@pytest.mark.parametrize(
    ("request_", "told"),
    [
        ({"do": "change", "values": {"background": "/missing.jpg"}}, "the background /missing.jpg does not exist"),
        ({"do": "change", "values": {"scale": 9}}, "scale is 9; it must be from 0.1 to 4"),
        ({"do": "change", "values": {"mirror": 1}}, "mirror is 1; it must be true or false"),
        ({"do": "change", "values": {"camera": "1"}}, "there is no setting 'camera'"),
        ({"do": "change", "values": {"model": "broken"}}, "this is a bug in vidseg (ZeroDivisionError: oh)"),
        ({"do": "preset", "name": "noon"}, "there is no preset 'noon'; there are evening, room"),
        ({"do": "dance"}, "there is no request {'do': 'dance'}; this session may be of another version"),
        ({"do": "change"}, "there is no request"),
    ],
)
def test_a_refusal_changes_nothing(running, session, request_, told):
    with pytest.raises(ControlError) as caught:
        ask(request_)
    assert told in str(caught.value)
    assert session.history == []
    assert ask({"do": "status"})["ok"]


@pytest.mark.parametrize("data", [b"nonsense\n", b"[]\n", b"\xff\xfe\n", b'{"do": \n', b"[" * 5000 + b"\n"])
def test_what_is_no_request_is_refused(running, data):
    answer = json.loads(raw(running.path, data))
    assert answer["ok"] is False
    assert answer["error"]
    assert ask({"do": "status"})["ok"]


def test_a_line_that_never_ends_is_cut_off(running):
    assert raw(running.path, b"x" * (control.REQUEST_BYTES * 4)) == b""
    assert ask({"do": "status"})["ok"]


def test_a_client_that_says_nothing_does_not_hold_the_others_up_for_ever(running, monkeypatch):
    monkeypatch.setattr(control, "REQUEST_SECONDS", 0.1)
    with socket.socket(socket.AF_UNIX) as silent, socket.socket(socket.AF_UNIX) as gone:
        silent.connect(str(running.path))
        gone.connect(str(running.path))
        gone.close()
        assert ask({"do": "status"})["ok"]


def test_changes_come_in_order_from_many_clients(running, session):
    def client(number: int) -> None:
        ask({"do": "change", "values": {"smoothing": number / 100}})

    threads = [threading.Thread(target=client, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(settings.smoothing for settings in session.history) == [0.0, 0.01, 0.02, 0.03]


# --- the socket -------------------------------------------------------------------------------------------------


def test_only_the_owner_can_reach_it(running, folder):
    assert folder.stat().st_mode & 0o777 == 0o700
    assert running.path == folder / "video10.sock"
    assert running.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.skipif(not hasattr(socket, "SO_PEERCRED"), reason="credentials of Linux")
@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs root, to become somebody else")
def test_another_user_gets_no_answer_even_if_the_folder_were_open(running, folder):
    folder.chmod(0o755)
    folder.parent.chmod(0o755)
    running.path.chmod(0o666)
    code = (
        "import os, socket, sys; os.setuid(65534); c = socket.socket(socket.AF_UNIX); c.settimeout(10);"
        'c.connect(sys.argv[1]); c.sendall(b\'{"do": "status"}\\n\'); print(c.recv(100))'
    )
    done = subprocess.run([sys.executable, "-c", code, running.path], capture_output=True, text=True, timeout=30)
    # The other end is closed at once: seen as its end, or as a reset, depending on who is quicker.
    assert done.stdout == "b''\n" or "ConnectionResetError" in done.stderr or "BrokenPipe" in done.stderr, done


@pytest.mark.parametrize("mode", [0o755, 0o770])
def test_a_folder_that_others_can_enter_is_not_used(folder, session, mode):
    folder.mkdir()
    folder.chmod(mode)
    said: list[str] = []
    with Control(session, "preview", note=said.append) as running:
        assert running.path is None
        running.press("m")
        session.wait(1)
    assert "is not a folder of your own that others cannot enter: remove it" in said[0]
    assert list(folder.iterdir()) == []
    with pytest.raises(ControlError, match="others cannot enter"):
        ask({"do": "status"})


def test_a_link_in_its_place_is_not_followed(folder, session, tmp_path):
    (tmp_path / "trap").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "trap")
    with Control(session, "preview") as running:
        assert running.path is None


def test_without_a_runtime_folder(tmp_path_factory, monkeypatch, session):
    import tempfile

    with tempfile.TemporaryDirectory(prefix="vs") as name:
        monkeypatch.setenv("XDG_RUNTIME_DIR", "/does/not/exist")
        monkeypatch.setattr(tempfile, "tempdir", name)
        with Control(session, "preview") as running:
            assert running.path == Path(name) / f"vidseg-{os.getuid()}" / "preview.sock"
            assert ask({"do": "status"})["session"] == "preview"


def test_nothing_is_left_behind(folder, session):
    before = set(os.listdir("/proc/self/fd")) if sys.platform == "linux" else set()
    threads = threading.active_count()
    for _ in range(3):
        with Control(session, "preview") as running:
            ask({"do": "status"})
        running.close()
    assert list(folder.iterdir()) == []
    assert threading.active_count() == threads
    if sys.platform == "linux":
        assert set(os.listdir("/proc/self/fd")) == before


def test_a_killed_session_leaves_a_socket_that_does_no_harm(folder, session):
    code = (
        "import os, sys; from vidseg.live.control import Control; from tests.test_control import FakeSession;"
        "Control(FakeSession(), 'video10'); print('up', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE, cwd=Path(__file__).parent.parent
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        assert ask({"do": "status"})["pid"] == child.pid
        child.send_signal(signal.SIGKILL)
        child.wait(10)
    assert (folder / "video10.sock").is_socket()
    with pytest.raises(ControlError, match="no session is running: start one with 'vidseg webcam'"):
        ask({"do": "status"})
    with Control(session, "video10") as running:
        assert running.path == folder / "video10.sock"
        assert ask({"do": "status"})["pid"] == os.getpid()


def test_two_sessions_are_told_apart_by_their_output(folder):
    first, second, third = FakeSession(), FakeSession(), FakeSession()
    with Control(first, "video10"), Control(second, "preview"), Control(third, "preview"):
        assert list(sessions()) == ["preview", "preview-2", "video10"]
        with pytest.raises(ControlError, match="3 sessions are running: say --session with one of preview, preview-2"):
            ask({"do": "status"})
        with pytest.raises(ControlError, match=r"there is no session /dev/video11: there is preview, preview-2, vid"):
            ask({"do": "status"}, "/dev/video11")
        ask({"do": "change", "values": {"mirror": True}}, "/dev/video10")
        ask({"do": "change", "values": {"paused": True}}, "preview-2")
    assert [s.settings for s in (first, second, third)] == [Settings(mirror=True), Settings(), Settings(paused=True)]


@pytest.mark.parametrize(
    ("out", "name"),
    [
        ("/dev/video10", "video10"),
        ("preview", "preview"),
        ("OBS Virtual Camera", "OBS-Virtual-Camera"),
        ("rtmp://ada:secret@host/live", "rtmp-host-live"),
        ("-", "stdout"),
        ("../talk.mkv", "talk.mkv"),
        ("/" + "x" * 200, "x" * 48),
        ("-:raw", "stdout"),
        ("..", "out"),
        ("\0\n/é", "out"),
    ],
)
def test_names(out, name):
    assert session_name(out) == name


# --- keys and the configuration ---------------------------------------------------------------------------------


def test_every_key_changes_something_that_is_allowed():
    for key, what in KEYS.items():
        for settings in (Settings(), Settings(background="navy", scale=4.0, position=(1.0, 1.0)), Settings(scale=0.1)):
            Settings.from_dict(what.change(settings), settings)
        if key not in "b0":
            assert Settings.from_dict(what.change(Settings()), Settings()) != Settings(), key


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (" ", Settings(paused=True)),
        ("  ", Settings()),
        ("m", Settings(mirror=True)),
        ("]", Settings(background="blur:60")),
        ("[[", Settings(background="blur:30")),
        ("]]]]]]]", Settings(background="blur:100")),
        ("[[[[[[[", Settings(background="blur:10")),
        ("ddw", Settings(position=(0.04, -0.02))),
        ("++0", Settings()),
        ("+", Settings(scale=1.05)),
        ("ppp", Settings()),
        ("p", Settings(subject="largest")),
        ("1", Settings(background="navy", smoothing=0.2)),
        ("1b", Settings(background="blur", smoothing=0.2)),
        ("1]", Settings(background="blur", smoothing=0.2)),
    ],
)
def test_keys(running, session, keys, expected):
    for key in keys:
        running.press(key)
    session.wait(len(keys))
    assert session.settings == expected
    assert running.said == []


def test_other_keys_do_nothing_and_the_question_mark_shows_them_all(running, session):
    for key in ("9", "x", "", "\t", "F1", "²", "?"):
        running.press(key)
    until(lambda: len(running.said) == len(keys_text({"evening": 0, "room": 0}).splitlines()))
    assert running.said[0] == "space: pause and resume"
    assert "1: preset evening" in running.said
    assert session.history == []
    running.press("q")
    assert session.stopped.wait(10)


def test_a_key_that_fails_is_a_line(running, session, config):
    os.utime(config, ns=(1, 1))
    config.write_text('[preset.a]\nbackground = "missing.jpg"\n')
    until(lambda: list(running._presets()) == ["a"])
    running.press("1")
    until(lambda: len(running.said) == 1)
    assert running.said[0].endswith("missing.jpg does not exist")
    assert session.history == []


def test_a_changed_configuration_is_taken_over_and_keeps_the_rest(running, session, config):
    ask({"do": "change", "values": {"background": "teal"}})
    config.write_text('mirror = true\nposition = [0.1, 0.2]\ncamera = "5"\n')
    session.wait(2)
    assert session.settings == Settings(background="teal", mirror=True, position=(0.1, 0.2))
    until(lambda: running.said)
    assert running.said == [f"{config} has changed: mirror, position"]


def test_a_wrong_configuration_is_a_line_and_changes_nothing(running, session, config):
    config.write_text("mirror = 3\n")
    until(lambda: running.said)
    assert running.said == [f"{config}, line 1: mirror is 3; it must be true or false"]
    assert session.history == []
    config.write_text("mirror = true\n")
    session.wait(1)


def test_closing_waits_for_a_change_that_is_on_its_way(folder, session):
    running = Control(session, "preview")
    session.slow.clear()
    running.press("m")
    threading.Timer(0.1, session.slow.set).start()
    running.close()
    assert session.settings.mirror in (True, False)
    assert not running._thread.is_alive()


# --- vidseg ctl -------------------------------------------------------------------------------------------------


def test_paths_begin_where_the_client_is(running, session, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["ctl", "background", "sub/office.jpg"]) == 0
    assert session.settings.background == str(tmp_path / "sub" / "office.jpg")
    assert main(["ctl", "model", "mine.onnx"]) == 0
    assert session.settings.model == str(tmp_path / "mine.onnx")
    assert tuple(capsys.readouterr()) == ("", "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("background navy", Settings(background="navy")),
        ("blur", Settings(background="blur")),
        ("blur 70", Settings(background="blur:70")),
        ("fit contain", Settings(fit="contain")),
        ("pause", Settings(paused=True)),
        ("resume", Settings()),
        ("mirror on", Settings(mirror=True)),
        ("mirror OFF", Settings()),
        ("scale 0.5", Settings(scale=0.5)),
        ("position -0.1 0.25", Settings(position=(-0.1, 0.25))),
        ("subject largest", Settings(subject="largest")),
        ("auto-frame on", Settings(auto_frame=True)),
        ("smoothing 0", Settings(smoothing=0)),
        ("model unet-s", Settings()),
        ("preset evening", Settings(background="navy", smoothing=0.2)),
    ],
)
def test_every_action(running, session, words, expected):
    assert main(["ctl", *words.split()]) == 0
    assert session.history == [expected]


def test_status_for_a_person_and_for_a_program(running, capsys):
    assert main(["ctl", "status"]) == 0
    shown = capsys.readouterr().out
    assert f"session     video10 (process {os.getpid()})\n" in shown
    assert "fps         30\n" in shown
    assert "background  blur\n" in shown
    assert main(["ctl", "status", "--json", "--session", "video10"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["settings"] == Settings().to_dict()
    assert answer["status"] == {"fps": 29.97, "camera": "live"}


def test_stop(running, session):
    assert main(["ctl", "stop"]) == 0
    assert session.stopped.wait(10)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("dance", "there is no 'dance'; there are background, blur"),
        ("background", "it takes the form 'vidseg ctl background BACKGROUND'"),
        ("pause now", "it takes the form 'vidseg ctl pause'"),
        ("position 1", "position RIGHT DOWN"),
        ("mirror maybe", "'maybe' is neither on nor off"),
        ("scale big", "could not convert string to float: 'big'; scale takes FACTOR"),
        ("status --jsno", "it takes the form 'vidseg ctl status'"),
    ],
)
def test_usage(running, session, words, told, capsys):
    assert main(["ctl", *words.split()]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1
    assert session.history == []


def test_refusals_are_1_and_one_line(running, capsys):
    assert main(["ctl", "background", "missing.jpg"]) == 1
    said = capsys.readouterr().err
    assert "missing.jpg does not exist" in said
    assert said.count("\n") == 1
    assert main(["ctl", "scale", "9", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"] == "scale is 9.0; it must be from 0.1 to 4"


def test_nobody_is_there(folder, capsys):
    assert main(["ctl", "pause"]) == 1
    assert capsys.readouterr().err == "vidseg: no session is running: start one with 'vidseg webcam'\n"
