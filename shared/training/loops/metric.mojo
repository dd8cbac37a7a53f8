"""What is measured on a network's outputs, besides the loss."""

from std.utils.numerics import nan

from ..metrics import ClassFormula, ClassMetric, ErrorFormula, ErrorMetric
from ..models import Dataset


trait Metric(Deinitable, Movable):
    """A number that is computed from outputs, batch by batch."""

    def reads(self) -> Bool:
        """Tells whether outputs are needed.

        Returns:
            True unless it is written.
        """
        return True

    def update[
        dtype: DType
    ](
        mut self,
        outputs: List[Scalar[dtype]],
        data: Dataset[dtype],
        order: Span[Int64, _],
    ) raises:
        """Counts the outputs for some samples.

        Parameters:
            dtype: The dtype of the network.

        Args:
            outputs: What the network said, one sample after the other.
            data: The data.
            order: Which of its samples.

        Raises:
            Error: If the data have no targets that fit.
        """
        ...

    def compute(self) raises -> Float64:
        """Computes the number.

        Returns:
            The value over everything counted.

        Raises:
            Error: If it has none.
        """
        ...

    def reset(mut self):
        """Forgets everything counted."""
        ...


@fieldwise_init
struct NoMetric(Metric):
    """Measures nothing."""

    def reads(self) -> Bool:
        """Tells whether outputs are needed.

        Returns:
            False.
        """
        return False

    def update[
        dtype: DType
    ](
        mut self,
        outputs: List[Scalar[dtype]],
        data: Dataset[dtype],
        order: Span[Int64, _],
    ) raises:
        """Counts nothing.

        Parameters:
            dtype: The dtype of the network.

        Args:
            outputs: Not read.
            data: Not read.
            order: Not read.

        Raises:
            Error: Never.
        """
        pass

    def compute(self) raises -> Float64:
        """Computes nothing.

        Returns:
            NaN.

        Raises:
            Error: Never.
        """
        return nan[DType.float64]()

    def reset(mut self):
        """Forgets nothing."""
        pass


struct OfClasses[Formula: ClassFormula](Metric):
    """A metric of the classes with the highest outputs: `OfClasses(F1["macro"](10))`.

    Parameters:
        Formula: The value as a function of counters.
    """

    var metric: ClassMetric[Self.Formula]
    """The metric."""

    def __init__(out self, var metric: ClassMetric[Self.Formula]):
        """Takes a metric.

        Args:
            metric: The metric.
        """
        self.metric = metric^

    def update[
        dtype: DType
    ](
        mut self,
        outputs: List[Scalar[dtype]],
        data: Dataset[dtype],
        order: Span[Int64, _],
    ) raises:
        """Counts the classes.

        Parameters:
            dtype: The dtype of the network.

        Args:
            outputs: A score for each class, one sample after the other.
            data: The data.
            order: Which of its samples.

        Raises:
            Error: If the data have no classes that fit.
        """
        if len(data.labels) == 0:
            raise Error("the data must have a label for each sample")
        var labels = [data.labels[Int(sample)] for sample in order]
        self.metric.update_scores(outputs, labels)

    def compute(self) raises -> Float64:
        """Computes the metric.

        Returns:
            The value over everything counted.

        Raises:
            Error: If it has none.
        """
        return self.metric.compute()

    def reset(mut self):
        """Forgets everything counted."""
        self.metric.reset()


struct OfValues[Formula: ErrorFormula](Metric):
    """A metric of outputs as numbers: `OfValues(R2Score())`.

    Parameters:
        Formula: The value as a function of what is measured.
    """

    var metric: ErrorMetric[Self.Formula]
    """The metric."""

    def __init__(out self, var metric: ErrorMetric[Self.Formula]):
        """Takes a metric.

        Args:
            metric: The metric.
        """
        self.metric = metric^

    def update[
        dtype: DType
    ](
        mut self,
        outputs: List[Scalar[dtype]],
        data: Dataset[dtype],
        order: Span[Int64, _],
    ) raises:
        """Counts the numbers.

        Parameters:
            dtype: The dtype of the network.

        Args:
            outputs: The numbers, one sample after the other.
            data: The data.
            order: Which of its samples.

        Raises:
            Error: If the data have other numbers of values.
        """
        var features = len(outputs) // len(order)
        if len(data.values) != data.samples * features:
            raise Error(
                "the data must have ",
                features,
                " values for each sample, got ",
                len(data.values),
                " for ",
                data.samples,
            )
        var target = List[Scalar[dtype]]()
        for sample in order:
            var first = Int(sample) * features
            target.extend(Span(data.values)[first : first + features])
        self.metric.update(outputs, target)

    def compute(self) raises -> Float64:
        """Computes the metric.

        Returns:
            The value over everything counted.

        Raises:
            Error: If it has none.
        """
        return self.metric.compute()

    def reset(mut self):
        """Forgets everything counted."""
        self.metric.reset()
