"""Losses against torch's, golden values, and any split of a batch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from hotloop import backend
from hotloop.losses import (
    CrossEntropy,
    LMCrossEntropy,
    LossSum,
    cross_entropy,
    focal,
    lm_cross_entropy,
    sigmoid_focal,
)

only_torch = pytest.mark.skipif(
    backend.current().name != "torch", reason="tests what torch's operators do"
)

# Sums in another order: a few roundings of the dtype.
RTOL = {torch.float32: 1e-6, torch.float64: 1e-12}


def gradient_of(loss: Callable[[Tensor], Any], logits: Tensor) -> tuple[Any, Tensor]:
    leaf = logits.detach().clone().requires_grad_()
    value = loss(leaf)
    (value.total if isinstance(value, LossSum) else value).sum().backward()
    assert leaf.grad is not None
    return value, leaf.grad


def random_case(*shape: int, classes: int, dtype: torch.dtype = torch.float64) -> Any:
    logits = torch.randn(*shape, classes, dtype=dtype)
    target = torch.randint(0, classes, shape)
    target[torch.rand(shape) < 0.3] = -100
    return logits, target


# LossSum


@pytest.mark.parametrize("count", [0.25, torch.tensor(0.25)])
def test_mean_of_weights_below_one_is_not_clamped(count: Any) -> None:
    assert float(LossSum(torch.tensor(1.0), count).mean) == 4


@pytest.mark.parametrize("count", [0, 0.0, torch.tensor(0), torch.tensor(0.0)])
def test_mean_of_nothing_is_zero_with_zero_gradient(count: Any) -> None:
    logits = torch.ones(3, requires_grad=True)
    mean = LossSum((logits * 0).sum(), count).mean
    mean.backward()
    assert mean.item() == 0
    assert logits.grad is not None
    assert logits.grad.tolist() == [0, 0, 0]


@pytest.mark.usefixtures("lenient")
def test_no_value_is_read_from_the_device() -> None:
    # Meta tensors have no values: whoever reads one fails.
    logits = torch.empty(4, 5, 7, device="meta", requires_grad=True)
    target = torch.empty(4, 5, dtype=torch.int64, device="meta")
    weight = torch.empty(4, 5, device="meta")
    classes = torch.empty(7, device="meta")
    for reduction in ("sum_and_count", "mean", "sum", "none"):
        lm_cross_entropy(logits, target, weight=weight, shift=True, reduction=reduction)
        cross_entropy(logits[0], target[0], weight=classes, reduction=reduction)
        focal(logits[0], target[0], alpha=classes, reduction=reduction)
        sigmoid_focal(logits, torch.empty_like(logits), reduction=reduction)


# Cross entropy


@pytest.mark.parametrize("shape", [(9,), (3, 4), (2, 3, 4)])
@pytest.mark.parametrize("has_weight", [False, True])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("ignore_index", [-100, 2])
def test_cross_entropy_is_torchs(
    shape: tuple[int, ...], has_weight: bool, label_smoothing: float, ignore_index: int
) -> None:
    logits, target = random_case(*shape, classes=5)
    logits = logits.movedim(-1, 1)
    if ignore_index != -100:
        target = target.clamp(min=0)
    weight = torch.rand(5, dtype=torch.float64) if has_weight else None
    options: Any = {
        "weight": weight,
        "ignore_index": ignore_index,
        "label_smoothing": label_smoothing,
    }
    for reduction in ("mean", "sum", "none"):
        ours, our_gradient = gradient_of(
            lambda x, r=reduction: cross_entropy(x, target, reduction=r, **options), logits
        )
        torchs, gradient = gradient_of(
            lambda x, r=reduction: functional.cross_entropy(x, target, reduction=r, **options),
            logits,
        )
        torch.testing.assert_close(ours, torchs, rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(our_gradient, gradient, rtol=1e-12, atol=1e-15)
    summed = cross_entropy(logits, target, **options)
    assert isinstance(summed, LossSum)
    torch.testing.assert_close(
        summed.total / summed.count, functional.cross_entropy(logits, target, **options)
    )
    called = CrossEntropy(**options)(logits, target)
    assert called[0].equal(summed.total)
    assert called[1].equal(summed.count)


@pytest.mark.parametrize("has_weight", [False, True])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_cross_entropy_of_probabilities_is_torchs(has_weight: bool, label_smoothing: float) -> None:
    logits = torch.randn(4, 5, 3, dtype=torch.float64)
    target = torch.randn(4, 5, 3, dtype=torch.float64).softmax(1)
    weight = torch.rand(5, dtype=torch.float64) if has_weight else None
    options: Any = {"weight": weight, "label_smoothing": label_smoothing}
    summed = cross_entropy(logits, target, **options)
    assert isinstance(summed, LossSum)
    assert summed.count == 12
    torch.testing.assert_close(summed.mean, functional.cross_entropy(logits, target, **options))


def test_class_weights_below_one_in_sum_are_not_clamped() -> None:
    logits, target = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    weight = torch.tensor([0.125, 1.0])
    mean = cross_entropy(logits, target, weight=weight, reduction="mean")
    torch.testing.assert_close(mean, functional.cross_entropy(logits, target))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_logits_are_computed_in_float32(dtype: torch.dtype) -> None:
    logits, target = random_case(6, classes=9, dtype=torch.float32)
    logits = logits.to(dtype)
    binary = (target > 3).to(dtype)[:, None].expand(6, 9)
    losses: list[Callable[[Tensor], Any]] = [
        lambda x: cross_entropy(x, target, weight=torch.rand(9, dtype=dtype)).total,  # type: ignore[union-attr]
        lambda x: lm_cross_entropy(x, target, z_loss=0.1, reduction="sum"),
        lambda x: lm_cross_entropy(x, target, chunk_rows=4, reduction="sum"),
        lambda x: focal(x, target, alpha=torch.ones(9, dtype=dtype), reduction="sum"),
        lambda x: sigmoid_focal(x, binary, reduction="sum"),
    ]
    for loss in losses:
        torch.manual_seed(1)
        value, gradient = gradient_of(loss, logits)
        torch.manual_seed(1)
        expected = loss(logits.float())
        assert value.dtype == torch.float32
        assert value.equal(expected)
        assert gradient.dtype == dtype


# Tokens


def reference_lm(
    logits: Tensor,
    target: Tensor,
    weight: Tensor,
    label_smoothing: float,
    z_loss: float,
    ignore_index: int,
) -> tuple[Tensor, Tensor]:
    """Losses and counts of tokens, written out from the definitions."""
    log_probs = logits - logits.exp().sum(-1, keepdim=True).log()
    z = logits.exp().sum(-1).log()
    is_valid = target != ignore_index
    picked = log_probs.gather(-1, target.where(is_valid, 0)[..., None])[..., 0]
    losses = -(1 - label_smoothing) * picked - label_smoothing * log_probs.mean(-1)
    losses = (losses + z_loss * z**2) * weight
    return losses.where(is_valid, 0), weight.where(is_valid, 0)


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("chunk_rows", [None, 1, 4, 100])
@pytest.mark.parametrize("has_weight", [False, True])
@pytest.mark.parametrize(("label_smoothing", "z_loss"), [(0.0, 0.0), (0.1, 0.01)])
def test_tokens_follow_the_formula(
    shift: bool, chunk_rows: int | None, has_weight: bool, label_smoothing: float, z_loss: float
) -> None:
    logits, target = random_case(3, 5, classes=7)
    target[2] = -100
    target[0, 0] = 1
    weight = torch.rand(3, 5, dtype=torch.float64) if has_weight else None
    options: Any = {"label_smoothing": label_smoothing, "z_loss": z_loss}
    cut_logits, cut_target, cut_weight = logits, target, torch.ones_like(logits[..., 0])
    if weight is not None:
        cut_weight = weight
    if shift:
        cut_logits, cut_target, cut_weight = logits[:, :-1], target[:, 1:], cut_weight[:, 1:]
    losses, counts = reference_lm(cut_logits, cut_target, cut_weight, ignore_index=-100, **options)
    expected = {
        "none": losses,
        "sum": losses.sum(),
        "mean": losses.sum() / counts.sum(),
        "sequence": losses.sum(1) / counts.sum(1).where(counts.sum(1) > 0, 1),
    }
    for reduction, value in expected.items():
        ours = lm_cross_entropy(
            logits,
            target,
            weight=weight,
            shift=shift,
            chunk_rows=chunk_rows,
            reduction=reduction,
            **options,
        )
        torch.testing.assert_close(ours, value, rtol=1e-12, atol=1e-14)
    options |= {"shift": shift, "chunk_rows": chunk_rows}
    summed = lm_cross_entropy(logits, target, weight=weight, **options)
    torch.testing.assert_close(summed[0], expected["sum"], rtol=1e-12, atol=0)
    assert summed[1] == pytest.approx(float(counts.sum()), rel=1e-15)
    called = LMCrossEntropy(**options)(logits, target, weight)
    assert called[0].equal(summed[0])
    assert called[1].equal(summed[1])


def test_flat_tokens_are_a_batch_of_tokens() -> None:
    logits, target = random_case(3, 5, classes=7)
    whole = lm_cross_entropy(logits, target)
    flat = lm_cross_entropy(logits.flatten(0, 1), target.flatten())
    assert whole[0].equal(flat[0])
    assert whole[1].equal(flat[1])  # type: ignore[arg-type, union-attr]


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_chunks_change_neither_value_nor_gradient(label_smoothing: float) -> None:
    logits, target = random_case(4, 6, classes=11, dtype=torch.float32)
    weight = torch.rand(4, 6)
    losses = {
        chunk_rows: gradient_of(
            lambda x, c=chunk_rows: lm_cross_entropy(
                x,
                target,
                z_loss=1e-2,
                label_smoothing=label_smoothing,
                shift=True,
                weight=weight,
                chunk_rows=c,
            ),
            logits,
        )
        for chunk_rows in (None, 1, 5, 24, 1000)
    }
    whole, gradient = losses[None]
    for chunked, chunked_gradient in losses.values():
        torch.testing.assert_close(chunked.total, whole.total, rtol=1e-6, atol=0)
        assert chunked.count.equal(whole.count)
        torch.testing.assert_close(chunked_gradient, gradient, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_keep_nothing_but_the_logits(dtype: torch.dtype) -> None:
    logits, target = random_case(8, 16, classes=100, dtype=dtype)
    logits.requires_grad_()

    def bytes_kept(chunk_rows: int | None) -> int:
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() != logits.untyped_storage().data_ptr():
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            value = lm_cross_entropy(logits, target, chunk_rows=chunk_rows, reduction="mean")
        sizes = sum(kept.values())
        value.backward()  # type: ignore[union-attr]
        return sizes

    tokens, classes = 8 * 16, 100
    width = logits.element_size() if backend.current().name == "native" else 4
    assert bytes_kept(None) >= tokens * classes * width
    assert bytes_kept(16) < tokens * 16


@only_torch
def test_a_chunk_computes_its_softmax_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    original = functional.cross_entropy

    def counted(logits: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        rows.append(len(logits))
        return original(logits, *args, **kwargs)

    monkeypatch.setattr(functional, "cross_entropy", counted)
    logits, target = random_case(10, classes=3)
    value = lm_cross_entropy(logits.requires_grad_(), target, chunk_rows=4, reduction="mean")
    assert rows == [4, 4, 2]
    value.backward()  # type: ignore[union-attr]
    assert sorted(rows) == [2, 2, 4, 4, 4, 4]


@pytest.mark.parametrize("chunk_rows", [None, 3])
@pytest.mark.parametrize("has_weight", [False, True])
def test_all_ignored_is_zero_with_zero_gradient(chunk_rows: int | None, has_weight: bool) -> None:
    target = torch.full((2, 4), -100)
    weight = torch.rand(2, 4) if has_weight else None
    for reduction in ("mean", "sum", "none", "sequence", "sum_and_count"):
        value, gradient = gradient_of(
            lambda x, r=reduction: lm_cross_entropy(
                x, target, weight=weight, chunk_rows=chunk_rows, z_loss=1.0, reduction=r
            ),
            torch.randn(2, 4, 5),
        )
        assert not torch.as_tensor(value[0] if reduction == "sum_and_count" else value).any()
        assert gradient.equal(torch.zeros(2, 4, 5))
    for loss in (cross_entropy, focal, partial(cross_entropy, weight=torch.rand(5))):
        value, gradient = gradient_of(
            lambda x, f=loss: f(x, target[0], reduction="mean"), torch.randn(4, 5)
        )
        assert value.item() == 0
        assert gradient.equal(torch.zeros(4, 5))


def test_an_empty_batch_is_zero() -> None:
    logits, target = torch.zeros(0, 5, requires_grad=True), torch.zeros(0, dtype=torch.int64)
    for value in (
        cross_entropy(logits, target, reduction="mean"),
        cross_entropy(logits, torch.zeros(0, 5), reduction="mean"),
        lm_cross_entropy(logits, target, reduction="mean", chunk_rows=2),
        lm_cross_entropy(torch.zeros(2, 0, 5), target.view(2, 0), reduction="mean", shift=True),
        focal(logits, target, reduction="mean"),
        sigmoid_focal(logits, torch.zeros(0, 5), reduction="mean"),
    ):
        assert isinstance(value, Tensor)
        assert value.item() == 0


def test_a_shifted_sequence_of_one_token_counts_nothing() -> None:
    value = lm_cross_entropy(torch.zeros(2, 1, 3), torch.zeros(2, 1, dtype=torch.int64), shift=True)
    assert isinstance(value, LossSum)
    assert value.count == 0


def test_weights_get_a_gradient() -> None:
    logits, target = random_case(2, 3, classes=4)
    weight = torch.rand(2, 3, dtype=torch.float64, requires_grad=True)
    lm_cross_entropy(logits, target, weight=weight, shift=True).total.backward()  # type: ignore[union-attr]
    losses = lm_cross_entropy(logits, target, shift=True, reduction="none")
    assert weight.grad is not None
    assert weight.grad[:, 0].tolist() == [0, 0]
    torch.testing.assert_close(weight.grad[:, 1:], losses)


def test_a_weight_of_an_ignored_token_does_not_matter() -> None:
    value = lm_cross_entropy(
        torch.zeros(2, 3), torch.tensor([0, -100]), weight=torch.tensor([1.0, math.nan])
    )
    assert value[1] == 1
    assert float(value[0]) == pytest.approx(math.log(3))


@pytest.mark.parametrize("bad", [-1, 5, -101])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_only_ignore_index_is_ignored(bad: int, label_smoothing: float) -> None:
    logits, target = torch.randn(4, 5), torch.tensor([0, 1, bad, -100])
    for loss in (
        partial(cross_entropy, label_smoothing=label_smoothing),
        partial(cross_entropy, label_smoothing=label_smoothing, weight=torch.ones(5)),
        partial(lm_cross_entropy, label_smoothing=label_smoothing),
        partial(lm_cross_entropy, label_smoothing=label_smoothing, chunk_rows=2, z_loss=1.0),
        focal,
        partial(focal, alpha=torch.ones(5)),
    ):
        text = (
            rf"out of (bounds|range)|target\[2\] is {bad}, must be in \[0, 5\) or ignore_index=-100"
        )
        with pytest.raises(IndexError, match=text):
            loss(logits, target)


def test_a_target_can_be_the_ignored_one_anywhere() -> None:
    logits, target = torch.randn(2, 3, 5), torch.tensor([[0, 4, 1], [4, 4, 2]])
    value = lm_cross_entropy(logits, target, ignore_index=4, reduction="none")
    assert isinstance(value, Tensor)
    assert (value == 0).equal(target == 4)


def test_large_logits_stay_exact() -> None:
    logits = torch.tensor([[1e4, 1e4 - 1.0]])
    value = lm_cross_entropy(logits, torch.tensor([1]), reduction="sum")
    assert float(value) == pytest.approx(math.log(1 + math.e), rel=1e-6)  # type: ignore[arg-type]


# Focal


def test_sigmoid_focal_has_its_golden_values() -> None:
    logits, target = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([1, 0, 1])
    value = sigmoid_focal(logits, target, reduction="none")
    assert value.tolist() == pytest.approx([0.0004508907, 0.0169935431, 0.0168933726], rel=1e-6)
    summed = sigmoid_focal(logits, target.bool())
    assert summed[0].item() == pytest.approx(0.0343378064, rel=1e-6)
    assert summed[1] == 3


def test_focal_has_its_golden_values() -> None:
    logits, target = torch.tensor([[2.0, 0, -1], [0, 1, 0]]), torch.tensor([0, 2])
    value = focal(logits, target, reduction="none")
    assert value.tolist() == pytest.approx([0.0041442573, 0.9635031879], rel=1e-6)
    weighted = focal(logits, target, alpha=torch.tensor([0.5, 9, 2.0]))
    assert weighted[0].item() == pytest.approx(0.0041442573 / 2 + 0.9635031879 * 2, rel=1e-6)
    assert weighted[1] == 2


def test_focal_counts_neither_ignored_samples_nor_alpha() -> None:
    logits, target = torch.zeros(3, 4), torch.tensor([1, -100, 2])
    alpha = torch.tensor([9.0, 0.5, 0.25, 9.0])
    total, count = focal(logits, target, alpha=alpha)
    assert count == 2
    assert float(total) == pytest.approx(0.75 * 0.75**2 * math.log(4))


def test_focal_of_gamma_zero_is_cross_entropy() -> None:
    logits, target = random_case(20, classes=5)
    ours, gradient = gradient_of(lambda x: focal(x, target, gamma=0, reduction="none"), logits)
    torchs, expected = gradient_of(
        lambda x: functional.cross_entropy(x, target, reduction="none"), logits
    )
    torch.testing.assert_close(ours, torchs, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-16)
    binary = (target > 2).double()
    ours = sigmoid_focal(logits[:, 0], binary, gamma=0, alpha=None, reduction="none")
    torchs = functional.binary_cross_entropy_with_logits(logits[:, 0], binary, reduction="none")
    torch.testing.assert_close(ours, torchs, rtol=1e-12, atol=0)


@pytest.mark.parametrize("alpha", [None, 0.25])
def test_sigmoid_focal_is_the_focal_loss_of_two_classes(alpha: float | None) -> None:
    logits = torch.randn(30, dtype=torch.float64)
    target = torch.randint(0, 2, (30,))
    ours = sigmoid_focal(logits, target, gamma=1.5, alpha=alpha, reduction="none")
    pairs = torch.stack([torch.zeros_like(logits), logits], 1)
    factors = None if alpha is None else torch.tensor([1 - alpha, alpha], dtype=torch.float64)
    both = focal(pairs, target, gamma=1.5, alpha=factors, reduction="none")
    torch.testing.assert_close(ours, both)


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("size", [0.0, 20.0, 100.0, 1e4])
def test_focal_gradients_are_finite_for_sure_predictions(gamma: float, size: float) -> None:
    logits = torch.tensor([size, size, -size, -size])
    value, gradient = gradient_of(
        lambda x: sigmoid_focal(x, torch.tensor([0, 1, 0, 1]), gamma=gamma, reduction="none"),
        logits,
    )
    assert value.isfinite().all()
    assert gradient.isfinite().all()
    # What is missed by far has the gradient of cross entropy.
    if size >= 20:
        assert gradient.tolist() == pytest.approx([0.75, 0, 0, -0.25], abs=1e-3)
    pairs = torch.stack([torch.zeros(4), logits], 1)
    value, gradient = gradient_of(
        lambda x: focal(x, torch.tensor([0, 1, 0, 1]), gamma=gamma, reduction="none"), pairs
    )
    assert value.isfinite().all()
    assert gradient.isfinite().all()


# Everything


def both_sigmoid(x: Tensor, gamma: float) -> Any:
    return sigmoid_focal(x, torch.tensor([[0, 1, 1]]).expand(5, 3), gamma=gamma, reduction="mean")


@pytest.mark.parametrize(
    "loss",
    [
        lambda x, t: cross_entropy(x, t, label_smoothing=0.1, reduction="mean"),
        lambda x, t: lm_cross_entropy(x, t, z_loss=0.1, label_smoothing=0.1, reduction="mean"),
        lambda x, t: lm_cross_entropy(x, t, z_loss=0.1, chunk_rows=2, reduction="mean"),
        lambda x, t: focal(x, t, gamma=2.0, reduction="mean"),
        lambda x, t: focal(x, t, gamma=0.5, reduction="mean"),
        lambda x, t: both_sigmoid(x, 2.0),
        lambda x, t: both_sigmoid(x, 0.5),
    ],
)
def test_gradients_are_those_of_the_value(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    logits = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 2, -100, 1, 1])
    assert torch.autograd.gradcheck(lambda x: loss(x, target), logits)


@given(
    data=st.data(),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    name=st.sampled_from(["classes", "weighted", "tokens", "chunks", "focal", "sigmoid"]),
)
def test_totals_over_counts_are_the_whole_batch(
    data: st.DataObject, dtype: torch.dtype, name: str
) -> None:
    rows = data.draw(st.integers(1, 40))
    torch.manual_seed(data.draw(st.integers(0, 2**31)))
    logits = torch.randn(rows, 6, dtype=dtype)
    target = torch.randint(0, 6, (rows,))
    target[torch.rand(rows) < data.draw(st.sampled_from([0.0, 0.5, 1.0]))] = -100
    weight = torch.rand(rows, dtype=dtype) * (torch.rand(rows) < 0.7)
    weights = torch.rand(6, dtype=dtype) / 10

    def loss(logits: Tensor, part: slice) -> Any:
        labels = target[part]
        if name == "classes":
            return cross_entropy(logits, labels, label_smoothing=0.1)
        if name == "weighted":
            return cross_entropy(logits, labels, weight=weights)
        if name == "focal":
            return focal(logits, labels, alpha=weights)
        if name == "sigmoid":
            return sigmoid_focal(logits, (labels > 2)[:, None].expand(-1, 6))
        chunk_rows = 3 if name == "chunks" else None
        return lm_cross_entropy(
            logits, labels, weight=weight[part], z_loss=0.1, chunk_rows=chunk_rows
        )

    cuts = data.draw(st.lists(st.integers(0, rows), max_size=4))
    bounds = sorted({0, rows, *cuts})
    parts = [slice(start, end) for start, end in itertools.pairwise(bounds)]
    whole = logits.clone().requires_grad_()
    mean = loss(whole, slice(0, rows)).mean
    mean.backward()
    split = logits.clone().requires_grad_()
    sums = [loss(split[part], part) for part in parts]
    for part in sums:
        part.total.backward()
    count = sum(part.count for part in sums)
    joined = LossSum(sum(part.total.detach() for part in sums), count).mean
    assert split.grad is not None
    assert whole.grad is not None
    rtol = RTOL[dtype]
    torch.testing.assert_close(joined, mean.detach(), rtol=rtol, atol=0)
    gradient = split.grad / count if count else split.grad
    # Elements near 0 are differences of what the loss is made of.
    scale = float(whole.grad.abs().max())
    torch.testing.assert_close(gradient, whole.grad, rtol=rtol, atol=rtol * scale)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda x, t: cross_entropy(x, t, reduction="avg"), "unknown reduction 'avg'.*mean, none"),
        (lambda x, t: cross_entropy(x, t, reduction="sequence"), "unknown reduction 'sequence'"),
        (lambda x, t: focal(x, t, reduction="Mean"), r"'Mean' \(did you mean 'mean'\?\)"),
        (lambda x, t: sigmoid_focal(x, x, reduction="avg"), "unknown reduction 'avg'"),
        (lambda x, t: lm_cross_entropy(x, t, reduction="avg"), "'avg'.*sequence, sum"),
        (lambda x, t: lm_cross_entropy(x, t, reduction="sequence"), r"\(B, T, V\), got \(4, 5\)"),
        (lambda x, t: lm_cross_entropy(x, t, shift=True), r"\(B, T, V\), got \(4, 5\)"),
        (lambda x, t: lm_cross_entropy(x, t[:3]), r"got \(4, 5\) and \(3,\)"),
        (lambda x, t: lm_cross_entropy(x, t.int()), r"torch\.int64, got torch\.int32"),
        (lambda x, t: lm_cross_entropy(x.int(), t), r"floating point, got torch\.int32"),
        (lambda x, t: lm_cross_entropy(x, t, weight=x), r"shape \(4,\), got \(4, 5\)"),
        (lambda x, t: lm_cross_entropy(x, t, chunk_rows=0), "chunk_rows must be .* got 0"),
        (lambda x, t: lm_cross_entropy(x, t, z_loss=-1.0), "z_loss must be .* got -1.0"),
        (lambda x, t: lm_cross_entropy(x, t, label_smoothing=2), r"in \[0, 1\], got 2"),
        (lambda x, t: cross_entropy(x, t, label_smoothing=-0.1), r"in \[0, 1\], got -0.1"),
        (lambda x, t: cross_entropy(x, t[:3]), r"got \(4, 5\) and \(3,\)"),
        (lambda x, t: cross_entropy(x[0], t[0]), r"got \(5,\) and \(\)"),
        (lambda x, t: cross_entropy(x, t.int()), r"torch\.int64, got torch\.int32"),
        (lambda x, t: cross_entropy(x, t, weight=torch.ones(4)), r"\(5,\).*got \(4,\)"),
        (lambda x, t: focal(x, t[:3]), r"got \(4, 5\) and \(3,\)"),
        (lambda x, t: focal(x, t, gamma=-1), "gamma must be .* at least 0, got -1"),
        (lambda x, t: focal(x, t, alpha=torch.ones(4)), r"\(5,\).*got \(4,\)"),
        (lambda x, t: sigmoid_focal(x, t), r"shape \(4, 5\), got \(4,\)"),
        (lambda x, t: sigmoid_focal(x, x, alpha=2.0), r"alpha .* in \[0, 1\], got 2.0"),
        (lambda x, t: sigmoid_focal(x, x, gamma=math.nan), "gamma must be .* got nan"),
        (lambda x, t: CrossEntropy(reduction="avg"), "unknown reduction 'avg'"),
        (lambda x, t: CrossEntropy(label_smoothing=2), "label_smoothing must be"),
        (lambda x, t: LMCrossEntropy(chunk_rows=-1), "chunk_rows must be .* got -1"),
    ],
)
def test_arguments_are_checked(call: Callable[[Tensor, Tensor], Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        call(torch.zeros(4, 5), torch.zeros(4, dtype=torch.int64))


def test_autocast_does_not_change_a_loss() -> None:
    logits, target = random_case(6, classes=9, dtype=torch.bfloat16)
    plain = lm_cross_entropy(logits, target, z_loss=0.1)
    with torch.autocast("cpu", torch.bfloat16):
        cast = lm_cross_entropy(logits, target, z_loss=0.1)
    assert plain[0].equal(cast[0])
