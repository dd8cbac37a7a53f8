"""Losses in the graph whose gradient does not come from torch's operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import FunctionCtx
from torch.autograd.graph import increment_version

from hotloop import backend

__all__ = ["attach", "attach_later", "kernels_for", "needs_gradient", "overwrite"]

#: Whether the backward pass that runs may be repeated; without torch's answer it may be.
_keeps_graph: Callable[[], bool] = getattr(
    torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True
)
_is_compiling = torch.compiler.is_compiling
_is_transformed: Callable[[], bool] = getattr(
    torch._C, "_are_functorch_transforms_active", lambda: False
)


def kernels_for(*tensors: Tensor | None) -> Any:
    """Return the extension module if a loss of these tensors can use it, or None for torch.

    Tracing, `torch.func` and forward-mode differentiation see only torch's operators.
    """
    if _is_compiling() or _is_transformed() or forward_ad._current_level >= 0:
        return None
    return backend.kernels_for(*[tensor for tensor in tensors if tensor is not None])


def needs_gradient(tensor: Tensor | None) -> bool:
    """Tell whether autograd wants a gradient of a tensor."""
    return tensor is not None and tensor.requires_grad and torch.is_grad_enabled()


def overwrite(preds: Tensor) -> Tensor:
    """Return a tensor of the same memory for its gradient, to be attached as one.

    Raises:
        ValueError: If it is a leaf that requires a gradient, or a view of one: its value would be
            lost.
    """
    origin = preds if preds._base is None else preds._base
    if origin.is_leaf and origin.requires_grad:
        raise ValueError("inplace=True cannot overwrite a leaf that requires a gradient")
    return preds.detach()


def attach(loss: Tensor, *gradients: tuple[Tensor, Tensor], is_overwritten: bool = False) -> Tensor:
    """Put a loss into the graph whose gradients are known.

    They are multiplied by that of the loss in the backward pass, unless that is 1, and handed on:
    they are not kept unless the graph is.

    Args:
        loss: A scalar, or the losses along the first dimensions; without graph.
        gradients: What the loss is differentiated by, and its gradient in its shape.
        is_overwritten: Whether the gradients are in the memory of what they are of.
    """
    if len(gradients) == 1:
        ((preds, gradient),) = gradients
        return _apply(_StoredGradients, (loss, (gradient,), is_overwritten), preds)
    inputs, known = zip(*gradients)
    # In a tuple, since an argument that is returned would be returned as a view.
    return _apply(_StoredGradients, (loss, known, is_overwritten), *inputs)


def attach_later(
    loss: Tensor, compute: Callable[..., Tensor], preds: Tensor, *others: Tensor | None
) -> Tensor:
    """Put a loss into the graph whose gradient is computed in the backward pass.

    Args:
        loss: A scalar, or the losses along the first dimensions of `preds`; without graph.
        compute: Takes the loss's gradient, `preds` and `others`, and returns that of `preds`.
        preds: What the loss is differentiated by.
        others: What the loss depends on otherwise.
    """
    return _apply(_LaterGradient, (loss, compute), preds, *others)


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    # What `Function.apply` adds to this is for `torch.func`, which `kernels_for` has excluded.
    attached: Tensor = super(torch.autograd.Function, function).apply(*arguments)  # type: ignore[misc]
    return attached


class _StoredGradients(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, known: tuple[Tensor, tuple[Tensor, ...], bool], *_: Tensor
    ) -> Tensor:
        loss, gradients, is_overwritten = known
        if is_overwritten:
            # Now that the graph is known, which autograd makes anew for a view that was written to.
            increment_version(gradients)
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.saved_tensors
        if grad_output.ndim or grad_output.item() != 1:
            gradients = [_scaled(gradient, grad_output) for gradient in gradients]
        if torch.is_grad_enabled():
            gradients = [_final(gradient) for gradient in gradients]
        return (None, *gradients)


class _LaterGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, known: tuple[Tensor, Any], *inputs: Tensor | None) -> Tensor:
        loss, ctx.compute = known
        ctx.save_for_backward(*inputs)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        preds, *others = ctx.saved_tensors
        with torch.no_grad():
            gradient = ctx.compute(grad_output, preds, *others)
        if torch.is_grad_enabled():
            gradient = _final(gradient)
        return (None, gradient, *(None for _ in others))


def _scaled(gradient: Tensor, grad_output: Tensor) -> Tensor:
    """Multiply a stored gradient, in place if nothing asks for it again."""
    if grad_output.ndim:
        missing = gradient.ndim - grad_output.ndim
        grad_output = grad_output.reshape(grad_output.shape + (1,) * missing)
    with torch.no_grad():
        if _keeps_graph():
            return (gradient * grad_output).to(gradient.dtype)
        return gradient.mul_(grad_output)


def _final(gradient: Tensor) -> Tensor:
    """Let a second differentiation fail, instead of going on without what is not known."""
    message = (
        "the kernels' gradient of a loss cannot be differentiated again; set HOTLOOP_BACKEND=torch"
    )
    fail = torch._C._functions.DelayedError(message.encode(), 1)
    failing: Tensor = fail(gradient.detach().requires_grad_())
    return failing
