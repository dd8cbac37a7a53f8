"""In which dtype the forward pass runs, and how its loss is scaled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.amp.grad_scaler import GradScaler

from hotloop.errors import OverflowStreakError, unknown_name

__all__ = ["Precision"]

_DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """The dtype of a run: autocast for its forward passes, loss scaling for float16.

    Parameters stay in their dtype, float32 as a rule. float16 has no gradients below 6e-8, so the
    loss is scaled up and gradients down again, with a scale that falls by half after an overflow
    (Micikevicius et al., 2018, arXiv:1710.03740).

    Args:
        name: "fp32", "bf16", "fp16", or "auto": on CUDA "bf16" where the hardware has it and else
            "fp16", elsewhere "fp32".
        device: Where the forward pass runs.
        init_scale: The first scale, above 0, with "fp16".
        growth_interval: Updates without overflow after which the scale doubles, at least 1.
        max_overflows: How many overflows in a row are borne, at least 0.

    Attributes:
        name: "fp32", "bf16" or "fp16".
        device: Where the forward pass runs.
        dtype: What autocast casts to; None with "fp32".
        scaler: What scales the loss with "fp16"; else None.
        max_overflows: How many overflows in a row are borne.
        overflows: How many updates have been left out.
        streak: How many of them in a row, up to the last update.

    Raises:
        ValueError: If there is no such name, or a number is out of its range.
    """

    def __init__(
        self,
        name: str = "fp32",
        device: torch.device | str = "cpu",
        *,
        init_scale: float = 65536.0,
        growth_interval: int = 2000,
        max_overflows: int = 20,
    ) -> None:
        if not math.isfinite(init_scale) or init_scale <= 0:
            raise ValueError(f"init_scale must be finite and above 0, got {init_scale!r}")
        for argument, value, low in (
            ("growth_interval", growth_interval, 1),
            ("max_overflows", max_overflows, 0),
        ):
            if not isinstance(value, int) or value < low:
                raise ValueError(f"{argument} must be an int of at least {low}, got {value!r}")
        self.device = torch.device(device)
        if name == "auto":
            name = _best_name(self.device)
        if name not in _DTYPES:
            raise ValueError(unknown_name("precision", str(name), (*_DTYPES, "auto")))
        self.name = name
        self.max_overflows = max_overflows
        self.scaler: GradScaler | None = None
        if name == "fp16":
            self.scaler = GradScaler(
                self.device.type, init_scale=init_scale, growth_interval=growth_interval
            )
        self.overflows = 0
        self.streak = 0
        self.dtype = _DTYPES[name]
        self._null = nullcontext()

    def context(self) -> AbstractContextManager[Any]:
        """Return what a forward pass runs in: nothing with "fp32", else a new autocast."""
        if self.dtype is None:
            return self._null
        # Anew each time: an autocast that is entered twice at once is never left.
        return torch.autocast(self.device.type, self.dtype)

    def record(self, is_applied: bool) -> None:
        """Count an update; without a scaler nothing is counted.

        Args:
            is_applied: Whether it was applied, and not left out for an overflow.

        Raises:
            OverflowStreakError: If more than `max_overflows` in a row were left out.
        """
        if self.scaler is None:
            return
        if is_applied:
            self.streak = 0
            return
        self.overflows += 1
        self.streak += 1
        if self.streak > self.max_overflows:
            raise OverflowStreakError(
                f"{self.streak} updates in a row overflowed, with max_overflows="
                f"{self.max_overflows}; the scale is down to {self.scaler.get_scale():g}. Lower "
                "the learning rate, clip gradients, train in bf16, or check the loss for values "
                "that are not finite"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the name, the counters and the scaler's state, in plain values."""
        return {
            "name": self.name,
            "overflows": self.overflows,
            "streak": self.streak,
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Args:
            state: What `state_dict` returned.

        Raises:
            ValueError: If it is the state of another precision. Nothing is changed then.
        """
        if state["name"] != self.name:
            raise ValueError(
                f"the state is of precision {state['name']!r} and this one is {self.name!r}; go "
                f"on with {state['name']!r}, or leave the state out"
            )
        if self.scaler is not None:
            self.scaler.load_state_dict(dict(state["scaler"]))
            # It makes its tensors when it scales first, which may be after its next update: the
            # gradients of a resumed run can be scaled already.
            self.scaler.scale(torch.zeros((), device=self.device))
        self.overflows = state["overflows"]
        self.streak = state["streak"]

    def __repr__(self) -> str:
        counted = "" if self.scaler is None else f", overflows={self.overflows}"
        return f"Precision({self.name!r}, {str(self.device)!r}{counted})"


def _best_name(device: torch.device) -> str:
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
