"""Measures how much a run gets through in a second."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from hotloop.argument import check_count
from hotloop.callbacks.callback import Callback, TrainState

__all__ = ["ThroughputMonitor"]


class ThroughputMonitor(Callback):
    """Measures samples, tokens and floating point operations in a second.

    A rate is the difference of `TrainState.samples` over that of the clock, between two
    measurements and without the validations in between. Nothing is read from the device; on an
    accelerator the rates are right where something else waits for it, such as logging windows.

    Model FLOPs utilization is `samples_per_second * flops_per_sample / peak_flops` (PaLM,
    Chowdhery et al., 2022, arXiv 2204.02311).

    Args:
        log: Called with each measurement and its step, such as a tracker's `log`.
        tokens_per_sample: Tokens of a sample, above 0; None for no rate of tokens.
        flops_per_sample: Floating point operations that the model needs for a sample, forward
            and backward, above 0; None for no rate of them.
        peak_flops: Floating point operations that the devices can do in a second, above 0;
            None for no utilization.
        every: Updates between two measurements, at least 1.
        clock: Returns seconds.

    Attributes:
        rates: The last measurement: "samples_per_second" and, where their arguments are given,
            "tokens_per_second", "flops_per_second" and "mfu"; empty before the first one.

    Raises:
        ValueError: If an argument is out of range, or `peak_flops` is given without
            `flops_per_sample`.
    """

    def __init__(
        self,
        log: Callable[[Mapping[str, float], int], None] | None = None,
        *,
        tokens_per_sample: float | None = None,
        flops_per_sample: float | None = None,
        peak_flops: float | None = None,
        every: int = 50,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        check_count("every", every)
        for name, value in (
            ("tokens_per_sample", tokens_per_sample),
            ("flops_per_sample", flops_per_sample),
            ("peak_flops", peak_flops),
        ):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, or None; got {value!r}")
        if peak_flops is not None and flops_per_sample is None:
            raise ValueError("peak_flops needs flops_per_sample, which is None")
        self.rates: dict[str, float] = {}
        self._log = log
        self._factors = {"samples_per_second": 1.0}
        if tokens_per_sample is not None:
            self._factors["tokens_per_second"] = tokens_per_sample
        if flops_per_sample is not None:
            self._factors["flops_per_second"] = flops_per_sample
            if peak_flops is not None:
                self._factors["mfu"] = flops_per_sample / peak_flops
        self._every = every
        self._clock = clock
        self._began = 0.0
        self._samples = 0
        self._paused = 0.0

    @property
    def step_cadence(self) -> int:  # type: ignore[override]
        """The steps between two values."""
        return self._every

    def on_train_begin(self, state: TrainState) -> None:
        """Forget the last run, and begin to measure."""
        self.rates = {}
        self._began, self._samples = self._clock(), state.samples

    def on_validation_begin(self, state: TrainState) -> None:
        """Take the time out."""
        self._paused = self._clock()

    def on_validation_end(self, state: TrainState) -> None:
        """Go on measuring."""
        self._began += self._clock() - self._paused

    def on_step_end(self, state: TrainState) -> None:
        """Measure, if it is time."""
        if state.step % self._every:
            return
        now = self._clock()
        if now <= self._began:
            return
        rate = (state.samples - self._samples) / (now - self._began)
        self.rates = {name: rate * factor for name, factor in self._factors.items()}
        self._began, self._samples = now, state.samples
        if self._log is not None:
            self._log(self.rates, state.step)
