"""The losses that the kernels compute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn import functional

from hotloop.errors import UnsupportedModelError, unknown_name
from hotloop.layout import ObjectiveKind
from hotloop.losses import CrossEntropy, cross_entropy

__all__ = ["Objective", "objective_of", "torch_loss"]


@dataclass(frozen=True)
class Objective:
    """A loss that has a kernel.

    Attributes:
        name: Its name.
        kind: One of `ObjectiveKind`.
        option: The smoothing of a cross-entropy, or Huber's delta.
    """

    name: str
    kind: int
    option: float = 0.0

    @property
    def has_labels(self) -> bool:
        """Whether targets are class indices."""
        return self.kind == ObjectiveKind.CROSS_ENTROPY


_NAMES = {
    "cross_entropy": Objective("cross_entropy", ObjectiveKind.CROSS_ENTROPY),
    "mse": Objective("mse", ObjectiveKind.MEAN_SQUARED_ERROR),
    "huber": Objective("huber", ObjectiveKind.HUBER, 1.0),
    "bce_with_logits": Objective("bce_with_logits", ObjectiveKind.BINARY_CROSS_ENTROPY),
    "poisson": Objective("poisson", ObjectiveKind.POISSON),
}
_FUNCTIONS: dict[Any, str] = {
    functional.cross_entropy: "cross_entropy",
    cross_entropy: "cross_entropy",
    functional.mse_loss: "mse",
    functional.huber_loss: "huber",
    functional.binary_cross_entropy_with_logits: "bce_with_logits",
    functional.poisson_nll_loss: "poisson",
}


def objective_of(loss: Any) -> Objective:
    """Return the kernel's loss for a name, a loss of torch or one of `hotloop.losses`.

    Raises:
        ValueError: If there is no loss of that name.
        UnsupportedModelError: If the loss has no kernel.
    """
    if isinstance(loss, str):
        if loss not in _NAMES:
            raise ValueError(unknown_name("loss", loss, _NAMES))
        return _NAMES[loss]
    try:
        if loss in _FUNCTIONS:
            return _NAMES[_FUNCTIONS[loss]]
    except TypeError:
        pass  # It is not hashable, and none of them.
    kind = type(loss)
    if kind in (nn.CrossEntropyLoss, CrossEntropy):
        _refuse(loss, weight=None, ignore_index=-100)
        smoothing = float(loss.label_smoothing)
        return Objective("cross_entropy", ObjectiveKind.CROSS_ENTROPY, smoothing)
    if kind is nn.MSELoss:
        _refuse(loss)
        return _NAMES["mse"]
    if kind is nn.HuberLoss:
        _refuse(loss)
        return Objective("huber", ObjectiveKind.HUBER, float(loss.delta))
    if kind is nn.BCEWithLogitsLoss:
        _refuse(loss, weight=None, pos_weight=None)
        return _NAMES["bce_with_logits"]
    if kind is nn.PoissonNLLLoss:
        _refuse(loss, log_input=True, full=False)
        return _NAMES["poisson"]
    name = getattr(loss, "__name__", kind.__name__)
    raise UnsupportedModelError(f"the loss {name} has no kernel; there are {', '.join(_NAMES)}")


def torch_loss(objective: Objective) -> nn.Module:
    """Return torch's loss of an objective."""
    if objective.kind == ObjectiveKind.CROSS_ENTROPY:
        return nn.CrossEntropyLoss(label_smoothing=objective.option)
    if objective.kind == ObjectiveKind.HUBER:
        return nn.HuberLoss(delta=objective.option)
    if objective.kind == ObjectiveKind.MEAN_SQUARED_ERROR:
        return nn.MSELoss()
    is_poisson = objective.kind == ObjectiveKind.POISSON
    return nn.PoissonNLLLoss() if is_poisson else nn.BCEWithLogitsLoss()


def _refuse(loss: Any, **defaults: Any) -> None:
    """Raise if an option of a loss is not the one that its kernel has."""
    if getattr(loss, "reduction", "mean") not in ("mean", "sum_and_count"):
        raise UnsupportedModelError(
            f"{type(loss).__name__} must have reduction='mean', got {loss.reduction!r}"
        )
    for name, value in defaults.items():
        found = getattr(loss, name)
        if found is not value and found != value:
            raise UnsupportedModelError(
                f"{type(loss).__name__} must have {name}={value!r}, got {found!r}"
            )
