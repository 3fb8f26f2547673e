"""Loading, swapping, unloading and polling while requests go on."""

import asyncio
import functools
import gc
import hashlib
import logging
import os
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hlserve.errors import (
    ConfigError,
    DeadlineExceededError,
    InferenceError,
    InvalidRequestError,
    ModelFileError,
    ModelNotFoundError,
    ModelNotReadyError,
    ShuttingDownError,
    UnavailableError,
)
from hlserve.repository import Metadata, Repository, TensorSpec, publish
from hlserve.serving.batching import RunThreads
from hlserve.serving.config import ControlConfig, ControlMode, ServerConfig
from hlserve.serving.dataplane import DataPlane
from hlserve.serving.loading import give_memory_back
from hlserve.serving.prediction import PredictRequest
from hlserve.serving.request import InferRequest
from hlserve.serving.store import ModelStore
from hlserve.serving.watch import Changes, Watch
from tests.serving import models
from tests.serving.prediction_models import CLASSES, make_repository

ROWS = np.linspace(-1, 1, 16, dtype=np.float32).reshape(2, 8)


def in_event_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that pytest can call: its coroutine runs to its end in a loop of its own."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(test(*args, **kwargs))

    return run


@dataclass(frozen=True)
class Plane:
    store: ModelStore
    plane: DataPlane

    async def ask(self, name: str = "m", version: str = "") -> Any:
        request = InferRequest(name, {"input": ROWS}, version, ("logits",))
        return (await self.plane.model_infer(request)).outputs["logits"]

    def states(self) -> dict[tuple[str, str], str]:
        return {(s.name, s.version): s.state for s in self.plane.repository_index()}

    def reason(self, name: str = "m") -> str:
        return next(s.reason for s in self.plane.repository_index() if s.name == name)


@asynccontextmanager
async def serving(root: Path, mode: ControlMode = "explicit", *load: str) -> AsyncIterator[Plane]:
    threads = RunThreads(2)
    config = ServerConfig(models=root, control=ControlConfig(mode=mode, load_models=load))
    store = ModelStore(Repository(root), config, threads)
    try:
        await asyncio.to_thread(store.load_all)
        yield Plane(store, DataPlane(store, control=mode))
        async with asyncio.timeout(20):
            await store.settled()
    finally:
        store.close()
        threads.shutdown(wait=True)


def replace_model(root: Path, content: bytes, name: str = "m", version: int = 1) -> None:
    """As a careful user does: the file appears whole."""
    target = root / name / str(version) / "model.onnx"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.with_suffix(".new").write_bytes(content)
    target.with_suffix(".new").rename(target)


@in_event_loop
async def test_explicit_control_loads_and_unloads_by_calls(tmp_path: Path) -> None:
    models.put(tmp_path, "m", models.mlp())
    async with serving(tmp_path) as served:
        assert served.plane.server_ready()
        assert served.states() == {("m", ""): "UNAVAILABLE"}
        with pytest.raises(ModelNotReadyError, match="model 'm' is not ready: it is not loaded"):
            await served.ask()
        await served.plane.load_model("m")
        assert served.states() == {("m", "1"): "READY"}
        assert (await served.ask()).shape == (2, 3)
        await served.plane.unload_model("m")
        with pytest.raises(ModelNotReadyError, match="model 'm' is not ready: it was unloaded"):
            await served.ask()
        await served.store.settled()
        assert served.states() == {("m", ""): "UNAVAILABLE"}
        assert served.plane.repository_index(ready_only=True) == ()
        await served.plane.unload_model("m")  # once more does no harm
        for call in (served.plane.load_model("none"), served.plane.unload_model("../m")):
            with pytest.raises(ModelNotFoundError):
                await call


@in_event_loop
async def test_calls_load_nothing_before_the_start_has_loaded(tmp_path: Path) -> None:
    models.put(tmp_path, "m", models.mlp())
    threads = RunThreads(1)
    config = ServerConfig(models=tmp_path, control=ControlConfig("explicit", load_models=("m",)))
    store = ModelStore(Repository(tmp_path), config, threads)
    plane = DataPlane(store, control="explicit")
    try:
        for call in (plane.load_model("m"), plane.unload_model("m")):
            with pytest.raises(UnavailableError, match="still loads its models: try again"):
                await call
        await asyncio.to_thread(store.load_all)
        await plane.load_model("m")
        assert plane.model_ready("m", "")
    finally:
        store.close()
        threads.shutdown(wait=True)


@in_event_loop
async def test_things_are_answered_by_the_version_that_took_them(tmp_path: Path) -> None:
    """While its front end waits for the one thread, the model is unloaded and the server drains."""
    make_repository(tmp_path)
    held = threading.Event()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    async with serving(tmp_path, "explicit", "words") as served:
        holding = asyncio.ensure_future(asyncio.to_thread(held.wait, 20))
        try:
            model = served.store.get("words", "")
            request = PredictRequest("words", ["good food"])
            asking = asyncio.ensure_future(served.plane.predict(request))
            await asyncio.sleep(0)  # as far as the thread
            assert model.uses.count == 1
            await served.plane.unload_model("words")
            served.plane.begin_drain()
            assert not await served.plane.drained(0)
            with pytest.raises(ShuttingDownError):
                await served.plane.predict(request)
        finally:
            held.set()
        await holding
        assert (await asking).predictions[0].label in CLASSES
        assert await served.plane.drained(20)
        assert model.uses.count == 0


@pytest.mark.parametrize("waits", [False, True])
@in_event_loop
async def test_what_comes_too_late_for_the_front_end_is_not_read(
    tmp_path: Path, waits: bool
) -> None:
    make_repository(tmp_path)
    held = threading.Event()
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    async with serving(tmp_path, "explicit", "words") as served:
        holding = asyncio.ensure_future(asyncio.to_thread(held.wait, 20))
        deadline_s = time.monotonic() + (0.5 if waits else 0)
        request = PredictRequest("words", [" "], deadline_s=deadline_s)  # refused where it is read
        asking = asyncio.ensure_future(served.plane.predict(request))
        await asyncio.wait([asking], timeout=0.6)
        assert asking.done() is not waits
        held.set()
        await holding
        with pytest.raises(DeadlineExceededError, match="before the instances were read"):
            await asking


@in_event_loop
async def test_loading_at_the_start_is_chosen_by_name(tmp_path: Path) -> None:
    for name in "ab":
        models.put(tmp_path, name, models.mlp())
    async with serving(tmp_path, "explicit", "b") as served:
        assert served.states() == {("a", ""): "UNAVAILABLE", ("b", "1"): "READY"}
    async with serving(tmp_path, "explicit", "*") as served:
        assert set(served.states().values()) == {"READY"}
    with pytest.raises(ConfigError, match=r"load-model names 'c', and .* holds \['a', 'b'\]"):
        async with serving(tmp_path, "explicit", "c"):
            pass


@pytest.mark.parametrize("mode", ["none", "poll"])
@in_event_loop
async def test_calls_load_nothing_unless_control_is_explicit(
    tmp_path: Path, mode: ControlMode
) -> None:
    models.put(tmp_path, "m", models.mlp())
    async with serving(tmp_path, mode) as served:
        for call in (served.plane.load_model("m"), served.plane.unload_model("m")):
            with pytest.raises(UnavailableError, match="explicit model load / unload is not allow"):
                await call
        assert served.plane.model_ready("m", "")


@in_event_loop
async def test_a_swap_leaves_no_gap_and_ends_in_the_new_model(tmp_path: Path) -> None:
    models.put(tmp_path, "m", models.mlp(seed=0))
    async with serving(tmp_path, "explicit", "m") as served:
        before = await served.ask()
        old = served.store.get("m").session
        replace_model(tmp_path, models.mlp(seed=1))
        loading = asyncio.create_task(served.plane.load_model("m"))
        answers = []
        while not loading.done():
            answers.append(await served.ask())
            await asyncio.sleep(0)
        await loading
        after = await served.ask()
        assert not np.array_equal(before, after)
        assert all(np.array_equal(a, before) or np.array_equal(a, after) for a in answers)
        await served.store.settled()
        with pytest.raises(InferenceError, match="its version was unloaded"):
            old.run({"input": ROWS}, ["logits"])


@in_event_loop
async def test_requests_in_flight_finish_before_their_version_is_closed(tmp_path: Path) -> None:
    models.put(tmp_path, "m", models.slow())
    async with serving(tmp_path, "explicit", "m") as served:
        request = InferRequest("m", models.slow_inputs(steps=10_000))
        running = asyncio.create_task(served.plane.model_infer(request))
        while served.store.get("m").uses.count == 0:
            await asyncio.sleep(0)
        await served.plane.unload_model("m")
        assert served.states() == {("m", "1"): "UNLOADING"}
        with pytest.raises(ModelNotReadyError):
            await served.plane.model_infer(request)
        assert (await running).outputs["y"].shape == (8, 256)
        await served.store.settled()
        assert served.states() == {("m", ""): "UNAVAILABLE"}


@in_event_loop
async def test_a_reload_that_fails_leaves_the_old_model_and_says_why(tmp_path: Path) -> None:
    models.put(tmp_path, "m", models.mlp())
    async with serving(tmp_path, "explicit", "m") as served:
        before = await served.ask()
        replace_model(tmp_path, b"<html>")
        with pytest.raises(ModelFileError, match="model 'm' cannot be loaded: version 1: ONNX Run"):
            await served.plane.load_model("m")
        assert np.array_equal(await served.ask(), before)
        assert served.states() == {("m", "1"): "READY"}
        assert served.reason().startswith("reload failed: version 1: ONNX Runtime cannot load it")
        replace_model(tmp_path, models.mlp())
        await served.plane.load_model("m")
        assert served.reason() == ""


@in_event_loop
async def test_overrides_serve_what_a_call_brings_and_leave_the_disk(tmp_path: Path) -> None:
    models.put(tmp_path, "m", models.mlp(seed=0))
    disk = sorted(tmp_path.rglob("*"))
    async with serving(tmp_path, "explicit", "m") as served:
        before = await served.ask()
        files = {"file:7/model.onnx": models.mlp(seed=1)}
        await served.plane.load_model("m", '{"max_batch_size": 2}', files)
        assert served.states() == {("m", "7"): "READY"}
        assert not np.array_equal(await served.ask(), before)
        assert served.store.get("m").config.max_request_rows == 2
        await served.plane.load_model("new", "{}", {"1/model.onnx": models.mlp()})
        assert served.plane.model_ready("new", "1")
        with pytest.raises(ModelFileError, match="version 1: ONNX Runtime cannot load it"):
            await served.plane.load_model("bad", "{}", {"file:1/model.onnx": b"junk"})
        assert not served.plane.repository_index()[0].name.startswith("bad")
        await served.plane.load_model("m", '{"max_batch_size": 5}')
        assert np.array_equal(await served.ask(), before)
        await served.plane.load_model("m")
        assert served.store.get("m").config.max_request_rows is None
    assert sorted(tmp_path.rglob("*")) == disk


BAD_OVERRIDES: dict[str, tuple[str | None, Mapping[str, bytes], str]] = {
    "no config": (None, {"file:1/model.onnx": b""}, "only beside a config"),
    "no version": ("{}", {"file:model.onnx": b""}, "expected a path such as"),
    "parent": ("{}", {"file:1/../../x": b""}, "expected a path such as"),
    "absolute": ("{}", {"file:/etc/passwd": b""}, "expected a path such as"),
    "dot": ("{}", {"file:./1/model.onnx": b""}, "expected a path such as"),
    "hidden": ("{}", {"file:1/.x": b""}, "expected a path such as"),
    "no number": ("{}", {"file:01/model.onnx": b""}, "expected a path such as"),
    "zero byte": ("{}", {"file:1/a\0b": b""}, "expected a path such as"),
    "backslash": ("{}", {"file:1/..\\x": b""}, "expected a path such as"),
    "empty": ("{}", {"file:": b""}, "expected a path such as"),
}


@pytest.mark.parametrize("case", BAD_OVERRIDES)
@in_event_loop
async def test_a_malformed_override_is_refused(tmp_path: Path, case: str) -> None:
    config, files, message = BAD_OVERRIDES[case]
    models.put(tmp_path, "m", models.mlp())
    async with serving(tmp_path, "explicit", "m") as served:
        with pytest.raises(InvalidRequestError, match=message):
            await served.plane.load_model("m", config, files)
        with pytest.raises(ModelFileError, match="config of the call: unknown field"):
            await served.plane.load_model("m", '{"nonsense": 1}')
        assert served.plane.model_ready("m", "1")


@in_event_loop
async def test_loads_of_one_model_follow_each_other(tmp_path: Path) -> None:
    models.put(tmp_path, "m", models.mlp())
    async with serving(tmp_path) as served:
        calls = [served.plane.load_model("m", f'{{"max_batch_size": {n}}}') for n in range(1, 9)]
        tasks = [asyncio.create_task(call) for call in calls]
        tasks.append(asyncio.create_task(served.plane.unload_model("m")))
        tasks.append(asyncio.create_task(served.plane.load_model("m", '{"max_batch_size": 99}')))
        await asyncio.gather(*tasks)
        assert served.store.get("m").config.max_request_rows == 99


@in_event_loop
async def test_a_caller_that_goes_away_does_not_stop_a_load(tmp_path: Path) -> None:
    models.put(tmp_path, "m", models.mlp())
    async with serving(tmp_path) as served:
        task = asyncio.create_task(served.plane.load_model("m"))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await served.store.settled()
        assert served.plane.model_ready("m", "")


@in_event_loop
async def test_loading_a_second_model_leaves_readiness_and_the_first_alone(tmp_path: Path) -> None:
    models.put(tmp_path, "m", models.mlp())
    models.put(tmp_path, "second", models.mlp())
    async with serving(tmp_path, "explicit", "m") as served:
        loading = asyncio.create_task(served.plane.load_model("second"))
        while not loading.done():
            assert served.plane.server_ready()
            assert served.plane.model_ready("m", "")
            if ("second", "") in served.states():
                assert served.states()["second", ""] in {"LOADING", "UNAVAILABLE"}
            await asyncio.sleep(0)
        served.plane.begin_drain()
        assert not served.plane.server_ready()  # before anything is unloaded
        assert len(served.store.ready_models()) == 2
        with pytest.raises(ShuttingDownError):
            await served.plane.load_model("m")


@in_event_loop
async def test_polling_serves_what_comes_changes_and_goes(tmp_path: Path) -> None:
    async with serving(tmp_path, "poll") as served:
        assert (served.plane.server_ready(), served.states()) == (True, {})
        models.put(tmp_path, "m", models.mlp(seed=0))
        await served.store.poll()
        assert served.states().get(("m", "1")) is None  # perhaps it is still being copied
        await served.store.poll()
        first = await served.ask()
        replace_model(tmp_path, models.mlp(seed=1), version=2)
        (tmp_path / "m" / "3").mkdir()  # no model in it yet
        for _ in range(2):
            await served.store.poll()
        assert served.states() == {("m", "2"): "READY"}
        assert not np.array_equal(await served.ask(), first)
        (tmp_path / "m" / "config.pbtxt").write_text("version_policy { all { } }")
        for _ in range(2):
            await served.store.poll()
        assert served.states() == {("m", "1"): "READY", ("m", "2"): "READY"}
        shutil.rmtree(tmp_path / "m")
        assert (await served.ask()).shape == (2, 3)
        for _ in range(2):
            await served.store.poll()
        with pytest.raises(ModelNotReadyError, match="its folder is gone"):
            await served.ask()


@in_event_loop
async def test_polling_leaves_versions_alone_that_did_not_change(tmp_path: Path) -> None:
    config = {"version_policy": {"all": {}}}
    models.put(tmp_path, "m", models.mlp(), config=config)
    async with serving(tmp_path, "poll") as served:
        first = served.store.get("m", "1")
        replace_model(tmp_path, models.mlp(seed=1), version=2)
        for _ in range(2):
            await served.store.poll()
        assert served.store.versions("m") == [1, 2]
        assert served.store.get("m", "1") is first
        await served.store.poll()
        assert served.store.get("m", "1") is first


@in_event_loop
async def test_a_half_copied_model_leaves_the_old_one_until_it_is_whole(tmp_path: Path) -> None:
    models.put(tmp_path, "m", models.mlp(seed=0))
    whole = models.mlp(seed=1)
    async with serving(tmp_path, "poll") as served:
        before = await served.ask()
        path = tmp_path / "m" / "2" / "model.onnx"
        path.parent.mkdir()
        with path.open("wb") as file:
            for start in range(0, len(whole), 200):
                file.write(whole[start : start + 200])
                file.flush()
                await served.store.poll()
                assert np.array_equal(await served.ask(), before)
        await served.store.poll()
        await served.store.poll()
        assert served.states() == {("m", "2"): "READY"}


@in_event_loop
async def test_ten_quick_updates_end_in_the_last(tmp_path: Path) -> None:
    models.put(tmp_path, "m", models.mlp(seed=0))
    async with serving(tmp_path, "poll") as served:
        for seed in range(1, 11):
            replace_model(tmp_path, models.mlp(seed=seed))
            await served.store.poll()
            await served.ask()
        for _ in range(2):
            await served.store.poll()
        expected = served.store.get("m").session.run({"input": ROWS}, ["logits"])["logits"]
        other = tmp_path / "other"
        models.put(other, "m", models.mlp(seed=10))
        async with serving(other, "none") as reference:
            assert np.array_equal(await reference.ask(), expected)


@in_event_loop
async def test_a_bad_update_is_tried_once_and_the_next_one_taken(tmp_path: Path) -> None:
    models.put(tmp_path, "m", models.mlp())
    async with serving(tmp_path, "poll") as served:
        replace_model(tmp_path, b"junk")
        for _ in range(3):
            await served.store.poll()
        assert served.reason().startswith("reload failed: ")
        (tmp_path / "m" / "config.pbtxt").write_text("nonsense: 1")
        for _ in range(2):
            await served.store.poll()
        assert 'config.pbtxt: line 1, column 1: unknown field "nonsense"' in served.reason()
        (tmp_path / "m" / "config.pbtxt").unlink()
        replace_model(tmp_path, models.mlp())
        for _ in range(2):
            await served.store.poll()
        assert (served.states(), served.reason()) == ({("m", "1"): "READY"}, "")


def memory_bytes() -> int:
    gc.collect()
    give_memory_back()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux' /proc")
@pytest.mark.parametrize(
    ("fails", "times"),
    [
        pytest.param(True, 50, id="50 that fail"),
        pytest.param(False, 50, id="50 that work"),
        pytest.param(True, 1000, id="1000 that fail", marks=pytest.mark.slow),
        pytest.param(False, 1000, id="1000 that work", marks=pytest.mark.slow),
    ],
)
@in_event_loop
async def test_loads_leave_no_memory_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fails: bool, times: int
) -> None:
    """A session of this network takes more than 100 kB: 50 kept ones would show 5 MB."""
    models.put(tmp_path, "m", models.mlp(inputs=8, hidden=1000))
    async with serving(tmp_path, "explicit", "m") as served:
        config = 'max_batch_size: 4 input { name: "other" }' if fails else "max_batch_size: 4"
        (tmp_path / "m" / "config.pbtxt").write_text(config)

        async def load() -> None:
            if fails:
                with pytest.raises(ModelFileError):
                    await served.plane.load_model("m")
            else:
                await served.plane.load_model("m")
            await served.store.settled()

        caplog.set_level(logging.CRITICAL)  # else the test run keeps every line
        for _ in range(10):  # allocators and caches find their size
            await load()
        before = memory_bytes()
        for _ in range(times):
            await load()
        # Measured flat to 0.1 MB.
        assert memory_bytes() - before < 2 * 2**20


@in_event_loop
async def test_a_new_version_replays_its_golden_samples_before_it_takes_traffic(
    tmp_path: Path,
) -> None:
    models.put(tmp_path, "m", models.mlp(seed=0))
    async with serving(tmp_path, "poll") as served:
        before = await served.ask()
        wrong = {"input:input": ROWS, "output:logits": before + 100}
        content = models.mlp(seed=1)
        publish(
            tmp_path / "m",
            model=content,
            metadata=Metadata(
                inputs=(TensorSpec("input", "FP32", (-1, 8)),),
                outputs=(
                    TensorSpec("probabilities", "FP32", (-1, 3)),
                    TensorSpec("logits", "FP32", (-1, 3)),
                ),
                task=None,
                class_labels=None,
                producer="test",
                created="2026-01-01T00:00:00Z",
                sha256=hashlib.sha256(content).hexdigest(),
            ),
            golden=wrong,
        )
        for _ in range(2):
            await served.store.poll()
        assert "version 2: golden output 'logits': the model's answer is off" in served.reason()
        assert np.array_equal(await served.ask(), before)


@in_event_loop
async def test_watching_goes_on_until_it_is_cancelled(tmp_path: Path) -> None:
    threads = RunThreads(1)
    control = ControlConfig(mode="poll", poll_interval_s=0.001)
    store = ModelStore(
        Repository(tmp_path), ServerConfig(models=tmp_path, control=control), threads
    )
    await asyncio.to_thread(store.load_all)
    watching = asyncio.create_task(store.watch())
    models.put(tmp_path, "m", models.mlp())
    async with asyncio.timeout(20):
        while not store.ready_models():
            await asyncio.sleep(0)
        shutil.rmtree(tmp_path / "m")
        while store.ready_models():
            await asyncio.sleep(0)
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
    store.close()
    threads.shutdown(wait=True)


class LargeConfig(Repository):
    """One whose model ``large`` has a configuration that no memory can hold."""

    def config_file(self, name: str) -> Path | None:
        if name == "large":
            raise MemoryError
        return super().config_file(name)


@in_event_loop
async def test_what_nobody_expected_of_a_load_is_its_reason_and_watching_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    threads = RunThreads(1)
    config = ServerConfig(models=tmp_path, control=ControlConfig(mode="poll"))
    store = ModelStore(LargeConfig(tmp_path), config, threads)
    served = Plane(store, DataPlane(store, control="poll"))
    await asyncio.to_thread(store.load_all)
    models.put(tmp_path, "large", models.mlp())
    models.put(tmp_path, "m", models.mlp())
    for _ in range(2):
        await store.poll()
    assert served.states() == {("large", ""): "UNAVAILABLE", ("m", "1"): "READY"}
    assert served.reason("large") == "MemoryError"
    assert "model 'large' cannot be loaded" in caplog.text
    store.close()
    threads.shutdown(wait=True)


@in_event_loop
async def test_no_lock_stays_for_a_model_that_is_not_being_loaded(tmp_path: Path) -> None:
    models.put(tmp_path, "m", models.mlp())
    async with serving(tmp_path) as served:
        files = {"file:1/model.onnx": b"junk"}
        for number in range(20):
            with pytest.raises(ModelFileError):
                await served.plane.load_model(f"none{number}", "{}", files)
        await asyncio.gather(*(served.plane.load_model("m") for _ in range(3)))
        await served.store.settled()
        gc.collect()  # the last task's frames
        assert not served.store._locks


def test_what_changes_while_it_is_loaded_is_found_again(tmp_path: Path) -> None:
    """A load begins after a look told the change; what differs then is told by later looks."""
    models.put(tmp_path, "m", models.mlp())
    watch = Watch(Repository(tmp_path))
    assert watch.look() == Changes()
    for seed in (1, 2):
        replace_model(tmp_path, models.mlp(seed=seed))
        assert [watch.look(), watch.look()] == [Changes(), Changes(changed=("m",))]
    assert watch.look() == Changes()
