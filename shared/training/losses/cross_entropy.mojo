"""Cross entropy of classes, for programs in Mojo."""

from ..core import Executor, compute_dtype
from ..core.rows import ROW_BLOCKS
from .loss_sum import LossSum
from .row_cross_entropy import (
    RowsOfLogits,
    count_targets,
    row_cross_entropy,
)


struct CrossEntropy(Copyable, Movable):
    """`-log softmax(x)[t]` of each row of logits x and its target t."""

    var weight: List[Float64]
    """A factor for each class; empty for 1."""
    var ignore_index: Int
    """The target of rows that do not count."""
    var label_smoothing: Float64
    """The part of each target that is spread over all classes, in [0, 1]."""
    var z_loss: Float64
    """The factor of the squared log-normaliser, at least 0."""

    def __init__(
        out self,
        *,
        var weight: List[Float64] = [],
        ignore_index: Int = -100,
        label_smoothing: Float64 = 0,
        z_loss: Float64 = 0,
    ):
        """Sets the options; the defaults are those of Python.

        Args:
            weight: A factor for each class; empty for 1.
            ignore_index: The target of rows that do not count.
            label_smoothing: The part of each target that is spread over all
                classes, in [0, 1].
            z_loss: The factor of the squared log-normaliser, at least 0.
        """
        self.weight = weight^
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing
        self.z_loss = z_loss

    def evaluate[
        dtype: DType, Runner: Executor
    ](
        self,
        logits: Span[mut=False, Scalar[dtype], _],
        target: Span[mut=False, Int64, _],
        gradient: Span[mut=True, Scalar[dtype], _],
        executor: Runner,
    ) raises -> LossSum:
        """Computes the sum of the rows' losses and its gradient.

        Parameters:
            dtype: A float dtype.
            Runner: The type of the executor.

        Args:
            logits: The logits, row by row.
            target: The class of each row.
            gradient: Where the gradient goes, as long as the logits; or empty.
            executor: Who runs the rows.

        Returns:
            The sum, and what its mean divides by.

        Raises:
            Error: If a length does not fit, or a target is no class. Nothing is
                written then.
        """
        return self._evaluate(
            logits,
            target,
            Int(gradient.unsafe_ptr()) if len(gradient) > 0 else 0,
            len(gradient),
            executor,
        )

    def overwrite[
        dtype: DType, Runner: Executor
    ](
        self,
        logits: Span[mut=True, Scalar[dtype], _],
        target: Span[mut=False, Int64, _],
        executor: Runner,
    ) raises -> LossSum:
        """Computes the sum of the rows' losses, and puts its gradient over the logits.

        Parameters:
            dtype: A float dtype.
            Runner: The type of the executor.

        Args:
            logits: The logits, row by row.
            target: The class of each row.
            executor: Who runs the rows.

        Returns:
            The sum, and what its mean divides by.

        Raises:
            Error: If a length does not fit, or a target is no class. Nothing is
                written then.
        """
        return self._evaluate(
            logits,
            target,
            Int(logits.unsafe_ptr()),
            len(logits),
            executor,
        )

    def _evaluate[
        dtype: DType, Runner: Executor
    ](
        self,
        logits: Span[Scalar[dtype], _],
        target: Span[Int64, _],
        gradient: Int,
        gradient_size: Int,
        executor: Runner,
    ) raises -> LossSum:
        if not (self.label_smoothing >= 0 and self.label_smoothing <= 1):
            raise Error(
                "label_smoothing must be in [0, 1], got ", self.label_smoothing
            )
        if not self.z_loss >= 0:
            raise Error("z_loss must be at least 0, got ", self.z_loss)
        return evaluate_rows(
            logits,
            target,
            gradient,
            gradient_size,
            executor,
            weights=self.weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            z_loss=self.z_loss,
            gamma=-1,
        )


def evaluate_rows[
    dtype: DType, Runner: Executor
](
    logits: Span[Scalar[dtype], _],
    target: Span[Int64, _],
    gradient: Int,
    gradient_size: Int,
    executor: Runner,
    *,
    weights: List[Float64],
    ignore_index: Int,
    label_smoothing: Float64,
    z_loss: Float64,
    gamma: Float64,
) raises -> LossSum:
    """Checks rows and computes the sum of their losses and its gradient.

    Parameters:
        dtype: A float dtype.
        Runner: The type of the executor.

    Args:
        logits: The logits, row by row.
        target: The class of each row.
        gradient: The address that the gradient goes to; 0 for none.
        gradient_size: How many elements there are.
        executor: Who runs the rows.
        weights: A factor for each class; empty for 1.
        ignore_index: The target of rows that do not count.
        label_smoothing: The part of each target that is spread.
        z_loss: The factor of the squared log-normaliser.
        gamma: The power of focal loss; -1 for cross entropy.

    Returns:
        The sum, and what its mean divides by.

    Raises:
        Error: If a length does not fit, or a target is no class. Nothing is
            written then.
    """
    comptime compute = compute_dtype[dtype]()
    var rows = len(target)
    if rows == 0 and len(logits) == 0:
        return LossSum(0, 0)
    if rows == 0 or len(logits) % rows != 0:
        raise Error(
            "logits must have as many for each target, got ",
            len(logits),
            " for ",
            rows,
        )
    var classes = len(logits) // rows
    if gradient != 0 and gradient_size != len(logits):
        raise Error(
            "gradient must be as long as the logits, ",
            len(logits),
            ", or empty, got ",
            gradient_size,
        )
    if len(weights) != 0 and len(weights) != classes:
        raise Error(
            "weights must be one for each of ",
            classes,
            " classes, or none, got ",
            len(weights),
        )
    var factors: List[Scalar[compute]] = []
    for weight in weights:
        factors.append(weight.cast[compute]())
    var job = RowsOfLogits(
        logits=Int(logits.unsafe_ptr()),
        rows=rows,
        classes=classes,
        stride=classes,
        target=Int(target.unsafe_ptr()),
        ignore_index=ignore_index,
        class_weight=Int(factors.unsafe_ptr()) if len(factors) > 0 else 0,
        row_weight=0,
        smoothing=label_smoothing,
        z_loss=z_loss,
        gamma=gamma,
        scale=1,
        gradient=gradient,
        gradient_stride=classes,
        losses=0,
        predicted=0,
        rank=0,
        nll=0,
        weight_sum=0,
        spread=0,
        totals=Array[Float64, ROW_BLOCKS](fill=0),
    )
    var targets = count_targets[dtype](job)
    if targets.problem < rows:
        raise Error(
            "target[",
            targets.problem,
            "] is ",
            target[targets.problem],
            ", must be in [0, ",
            classes,
            ") or ignore_index=",
            ignore_index,
        )
    var total = row_cross_entropy[dtype](job, executor)
    # The job holds their address alone.
    _ = factors^
    return LossSum(total, targets.count)
