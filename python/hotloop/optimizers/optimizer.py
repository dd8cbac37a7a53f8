"""What every optimizer of hotloop adds to torch's: a `step` that runs the kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import optimizer as torch_optimizer

from hotloop import backend
from hotloop.errors import BackendError
from hotloop.optimizers.plan import Plan, Rule, UnsupportedError

__all__ = ["NativeStep"]

Closure = Callable[[], Any]

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

    options: tuple[str, ...] = ()

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
            with self._exact_fallback():
                self._torch_step()
        return loss

    def _native_step(self) -> bool:
        chosen = backend.current()
        if chosen.kernels is None:
            self.fallback_reason = chosen.reason
            return False
        try:
            scale, is_skipped = self._read_scaler()
            plan = self._plan
            if plan is None or not plan.is_current(self):
                plan = self._make_plan(chosen)
            if not is_skipped and not plan.run(scale):
                plan = self._make_plan(chosen)
                if not plan.run(scale):
                    raise BackendError("a new plan is stale; please report this")
        except UnsupportedError as error:
            self._plan = None
            self.fallback_reason = str(error)
            if chosen.is_strict:
                raise BackendError(
                    f"HOTLOOP_BACKEND=native, but {type(self).__name__} has no kernel for this "
                    f"step: {error}. Set HOTLOOP_BACKEND=auto to run it on torch."
                ) from error
            return False
        self.fallback_reason = None
        return True

    def _make_plan(self, chosen: backend.Backend) -> Plan:
        self._plan = plan = Plan(self, self.__dict__["state"], chosen)
        if self._state_is_shared:
            plan.share_state()
        return plan

    def _read_scaler(self) -> tuple[Tensor | None, bool]:
        """Return what a GradScaler left: the scale, and whether to skip the step."""
        scale: Tensor | None = getattr(self, "grad_scale", None)
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        if scale is not None and (scale.dtype, scale.device.type) != (torch.float32, "cpu"):
            raise UnsupportedError(f"grad_scale is {scale.dtype} on {scale.device}")
        return scale, found_inf is not None and bool(found_inf)

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
        self._plan = None
        self._state_is_shared = True  # Loaded tensors belong to the state dict, too.


def _has_hooks(optimizer: Any) -> bool:
    return bool(
        optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or torch_optimizer._global_optimizer_pre_hooks
        or torch_optimizer._global_optimizer_post_hooks
    )


_step_with_hooks = torch.optim.Optimizer.profile_hook_step(NativeStep._step)
