"""Samples and targets, in the memory of a Mojo program."""


struct Dataset[dtype: DType](Copyable, Movable):
    """Samples, and what a model should say to them.

    Parameters:
        dtype: The dtype of the samples.
    """

    var features: List[Scalar[Self.dtype]]
    """The samples, one after the other."""
    var labels: List[Int64]
    """The class of each; empty if they have none."""
    var values: List[Scalar[Self.dtype]]
    """The target numbers of each, one sample after the other; empty if they have none."""
    var samples: Int
    """How many samples there are."""

    def __init__(
        out self,
        var features: List[Scalar[Self.dtype]],
        samples: Int,
        *,
        var labels: List[Int64] = List[Int64](),
        var values: List[Scalar[Self.dtype]] = List[Scalar[Self.dtype]](),
    ) raises:
        """Takes samples.

        Args:
            features: The samples, one after the other.
            samples: How many there are, at least 1.
            labels: The class of each.
            values: The target numbers of each.

        Raises:
            Error: If the lengths do not fit.
        """
        if samples < 1 or len(features) % samples != 0:
            raise Error(
                "features must hold ",
                samples,
                " samples of one size, got ",
                len(features),
                " elements",
            )
        if len(labels) not in (0, samples):
            raise Error(
                "labels must have one class for each of the ",
                samples,
                " samples, got ",
                len(labels),
            )
        if len(values) % samples != 0:
            raise Error(
                "values must hold numbers for ",
                samples,
                " samples, got ",
                len(values),
            )
        self.features = features^
        self.labels = labels^
        self.values = values^
        self.samples = samples

    def inputs(self) -> Int:
        """Counts the features of a sample.

        Returns:
            The number of features.
        """
        return len(self.features) // self.samples
