"""Metrics of predicted tokens against plain sums over them."""

from __future__ import annotations

import math
import pickle
import re
from typing import Any

import pytest
import torch
import torchmetrics.text
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hotloop import EmptyMetricError
from hotloop.losses import lm_cross_entropy
from hotloop.metrics import BitsPerByte, Perplexity, TokenAccuracy
from hotloop.rows import scan_rows
from hotloop.testing import assert_state_roundtrip
from tests.python.metrics.batches import CUTS, every_order, pieces

VOCABULARY = 7
BYTES = torch.tensor([1, 4, 0, 2, 2, 9, 0])
EACH = [Perplexity, TokenAccuracy, BitsPerByte, lambda: BitsPerByte(BYTES)]


@st.composite
def batches(draw: Any) -> dict[str, Any]:
    """Draw logits with ties, tokens of which some are ignored, weights and a split."""
    count = draw(st.integers(1, 67))
    dtype = draw(st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]))
    numbers = st.one_of(st.integers(-3, 3).map(float), st.floats(-30, 30, width=16))
    size = count * VOCABULARY
    logits = torch.tensor(draw(st.lists(numbers, min_size=size, max_size=size))).to(dtype)
    tokens = st.integers(-1, VOCABULARY - 1)
    target = torch.tensor(draw(st.lists(tokens, min_size=count, max_size=count)))
    weights = st.lists(st.sampled_from([0.0, 1.0, 0.5]), min_size=count, max_size=count)
    return {
        "logits": logits.view(count, VOCABULARY),
        "target": target.to(draw(st.sampled_from([torch.int64, torch.int32, torch.int8]))),
        "weight": torch.tensor(draw(weights)) if draw(st.booleans()) else None,
        "cuts": pieces(count, draw(CUTS)),
    }


def expected_values(batch: dict[str, Any]) -> dict[str, float] | None:
    """Return the value of each metric, by loops; None if no token counts."""
    nll = accuracy = weight = length = text_nll = 0.0
    rows = -batch["logits"].double().log_softmax(1)
    weights = batch["weight"]
    for index, token in enumerate(batch["target"].tolist()):
        if token < 0:
            continue
        factor = 1.0 if weights is None else float(weights[index])
        row = batch["logits"][index].tolist()
        weight += factor
        nll += factor * float(rows[index, token])
        accuracy += factor * (row.index(max(row)) == token)
        length += factor * int(BYTES[token])
        text_nll += factor * float(rows[index, token]) * bool(BYTES[token])
    if weight == 0 or length == 0:
        return None
    return {
        "perplexity": math.exp(nll / weight),
        "accuracy": accuracy / weight,
        "bits": nll / weight / math.log(2),
        "text": text_nll / math.log(2) / length,
    }


def make(**options: Any) -> dict[str, Any]:
    return {
        "perplexity": Perplexity(**options),
        "accuracy": TokenAccuracy(**options),
        "bits": BitsPerByte(**options),
        "text": BitsPerByte(BYTES, **options),
    }


@given(batches())
def test_any_split_and_order_of_merges(batch: dict[str, Any]) -> None:
    expected = expected_values(batch)
    if expected is None:
        return
    # Likelihoods of narrow logits are float32.
    tolerance = 1e-12 if batch["logits"].dtype == torch.float64 else 1e-5
    parts = [make(ignore_index=-1) for _ in batch["cuts"]]
    for part, piece in zip(parts, batch["cuts"]):
        weight = None if batch["weight"] is None else batch["weight"][piece]
        for metric in part.values():
            metric.update(batch["logits"][piece], batch["target"][piece], weight)
    for name, value in expected.items():
        found = {metric.compute() for metric in every_order([part[name] for part in parts])}
        assert len(found) == 1
        assert found.pop() == pytest.approx(value, rel=tolerance)


@pytest.mark.parametrize("has_weights", [False, True])
def test_sequences_are_counted_as_rows(has_weights: bool) -> None:
    logits = torch.randn(3, 5, VOCABULARY)
    target = torch.randint(0, VOCABULARY, (3, 5))
    target[1, 2:] = -100
    weight = torch.rand(3, 5) if has_weights else None
    rows = scan_rows(logits.view(15, -1), target.view(15), ignore_index=-100, nll=True)
    by_sequence, by_row, from_rows = make(), make(), make()
    for name in by_sequence:
        flat = None if weight is None else weight.flatten()
        by_sequence[name].update(logits, target, weight)
        by_row[name].update(logits.view(15, -1), target.view(15), flat)
        from_rows[name].update_rows(rows, flat)
        assert by_sequence[name].compute() == by_row[name].compute() == from_rows[name].compute()
    transposed = Perplexity()
    transposed.update(logits.transpose(0, 1), target.T, None if weight is None else weight.T)
    assert transposed.compute() == pytest.approx(by_sequence["perplexity"].compute(), rel=1e-7)


def test_perplexity_is_that_of_torchmetrics() -> None:
    logits, target = torch.randn(4, 9, 30), torch.randint(0, 30, (4, 9))
    target[2, 4:] = -100
    peer, metric = torchmetrics.text.Perplexity(ignore_index=-100), Perplexity()
    for row in range(4):
        peer.update(logits[row : row + 1], target[row : row + 1])
        metric.update(logits[row : row + 1], target[row : row + 1])
    assert metric.compute() == pytest.approx(float(peer.compute()), rel=1e-6)


def test_a_long_batch_counts_for_more_than_a_short_one() -> None:
    metric = Perplexity()
    metric.update_sum(torch.tensor(90.0), 90)
    metric.update_sum(30.0, torch.tensor(10))
    assert metric.compute() == math.exp(1.2)


def test_sums_of_a_loss_are_as_good_as_logits() -> None:
    logits = torch.randn(2, 6, VOCABULARY, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, VOCABULARY, (2, 6))
    target[0, 3:] = -100
    summed, counted = make(), make()
    total, count = lm_cross_entropy(logits, target)
    for name in ("perplexity", "bits"):
        summed[name].update_sum(total, count)
        counted[name].update(logits, target)
        assert summed[name].compute() == pytest.approx(counted[name].compute(), rel=1e-12)
    text = "naïve"
    metric = BitsPerByte()
    metric.update_sum(7.0, len(text.encode()))
    assert metric.compute() == 7 / math.log(2) / 6


def test_a_perplexity_without_end() -> None:
    metric = Perplexity()
    metric.update_sum(709.7 * 3, 3)
    assert math.isfinite(metric.compute())
    metric.update_sum(1e6, 1)
    assert metric.compute() == math.inf
    metric.reset()
    metric.update(torch.tensor([[0.0, -math.inf]]), torch.tensor([1]))
    assert metric.compute() == math.inf


def test_what_is_ignored_may_be_anything() -> None:
    logits = torch.randn(4, VOCABULARY)
    logits[2] = math.nan
    target = torch.tensor([1, 3, 99, 0])
    for metric in make(ignore_index=99).values():
        metric.update(logits, target)
        plain = type(metric)(
            **({"token_bytes": BYTES} if metric._options().get("token_bytes") else {})
        )
        plain.update(logits[[0, 1, 3]], target[[0, 1, 3]])
        assert metric.compute() == plain.compute()
    with pytest.raises(ValueError, match=r"target\[2\] is 99, must be in \[0, 7\)"):
        Perplexity(ignore_index=None).update(logits, target)
    with pytest.raises(ValueError, match="row 2 of the scores has NaN"):
        Perplexity().update(logits, torch.tensor([1, 3, 2, 0]))


@pytest.mark.parametrize("make_one", EACH)
def test_what_is_refused(make_one: Any) -> None:
    metric = make_one()
    logits, target = torch.randn(4, VOCABULARY), torch.tensor([1, 2, 3, 4])
    for preds, tokens in ((logits, target[:3]), (logits[0], target[0]), (logits.T, target)):
        message = re.escape(f"got {tuple(preds.shape)} and {tuple(tokens.shape)}")
        with pytest.raises(ValueError, match=message):
            metric.update(preds, tokens)
    with pytest.raises(ValueError, match=r"weight must have the shape of target, \(4,\), got \(3,"):
        metric.update(logits, target, torch.ones(3))
    with pytest.raises(ValueError, match=r"weight\[2\] is -1.0, must be finite and at least 0"):
        metric.update(logits, target, torch.tensor([1.0, 1, -1, 1]))
    with pytest.raises(ValueError, match=r"weight must have shape \(4,\), got \(5,\)"):
        metric.update_rows(scan_rows(logits, target, nll=True), torch.ones(5))
    if not isinstance(metric, TokenAccuracy):
        with pytest.raises(ValueError, match="needs rows with nll; scan them with nll=True"):
            metric.update_rows(scan_rows(logits, target))
    for nothing in (torch.full((4,), -100), target):
        metric.update(logits, nothing, torch.zeros(4))
        with pytest.raises(EmptyMetricError, match=f"{type(metric).__name__} has counted nothing"):
            metric.compute()


def test_lengths_of_tokens() -> None:
    for lengths in ([[1, 2]], [1, -1]):
        with pytest.raises(ValueError, match=r"token_bytes must have shape \(V,\) and no negative"):
            BitsPerByte(lengths)  # type: ignore[arg-type]
    metric = BitsPerByte([1, 2, 3])
    with pytest.raises(ValueError, match="token_bytes has 3 tokens, and the logits 7"):
        metric.update(torch.randn(1, VOCABULARY), torch.tensor([1]))
    with pytest.raises(ValueError, match="only a metric like BitsPerByte"):
        metric.merge(BitsPerByte([1, 2, 4]))
    metric.merge(BitsPerByte(torch.tensor([1, 2, 3], dtype=torch.uint8)))


@pytest.mark.parametrize("make_one", EACH)
def test_a_metric_goes_on_from_its_state(make_one: Any) -> None:
    logits, target = torch.randn(20, VOCABULARY), torch.randint(0, VOCABULARY, (20,))
    first, second = make_one(), make_one()
    first.update(logits, target)
    second.update(logits[3:5], target[3:5])
    assert_state_roundtrip(first, second)
    for metric in (first, second):
        metric.update(logits[:7], target[:7])
    assert first.compute() == second.compute()
    assert pickle.loads(pickle.dumps(first)).compute() == first.compute()


def test_units_and_which_way_is_better() -> None:
    kinds: list[Any] = [Perplexity, BitsPerByte, TokenAccuracy]
    assert [kind.higher_is_better for kind in kinds] == [False, False, True]
    assert [kind.unit for kind in kinds] == ["", "bit/B", ""]


def test_logits_with_a_graph_are_left_alone() -> None:
    logits: Tensor = torch.randn(5, VOCABULARY, requires_grad=True)
    for metric in make().values():
        metric.update(logits * 2, torch.tensor([0, 1, 2, 3, 4]))
        assert all(
            not value.requires_grad
            for value in metric.state_dict().values()
            if isinstance(value, Tensor)
        )
