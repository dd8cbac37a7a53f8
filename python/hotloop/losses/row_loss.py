"""What the loss of a row of logits is."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["RowLoss"]


class RowLoss(NamedTuple):
    """What a row's loss is, and what becomes of it.

    Attributes:
        ignore_index: The target of rows that do not count.
        label_smoothing: The part of each target that is spread over all classes.
        z_loss: The factor of the squared log-normaliser.
        reduction: One of `REDUCTIONS`.
        inplace: Whether the gradient may overwrite the logits.
        chunk_rows: None to keep a gradient between the passes; a number to compute it in the
            backward pass, on torch that many rows at a time.
        return_rows: Whether to return `Rows`, too.
        is_shifted: Whether each target was the next one of its sequence, for the error.
        gamma: The power of focal loss, whose count leaves the class weights out; None for cross
            entropy. With it there is no smoothing.
    """

    ignore_index: int
    label_smoothing: float
    z_loss: float
    reduction: str
    inplace: bool = False
    chunk_rows: int | None = None
    return_rows: bool = False
    is_shifted: bool = False
    gamma: float | None = None
