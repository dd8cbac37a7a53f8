"""Samples, tokens and floating-point operations for each second."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from hotloop.argument import check_count

__all__ = ["Throughput", "transformer_flops_per_token"]


class Throughput:
    """Rates over the last updates.

    A rate is what was counted between the oldest and the newest of the last `window + 1` updates,
    divided by the time between them. The first update has nothing before it, so its samples do
    not count; compiling and warming up before it do not either. Work that a device has not
    done yet when `update` is called counts as done, which evens out over a window.

    MFU, the model FLOPs utilization, is `flops_per_sample * samples/s / peak_flops`: what the
    model needs, without recomputation, of what the devices could do (Chowdhery et al., 2022,
    arXiv:2204.02311, Appendix B).

    Args:
        window: Updates that a rate is taken over, at least 1.
        flops_per_sample: Operations of a forward and backward pass on a sample, above 0.
        peak_flops: Operations for each second of all devices together, above 0.
        clock: Returns seconds, never fewer than before.

    Raises:
        ValueError: If an argument is outside of its range.
    """

    def __init__(
        self,
        window: int = 100,
        *,
        flops_per_sample: float | None = None,
        peak_flops: float | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        check_count("window", window)
        for name, value in (("flops_per_sample", flops_per_sample), ("peak_flops", peak_flops)):
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be above 0 or None, got {value!r}")
        self._flops_per_sample = flops_per_sample
        self._peak_flops = peak_flops
        self._clock = clock
        self._samples = 0
        self._tokens = 0
        #: The time of each update, and the totals after it.
        self._marks: deque[tuple[float, int, int]] = deque(maxlen=window + 1)

    def update(self, samples: int, tokens: int = 0) -> None:
        """Count what was done since the last update.

        Args:
            samples: Samples, at least 0.
            tokens: Tokens, at least 0.

        Raises:
            ValueError: If one of them is below 0.
        """
        if samples < 0 or tokens < 0:
            raise ValueError(
                f"samples and tokens must be at least 0, got {samples!r} and {tokens!r}"
            )
        self._samples += samples
        self._tokens += tokens
        self._marks.append((self._clock(), self._samples, self._tokens))

    def rates(self) -> dict[str, float]:
        """Return the rates over the window.

        Returns:
            "samples_per_second"; "tokens_per_second" if there were tokens; "mfu" if
            `flops_per_sample` and `peak_flops` are known. Empty before the second update, and
            while no time has passed.
        """
        if not self._marks:
            return {}
        start, first_samples, first_tokens = self._marks[0]
        end, last_samples, last_tokens = self._marks[-1]
        if end <= start:
            return {}
        rates = {"samples_per_second": (last_samples - first_samples) / (end - start)}
        if last_tokens > first_tokens:
            rates["tokens_per_second"] = (last_tokens - first_tokens) / (end - start)
        if self._flops_per_sample is not None and self._peak_flops is not None:
            rates["mfu"] = self._flops_per_sample * rates["samples_per_second"] / self._peak_flops
        return rates

    def reset(self) -> None:
        """Begin a new window, such as after a validation, which is no training time."""
        self._marks.clear()


def transformer_flops_per_token(
    parameters: int, layers: int, heads: int, head_size: int, sequence_length: int
) -> int:
    """Return the operations of a training step for each token, `6 N + 12 L H Q T`.

    6 N are the matrix products with the weights, forward and backward, and 12 L H Q T those of
    attention with itself over the whole sequence, as if it were not causal (Chowdhery et al.,
    2022, arXiv:2204.02311, Appendix B). A sample of T tokens takes T times as many.

    Args:
        parameters: N, the number of weights.
        layers: L.
        heads: H, of each layer.
        head_size: Q.
        sequence_length: T, in tokens.
    """
    return 6 * parameters + 12 * layers * heads * head_size * sequence_length
