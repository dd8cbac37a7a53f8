"""The extension's functions for scores: curves over thresholds, calibration."""

from shared.training.core import Words, words_at
from shared.training.metrics.brier_score import sum_brier_scores
from shared.training.metrics.calibration_error import count_confidences
from shared.training.metrics.log_loss import sum_log_losses
from shared.training.metrics.ranking import (
    area_under_roc,
    average_precision,
    count_at_thresholds,
    rank_scores,
)
from shared.training.metrics.score_bins import bin_scores
from shared.training.metrics.scores import Blocks, ScoreBatch, read_block

from .dtypes import Dtype
from .python import (
    Arguments,
    Methods,
    ReleasedGIL,
    has_error,
    new_int,
    new_number,
    raise_error,
)

comptime _LONG = 16384
"""Numbers from which on other threads run meanwhile."""


def _score_blocks[wide: DType](address: Int, stride: Int, dtype: Int) -> Blocks:
    comptime if wide == DType.float64:
        # float64 scores alone are compared in float64, but for lists.
        if dtype == Dtype.FLOAT64:
            return Blocks(address, stride, read_block[DType.float64, wide])
    if dtype == Dtype.BFLOAT16:
        return Blocks(address, stride, read_block[DType.bfloat16, wide])
    if dtype == Dtype.FLOAT16:
        return Blocks(address, stride, read_block[DType.float16, wide])
    return Blocks(address, stride, read_block[DType.float32, wide])


def _label_blocks(address: Int, stride: Int, dtype: Int) -> Blocks:
    if dtype == Dtype.INT64:
        return Blocks(address, stride, read_block[DType.int64, DType.int64])
    if dtype == Dtype.INT32:
        return Blocks(address, stride, read_block[DType.int32, DType.int64])
    if dtype == Dtype.INT16:
        return Blocks(address, stride, read_block[DType.int16, DType.int64])
    if dtype == Dtype.INT8:
        return Blocks(address, stride, read_block[DType.int8, DType.int64])
    return Blocks(address, stride, read_block[DType.uint8, DType.int64])


@fieldwise_init
struct _Input(ImplicitlyCopyable, Movable):
    """The first arguments of all functions of batches."""

    comptime COUNT = 8

    var scores: Int
    var dtype: Int
    var labels: Int
    var label_dtype: Int
    var rows: Int
    var classes: Int
    var has_classes: Bool
    var ignore: Int

    def __init__(out self, arguments: Arguments):
        self.scores = arguments.int(0)
        self.dtype = arguments.int(1)
        self.labels = arguments.int(2)
        self.label_dtype = arguments.int(3)
        self.rows = arguments.int(4)
        self.classes = arguments.int(5)
        self.has_classes = arguments.int(6) != 0
        self.ignore = arguments.int(7)

    def is_long(self) -> Bool:
        return self.rows * self.classes > _LONG

    def batch[wide: DType](self) -> ScoreBatch:
        return ScoreBatch(
            _score_blocks[wide](self.scores, 1, self.dtype),
            _label_blocks(self.labels, 1, self.label_dtype),
            self.rows,
            self.classes,
            self.has_classes,
            self.ignore,
        )


def _find_problem(input: _Input, low: Float64, high: Float64) -> Int:
    if input.dtype == Dtype.FLOAT64:
        return input.batch[DType.float64]().find_problem[DType.float64](
            low, high
        )
    return input.batch[DType.float32]().find_problem[DType.float32](low, high)


def _check_scores(self_: Int, args: Words, count: Int) abi("C") -> Int:
    if count != _Input.COUNT + 2:
        return raise_error("TypeError\0", "check_scores() takes 10 arguments\0")
    var arguments = Arguments(args)
    var input = _Input(arguments)
    var low = arguments.number(8)
    var high = arguments.number(9)
    if has_error():
        return 0
    var problem: Int
    with ReleasedGIL(input.is_long()):
        problem = _find_problem(input, low, high)
    return new_int(problem)


def _count[
    dtype: DType
](
    input: _Input, thresholds: Int, size: Int, is_uniform: Bool, counts: Words
) -> Int:
    var batch = input.batch[dtype]()
    var low = Float64(0) if is_uniform else Float64.MIN
    var high = Float64(1) if is_uniform else Float64.MAX
    var problem = batch.find_problem[dtype](low, high)
    if problem != 0:
        return problem
    if is_uniform:
        bin_scores[dtype, True](batch, thresholds, size, counts)
    else:
        bin_scores[dtype, False](batch, thresholds, size, counts)
    return 0


def _bin_scores(self_: Int, args: Words, count: Int) abi("C") -> Int:
    if count != _Input.COUNT + 5:
        return raise_error("TypeError\0", "bin_scores() takes 13 arguments\0")
    var arguments = Arguments(args)
    var input = _Input(arguments)
    var thresholds = arguments.int(8)
    var is_wide = arguments.int(9) != 0
    var size = arguments.int(10)
    var is_uniform = arguments.int(11) != 0
    var counts = arguments.int(12)
    if has_error():
        return 0
    var problem: Int
    with ReleasedGIL(input.is_long()):
        if is_wide:
            problem = _count[DType.float64](
                input, thresholds, size, is_uniform, words_at(counts)
            )
        else:
            problem = _count[DType.float32](
                input, thresholds, size, is_uniform, words_at(counts)
            )
    return new_int(problem)


def _rank_scores(self_: Int, args: Words, count: Int) abi("C") -> Int:
    if count != 11:
        return raise_error("TypeError\0", "rank_scores() takes 11 arguments\0")
    var arguments = Arguments(args)
    var address = arguments.int(0)
    var dtype = arguments.int(1)
    var stride = arguments.int(2)
    var label_address = arguments.int(3)
    var label_dtype = arguments.int(4)
    var label_stride = arguments.int(5)
    var length = arguments.int(6)
    var positive = arguments.int(7)
    var ignore = arguments.int(8)
    var keys = arguments.int(9)
    var ranking = arguments.int(10)
    if has_error():
        return 0
    with ReleasedGIL():
        var labels = _label_blocks(label_address, label_stride, label_dtype)
        if dtype == Dtype.FLOAT64:
            rank_scores[DType.float64](
                _score_blocks[DType.float64](address, stride, dtype),
                labels,
                length,
                positive,
                ignore,
                keys,
                words_at(ranking),
            )
        else:
            rank_scores[DType.float32](
                _score_blocks[DType.float32](address, stride, dtype),
                labels,
                length,
                positive,
                ignore,
                keys,
                words_at(ranking),
            )
    return new_int(0)


def _area_under_roc(self_: Int, args: Words, count: Int) abi("C") -> Int:
    if count != 2:
        return raise_error(
            "TypeError\0", "area_under_roc() takes 2 arguments\0"
        )
    var arguments = Arguments(args)
    var ranking = arguments.int(0)
    var dtype = arguments.int(1)
    if has_error():
        return 0
    var area: Float64
    with ReleasedGIL():
        if dtype == Dtype.FLOAT64:
            area = area_under_roc[DType.float64](words_at(ranking))
        else:
            area = area_under_roc[DType.float32](words_at(ranking))
    return new_number(area)


def _average_precision(self_: Int, args: Words, count: Int) abi("C") -> Int:
    if count != 2:
        return raise_error(
            "TypeError\0", "average_precision() takes 2 arguments\0"
        )
    var arguments = Arguments(args)
    var ranking = arguments.int(0)
    var dtype = arguments.int(1)
    if has_error():
        return 0
    var area: Float64
    with ReleasedGIL():
        if dtype == Dtype.FLOAT64:
            area = average_precision[DType.float64](words_at(ranking))
        else:
            area = average_precision[DType.float32](words_at(ranking))
    return new_number(area)


def _count_at_thresholds(self_: Int, args: Words, count: Int) abi("C") -> Int:
    if count != 5:
        return raise_error(
            "TypeError\0", "count_at_thresholds() takes 5 arguments\0"
        )
    var arguments = Arguments(args)
    var ranking = arguments.int(0)
    var dtype = arguments.int(1)
    var thresholds = arguments.int(2)
    var positives = arguments.int(3)
    var negatives = arguments.int(4)
    if has_error():
        return 0
    var points: Int
    with ReleasedGIL():
        if dtype == Dtype.FLOAT64:
            points = count_at_thresholds[DType.float64](
                words_at(ranking),
                thresholds,
                words_at(positives),
                words_at(negatives),
            )
        else:
            points = count_at_thresholds[DType.float32](
                words_at(ranking),
                thresholds,
                words_at(positives),
                words_at(negatives),
            )
    return new_int(points)


def _sum_log_losses(self_: Int, args: Words, count: Int) abi("C") -> Int:
    if count != _Input.COUNT + 1:
        return raise_error(
            "TypeError\0", "sum_log_losses() takes 9 arguments\0"
        )
    var arguments = Arguments(args)
    var input = _Input(arguments)
    var eps = arguments.number(8)
    if has_error():
        return 0
    var total: Float64
    with ReleasedGIL(input.is_long()):
        total = sum_log_losses(input.batch[DType.float64](), eps)
    return new_number(total)


def _sum_brier_scores(self_: Int, args: Words, count: Int) abi("C") -> Int:
    if count != _Input.COUNT:
        return raise_error(
            "TypeError\0", "sum_brier_scores() takes 8 arguments\0"
        )
    var arguments = Arguments(args)
    var input = _Input(arguments)
    if has_error():
        return 0
    var total: Float64
    with ReleasedGIL(input.is_long()):
        total = sum_brier_scores(input.batch[DType.float64]())
    return new_number(total)


def _count_confidences(self_: Int, args: Words, count: Int) abi("C") -> Int:
    if count != _Input.COUNT + 4:
        return raise_error(
            "TypeError\0", "count_confidences() takes 12 arguments\0"
        )
    var arguments = Arguments(args)
    var input = _Input(arguments)
    var edges = arguments.int(8)
    var bins = arguments.int(9)
    var counts = arguments.int(10)
    var sums = arguments.int(11)
    if has_error():
        return 0
    with ReleasedGIL(input.is_long()):
        count_confidences(
            input.batch[DType.float64](), edges, bins, words_at(counts), sums
        )
    return new_int(0)


def add_curve_functions(mut methods: Methods):
    """Adds the functions of this file.

    Args:
        methods: The functions of the module.
    """
    methods.add(
        "area_under_roc\0",
        _area_under_roc,
        (
            "area_under_roc(ranking, dtype, /)\n--\n\nReturn the area under the"
            " ROC curve of ranked scores, or NaN without two classes.\0"
        ),
    )
    methods.add(
        "average_precision\0",
        _average_precision,
        (
            "average_precision(ranking, dtype, /)\n--\n\nReturn the average"
            " precision of ranked scores, or 0 without positives.\0"
        ),
    )
    methods.add(
        "check_scores\0",
        _check_scores,
        (
            "check_scores(scores, dtype, labels, label_dtype, rows, classes,"
            " has_classes, ignore, low, high, /)\n--\n\nReturn 0, or 1 + the"
            " index of the first score that is out of range or NaN, or -1 -"
            " that of the first label that names no class.\0"
        ),
    )
    methods.add(
        "count_at_thresholds\0",
        _count_at_thresholds,
        (
            "count_at_thresholds(ranking, dtype, thresholds, positives,"
            " negatives, /)\n--\n\nWrite the distinct of ranked scores and the"
            " counts at and above each, and return how many there are.\0"
        ),
    )
    methods.add(
        "count_confidences\0",
        _count_confidences,
        (
            "count_confidences(scores, dtype, labels, label_dtype, rows,"
            " classes, has_classes, ignore, edges, bins, counts, sums,"
            " /)\n--\n\nAdd the confidence of rows, and whether they are right,"
            " to bins.\0"
        ),
    )
    methods.add(
        "bin_scores\0",
        _bin_scores,
        (
            "bin_scores(scores, dtype, labels, label_dtype, rows, classes,"
            " has_classes, ignore, thresholds, is_wide, size, is_uniform,"
            " counts, /)\n--\n\nAdd scores to the bins between thresholds of"
            " float64 or float32, if `check_scores` finds nothing; return what"
            " it returns.\0"
        ),
    )
    methods.add(
        "rank_scores\0",
        _rank_scores,
        (
            "rank_scores(scores, dtype, stride, labels, label_dtype,"
            " label_stride, count, positive, ignore, keys, ranking,"
            " /)\n--\n\nSort scores and labels as keys and write where they"
            " are.\0"
        ),
    )
    methods.add(
        "sum_brier_scores\0",
        _sum_brier_scores,
        (
            "sum_brier_scores(scores, dtype, labels, label_dtype, rows,"
            " classes, has_classes, ignore, /)\n--\n\nReturn the sum of squared"
            " errors of probabilities.\0"
        ),
    )
    methods.add(
        "sum_log_losses\0",
        _sum_log_losses,
        (
            "sum_log_losses(scores, dtype, labels, label_dtype, rows, classes,"
            " has_classes, ignore, eps, /)\n--\n\nReturn the sum of the"
            " negative log-likelihoods of labels.\0"
        ),
    )
