"""A long run with every callback on: neither memory nor threads nor files may pile up."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from hotloop import callbacks
from hotloop.callbacks import (
    Callback,
    Checkpointing,
    DeviceStats,
    EarlyStopping,
    GradientAccumulationSchedule,
    LearningRateMonitor,
    LogMetrics,
    ModelSummary,
    PlotCurves,
    ProgressBar,
    ThroughputMonitor,
    Timer,
    TrainState,
)
from hotloop.checkpoint import CheckpointManager
from hotloop.config import TrainingConfig
from hotloop.loops import Trainer
from hotloop.metrics import Mean
from hotloop.monitoring import CsvTracker, JsonlTracker, TensorBoardTracker
from hotloop.optimizers import AdamW
from hotloop.schedulers import Cosine

_STEPS = 100_000
# What a run keeps is 13 bytes an update: 10 in the history and the curves, which have a few numbers
# of each 50th, and 3 in the monitor of the learning rate, which has one of each 100th. That is 1 MB
# of 80,000 updates, in 19,000 blocks of Python's memory; a list of the numbers of all updates would
# have 80,000 more.
_MOST_BLOCKS = 40_000
# matplotlib's caches take another 2 MB in the course of the pictures. The copy of the history that
# a save in the background writes goes with it, but other objects hold some of its pages: 3 MB.
_MOST_GROWTH = 10_000_000


class Repeated:
    """An epoch of many batches that takes the memory of a few."""

    def __init__(self, batches: list[Any], count: int) -> None:
        self._batches = batches
        self._count = count

    def __iter__(self) -> Iterator[Any]:
        for index in range(self._count):
            yield self._batches[index % len(self._batches)]

    def __len__(self) -> int:
        return self._count


class Size:
    """The mean size of predictions."""

    def __init__(self) -> None:
        self._mean = Mean()

    def update(self, preds: Tensor, target: Tensor) -> None:
        self._mean.update(preds.abs().mean(), len(preds))

    def compute(self) -> float:
        return self._mean.compute()

    def reset(self) -> None:
        self._mean.reset()

    def state_dict(self) -> dict[str, Any]:
        return self._mean.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._mean.load_state_dict(state)


def resident() -> int:
    """Return the bytes of memory that this process holds and has a use for."""
    gc.collect()
    # A picture leaves tens of megabytes behind that glibc gives back at its leisure.
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def thread_names() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate())


class Looking(Callback):
    """Looks at what a run holds, ten times in each fifth of it."""

    def __init__(self) -> None:
        self.sizes: dict[int, int] = {}
        self.blocks: dict[int, int] = {}
        self.threads: list[list[str]] = []
        self.files: list[int] = []

    def on_step_end(self, state: TrainState) -> None:
        if state.step % (_STEPS // 50) == 0:
            self.sizes[state.step] = resident()
            self.blocks[state.step] = sys.getallocatedblocks()
            self.threads.append(thread_names())
            self.files.append(open_files())


@pytest.mark.soak
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_a_run_with_every_callback_holds_what_it_held(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    torch.set_num_threads(1)
    x = torch.randn(7, 4, 2)
    batches = [(each, each.sum(1, keepdim=True)) for each in x]
    model = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    optimizer = AdamW(model.parameters(), lr=1e-3)
    looking = Looking()
    with (tmp_path / "progress.txt").open("w") as progress:
        console = Console(file=progress, force_terminal=True, width=100)
        every: list[Callback] = [
            # In a thread that has ended long before the next one.
            Checkpointing(tmp_path / "checkpoints", 7_000, is_async=True),
            DeviceStats(),
            EarlyStopping(patience=10**9, restore_best=True),
            GradientAccumulationSchedule({0: 1, 3: 2, 5: 1}),
            LearningRateMonitor(optimizer, every=100),
            LogMetrics(
                [
                    JsonlTracker(tmp_path / "values.jsonl"),
                    CsvTracker(tmp_path / "values.csv"),
                    TensorBoardTracker(tmp_path / "board"),
                ]
            ),
            ModelSummary(model, x[0], console=console),
            PlotCurves(tmp_path / "curves.png"),
            ProgressBar(console),
            ThroughputMonitor(),
            Timer(10**9),
        ]
        own = [getattr(callbacks, name) for name in callbacks.__all__]
        kinds = {each for each in own if isinstance(each, type) and issubclass(each, Callback)}
        assert {type(callback) for callback in every} == kinds - {Callback}
        trainer = Trainer(
            model,
            TrainingConfig(
                max_steps=_STEPS,
                clip_norm=1.0,
                average_decay=0.999,
                nonfinite="skip",
                progress=False,
            ),
            Repeated(batches, _STEPS // 10),
            batches[:2],
            [*every, looking],
            loss=nn.functional.mse_loss,
            optimizer=optimizer,
            scheduler=Cosine(_STEPS),
            metrics={"size": Size()},
        )
        # matplotlib keeps the files of its fonts open.
        PlotCurves(tmp_path / "first.png").on_epoch_end(TrainState(metrics={"train_loss": 1.0}))
        threads, files = thread_names(), open_files()
        history = trainer.train()
        assert thread_names() == threads
        assert open_files() == files
    assert history.history("loss")[-1][0] == _STEPS
    saved = CheckpointManager(tmp_path / "checkpoints").checkpoints()
    assert [each.step for each in saved] == [_STEPS, 98_000, 91_000]
    # Three outboxes, and a thread that TensorBoard's writer has of its own.
    assert looking.threads == [looking.threads[0]] * 50
    assert len(looking.threads[0]) == len(threads) + 4
    # Trackers also open files for moments, in threads of their own.
    fewest = [min(looking.files[first : first + 10]) for first in range(0, 50, 10)]
    assert fewest == [files + 2] * 5
    assert looking.blocks[_STEPS] - looking.blocks[_STEPS // 5] < _MOST_BLOCKS
    assert looking.sizes[_STEPS] - looking.sizes[_STEPS // 5] < _MOST_GROWTH
