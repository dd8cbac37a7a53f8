"""Counters of classes: one pass over labels, which does not grow with classes.

Nothing is counted unless every value is allowed.
"""

from std.memory import unsafe_stack_allocation

from ..core import Words, pointer_at
from .labels import (
    BLOCK,
    NONE,
    WIDTH,
    Codes,
    Place,
    PredictedClasses,
    ReadBlock,
    Reading,
    ScanBlock,
    TargetClasses,
    first_bad_weight,
    read_block,
    scan_scores,
)


struct Counter:
    """What is counted, and the shape of the counters."""

    comptime SAMPLES = 0
    """(2,): correct samples, and all."""
    comptime CLASSES = 1
    """(3, C): correct, predicted and actual samples of each class."""
    comptime CONFUSION = 2
    """(C, C): samples of each class (row) by predicted class (column)."""
    comptime LABELS = 3
    """(L, 2, 2): the confusion matrix of each label, which is 0 or 1."""


def count_labels[
    counter: Int, dtype: DType
](
    *,
    target: Int,
    read_target: ReadBlock,
    preds: Int,
    read_preds: ReadBlock,
    samples: Int,
    labels: Int,
    reading: Reading,
    weights: Int,
    counts: Int,
) -> Int:
    """Counts samples, if all of them are valid.

    Parameters:
        counter: What is counted, a `Counter`.
        dtype: The dtype of the counters: int64, or float64 for weights.

    Args:
        target: The address of the classes.
        read_target: How they are read.
        preds: The address of the predictions.
        read_preds: How they are read.
        samples: How many samples there are.
        labels: How many labels each sample has; 1 unless `LABELS` are counted.
        reading: What they are compared with.
        weights: The address of a float64 weight for each sample, at least 0; or
            0 for weights of 1.
        counts: The address of the counters, which are added to.

    Returns:
        -1; or, if a value is not allowed, the index of the first times
        `Place.END` plus its `Place`. Nothing is counted then.
    """
    var target_codes = unsafe_stack_allocation[BLOCK, Int64, alignment=64]()
    var codes = unsafe_stack_allocation[BLOCK, Int64, alignment=64]()
    if weights != 0:
        var bad = first_bad_weight(weights, samples)
        if bad >= 0:
            return bad * Place.END + Place.WEIGHT
    var values = samples * labels
    # What fits into a block is counted right after it was read. More is read
    # twice: to see that it is valid, and to count it.
    var sweeps = 1 if values <= BLOCK else 2
    for sweep in range(sweeps):
        for start in range(0, values, BLOCK):
            var count = min(BLOCK, values - start)
            var bad_target = read_target(
                target, start, count, reading, target_codes, target_codes
            )
            if bad_target >= 0:
                count = bad_target
            var bad = read_preds(
                preds, start, count, reading, target_codes, codes
            )
            if bad >= 0:
                return (start + bad) * Place.END + Place.PREDS
            if bad_target >= 0:
                return (start + bad_target) * Place.END + Place.TARGET
            if sweep + 1 == sweeps:
                _count_block[counter, dtype](
                    target_codes,
                    codes,
                    start,
                    count,
                    labels,
                    reading.classes,
                    weights,
                    counts,
                )
    return -1


struct CounterWord:
    """The words of a counter that gets rows of scores."""

    comptime COUNTER = 0
    """What is counted, a `Counter`."""
    comptime IS_WEIGHTED = 1
    """Whether the counters are float64, not int64."""
    comptime TOP_K = 2
    """How many of the highest scores count as predicted; 0 for the first."""
    comptime COUNTS = 3
    """The address of the counters, which are added to."""
    comptime END = 4
    """How many words there are."""


def count_class_scores(
    *,
    target: Int,
    read_target: ReadBlock,
    scores: Int,
    stride: Int,
    scan: ScanBlock,
    samples: Int,
    reading: Reading,
    weights: Int,
    counters: Words,
    counter_count: Int,
) -> Int:
    """Counts rows of scores by several counters, if all of them are valid.

    Args:
        target: The address of the classes.
        read_target: How they are read.
        scores: The address of the first row.
        stride: Elements from row to row.
        scan: How rows are read.
        samples: How many rows, at most `BLOCK`.
        reading: What classes are compared with.
        weights: The address of a float64 weight for each row, at least 0; or 0
            for weights of 1.
        counters: `CounterWord.END` words for each counter.
        counter_count: How many there are.

    Returns:
        -1; or, if a value is not allowed, the index of the first times
        `Place.END` plus its `Place`; a row is at `PREDS` for NaN. Nothing is
        counted then.
    """
    var codes = unsafe_stack_allocation[BLOCK, Int64, alignment=64]()
    var predicted = unsafe_stack_allocation[BLOCK, Int64, alignment=64]()
    var ranks = unsafe_stack_allocation[BLOCK, Int64, alignment=64]()
    var hits = unsafe_stack_allocation[BLOCK, Int64, alignment=64]()
    if weights != 0:
        var bad = first_bad_weight(weights, samples)
        if bad >= 0:
            return bad * Place.END + Place.WEIGHT
    var count = samples
    var bad_target = read_target(target, 0, count, reading, codes, codes)
    if bad_target >= 0:
        count = bad_target
    var bad = scan(
        scores, stride, count, reading.classes, codes, predicted, ranks
    )
    if bad >= 0:
        return bad * Place.END + Place.PREDS
    if bad_target >= 0:
        return bad_target * Place.END + Place.TARGET
    for c in range(counter_count):
        var words = counters.unsafe_offset(c * CounterWord.END)
        var top_k = words[unsafe_offset=CounterWord.TOP_K]
        var chosen = predicted
        if top_k > 0:
            chosen = hits
            for i in range(count):
                var is_hit = ranks[unsafe_offset=i] < top_k
                hits[unsafe_offset=i] = codes[
                    unsafe_offset=i
                ] if is_hit else NONE
        var kind = Int(words[unsafe_offset=CounterWord.COUNTER])
        comptime for counter in range(Counter.LABELS):
            if kind == counter:
                if words[unsafe_offset=CounterWord.IS_WEIGHTED] != 0:
                    _count_block[counter, DType.float64](
                        codes,
                        chosen,
                        0,
                        count,
                        1,
                        reading.classes,
                        weights,
                        Int(words[unsafe_offset=CounterWord.COUNTS]),
                    )
                else:
                    _count_block[counter, DType.int64](
                        codes,
                        chosen,
                        0,
                        count,
                        1,
                        reading.classes,
                        0,
                        Int(words[unsafe_offset=CounterWord.COUNTS]),
                    )
    return -1


@no_inline
def _count_block[
    counter: Int, dtype: DType
](
    target: Codes,
    codes: Codes,
    start: Int,
    count: Int,
    labels: Int,
    classes: Int,
    weights: Int,
    address: Int,
):
    var counts = pointer_at[Scalar[dtype]](address)
    comptime if dtype == DType.int64 and counter == Counter.SAMPLES:
        _count_vectors(target, codes, count, counts.unsafe_bitcast[Int64]())
        return
    var label = start % labels
    var sample = start // labels
    for i in range(count):
        var actual = Int(target[unsafe_offset=i])
        var predicted = Int(codes[unsafe_offset=i])
        var weight: Scalar[dtype] = 1
        comptime if dtype == DType.float64:
            if weights != 0:
                weight = pointer_at[Float64](weights)[
                    unsafe_offset=sample
                ].cast[dtype]()
        if actual >= 0:
            comptime if counter == Counter.SAMPLES:
                if actual == predicted:
                    counts[unsafe_offset=0] += weight
                counts[unsafe_offset=1] += weight
            elif counter == Counter.CLASSES:
                if actual == predicted:
                    counts[unsafe_offset=actual] += weight
                # Ranks beyond the top k predict nothing.
                if predicted >= 0:
                    counts[unsafe_offset=classes + predicted] += weight
                counts[unsafe_offset=2 * classes + actual] += weight
            elif counter == Counter.CONFUSION:
                counts[unsafe_offset=actual * classes + predicted] += weight
            else:
                counts[
                    unsafe_offset=4 * label + 2 * actual + predicted
                ] += weight
        label += 1
        if label == labels:
            label = 0
            sample += 1


@always_inline
def _count_vectors(
    target: Codes,
    codes: Codes,
    count: Int,
    counts: MutPointer[Int64, MutUntrackedOrigin],
):
    comptime Lanes = SIMD[DType.int64, WIDTH]
    var correct = Lanes(0)
    var all = Lanes(0)
    var vectors = count // WIDTH * WIDTH
    for i in range(0, vectors, WIDTH):
        var actual = target.unsafe_load[width=WIDTH](i)
        var counted = actual.ge(0)
        var hit = actual.eq(codes.unsafe_load[width=WIDTH](i)) & counted
        all += counted.cast[DType.int64]()
        correct += hit.cast[DType.int64]()
    counts[unsafe_offset=0] += correct.reduce_add()
    counts[unsafe_offset=1] += all.reduce_add()
    for i in range(vectors, count):
        var actual = target[unsafe_offset=i]
        if actual >= 0:
            counts[unsafe_offset=0] += Int64(actual == codes[unsafe_offset=i])
            counts[unsafe_offset=1] += 1


@fieldwise_init
struct Totals(ImplicitlyCopyable, Movable):
    """Sums of weights for a class."""

    var correct: Float64
    """Samples of the class that were predicted as it."""
    var predicted: Float64
    """Samples that were predicted as the class."""
    var actual: Float64
    """Samples of the class."""
    var samples: Float64
    """All samples."""


struct ClassCounts[counter: Int = Counter.CLASSES, dtype: DType = DType.int64](
    Copyable, Movable
):
    """Counters of samples that have one of some classes.

    Parameters:
        counter: What is counted: `Counter.CLASSES` or `CONFUSION`.
        dtype: The dtype of the counters: int64, or float64 for weights.
    """

    var classes: Int
    """How many classes there are."""
    var ignore_index: Optional[Int]
    """The class of samples that do not count."""
    var top_k: Int
    """A sample is correct if its class is among as many highest scores."""
    var counts: List[Scalar[Self.dtype]]
    """The counters, in the shape of `Counter`."""

    def __init__(
        out self,
        classes: Int,
        *,
        ignore_index: Optional[Int] = None,
        top_k: Int = 1,
    ) raises:
        """Starts at zero.

        Args:
            classes: How many classes there are, at least 1.
            ignore_index: The class of samples that do not count.
            top_k: How many of the highest scores count as predicted; from 1 to
                `classes`.

        Raises:
            Error: If a number is not allowed.
        """
        comptime assert (
            Self.counter == Counter.CLASSES or Self.counter == Counter.CONFUSION
        ), "counter must be CLASSES or CONFUSION"
        comptime assert (
            Self.dtype == DType.int64 or Self.dtype == DType.float64
        ), "dtype must be int64 or float64"
        if classes < 1:
            raise Error("classes must be at least 1, got ", classes)
        if top_k < 1 or top_k > classes:
            raise Error("top_k must be in [1, ", classes, "], got ", top_k)
        self.classes = classes
        self.ignore_index = ignore_index
        self.top_k = top_k
        var rows = 3 if Self.counter == Counter.CLASSES else classes
        self.counts = List[Scalar[Self.dtype]](length=rows * classes, fill=0)

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
        self._update(preds, target, 0)

    def update[
        preds_dtype: DType, target_dtype: DType
    ](
        mut self,
        preds: Span[mut=False, Scalar[preds_dtype], _],
        target: Span[mut=False, Scalar[target_dtype], _],
        weights: Span[mut=False, Float64, _],
    ) raises where (Self.dtype == DType.float64):
        """Counts predicted classes by the weights of samples.

        Parameters:
            preds_dtype: An integer dtype.
            target_dtype: An integer dtype.

        Args:
            preds: The predicted class of each sample.
            target: The class of each sample.
            weights: The weight of each sample, at least 0.

        Raises:
            Error: If lengths differ, or a class or a weight is not allowed.
                Nothing is counted then.
        """
        check_length("weights", len(weights), len(target))
        self._update(preds, target, Int(weights.unsafe_ptr()))

    def _update[
        preds_dtype: DType, target_dtype: DType
    ](
        mut self,
        preds: Span[mut=False, Scalar[preds_dtype], _],
        target: Span[mut=False, Scalar[target_dtype], _],
        weights: Int,
    ) raises:
        check_length("preds", len(preds), len(target))
        if self.top_k > 1:
            raise Error("top_k = ", self.top_k, " needs scores")
        var result = count_labels[Self.counter, Self.dtype](
            target=Int(target.unsafe_ptr()),
            read_target=read_block[TargetClasses[target_dtype]],
            preds=Int(preds.unsafe_ptr()),
            read_preds=read_block[PredictedClasses[preds_dtype]],
            samples=len(target),
            labels=1,
            reading=self._reading(),
            weights=weights,
            counts=Int(self.counts.unsafe_ptr()),
        )
        if result >= 0:
            var index = result // Place.END
            var place = result % Place.END
            if place == Place.PREDS:
                self._refuse("preds", index, Int(preds[index]))
            self._refuse_other(place, index, Int(target[index]))

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
        check_length("scores", len(scores), len(target) * self.classes)
        var words = List[Int64](length=CounterWord.END, fill=0)
        words[CounterWord.COUNTER] = Int64(Self.counter)
        words[CounterWord.IS_WEIGHTED] = Int64(
            1 if Self.dtype == DType.float64 else 0
        )
        words[CounterWord.TOP_K] = Int64(self.top_k if self.top_k > 1 else 0)
        # A copy: nothing counts if a later block is refused.
        var counts = self.counts.copy()
        words[CounterWord.COUNTS] = Int64(Int(counts.unsafe_ptr()))
        for start in range(0, len(target), BLOCK):
            var result = count_class_scores(
                target=Int(target.unsafe_ptr().unsafe_offset(start)),
                read_target=read_block[TargetClasses[target_dtype]],
                scores=Int(
                    scores.unsafe_ptr().unsafe_offset(start * self.classes)
                ),
                stride=self.classes,
                scan=scan_scores[scores_dtype],
                samples=min(BLOCK, len(target) - start),
                reading=self._reading(),
                weights=0,
                counters=Words(unsafe_from_address=Int(words.unsafe_ptr())),
                counter_count=1,
            )
            if result >= 0:
                var index = start + result // Place.END
                var place = result % Place.END
                if place == Place.PREDS:
                    raise Error("row ", index, " of the scores has NaN")
                self._refuse_other(place, index, Int(target[index]))
        _ = words^
        self.counts = counts^

    def totals(self, index: Int) -> Totals:
        """Sums up a class.

        Args:
            index: The class.

        Returns:
            Its sums.
        """
        var totals = Totals(0, 0, 0, self.samples())
        comptime if Self.counter == Counter.CLASSES:
            totals.correct = self._at(index)
            totals.predicted = self._at(self.classes + index)
            totals.actual = self._at(2 * self.classes + index)
        else:
            totals.correct = self._at(index * self.classes + index)
            for i in range(self.classes):
                totals.predicted += self._at(i * self.classes + index)
                totals.actual += self._at(index * self.classes + i)
        return totals

    def samples(self) -> Float64:
        """Sums up all samples.

        Returns:
            The sum of their weights.
        """
        var start = 0
        comptime if Self.counter == Counter.CLASSES:
            start = 2 * self.classes
        var sum = 0.0
        for i in range(start, len(self.counts)):
            sum += self._at(i)
        return sum

    def merge(mut self, other: Self) raises:
        """Counts what other counters have counted.

        Args:
            other: Counters with the same options.

        Raises:
            Error: If they have others. Nothing is counted then.
        """
        if (
            self.classes != other.classes
            or self.ignore_index != other.ignore_index
            or self.top_k != other.top_k
        ):
            raise Error("only counts with the same options can be merged")
        for i in range(len(self.counts)):
            self.counts[i] += other.counts[i]

    def reset(mut self):
        """Forgets everything counted."""
        for i in range(len(self.counts)):
            self.counts[i] = 0

    def _at(self, index: Int) -> Float64:
        return self.counts[index].cast[DType.float64]()

    def _reading(self) -> Reading:
        return Reading(
            classes=self.classes,
            ignore_index=self.ignore_index.or_else(0),
            has_ignored=Bool(self.ignore_index),
            top_k=0,
            threshold=0,
            low=0,
            high=0,
        )

    def _refuse_other(self, place: Int, index: Int, target: Int) raises:
        if place == Place.WEIGHT:
            raise Error("weights[", index, "] must be finite and at least 0")
        self._refuse("target", index, target)

    def _refuse(self, name: StaticString, index: Int, value: Int) raises:
        raise Error(
            name,
            "[",
            index,
            "] is ",
            value,
            ", must be in [0, ",
            self.classes,
            ")",
        )


def check_length(name: StaticString, length: Int, expected: Int) raises:
    """Checks the length of an argument.

    Args:
        name: The argument, for the error.
        length: Its length.
        expected: What it must be.

    Raises:
        Error: If it is another.
    """
    if length != expected:
        raise Error(name, " must have length ", expected, ", got ", length)
