"""Losses of single elements against torch's in float64, on both backends."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from hotloop import backend
from hotloop.losses import LossSum, bce_with_logits, focal, huber, mse, sigmoid_focal

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
#: Of the largest element: a few roundings, and one more of a gradient in its dtype.
LOSS = {torch.float64: 1e-12}
GRADIENT = {torch.float64: 1e-12, torch.bfloat16: 2**-8, torch.float16: 2**-11}


def torchvision_focal(x: Tensor, y: Tensor, *, gamma: float, alpha: float | None) -> Tensor:
    """What `torchvision.ops.sigmoid_focal_loss` computes; alpha below 0 is None there."""
    p = torch.sigmoid(x)
    ce = functional.binary_cross_entropy_with_logits(x, y, reduction="none")
    p_t = p * y + (1 - p) * (1 - y)
    loss = ce * ((1 - p_t) ** gamma)
    if alpha is not None:
        loss = (alpha * y + (1 - alpha) * (1 - y)) * loss
    return loss


class Case:
    """A loss, its options, and the same in torch."""

    def __init__(
        self,
        ours: Callable[..., Any],
        theirs: Callable[..., Tensor],
        has_weight: bool = True,
        **options: Any,
    ) -> None:
        self.ours = ours
        self.theirs = theirs
        self.has_weight = has_weight
        self.options = options

    def __repr__(self) -> str:
        return f"{self.ours.__name__}({self.options})"

    def reference(self, preds: Tensor, target: Tensor) -> Tensor:
        return self.theirs(preds, target, **self.options)


CASES = [
    Case(mse, lambda x, y: (x - y) ** 2),
    Case(huber, lambda x, y, **o: functional.huber_loss(x, y, reduction="none", **o)),
    Case(huber, lambda x, y, **o: functional.huber_loss(x, y, reduction="none", **o), delta=0.3),
    Case(
        bce_with_logits,
        lambda x, y: functional.binary_cross_entropy_with_logits(x, y, reduction="none"),
    ),
    *(
        Case(sigmoid_focal, torchvision_focal, False, gamma=gamma, alpha=alpha)
        for gamma, alpha in ((2.0, 0.25), (0.0, None), (1.0, 0.75), (0.5, None), (3.7, 0.25))
    ),
]


def make(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    preds = torch.randn(shape, generator=generator, dtype=torch.float64) * 3
    target = torch.rand(shape, generator=generator, dtype=torch.float64)
    return preds.to(dtype), target.round().where(target > 0.5, target).to(dtype)


def assert_near(ours: Tensor, theirs: Tensor, tolerance: float, dtype: torch.dtype) -> None:
    scale = float(theirs.abs().max()) if theirs.numel() else 0.0
    least = 2**-24 if dtype == torch.float16 else 0.0
    torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=tolerance * scale + least)


@given(
    case=st.sampled_from(CASES),
    shape=st.one_of(
        st.tuples(st.integers(0, 67)),
        st.tuples(st.integers(0, 5), st.integers(1, 20)),
        st.sampled_from([(), (3, 0), (1500, 31)]),
    ),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**31),
    layout=st.sampled_from(["plain", "strided", "transposed"]),
    weighted=st.sampled_from([None, "elements", "columns"]),
    reduction=st.sampled_from(["none", "sum", "mean", "sum_and_count"]),
    factor=st.sampled_from([1.0, 0.375]),
)
def test_losses_and_gradients_are_torchs(
    case: Case,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    seed: int,
    layout: str,
    weighted: str | None,
    reduction: str,
    factor: float,
) -> None:
    values, target = make(shape, dtype, seed)
    leaf = values.clone()
    if layout == "strided" and shape:
        leaf = torch.stack([values, values], -1)
    leaf.requires_grad_()
    preds = leaf[..., 0] if layout == "strided" and shape else leaf * 1
    if layout == "transposed" and len(shape) == 2:
        preds = preds.T.contiguous().T
        target = target.T.contiguous().T
    weight = None
    if weighted is not None and case.has_weight:
        weight = torch.rand(shape if weighted == "elements" else shape[-1:]) + 0.1
    options: dict[str, Any] = dict(case.options)
    if case.has_weight:
        options["weight"] = weight
    loss = case.ours(preds, target, reduction=reduction, **options)

    exact = values.double().requires_grad_()
    losses = case.reference(exact, target.double())
    count = float(losses.numel())
    if weight is not None:
        wide = weight.double().expand(shape)
        losses, count = losses * wide, float(wide.sum())
    expected = losses if reduction == "none" else losses.sum()
    if reduction == "mean":
        expected = expected / count if count else expected * 0
    if reduction == "sum_and_count":
        assert isinstance(loss, LossSum)
        assert float(loss.count) == pytest.approx(count, rel=1e-6)
        loss = loss.total
    tolerance = LOSS.get(dtype, 2e-6)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert_near(loss, expected.detach(), tolerance, torch.float32)

    grad_output = torch.full_like(loss, factor)
    if reduction == "none":
        grad_output *= torch.rand_like(grad_output) + 0.5
    loss.backward(grad_output)
    expected.backward(grad_output.double())
    assert leaf.grad is not None
    assert exact.grad is not None
    gradient = leaf.grad[..., 0] if layout == "strided" and shape else leaf.grad
    assert gradient.dtype == dtype
    assert_near(gradient, exact.grad, GRADIENT.get(dtype, 2e-6), dtype)


@pytest.mark.parametrize("case", CASES, ids=repr)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_gradients_are_those_of_the_value(case: Case, reduction: str) -> None:
    preds, target = make((4, 5), torch.float64, 0)

    def loss(preds: Tensor) -> Any:
        return case.ours(preds, target, reduction=reduction, **case.options)

    assert torch.autograd.gradcheck(loss, preds.requires_grad_())


@pytest.mark.parametrize("case", CASES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_threads_change_nothing(case: Case, dtype: torch.dtype) -> None:
    values, target = make((300, 401), dtype, 0)
    results = []
    for threads in (2, 1):
        torch.set_num_threads(threads)
        preds = values.clone().requires_grad_()
        loss = case.ours(preds, target, reduction="mean", **case.options)
        loss.backward()
        assert preds.grad is not None
        results.append((loss.detach(), preds.grad))
    if backend.current().name == "native":
        assert results[0][0].equal(results[1][0])
        assert results[0][1].equal(results[1][1])
    expected = case.reference(values.double(), target.double()).mean()
    torch.testing.assert_close(results[0][0].double(), expected, rtol=2e-6, atol=0)


@pytest.mark.parametrize("case", CASES, ids=repr)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_infinity_and_nan_are_torchs(case: Case, dtype: torch.dtype) -> None:
    inf, nan = math.inf, math.nan
    preds = torch.tensor([0.0, -0.0, inf, -inf, nan, 1.0, 1e30, -1e30], dtype=dtype)
    target = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0, nan, 0.0, 1.0], dtype=dtype)
    if case.ours in (bce_with_logits, sigmoid_focal):
        target[5] = 0.5
    ours = preds.clone().requires_grad_()
    loss = case.ours(ours, target, reduction="none", **case.options)
    theirs = preds.clone().requires_grad_()
    expected = case.reference(theirs, target)
    # Torch adds infinities of both signs where the loss is one.
    is_known = ~expected.isnan() | preds.isnan() | target.isnan()
    torch.testing.assert_close(loss[is_known], expected[is_known], equal_nan=True)
    assert is_known.sum() >= 7
    if backend.current().name == "native":
        assert loss[~is_known].tolist() == [inf] * int((~is_known).sum())
    loss.sum().backward()
    expected.sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    is_known = ~theirs.grad.isnan() | preds.isnan() | target.isnan()
    torch.testing.assert_close(ours.grad[is_known], theirs.grad[is_known], equal_nan=True)


@pytest.mark.parametrize("columns", [1, 3, 16, 40])
@pytest.mark.parametrize("rows", [5, 3000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_positive_classes_have_weights(columns: int, rows: int, dtype: torch.dtype) -> None:
    values, target = make((rows, columns), dtype, 0)
    logits, exact = values.clone().requires_grad_(), values.double().requires_grad_()
    pos_weight = torch.rand(columns) * 5
    weight = torch.rand(rows, 1)
    loss: Any = bce_with_logits(
        logits, target, weight=weight, pos_weight=pos_weight, reduction="sum"
    )
    expected = functional.binary_cross_entropy_with_logits(
        exact,
        target.double(),
        weight.double(),
        pos_weight=pos_weight.double(),
        reduction="sum",
    )
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    loss.backward()
    expected.backward()
    assert logits.grad is not None
    assert exact.grad is not None
    assert_near(logits.grad, exact.grad, GRADIENT.get(dtype, 1e-6), dtype)


def test_one_positive_weight_is_for_all() -> None:
    logits, target = make((4, 3), torch.float64, 0)
    for pos_weight in (torch.tensor(2.5), torch.tensor([2.5])):
        ours: Any = bce_with_logits(logits, target, pos_weight=pos_weight, reduction="mean")
        theirs = functional.binary_cross_entropy_with_logits(logits, target, pos_weight=pos_weight)
        torch.testing.assert_close(ours, theirs)
    single: Any = bce_with_logits(
        logits[0, 0], target[0, 0], pos_weight=torch.tensor(2.0), reduction="sum"
    )
    theirs = functional.binary_cross_entropy_with_logits(
        logits[0, 0], target[0, 0], pos_weight=torch.tensor(2.0)
    )
    torch.testing.assert_close(single, theirs)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float16, torch.float64])
def test_targets_have_any_dtype(dtype: torch.dtype) -> None:
    preds, _ = make((6,), torch.float32, 0)
    target = torch.tensor([0, 1, 1, 0, 1, 0])
    for case in CASES:
        ours = case.ours(preds, target.to(dtype), reduction="none", **case.options)
        assert ours.equal(case.ours(preds, target.float(), reduction="none", **case.options))


@pytest.mark.parametrize("loss", [mse, huber, bce_with_logits])
def test_targets_and_weights_get_gradients(loss: Any) -> None:
    preds, target = make((3, 4), torch.float64, 0)
    target = target * 0.8 + 0.1
    weight = torch.rand(3, 4, dtype=torch.float64)
    tensors = [tensor.requires_grad_() for tensor in (preds, target, weight)]

    def value(preds: Tensor, target: Tensor, weight: Tensor) -> Any:
        return loss(preds, target, weight=weight, reduction="sum")

    assert torch.autograd.gradcheck(value, tensors)


def test_weights_of_zero_leave_elements_out() -> None:
    preds, target = make((5,), torch.float64, 0)
    weight = torch.tensor([0.0, 1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    for loss in (mse, huber, bce_with_logits):
        ours: Any = loss(preds, target, weight=weight, reduction="mean")
        torch.testing.assert_close(
            ours, loss(preds[[1, 3, 4]], target[[1, 3, 4]], reduction="mean")
        )
        nothing: Any = loss(preds.requires_grad_(), target, weight=torch.zeros(5), reduction="mean")
        assert nothing == 0
        (gradient,) = torch.autograd.grad(nothing, preds)
        assert not gradient.any()


@pytest.mark.skipif(
    backend.current().name == "torch", reason="torch's loss is good to a rounding of 1"
)
def test_large_logits_stay_exact() -> None:
    logits = torch.tensor([-100.0, -20.0, 20.0, 50.0], requires_grad=True)
    loss: Any = bce_with_logits(logits, torch.tensor([0, 0, 1, 1]), reduction="none")
    exact = [math.exp(-100), math.exp(-20), math.exp(-20), math.exp(-50)]
    assert loss.tolist() == pytest.approx([0, *exact[1:]], rel=1e-6)
    loss.sum().backward()
    assert logits.grad is not None
    if backend.current().name == "native":
        assert logits.grad.tolist() == pytest.approx([0, exact[1], -exact[2], -exact[3]], rel=1e-6)


@given(
    rows=st.integers(0, 20),
    classes=st.integers(1, 40),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**31),
    gamma=st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.7]),
    has_alpha=st.booleans(),
    reduction=st.sampled_from(["none", "sum", "mean", "sum_and_count"]),
    factor=st.sampled_from([1.0, 0.375]),
)
def test_focal_follows_the_formula(
    rows: int,
    classes: int,
    dtype: torch.dtype,
    seed: int,
    gamma: float,
    has_alpha: bool,
    reduction: str,
    factor: float,
) -> None:
    values, _ = make((rows, classes), dtype, seed)
    target = torch.randint(0, classes, (rows,))
    target[torch.rand(rows) < 0.3] = -100
    alpha = torch.rand(classes) if has_alpha else None
    logits, exact = values.clone().requires_grad_(), values.double().requires_grad_()
    loss: Any = focal(logits, target, gamma=gamma, alpha=alpha, reduction=reduction)
    log_p = exact.log_softmax(1).gather(1, target.clamp(min=0)[:, None])[:, 0]
    # Of one class it is 0 to any power.
    missed = (-torch.expm1(log_p)).clamp(min=1e-300)
    losses = -log_p * missed**gamma
    if alpha is not None:
        losses = losses * alpha.double()[target.clamp(min=0)]
    losses = losses.where(target >= 0, 0)
    count = int((target >= 0).sum())
    expected = losses if reduction == "none" else losses.sum()
    if reduction == "mean":
        expected = expected / max(1, count)
    if reduction == "sum_and_count":
        assert loss.count == count
        loss = loss.total
    rtol = 1e-11 if dtype == torch.float64 else 2e-6
    torch.testing.assert_close(loss.double(), expected, rtol=rtol, atol=rtol)
    grad_output = torch.full_like(loss, factor)
    loss.backward(grad_output)
    expected.backward(grad_output.double())
    assert logits.grad is not None
    assert exact.grad is not None
    tolerance = {torch.float64: 1e-11, torch.bfloat16: 2**-7, torch.float16: 2**-9}
    assert_near(logits.grad, exact.grad, tolerance.get(dtype, 4e-6), dtype)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda x: mse(x, x[:1]), r"shape \(2, 3\), got \(1, 3\)"),
        (lambda x: huber(x, x, delta=0.0), "delta must be above 0, got 0.0"),
        (lambda x: huber(x, x, delta=-1.0), "delta must be .* got -1.0"),
        (lambda x: huber(x, x, delta=math.inf), "delta must be .* got inf"),
        (lambda x: bce_with_logits(x, x, weight=x[:, :2]), r"to the shape \(2, 3\), got \(2, 2\)"),
        (lambda x: bce_with_logits(x, x, pos_weight=x[0, :2]), r"shape \(3,\), got \(2,\)"),
        (lambda x: mse(x.int(), x), r"floating point, got torch\.int32"),
        (lambda x: mse(x, x, reduction="avg"), "unknown reduction 'avg'.*mean, none"),
    ],
)
def test_arguments_are_checked(call: Callable[[Tensor], Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call(torch.zeros(2, 3))
