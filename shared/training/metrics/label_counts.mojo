"""Counters of labels that are 0 or 1, one for a sample or several."""

from std.math import inf, log

from .class_counts import Counter, Totals, check_length, count_labels
from .labels import (
    Place,
    PredictedClasses,
    ReadBlock,
    Reading,
    Scores,
    TargetClasses,
    read_block,
)


struct LabelCounts(Copyable, Movable):
    """The confusion matrices of labels; a `ClassRatio` gives their values.

    `FBetaRatio().value(counts.totals(0))` is the F1 of one label.
    """

    var labels: Int
    """How many labels each sample has."""
    var ignore_index: Optional[Int]
    """The target of labels that do not count."""
    var counts: List[Int64]
    """For each label: 0 taken for 0, 0 for 1, 1 for 0, 1 for 1."""

    def __init__(
        out self, labels: Int = 1, *, ignore_index: Optional[Int] = None
    ) raises:
        """Starts at zero.

        Args:
            labels: How many labels each sample has, at least 1.
            ignore_index: The target of labels that do not count.

        Raises:
            Error: If there is no label.
        """
        if labels < 1:
            raise Error("labels must be at least 1, got ", labels)
        self.labels = labels
        self.ignore_index = ignore_index
        self.counts = List[Int64](length=4 * labels, fill=0)

    def update[
        preds_dtype: DType, target_dtype: DType
    ](
        mut self,
        preds: Span[mut=False, Scalar[preds_dtype], _],
        target: Span[mut=False, Scalar[target_dtype], _],
    ) raises:
        """Counts predicted labels.

        Parameters:
            preds_dtype: An integer dtype.
            target_dtype: An integer dtype.

        Args:
            preds: The predicted labels, 0 or 1, sample by sample.
            target: The labels.

        Raises:
            Error: If lengths differ, or a label is not allowed. Nothing is
                counted then.
        """
        check_length("preds", len(preds), len(target))
        self._count(
            target,
            Int(preds.unsafe_ptr()),
            read_block[PredictedClasses[preds_dtype]],
            0.5,
            0,
            1,
            "0 or 1",
        )

    def update_scores[
        scores_dtype: DType, target_dtype: DType
    ](
        mut self,
        scores: Span[mut=False, Scalar[scores_dtype], _],
        target: Span[mut=False, Scalar[target_dtype], _],
        *,
        threshold: Float64 = 0.5,
        logits: Bool = False,
    ) raises:
        """Counts scores, which predict 1 above the threshold.

        Parameters:
            scores_dtype: A float dtype.
            target_dtype: An integer dtype.

        Args:
            scores: Probabilities of 1 or logits, sample by sample.
            target: The labels.
            threshold: A probability.
            logits: Whether scores are logits.

        Raises:
            Error: If lengths differ, a label is not allowed, or a score is NaN
                or no probability. Nothing is counted then.
        """
        check_length("scores", len(scores), len(target))
        var read = read_block[Scores[scores_dtype]]
        var address = Int(scores.unsafe_ptr())
        if logits:
            var limit = inf[DType.float64]()
            var odds = log(threshold / (1 - threshold))
            self._count(target, address, read, odds, -limit, limit, "a number")
        else:
            self._count(target, address, read, threshold, 0, 1, "a probability")

    def _count[
        target_dtype: DType
    ](
        mut self,
        target: Span[mut=False, Scalar[target_dtype], _],
        preds: Int,
        read_preds: ReadBlock,
        threshold: Float64,
        low: Float64,
        high: Float64,
        allowed: StaticString,
    ) raises:
        if len(target) % self.labels != 0:
            raise Error(
                "target must have ",
                self.labels,
                " labels for each sample, got ",
                len(target),
            )
        var result = count_labels[Counter.LABELS, DType.int64](
            target=Int(target.unsafe_ptr()),
            read_target=read_block[TargetClasses[target_dtype]],
            preds=preds,
            read_preds=read_preds,
            samples=len(target) // self.labels,
            labels=self.labels,
            reading=Reading(
                classes=2,
                ignore_index=self.ignore_index.or_else(0),
                has_ignored=Bool(self.ignore_index),
                top_k=0,
                threshold=threshold,
                low=low,
                high=high,
            ),
            weights=0,
            counts=Int(self.counts.unsafe_ptr()),
        )
        if result >= 0:
            var index = result // Place.END
            if result % Place.END == Place.PREDS:
                raise Error("preds[", index, "] must be ", allowed)
            raise Error(
                "target[", index, "] is ", target[index], ", must be 0 or 1"
            )

    def totals(self, label: Int) -> Totals:
        """Sums up the 1 of a label.

        Args:
            label: The label.

        Returns:
            Its sums.
        """
        var cells = Array[Float64, 4](fill=0)
        for i in range(4):
            cells[i] = Float64(self.counts[4 * label + i])
        return Totals(
            correct=cells[3],
            predicted=cells[1] + cells[3],
            actual=cells[2] + cells[3],
            samples=cells[0] + cells[1] + cells[2] + cells[3],
        )

    def merge(mut self, other: Self) raises:
        """Counts what other counters have counted.

        Args:
            other: Counters with the same options.

        Raises:
            Error: If they have others. Nothing is counted then.
        """
        if (
            self.labels != other.labels
            or self.ignore_index != other.ignore_index
        ):
            raise Error("only counts with the same options can be merged")
        for i in range(len(self.counts)):
            self.counts[i] += other.counts[i]

    def reset(mut self):
        """Forgets everything counted."""
        for i in range(len(self.counts)):
            self.counts[i] = 0
