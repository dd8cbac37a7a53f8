"""The fraction of tokens that a language model predicts."""

from __future__ import annotations

from hotloop.metrics.language.token_metric import TokenMetric

__all__ = ["TokenAccuracy"]


class TokenAccuracy(TokenMetric):
    """The fraction of tokens that a language model predicts, in [0, 1].

        sum(w [argmax(z) = t]) / sum(w)

    of tokens t with logits z and weights w. Of equal logits the first one counts.

    Args:
        ignore_index: The target of positions that do not count; None for none.
    """

    higher_is_better = True

    def compute(self) -> float:
        """Return the accuracy.

        Raises:
            EmptyMetricError: If nothing was counted.
        """
        return self._ratio(2)
