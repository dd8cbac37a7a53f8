"""Muon (Jordan et al., 2024, kellerjordan.github.io/posts/muon), its momentum with Mojo kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim._muon import _adjust_lr, _zeropower_via_newtonschulz

from hotloop.layout import Outcome
from hotloop.memory import full_like
from hotloop.optimizers.average import WeightAverage
from hotloop.optimizers.optimizer import NativeStep
from hotloop.optimizers.plan import Around, Rule, StateLayout, UnsupportedError

__all__ = ["Muon"]

_BUFFER = "momentum_buffer"


class _Kernels:
    """What a plan is told of momentum buffers, which stand in the place of parameters.

    With `nesterov` each has a state, what Newton-Schulz makes orthogonal. It starts from
    bfloat16, so the kernels write that.
    """

    options: tuple[str, ...] = ("momentum", "nesterov")
    step_name: str | None = None
    scalar_names: tuple[str, ...] = ()

    def kernel(self, group: dict[str, Any]) -> str:
        """Return the name of the group's kernel."""
        return "MUON_NESTEROV" if group["nesterov"] else "MUON_MOMENTUM"

    def param_kernel(self, kernel: str, param: Tensor) -> str:
        """Return the group's kernel, for every buffer."""
        return kernel

    def hyperparameters(self, group: dict[str, Any]) -> tuple[float, ...]:
        """Return the field of Mojo's `MuonMomentum`."""
        return (float(group["momentum"]),)

    def state_names(self, group: dict[str, Any]) -> tuple[str, ...]:
        """Return the name of what Newton-Schulz starts from, if it is not the buffer."""
        return ("update",) if group["nesterov"] else ()

    def state_layouts(self, param: Tensor, group: dict[str, Any]) -> dict[str, StateLayout]:
        """Return that it is bfloat16."""
        return dict.fromkeys(self.state_names(group), StateLayout(torch.bfloat16))

    def parts(self, param: Tensor) -> int:
        """Return 0: nothing is factored."""
        return 0

    def create_state(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        """Return memory for it."""
        return {name: full_like(param, 0.0, torch.bfloat16) for name in self.state_names(group)}


class _Momentum(_Kernels):
    """The momentum buffers of each param group, as an optimizer of their own."""

    def __init__(self, buffers: list[list[Tensor]]) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": params} for params in buffers]
        self.state: dict[Tensor, dict[str, Any]] = {}

    def has(self, buffers: list[list[Tensor]]) -> bool:
        """Tell whether these are the buffers."""
        known = [[*map(id, group["params"])] for group in self.param_groups]
        return known == [[*map(id, params)] for params in buffers]


class Muon(_Kernels, NativeStep, torch.optim.Muon):
    """`torch.optim.Muon`, with the momentum in Mojo on CPU tensors.

    Arguments, param groups, state and state dict are torch's, and parameters have two
    dimensions. With gradient g, parameter p of A by B and momentum b:

        b = momentum b + (1 - momentum) g
        u = momentum b + (1 - momentum) g if nesterov else b
        p = (1 - lr weight_decay) p - lr ratio orthogonal(u)

    (Jordan et al., 2024, kellerjordan.github.io/posts/muon). `orthogonal` is torch's:
    `ns_steps` steps of a Newton-Schulz iteration in bfloat16. `adjust_lr_fn` chooses the
    ratio: sqrt(max(1, A / B)) for "original" or None, 0.2 sqrt(max(A, B)) for
    "match_rms_adamw" (Liu et al., 2025, arXiv:2502.16982).

    The kernels unscale, clip, move b and zero in one pass, and write u in bfloat16: with
    `nesterov` they keep 2 bytes for each element beside the state. The iteration, which
    takes nearly all of the time, and what moves p are torch's operators. float32 and
    float64 parameters have torch's bits. So have bfloat16 ones without `nesterov`, where
    torch leaves b divided by its norm; with it u is computed from b before b is rounded.
    Whatever has no kernel runs on torch: see `fallback_reason`.

    Raises:
        ValueError: If a hyperparameter is out of range, or a parameter does not have two
            dimensions; the error is torch's.
    """

    _momentum: _Momentum | None = None
    #: The parameters that the step moves, with their groups and buffers.
    _rows: tuple[tuple[dict[str, Any], Tensor, Tensor], ...] = ()

    def _planned(self) -> Rule:
        state = self.__dict__["state"]
        buffers: list[list[Tensor]] = []
        rows = []
        fresh: dict[Tensor, Tensor] = {}
        for group in self.param_groups:
            buffers.append([])
            for param in group["params"]:
                buffer = state.get(param, {}).get(_BUFFER, fresh.get(param))
                if buffer is None and param.grad is None:
                    continue
                if buffer is None:
                    buffer = fresh[param] = torch.zeros_like(param.grad)
                buffers[-1].append(buffer)
                if param.grad is not None:
                    rows.append((group, param, buffer))
        if self._momentum is None or not self._momentum.has(buffers):
            self._momentum = _Momentum(buffers)
        for known, group in zip(self._momentum.param_groups, self.param_groups):
            known.update({name: group[name] for name in self.options})
        self._rows = tuple(rows)
        for _, param, buffer in rows:
            _lend_grad(param, buffer)
        return self._momentum

    @torch.no_grad()
    def _run_plan(
        self, around: Around, average: WeightAverage | None = None, *, is_skipped: bool = False
    ) -> int | None:
        try:
            # Without `average`: it follows the parameters, which have not moved by then.
            outcome = super()._run_plan(around, is_skipped=is_skipped)
            if outcome is not None:
                for _, param, buffer in self._rows:
                    self.__dict__["state"].setdefault(param, {}).setdefault(_BUFFER, buffer)
            if outcome == Outcome.DONE and around.is_updated and not is_skipped:
                self._move_params()
        finally:
            for _, _, buffer in self._rows:
                buffer.grad = None
            self._rows = ()
        return outcome

    def _move_params(self) -> None:
        assert self._momentum is not None
        for group, param, buffer in self._rows:
            nesterov = group["nesterov"]
            lr: Any = group["lr"]
            lr = lr.squeeze() if isinstance(lr, Tensor) else lr
            adjusted_lr: Any = _adjust_lr(lr, group["adjust_lr_fn"], param.shape)
            update = _zeropower_via_newtonschulz(
                self._momentum.state[buffer]["update"] if nesterov else buffer,
                group["ns_coefficients"],
                group["ns_steps"],
                group["eps"],
            )
            param.mul_(1 - lr * group["weight_decay"])
            param.add_(update, alpha=-adjusted_lr)


def _lend_grad(param: Tensor, buffer: Tensor) -> None:
    if param.ndim != 2:
        raise UnsupportedError(f"a parameter has {param.ndim} dimensions, not two")
    try:
        buffer.grad = param.grad
    except (AttributeError, RuntimeError, TypeError) as error:
        raise UnsupportedError(f"a momentum_buffer is not like its gradient: {error}") from error
