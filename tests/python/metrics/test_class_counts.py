"""Counters of classes against plain counting in Python: one pass, and nothing of a bad batch."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hotloop.metrics.classification import class_counts
from hotloop.metrics.classification.class_counts import (
    ClassCounts,
    Counter,
    Counts,
    Place,
    count_class_scores,
)
from hotloop.metrics.classification.label_counts import LabelCounts
from hotloop.rows import scan_rows

SHARED = Path(__file__).resolve().parents[3] / "shared"
INTEGERS = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16]
FLOATS = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
COUNTERS = [Counter.SAMPLES, Counter.CLASSES, Counter.CONFUSION]


def strided(tensor: Tensor, is_strided: bool) -> Tensor:
    """Return a tensor with other elements between its own."""
    if not is_strided:
        return tensor
    other = torch.stack((tensor, torch.ones_like(tensor)), -1)
    return other.select(-1, 0)


def expected(
    counter: int,
    classes: int,
    preds: list[int],
    target: list[int],
    weights: list[float],
    ignored: int | None,
) -> list[Any]:
    """Return what has to be counted; a prediction of -1 is none."""
    shapes = {Counter.SAMPLES: (2,), Counter.CLASSES: (3, classes)}
    counts = torch.zeros(shapes.get(counter, (classes, classes)), dtype=torch.float64)
    for pred, actual, weight in zip(preds, target, weights):
        if actual == ignored:
            continue
        if counter == Counter.SAMPLES:
            counts[0] += weight * (pred == actual)
            counts[1] += weight
        elif counter == Counter.CONFUSION:
            counts[actual, pred] += weight
        else:
            counts[0, actual] += weight * (pred == actual)
            counts[2, actual] += weight
            if pred >= 0:
                counts[1, pred] += weight
    return counts.tolist()


def counted(counts: Counts) -> Any:
    return None if counts.counts is None else counts.counts.tolist()


@st.composite
def batches(draw: st.DrawFn) -> dict[str, Any]:
    count = draw(st.sampled_from([*range(68), 1023, 1024, 1025, 2300]))
    classes = draw(st.integers(1, 12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    ignored = draw(st.sampled_from([None, 0, -100, 100]))
    target = torch.randint(0, classes, (count,), generator=generator)
    if ignored is not None:
        target[torch.rand(count, generator=generator) < 0.2] = ignored
    # As a low-precision dtype would round: weights whose sums are exact in any order.
    weights = torch.randint(0, 8, (count,), generator=generator) / 4
    return {
        "classes": classes,
        "ignored": ignored,
        "target": target,
        "preds": torch.randint(0, classes, (count,), generator=generator),
        "scores": torch.randint(0, 4, (count, classes), generator=generator) / 2,
        "weights": weights if draw(st.booleans()) else None,
        "cut": draw(st.integers(0, count)),
    }


def weights_of(batch: dict[str, Any]) -> list[float]:
    weights = batch["weights"]
    return [1.0] * len(batch["target"]) if weights is None else weights.tolist()


def update_in_parts(counts: Counts, preds: Tensor, target: Tensor, batch: dict[str, Any]) -> None:
    weights = batch["weights"]
    for part in (slice(None, batch["cut"]), slice(batch["cut"], None)):
        counts.update(preds[part], target[part], None if weights is None else weights[part])


@given(
    batch=batches(),
    counter=st.sampled_from(COUNTERS),
    dtypes=st.tuples(st.sampled_from(INTEGERS), st.sampled_from(INTEGERS)),
    is_strided=st.booleans(),
)
def test_labels(
    batch: dict[str, Any],
    counter: int,
    dtypes: tuple[torch.dtype, torch.dtype],
    is_strided: bool,
) -> None:
    preds, target = batch["preds"], batch["target"]
    if batch["ignored"] == -100:
        dtypes = (dtypes[0], torch.int8)
    counts = ClassCounts(counter, batch["classes"], batch["ignored"])
    update_in_parts(
        counts,
        strided(preds.to(dtypes[0]), is_strided),
        strided(target.to(dtypes[1]), is_strided),
        batch,
    )
    assert counted(counts) == expected(
        counter,
        batch["classes"],
        preds.tolist(),
        target.tolist(),
        weights_of(batch),
        batch["ignored"],
    )
    dtype = torch.int64 if batch["weights"] is None else torch.float64
    assert counts.counts is not None
    assert counts.counts.dtype == dtype


@given(
    batch=batches(),
    counter=st.sampled_from(COUNTERS),
    dtype=st.sampled_from(FLOATS),
    is_strided=st.booleans(),
    target_dtype=st.sampled_from([torch.int64, torch.int8, torch.int32]),
)
def test_scores_with_ties(
    batch: dict[str, Any],
    counter: int,
    dtype: torch.dtype,
    is_strided: bool,
    target_dtype: torch.dtype,
) -> None:
    scores, target = batch["scores"], batch["target"]
    preds = [row.index(max(row)) for row in scores.tolist()]
    counts = ClassCounts(counter, None, batch["ignored"])
    update_in_parts(counts, strided(scores.to(dtype), is_strided), target.to(target_dtype), batch)
    assert counted(counts) == expected(
        counter, batch["classes"], preds, target.tolist(), weights_of(batch), batch["ignored"]
    )


@given(batch=batches(), counter=st.sampled_from(COUNTERS[:2]), top_k=st.integers(2, 12))
def test_top_k_of_scores_with_ties(batch: dict[str, Any], counter: int, top_k: int) -> None:
    scores, target, classes = batch["scores"], batch["target"], batch["classes"]
    counts = ClassCounts(counter, None, batch["ignored"], top_k)
    if top_k > classes:
        message = f"top_k={top_k} needs as many classes, got scores of {classes}"
        with pytest.raises(ValueError, match=message):
            counts.update(scores, target)
        return
    preds = []
    for row, actual in zip(scores.tolist(), target.tolist()):
        best = sorted(range(classes), key=lambda i: (-row[i], i))[:top_k]
        preds.append(actual if actual in best else -1)
    update_in_parts(counts, scores, target, batch)
    assert counted(counts) == expected(
        counter, classes, preds, target.tolist(), weights_of(batch), batch["ignored"]
    )


def test_several_counters_count_one_pass_alike() -> None:
    scores, target = torch.rand(50, 7), torch.randint(0, 7, (50,))
    alone = [
        ClassCounts(counter, None, 3, k) for counter, k in itertools.product(COUNTERS[:2], (1, 4))
    ]
    alone.append(ClassCounts(Counter.CONFUSION, 7, 3))
    together = [ClassCounts(each.counter, each.num_classes, 3, each.top_k) for each in alone]
    for weight in (None, torch.rand(50), None):
        for counts in alone:
            counts.update(scores, target, weight)
        count_class_scores(scores, target, weight, together)
        assert list(map(counted, alone)) == list(map(counted, together))
    # More than the kernel takes at once.
    many = [ClassCounts(Counter.CLASSES) for _ in range(class_counts.COUNTERS_MAX + 1)]
    count_class_scores(scores, target, None, many)
    assert len({str(counted(counts)) for counts in many}) == 1


@pytest.mark.parametrize("counter", COUNTERS)
def test_more_dimensions(counter: int) -> None:
    scores, target = torch.rand(4, 5, 3, 2), torch.randint(0, 5, (4, 3, 2))
    weight = torch.randint(0, 5, (4, 3, 2)) / 4
    flat, labels, whole = (ClassCounts(counter, 5, 2) for _ in range(3))
    flat.update(scores.permute(0, 2, 3, 1).reshape(-1, 5), target.flatten(), weight.flatten())
    labels.update(scores.argmax(1), target, weight)
    whole.update(scores, target, weight)
    assert counted(flat) == counted(labels) == counted(whole)


@pytest.mark.parametrize("counter", COUNTERS)
@pytest.mark.parametrize("name", ["preds", "target"])
@pytest.mark.parametrize("index", [0, 7, 8, 1023, 1024, 2999])
@pytest.mark.parametrize("bad", [-1, 6, 1 << 40])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_the_first_bad_label_is_named(
    counter: int, name: str, index: int, bad: int, is_weighted: bool
) -> None:
    good = torch.randint(0, 6, (3000,))
    weight = torch.ones(3000) if is_weighted else None
    counts = ClassCounts(counter, 6, ignore_index=9)
    counts.update(good, good, weight)
    before = counted(counts)
    labels = {"preds": good.clone(), "target": good.clone()}
    labels[name][index:] = bad
    labels["target"][:index] = 9
    labels["preds"][:index] = -7
    other = " or ignore_index=9" if name == "target" else ""
    message = rf"^{name}\[{index}\] is {bad}, must be in \[0, 6\){other}$"
    with pytest.raises(ValueError, match=message):
        counts.update(**labels, weight=weight)
    assert counted(counts) == before
    # Where both are bad, it is the target.
    labels = {"preds": labels[name], "target": labels[name]}
    with pytest.raises(
        ValueError, match=rf"^target\[{0 if name == 'preds' and index else index}\]"
    ):
        counts.update(**labels)
    assert counted(counts) == before


def test_a_refused_first_batch_leaves_nothing() -> None:
    counts = ClassCounts(Counter.CLASSES)
    with pytest.raises(ValueError, match=r"target\[2\] is 4, must be in \[0, 4\)"):
        counts.update(torch.rand(3, 4), torch.tensor([0, 1, 4]))
    assert counts.counts is None
    counts.update(torch.rand(3, 5), torch.tensor([0, 1, 4]))
    labels = LabelCounts("multilabel")
    with pytest.raises(ValueError, match=r"target\[0, 1\] is 2, must be 0 or 1$"):
        labels.update(torch.tensor([[0, 1]]), torch.tensor([[0, 2]]))
    assert labels.counts is None


@pytest.mark.parametrize("rows", [3, 2000])
def test_bad_scores_are_named(rows: int) -> None:
    scores, target = torch.rand(rows, 20), torch.randint(0, 20, (rows,))
    counters = [ClassCounts(Counter.CONFUSION), ClassCounts(Counter.SAMPLES, None, None, 3)]
    count_class_scores(scores, target, None, counters)
    before = list(map(counted, counters))
    scores[2, 7] = math.nan
    with pytest.raises(ValueError, match="row 2 of the scores has NaN"):
        count_class_scores(scores, target, None, counters)
    target[1] = 20
    with pytest.raises(ValueError, match=r"target\[1\] is 20, must be in \[0, 20\)$"):
        count_class_scores(scores, target, None, counters)
    assert list(map(counted, counters)) == before


@pytest.mark.parametrize("weight", [-0.5, math.nan, math.inf])
@pytest.mark.parametrize("rows", [5, 3000])
def test_bad_weights_are_named(weight: float, rows: int) -> None:
    weights = torch.ones(rows, dtype=torch.float64)
    weights[3] = weight
    target = torch.zeros(rows, dtype=torch.int64)
    message = rf"^weight\[3\] is {weight}, must be finite and at least 0$"
    cases: list[tuple[Counts, Tensor, Tensor]] = [
        (ClassCounts(Counter.CLASSES, 2), target, target),
        (ClassCounts(Counter.CLASSES, 2), torch.rand(rows, 2), target),
        (LabelCounts("binary"), torch.rand(rows), target),
        (LabelCounts("multilabel"), torch.rand(rows, 3), target[:, None].expand(rows, 3)),
    ]
    for counts, preds, labels in cases:
        with pytest.raises(ValueError, match=message):
            counts.update(preds, labels, weights)
        assert counts.counts is None


def test_shapes_and_dtypes_that_do_not_fit() -> None:
    counts = ClassCounts(Counter.CLASSES, 4)
    target = torch.zeros(3, dtype=torch.int64)
    cases: list[tuple[Tensor, Tensor, Tensor | None, str]] = [
        (target[:2], target, None, r"of shape \(2,\) for \(3,\)"),
        (
            torch.zeros(3),
            target,
            None,
            r"shape \(N, C, ...\) and target shape \(N, ...\), got \(3,\)",
        ),
        (torch.zeros(3, 4), target[:2], None, r"got \(3, 4\) and \(2,\)"),
        (torch.zeros(3, 4, 2), target, None, r"got \(3, 4, 2\) and \(3,\)"),
        (torch.zeros(3, 5), target, None, "preds must be scores of 4 classes, got 5"),
        (
            target,
            torch.zeros(3),
            None,
            "target must be an integer or bool tensor, got torch.float32",
        ),
        (target.to(torch.complex64), target, None, "preds must be an integer or bool tensor"),
        (target, target, torch.ones(2), r"a value for each sample, shape \(3,\), got \(2,\)"),
    ]
    for preds, labels, weight, message in cases:
        with pytest.raises(ValueError, match=message):
            counts.update(preds, labels, weight)
    with pytest.raises(ValueError, match=r"top_k=2 needs scores, got labels of torch\.int64"):
        ClassCounts(Counter.SAMPLES, 4, None, 2).update(target, target)
    with pytest.raises(ValueError, match="num_classes must be given where the first predictions"):
        ClassCounts(Counter.CLASSES).update(target, target)
    counts = ClassCounts(Counter.SAMPLES)
    counts.update(target + 2**40, target + 2**40)
    with pytest.raises(ValueError, match=r"preds\[0\] is -1, must be at least 0$"):
        counts.update(target - 1, target)
    assert counted(counts) == [3, 3]


def test_rows_that_were_read_otherwise_are_refused() -> None:
    scores, target = torch.rand(4, 5), torch.tensor([1, -100, 2, 0])
    rows = scan_rows(scores, target, ignore_index=-100)
    with pytest.raises(ValueError, match=r"target\[1\] is -100, must be in \[0, 5\)$"):
        ClassCounts(Counter.CLASSES).update_rows(rows)
    rows = scan_rows(scores, target.clamp(0), ignore_index=2)
    for top_k in (1, 3):
        with pytest.raises(ValueError, match=r"preds\[2\] is -1, must be in \[0, 5\)$"):
            ClassCounts(Counter.SAMPLES, None, None, top_k).update_rows(rows)
    counts = ClassCounts(Counter.CLASSES, None, -100)
    counts.update_rows(scan_rows(scores, target, ignore_index=-100), torch.ones(4))
    other = ClassCounts(Counter.CLASSES, None, -100)
    other.update(scores, target)
    assert counted(counts) == counted(other)
    with pytest.raises(ValueError, match="preds must be scores of 5 classes, got 6"):
        counts.update_rows(scan_rows(torch.rand(4, 6), target, ignore_index=-100))


@given(
    count=st.sampled_from([*range(68), 1025]),
    labels=st.integers(1, 9),
    kinds=st.tuples(
        st.sampled_from([*FLOATS, *INTEGERS, torch.bool]), st.sampled_from([*INTEGERS, torch.bool])
    ),
    ignored=st.sampled_from([None, 0, 2]),
    is_weighted=st.booleans(),
    is_strided=st.booleans(),
    threshold=st.sampled_from([0.0, 0.3, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
def test_binary_labels(
    count: int,
    labels: int,
    kinds: tuple[torch.dtype, torch.dtype],
    ignored: int | None,
    is_weighted: bool,
    is_strided: bool,
    threshold: float,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, 2, (count, labels), generator=generator)
    if ignored == 2 and kinds[1] != torch.bool:
        target[torch.rand(count, labels, generator=generator) < 0.2] = 2
    preds = torch.randint(0, 11, (count, labels), generator=generator) / 10
    weights = torch.randint(0, 8, (count,), generator=generator) / 4 if is_weighted else None
    if not kinds[0].is_floating_point:
        preds, threshold = preds.round(), 0.5
    preds = preds.to(kinds[0])
    # As torch compares: with the threshold in the dtype of the scores.
    chosen = (preds > threshold).tolist() if kinds[0].is_floating_point else preds.bool().tolist()
    expected = torch.zeros(labels, 2, 2, dtype=torch.float64)
    for i, j in itertools.product(range(count), range(labels)):
        if target[i, j] != ignored:
            weight = 1.0 if weights is None else weights[i].item()
            expected[j, int(target[i, j]), int(chosen[i][j])] += weight
    counts = LabelCounts("multilabel", None, threshold, ignore_index=ignored)
    counts.update(strided(preds, is_strided), strided(target.to(kinds[1]), is_strided), weights)
    assert counted(counts) == expected.tolist()
    flat = LabelCounts("binary", threshold=threshold, ignore_index=ignored)
    weights = None if weights is None else weights[:, None].expand(count, labels)
    flat.update(preds, target.to(kinds[1]), weights)
    assert counted(flat) == expected.sum(0, keepdim=True).tolist()


def test_labels_with_more_dimensions() -> None:
    preds, target = torch.rand(4, 3, 5), torch.randint(0, 2, (4, 3, 5))
    weight = torch.randint(0, 5, (4, 5)) / 4
    whole, flat = LabelCounts("multilabel"), LabelCounts("multilabel")
    whole.update(preds, target, weight)
    flat.update(
        preds.transpose(1, 2).reshape(-1, 3),
        target.transpose(1, 2).reshape(-1, 3),
        weight.flatten(),
    )
    assert counted(whole) == counted(flat)
    preds[2, 1, 3] = 1.5
    with pytest.raises(ValueError, match=r"^preds\[2, 1, 3\] is 1.5, must be a probability in"):
        whole.update(preds, target, weight)


@pytest.mark.parametrize("dtype", FLOATS)
def test_logits_are_compared_with_the_logit_of_the_threshold(dtype: torch.dtype) -> None:
    scores = torch.tensor([-5.0, -0.5, 0.0, 0.5, 5.0], dtype=dtype)
    target = torch.ones(5, dtype=torch.int64)
    for threshold, positives in ((0.5, 2), (0.6, 2), (0.7, 1), (0.3, 4), (0.0, 5), (1.0, 0)):
        counts = LabelCounts("binary", threshold=threshold, logits=True)
        counts.update(scores, target)
        assert counted(counts) == [[[0, 0], [5 - positives, positives]]]


@pytest.mark.parametrize("index", [0, 8, 1500])
@pytest.mark.parametrize("dtype", FLOATS)
def test_scores_that_are_no_probabilities_are_named(index: int, dtype: torch.dtype) -> None:
    scores = torch.rand(1600).to(dtype)
    target = torch.ones(1600, dtype=torch.int64)
    counts = LabelCounts("binary", ignore_index=0)
    counts.update(scores, target)
    before = counted(counts)
    for bad in (-0.5, 1.5, math.nan, math.inf):
        scores[index] = bad
        message = (
            rf"preds\[{index}\] is {bad}, must be a probability in \[0, 1\], or logits with "
            "logits=True"
        )
        with pytest.raises(ValueError, match=message):
            counts.update(scores, target)
    logits = LabelCounts("binary", logits=True)
    logits.update(scores, target)
    scores[index] = math.nan
    with pytest.raises(ValueError, match=rf"preds\[{index}\] is nan, must be a number$"):
        logits.update(scores, target)
    assert counted(counts) == before
    target[index] = 0
    counts.update(scores, target)


def test_label_shapes_that_do_not_fit() -> None:
    target = torch.zeros(4, 3, dtype=torch.int64)
    counts = LabelCounts("multilabel")
    with pytest.raises(ValueError, match=r"must have the shape of target, got \(4,\) for \(4, 3\)"):
        counts.update(torch.rand(4), target)
    with pytest.raises(ValueError, match=r"target must have shape \(N, L, ...\) for the labels of"):
        counts.update(torch.rand(4), target[:, 0])
    counts.update(torch.rand(4, 3), target)
    with pytest.raises(ValueError, match=r"target must have shape \(N, 3, ...\) .* got \(4, 2\)"):
        counts.update(torch.rand(4, 2), target[:, :2])
    with pytest.raises(ValueError, match=r"shape \(4,\), got \(4, 3\)"):
        counts.update(target, target, torch.ones(4, 3))
    with pytest.raises(ValueError, match=r"^preds\[1, 0\] is 2, must be 0 or 1$"):
        counts.update(target + 2 * (torch.arange(4) == 1)[:, None], target)


class Elsewhere(torch.Tensor):
    """A tensor like those of a device that nobody waits for."""

    is_cpu = property(lambda self: False)


def elsewhere(tensor: Tensor) -> Tensor:
    return tensor.as_subclass(Elsewhere)


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("what", ["labels", "scores", "top-k", "binary"])
def test_another_device_counts_what_is_wrong_and_leaves_its_batch_out(what: str) -> None:
    target = torch.randint(0, 2, (40,))
    preds = {"labels": torch.randint(0, 2, (40,)), "binary": torch.rand(40)}.get(
        what, torch.rand(40, 2)
    )

    def make() -> Counts:
        if what == "binary":
            return LabelCounts("binary")
        if what == "top-k":
            return ClassCounts(Counter.CLASSES, 2, top_k=2)
        return ClassCounts(Counter.CONFUSION, 2)

    here, there = make(), make()
    here.update(preds, target)
    there.update(elsewhere(preds), elsewhere(target))
    assert counted(here) == counted(there)
    there.check()
    bad = target.clone()
    bad[[3, 5]] = 7
    there.update(elsewhere(preds), elsewhere(bad))
    assert counted(here) == counted(there)
    with pytest.raises(ValueError, match="2 values of target, preds or weight were not allowed"):
        there.check()
    if preds.is_floating_point():
        preds[2] = math.nan
        there.update(elsewhere(preds), elsewhere(target), elsewhere(torch.ones(40)))
        assert counted(here) == counted(there)
        with pytest.raises(ValueError, match=r"^3 values"):
            there.check()


@pytest.mark.parametrize("kind", ["labels", "scores", "binary"])
def test_counting_goes_on_after_inference_mode(kind: str) -> None:
    target = torch.randint(0, 2, (9,))
    preds = {"labels": target, "scores": torch.rand(9, 2), "binary": torch.rand(9)}[kind]
    for counter in COUNTERS:
        counts = LabelCounts("binary") if kind == "binary" else ClassCounts(counter, 2)
        with torch.inference_mode():
            counts.update(preds, target)
        once = torch.tensor(counted(counts))
        counts.update(preds, target)
        assert counted(counts) == (2 * once).tolist()


def test_scores_with_a_graph_are_read() -> None:
    scores = torch.rand(9, 3, requires_grad=True)
    counts = ClassCounts(Counter.CLASSES)
    counts.update(scores * 2, torch.randint(0, 3, (9,)))
    counts.update(torch.nn.Parameter(torch.rand(9, 3)), torch.randint(0, 3, (9,)))
    assert counts.counts is not None
    assert not counts.counts.requires_grad
    labels = LabelCounts("binary")
    labels.update(scores[:, 0].sigmoid(), torch.randint(0, 2, (9,)), scores[:, 1])
    assert labels.counts is not None
    assert not labels.counts.requires_grad


@pytest.mark.usefixtures("lenient")
def test_scores_in_a_dtype_without_kernels() -> None:
    scores = torch.randint(0, 4, (9, 3)).to(torch.float8_e5m2)
    target = torch.randint(0, 2, (9,))
    binary = LabelCounts("binary")
    binary.update((scores[:, 0].float() / 4).to(torch.float8_e5m2), target)
    other = LabelCounts("binary")
    other.update(scores[:, 0].float() / 4, target)
    assert counted(binary) == counted(other)


def test_counters_take_from_richer_ones_and_join() -> None:
    preds, target = torch.randint(0, 5, (90,)), torch.randint(0, 5, (90,))
    counts = [ClassCounts(counter, 5) for counter in COUNTERS]
    for each in counts:
        each.update(preds, target)
    for poor, rich in itertools.combinations_with_replacement(range(3), 2):
        taker = ClassCounts(COUNTERS[poor], 5)
        taker.take(counts[rich])
        assert counted(taker) == counted(counts[poor])
        assert taker.counts is not counts[rich].counts
    joined = counts[0].joined([ClassCounts(Counter.SAMPLES), *counts])
    assert (joined.counter, joined.num_classes) == (Counter.CONFUSION, 5)
    with pytest.raises(ValueError, match=r"one num_classes, got \[4, 5\]"):
        counts[0].joined([ClassCounts(Counter.CLASSES, 4), *counts])


@pytest.mark.parametrize("counter", COUNTERS)
def test_states(counter: int) -> None:
    preds, target = torch.randint(0, 5, (90,)), torch.randint(0, 5, (90,))
    first = ClassCounts(counter, 5)
    first.update(preds, target, torch.rand(90))
    second = ClassCounts(counter)
    second.state = first.state
    assert counted(second) == counted(first)
    second.add(first.state)
    assert second.counts is not first.counts
    # Kernels write to what a state gives in another order, too.
    assert first.counts is not None
    turned = first.counts.mT.contiguous().mT if counter else first.counts
    second.state = {"counts": turned, "invalid": 0}
    second.update(preds, target)
    first.update(preds, target)
    assert counted(second) == counted(first)
    if counter != Counter.SAMPLES:
        with pytest.raises(ValueError, match="only counts of as many classes can be merged"):
            second.add(ClassCounts(counter).state | {"counts": torch.zeros(first._shape(4))})
        with pytest.raises(ValueError, match="do not fit"):
            first.state = {"counts": torch.zeros(first._shape(4), dtype=torch.int64), "invalid": 0}
    with pytest.raises(ValueError, match="do not fit"):
        first.state = {"counts": torch.zeros(7, 5, dtype=torch.int64), "invalid": 0}
    with pytest.raises(ValueError, match=r"must be torch\.int64 or torch\.float64, got"):
        first.state = {"counts": torch.zeros(5, 5), "invalid": 0}


def read_numbers(file: str, struct: str) -> dict[str, int]:
    source = (SHARED / file).read_text()
    (body,) = re.findall(rf"^struct {struct}:\n(.*?)(?=^\S|\Z)", source, re.MULTILINE | re.DOTALL)
    return {name: int(value) for name, value in re.findall(r"comptime (\w+) = (\d+)", body)}


def test_numbers_are_those_of_mojo() -> None:
    for kind, file in (
        (Counter, "training/metrics/class_counts.mojo"),
        (Place, "training/metrics/labels.mojo"),
    ):
        ours = {name: value for name, value in vars(kind).items() if name.isupper()}
        assert read_numbers(file, kind.__name__) == ours
    labels = (SHARED / "training/metrics/labels.mojo").read_text()
    assert f"comptime BLOCK = {class_counts.ROWS_MAX}\n" in labels
    bindings = (SHARED / "bindings/counts.mojo").read_text()
    assert f"comptime COUNTERS_MAX = {class_counts.COUNTERS_MAX}\n" in bindings
