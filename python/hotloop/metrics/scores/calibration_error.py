"""How far confidence is from accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from hotloop.argument import check_count
from hotloop.metrics.metric import State
from hotloop.metrics.plot import plot_calibration
from hotloop.metrics.scores.score_metric import ScoreMetric, check_choice

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["CalibrationError"]


class CalibrationError(ScoreMetric):
    """The distance between confidence and accuracy over bins of confidence: in [0, 1].

    The confidence of a row is its highest probability, and it is right if the first class that
    has it is the label; in the binary task the confidence is the score itself, and it is right if
    the label is 1. With the mean confidence c_b, the accuracy a_b and the share w_b of the rows in
    bin b:

        l1:  sum_b w_b |a_b - c_b|           (expected calibration error)
        max: max_b |a_b - c_b|               (maximum calibration error)
        l2:  sqrt(sum_b w_b (a_b - c_b)^2)   (root mean square calibration error)

    (Guo et al., 2017, "On calibration of modern neural networks", arXiv:1706.04599; Kumar et al.,
    2019, "Verified uncertainty calibration", arXiv:1909.10155). The values and the bins are those
    of torchmetrics: bin b of n holds confidences in [b / n, (b + 1) / n), and 1 has a bin of its
    own. Confidences are compared in float32. A bin without rows counts nothing.

    Args:
        task: "binary" or "multiclass".
        num_classes: How many classes; None takes it from the scores.
        n_bins: How many bins there are below 1, at least 1.
        norm: "l1", "l2" or "max".
        ignore_index: The label of what is not counted; None counts all.
        logits: Whether to take the softmax of scores first ("multiclass"), or the sigmoid.

    Raises:
        ValueError: If an option is not allowed.
    """

    higher_is_better: ClassVar[bool | None] = False
    tasks = ("binary", "multiclass")

    def __init__(
        self,
        task: str = "multiclass",
        *,
        num_classes: int | None = None,
        n_bins: int = 15,
        norm: str = "l1",
        ignore_index: int | None = None,
        logits: bool = False,
    ) -> None:
        check_count("n_bins", n_bins)
        check_choice("norm", norm, ("l1", "l2", "max"))
        self.n_bins = n_bins
        self.norm = norm
        self._edges = torch.linspace(0, 1, n_bins + 1, dtype=torch.float32, device="cpu")
        super().__init__(task, num_classes, None, ignore_index, logits)

    def _initial(self) -> State:
        bins = self.n_bins + 1
        return {
            "counts": torch.zeros((2, bins), dtype=torch.int64, device="cpu"),
            "confidences": torch.zeros(bins, dtype=torch.float64, device="cpu"),
            "invalid": 0,
        }

    def update(self, preds: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Count one batch.

        Args:
            preds: Probabilities or logits, of the shape that the task asks for.
            target: Labels, of the shape that the task asks for.
            weight: A factor of at least 0 for each row; 1 by default.

        Raises:
            ValueError: If shapes or dtypes do not fit, a probability is not in [0, 1], a label
                names no class, or a weight is negative or not finite. Nothing is counted then.
        """
        kernels, scores, labels, arguments = self._read(preds, target)
        counts, sums = self._state["counts"], self._state["confidences"]
        is_plain = weight is None and counts.dtype is torch.int64 and counts.is_cpu
        if kernels is None or not is_plain:
            checked = self._checked(scores, labels, preds, target, weight)
            self._add(scores, labels, weight is not None, *checked)
            return
        problem = kernels.check_scores(*arguments, 0.0, 1.0)
        if problem:
            raise self._refused(problem, preds, target)
        if not self._edges.is_cpu:
            self._edges = self._edges.cpu()
        kernels.count_confidences(
            *arguments, self._edges.data_ptr(), self.n_bins + 1, counts.data_ptr(), sums.data_ptr()
        )

    def compute(self) -> float:
        """Return the distance.

        Raises:
            EmptyMetricError: If nothing was counted.
            ValueError: If data on another device than the CPU were not allowed.
        """
        confidence, accuracy, share = self._bins()
        gaps = (accuracy - confidence).abs()
        if self.norm == "max":
            return float(gaps.max())
        if self.norm == "l1":
            return float((gaps * share).sum())
        return float((gaps.square() * share).sum().sqrt())

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the accuracy of the bins by their confidence with matplotlib.

        Args:
            ax: Where to draw; a new figure by default.

        Returns:
            The axes.

        Raises:
            ImportError: If matplotlib is not installed.
            EmptyMetricError: If nothing was counted.
        """
        return plot_calibration(*self._bins(), ax=ax)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Args:
            state: What `state_dict` returned; it is copied.

        Raises:
            ValueError: If it is the state of another kind of metric or of other bins. Nothing is
                loaded then.
        """
        bins = self.n_bins + 1
        for name, shape in (("counts", (2, bins)), ("confidences", (bins,))):
            if name in state and tuple(state[name].shape) != shape:
                raise ValueError(
                    f"{name} of {self} must have shape {shape}, got {tuple(state[name].shape)}"
                )
        super().load_state_dict(state)

    def _bins(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean confidence, the accuracy and the share of the bins that have rows."""
        self._check_valid()
        rows, right = self._state["counts"].cpu().double()
        has_rows = rows > 0
        if not has_rows.any():
            raise self._empty()
        rows, right = rows[has_rows], right[has_rows]
        confidence = self._state["confidences"].cpu()[has_rows] / rows
        return confidence, right / rows, rows / rows.sum()

    def _add(
        self,
        scores: Tensor,
        labels: Tensor,
        is_weighted: bool,
        is_counted: Tensor,
        weights: Tensor,
        invalid: Tensor | int,
    ) -> None:
        """Add a batch with torch's operators."""
        scores = scores.detach()
        if self._has_classes:
            winner = scores.argmax(1)
            confidence = scores.gather(1, winner[:, None])[:, 0]
            is_right = winner == labels
        else:
            confidence, is_right = scores, labels == 1
        weights = is_counted * weights
        # The confidence of an ignored row may be anything.
        confidence = torch.where(weights > 0, confidence, 0)
        if self._edges.device != scores.device:
            self._edges = self._edges.to(scores.device)
        bins = torch.bucketize(confidence.float(), self._edges, right=True) - 1
        state = self._state
        for name in ("counts", "confidences"):
            state[name] = state[name].to(scores.device)
        if is_weighted:
            state["counts"] = state["counts"].double()
        amounts = torch.stack((weights, weights * is_right)).to(state["counts"].dtype)
        state["counts"].scatter_add_(1, bins.expand(2, -1), amounts)
        state["confidences"].scatter_add_(0, bins, weights * confidence.double())
        if not scores.is_cpu:
            state["invalid"] = state["invalid"] + invalid
