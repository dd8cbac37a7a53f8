"""What a run measured."""

from __future__ import annotations

from hotloop.metrics import MetricTracker

__all__ = ["History"]


class History(MetricTracker):
    """The values of a run by name, each with the number of updates before it.

    Logging windows write "loss", "lr", "samples_per_second" and where they are measured
    "grad_norm" and "skipped_updates"; epochs write "train_loss" and the training metrics with
    the same prefix, "seconds", and where gradients are measured "train_grad_norm" and
    "train_skipped_updates"; validations write "val_loss" and the metrics, with several loaders
    "val_NAME_loss" and so on.

    Attributes:
        stop_reason: Why a callback ended the run; None if it ran to its end.
    """

    stop_reason: str | None = None
