"""The perplexity of a language model."""

from __future__ import annotations

import math

from hotloop.metrics.language.token_metric import LikelihoodMetric

__all__ = ["Perplexity"]


class Perplexity(LikelihoodMetric):
    """The perplexity of a language model, in [1, inf].

        exp(sum(w nll) / sum(w))

    of tokens with weights w, where nll is `-log softmax(logits)[target]`. The sums run over all
    tokens of all batches, so that a long batch counts for more than a short one; the perplexity of
    a mean of batches' means would be another number. It is infinite for a mean above 709.78.

    Args:
        ignore_index: The target of positions that do not count; None for none.
    """

    higher_is_better = False

    def compute(self) -> float:
        """Return the perplexity.

        Raises:
            EmptyMetricError: If nothing was counted.
        """
        try:
            return math.exp(self._ratio(0))
        except OverflowError:
            return math.inf
