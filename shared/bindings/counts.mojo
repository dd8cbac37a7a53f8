"""The extension's functions for counters of classes."""

from std.memory import unsafe_stack_allocation

from shared.training.core import Words
from shared.training.metrics.class_counts import (
    Counter,
    CounterWord,
    count_labels,
    count_class_scores,
)
from shared.training.metrics.labels import (
    PredictedClasses,
    Ranks,
    ReadBlock,
    Reading,
    ScanBlock,
    Scores,
    TargetClasses,
    read_block,
    scan_scores,
)

from .dtypes import Dtype
from .python import (
    Arguments,
    Methods,
    ReleasedGIL,
    has_error,
    new_int,
    raise_error,
)

comptime RELEASE_FROM = 16384
"""Values from which other Python threads may run meanwhile."""

comptime COUNTERS_MAX = 16
"""Counters that get scores in one call, at most."""


@fieldwise_init
struct _Columns(ImplicitlyCopyable, Movable):
    var target: Int
    var read_target: ReadBlock
    var preds: Int
    var read_preds: ReadBlock
    var samples: Int
    var labels: Int
    var reading: Reading
    var weights: Int
    var counts: Int

    def count(self, counter: Int, is_weighted: Bool) -> Int:
        var result: Int
        with ReleasedGIL(self.samples * self.labels >= RELEASE_FROM):
            result = self._count(counter, is_weighted)
        return result

    def _count(self, counter: Int, is_weighted: Bool) -> Int:
        comptime for kind in range(Counter.LABELS + 1):
            if counter == kind:
                if is_weighted:
                    return self._count_as[kind, DType.float64]()
                return self._count_as[kind, DType.int64]()
        return -1

    def _count_as[counter: Int, dtype: DType](self) -> Int:
        return count_labels[counter, dtype](
            target=self.target,
            read_target=self.read_target,
            preds=self.preds,
            read_preds=self.read_preds,
            samples=self.samples,
            labels=self.labels,
            reading=self.reading,
            weights=self.weights,
            counts=self.counts,
        )


def _target_reader(dtype: Int) -> ReadBlock:
    if dtype == Dtype.INT64:
        return read_block[TargetClasses[DType.int64]]
    if dtype == Dtype.INT32:
        return read_block[TargetClasses[DType.int32]]
    if dtype == Dtype.INT16:
        return read_block[TargetClasses[DType.int16]]
    if dtype == Dtype.INT8:
        return read_block[TargetClasses[DType.int8]]
    return read_block[TargetClasses[DType.uint8]]


def _preds_reader(dtype: Int) -> ReadBlock:
    if dtype == Dtype.INT64:
        return read_block[PredictedClasses[DType.int64]]
    if dtype == Dtype.INT32:
        return read_block[PredictedClasses[DType.int32]]
    if dtype == Dtype.INT16:
        return read_block[PredictedClasses[DType.int16]]
    if dtype == Dtype.INT8:
        return read_block[PredictedClasses[DType.int8]]
    if dtype == Dtype.FLOAT32:
        return read_block[Scores[DType.float32]]
    if dtype == Dtype.FLOAT64:
        return read_block[Scores[DType.float64]]
    if dtype == Dtype.BFLOAT16:
        return read_block[Scores[DType.bfloat16]]
    if dtype == Dtype.FLOAT16:
        return read_block[Scores[DType.float16]]
    return read_block[PredictedClasses[DType.uint8]]


def _count_classes(self_: Int, args: Words, count: Int) abi("C") -> Int:
    if count != 13:
        return raise_error(
            "TypeError\0", "count_classes() takes 13 arguments\0"
        )
    var arguments = Arguments(args)
    var counter = arguments.int(0)
    var is_weighted = arguments.int(1) != 0
    var target = arguments.int(2)
    var target_dtype = arguments.int(3)
    var preds = arguments.int(4)
    var preds_dtype = arguments.int(5)
    var samples = arguments.int(6)
    var classes = arguments.int(7)
    var has_ignored = arguments.int(8) != 0
    var ignore_index = arguments.int(9)
    var top_k = arguments.int(10)
    var weights = arguments.int(11)
    var counts = arguments.int(12)
    if has_error():
        return 0
    var read_preds = _preds_reader(preds_dtype)
    if top_k > 0:
        read_preds = read_block[Ranks]
    var columns = _Columns(
        target=target,
        read_target=_target_reader(target_dtype),
        preds=preds,
        read_preds=read_preds,
        samples=samples,
        labels=1,
        reading=Reading(
            classes=classes,
            ignore_index=ignore_index,
            has_ignored=has_ignored,
            top_k=top_k,
            threshold=0,
            low=0,
            high=0,
        ),
        weights=weights,
        counts=counts,
    )
    return new_int(columns.count(counter, is_weighted))


def _count_binary(self_: Int, args: Words, count: Int) abi("C") -> Int:
    if count != 14:
        return raise_error("TypeError\0", "count_binary() takes 14 arguments\0")
    var arguments = Arguments(args)
    var is_weighted = arguments.int(0) != 0
    var target = arguments.int(1)
    var target_dtype = arguments.int(2)
    var preds = arguments.int(3)
    var preds_dtype = arguments.int(4)
    var samples = arguments.int(5)
    var labels = arguments.int(6)
    var has_ignored = arguments.int(7) != 0
    var ignore_index = arguments.int(8)
    var threshold = arguments.number(9)
    var low = arguments.number(10)
    var high = arguments.number(11)
    var weights = arguments.int(12)
    var counts = arguments.int(13)
    if has_error():
        return 0
    var columns = _Columns(
        target=target,
        read_target=_target_reader(target_dtype),
        preds=preds,
        read_preds=_preds_reader(preds_dtype),
        samples=samples,
        labels=labels,
        reading=Reading(
            classes=2,
            ignore_index=ignore_index,
            has_ignored=has_ignored,
            top_k=0,
            threshold=threshold,
            low=low,
            high=high,
        ),
        weights=weights,
        counts=counts,
    )
    return new_int(columns.count(Counter.LABELS, is_weighted))


def _scan(dtype: Int) -> ScanBlock:
    if dtype == Dtype.FLOAT64:
        return scan_scores[DType.float64]
    if dtype == Dtype.BFLOAT16:
        return scan_scores[DType.bfloat16]
    if dtype == Dtype.FLOAT16:
        return scan_scores[DType.float16]
    return scan_scores[DType.float32]


def _count_class_scores(self_: Int, args: Words, count: Int) abi("C") -> Int:
    comptime SHARED = 10
    var words = count - SHARED
    var most = COUNTERS_MAX * CounterWord.END
    if words < 0 or words > most or words % CounterWord.END != 0:
        return raise_error(
            "TypeError\0",
            (
                "count_class_scores() takes 10 arguments and 4 for each"
                " counter\0"
            ),
        )
    var arguments = Arguments(args)
    var target = arguments.int(0)
    var target_dtype = arguments.int(1)
    var scores = arguments.int(2)
    var scores_dtype = arguments.int(3)
    var stride = arguments.int(4)
    var samples = arguments.int(5)
    var classes = arguments.int(6)
    var has_ignored = arguments.int(7) != 0
    var ignore_index = arguments.int(8)
    var weights = arguments.int(9)
    var counters = unsafe_stack_allocation[
        COUNTERS_MAX * CounterWord.END, Int64
    ]()
    for i in range(words):
        counters[unsafe_offset=i] = Int64(arguments.int(SHARED + i))
    if has_error():
        return 0
    return new_int(
        count_class_scores(
            target=target,
            read_target=_target_reader(target_dtype),
            scores=scores,
            stride=stride,
            scan=_scan(scores_dtype),
            samples=samples,
            reading=Reading(
                classes=classes,
                ignore_index=ignore_index,
                has_ignored=has_ignored,
                top_k=0,
                threshold=0,
                low=0,
                high=0,
            ),
            weights=weights,
            counters=counters,
            counter_count=words // CounterWord.END,
        )
    )


def add_count_functions(mut methods: Methods):
    """Adds the functions of this file.

    Args:
        methods: The functions of the module.
    """
    methods.add(
        "count_binary\0",
        _count_binary,
        (
            "count_binary(is_weighted, target, target_dtype, preds,"
            " preds_dtype, samples, labels, has_ignored, ignore_index,"
            " threshold, low, high, weights, counts, /)\n--\n\nAdd samples to"
            " the confusion matrix of each label, unless a value is not"
            " allowed. Return its index * 3 + place, or -1.\0"
        ),
    )
    methods.add(
        "count_classes\0",
        _count_classes,
        (
            "count_classes(counter, is_weighted, target, target_dtype, preds,"
            " preds_dtype, samples, classes, has_ignored, ignore_index, top_k,"
            " weights, counts, /)\n--\n\nAdd samples to counters of classes,"
            " unless a value is not allowed. Return its index * 3 + place, or"
            " -1. With a top_k, preds are the ranks of the target.\0"
        ),
    )
    methods.add(
        "count_class_scores\0",
        _count_class_scores,
        (
            "count_class_scores(target, target_dtype, scores, scores_dtype,"
            " stride, samples, classes, has_ignored, ignore_index, weights,"
            " *counters, /)\n--\n\nAdd at most 1024 rows of scores to counters"
            " of classes, unless a value is not allowed. Return its index * 3 +"
            " place, or -1. A counter is four arguments: its kind, is_weighted,"
            " top_k and counts.\0"
        ),
    )
