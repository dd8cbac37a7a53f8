"""An update: the gradient of one batch or more, its norm, the optimizer."""

from std.math import sqrt
from std.utils.numerics import inf, isfinite

from ..core import UpdateRule
from ..core.norm import clip_factor, sum_range
from ..models import Dataset, Layer, Network, Objective, Outcome
from ..optimizers import Optimizer, Parameter


struct TrainingStep[dtype: DType](Movable):
    """Turns the gradients of some batches into one update.

    Parameters:
        dtype: The dtype of the parameters.
    """

    var accumulation: Int
    """How many batches make an update, as if they were one batch."""
    var max_norm: Float64
    """The largest norm of a gradient; larger ones are scaled down to it."""
    var _sums: List[List[Scalar[Self.dtype]]]

    def __init__(
        out self,
        *,
        accumulation: Int = 1,
        max_norm: Float64 = inf[DType.float64](),
    ) raises:
        """Sets the options.

        Args:
            accumulation: How many batches make an update, at least 1.
            max_norm: The largest norm of a gradient, above 0; infinite for any.

        Raises:
            Error: If a number is out of its range.
        """
        if accumulation < 1:
            raise Error("accumulation must be at least 1, got ", accumulation)
        if not max_norm > 0:
            raise Error("max_norm must be above 0, got ", max_norm)
        self.accumulation = accumulation
        self.max_norm = max_norm
        self._sums = []

    def add[
        Model: Layer, Loss: Objective
    ](
        mut self,
        mut network: Network[Model],
        data: Dataset[Model.dtype],
        order: Span[Int64, _],
        loss: Loss,
        *,
        batch: Int,
        is_first: Bool,
        weight: Float64,
    ) raises -> Outcome:
        """Computes the gradient of a batch, and adds it to those before it.

        Parameters:
            Model: The type of the model.
            Loss: The type of the loss.

        Args:
            network: The network.
            data: The data.
            order: Which of its samples.
            loss: The loss.
            batch: How many batches came before, which random masks depend on.
            is_first: Whether it is the first of its update.
            weight: Its part of the samples of the update.

        Returns:
            The sums over the samples.

        Raises:
            Error: If the data do not fit, or the loss is not finite.
        """
        comptime assert Model.dtype == Self.dtype
        var outcome = network.gradient(data, order, loss, batch)
        if not isfinite(outcome.loss):
            raise Error("the loss is ", outcome.loss)
        if is_first:
            self._sums = []
        if is_first and weight == 1:
            return outcome
        var factor = weight.cast[Self.dtype]()
        for i in range(len(network.parameters)):
            ref grad = rebind[List[Scalar[Self.dtype]]](
                network.parameters[i].grad
            )
            if is_first:
                self._sums.append(
                    List[Scalar[Self.dtype]](length=len(grad), fill=0)
                )
            for j in range(len(grad)):
                self._sums[i][j] += factor * grad[j]
        return outcome

    def apply[
        Rule: UpdateRule
    ](
        mut self,
        mut parameters: List[Parameter[Self.dtype]],
        mut optimizer: Optimizer[Rule, Self.dtype],
    ) raises:
        """Updates the parameters by what was added.

        Parameters:
            Rule: The optimizer's rule.

        Args:
            parameters: The parameters, with the gradient of the last batch.
            optimizer: The optimizer.

        Raises:
            Error: If the gradient is not finite; nothing is updated then.
        """
        for i in range(len(self._sums)):
            for j in range(len(self._sums[i])):
                parameters[i].grad[j] = self._sums[i][j]
        self._sums = []
        var norm = gradient_norm(parameters)
        if not isfinite(norm):
            raise Error("the norm of the gradient is ", norm)
        var factor = clip_factor(norm, self.max_norm)
        if factor < 1:
            for i in range(len(parameters)):
                ref grad = parameters[i].grad
                for j in range(len(grad)):
                    grad[j] *= factor.cast[Self.dtype]()
        optimizer.step(parameters)


def gradient_norm[dtype: DType](parameters: List[Parameter[dtype]]) -> Float64:
    """Computes the Euclidean norm of all gradients together.

    Parameters:
        dtype: The dtype of the parameters.

    Args:
        parameters: The parameters.

    Returns:
        The norm, in float64; not finite if an element is not, or if a square is
        beyond float64.
    """
    var sum = Float64(0)
    for i in range(len(parameters)):
        ref grad = parameters[i].grad
        sum += sum_range[dtype](Int(grad.unsafe_ptr()), 0, len(grad), len(grad))
    return sqrt(sum)
