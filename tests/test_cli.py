"""The command: exit status, what is said where, and how quickly. The jobs beneath are fakes."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vidseg
from vidseg.cli import console, options, progress
from vidseg.cli.main import main
from vidseg.engine import load_spec
from vidseg.errors import MissingDependencyError, OutputExistsError, SourceNotFoundError, VidsegError
from vidseg.pipeline import Interrupted, Progress, Stats

STATS = Stats(
    frames=30, seconds=1.0, fps=30.0, dropped=0, corrupt=0, truncated=False,
    stages={"decode": {"p50": 1.0, "p95": 2.0}}, output="out.mp4", model="unet-s", runtime="fake fp32 (CPU)",
)  # fmt: skip


class Job:
    """Stands for ``vidseg.jobs``: remembers how it was called, and returns or raises what it is told."""

    def __init__(self) -> None:
        self.called: dict[str, Any] = {}
        self.stats = STATS
        self.error: BaseException | None = None
        self.reports: list[Progress] = []

    def __call__(self, *arguments: str, **named: Any) -> Stats:
        self.called = {"arguments": arguments, **named}
        for report in self.reports:
            if named["progress"] is not None:
                named["progress"](report)
        if self.error is not None:
            raise self.error
        return self.stats


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> Job:
    job = Job()
    from vidseg.jobs import are_pictures

    module = types.ModuleType("vidseg.jobs")
    module.are_pictures = are_pictures  # type: ignore[attr-defined]
    module.process_video = module.matte_video = job  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vidseg.jobs", module)
    return job


PROCESS = ["process", "in.mp4", "out.mp4", "--bg", "blur"]


# --- what reaches the job ---------------------------------------------------------------------------------------


def test_defaults(job: Job) -> None:
    assert main(PROCESS) == 0
    assert job.called["arguments"] == ("in.mp4", "out.mp4", "blur")
    assert (job.called["fit"], job.called["model"], job.called["runtime"]) == ("cover", "unet-s", "auto")
    assert job.called["threads"] is None
    assert (job.called["options"].codec, job.called["options"].overwrite) == (None, False)


def test_every_option_arrives(job: Job) -> None:
    model = str(load_spec("unet-s").folder)
    more = "--fit contain --codec hevc --crf 22.5 --preset slow --overwrite --runtime torch --threads 2"
    assert main([*PROCESS, *more.split(), "--model", model]) == 0
    given = job.called["options"]
    assert (given.codec, given.crf, given.preset, given.overwrite) == ("hevc", 22.5, "slow", True)
    assert (job.called["fit"], job.called["model"]) == ("contain", model)
    assert (job.called["runtime"], job.called["threads"]) == ("torch", 2)


def test_matte(job: Job) -> None:
    assert main(["matte", "in.mp4", "alpha.mkv", "--codec", "ffv1"]) == 0
    assert job.called["arguments"] == ("in.mp4", "alpha.mkv")
    assert job.called["options"].codec == "ffv1"


def test_an_encoder_by_its_ffmpeg_name_is_left_to_the_sink(job: Job) -> None:
    assert main([*PROCESS, "--codec", "h264_nvenc", "--crf", "30"]) == 0
    assert job.called["options"].codec == "h264_nvenc"


# --- usage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["process", "in.mp4", "out.mp4"], ["--bg", "missing", "transparent", "#1e90ff"]),
        (["process", "in.mp4", "out.mp4", "--bg", ""], ["--bg", "empty", "blur"]),
        (["process", "in.mp4"], ["OUTPUT"]),
        ([*PROCESS, "--fit", "fill"], ["fill", "cover", "contain", "stretch"]),
        ([*PROCESS, "--crf", "64"], ["64", "0 and 63"]),
        ([*PROCESS, "--crf", "-1"], ["-1", "0 and 63"]),
        ([*PROCESS, "--crf", "nan"], ["nan", "0 and 63"]),
        ([*PROCESS, "--crf", "good"], ["--crf"]),
        ([*PROCESS, "--codec", "h264", "--crf", "52"], ["52", "0 and 51"]),
        ([*PROCESS, "--codec", "ffv1", "--crf", "20"], ["ffv1", "no constant quality"]),
        ([*PROCESS, "--runtime", "tensorflow"], ["tensorflow", "openvino", "onnxruntime", "torch"]),
        ([*PROCESS, "--threads", "0"], ["--threads", "1 and"]),
        ([*PROCESS, "--codek", "h264"], ["--codek"]),
        ([*PROCESS, "extra"], ["extra"]),
        (["proces"], ["proces"]),
    ],
)
def test_usage_mistakes_are_2_and_one_line(
    job: Job, arguments: list[str], told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("vidseg: ")
    assert said.err.count("\n") == 1
    assert "--help" in said.err
    assert [word for word in told if word not in said.err] == []
    assert job.called == {}


def test_nothing_at_all_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "process" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["process", "matte", "image", "demo", "models", "doctor"])
def test_help_has_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Examples" in shown
    assert f"vidseg {command}" in shown


# --- how a run ends ---------------------------------------------------------------------------------------------


def test_summary(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    job.stats = dataclasses.replace(STATS, notes=("audio track 2 was re-encoded",))
    assert main(PROCESS) == 0
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        "vidseg: audio track 2 was re-encoded",
        "vidseg: out.mp4: 30 frames in 1.0 s (30.0 fps), unet-s on fake fp32 (CPU)",
    ]


def test_quiet_says_nothing(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    job.stats = dataclasses.replace(STATS, notes=("x",), corrupt=3)
    assert main([*PROCESS, "--quiet"]) == 0
    job.called["progress"](Progress(1, 2, 3.0, 0.1))
    assert tuple(capsys.readouterr()) == ("", "")


def test_json_is_one_object_and_nothing_else(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PROCESS, "--json"]) == 0
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert json.loads(said) == {**dataclasses.asdict(STATS), "notes": []}


@pytest.mark.parametrize(("quiet", "lines"), [([], 1), (["--quiet"], 1)])
def test_errors_are_1_and_one_line(job: Job, quiet: list[str], lines: int, capsys: pytest.CaptureFixture[str]) -> None:
    job.error = SourceNotFoundError("in.mp4 does not exist:\ncheck the name")
    assert main([*PROCESS, *quiet]) == 1
    assert tuple(capsys.readouterr()) == ("", "vidseg: in.mp4 does not exist: check the name\n")


def test_errors_in_json(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    job.error = OutputExistsError("out.mp4 exists: give --overwrite")
    assert main([*PROCESS, "--json"]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out) == {"error": "out.mp4 exists: give --overwrite", "status": 1}
    assert "out.mp4 exists" in said.err


def test_traceback_only_with_verbose(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    job.error = VidsegError("no")
    assert main([*PROCESS, "-v"]) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said
    assert said.endswith("\nvidseg: no\n")


def test_a_missing_extra_is_its_pip_line(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    job.error = MissingDependencyError("runtime torch", "torch")
    assert main(PROCESS) == 1
    assert "pip install 'vidseg[torch]'" in capsys.readouterr().err


@pytest.mark.parametrize("error", [KeyError("frames"), ValueError("bad"), ZeroDivisionError(), OSError(5, "I/O")])
def test_what_nobody_foresaw_is_called_a_bug(job: Job, error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    job.error = error
    assert main(PROCESS) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "bug in vidseg" in said
    assert "-v" in said
    assert type(error).__name__ in said


def test_a_broken_library_points_to_the_doctor(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    job.error = ImportError("libGL.so.1: cannot open shared object file")
    assert main(PROCESS) == 1
    assert "vidseg doctor" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "word"),
    [({"corrupt": 2}, "2 corrupt parts were skipped"), ({"truncated": True}, "the input ends too early")],
)
def test_damage_is_a_warning_and_with_strict_an_error(
    job: Job, change: dict[str, Any], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    job.stats = dataclasses.replace(STATS, **change)
    assert main(PROCESS) == 0
    warned = capsys.readouterr().err
    assert f"warning: {word}" in warned
    assert "30 frames" in warned
    assert main([*PROCESS, "--strict", "--json"]) == 1
    said = capsys.readouterr()
    assert word in said.err
    result = json.loads(said.out)
    assert (result["status"], result["frames"]) == (1, 30)
    assert word in result["error"]


def test_ctrl_c_is_130_and_names_the_partial_file(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    job.error = Interrupted("out.partial.mp4")
    assert main([*PROCESS, "--json"]) == 130
    said = capsys.readouterr()
    assert "out.partial.mp4" in said.err
    assert json.loads(said.out)["partial"] == "out.partial.mp4"


def test_ctrl_c_before_the_first_frame(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    job.error = KeyboardInterrupt()
    assert main(PROCESS) == 130
    assert capsys.readouterr().err == "vidseg: interrupted; nothing was kept\n"


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_end_a_job_once_and_are_told_apart(job: Job, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    closed: list[bool] = []

    def work(*_: Any, **__: Any) -> Stats:
        try:
            signal.raise_signal(number)
            time.sleep(5)
        except KeyboardInterrupt:
            signal.raise_signal(number)  # an impatient second one must not spoil the output
            time.sleep(0.01)
            closed.append(True)
            raise
        return STATS

    sys.modules["vidseg.jobs"].process_video = work  # type: ignore[attr-defined]
    assert main([*PROCESS, "--quiet"]) == 128 + number
    assert closed == [True]
    assert signal.getsignal(number) == before


def test_an_interrupt_that_a_library_swallowed_is_not_lost(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    def work(*_: Any, progress: Callable[[Progress], None], **__: Any) -> Stats:
        with contextlib.suppress(KeyboardInterrupt):  # as extension modules do while they are imported
            signal.raise_signal(signal.SIGINT)
        progress(Progress(1, 2, 3.0, 0.1))
        return STATS

    sys.modules["vidseg.jobs"].process_video = work  # type: ignore[attr-defined]
    assert main([*PROCESS, "--quiet"]) == 130
    assert capsys.readouterr().err == "vidseg: interrupted; nothing was kept\n"


def test_ctrl_c_while_typer_is_loaded(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    class Interrupting:
        def __getattr__(self, _: str) -> None:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setitem(sys.modules, "vidseg.cli.app", Interrupting())  # type: ignore[arg-type]
    assert main(PROCESS) == 130
    assert capsys.readouterr().err == "vidseg: interrupted\n"


def test_names_cannot_write_to_the_terminal(job: Job, capsys: pytest.CaptureFixture[str]) -> None:
    job.error = VidsegError("\x1b]0;owned\x07 caf\u00e9 \udcff is not a video")
    assert main(PROCESS) == 1
    assert capsys.readouterr().err == "vidseg: \\x1b]0;owned\\x07 café \\udcff is not a video\n"


# --- progress ---------------------------------------------------------------------------------------------------


def test_plain_lines_come_seldom(job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([0.0, 1.0, 4.9, 5.1, 6.0, 10.2])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    job.reports = [Progress(10 * n, 100, 20.0, n / 2, "fake (CPU)") for n in range(1, 6)]
    assert main(PROCESS) == 0
    assert capsys.readouterr().err.splitlines()[:-1] == [
        "vidseg: 30 of 100 frames, 20.0 fps, 4 s left, fake (CPU)",
        "vidseg: 50 of 100 frames, 20.0 fps, 2 s left, fake (CPU)",
    ]


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (Progress(5, 0, 10.0, 0.5), "5 frames, 10.0 fps"),
        (Progress(5, 3, 10.0, 0.5), "5 frames, 10.0 fps"),
        (Progress(5, 5, 10.0, 0.5), "5 of 5 frames, 10.0 fps"),
        (Progress(1, 10801, 1.0, 0.5), "1 of 10801 frames, 1.0 fps, 3:00:00 left"),
        (Progress(1, 186, 1.0, 0.5), "1 of 186 frames, 1.0 fps, 3:05 left"),
    ],
)
def test_line(report: Progress, said: str) -> None:
    assert progress.line(report) == said


def test_nobody_reads_the_lines(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Gone())
    assert main(PROCESS) == 0
    monkeypatch.setattr(sys, "stderr", None)
    assert main(PROCESS) == 0


CHILD = """
import sys, time, types
from vidseg.cli.main import main
from vidseg.pipeline import Progress, Stats

def work(source, output, background, *, progress, **_):
    for number in range(21):
        time.sleep(0.01)
        progress(Progress(number, 20, 33.3, number / 30, "fake fp32 (CPU)"))
    return Stats(20, 1.0, 20.0, 0, 0, False, output=output, model="unet-s", runtime="fake fp32 (CPU)")

jobs = sys.modules["vidseg.jobs"] = types.ModuleType("vidseg.jobs")
jobs.process_video = work
sys.exit(main(["process", "in.mp4", "[red]out.mp4", "--bg", "blur"]))
"""


def on_a_terminal(term: str, columns: int) -> str:
    """Run ``CHILD`` with a terminal for its standard error, and return what is written there."""
    import pty

    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": term, "COLUMNS": str(columns)}
    child = subprocess.Popen([sys.executable, "-c", CHILD], stderr=theirs, stdout=subprocess.PIPE, env=environment)
    os.close(theirs)
    shown = b""
    try:
        while chunk := os.read(ours, 65536):
            shown += chunk
    except OSError:  # Linux's way to say that the other end was closed
        pass
    os.close(ours)
    out, _ = child.communicate(timeout=30)
    assert (child.returncode, out) == (0, b"")
    return shown.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="terminals of POSIX")
def test_a_bar_on_a_terminal() -> None:
    shown = on_a_terminal("xterm", 120)
    for part in ("[red]out.mp4", "33.3 fps", "fake fp32 (CPU)", "50%", "0:00"):
        assert part in shown
    assert shown.endswith("vidseg: [red]out.mp4: 20 frames in 1.0 s (20.0 fps), unet-s on fake fp32 (CPU)\r\n")
    assert "\x1b[?25h" in shown  # the cursor is back


@pytest.mark.skipif(sys.platform == "win32", reason="terminals of POSIX")
def test_a_small_terminal_and_one_without_a_cursor() -> None:
    shown = on_a_terminal("xterm", 40)
    assert "50%" in shown
    assert "33.3 fps" in shown
    assert "\x1b" not in on_a_terminal("dumb", 120)


# --- as a process -----------------------------------------------------------------------------------------------


def vidseg_process(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "vidseg", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **more)


def test_version() -> None:
    done = vidseg_process("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"vidseg {vidseg.__version__}\n", "")


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["process", "--help"], ["process", "a", "b"]])
def test_heavy_libraries_are_not_loaded_to_talk(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom vidseg.cli.main import main\n"
        f"main({arguments!r})\n"
        "heavy = {'numpy', 'av', 'cv2', 'numba', 'torch', 'onnxruntime', 'openvino', 'PIL'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="the completion of bash")
def test_completion(tmp_path: Path) -> None:
    def completed(line: str) -> list[str]:
        words = line.split(" ")
        environment = {
            **os.environ,
            "_VIDSEG_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
        }
        return vidseg_process(env=environment).stdout.split()

    assert {"process", "matte", "image", "demo", "models", "doctor"} <= set(completed("vidseg "))
    assert completed("vidseg process a b --fit c") == ["cover", "contain"]
    assert completed("vidseg process a b --bg ") == ["blur", "transparent"]
    assert completed("vidseg process a b --codec h") == ["h264", "hevc"]
    script = vidseg_process("--show-completion", env={**os.environ, "SHELL": "/bin/bash"})
    assert script.returncode in (0, 1)  # 1: it cannot tell which shell started it


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"'{sys.executable}' -m vidseg --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert done.returncode in (0, 1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full device")
@pytest.mark.parametrize("arguments", [["--version"], ["models"], ["models", "--json"]])
def test_standard_output_that_is_full(arguments: list[str]) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "vidseg", *arguments]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == "vidseg: standard output cannot be written: No space left on device\n"


# --- the other commands -----------------------------------------------------------------------------------------


def test_doctor() -> None:
    done = vidseg_process("doctor", "--json")
    assert done.stderr == ""
    told = json.loads(done.stdout)
    assert done.returncode == (0 if told["usable"] else 1)
    found = {(finding["kind"], finding["name"]): finding for finding in told["findings"]}
    assert {("codec", codec) for codec in options.CODECS} <= set(found)
    assert {name for kind, name in found if kind == "runtime"} >= {"openvino", "onnxruntime", "torch"}
    assert {name for kind, name in found if kind == "library"} >= {"numpy", "av", "cv2", "numba"}
    assert told["cores"] >= 1
    assert all(finding["detail"] for finding in told["findings"] if not finding["usable"])


def test_doctor_for_people(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from vidseg.cli import doctor

    broken = [
        doctor.Finding("runtime", "openvino", False, "pip install 'vidseg[openvino]'"),
        doctor.Finding("codec", "h264", True, "libx264"),
    ]
    empty: Callable[[], list[doctor.Finding]] = list
    for name in ("libraries", "models", "codecs", "caches"):
        monkeypatch.setattr(doctor, name, empty)
    monkeypatch.setattr(doctor, "runtimes", lambda: broken)
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert "vidseg[openvino]" in shown
    assert "no runtime can compute the network" in shown
    assert "Videos cannot be processed here." in shown


def test_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    assert "unet-s" in capsys.readouterr().out
    assert main(["models", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    (model,) = [model for model in told["models"] if model["name"] == "unet-s"]
    assert model["licence"]
    assert set(model["sha256"]) == set(model["files"].values())


def test_one_line() -> None:
    assert console.one_line(" a\n\n  b\r\nc ") == "a b c"


LEFTOVER = """
import atexit, sys, threading
from vidseg.cli import app, main
def run(arguments):
    threading.Thread(target=threading.Event().wait, args=(60,), name="vidseg-engine", daemon=True).start()
    print("said")
    return 7
app.run = run
atexit.register(print, "libraries are taken down")
sys.exit(main.main())
"""


def test_a_thread_that_cannot_be_ended_does_not_bring_the_process_down():
    # OpenVINO aborts if the process ends in the usual way while a thread compiles a network.
    done = subprocess.run([sys.executable, "-c", LEFTOVER], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (7, "said\n")
