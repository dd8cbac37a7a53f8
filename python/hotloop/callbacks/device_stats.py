"""Measures the memory that a run takes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from hotloop.argument import check_count
from hotloop.callbacks.callback import Callback, TrainState

__all__ = ["DeviceStats"]

_STATM = Path("/proc/self/statm")


class DeviceStats(Callback):
    """Records the bytes of memory that the process and its CUDA device hold.

    The device is that of the loss. CUDA's numbers are those of torch's allocator, which knows
    them without waiting for the device.

    Args:
        every: Updates between two records, at least 1.
        log: Called with each record and its step, such as a tracker's `log`.

    Attributes:
        values: The last record, in bytes: "rss_bytes", the memory of the process that is
            resident, or "max_rss_bytes", the most that ever was, where the system has no
            /proc/self/statm; on CUDA also "cuda_allocated_bytes", "cuda_reserved_bytes" and
            "cuda_max_allocated_bytes". Empty before the first one.

    Raises:
        ValueError: If `every` is not a positive int.
    """

    def __init__(
        self,
        every: int = 50,
        *,
        log: Callable[[Mapping[str, float], int], None] | None = None,
    ) -> None:
        check_count("every", every)
        self.values: dict[str, float] = {}
        self._every = every
        self._log = log

    @property
    def step_cadence(self) -> int:  # type: ignore[override]
        """The steps between two values."""
        return self._every

    def on_train_begin(self, state: TrainState) -> None:
        """Forget the last run."""
        self.values = {}

    def on_step_end(self, state: TrainState) -> None:
        """Record the values, if it is time."""
        if state.step % self._every:
            return
        self.values = _process()
        if state.loss is not None and state.loss.device.type == "cuda":
            device = state.loss.device
            self.values |= {
                "cuda_allocated_bytes": torch.cuda.memory_allocated(device),
                "cuda_reserved_bytes": torch.cuda.memory_reserved(device),
                "cuda_max_allocated_bytes": torch.cuda.max_memory_allocated(device),
            }
        if self._log is not None:
            self._log(self.values, state.step)


def _process() -> dict[str, float]:
    try:
        pages = int(_STATM.read_text(encoding="ascii").split()[1])
    except OSError:
        import resource

        # macOS counts in bytes, others in KiB.
        unit = 1 if sys.platform == "darwin" else 1024
        return {"max_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    return {"rss_bytes": pages * os.sysconf("SC_PAGE_SIZE")}
