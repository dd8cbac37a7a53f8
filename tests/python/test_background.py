"""Copies in host memory that is used again, and one task at a time in a thread."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from hotloop.checkpoint.background import BackgroundTask, HostBuffers
from hotloop.checkpoint.tree import DTYPES
from hotloop.errors import CheckpointError


def addresses(copies: dict[str, Tensor]) -> dict[str, int]:
    return {name: tensor.data_ptr() for name, tensor in copies.items()}


# HostBuffers


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_any_layout_is_copied_bit_by_bit(dtype: torch.dtype) -> None:
    data = torch.arange(6 * 4 * dtype.itemsize).to(torch.uint8)
    # A bool has no other bits.
    data = data % 2 if dtype == torch.bool else data
    rows = data.view(dtype).reshape(6, 4)
    views = {
        "contiguous": rows,
        "transposed": rows.t(),
        "strided": rows[::2, 1:],
        "expanded": rows[:1].expand(3, 4),
        "empty": rows[:0],
        "scalar": rows[0, 0],
    }
    copies = HostBuffers().copy(views)
    assert list(copies) == list(views)
    for name, view in views.items():
        assert copies[name].dtype == dtype
        assert copies[name].shape == view.shape
        assert copies[name].is_contiguous()
        expected = view.contiguous().reshape(-1).view(torch.uint8)
        assert torch.equal(copies[name].reshape(-1).view(torch.uint8), expected), name


def test_buffers_are_used_again_and_share_nothing_with_the_tensors() -> None:
    buffers = HostBuffers()
    state = {"a": torch.ones(3), "b": torch.zeros(2, 2)}
    first = buffers.copy(state)
    state["a"].fill_(7)
    assert first["a"].tolist() == [1, 1, 1]
    before = addresses(first)
    assert not before.keys() & {t.data_ptr() for t in state.values()}
    second = buffers.copy({"b": state["b"], "a": state["a"]})
    assert addresses(second) == before
    assert second["a"].tolist() == [7, 7, 7]


@pytest.mark.parametrize(
    "other", [torch.ones(4), torch.ones(3, dtype=torch.int32), torch.ones(1, 3)], ids=str
)
def test_another_shape_or_dtype_gets_another_buffer(other: Tensor) -> None:
    buffers = HostBuffers()
    kept = torch.ones(2)
    before = buffers.copy({"a": torch.ones(3), "kept": kept})
    after = buffers.copy({"a": other, "kept": kept})
    assert torch.equal(after["a"], other)
    assert after["a"].dtype == other.dtype
    assert after["kept"] is before["kept"]
    assert after["a"] is not before["a"]


def test_memory_of_what_is_gone_is_given_back() -> None:
    buffers = HostBuffers()
    first = buffers.copy({"a": torch.ones(3), "b": torch.ones(3)})
    buffers.copy({"b": torch.ones(3)})
    again = buffers.copy({"a": torch.ones(3), "b": torch.ones(3)})
    assert again["b"] is first["b"]
    assert again["a"] is not first["a"]


def test_modes_of_torch_do_not_get_into_the_buffers() -> None:
    buffers = HostBuffers()
    parameter = torch.ones(3, requires_grad=True)
    with torch.inference_mode(), torch.device("meta"):
        copies = buffers.copy({"a": parameter})
    assert not copies["a"].is_inference()
    assert copies["a"].device == torch.device("cpu")
    assert not copies["a"].requires_grad
    with torch.inference_mode():
        inference = torch.full((3,), 5.0)
    assert buffers.copy({"a": inference})["a"].tolist() == [5, 5, 5]


def test_gpu_tensors_go_to_pinned_memory_and_are_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Gpu:
        """Has of a tensor on a GPU what is looked at."""

        shape, dtype, is_cuda, device = torch.Size([3]), torch.float32, True, "cuda:1"

    events: list[Any] = []

    class Buffer:
        def copy_(self, tensor: Any, non_blocking: bool) -> Buffer:
            events.append(("copy", non_blocking))
            return self

    def empty(*args: Any, **options: Any) -> Buffer:
        events.append(("empty", options))
        return Buffer()

    def current_stream(device: str) -> SimpleNamespace:
        return SimpleNamespace(synchronize=lambda: events.append(("synchronize", device)))

    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(torch.cuda, "current_stream", current_stream)
    tensors: Any = {"a": Gpu(), "b": Gpu()}
    HostBuffers().copy(tensors)
    options = {"dtype": torch.float32, "device": "cpu", "pin_memory": True}
    assert events == [*[("empty", options), ("copy", True)] * 2, ("synchronize", "cuda:1")]


def test_too_little_memory_is_an_error_of_the_save(monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(*args: Any, **options: Any) -> Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    buffers = HostBuffers()
    state = {"a": torch.ones(3), "b": torch.ones(2)}
    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", empty)
        with pytest.raises(CheckpointError, match="host memory for a copy of tensor 'a' of 12 byt"):
            buffers.copy(state)
    assert buffers.copy(state)["b"].tolist() == [1, 1]


# BackgroundTask


def test_runs_beside_the_caller_and_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    task = BackgroundTask()
    gate = threading.Event()
    events: list[str] = []
    join = threading.Thread.join

    def open_and_join(thread: threading.Thread) -> None:
        events.append("join")
        gate.set()
        join(thread)

    def first() -> None:
        gate.wait(10)
        events.append("first")

    def second() -> None:
        events.append("second")

    monkeypatch.setattr(threading.Thread, "join", open_and_join)
    task.start("first", first)
    assert events == []
    task.start("second", second)
    task.wait()
    # The second one may end before it is waited for.
    assert events[:2] == ["join", "first"]
    assert sorted(events[2:]) == ["join", "second"]


@pytest.mark.parametrize("error", [OSError("full"), SystemExit(3), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("call", ["wait", "start"])
def test_failure_is_logged_and_raised_once(
    caplog: pytest.LogCaptureFixture, error: BaseException, call: str
) -> None:
    def fail() -> None:
        raise error

    events: list[str] = []
    task = BackgroundTask()
    task.start("checkpoint 7", fail)
    task.join()
    text = f"{type(error).__name__}: {error}"
    assert caplog.record_tuples == [("hotloop", logging.ERROR, f"checkpoint 7 failed: {text}")]
    with pytest.raises(CheckpointError) as info:
        task.wait() if call == "wait" else task.start("next", lambda: events.append("next"))
    assert str(info.value) == f"the last save in the background failed: {text}"
    assert info.value.__cause__ is error
    task.wait()
    assert events == []
    task.start("next", lambda: events.append("next"))
    task.wait()
    assert events == ["next"]


def test_a_check_raises_a_failure_and_waits_for_nothing() -> None:
    def fail() -> None:
        assert gate.wait(10)
        raise OSError("full")

    gate = threading.Event()
    task = BackgroundTask()
    task.check()
    task.start("checkpoint 7", fail)
    task.check()
    assert not gate.is_set()
    gate.set()
    task.join()
    with pytest.raises(CheckpointError, match=r"in the background failed: OSError: full$"):
        task.check()
    task.check()
    task.wait()


def test_the_interpreter_waits_for_the_thread() -> None:
    threads: list[threading.Thread] = []
    task = BackgroundTask()
    task.start("checkpoint 7", lambda: threads.append(threading.current_thread()))
    task.wait()
    assert not threads[0].daemon
    assert threads[0].name == "checkpoint 7"


def test_a_forked_process_waits_for_nothing() -> None:
    gate = threading.Event()
    done = threading.Event()
    task = BackgroundTask()
    task.start("first", lambda: done.set() if gate.wait(10) else None)
    with warnings.catch_warnings():
        # Python 3.12 warns of threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        status = 1
        try:
            task.wait()
            events: list[str] = []
            task.start("second", lambda: events.append("second"))
            task.wait()
            status = 0 if events == ["second"] else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not done.is_set()
    gate.set()
    task.wait()
    assert done.is_set()
