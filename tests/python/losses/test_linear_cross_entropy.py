"""The fused linear layer and cross entropy against the two, one after the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from hotloop import backend
from hotloop.losses import LossSum, cross_entropy, linear_cross_entropy
from hotloop.rows import scan_rows

#: Of the largest element: sums in another order, and roundings of what is between.
TOLERANCE = {torch.float32: 2e-6, torch.float64: 1e-12, torch.bfloat16: 2**-6}


def make(
    rows: int, width: int, classes: int, dtype: torch.dtype, *, seed: int = 0
) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(rows, width), (classes, width), (classes,)]
    tensors = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    target = torch.randint(0, classes, (rows,), generator=generator)
    target[torch.rand(rows, generator=generator) < 0.3] = -100
    return [tensor.requires_grad_() for tensor in tensors], target


def assert_near(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> None:
    scale = float(theirs.abs().max()) if theirs.numel() else 0.0
    torch.testing.assert_close(
        ours.double(), theirs.double(), rtol=0, atol=TOLERANCE[dtype] * scale
    )


@given(
    rows=st.integers(0, 20),
    width=st.integers(1, 9),
    classes=st.integers(1, 40),
    dtype=st.sampled_from(list(TOLERANCE)),
    seed=st.integers(0, 2**31),
    has_bias=st.booleans(),
    chunk_rows=st.sampled_from([None, 1, 3, 7]),
    label_smoothing=st.sampled_from([0.0, 0.1]),
    z_loss=st.sampled_from([0.0, 0.01]),
    reduction=st.sampled_from(["sum", "mean", "sum_and_count"]),
    factor=st.sampled_from([1.0, 0.75]),
)
def test_it_is_cross_entropy_of_the_layer(
    rows: int,
    width: int,
    classes: int,
    dtype: torch.dtype,
    seed: int,
    has_bias: bool,
    chunk_rows: int | None,
    label_smoothing: float,
    z_loss: float,
    reduction: str,
    factor: float,
) -> None:
    tensors, target = make(rows, width, classes, dtype, seed=seed)
    options: Any = {
        "label_smoothing": label_smoothing,
        "z_loss": z_loss,
        "reduction": reduction,
    }
    leaves = tensors if has_bias else tensors[:2]
    input, weight = tensors[:2]
    bias = tensors[2] if has_bias else None
    ours: Any = linear_cross_entropy(input, weight, target, bias, chunk_rows=chunk_rows, **options)
    exact = [tensor.detach().double().requires_grad_() for tensor in leaves]
    theirs: Any = cross_entropy(
        functional.linear(exact[0], exact[1], exact[2] if has_bias else None), target, **options
    )
    if reduction == "sum_and_count":
        assert isinstance(ours, LossSum)
        assert ours.count == theirs.count
        ours, theirs = ours.total, theirs.total
    torch.testing.assert_close(
        ours.double(), theirs, rtol=max(TOLERANCE[dtype], 1e-12), atol=TOLERANCE[dtype]
    )
    gradients = torch.autograd.grad(ours * factor, leaves)
    expected = torch.autograd.grad(theirs * factor, exact)
    for gradient, exact_gradient in zip(gradients, expected):
        assert gradient.dtype == dtype
        assert_near(gradient, exact_gradient, dtype)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("chunk_rows", [None, 2])
def test_gradients_are_those_of_the_value(reduction: str, chunk_rows: int | None) -> None:
    tensors, _ = make(5, 3, 6, torch.float64)
    target = torch.tensor([0, 5, -100, 2, 2])

    def loss(input: Tensor, weight: Tensor, bias: Tensor) -> Any:
        return linear_cross_entropy(
            input, weight, target, bias, z_loss=0.1, chunk_rows=chunk_rows, reduction=reduction
        )

    assert torch.autograd.gradcheck(loss, tensors)


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_only_what_requires_a_gradient_gets_one(frozen: int) -> None:
    tensors, target = make(6, 3, 5, torch.float64)
    tensors[frozen].requires_grad_(False)
    input, weight, bias = tensors
    loss: Any = linear_cross_entropy(input, weight, target, bias, reduction="mean", chunk_rows=4)
    loss.backward()
    theirs: Any = cross_entropy(functional.linear(input, weight, bias), target, reduction="mean")
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    for tensor, expected in zip(wanted, torch.autograd.grad(theirs, wanted)):
        torch.testing.assert_close(tensor.grad, expected)
    assert tensors[frozen].grad is None


def test_tokens_have_rows() -> None:
    tensors, _ = make(12, 3, 5, torch.float64)
    input, weight, bias = tensors
    target = torch.randint(0, 5, (3, 4))
    target[1, 2] = -100
    loss, rows = linear_cross_entropy(
        input.view(3, 4, 3), weight, target, bias, chunk_rows=5, return_rows=True
    )
    logits = functional.linear(input, weight, bias)
    expected = scan_rows(logits, target.flatten(), ignore_index=-100, nll=True)
    for ours, theirs in zip(rows[:4], expected[:4]):
        torch.testing.assert_close(ours, theirs)
    assert rows.classes == 5
    assert isinstance(loss, LossSum)
    assert rows.nll is not None
    torch.testing.assert_close(loss.total, rows.nll.sum())


def test_without_a_gradient_there_is_no_graph() -> None:
    tensors, target = make(6, 3, 5, torch.float32)
    with torch.no_grad():
        loss: Any = linear_cross_entropy(*tensors[:2], target, chunk_rows=4)
    assert not loss.total.requires_grad
    theirs: Any = cross_entropy(functional.linear(*tensors[:2]), target)
    torch.testing.assert_close(loss.total, theirs.total.detach())


@pytest.mark.skipif(backend.current().name == "torch", reason="torch recomputes its logits")
def test_no_more_than_a_chunk_of_logits_is_in_memory() -> None:
    sizes: list[int] = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
            result = function(*args, **(kwargs or {}))
            for tensor in result if isinstance(result, (tuple, list)) else [result]:
                if isinstance(tensor, Tensor):
                    sizes.append(tensor.untyped_storage().nbytes())
            return result

    tensors, target = make(64, 4, 100, torch.float32)
    with Watch():
        loss: Any = linear_cross_entropy(*tensors[:2], target, chunk_rows=8, reduction="mean")
        loss.backward()
    assert max(sizes) == 8 * 100 * 4


def test_autocast_multiplies_in_its_dtype() -> None:
    tensors, target = make(40, 16, 30, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        ours: Any = linear_cross_entropy(*tensors[:2], target, tensors[2], reduction="mean")
        theirs: Any = cross_entropy(functional.linear(*tensors[:2], tensors[2]), target)
    exact: Any = cross_entropy(functional.linear(*tensors[:2], tensors[2]), target)
    torch.testing.assert_close(ours, theirs.mean, rtol=1e-6, atol=0)
    assert (ours - exact.mean).abs() > 1e-5
    gradients = torch.autograd.grad(ours, tensors)
    for gradient, expected in zip(gradients, torch.autograd.grad(theirs.mean, tensors)):
        assert gradient.dtype == torch.float32
        assert_near(gradient, expected, torch.bfloat16)


@pytest.mark.parametrize("bad", [-1, 5])
def test_a_bad_target_is_named_by_its_place(bad: int) -> None:
    target = torch.zeros(3, 4).long()
    target[2, 1] = bad
    with pytest.raises(IndexError, match=rf"^target\[2, 1\] is {bad}, must be in \[0, 5\)"):
        linear_cross_entropy(torch.zeros(3, 4, 2), torch.zeros(5, 2), target, chunk_rows=2)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda x, w, t: linear_cross_entropy(x, w, t[:3]), r"got \(4, 2\) and \(3,\)"),
        (lambda x, w, t: linear_cross_entropy(x, w.T, t), r"shape \(C, 2\), got \(2, 5\)"),
        (lambda x, w, t: linear_cross_entropy(x, w, t, w), r"shape \(5,\), got \(5, 2\)"),
        (lambda x, w, t: linear_cross_entropy(x.int(), w, t), r"floating point, got torch\.int32"),
        (lambda x, w, t: linear_cross_entropy(x, w, t.int()), r"torch\.int64, got torch\.int32"),
        (
            lambda x, w, t: linear_cross_entropy(x, w, t, chunk_rows=0),
            "chunk_rows must be .* got 0",
        ),
        (lambda x, w, t: linear_cross_entropy(x, w, t, z_loss=-1.0), "z_loss must be .* got -1.0"),
        (lambda x, w, t: linear_cross_entropy(x, w, t, label_smoothing=2), r"\[0, 1\], got 2"),
        (
            lambda x, w, t: linear_cross_entropy(x, w, t, reduction="none"),
            "unknown reduction 'none'.* mean, sum, sum_and_count",
        ),
    ],
)
def test_arguments_are_checked(call: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call(torch.zeros(4, 2), torch.zeros(5, 2), torch.zeros(4).long())
