"""Every runtime against PyTorch float32, which is the reference, with the tolerances of ``vidseg.parity``."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from vidseg.engine import list_runtimes, load_spec, open_engine
from vidseg.errors import EngineError
from vidseg.parity import TOLERANCE

SIZES = load_spec().sizes
ENGINES = pytest.mark.parametrize(("runtime", "precision"), TOLERANCE)


def require(runtime, precision):
    """Skip what this machine cannot do, unless it was told that it can."""
    reasons = {name: detail for name, usable, detail in list_runtimes() if not usable}
    if runtime == "torch" and precision == "fp16" and runtime not in reasons:
        import torch

        if not torch.cuda.is_available():
            reasons[runtime] = "no NVIDIA GPU works here, and a CPU computes no fp16"
    if runtime in reasons:
        told = {"tensorrt": "VIDSEG_REQUIRE_TENSORRT", "torch": "VIDSEG_REQUIRE_GPU"}.get(runtime, "")
        (pytest.fail if os.environ.get(told) == "1" else pytest.skip)(reasons[runtime])


def place_matters(runtime, precision, otherwise):
    """Return by how much a picture may change with its place in a batch, where sums are taken in another order."""
    if runtime == "tensorrt":
        return TOLERANCE[runtime, precision][0]
    return {"bf16": 0.02, "fp16": 0.01}.get(precision, otherwise)


def opened(runtime, precision, size=SIZES[0], threads=1):
    require(runtime, precision)
    return open_engine(runtime=runtime, precision=precision, size=size, threads=threads)


def pictures(count, size, seed=0):
    """Soft coloured shapes: the network answers them with everything between 0 and 1."""
    rng = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    src = np.empty((count, 3, *size), np.float32)
    for picture in src:
        picture[...] = rng.uniform(-0.6, 0.6, (3, 1, 1))
        for _ in range(4):
            cy, cx, radius = rng.uniform(0, height), rng.uniform(0, width), rng.uniform(0.1, 0.4) * height
            blob = np.clip((radius - np.hypot(y - cy, x - cx)) / 6 + 0.5, 0, 1)
            picture += blob * (rng.uniform(-1, 1, (3, 1, 1)).astype(np.float32) - picture)
        picture += rng.normal(0, 0.03, picture.shape)
    return np.clip(src, -1, 1)


@ENGINES
@pytest.mark.parametrize("size", SIZES)
def test_equals_the_reference(runtime, precision, size):
    pytest.importorskip("torch", reason="the reference is PyTorch, which is not installed")
    pytest.importorskip("safetensors", reason="the reference needs safetensors, which is not installed")
    from vidseg.runtimes.torch import TorchEngine

    src = pictures(3, size)
    reference = TorchEngine(load_spec(), size, 1, "fp32", device="cpu").infer(src)[0]
    alpha = opened(runtime, precision, size).infer(src)[0]
    largest, mean = TOLERANCE[runtime, precision]
    difference = np.abs(alpha - reference)
    assert difference.max() <= largest
    assert difference.mean() <= mean


STATES, CLASSES = ((16, 32), (12, 16)), ("room", "person", "chair")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two small networks with random weights as model folders: a recurrent one, and one that knows classes."""
    torch = pytest.importorskip("torch", reason="the reference is PyTorch, which is not installed")
    pytest.importorskip("onnx", reason="onnx, which makes the files, is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime, which makes the files, is not installed")
    from vidseg.networks import Weights, build, write_weights
    from vidseg.training import export

    home = tmp_path_factory.mktemp("made")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(5)
    for name, outputs, gates, classes in (("recurrent", 1, 2, ()), ("classes", 3, 0, CLASSES)):
        architecture = {"kind": "unet", "channels": [8, 12, 16, 24, 32], "head": 8, "outputs": outputs, "gates": gates}
        net = build(architecture).train()
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # the statistics are those of what is seen now: nothing fades on its way
        for _ in range(3):
            net(torch.from_numpy(pictures(2, (64, 96))))
        for gate in net.gates:
            torch.nn.init.normal_(gate.gate.weight, 0, 0.1)
            torch.nn.init.zeros_(gate.gate.bias)
        write_weights(home / f"{name}.safetensors", Weights(architecture, net.eval().state_dict(), classes))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(export, "CALIBRATION_PICTURES", 6)
            patch.setattr(export, "CALIBRATION_SIZE", (64, 96))
            patch.setattr(export, "_pictures", lambda *_: (list(range(6)), []))
            patch.setattr(export, "read_rgb", lambda seed: export.drawn((64, 96), np.random.default_rng(seed)))
            kinds, sizes = ("fp32", "fp16", "int8"), ((64, 96), (96, 64))
            export.export(home / f"{name}.safetensors", home / name, pictures=home, precisions=kinds, sizes=sizes)
    torch.set_num_threads(threads)
    return home


@ENGINES
class TestStateAndClasses:
    """The same contract for networks that remember, and for those that tell classes apart."""

    def reference(self, folder, keep=()):
        from vidseg.runtimes.torch import TorchEngine

        return TorchEngine(load_spec(folder).keeping(keep), (64, 96), 1, "fp32", device="cpu")

    def engine(self, folder, runtime, precision, keep=()):
        require(runtime, precision)
        return open_engine(folder, runtime, precision=precision, threads=2, keep=keep)

    def test_the_state_is_carried_on(self, made, runtime, precision):
        engine, reference = self.engine(made / "recurrent", runtime, precision), self.reference(made / "recurrent")
        largest, mean = TOLERANCE[runtime, precision]
        state, expected = (), ()
        for number in range(5):
            src = pictures(2, (64, 96), number)
            alpha, state = engine.infer(src, state)
            truth, expected = reference.infer(src, expected)
            difference = np.abs(alpha - truth)
            assert difference.max() <= largest
            assert difference.mean() <= mean
            assert [part.shape for part in state] == [(2, c, 64 // s, 96 // s) for c, s in STATES]
            for part, true in zip(state, expected, strict=True):
                assert part.dtype == np.float32
                assert np.abs(part - true).mean() <= max(10 * mean, 1e-4) * max(1, np.abs(true).mean())
        without, _ = engine.infer(src)
        assert np.abs(without - alpha).max() > 1e-3  # it does make a difference

    def test_streams_do_not_mix(self, made, runtime, precision):
        engine = self.engine(made / "recurrent", runtime, precision)
        first, second = pictures(3, (64, 96), 1), pictures(3, (64, 96), 2)
        _, state = engine.infer(first)
        kept = [part.copy() for part in state]
        together, _ = engine.infer(second, state)
        for number in range(3):
            _, alone = engine.infer(first[number : number + 1])
            alpha, _ = engine.infer(second[number : number + 1], alone)
            np.testing.assert_allclose(together[number], alpha[0], atol=place_matters(runtime, precision, 1e-4))
        for part, before in zip(state, kept, strict=True):  # the caller's own
            np.testing.assert_array_equal(part, before)

    def test_a_state_of_something_else_is_refused(self, made, runtime, precision):
        engine = self.engine(made / "recurrent", runtime, precision)
        _, state = engine.infer(pictures(2, (64, 96)))
        with pytest.raises(ValueError, match="takes 2 states of 1 pictures"):
            engine.infer(pictures(1, (64, 96)), state)
        with pytest.raises(ValueError, match="takes 2 states of 2 pictures"):
            engine.infer(pictures(2, (64, 96)), state[:1])

    @pytest.mark.parametrize("keep", [("person",), ("room", "chair"), CLASSES])
    def test_kept_classes_are_added_up(self, made, runtime, precision, keep):
        engine = self.engine(made / "classes", runtime, precision, keep)
        src = pictures(2, (64, 96))
        alpha, state = engine.infer(src)
        assert state == ()
        truth, _ = self.reference(made / "classes", keep).infer(src)
        largest, mean = TOLERANCE[runtime, precision]
        assert np.abs(alpha - truth).max() <= largest
        assert np.abs(alpha - truth).mean() <= 2 * mean  # a network that is never sure: no error falls on 0 or 1
        if keep == CLASSES:
            np.testing.assert_allclose(alpha, 1, atol=0.01)

    def test_a_person_is_kept_unless_told_otherwise(self, made, runtime, precision):
        engine = self.engine(made / "classes", runtime, precision)
        assert engine.spec.kept == (1,)

    def test_what_cannot_be_kept(self, made, runtime, precision):
        with pytest.raises(ValueError, match="does not know cat, dog: choose of room, person, chair"):
            self.engine(made / "classes", runtime, precision, ("cat", "chair", "dog"))
        with pytest.raises(ValueError, match="has no classes to choose from"):
            self.engine(made / "recurrent", runtime, precision, ("person",))


@ENGINES
class TestEngine:
    def test_output(self, runtime, precision):
        engine = opened(runtime, precision)
        src = pictures(3, engine.size)
        before = src.copy()
        alpha, state = engine.infer(src)
        assert state == ()
        assert alpha.shape == (3, *engine.size)
        assert alpha.dtype == np.float32
        assert alpha.min() >= 0
        assert alpha.max() <= 1
        np.testing.assert_array_equal(src, before)

    def test_a_batch_is_its_pictures(self, runtime, precision):
        engine = opened(runtime, precision)
        src = pictures(5, engine.size)
        alone = np.concatenate([engine.infer(src[i : i + 1])[0] for i in range(5)])
        np.testing.assert_allclose(engine.infer(src)[0], alone, atol=place_matters(runtime, precision, 1e-5))

    def test_the_result_belongs_to_the_caller(self, runtime, precision):
        engine = opened(runtime, precision)
        first, _ = engine.infer(pictures(1, engine.size, 1))
        kept = first.copy()
        engine.infer(pictures(1, engine.size, 2))
        np.testing.assert_array_equal(first, kept)
        first[...] = 0  # writable, and of no concern to the engine

    def test_any_strides(self, runtime, precision):
        engine = opened(runtime, precision)
        src = pictures(1, engine.size)
        strided = np.asfortranarray(src)
        np.testing.assert_array_equal(engine.infer(strided)[0], engine.infer(src)[0])

    @pytest.mark.parametrize("shape", [(1, 3, 64, 64), (3, 160, 256), (1, 1, 160, 256)])
    def test_another_shape_is_refused(self, runtime, precision, shape):
        with pytest.raises(ValueError, match="this engine takes"):
            opened(runtime, precision).infer(np.zeros(shape, np.float32))

    def test_close(self, runtime, precision):
        engine = opened(runtime, precision)
        engine.close()
        engine.close()
        with pytest.raises(EngineError, match="closed"):
            engine.infer(pictures(1, engine.size))

    def test_says_what_it_is(self, runtime, precision):
        engine = opened(runtime, precision)
        assert engine.runtime.startswith(f"{runtime} {precision} (")
        assert engine.spec.name == "unet-s"

    def test_from_another_thread(self, runtime, precision):
        engine = opened(runtime, precision)
        src, results = pictures(1, engine.size), []
        thread = threading.Thread(target=lambda: results.append(engine.infer(src)))
        thread.start()
        thread.join()
        np.testing.assert_allclose(results[0][0], engine.infer(src)[0], atol=1e-6)

    def test_other_threads_run_meanwhile(self, runtime, precision):
        """Inference releases the GIL: a thread that only counts goes on."""
        engine = opened(runtime, precision, SIZES[-1])
        src = pictures(24, engine.size)
        engine.infer(src)
        ticks, done = [], threading.Event()

        def count():
            while not done.is_set():
                ticks.append(time.perf_counter())
                time.sleep(0.0005)

        thread = threading.Thread(target=count)
        thread.start()
        start = time.perf_counter()
        engine.infer(src)
        end = time.perf_counter()
        done.set()
        thread.join()
        inside = [tick for tick in ticks if start < tick < end]
        # One picture takes milliseconds: holding the GIL would let the other in at most once a picture.
        assert len(inside) > len(src)


@pytest.mark.parametrize("runtime", ["torch", "openvino", "onnxruntime", "tensorrt"])
def test_an_unknown_precision_is_refused(runtime):
    with pytest.raises(EngineError, match="knows"):
        opened(runtime, "int4")


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_idle_engines_cost_nothing(runtime):
    """Threads that spin while they wait would take the encoder's cores."""
    opened(runtime, "int8").close()
    code = (
        "import time, numpy as np\n"
        "from vidseg.engine import open_engine\n"
        f"engine = open_engine(runtime={runtime!r}, threads=2)\n"
        "src = np.zeros((2, 3, *engine.size), np.float32)\n"
        "engine.infer(src)\n"
        "start = time.process_time()\n"
        "for _ in range(10):\n"
        "    engine.infer(src[:1]); time.sleep(0.05)\n"
        "print((time.process_time() - start) / 10)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert float(done.stdout) < 0.045


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="only x86 has CPUs that overflow")
def test_int8_does_not_overflow_on_old_cpus():
    """Without VNNI two products of 8 bits are added in 16: weights of 8 bits overflow there, and people get holes."""
    opened("openvino", "int8").close()
    code = (
        "import sys, numpy as np\n"
        "from vidseg.engine import open_engine\n"
        "engine = open_engine(runtime='openvino', precision=sys.argv[1], threads=1)\n"
        "sys.stdout.buffer.write(engine.infer(np.load(sys.argv[2]))[0].tobytes())\n"
    )
    src = pictures(4, SIZES[0])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "src.npy"
        np.save(path, src)
        old = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
        alphas = [
            np.frombuffer(
                subprocess.run(
                    [sys.executable, "-c", code, p, str(path)], capture_output=True, check=True, env=old, timeout=120
                ).stdout,
                np.float32,
            )
            for p in ("fp32", "int8")
        ]
    largest, mean = TOLERANCE["openvino", "int8"]
    difference = np.abs(alphas[0] - alphas[1])
    assert difference.max() <= largest
    assert difference.mean() <= mean
