"""Metrics that are computed from counters of classes."""

from .class_counts import ClassCounts, Counter, Totals


trait ClassFormula(Copyable, Defaultable, Deinitable, Movable):
    """The value of a metric, as a function of counters."""

    comptime COUNTER: Int
    """What has to be counted, a `Counter`."""

    def value[
        dtype: DType
    ](self, counts: ClassCounts[Self.COUNTER, dtype]) raises -> Float64:
        """Computes the value.

        Parameters:
            dtype: The dtype of the counters.

        Args:
            counts: Counters that have counted something.

        Returns:
            The value.

        Raises:
            Error: If it has none.
        """
        ...


struct ClassMetric[Formula: ClassFormula, dtype: DType = DType.int64](
    Copyable, Movable
):
    """A metric over batches: any split of them gives the same value.

    Weights go into its `counts`, and other metrics can be computed from those:
    `recall.formula.value(precision.counts)`.

    Parameters:
        Formula: The value as a function of counters.
        dtype: The dtype of the counters: int64, or float64 for weights.
    """

    var formula: Self.Formula
    """The options of the value."""
    var counts: ClassCounts[Self.Formula.COUNTER, Self.dtype]
    """What was counted."""

    def __init__(
        out self,
        classes: Int,
        *,
        ignore_index: Optional[Int] = None,
        top_k: Int = 1,
    ) raises:
        """Starts with nothing counted.

        Args:
            classes: How many classes there are, at least 1.
            ignore_index: The class of samples that do not count.
            top_k: How many of the highest scores count as predicted.

        Raises:
            Error: If a number is not allowed.
        """
        self.formula = Self.Formula()
        self.counts = ClassCounts[Self.Formula.COUNTER, Self.dtype](
            classes, ignore_index=ignore_index, top_k=top_k
        )

    def update[
        preds_dtype: DType, target_dtype: DType
    ](
        mut self,
        preds: Span[mut=False, Scalar[preds_dtype], _],
        target: Span[mut=False, Scalar[target_dtype], _],
    ) raises:
        """Counts predicted classes, each sample once.

        Parameters:
            preds_dtype: An integer dtype.
            target_dtype: An integer dtype.

        Args:
            preds: The predicted class of each sample.
            target: The class of each sample.

        Raises:
            Error: If lengths differ, or a class is not allowed. Nothing is
                counted then.
        """
        self.counts.update(preds, target)

    def update_scores[
        scores_dtype: DType, target_dtype: DType
    ](
        mut self,
        scores: Span[mut=False, Scalar[scores_dtype], _],
        target: Span[mut=False, Scalar[target_dtype], _],
    ) raises:
        """Counts rows of scores, of which the first highest is predicted.

        Parameters:
            scores_dtype: A float dtype.
            target_dtype: An integer dtype.

        Args:
            scores: The scores of each sample, row by row.
            target: The class of each sample.

        Raises:
            Error: If lengths do not fit, a class is not allowed, or a score is
                NaN. Nothing is counted then.
        """
        self.counts.update_scores(scores, target)

    def compute(self) raises -> Float64:
        """Computes the value over everything counted.

        Returns:
            The value.

        Raises:
            Error: If nothing was counted.
        """
        if self.counts.samples() == 0:
            raise Error("the metric has counted nothing; call update first")
        return self.formula.value(self.counts)

    def reset(mut self):
        """Forgets everything counted."""
        self.counts.reset()

    def merge(mut self, other: Self) raises:
        """Counts what another metric has counted.

        Args:
            other: A metric with the same options.

        Raises:
            Error: If it has others. Nothing is counted then.
        """
        self.counts.merge(other.counts)


trait ClassRatio(Copyable, Defaultable, Deinitable, Movable):
    """A ratio of sums of a class; both parts add up over classes."""

    def numerator(self, totals: Totals) -> Float64:
        """Computes the numerator.

        Args:
            totals: The sums of a class.

        Returns:
            The numerator.
        """
        ...

    def denominator(self, totals: Totals) -> Float64:
        """Computes the denominator.

        Args:
            totals: The sums of a class.

        Returns:
            The denominator.
        """
        ...

    def value(self, totals: Totals) -> Float64:
        """Computes the ratio of one class or label.

        Args:
            totals: Its sums.

        Returns:
            The ratio, 0 for 0 / 0.
        """
        var denominator = self.denominator(totals)
        return self.numerator(totals) / denominator if denominator > 0 else 0.0


@fieldwise_init
struct Average[Ratio: ClassRatio, average: StaticString = "macro"](
    ClassFormula
):
    """The average of a ratio over classes, as scikit-learn forms it.

    Parameters:
        Ratio: The ratio.
        average: "micro" divides the sums over all classes, "macro" is the mean
            over the classes that occur in target or predictions, "weighted" the
            mean weighted by the samples of each class.
    """

    comptime COUNTER = Counter.CLASSES
    """Totals of classes are enough."""

    var ratio: Self.Ratio
    """The ratio."""

    def __init__(out self):
        """Makes the ratio with its default options."""
        comptime assert (
            Self.average == "micro"
            or Self.average == "macro"
            or Self.average == "weighted"
        ), "average must be micro, macro or weighted"
        self.ratio = Self.Ratio()

    def value[
        dtype: DType
    ](self, counts: ClassCounts[Self.COUNTER, dtype]) raises -> Float64:
        """Computes the average.

        Parameters:
            dtype: The dtype of the counters.

        Args:
            counts: Counters that have counted something.

        Returns:
            The average.

        Raises:
            Error: Never.
        """
        var numerators = 0.0
        var denominators = 0.0
        for i in range(counts.classes):
            var totals = counts.totals(i)
            comptime if Self.average == "micro":
                numerators += self.ratio.numerator(totals)
                denominators += self.ratio.denominator(totals)
            else:
                var weight = totals.actual
                comptime if Self.average == "macro":
                    var occurs = totals.actual + totals.predicted > 0
                    weight = 1.0 if occurs else 0.0
                numerators += weight * self.ratio.value(totals)
                denominators += weight
        return numerators / denominators if denominators > 0 else 0.0
