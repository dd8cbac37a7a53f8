"""Cross entropy and its gradient against torch's in float64, on both backends."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from hotloop import backend
from hotloop.losses import LossSum, cross_entropy, lm_cross_entropy
from hotloop.rows import Rows, scan_rows

needs_kernels = pytest.mark.skipif(
    backend.current().name == "torch", reason="tests what only the kernels do"
)
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
#: Of the largest gradient: a few roundings in what is computed, and one or two of the dtype.
GRADIENT = {
    torch.float32: 1e-6,
    torch.float64: 1e-12,
    torch.bfloat16: 2**-7,
    torch.float16: 2**-10,
}


def make(rows: int, classes: int, dtype: torch.dtype, seed: int, spread: float = 3.0) -> Any:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=generator, dtype=torch.float64) * spread
    target = torch.randint(0, classes, (rows,), generator=generator)
    target[torch.rand(rows, generator=generator) < 0.3] = -100
    return logits.to(dtype), target


def reference(
    logits: Tensor,
    target: Tensor,
    *,
    class_weight: Tensor | None = None,
    row_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Losses and counts of rows in float64, by torch."""
    weight = None if class_weight is None else class_weight.double()
    losses = functional.cross_entropy(
        logits, target, weight, label_smoothing=label_smoothing, reduction="none"
    )
    is_valid = target != -100
    losses = losses + z_loss * logits.logsumexp(1).square().where(is_valid, 0)
    counts = is_valid.double()
    if weight is not None:
        counts = weight[target.where(is_valid, 0)].where(is_valid, 0)
    if row_weight is not None:
        losses, counts = losses * row_weight.double(), counts * row_weight.double()
    return losses, counts


def assert_gradient(ours: Tensor, expected: Tensor) -> None:
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    tolerance = GRADIENT[ours.dtype]
    # The least normal number of float16 is 6e-5, below which its spacing is this.
    atol = 2**-24 if ours.dtype == torch.float16 else 0.0
    torch.testing.assert_close(
        ours.double(), expected, rtol=tolerance, atol=tolerance * scale + atol
    )


@given(
    rows=st.integers(0, 30),
    classes=st.one_of(st.integers(1, 67), st.sampled_from([128, 131, 1000])),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**31),
    layout=st.sampled_from(["plain", "padded", "transposed"]),
    label_smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    z_loss=st.sampled_from([0.0, 0.01]),
    weights=st.sampled_from(["none", "classes", "rows"]),
    reduction=st.sampled_from(["none", "sum", "mean", "sum_and_count"]),
    factor=st.sampled_from([1.0, 0.375]),
    inplace=st.booleans(),
    chunk_rows=st.sampled_from([None, 4]),
)
def test_losses_and_gradients_are_torchs(
    rows: int,
    classes: int,
    dtype: torch.dtype,
    seed: int,
    layout: str,
    label_smoothing: float,
    z_loss: float,
    weights: str,
    reduction: str,
    factor: float,
    inplace: bool,
    chunk_rows: int | None,
) -> None:
    values, target = make(rows, classes, dtype, seed)
    leaf = values.clone()
    if layout == "padded":
        leaf = torch.zeros(rows, classes + 3, dtype=dtype)
        leaf[:, 2:-1] = values
    elif layout == "transposed":
        leaf = values.T.contiguous()
    leaf.requires_grad_()
    logits = {
        "plain": lambda: leaf * 1,
        "padded": lambda: (leaf * 1)[:, 2:-1],
        "transposed": lambda: (leaf * 1).T,
    }[layout]()
    weight = torch.rand(classes if weights == "classes" else rows) + 0.1
    exact = values.double().clone().requires_grad_()
    if weights == "rows":
        losses, counts = reference(
            exact, target, row_weight=weight, label_smoothing=label_smoothing, z_loss=z_loss
        )
        loss: Any = lm_cross_entropy(
            logits,
            target,
            weight=weight,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            reduction=reduction,
            inplace=inplace,
            chunk_rows=chunk_rows,
        )
    else:
        class_weight = weight if weights == "classes" else None
        losses, counts = reference(
            exact,
            target,
            class_weight=class_weight,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
        )
        loss = cross_entropy(
            logits,
            target,
            weight=class_weight,
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            reduction=reduction,
            inplace=inplace,
        )
    count = counts.sum()
    expected = losses
    if reduction != "none":
        expected = losses.sum()
    if reduction == "mean":
        expected = (expected / count.where(count > 0, 1)).where(count > 0, 0)
    if reduction == "sum_and_count":
        loss, our_count = loss
        torch.testing.assert_close(float(our_count), float(count), rtol=1e-6, atol=0)
    rtol = 1e-12 if dtype == torch.float64 else 1e-6
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    # Torch's own losses below 1 are only good to a rounding of 1.
    torch.testing.assert_close(loss.double(), expected, rtol=rtol, atol=rtol)

    grad_output = torch.full_like(loss, factor)
    if reduction == "none":
        grad_output *= torch.rand_like(grad_output) + 0.5
    loss.backward(grad_output)
    expected.backward(grad_output.double())
    assert leaf.grad is not None
    assert exact.grad is not None
    gradient = leaf.grad
    if layout == "padded":
        assert not gradient[:, :2].any()
        gradient = gradient[:, 2:-1]
    elif layout == "transposed":
        gradient = gradient.T
    assert_gradient(gradient, exact.grad)


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_gradients_are_those_of_the_value(
    reduction: str, weighted: bool, label_smoothing: float
) -> None:
    logits = torch.randn(5, 11, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 10, -100, 7, 7])
    weight = torch.rand(11, dtype=torch.float64) if weighted else None

    def loss(logits: Tensor) -> Any:
        return cross_entropy(
            logits,
            target,
            weight=weight,
            label_smoothing=label_smoothing,
            z_loss=0.1,
            reduction=reduction,
        )

    assert torch.autograd.gradcheck(loss, logits)


@pytest.mark.parametrize("chunk_rows", [None, 3])
def test_token_gradients_are_those_of_the_value(chunk_rows: int | None) -> None:
    logits = torch.randn(2, 4, 5, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 5, (2, 4))
    weight = torch.rand(2, 4, dtype=torch.float64, requires_grad=True)
    for reduction in ("none", "sum", "mean", "sequence"):

        def loss(logits: Tensor, weight: Tensor, reduction: str = reduction) -> Any:
            return lm_cross_entropy(
                logits,
                target,
                weight=weight if reduction in ("none", "sum") else None,
                shift=True,
                z_loss=0.1,
                chunk_rows=chunk_rows,
                reduction=reduction,
            )

        assert torch.autograd.gradcheck(loss, (logits, weight))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3000, 10), (200, 1000), (3, 50000)])
def test_threads_change_nothing(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    values, target = make(*shape, dtype, 0)
    results = []
    for threads in (2, 1):
        torch.set_num_threads(threads)
        logits = values.clone().requires_grad_()
        loss = cross_entropy(logits, target, label_smoothing=0.1, reduction="mean")
        assert isinstance(loss, Tensor)
        loss.backward()
        assert logits.grad is not None
        results.append((loss.detach(), logits.grad))
    if backend.current().name == "native":
        assert results[0][0].equal(results[1][0])
        assert results[0][1].equal(results[1][1])
    exact = values.double().requires_grad_()
    expected = functional.cross_entropy(exact, target, label_smoothing=0.1)
    expected.backward()
    # Torch's float32 sums are less exact.
    rtol = 1e-6 if backend.current().name == "native" else 1e-5
    torch.testing.assert_close(results[0][0].double(), expected, rtol=rtol, atol=0)
    assert exact.grad is not None
    if backend.current().name == "native":
        assert_gradient(results[0][1], exact.grad)


# The backward pass


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("factor", [1.0, 3.0])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_a_kept_graph_gives_the_same_gradient_again(
    dtype: torch.dtype, factor: float, reduction: str
) -> None:
    values, target = make(6, 5, dtype, 0)
    logits = values.requires_grad_()
    loss: Any = cross_entropy(logits * 1, target, reduction=reduction)
    grad_output = torch.full_like(loss, factor)
    (first,) = torch.autograd.grad(loss, logits, grad_output, retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(loss, logits, grad_output)
    assert first.equal(kept)
    assert second.equal(kept)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(loss, logits, grad_output)


def test_a_loss_used_twice_adds_up() -> None:
    values, target = make(6, 5, torch.float64, 0)
    logits = values.requires_grad_()
    loss: Any = cross_entropy(logits, target, reduction="sum")
    (loss * 2 + loss).backward()
    (expected,) = torch.autograd.grad(
        3 * functional.cross_entropy(logits, target, reduction="sum"), logits
    )
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, expected)


def test_gradients_accumulate_in_a_leaf() -> None:
    values, target = make(6, 5, torch.float64, 0)
    logits = values.requires_grad_()
    for _ in range(2):
        cross_entropy(logits, target).total.backward()  # type: ignore[union-attr]
    once = functional.cross_entropy(logits, target, reduction="sum")
    (expected,) = torch.autograd.grad(once, logits)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, 2 * expected)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
@pytest.mark.parametrize("factor", [1.0, 2.0])
def test_a_second_differentiation_is_an_error(dtype: torch.dtype, factor: float) -> None:
    values, target = make(6, 5, dtype, 0)
    logits = values.requires_grad_()
    loss: Any = cross_entropy(logits, target, reduction="mean")
    (gradient,) = torch.autograd.grad(loss * factor, logits, create_graph=True)
    penalty = gradient.square().sum() + logits.square().sum()
    with pytest.raises(RuntimeError, match="cannot be differentiated again; set HOTLOOP_BACKEND"):
        penalty.backward()


@needs_kernels
def test_the_gradient_is_handed_on_without_a_copy() -> None:
    values, target = make(64, 100, torch.float32, 0)
    logits = values.requires_grad_()
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor
    ):
        loss: Any = cross_entropy(logits, target, reduction="mean")
    assert [tensor.shape for tensor in kept] == [logits.shape]
    address = kept[0].data_ptr()
    kept.clear()
    loss.backward()
    assert logits.grad is not None
    assert logits.grad.data_ptr() == address


def test_without_a_gradient_nothing_is_kept() -> None:
    values, target = make(6, 5, torch.float32, 0)
    with torch.no_grad():
        loss: Any = cross_entropy(values.requires_grad_(), target, reduction="mean")
    assert not loss.requires_grad
    assert not cross_entropy(values.detach(), target)[0].requires_grad


def test_a_loss_scale_saves_small_gradients_in_float16() -> None:
    logits = torch.zeros(4096, 8, dtype=torch.float16, requires_grad=True)
    loss: Any = cross_entropy(logits, torch.zeros(4096).long(), reduction="mean")
    (loss * 2.0**16).backward()
    expected = torch.full((8,), 2.0**16 / 4096 / 8)
    expected[0] -= 2.0**16 / 4096
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad[0].float(), expected, rtol=1e-3, atol=0)


# In place


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("classes", [7, 100])
def test_the_gradient_overwrites_the_logits(dtype: torch.dtype, classes: int) -> None:
    values, target = make(9, classes, dtype, 0)
    leaf = values.clone().requires_grad_()
    logits = leaf * 1
    version = logits._version
    loss: Any = cross_entropy(logits, target, reduction="mean", inplace=True)
    assert logits._version == version + 1
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.data_ptr() == logits.data_ptr()
    again: Any = cross_entropy(leaf, target, reduction="mean")
    again.backward()
    assert leaf.grad is not None
    assert gradient.equal(leaf.grad)


@needs_kernels
@pytest.mark.parametrize("shift", [False, True])
def test_views_are_overwritten_without_a_new_graph(shift: bool) -> None:
    hidden = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 5, (2, 4))
    logits = functional.linear(hidden, weight)
    loss: Any = lm_cross_entropy(logits, target, shift=shift, reduction="mean", inplace=True)
    flat = loss.grad_fn.next_functions[0][0]
    assert "AsStrided" not in flat.name()
    ours = torch.autograd.grad(loss, (hidden, weight))
    assert logits.flatten().data_ptr() == logits.data_ptr()
    theirs: Any = lm_cross_entropy(
        functional.linear(hidden, weight), target, shift=shift, reduction="mean"
    )
    for gradient, expected in zip(ours, torch.autograd.grad(theirs, (hidden, weight))):
        torch.testing.assert_close(gradient, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("inplace", [False, True])
def test_rows_that_share_memory_have_their_own_gradients(inplace: bool) -> None:
    values, _ = make(1, 5, torch.float64, 0)
    leaf = values.requires_grad_()
    target = torch.tensor([0, 1, -100, 4])
    loss: Any = cross_entropy((leaf * 1).expand(4, 5), target, reduction="sum", inplace=inplace)
    (gradient,) = torch.autograd.grad(loss, leaf)
    theirs = functional.cross_entropy(leaf.expand(4, 5), target, reduction="sum")
    torch.testing.assert_close(gradient, torch.autograd.grad(theirs, leaf)[0])


@needs_kernels
def test_autograd_notices_that_logits_are_gone() -> None:
    values, target = make(6, 5, torch.float32, 0)
    leaf = values.requires_grad_()
    # The derivative of tanh is computed from its result.
    logits = leaf.tanh()
    loss: Any = cross_entropy(logits, target, reduction="mean", inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@needs_kernels
def test_autograd_notices_that_the_gradient_is_gone() -> None:
    values, target = make(6, 5, torch.float32, 0)
    logits = values.requires_grad_() * 1
    loss: Any = cross_entropy(logits, target, reduction="mean", inplace=True)
    logits.detach().zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@needs_kernels
def test_a_leaf_is_not_overwritten() -> None:
    values, target = make(6, 5, torch.float32, 0)
    kept = values.clone()
    with pytest.raises(ValueError, match="inplace=True cannot overwrite a leaf"):
        cross_entropy(values.requires_grad_(), target, inplace=True)
    with pytest.raises(ValueError, match="inplace=True cannot overwrite a leaf"):
        lm_cross_entropy(values.view(2, 3, 5), target.view(2, 3), inplace=True)
    assert values.equal(kept)
    # Nor are logits whose gradient nobody wants.
    cross_entropy(values.detach(), target, inplace=True)
    assert values.equal(kept)


# What rows are


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [5, 40])
def test_rows_are_those_of_a_scan(dtype: torch.dtype, classes: int) -> None:
    values, target = make(12, classes, dtype, 0)
    values[3, 1] = math.nan
    target[3] = 2
    for inplace in (False, True):
        logits = values.clone().requires_grad_() * 1
        loss, rows = cross_entropy(
            logits, target, reduction="sum", inplace=inplace, return_rows=True
        )
        assert isinstance(rows, Rows)
        expected = scan_rows(values, target, ignore_index=-100, nll=True, nan="count")
        for ours, theirs in zip(rows[:4], expected[:4]):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0, equal_nan=True)
        assert rows.classes == classes
        assert isinstance(loss, Tensor)
        assert loss.isnan()


def test_rows_of_images_and_tokens_are_in_the_targets_order() -> None:
    logits = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    target = torch.randint(0, 5, (2, 3, 4))
    loss, rows = cross_entropy(logits, target, return_rows=True)
    assert isinstance(loss, LossSum)
    assert rows.target.equal(target.flatten())
    assert rows.predicted.equal(logits.argmax(1).flatten())
    assert rows.nll is not None
    torch.testing.assert_close(rows.nll.sum(), loss.total)

    tokens = logits.flatten(2).transpose(1, 2)
    target = target.flatten(1)
    loss, rows = lm_cross_entropy(tokens, target, shift=True, return_rows=True)
    assert isinstance(loss, LossSum)
    assert rows.rank.view(2, 12)[:, -1].tolist() == [-1, -1]
    assert rows.predicted.view(2, 12)[:, :-1].equal(tokens.argmax(-1)[:, :-1])
    assert rows.target.view(2, 12)[:, :-1].equal(target[:, 1:])
    assert rows.nll is not None
    torch.testing.assert_close(rows.nll.sum(), loss.total)


# The ends


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [6, 40])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_infinite_logits_and_nan_are_torchs(
    dtype: torch.dtype, classes: int, label_smoothing: float
) -> None:
    values, _ = make(7, classes, dtype, 0)
    target = torch.tensor([0, 1, 2, 3, 4, 5, -100])
    values[0, 2] = -math.inf
    values[1, 1] = -math.inf
    values[2, 1] = math.inf
    values[3] = -math.inf
    values[4, 0] = math.nan
    values[6, 0] = -math.inf
    logits, theirs = values.clone().requires_grad_(), values.clone().requires_grad_()
    options: Any = {"label_smoothing": label_smoothing, "reduction": "none"}
    loss: Any = cross_entropy(logits, target, **options)
    expected = functional.cross_entropy(theirs, target, **options)
    torch.testing.assert_close(loss, expected, equal_nan=True)
    loss.sum().backward()
    expected.sum().backward()
    assert logits.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(logits.grad, theirs.grad, equal_nan=True, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_class_has_no_loss(dtype: torch.dtype) -> None:
    logits = torch.randn(4, 1).to(dtype).requires_grad_()
    loss: Any = cross_entropy(logits, torch.tensor([0, 0, -100, 0]), reduction="sum")
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("bad", [-1, 5, 1 << 40])
def test_a_bad_target_is_found_before_anything_is_written(inplace: bool, bad: int) -> None:
    values, target = make(6, 5, torch.float32, 0)
    target[4] = bad
    logits = values.clone().requires_grad_() * 1
    with pytest.raises(IndexError, match=rf"target\[4\] is {bad}|out of (bounds|range)"):
        cross_entropy(logits, target, inplace=inplace)
    assert logits.equal(values)


@needs_kernels
def test_a_bad_target_is_named_by_its_place() -> None:
    target = torch.zeros(2, 3, 4).long()
    target[1, 2, 3] = 9
    with pytest.raises(IndexError, match=r"^target\[1, 2, 3\] is 9, must be in \[0, 5\)"):
        cross_entropy(torch.zeros(2, 5, 3, 4), target)
    with pytest.raises(IndexError, match=r"^target\[2, 3\] is 9, must be in \[0, 5\)"):
        lm_cross_entropy(torch.zeros(3, 4, 5), target[1], shift=True)


@pytest.mark.usefixtures("lenient")
# torch's own, at its first use of forward-mode differentiation.
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_function_transforms_see_torchs_operators() -> None:
    values, target = make(6, 5, torch.float64, 0)

    def loss(logits: Tensor) -> Any:
        return cross_entropy(logits, target, reduction="mean")

    def torchs(logits: Tensor) -> Tensor:
        return functional.cross_entropy(logits, target)

    torch.testing.assert_close(torch.func.grad(loss)(values), torch.func.grad(torchs)(values))
    tangent = torch.randn_like(values)
    for ours, theirs in zip(
        torch.func.jvp(loss, (values,), (tangent,)), torch.func.jvp(torchs, (values,), (tangent,))
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"z_loss": -1.0}, "z_loss must be .* got -1.0"),
        ({"z_loss": None}, "z_loss must be .* got None"),
        ({"label_smoothing": None}, "label_smoothing must be .* got None"),
    ],
)
def test_options_are_checked(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        cross_entropy(torch.zeros(2, 3), torch.zeros(2).long(), **options)


@pytest.mark.parametrize("options", [{"z_loss": 0.1}, {"return_rows": True}])
def test_probabilities_have_no_rows(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="need targets that are class indices"):
        cross_entropy(torch.zeros(2, 3), torch.zeros(2, 3), **options)
