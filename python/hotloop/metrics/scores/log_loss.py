"""The mean negative log-likelihood of labels."""

from __future__ import annotations

from types import ModuleType
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from hotloop.metrics.scores.row_mean import RowMean
from hotloop.metrics.scores.score_metric import Arguments
from hotloop.rows import scan_rows

__all__ = ["LogLoss"]


class LogLoss(RowMean):
    """The mean negative log-likelihood of the labels: at least 0.

        sum(-w log p) / sum(w)

    where p is the probability of the label.

    From probabilities the values are those of scikit-learn's `log_loss`: p is clipped to
    [eps, 1 - eps], with the machine epsilon of float64 for float64 and of float32 for other
    dtypes. The probabilities of a row are taken as they are, whatever their sum. From logits z
    nothing is clipped: p is softmax(z) of the label, or sigmoid(z) for label 1.

    Args:
        task: "binary" or "multiclass".
        num_classes: How many classes; None takes it from the scores.
        ignore_index: The label of what is not counted; None counts all.
        logits: Whether scores are logits and not probabilities.

    Raises:
        ValueError: If an option is not allowed.
    """

    unit: ClassVar[str] = "nats"

    def __init__(
        self,
        task: str = "multiclass",
        *,
        num_classes: int | None = None,
        ignore_index: int | None = None,
        logits: bool = False,
    ) -> None:
        super().__init__(task, num_classes, None, ignore_index, logits)
        if logits:
            self._range = (-torch.inf, torch.inf)
            self._has_kernel = False

    def _probabilities(self, logits: Tensor) -> Tensor:
        # The logarithm of a probability is better had from its logits.
        return logits.detach()

    def _kernel_sum(self, kernels: ModuleType, arguments: Arguments, scores: Tensor) -> float:
        return float(kernels.sum_log_losses(*arguments, _eps(scores)))

    def _losses(self, scores: Tensor, labels: Tensor) -> Tensor:
        if self.logits and self._has_classes:
            rows = scan_rows(scores, labels, ignore_index=self.ignore_index, nll=True)
            assert rows.nll is not None
            return rows.nll.double()
        if self.logits:
            return functional.binary_cross_entropy_with_logits(
                scores.double(), (labels == 1).double(), reduction="none"
            )
        if self._has_classes:
            # An ignored label may be no class.
            own = labels.clamp(0, scores.shape[1] - 1).to(torch.int64)
            p = scores.gather(1, own[:, None])[:, 0].double()
        else:
            p = torch.where(labels == 1, scores.double(), 1 - scores.double())
        eps = _eps(scores)
        return -p.clamp(eps, 1 - eps).log()


def _eps(scores: Tensor) -> float:
    return torch.finfo(torch.promote_types(scores.dtype, torch.float32)).eps
