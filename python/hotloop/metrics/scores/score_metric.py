"""Base of the metrics of scores and probabilities."""

from __future__ import annotations

from abc import abstractmethod
from types import ModuleType
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from hotloop import backend
from hotloop.argument import check_count
from hotloop.backend import DTYPES
from hotloop.layout import Dtype
from hotloop.metrics.metric import Metric

__all__ = ["Arguments", "ScoreMetric", "check_choice"]

#: What kernels read of a batch: addresses and dtypes of scores and labels, rows, classes, whether
#: there is a label for each row and not for each score, and the label to ignore.
Arguments: TypeAlias = "tuple[int, int, int, int, int, int, bool, int]"

#: `NONE_IGNORED` in Mojo.
_NONE_IGNORED = -(2**63)
_WIDER = (torch.uint16, torch.uint32, torch.uint64)


def check_choice(name: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Raise ValueError if a value is not among the allowed ones.

    Args:
        name: The argument, for the error.
        value: Its value.
        allowed: What it may be.
    """
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


class ScoreMetric(Metric):
    """A metric of scores against labels.

    The task tells what both are:

    - "binary": a score for label 1, and labels that are 0 or 1, of the same shape;
    - "multiclass": scores of shape (N, C, ...), and classes in [0, C) of shape (N, ...);
    - "multilabel": scores and labels that are 0 or 1 of the same shape (N, L, ...).

    What has scores of its own is called a row, also where N is not the only other dimension.

    Scores are float32, float64, bfloat16 or float16, labels of any integer dtype or bool. Scores
    of ignored labels may be anything. What is wrong with a batch in the memory of the CPU is raised
    at once; on other devices, where that would be waiting for them, such a batch is left out
    and `compute` raises.

    Args:
        task: "binary", "multiclass" or "multilabel".
        num_classes: C; None takes it from the scores.
        num_labels: L; None takes it from the scores.
        ignore_index: The label of what is not counted; None counts all.
        logits: Whether to take the softmax of scores first ("multiclass"), or the
            sigmoid.
    """

    tasks: ClassVar[tuple[str, ...]] = ("binary", "multiclass", "multilabel")
    #: The range of scores that is allowed.
    _range: tuple[float, float] = (0.0, 1.0)

    def __init__(
        self,
        task: str,
        num_classes: int | None,
        num_labels: int | None,
        ignore_index: int | None,
        logits: bool,
    ) -> None:
        check_choice("task", task, type(self).tasks)
        for name, value, other in (
            ("num_classes", num_classes, "multiclass"),
            ("num_labels", num_labels, "multilabel"),
        ):
            check_count(name, value, is_optional=True)
            if value is not None and task != other:
                raise ValueError(f"{name} is for task={other!r}, got {value!r} with task={task!r}")
        if ignore_index is not None and not isinstance(ignore_index, int):
            raise ValueError(f"ignore_index must be an int or None, got {ignore_index!r}")
        self.task = task
        if task == "multiclass":
            self.num_classes = num_classes
        if task == "multilabel":
            self.num_labels = num_labels
        self.ignore_index = ignore_index
        self.logits = logits
        self._columns = num_classes or num_labels
        self._has_classes = task == "multiclass"
        self._ignored = _NONE_IGNORED if ignore_index is None else ignore_index
        super().__init__()

    @abstractmethod
    def update(self, preds: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        """Count one batch.

        Args:
            preds: Scores, of the shape that the task asks for.
            target: Labels, of the shape that the task asks for.
            weight: A factor of at least 0 for each row; 1 by default.

        Raises:
            ValueError: If shapes or dtypes do not fit, a score is NaN or out of range, a label
                names no class, or a weight is negative or not finite. Nothing is counted then.
        """

    def _read(
        self, preds: Tensor, target: Tensor
    ) -> tuple[ModuleType | None, Tensor, Tensor, Arguments]:
        """Return the kernels, or None, and contiguous rows with labels, and how kernels read them.

        Scores have the shape (N,) or (N, C) then, and labels (N,) or, of several ones, (N, L).
        """
        if self.logits:
            preds = self._probabilities(preds)
        score_dtype = DTYPES.get(preds.dtype, Dtype.BOOL)
        label_dtype = DTYPES.get(target.dtype, Dtype.FLOAT32)
        if score_dtype > Dtype.FLOAT16 or label_dtype < Dtype.INT64:
            self._check_dtypes(preds, target)
            target = target.to(torch.int64)
            label_dtype = Dtype.INT64
        shape = preds.shape
        if len(shape) != (1 if self.task == "binary" else 2):
            preds, target = self._as_rows(preds, target)
            shape = preds.shape
        if self.task == "binary":
            rows, columns = shape[0], 1
            fits = target.shape == shape
        else:
            rows, columns = shape
            fits = target.shape == ((rows,) if self._has_classes else shape)
        if not fits or not columns or columns != (self._columns or columns):
            raise self._misfit(preds, target)
        # What `kernels_for` asks, without the cost of its loop.
        is_plain = type(preds) is Tensor and type(target) is Tensor
        if is_plain and preds.is_cpu and target.is_cpu and preds.layout is torch.strided:
            kernels = backend.current().kernels
        else:
            kernels = backend.kernels_for(preds, target)
        if not preds.is_contiguous():
            preds = preds.contiguous()
        if not target.is_contiguous():
            target = target.contiguous()
        has_kernels = kernels is not None
        arguments = (
            preds.data_ptr() if has_kernels else 0,
            score_dtype,
            target.data_ptr() if has_kernels else 0,
            label_dtype,
            rows,
            columns,
            self._has_classes,
            self._ignored,
        )
        return kernels, preds, target, arguments

    def _as_rows(self, preds: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores and labels of more or fewer dimensions as rows."""
        if self.task == "binary":
            fits = target.shape == preds.shape
        else:
            shape = preds.shape[:1] + preds.shape[2:] if self._has_classes else preds.shape
            fits = preds.ndim > 2 and target.shape == shape
        if not fits:
            raise self._misfit(preds, target)
        if self.task == "binary":
            return preds.reshape(-1), target.reshape(-1)
        columns = preds.shape[1]
        target = target if self._has_classes else target.movedim(1, -1)
        rows = preds.movedim(1, -1).reshape(-1, columns)
        return rows, target.reshape(-1) if self._has_classes else target.reshape(-1, columns)

    def _probabilities(self, logits: Tensor) -> Tensor:
        if not logits.is_floating_point():
            self._check_dtypes(logits, None)
        wide = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
        if not self._has_classes:
            return wide.sigmoid()
        return wide.softmax(1) if wide.ndim > 1 else wide

    def _check_dtypes(self, preds: Tensor, target: Tensor | None) -> None:
        if DTYPES.get(preds.dtype, Dtype.BOOL) > Dtype.FLOAT16:
            raise ValueError(
                "preds must be scores of dtype float32, float64, bfloat16 or float16, got "
                f"{preds.dtype}"
            )
        if target is not None and target.dtype not in _WIDER:
            raise ValueError(f"target must be of an integer dtype or bool, got {target.dtype}")

    def _misfit(self, preds: Tensor, target: Tensor) -> ValueError:
        wanted = "the same shape"
        if self.task == "multiclass":
            classes = self._columns or "C"
            wanted = f"the shapes (N, {classes}, ...) and (N, ...)"
        elif self.task == "multilabel":
            wanted = f"the same shape (N, {self._columns or 'L'}, ...)"
        return ValueError(
            f"preds and target must have {wanted} for task={self.task!r}, got "
            f"{tuple(preds.shape)} and {tuple(target.shape)}"
        )

    def _refused(self, problem: int, preds: Tensor, target: Tensor) -> ValueError:
        """Return the error for what `check_scores` has found in what `update` was given."""
        if problem < 0:
            where, value = _at(target, -1 - problem, self.task == "multilabel")
            allowed = f"in [0, {preds.shape[1]})" if self._has_classes else "0 or 1"
            if self.ignore_index is not None:
                allowed += f" or ignore_index={self.ignore_index}"
            return ValueError(f"target{where} is {value}, must be {allowed}")
        where, value = _at(preds, problem - 1, self.task != "binary")
        low, high = self._range
        if self.logits or high == torch.inf:
            return ValueError(f"preds{where} is {value}, must be a number")
        return ValueError(
            f"preds{where} is {value}, must be in [{low:g}, {high:g}]; logits need logits=True"
        )

    def _checked(
        self, scores: Tensor, labels: Tensor, preds: Tensor, target: Tensor, weight: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | int]:
        """Check a batch with torch's operators.

        Args:
            scores: What `_read` returned.
            labels: What `_read` returned.
            preds: What `update` was given.
            target: What `update` was given.
            weight: What `update` was given.

        Returns:
            Which labels count (bool), the weight of each row (float64) in a shape that broadcasts
            to that of labels, and how many values were wrong: on other devices than the CPU,
            which are not waited for. No label counts if any was.
        """
        low, high = self._range
        if self.ignore_index is None:
            counts = torch.ones_like(labels, dtype=torch.bool)
        else:
            counts = labels != self.ignore_index
        classes = scores.shape[1] if self._has_classes else 2
        unknown = ((labels < 0) | (labels >= classes)) & counts
        outside = ~((scores >= low) & (scores <= high))
        outside &= counts[:, None] if self._has_classes else counts
        if weight is None:
            weights = torch.ones((), dtype=torch.float64, device=scores.device)
        else:
            shape = target.shape
            if self.task == "multilabel":
                shape = shape[:1] + shape[2:]
            if weight.shape != shape:
                raise ValueError(
                    f"weight must have shape {tuple(shape)}, got {tuple(weight.shape)}"
                )
            weights = weight.detach().to(scores.device, torch.float64).reshape(-1)
        bad_weights = ~((weights >= 0) & (weights < torch.inf))
        if self.task == "multilabel":
            weights = weights[..., None]
        if not scores.is_cpu:
            invalid = unknown.sum() + outside.sum() + bad_weights.sum()
            return counts & (invalid == 0), weights, invalid
        for sign, bad in ((-1, unknown), (1, outside)):
            if bad.any():
                index = int(bad.reshape(-1).nonzero()[0])
                raise self._refused(sign * (1 + index), preds, target)
        if weight is not None and bad_weights.any():
            where, value = _at(weight, int(bad_weights.nonzero()[0]), False)
            raise ValueError(f"weight{where} is {value}, must be finite and at least 0")
        return counts, weights, 0

    def _check_valid(self) -> None:
        """Raise ValueError if values on another device than the CPU were wrong."""
        invalid = int(self._state["invalid"])
        if invalid:
            raise ValueError(
                f"{invalid} values of preds, target or weight were not allowed; the batches "
                "with them were not counted"
            )


def _at(tensor: Tensor, row_index: int, has_columns: bool) -> tuple[str, int | float]:
    """Return the place and the value of an element, by its index in rows.

    Args:
        tensor: What rows were made of.
        row_index: Counts the elements of rows.
        has_columns: Whether dimension 1 became the last one.
    """
    rows = tensor.movedim(1, -1) if has_columns else tensor
    where = [int(i) for i in torch.unravel_index(torch.tensor(row_index), rows.shape)]
    value = rows[tuple(where)].item()
    if has_columns:
        where.insert(1, where.pop())
    text = ", ".join(map(str, where))
    return f"[{text}]" if where else "", value
