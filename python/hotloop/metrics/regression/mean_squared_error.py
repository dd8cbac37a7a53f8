"""The mean of squared errors."""

from __future__ import annotations

from torch import Tensor

from hotloop.metrics.regression.regression_metric import ErrorMetric, ErrorSums

__all__ = ["MeanSquaredError"]


class MeanSquaredError(ErrorMetric):
    """The mean of squared errors, or its root; in [0, inf).

        MSE = sum(w (p - t)^2) / sum(w)
        RMSE = sqrt(MSE)

    of predictions p and targets t with weights w.

    Args:
        squared: Whether the root is not taken.
        num_outputs: How many numbers are predicted for each sample. With one, predictions and
            targets may have any shape (N, ...), and all their elements count.
        multioutput: How the values of the outputs make one: "uniform_average" for their mean, or
            "raw_values" to return a tensor of all. The root is taken of each output.

    Raises:
        ValueError: If `num_outputs` is not a positive int or `multioutput` is unknown.
    """

    higher_is_better = False
    _is_elementwise = True

    def __init__(
        self,
        squared: bool = True,
        num_outputs: int = 1,
        multioutput: str = "uniform_average",
    ) -> None:
        self.squared = squared
        super().__init__(num_outputs, multioutput)

    def _values(self, sums: ErrorSums) -> Tensor:
        values = sums.squared / sums.weight
        return values if self.squared else values.sqrt()
