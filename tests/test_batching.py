"""Many streams, one engine: whose answer is whose, turns, back-pressure, failures and the end."""

from __future__ import annotations

import gc
import hashlib
import threading
import time
import weakref
from concurrent.futures import wait
from dataclasses import replace

import numpy as np
import pytest

from vidseg.batching import Batcher, SharedEngines
from vidseg.compositor import Compositor
from vidseg.engine import ModelSpec, list_runtimes, load_spec, open_engine
from vidseg.errors import EngineError
from vidseg.segmenter import Segmenter
from vidseg.testing import ConstantEngine, CountingEngine, FakeClock, SyntheticSource

LONG = 60.0
"""Seconds that a test waits at most for what has to happen."""


class Desk:
    """Stands for a network: says twice what it is asked, remembers its calls, and waits to be let through."""

    def __init__(self):
        self.calls: list[list[object]] = []
        self.may = threading.Semaphore(0)
        self.entered = threading.Semaphore(0)

    def __call__(self, items):
        self.calls.append(list(items))
        self.entered.release()
        assert self.may.acquire(timeout=LONG)
        return [2 * item for item in items]


@pytest.fixture
def desk():
    return Desk()


@pytest.fixture
def batcher(desk):
    made = Batcher(desk, most=4)
    yield made
    desk.may.release(1000)
    made.close()


def held(desk, batcher):
    """Begin a call, so that all that is asked from here on waits until ``desk.may`` is released."""
    first = batcher.lane()
    future = first.submit(0)
    assert desk.entered.acquire(timeout=LONG)
    return first, future


def test_what_waits_is_computed_in_one_call(desk, batcher):
    held(desk, batcher)
    futures = [batcher.lane().submit(number) for number in (1, 2, 3)]
    desk.may.release(2)
    assert [future.result(LONG) for future in futures] == [2, 4, 6]
    assert desk.calls == [[0], [1, 2, 3]]
    assert (batcher.calls, batcher.rows) == (2, 4)


def test_no_call_is_larger_than_it_may_be_and_all_get_their_turn(desk, batcher):
    held(desk, batcher)
    futures = [batcher.lane().submit(number) for number in range(1, 11)]
    desk.may.release(10)
    assert [future.result(LONG) for future in futures] == [2 * number for number in range(1, 11)]
    assert desk.calls == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]


def test_one_that_is_larger_than_a_call_goes_alone(desk, batcher):
    held(desk, batcher)
    large = batcher.lane().submit(1, rows=9)
    small = batcher.lane().submit(2)
    desk.may.release(10)
    assert (large.result(LONG), small.result(LONG)) == (2, 4)
    assert desk.calls == [[0], [1], [2]]


def test_only_equal_groups_share_a_call(desk, batcher):
    held(desk, batcher)
    futures = [batcher.lane().submit(number, group=number % 2) for number in (1, 2, 3, 4)]
    desk.may.release(10)
    assert not wait(futures, LONG).not_done
    assert desk.calls == [[0], [1, 3], [2, 4]]


def test_of_a_stream_one_frame_at_a_time_in_order(desk, batcher):
    held(desk, batcher)
    lane = batcher.lane(live=False, depth=3)
    futures = [lane.submit(number) for number in (1, 2, 3)]
    desk.may.release(10)
    assert [future.result(LONG) for future in futures] == [2, 4, 6]
    assert desk.calls == [[0], [1], [2], [3]]


def test_a_greedy_stream_gets_what_the_others_leave(desk):
    batcher = Batcher(desk, most=1)
    try:
        held(desk, batcher)
        greedy, *others = (batcher.lane(live=False, depth=4) for _ in range(3))
        futures = [greedy.submit(f"g{n} ") for n in range(4)]
        futures += [other.submit(f"{name}{n} ") for n in range(2) for name, other in zip("ab", others, strict=True)]
        desk.may.release(20)
        assert not wait(futures, LONG).not_done
        # The first call was that of ``held``; each of the others comes after at most one of the greedy one.
        assert "".join(call[0] for call in desk.calls[1:]) == "g0 a0 b0 g1 a1 b1 g2 g3 "
    finally:
        batcher.close()


# --- back-pressure ----------------------------------------------------------------------------------------------


def test_a_live_stream_loses_its_oldest_frame_and_keeps_its_turn(desk, batcher):
    held(desk, batcher)
    fast, slow = batcher.lane(), batcher.lane()
    lost = [fast.submit(number) for number in (1, 2)]
    other = slow.submit(10)
    kept = fast.submit(3)
    desk.may.release(10)
    assert (kept.result(LONG), other.result(LONG)) == (6, 20)
    assert [future.cancelled() for future in lost] == [True, True]
    assert fast.dropped == 2
    assert slow.dropped == 0
    assert desk.calls == [[0], [3, 10]]


def test_whoever_waits_for_a_frame_that_is_dropped_hears_it(desk, batcher):
    held(desk, batcher)
    lane = batcher.lane()
    said = []

    def ask():
        with pytest.raises(EngineError, match="a newer frame"):
            lane(1)
        said.append("dropped")

    thread = threading.Thread(target=ask)
    thread.start()
    until(lambda: len(lane.waiting) == 1)
    kept = lane.submit(2)
    thread.join(LONG)
    assert said == ["dropped"]
    desk.may.release(10)
    assert kept.result(LONG) == 4


def test_a_file_waits_for_room_and_loses_nothing(desk, batcher):
    held(desk, batcher)
    lane = batcher.lane(live=False, depth=2)
    futures = []
    thread = threading.Thread(target=lambda: futures.extend([lane.submit(number) for number in range(1, 6)]))
    thread.start()
    until(lambda: len(lane.waiting) == 2)
    assert len(futures) == 0  # it waits in its third ``submit``
    desk.may.release(10)
    thread.join(LONG)
    assert [future.result(LONG) for future in futures] == [2, 4, 6, 8, 10]
    assert lane.dropped == 0


def until(condition):
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_files_fill_the_gaps(desk):
    """The clock is a fake: what a call costs decides, and a test must not depend on the machine's speed."""
    clock = FakeClock()
    cost = [0.03]

    def compute(items):
        clock.advance(cost[0] * len(items))
        return desk(items)

    batcher = Batcher(compute, most=4, budget=0.01, clock=clock)
    try:
        first, _ = held(desk, batcher)  # a picture costs three times what may be waited
        files = [batcher.lane(live=False) for _ in range(3)]
        futures = [lane.submit(f"f{n}") for n, lane in enumerate(files)]
        futures.append(first.submit("live"))
        desk.may.release(5)
        assert not wait(futures, LONG).not_done
        assert desk.calls[1:] == [["live"], ["f0"], ["f1"], ["f2"]]

        cost[0] = 0.0
        for number in range(60):  # cheaper and cheaper, as on a GPU: they go with the live frame
            desk.may.release(1)
            first(f"live{number}")
        futures = [first.submit("wait")]
        until(lambda: desk.calls[-1] == ["wait"])
        futures += [lane.submit(f"g{n}") for n, lane in enumerate(files)]
        futures.append(first.submit("live"))
        desk.may.release(2)
        assert not wait(futures, LONG).not_done
        assert desk.calls[-1] == ["live", "g0", "g1", "g2"]
    finally:
        desk.may.release(1000)
        batcher.close()


def test_a_file_is_not_held_up_for_ever(desk):
    """The clock is a fake, as above."""
    clock = FakeClock()

    def compute(items):
        clock.advance(0.3 * len(items))
        return desk(items)

    batcher = Batcher(compute, most=2, clock=clock)
    try:
        one, _ = held(desk, batcher)
        other = batcher.lane()
        futures = [batcher.lane(live=False).submit("file"), other.submit(1), one.submit(2)]
        desk.may.release(1)
        for number in range(6):  # both live streams ask again before the call is over
            assert desk.entered.acquire(timeout=LONG)
            if desk.calls[-1][0] == "file":
                break
            futures += [other.submit(number), one.submit(number)]
            desk.may.release(1)
        assert desk.calls[-1][0] == "file"
        desk.may.release(10)
        assert not wait(futures, LONG).not_done
    finally:
        desk.may.release(1000)
        batcher.close()


def test_a_file_has_full_calls_where_no_camera_is_on(desk):
    """The clock is a fake: half a second after its last frame a camera counts as off."""
    clock = FakeClock()

    def compute(items):
        clock.advance(1.0)
        return desk(items)

    batcher = Batcher(compute, most=4, clock=clock)
    try:
        held(desk, batcher)
        futures = [batcher.lane(live=False).submit(number) for number in (1, 2, 3)]
        desk.may.release(10)
        assert not wait(futures, LONG).not_done
        assert desk.calls == [[0], [1, 2, 3]]
    finally:
        desk.may.release(1000)
        batcher.close()


def test_a_frame_waits_for_one_that_is_due_and_for_nobody_else():
    """The clock is a fake: it stands still, so what is not due never comes."""
    clock = FakeClock()
    calls = []

    def compute(items):
        calls.append(list(items))
        return items

    with Batcher(compute, most=4, budget=0.01, clock=clock) as batcher:
        one, other = batcher.lane(), batcher.lane()
        for number in range(4):  # they ask every second, half a second apart: neither waits for the other
            assert one(number) == number
            clock.advance(0.5)
            assert other(-number) == -number
            clock.advance(0.5)
        assert all(len(call) == 1 for call in calls)

    with Batcher(compute, most=4, budget=0.01, clock=clock) as batcher:
        one, other = batcher.lane(), batcher.lane()
        for number in range(3):  # they ask every second, both at once
            futures = [one.submit(number), other.submit(-number)]
            assert [future.result(LONG) for future in futures] == [number, -number]
            clock.advance(1.0)
        first = one.submit(6)
        time.sleep(0.05)
        assert not first.done()  # the clock stands: it would wait for the other for ever
        assert other(-6) == -6
        assert first.result(LONG) == 6
        assert calls[-1] == [6, -6]


# --- failures ---------------------------------------------------------------------------------------------------


def test_who_is_not_to_blame_does_not_fail(desk):
    def compute(items):
        answers = desk(items)
        if "bad" in items:
            raise ValueError("it is bad")
        return answers

    batcher = Batcher(compute, most=4)
    try:
        held(desk, batcher)
        good, bad, fine = (batcher.lane().submit(item) for item in ("good", "bad", "fine"))
        desk.may.release(20)
        assert (good.result(LONG), fine.result(LONG)) == ("goodgood", "finefine")
        with pytest.raises(ValueError, match="it is bad"):
            bad.result(LONG)
        assert batcher.lane()("next") == "nextnext"
    finally:
        batcher.close()


@pytest.mark.parametrize("error", [EngineError("lost"), RuntimeError("lost"), SystemExit("lost")], ids=repr)
def test_a_failure_of_all_is_one_of_each_and_of_no_more(desk, error):
    broken = [False]

    def compute(items):
        answers = desk(items)
        if broken[0]:
            raise error
        return answers

    batcher = Batcher(compute, most=4)
    try:
        held(desk, batcher)
        broken[0] = True
        futures = [batcher.lane().submit(number) for number in (1, 2, 3)]
        desk.may.release(20)
        for future in futures:
            assert future.exception(LONG) is error
        broken[0] = False
        assert batcher.lane()(4) == 8
    finally:
        batcher.close()


def test_a_call_that_leaves_one_out_is_a_failure_of_all():
    calls = []

    def compute(items):
        calls.append(len(items))
        return [] if len(items) == 1 else items[1:]

    with Batcher(compute) as batcher, pytest.raises(EngineError, match="for 1 frames returned 0"):
        batcher.lane()(1)


# --- the end ----------------------------------------------------------------------------------------------------


def names():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("vidseg-batcher")]


def test_nothing_is_left_behind(desk):
    batcher = Batcher(desk, most=4)
    _, computed = held(desk, batcher)
    waiting = batcher.lane(live=False).submit(1)
    blocked = batcher.lane(live=False)
    errors = []

    def ask():
        try:
            for number in range(3):
                blocked.submit(number)
        except EngineError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    until(lambda: blocked.waiting)
    threading.Timer(0.05, desk.may.release).start()
    batcher.close()
    batcher.close()
    thread.join(LONG)
    assert isinstance(waiting.exception(LONG), EngineError)
    assert computed.done()
    assert len(errors) == 1
    assert names() == []
    with pytest.raises(EngineError, match="closed"):
        batcher.lane()


def test_a_stream_that_leaves_disturbs_nobody(desk, batcher):
    held(desk, batcher)
    leaving, staying = batcher.lane(), batcher.lane()
    gone, kept = leaving.submit(1), staying.submit(2)
    leaving.close()
    leaving.close()
    desk.may.release(10)
    assert kept.result(LONG) == 4
    assert isinstance(gone.exception(LONG), EngineError)
    with pytest.raises(EngineError, match="closed"):
        leaving.submit(3)
    assert desk.calls == [[0], [2]]


def test_a_call_that_hangs_does_not_hang_the_end(desk, monkeypatch):
    monkeypatch.setattr("vidseg.batching._ENDING", 0.1)
    batcher = Batcher(desk, most=4)
    _, stuck = held(desk, batcher)
    batcher.close()
    assert isinstance(stuck.exception(LONG), EngineError)
    desk.may.release(1)
    until(lambda: not names())


def test_pictures_are_not_kept():
    class Picture:
        pass

    with Batcher(lambda items: [1 for _ in items]) as batcher:
        lane = batcher.lane(live=False)
        picture = Picture()
        seen = weakref.ref(picture)
        future = lane.submit(picture)
        assert future.result(LONG) == 1
        del picture
        until(lambda: (gc.collect(), seen() is None)[1])


def test_numbers_that_are_none():
    for arguments in ({"most": 0}, {"budget": -1}):
        with pytest.raises(ValueError, match=next(iter(arguments))):
            Batcher(list, **arguments)
    with Batcher(list) as batcher, pytest.raises(ValueError, match="depth = 0"):
        batcher.lane(depth=0)


# --- real networks ----------------------------------------------------------------------------------------------


class Gathering:
    """A real engine whose first call waits until all streams have asked, so that they share calls for sure."""

    def __init__(self, engine):
        self._engine = engine
        self.spec, self.size, self.runtime = engine.spec, engine.size, engine.runtime
        self.batches: list[int] = []
        self.asked = lambda: True

    def infer(self, src, state=()):
        self.batches.append(len(src))
        until(self.asked)
        return self._engine.infer(src, state)

    def close(self):
        self._engine.close()


def require(runtime):
    reasons = {name: detail for name, usable, detail in list_runtimes() if not usable}
    if runtime in reasons:
        pytest.skip(reasons[runtime])


def rooms(count, size, seed):
    """Pictures that no two streams have in common."""
    rng = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    src = np.empty((count, 3, *size), np.float32)
    for picture in src:
        picture[...] = rng.uniform(-0.6, 0.6, (3, 1, 1))
        cy, cx, radius = rng.uniform(0.3, 0.7) * height, rng.uniform(0.2, 0.8) * width, 0.3 * height
        blob = np.clip((radius - np.hypot(y - cy, x - cx)) / 6 + 0.5, 0, 1)
        picture += blob * (rng.uniform(-1, 1, (3, 1, 1)).astype(np.float32) - picture)
        picture += rng.normal(0, 0.03, picture.shape)
    return np.clip(src, -1, 1)


def recurrent(folder):
    """A small network with random weights that remembers."""
    torch = pytest.importorskip("torch", reason="PyTorch, which makes the network, is not installed")
    pytest.importorskip("safetensors", reason="safetensors, which writes it, is not installed")
    from vidseg.networks import Weights, build, write_weights

    torch.manual_seed(3)
    architecture = {"kind": "unet", "channels": [8, 12, 16], "head": 8, "outputs": 1, "gates": 2}
    net = build(architecture).train()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the statistics are those of what is seen now: nothing fades on its way
    net(torch.from_numpy(rooms(2, (64, 96), 9)))
    for gate in net.gates:
        torch.nn.init.normal_(gate.gate.weight, 0, 0.1)
        torch.nn.init.zeros_(gate.gate.bias)
    path = folder / "weights.safetensors"
    write_weights(path, Weights(architecture, net.eval().state_dict(), ()))
    return ModelSpec(
        name="recurrent",
        folder=folder,
        files={"weights": path.name},
        sha256={path.name: hashlib.sha256(path.read_bytes()).hexdigest()},
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
        multiple=8,
        sizes=((64, 96),),
        licence="Apache-2.0",
        summary="for tests",
        architecture=architecture,
        states=net.states,
    )


def side_by_side(*bodies):
    """Run all at once, and raise what the first of them raised."""
    errors = []

    def guarded(body):
        try:
            body()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(body,)) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()
    if errors:
        raise errors[0]


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime", "torch"])
def test_each_stream_gets_the_masks_of_its_own_pictures(runtime):
    require(runtime)
    spec, streams, frames = load_spec(), 4, 4
    given = [rooms(frames, spec.sizes[4], seed) for seed in range(streams)]
    alone = open_engine(spec, runtime, spec.sizes[4], threads=1)
    expected = [[alone.infer(picture[None])[0] for picture in src] for src in given]
    alone.close()
    gathering = []

    def opener(*asked):
        gathering.append(Gathering(open_engine(*asked)))
        return gathering[-1]

    got = [[] for _ in range(streams)]
    with SharedEngines(opener=opener, budget=0.05) as engines:
        shares = [engines.open(spec, runtime, spec.sizes[4], 1) for _ in range(streams)]
        [engine] = gathering
        lanes = [share._lane for share in shares]
        # The first call waits until all streams are in it or in the second one.
        engine.asked = lambda: (
            len(engine.batches) > 1 or (engine.batches[0] + sum(bool(lane.waiting) for lane in lanes) == streams)
        )

        def stream(number):
            for picture in given[number]:
                alpha, state = shares[number].infer(picture[None])
                assert state == ()
                got[number].append(alpha)

        side_by_side(*(lambda number=number: stream(number) for number in range(streams)))
        assert streams in (engine.batches[0], sum(engine.batches[:2]))
        assert shares[0].runtime.startswith(runtime)
    for number in range(streams):
        for frame in range(frames):
            difference = np.abs(got[number][frame] - expected[number][frame]).max()
            # These compute each picture of a call by itself; PyTorch may add in another order.
            assert difference <= (2e-5 if runtime == "torch" else 0)
            others = [expected[other][frame] for other in range(streams) if other != number]
            assert min(np.abs(got[number][frame] - other).max() for other in others) > 0.1


def test_each_stream_keeps_its_own_state(tmp_path):
    require("torch")
    spec = recurrent(tmp_path)
    streams, frames = 3, 5
    given = [rooms(frames, spec.sizes[0], seed) for seed in range(streams)]
    late = 2  # this one begins when the others are in the middle: beginnings and continuations meet
    expected = []
    alone = open_engine(spec, "torch", threads=1)
    for src in given:
        state, alphas = (), []
        for picture in src:
            alpha, state = alone.infer(picture[None], state)
            alphas.append(alpha)
        expected.append(alphas)
    forgetful = alone.infer(given[0][-1:])[0]
    alone.close()
    assert np.abs(forgetful - expected[0][-1]).max() > 1e-3  # a state that was lost would be seen

    got = [[] for _ in range(streams)]
    meet = threading.Barrier(streams, timeout=LONG)
    with SharedEngines(budget=0.05) as engines:
        shares = [engines.open(spec, "torch", threads=1) for _ in range(streams)]

        def stream(number):
            state = ()
            if number != late:
                for picture in given[number][:2]:
                    alpha, state = shares[number].infer(picture[None], state)
                    got[number].append(alpha)
            meet.wait()
            for picture in given[number][len(got[number]) :]:
                alpha, state = shares[number].infer(picture[None], state)
                got[number].append(alpha)

        side_by_side(*(lambda number=number: stream(number) for number in range(streams)))
        assert engines.mean > 1
    for mine, wanted in zip(got, expected, strict=True):
        assert np.abs(np.array(mine) - np.array(wanted)).max() <= 2e-5


def test_counts_of_frames_are_not_mixed_up():
    """The network is a fake whose alpha says how many frames its state has seen."""
    with SharedEngines(opener=lambda *_: CountingEngine()) as engines:
        spec = CountingEngine().spec
        sources = {frames: SyntheticSource(frames, (64, 128)) for frames in (3, 7, 11, 20)}
        segmenters = {frames: Segmenter(engine=engines.open(spec)) for frames in sources}
        seen = {frames: [] for frames in sources}

        def stream(frames):
            seen[frames].extend(1 / segmenters[frames]([frame])[0].alpha[0, 0] for frame in sources[frames])

        side_by_side(*(lambda frames=frames: stream(frames) for frames in sources))
        for frames, counts in seen.items():
            assert counts == pytest.approx(range(1, frames + 1))


class Wandering(SyntheticSource):
    """A person in another place in each stream."""

    def __init__(self, frames, size, offset):
        super().__init__(frames, size)
        self._offset = offset

    def draw(self, index):
        return replace(super().draw(index + self._offset), pts=index)


def test_streams_come_out_as_by_themselves():
    """The whole path with the shipped network: smoothing, guide and background of one stream never touch another's."""
    require("onnxruntime")
    size, frames, streams = (144, 256), 6, 3

    def run(segmenter, number):
        with Compositor("#102030", segmenter) as compositor:
            return [compositor([frame])[0] for frame in Wandering(frames, size, 11 * number)]

    expected = []
    for number in range(streams):
        with Segmenter(runtime="onnxruntime", threads=1) as segmenter:
            expected.append(run(segmenter, number))
    got = {}
    with SharedEngines(budget=0.05) as engines:

        def stream(number):
            opener = engines.opener(live=number > 0)
            with Segmenter(runtime="onnxruntime", threads=1, opener=opener) as segmenter:
                got[number] = run(segmenter, number)

        side_by_side(*(lambda number=number: stream(number) for number in range(streams)))
    for number in range(streams):
        for mine, wanted in zip(got[number], expected[number], strict=True):
            for plane, other in zip(mine.planes, wanted.planes, strict=True):
                np.testing.assert_array_equal(plane, other)


# --- opening and closing ----------------------------------------------------------------------------------------


class Opened:
    """Opens engines without a network, and remembers them."""

    def __init__(self):
        self.engines = []

    def __call__(self, spec, runtime, size, threads, precision):
        engine = Faulty(size)
        self.engines.append(engine)
        return engine


class Faulty(ConstantEngine):
    def __init__(self, size=(32, 64)):
        super().__init__(0.5, size)
        self.fault = ""
        self.closed = 0

    def infer(self, src, state=()):
        alpha, state = super().infer(src, state)
        if self.fault == "raise":
            raise EngineError("device lost")
        if self.fault == "nan":
            alpha[src[:, 0, 0, 0] > 0] = np.nan
        return alpha, state

    def close(self):
        self.closed += 1


def test_a_network_is_opened_once_for_each_size():
    opened, spec = Opened(), Faulty().spec
    engines = SharedEngines(opener=opened)
    shares = [engines.open(spec) for _ in range(3)]
    other = engines.open(spec, size=(64, 32))
    assert len(opened.engines) == 2
    assert (shares[0].size, other.size) == ((32, 64), (64, 32))
    for share in (*shares, other):
        share.close()
        share.close()
    assert [engine.closed for engine in opened.engines] == [0, 0]  # the next stream begins at once
    with pytest.raises(EngineError, match="closed"):
        shares[0].infer(np.zeros((1, 3, 32, 64), np.float32))
    engines.close()
    engines.close()
    assert all(engine.closed for engine in opened.engines)
    with pytest.raises(EngineError, match="closed"):
        engines.open(spec)
    assert len(opened.engines) == 2
    assert names() == []


def test_many_streams_that_come_at_once_open_one_network():
    opened, spec = Opened(), Faulty().spec
    meet = threading.Barrier(8, timeout=LONG)

    def come():
        meet.wait()
        engines.open(spec).close()

    with SharedEngines(opener=opened) as engines:
        side_by_side(*[come] * 8)
    assert len(opened.engines) == 1


def test_a_network_that_does_not_open_is_an_error_of_who_asked():
    def opener(*_):
        raise EngineError("no such device")

    with SharedEngines(opener=opener) as engines:
        for _ in range(2):
            with pytest.raises(EngineError, match="no such device"):
                engines.open(Faulty().spec)


def test_who_opens_after_a_failure_gets_a_new_network():
    opened, spec = Opened(), Faulty().spec
    src = np.zeros((1, 3, 32, 64), np.float32)
    with SharedEngines(opener=opened) as engines:
        one, other = engines.open(spec), engines.open(spec)
        opened.engines[0].fault = "raise"
        for share in (one, other):
            with pytest.raises(EngineError, match="device lost"):
                share.infer(src)
        one.close()
        again = engines.open(spec)
        assert len(opened.engines) == 2
        assert again.infer(src)[0].shape == (1, 32, 64)
        assert opened.engines[0].closed == 0  # the other stream still has it
        other.close()
        assert [engine.closed for engine in opened.engines] == [1, 0]
        newest = engines.open(spec)
        assert len(opened.engines) == 2
        newest.close()


def test_numbers_that_are_none_are_an_error_of_their_stream_alone():
    opened = Opened()
    dark, bright = SyntheticSource(1, (32, 64)).draw(0), SyntheticSource(1, (32, 64)).draw(0)
    dark = replace(dark, planes=tuple(np.full_like(p, v) for p, v in zip(dark.planes, (16, 128, 128), strict=True)))
    bright = replace(
        bright, planes=tuple(np.full_like(p, v) for p, v in zip(dark.planes, (235, 128, 128), strict=True))
    )
    with SharedEngines(opener=opened, budget=0.05) as engines:
        segmenters = [Segmenter(engine=engines.open(Faulty().spec)) for _ in range(2)]
        opened.engines[0].fault = "nan"
        outcomes = {}

        def stream(number, frame):
            try:
                outcomes[number] = segmenters[number]([frame])[0].alpha.max()
            except EngineError as error:
                outcomes[number] = str(error)

        side_by_side(lambda: stream(0, dark), lambda: stream(1, bright))
    assert outcomes[0] == 0.5
    assert "outside 0 to 1" in outcomes[1]
