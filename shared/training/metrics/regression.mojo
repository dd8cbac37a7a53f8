"""Metrics of predicted numbers, from sums of errors and their moments."""

from std.math import sqrt
from std.utils.numerics import nan

from .column import BLOCK, Column
from .error_moments import ErrorMoments, Part, measure_errors


trait ErrorFormula:
    """The value of a metric, as a function of what was measured."""

    comptime PARTS: Int
    """What has to be measured, bits of `Part`."""

    @staticmethod
    def value(moments: ErrorMoments) -> Float64:
        """Computes the value.

        Args:
            moments: What was measured, of at least one sample.

        Returns:
            The value.
        """
        ...


struct ErrorMetric[Formula: ErrorFormula](Copyable, Movable):
    """A metric of predicted numbers over batches.

    Any split into batches gives the same value, up to its rounding. NaN is not
    left out.

    Parameters:
        Formula: The value as a function of what was measured.
    """

    var state: ErrorMoments
    """What was measured."""

    def __init__(out self):
        """Starts with nothing counted."""
        self.state = ErrorMoments()

    def update[
        preds_dtype: DType, target_dtype: DType
    ](
        mut self,
        preds: Span[mut=False, Scalar[preds_dtype], _],
        target: Span[mut=False, Scalar[target_dtype], _],
    ) raises:
        """Counts predictions, each sample once.

        Parameters:
            preds_dtype: A float dtype.
            target_dtype: A float dtype.

        Args:
            preds: The predictions.
            target: What they should be.

        Raises:
            Error: If lengths differ. Nothing is counted then.
        """
        self._update(preds, target, Column.none())

    def update[
        preds_dtype: DType, target_dtype: DType
    ](
        mut self,
        preds: Span[mut=False, Scalar[preds_dtype], _],
        target: Span[mut=False, Scalar[target_dtype], _],
        weights: Span[mut=False, Float64, _],
    ) raises:
        """Counts predictions with a weight each.

        Parameters:
            preds_dtype: A float dtype.
            target_dtype: A float dtype.

        Args:
            preds: The predictions.
            target: What they should be.
            weights: Factors of at least 0; samples of weight 0 are left out.

        Raises:
            Error: If lengths differ or a weight is negative or NaN. Nothing is
                counted then.
        """
        if len(weights) != len(preds):
            raise Error(
                "weights must be as many as preds, ",
                len(preds),
                ", got ",
                len(weights),
            )
        for i in range(len(weights)):
            if not weights[i] >= 0:
                raise Error(
                    "weights[", i, "] is ", weights[i], ", must be at least 0"
                )
        self._update(preds, target, Column.of(weights))

    def _update[
        preds_dtype: DType, target_dtype: DType
    ](
        mut self,
        preds: Span[mut=False, Scalar[preds_dtype], _],
        target: Span[mut=False, Scalar[target_dtype], _],
        weights: Column,
    ) raises:
        if len(preds) != len(target):
            raise Error(
                "preds and target must be equally many, got ",
                len(preds),
                " and ",
                len(target),
            )
        for first in range(0, len(preds), BLOCK):
            measure_errors(
                self.state,
                Column.of(preds),
                Column.of(target),
                weights,
                first,
                min(BLOCK, len(preds) - first),
                Self.Formula.PARTS,
            )

    def compute(self) raises -> Float64:
        """Computes the value over everything counted.

        Returns:
            The value.

        Raises:
            Error: If nothing was counted.
        """
        if self.state.weight == 0:
            raise Error("nothing was counted; call update first")
        return Self.Formula.value(self.state)

    def reset(mut self):
        """Forgets everything counted."""
        self = Self()

    def merge(mut self, other: Self):
        """Counts what another has counted, which is left as it is.

        Args:
            other: The other.
        """
        self.state.merge(other.state)


struct SquaredError(ErrorFormula):
    """The mean of squared errors."""

    comptime PARTS = 0
    """No more than is always measured."""

    @staticmethod
    def value(moments: ErrorMoments) -> Float64:
        """Computes the value.

        Args:
            moments: What was measured.

        Returns:
            The value.
        """
        return moments.squared / moments.weight


struct RootSquaredError(ErrorFormula):
    """The root of the mean of squared errors."""

    comptime PARTS = 0
    """No more than is always measured."""

    @staticmethod
    def value(moments: ErrorMoments) -> Float64:
        """Computes the value.

        Args:
            moments: What was measured.

        Returns:
            The value.
        """
        return sqrt(moments.squared / moments.weight)


struct AbsoluteError(ErrorFormula):
    """The mean of sizes of errors."""

    comptime PARTS = 0
    """No more than is always measured."""

    @staticmethod
    def value(moments: ErrorMoments) -> Float64:
        """Computes the value.

        Args:
            moments: What was measured.

        Returns:
            The value.
        """
        return moments.absolute / moments.weight


struct RelativeError(ErrorFormula):
    """The mean of errors relative to their targets."""

    comptime PARTS = Part.RELATIVE
    """Relative errors."""

    @staticmethod
    def value(moments: ErrorMoments) -> Float64:
        """Computes the value.

        Args:
            moments: What was measured.

        Returns:
            The value.
        """
        return moments.relative / moments.weight


struct Determination(ErrorFormula):
    """The coefficient of determination."""

    comptime PARTS = Part.TARGET
    """The moments of the targets."""

    @staticmethod
    def value(moments: ErrorMoments) -> Float64:
        """Computes the value.

        Args:
            moments: What was measured.

        Returns:
            The value; NaN of one sample.
        """
        if moments.count < 2:
            return nan[DType.float64]()
        return explained(moments.squared, moments.target.squares)


struct Explanation(ErrorFormula):
    """The part of the targets' variance that predictions explain."""

    comptime PARTS = Part.TARGET | Part.ERROR
    """The moments of the targets and the errors."""

    @staticmethod
    def value(moments: ErrorMoments) -> Float64:
        """Computes the value.

        Args:
            moments: What was measured.

        Returns:
            The value.
        """
        return explained(moments.error.squares, moments.target.squares)


struct LinearCorrelation(ErrorFormula):
    """The linear correlation of predictions and targets."""

    comptime PARTS = Part.PRODUCT
    """The moments of both and their products."""

    @staticmethod
    def value(moments: ErrorMoments) -> Float64:
        """Computes the value.

        Args:
            moments: What was measured.

        Returns:
            The value; NaN if all predictions or all targets are equal.
        """
        var squares = moments.preds.squares
        if squares == 0 or moments.target.squares == 0:
            return nan[DType.float64]()
        var value = moments.product / (
            sqrt(squares) * sqrt(moments.target.squares)
        )
        if value > 1:
            return 1
        return -1 if value < -1 else value


def explained(left: Float64, total: Float64) -> Float64:
    """Computes the part that is not left over.

    Args:
        left: What is left over.
        total: All of it.

    Returns:
        `1 - left / total`; where that is x / 0, 1 for an x of 0 and else 0.
    """
    if total == 0:
        return 1 if left == 0 else 0
    return 1 - left / total


comptime MeanSquaredError = ErrorMetric[SquaredError]
"""The mean of squared errors."""

comptime RootMeanSquaredError = ErrorMetric[RootSquaredError]
"""The root of the mean of squared errors."""

comptime MeanAbsoluteError = ErrorMetric[AbsoluteError]
"""The mean of sizes of errors."""

comptime MeanAbsolutePercentageError = ErrorMetric[RelativeError]
"""The mean of errors relative to their targets, 1 for 100 %."""

comptime R2Score = ErrorMetric[Determination]
"""The coefficient of determination, `1 - sum((t - p)^2) / sum((t - mean)^2)`."""

comptime ExplainedVariance = ErrorMetric[Explanation]
"""The explained variance, `1 - var(t - p) / var(t)`."""

comptime PearsonCorrCoef = ErrorMetric[LinearCorrelation]
"""Pearson's correlation of predictions and targets."""
