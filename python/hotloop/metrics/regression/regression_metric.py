"""Base of the metrics of predicted numbers, and what they count."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from hotloop import backend, layout
from hotloop.argument import check_count
from hotloop.errors import unknown_name
from hotloop.metrics.aggregation import moments
from hotloop.metrics.aggregation.aggregator import FLOATS, check_weights
from hotloop.metrics.metric import Metric, State

__all__ = ["ERROR", "PRODUCT", "RELATIVE", "TARGET", "ErrorMetric", "ErrorSums", "RegressionMetric"]

#: What is counted beside squared and absolute errors, as bits: `Part` in
#: shared/training/metrics/error_moments.mojo.
RELATIVE, TARGET, ERROR, PRODUCT = 1, 2, 4, 8

#: The least size of a target that an error is divided by: scikit-learn's.
EPSILON = torch.finfo(torch.float64).eps

# Where each number of an output lies: `ErrorMoments` in the same file.
_COUNT, _WEIGHT, _SQUARED, _ABSOLUTE, _RELATIVE, _PRODUCT, _END = 0, 1, 2, 3, 4, 14, 15
#: Mean, its rest and squared deviations, of targets, predictions and errors.
_MOMENTS = slice(5, 14)
_TARGET_SQUARES, _PREDS_SQUARES, _ERROR_SQUARES = 7, 10, 13


class ErrorSums:
    """What regression metrics have counted, on the CPU: a tensor of float64 for each name.

    Attributes:
        count: The number of samples, those of weight 0 included.
        weight: The sum of their weights.
        squared: The sum of weighted squared errors, a prediction minus its target.
        absolute: The sum of their weighted sizes.
        relative: The same, each divided by the size of its target, or by 2^-52 if that is less.
        target_squares: The sum of weighted squared deviations of the targets from their mean.
        preds_squares: That of the predictions.
        error_squares: That of the errors.
        product: The sum of weighted products of the deviations of target and prediction.
    """

    def __init__(self, state: Tensor) -> None:
        columns = state.cpu().unbind(1)
        self.count, self.weight = columns[_COUNT], columns[_WEIGHT]
        self.squared, self.absolute = columns[_SQUARED], columns[_ABSOLUTE]
        self.relative = columns[_RELATIVE]
        self.target_squares = columns[_TARGET_SQUARES]
        self.preds_squares = columns[_PREDS_SQUARES]
        self.error_squares = columns[_ERROR_SQUARES]
        self.product = columns[_PRODUCT]


class RegressionMetric(Metric):
    """A metric of predicted numbers and targets, of one output or several.

    Args:
        num_outputs: How many numbers are predicted for each sample.
        multioutput: How the values of the outputs make one: "uniform_average" for their mean, or
            "raw_values" to return a tensor of all; some metrics have more.

    Raises:
        ValueError: If `num_outputs` is not a positive int or `multioutput` is unknown.
    """

    #: Whether elements of any shape are samples of one output.
    _is_elementwise: ClassVar[bool] = False
    _averages: ClassVar[tuple[str, ...]] = ("raw_values", "uniform_average")

    def __init__(self, num_outputs: int = 1, multioutput: str = "uniform_average") -> None:
        check_count("num_outputs", num_outputs)
        if multioutput not in self._averages:
            raise ValueError(unknown_name("multioutput", multioutput, self._averages))
        self.num_outputs = num_outputs
        self.multioutput = multioutput
        super().__init__()

    def _fits(self, preds: Tensor, target: Tensor) -> bool:
        shape = preds.shape
        if shape != target.shape:
            return False
        if self.num_outputs == 1 and len(shape) == 1:
            return True
        return len(shape) == 2 and shape[1] == self.num_outputs

    def _shaped(self, preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return what does not fit as vectors if elements of any shape may, or raise."""
        if preds.shape == target.shape and self._is_elementwise and self.num_outputs == 1:
            return preds.reshape(-1), target.reshape(-1)
        if self.num_outputs > 1:
            allowed = f"both have shape (N, {self.num_outputs})"
        elif self._is_elementwise:
            allowed = "have the same shape"
        else:
            allowed = "both have shape (N,) or (N, 1); set num_outputs for more"
        raise ValueError(
            f"preds and target must {allowed}, got {tuple(preds.shape)} and {tuple(target.shape)}"
        )


class ErrorMetric(RegressionMetric):
    """A metric of sums of errors, or of the squared deviations of targets and predictions.

    All metrics of this kind count the same numbers in one pass. Means and squared deviations
    merge like those of `RunningMoments`. NaN is not left out: the value of a metric that has
    counted one is NaN. Samples of weight 0 are left out whatever they are. On a CUDA device
    nothing waits for it before `compute`.
    """

    #: What is counted beside the sums of errors.
    _parts: ClassVar[int] = 0

    def _initial(self) -> State:
        return {"errors": torch.zeros((self.num_outputs, _END), dtype=torch.float64)}

    def update(self, preds: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Count one batch.

        Args:
            preds: Predictions, shape (N,) or (N, 1), or (N, num_outputs), any real dtype.
            target: What they should be, of the same shape.
            weight: A factor of at least 0 for each sample, shape (N,); 1 by default.

        Raises:
            ValueError: If the shapes do not fit or, on the CPU, a weight is negative or not
                finite. Nothing is counted then.
        """
        weights = None if weight is None else _checked_weights(weight, preds)
        if not self._fits(preds, target):
            preds, target = self._shaped(preds, target)
            if weights is not None and len(weights):
                weights = weights.repeat_interleave(len(preds) // len(weights))
        preds, target = preds.detach(), target.detach()
        kernels = backend.kernels_for(preds, target)
        state = self._state["errors"]
        outputs = self.num_outputs
        if kernels is None or not state.is_cpu:
            self._add(_measure(preds, target, weights, outputs, self._parts))
            return
        preds_dtype, target_dtype = FLOATS.get(preds.dtype), FLOATS.get(target.dtype)
        if preds_dtype is None:
            preds, preds_dtype = preds.to(torch.float64), layout.Dtype.FLOAT64
        if target_dtype is None:
            target, target_dtype = target.to(torch.float64), layout.Dtype.FLOAT64
        if preds.is_contiguous() and target.is_contiguous():
            row, step, target_row, target_step = outputs, 1, outputs, 1
        else:
            row, target_row = preds.stride(0), target.stride(0)
            step, target_step = preds.stride(-1), target.stride(-1)
        kernels.measure_errors(
            state.data_ptr(),
            outputs,
            len(preds),
            self._parts,
            preds.data_ptr(),
            preds_dtype,
            row,
            step,
            target.data_ptr(),
            target_dtype,
            target_row,
            target_step,
            0 if weights is None else weights.data_ptr(),
        )

    def compute(self) -> float | Tensor:
        """Return the value, or those of all outputs as a tensor of float64.

        Raises:
            EmptyMetricError: If nothing was counted.
        """
        sums = ErrorSums(self._state["errors"])
        if sums.weight[0] == 0:
            raise self._empty()
        values = self._values(sums)
        return values if self.multioutput == "raw_values" else self._average(values, sums)

    @abstractmethod
    def _values(self, sums: ErrorSums) -> Tensor:
        """Return the value of each output."""

    def _average(self, values: Tensor, sums: ErrorSums) -> float:
        return float(values.mean())

    def _combine(self, other: State) -> None:
        self._add(other["errors"])

    def _add(self, other: Tensor) -> None:
        """Count the state of a metric like this one."""
        state = self._state["errors"].to(other.device)
        sums = state[:, : _MOMENTS.start] + other[:, : _MOMENTS.start]
        if self._parts <= RELATIVE:
            self._state["errors"] = torch.cat((sums, state[:, _MOMENTS.start :]), 1)
            return
        weight, other_weight = state[:, _WEIGHT, None], other[:, _WEIGHT, None]
        parts, other_parts = (each[:, _MOMENTS].reshape(-1, 3, 3) for each in (state, other))
        merged = moments.merge(parts, other_parts, weight, other_weight).flatten(1)
        steps = moments.distance(parts, other_parts)
        total = weight + other_weight
        share = torch.where(total == 0, 0.0, weight * other_weight / total)
        product = state[:, _PRODUCT:] + other[:, _PRODUCT:]
        product = product + share * steps[:, :1] * steps[:, 1:2]
        self._state["errors"] = torch.cat((sums, merged, product), 1)


def _checked_weights(weight: Tensor, preds: Tensor) -> Tensor:
    """Return a weight for each sample, or for each element of samples of any shape."""
    samples = len(preds) if preds.ndim else 1
    if weight.shape != (samples,):
        raise ValueError(
            f"weight must have shape ({samples},), one for each sample, got {tuple(weight.shape)}"
        )
    weights = weight.detach().to(preds.device, torch.float64)
    if weights.is_cpu:
        check_weights(weights)
    return weights.contiguous()


def _measure(
    preds: Tensor, target: Tensor, weights: Tensor | None, outputs: int, parts: int
) -> Tensor:
    """Return the state of a metric that has counted samples, by torch's operators."""
    preds = preds.to(torch.float64).reshape(-1, outputs).T
    target = target.to(torch.float64).reshape(-1, outputs).T
    count = preds.size(1)
    if count == 0:
        return preds.new_zeros((outputs, _END))
    w = preds.new_ones(count) if weights is None else weights
    if weights is not None:
        # What has a weight of 0 may be NaN.
        preds, target = torch.where(w == 0, 0.0, preds), torch.where(w == 0, 0.0, target)
    error = preds - target
    size = error.abs()
    weighted = size if weights is None else w * size
    total = w.sum()
    zeros = preds.new_zeros((outputs, 1))
    relative, measured, product = zeros, zeros.expand(-1, 9), zeros
    if parts & RELATIVE:
        relative = (weighted / target.abs().clamp_min(EPSILON)).sum(1, keepdim=True)
    if parts > RELATIVE:
        found, deviations, rests = moments.measure(torch.cat((target, preds, error)), w, total)
        measured = found.view(3, outputs, 3).transpose(0, 1).flatten(1)
        product = w * deviations[:outputs] * deviations[outputs : 2 * outputs]
        product = product.sum(1, keepdim=True)
        product = product - rests[:outputs] * rests[outputs : 2 * outputs] / total
    columns = (
        zeros + count,
        zeros + total,
        (weighted * size).sum(1, keepdim=True),
        weighted.sum(1, keepdim=True),
        relative,
        measured,
        product,
    )
    state = torch.cat(columns, 1)
    if weights is not None:
        # Without any weight there is no mean.
        state[:, 1:] = torch.where(total == 0, 0.0, state[:, 1:])
    return state
