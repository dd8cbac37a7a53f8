"""What every optimizer of hotloop adds to torch's: a `step` that runs the kernels."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import optimizer as torch_optimizer

from hotloop import backend
from hotloop.errors import BackendError, UnsupportedModelError
from hotloop.layout import Outcome
from hotloop.optimizers.average import WeightAverage
from hotloop.optimizers.fused_step import (
    FusedStep,
    check_max_norm,
    record_overflow,
    torch_fused_step,
    total_norm,
    unscaling,
)
from hotloop.optimizers.plan import (
    NOTHING,
    Around,
    Plan,
    Rule,
    StateLayout,
    UnsupportedError,
)

__all__ = ["NativeStep"]

Closure = Callable[[], Any]

_MEASURE = Around(max_norm=math.inf, is_updated=False)

_is_profiling: Callable[[], bool] = torch.autograd._profiler_enabled  # type: ignore[attr-defined]

if TYPE_CHECKING:

    class _Optimizer(torch.optim.Optimizer, Rule):
        """A torch optimizer that its subclasses complete to a `Rule`."""

else:
    _Optimizer = torch.optim.Optimizer


class NativeStep(_Optimizer):
    """Mixin before a `torch.optim` class that replaces its `step`.

    Constructor, param groups, hooks, state and state dicts stay torch's. `step` runs the
    kernels if it can, and torch's own `step` otherwise: on the torch backend, under
    `torch.compile`, and for tensors or options that have no kernel.

    Attributes:
        fallback_reason: Why the last step ran on torch; None if it ran the kernels.
    """

    fallback_reason: str | None = None
    _plan: Plan | None = None
    _state_is_shared = False

    #: Options of a param group that are hotloop's own, with the values of torch's behaviour.
    own_options: Mapping[str, Any] = {}
    options: tuple[str, ...] = ()
    scalar_names: tuple[str, ...] = ()

    def _add_own_options(self, **options: Any) -> None:
        """Complete the defaults and all groups, after torch's constructor."""
        self.defaults.update(options)
        for group in self.param_groups:
            for name, value in self.own_options.items():
                group.setdefault(name, self.defaults.get(name, value))

    def param_kernel(self, kernel: str, param: Tensor) -> str:
        """Return the group's kernel, for every parameter."""
        return kernel

    def state_layouts(self, param: Tensor, group: dict[str, Any]) -> dict[str, StateLayout]:
        """Return the state tensors of a parameter, each like the parameter itself."""
        layout = StateLayout(param.dtype)
        return dict.fromkeys(self.state_names(group), layout)

    def parts(self, param: Tensor) -> int:
        """Return 0: no kernel but that of factored state divides a parameter."""
        return 0

    def step(self, closure: Closure | None = None) -> Any:
        """Update every parameter by its gradient.

        Args:
            closure: Called first, with gradients enabled, to compute them anew.

        Returns:
            What `closure` returned, or None.

        Raises:
            BackendError: If `HOTLOOP_BACKEND=native` and this step has no kernel.
        """
        # A subclass with a step of its own has been wrapped by torch already.
        is_outermost = getattr(type(self).step, "is_native", False)
        if is_outermost and (_has_hooks(self) or _is_profiling()):
            return _step_with_hooks(self, closure)
        return self._step(closure)

    def fused_step(
        self,
        *,
        max_norm: float | None = None,
        average: WeightAverage | None = None,
        zero_grad: bool = False,
        scaler: torch.amp.GradScaler | None = None,
        grad_factor: float = 1.0,
    ) -> FusedStep:
        """Unscale, clip, update, average and zero in at most two passes over memory.

        It stands for `scaler.unscale_(self)`, `clip_grad_norm_`, `scaler.step(self)`,
        `average.update()` and `zero_grad(set_to_none=False)`, of which it does what it is
        asked for. With `max_norm` or `scaler` a first pass reads the gradients and sums
        their squares in float64; if the norm is not finite, parameters, state and averages
        stay as they are. Clipping scales what enters the update; gradients that are not
        zeroed keep their values, scale included.

        Args:
            max_norm: The largest 2-norm of all gradients that enters the update; larger
                ones are multiplied by `max_norm / (norm + 1e-6)`, as in torch. inf measures
                and clips nothing; None does not measure.
            average: Moved to the new parameters.
            zero_grad: Whether the gradients are zero afterwards, applied or not.
            scaler: Its scale divides the gradients, and it learns of an overflow. Call its
                `update` afterwards.
            grad_factor: Multiplies the gradients before they are measured and used, such as
                1 / n after n backward passes.

        Returns:
            The norm, if it was measured, and whether the update was applied.

        Raises:
            ValueError: If `max_norm` is negative or NaN, or `grad_factor` is not above 0 and
                finite.
            RuntimeError: If `scaler` has stepped this optimizer since its last `update`.
            BackendError: If `HOTLOOP_BACKEND=native` and this step has no kernel.
        """
        check_max_norm(max_norm)
        if not 0 < grad_factor < math.inf:
            raise ValueError(f"grad_factor must be above 0 and finite, got {grad_factor!r}")
        scaler = scaler if scaler is not None and scaler.is_enabled() else None
        if scaler is not None and max_norm is None:
            max_norm = math.inf
        around = Around(
            max_norm=max_norm,
            grad_factor=grad_factor * (1.0 if scaler is None else unscaling(scaler, self)),
            average_weight=0.0 if average is None else average.next_weight,
            zero_grad=zero_grad,
        )
        run = _fused_step_with_hooks if _has_hooks(self) or _is_profiling() else _fused_step
        report: FusedStep = run(self, around, average)
        if scaler is not None:
            record_overflow(scaler, self, not report.is_applied)
        # torch's schedulers warn if they step before the optimizer.
        self._opt_called = True
        return report

    def check_loop(self) -> None:
        """Raise if a loop in Mojo would not make this optimizer's steps.

        Raises:
            UnsupportedModelError: If a step is more than a pass of the kernels, or there are hooks.
        """
        name = type(self).__name__
        if type(self)._run_plan is not NativeStep._run_plan:
            raise UnsupportedModelError(
                f"{name} computes a part of its step outside of the kernels; use another optimizer "
                "here, or train with torch's engine"
            )
        if _has_hooks(self):
            raise UnsupportedModelError(f"the hooks of {name} would not be called")

    def plan_loop(self, around: Around) -> Plan:
        """Return a plan for steps in Mojo, one after the other, on the gradients as they are now.

        Until `Plan.end_loop` nothing may be changed that the optimizer knows of.

        Args:
            around: What to do beside each update.

        Raises:
            UnsupportedModelError: If these tensors have no kernel, or as `check_loop`.
        """
        self.check_loop()
        if self._run_plan(_MEASURE) is None:
            raise UnsupportedModelError(f"{type(self).__name__}: {self.fallback_reason}")
        assert self._plan is not None
        self._plan.begin_loop(around)
        # torch's schedulers warn if they move before it is set.
        self._opt_called = True
        return self._plan

    def grad_norm(self) -> float:
        """Return the 2-norm of all gradients, summed in float64; inf or NaN if one is.

        The gradients are those of every parameter of the optimizer, as they are: scaled,
        if a GradScaler scaled the loss.

        Raises:
            BackendError: If `HOTLOOP_BACKEND=native` and these tensors have no kernel.
        """
        if self._run_plan(_MEASURE) is not None:
            assert self._plan is not None
            return self._plan.norm
        return total_norm(self)

    # torch wraps the step of every class to run hooks and to name it in profiles; the name
    # alone takes 2.7 microseconds. `step` does so only where there is something to run.
    step.hooked = True  # type: ignore[attr-defined]
    step.is_native = True  # type: ignore[attr-defined]

    @property
    def state(self) -> Any:
        """The state of each parameter, as torch keeps it.

        Whoever has it can change it behind the kernels' back, so from the first access
        on each step compares it with what the last one saw. Until then nobody can.
        """
        if not self._state_is_shared:
            self._share_state()
        return self.__dict__["state"]

    @state.setter
    def state(self, state: Any) -> None:
        # The first one comes from torch's constructor, which keeps nothing of it.
        if "state" in self.__dict__:
            self._share_state()
        self.__dict__["state"] = state

    def _share_state(self) -> None:
        self._state_is_shared = True
        if self._plan is not None:
            self._plan.share_state()

    def _step(self, closure: Closure | None = None) -> Any:
        if torch.compiler.is_compiling():
            return self._torch_step(closure)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if not self._native_step():
            self._fallback_step()
        return loss

    def _fallback_step(self) -> None:
        with self._exact_fallback():
            self._torch_step()

    def _native_step(self) -> bool:
        # What a GradScaler left: the scale, and whether to skip the step.
        scale: Tensor | None = getattr(self, "grad_scale", None)
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        is_skipped = found_inf is not None and bool(found_inf)
        around = NOTHING if scale is None else Around(grad_scale=scale)
        return self._run_plan(around, is_skipped=is_skipped) is not None

    def _run_plan(
        self, around: Around, average: WeightAverage | None = None, *, is_skipped: bool = False
    ) -> int | None:
        """Run the kernels, or return None and leave the reason in `fallback_reason`."""
        chosen = backend.current()
        if chosen.kernels is None:
            self.fallback_reason = chosen.reason
            return None
        try:
            _check_scale(around.grad_scale)
            rule = self._planned()
            plan = self._plan
            if plan is None or not plan.is_current(rule):
                plan = self._make_plan(rule, chosen)
            outcome = Outcome.DONE if is_skipped else plan.run(around, average)
            if outcome == Outcome.CHANGED:
                outcome = self._make_plan(rule, chosen).run(around, average)
                if outcome == Outcome.CHANGED:
                    raise BackendError("a new plan is stale; please report this")
        except UnsupportedError as error:
            self._plan = None
            self.fallback_reason = str(error)
            if chosen.is_strict:
                raise BackendError(
                    f"HOTLOOP_BACKEND=native, but {type(self).__name__} has no kernel for this "
                    f"step: {error}. Set HOTLOOP_BACKEND=auto to run it on torch."
                ) from error
            return None
        self.fallback_reason = None
        return outcome

    def _planned(self) -> Rule:
        """Return whose groups and state the kernels see."""
        return self

    def _make_plan(self, rule: Rule, chosen: backend.Backend) -> Plan:
        self._plan = plan = Plan(rule, rule.__dict__["state"], chosen)
        if self._state_is_shared:
            plan.share_state()
        return plan

    def _torch_step(self, closure: Closure | None = None) -> Any:
        step = super().step
        function = step.__func__  # type: ignore[attr-defined]
        while getattr(function, "hooked", False):
            function = function.__wrapped__
        return function(self, closure)

    @contextmanager
    def _exact_fallback(self) -> Iterator[None]:
        """Let torch choose the implementation that the kernels agree with."""
        yield

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._add_own_options()  # torch's state dicts lack them.
        self._plan = None
        self._state_is_shared = True  # Loaded tensors belong to the state dict, too.


def _check_scale(scale: Tensor | None) -> None:
    if scale is not None and (scale.dtype, scale.device.type) != (torch.float32, "cpu"):
        raise UnsupportedError(f"grad_scale is {scale.dtype} on {scale.device}")


def _has_hooks(optimizer: Any) -> bool:
    return bool(
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or torch_optimizer._global_optimizer_pre_hooks
        or torch_optimizer._global_optimizer_post_hooks
    )


def _fused_step(optimizer: NativeStep, around: Around, average: WeightAverage | None) -> FusedStep:
    outcome = optimizer._run_plan(around, average)
    if outcome is None:
        report = torch_fused_step(
            optimizer,
            optimizer._fallback_step,
            max_norm=around.max_norm,
            grad_factor=around.grad_factor,
            zero_grad=around.zero_grad,
        )
        moved: Collection[Tensor] = ()
    else:
        assert optimizer._plan is not None
        norm = None if around.max_norm is None else optimizer._plan.norm
        report = FusedStep(norm, outcome == Outcome.DONE)
        moved = optimizer._plan.averaged
    if average is not None and report.is_applied:
        average.update(done=moved)
    return report


_fused_step_with_hooks = torch.optim.Optimizer.profile_hook_step(_fused_step)
_step_with_hooks = torch.optim.Optimizer.profile_hook_step(NativeStep._step)
