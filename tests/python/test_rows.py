"""`scan_rows` against definitions written out in float64, on both backends."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hotloop.rows import Rows, scan_rows

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
#: Of a likelihood: a few roundings of what it is computed in.
RTOL = {torch.float64: 1e-12}

CASE: dict[str, Any] = {
    "rows": st.integers(0, 40),
    "classes": st.one_of(st.integers(1, 67), st.sampled_from([127, 128, 129, 1000])),
    "dtype": st.sampled_from(DTYPES),
    "levels": st.sampled_from([2, 5, None]),
    "seed": st.integers(0, 2**31),
}


def make(rows: int, classes: int, dtype: torch.dtype, levels: int | None, seed: int) -> Any:
    """Make scores, with many ties if they have few levels, and targets; some are ignored."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, generator=generator, dtype=torch.float64) * 3
    if levels is not None:
        logits = torch.randint(0, levels, (rows, classes), generator=generator).double()
    logits[torch.rand(rows, classes, generator=generator) < 0.05] = -math.inf
    target = torch.randint(0, classes, (rows,), generator=generator)
    target[torch.rand(rows, generator=generator) < 0.2] = -100
    return logits.to(dtype), target


def expected(logits: Tensor, target: Tensor) -> tuple[list[int], list[int], list[float]]:
    """Follow the definitions, row by row."""
    predicted, rank, nll = [], [], []
    for row, label in zip(logits.double().tolist(), target.tolist()):
        if label == -100:
            predicted.append(-1)
            rank.append(-1)
            nll.append(0.0)
            continue
        predicted.append(row.index(max(row)))
        score = row[label]
        rank.append(sum(x > score or (x == score and i < label) for i, x in enumerate(row)))
        total = math.fsum(math.exp(x - max(row)) for x in row) if max(row) > -math.inf else math.nan
        nll.append(math.log(total) + (max(row) - score))
    return predicted, rank, nll


def check(rows: Rows, logits: Tensor, target: Tensor) -> None:
    predicted, rank, nll = expected(logits, target)
    assert rows.classes == logits.shape[1]
    assert rows.target.equal(target)
    assert (rows.predicted.dtype, rows.rank.dtype) == (torch.int64, torch.int32)
    assert rows.predicted.tolist() == predicted
    assert rows.rank.tolist() == rank
    assert rows.nll is not None
    is_double = logits.dtype == torch.float64
    assert rows.nll.dtype == (torch.float64 if is_double else torch.float32)
    values = torch.tensor(nll, dtype=torch.float64)
    # The least likelihoods are sums of 1 and what torch rounds away in float32.
    torch.testing.assert_close(
        rows.nll.double(),
        values,
        rtol=RTOL.get(logits.dtype, 1e-6),
        atol=1e-15 if is_double else 1e-6,
        equal_nan=True,
    )


@given(**CASE)
def test_rows_follow_the_definitions(
    rows: int, classes: int, dtype: torch.dtype, levels: int | None, seed: int
) -> None:
    logits, target = make(rows, classes, dtype, levels, seed)
    check(scan_rows(logits, target, ignore_index=-100, nll=True), logits, target)
    without = scan_rows(logits, target, ignore_index=-100)
    assert without.nll is None
    assert without.predicted.tolist() == expected(logits, target)[0]


@given(**CASE, kind=st.sampled_from(["stride", "offset", "transposed", "expanded"]))
def test_any_strides_are_read(
    rows: int, classes: int, dtype: torch.dtype, levels: int | None, seed: int, kind: str
) -> None:
    logits, target = make(rows, classes, dtype, levels, seed)
    if kind == "stride":
        wide = torch.full((rows, classes + 5), math.nan, dtype=dtype)
        wide[:, 3:-2] = logits
        logits = wide[:, 3:-2]
        target = torch.stack([target, target], 1)[:, 0]
    elif kind == "offset":
        wide = torch.full((rows * classes + 1,), math.nan, dtype=dtype)
        wide[1:] = logits.flatten()
        logits = wide[1:].view(rows, classes)
    elif kind == "transposed":
        logits = logits.T.contiguous().T
    else:
        logits = logits[:1].expand(rows, classes)
    check(scan_rows(logits, target, ignore_index=-100, nll=True), logits, target)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3000, 10), (200, 1000)])
def test_threads_change_nothing(dtype: torch.dtype, shape: tuple[int, int]) -> None:
    logits, target = make(*shape, dtype, None, 0)
    threaded = scan_rows(logits, target, ignore_index=-100, nll=True)
    torch.set_num_threads(1)
    alone = scan_rows(logits, target, ignore_index=-100, nll=True)
    for ours, theirs in zip(threaded[:4], alone[:4]):
        assert ours.equal(theirs)
    check(threaded, logits, target)


def test_a_sure_prediction_keeps_its_likelihood() -> None:
    logits = torch.tensor([[0.0, 30.0], [30.0, 0.0]], dtype=torch.float64)
    rows = scan_rows(logits, torch.tensor([1, 1]), nll=True)
    assert rows.nll is not None
    assert rows.nll.tolist() == pytest.approx([math.log1p(math.exp(-30)), 30], rel=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7, 3), (5, 40), (5000, 9)])
@pytest.mark.parametrize("bad", [-1, 1 << 40, None])
def test_the_first_bad_target_is_named(
    dtype: torch.dtype, shape: tuple[int, int], bad: int | None
) -> None:
    rows, classes = shape
    logits, target = torch.zeros(shape, dtype=dtype), torch.zeros(rows, dtype=torch.int64)
    bad = classes if bad is None else bad
    target[[rows // 2, rows - 1]] = bad
    for options, tail in (({}, "$"), ({"ignore_index": -7}, " or ignore_index=-7$")):
        text = rf"^target\[{rows // 2}\] is {bad}, must be in \[0, {classes}\){tail}"
        with pytest.raises(ValueError, match=text):
            scan_rows(logits, target, **options)
    assert scan_rows(logits, target, ignore_index=bad).rank.tolist().count(-1) == 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7, 3), (5, 40), (5000, 9)])
@pytest.mark.parametrize("column", [0, 1, -1])
def test_nan_is_an_error_or_counted(
    dtype: torch.dtype, shape: tuple[int, int], column: int
) -> None:
    rows, classes = shape
    logits, target = torch.zeros(shape, dtype=dtype), torch.ones(rows, dtype=torch.int64)
    logits[rows // 2 :, column] = math.nan
    with pytest.raises(ValueError, match=f"^row {rows // 2} of the scores has NaN$"):
        scan_rows(logits, target)
    scanned = scan_rows(logits, target, nan="count", nll=True)
    assert scanned.predicted.tolist() == [0] * (rows // 2) + [-1] * (rows - rows // 2)
    assert scanned.rank.tolist() == [1] * (rows // 2) + [classes] * (rows - rows // 2)
    assert scanned.nll is not None
    assert scanned.nll.isnan().tolist() == (scanned.predicted < 0).tolist()
    # What an ignored row holds does not matter.
    target[rows // 2 :] = -100
    assert scan_rows(logits, target, ignore_index=-100).predicted[-1] == -1


def test_infinite_scores_have_their_order() -> None:
    inf = math.inf
    logits = torch.tensor([[1.0, inf, 2.0], [-inf, -inf, -inf], [-inf, 1.0, -inf]])
    rows = scan_rows(logits, torch.tensor([2, 1, 0]), nll=True)
    assert rows.predicted.tolist() == [1, 0, 1]
    assert rows.rank.tolist() == [1, 1, 1]
    assert rows.nll is not None
    assert rows.nll.isnan().tolist() == [True, True, False]
    assert rows.nll[2] == inf


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool])
def test_targets_have_any_integer_dtype(dtype: torch.dtype) -> None:
    logits, target = torch.eye(2), torch.tensor([0, 1])
    rows = scan_rows(logits, target.to(dtype))
    assert rows.target.equal(target)
    assert rows.rank.tolist() == [0, 0]


@pytest.mark.usefixtures("lenient")
def test_nothing_is_read_from_a_device() -> None:
    logits = torch.empty(5, 7, device="meta")
    rows = scan_rows(logits, torch.empty(5, dtype=torch.int64, device="meta"), nll=True)
    assert rows.nll is not None
    assert [x.shape for x in (rows.predicted, rows.rank, rows.nll)] == [(5,)] * 3


def test_rows_have_no_graph() -> None:
    rows = scan_rows(torch.eye(3, requires_grad=True), torch.tensor([0, 1, 2]), nll=True)
    assert rows.nll is not None
    assert not rows.nll.requires_grad


@pytest.mark.parametrize(
    ("logits", "target", "options", "text"),
    [
        (torch.zeros(4, 5), torch.zeros(3).long(), {}, r"got \(4, 5\) and \(3,\)"),
        (torch.zeros(4), torch.zeros(4).long(), {}, r"got \(4,\) and \(4,\)"),
        (torch.zeros(4, 5), torch.zeros(4), {}, r"class indices, got torch\.float32"),
        (torch.zeros(4, 5).long(), torch.zeros(4).long(), {}, "floating point, got torch.int64"),
        (torch.zeros(4, 5), torch.zeros(4).long(), {"nan": "skip"}, "unknown nan 'skip'.*error"),
        (torch.zeros(4, 0), torch.zeros(4).long(), {}, r"target\[0\] is 0, must be in \[0, 0\)"),
    ],
)
def test_arguments_are_checked(
    logits: Tensor, target: Tensor, options: dict[str, str], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        scan_rows(logits, target, **options)
