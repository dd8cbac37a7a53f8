"""Several metrics at once: the values of each alone, counted once."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchmetrics
from torch import Tensor
from torch.nn import functional

from hotloop import EmptyMetricError
from hotloop.metrics import (
    F1,
    Accuracy,
    BalancedAccuracy,
    CohenKappa,
    ConfusionMatrix,
    Jaccard,
    MatthewsCorrCoef,
    Metric,
    MetricCollection,
    Precision,
    Recall,
    TopKAccuracy,
    metric_collection,
)
from hotloop.rows import Rows, scan_rows
from hotloop.testing import assert_state_roundtrip


class Loss(Metric):
    """The mean negative log-likelihood, from rows."""

    ignore_index: int | None = None

    def _initial(self) -> dict[str, Any]:
        return {"sum": 0.0, "count": 0}

    def update(self, preds: Tensor, target: Tensor, weight: Tensor | None = None) -> None:
        loss = functional.cross_entropy(preds, target, weight, reduction="sum")
        self._state = {
            "sum": self._state["sum"] + float(loss),
            "count": self._state["count"] + len(target),
        }

    def update_rows(self, rows: Rows) -> None:
        assert rows.nll is not None
        self._state = {
            "sum": self._state["sum"] + float(rows.nll.sum()),
            "count": self._state["count"] + len(rows.target),
        }

    def compute(self) -> float:
        return float(self._state["sum"] / self._state["count"])


class Length(Metric):
    """The number of samples, whatever they are."""

    def _initial(self) -> dict[str, Any]:
        return {"count": 0}

    def update(self, preds: Any, target: Any, weight: Tensor | None = None) -> None:
        self._state = {"count": self._state["count"] + len(target)}

    def compute(self) -> int:
        return int(self._state["count"])


Makers = dict[str, Callable[[], Any]]
SCORED: Makers = {
    "accuracy": Accuracy,
    "macro accuracy": lambda: Accuracy(average="macro", num_classes=6),
    "top 3": lambda: TopKAccuracy(3),
    "macro top 3": lambda: Accuracy(top_k=3, average="macro"),
    "confusion": ConfusionMatrix,
    "f1": F1,
    "precision": lambda: Precision(average="none"),
    "without 0": lambda: Recall(ignore_index=0),
    "kappa": lambda: CohenKappa(weights="linear"),
    "matthews": MatthewsCorrCoef,
}
LABELS: Makers = {
    name: make for name, make in SCORED.items() if "top" not in name and name != "without 0"
}
BINARY: Makers = {
    "accuracy": lambda: Accuracy("binary"),
    "f1": lambda: F1("binary"),
    "balanced": lambda: BalancedAccuracy("binary"),
    "at 0.7": lambda: Jaccard("binary", threshold=0.7),
}
MULTILABEL: Makers = {
    "accuracy": lambda: Accuracy("multilabel"),
    "f1": lambda: F1("multilabel", num_labels=3),
    "confusion": lambda: ConfusionMatrix("multilabel"),
}


def batch(kind: str, seed: int, count: int = 40) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    if kind in ("scored", "labels"):
        scores = torch.rand(count, 6, generator=generator)
        target = torch.randint(0, 6, (count,), generator=generator)
        return (scores if kind == "scored" else scores.argmax(1)), target
    shape = (count,) if kind == "binary" else (count, 3)
    return torch.rand(shape, generator=generator), torch.randint(0, 2, shape, generator=generator)


CASES: dict[str, Makers] = {
    "scored": SCORED,
    "labels": LABELS,
    "binary": BINARY,
    "multilabel": MULTILABEL,
}


def made(makers: Makers, **options: Any) -> MetricCollection:
    return MetricCollection({name: make() for name, make in makers.items()}, **options)


def texts(values: dict[str, Any]) -> dict[str, str]:
    """Return values as texts, in which NaN is NaN."""
    return {
        name: repr(value.tolist() if isinstance(value, Tensor) else float(value))
        for name, value in values.items()
    }


def alone(makers: Makers, kind: str, *seeds: int, weighted: bool = False) -> dict[str, str]:
    values = {}
    for name, make in makers.items():
        metric = make()
        for seed in seeds:
            preds, target = batch(kind, seed)
            metric.update(preds, target, *([torch.arange(40) / 4] if weighted else []))
        values[name] = metric.compute()
    return texts(values)


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("weighted", [False, True])
def test_values_are_those_of_each_alone(kind: str, weighted: bool) -> None:
    makers = CASES[kind]
    if kind == "labels":
        makers = {
            name: make for name, make in makers.items() if name not in ("confusion", "f1")
        } | {"confusion": lambda: ConfusionMatrix(num_classes=6)}
    collection = made(makers)
    weights = [torch.arange(40) / 4] if weighted else []
    for seed in range(3):
        collection.update(*batch(kind, seed), *weights)
    if kind == "labels":
        # One of them knows the number of classes.
        makers = {name: lambda make=make: with_classes(make()) for name, make in makers.items()}
    assert texts(collection.compute()) == alone(makers, kind, 0, 1, 2, weighted=weighted)
    collection.reset()
    with pytest.raises(EmptyMetricError):
        collection.compute()
    collection.update(*batch(kind, 1), *weights)
    assert texts(collection.compute()) == alone(makers, kind, 1, weighted=weighted)


def with_classes(metric: Any) -> Any:
    return type(metric)(
        num_classes=6,
        **{
            name: value
            for name, value in vars(metric).items()
            if name in ("average", "weights", "normalize")
        },
    )


def test_equal_counters_are_kept_once(monkeypatch: pytest.MonkeyPatch) -> None:
    collection = made(SCORED)
    assert [shared.names for shared in collection._shared] == [
        ["accuracy", "macro accuracy", "confusion", "f1", "precision", "kappa", "matthews"],
        ["top 3", "macro top 3"],
        ["without 0"],
    ]
    assert len(made(BINARY)._shared) == 2
    reads = []
    count = metric_collection.count_class_scores
    monkeypatch.setattr(
        metric_collection,
        "count_class_scores",
        lambda *given: reads.append(len(given[3])) or count(*given),
    )
    collection.update(*batch("scored", 0))
    # One pass for what ignores nothing, and one for what ignores 0.
    assert reads == [2, 1]


def test_metrics_of_rows_share_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    scans = []
    monkeypatch.setattr(
        metric_collection,
        "scan_rows",
        lambda *given, **options: scans.append(options) or scan_rows(*given, **options),
    )
    collection = made({**SCORED, "loss": Loss, "length": Length})
    for seed in range(3):
        preds, target = batch("scored", seed)
        collection.update(preds, target)
    values = collection.compute()
    whole = [torch.cat(parts) for parts in zip(*(batch("scored", seed) for seed in range(3)))]
    assert values.pop("loss") == pytest.approx(float(functional.cross_entropy(*whole)), rel=1e-6)
    assert values.pop("length") == 120
    assert texts(values) == alone(SCORED, "scored", 0, 1, 2)
    assert scans == [{"ignore_index": None, "nll": True}] * 3
    scans.clear()

    class Quick(Loss):
        needs_nll = False
        ignore_index = 0

        def update_rows(self, rows: Rows) -> None:
            assert rows.nll is None

    MetricCollection([Quick(), Loss()]).update(*batch("scored", 0))
    assert scans == [{"ignore_index": 0, "nll": False}, {"ignore_index": None, "nll": True}]
    # What ignores no class at all reads the rows that ignore nothing.
    scans.clear()

    class Masked(Loss):
        ignore_index = -100

    makers = {name: make for name, make in SCORED.items() if name != "without 0"}
    collection = made({**makers, "loss": Masked})
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(metric_collection, "count_class_scores")
        collection.update(*batch("scored", 0))
    assert scans == [{"ignore_index": -100, "nll": True}]
    values = collection.compute()
    del values["loss"]
    assert texts(values) == alone(makers, "scored", 0)
    preds, target = batch("scored", 1)
    target[3] = -100
    with pytest.raises(ValueError, match=r"target\[3\] is -100, must be in \[0, 6\)$"):
        collection.update(preds, target)
    scans.clear()
    # What has other dimensions goes to the metric itself.
    loss = MetricCollection([Loss()])
    loss.update(torch.rand(4, 5, 3), torch.randint(0, 5, (4, 3)))
    assert not scans


def test_rows_of_a_loss_are_counted() -> None:
    makers = {name: make for name, make in SCORED.items() if name != "without 0"}
    collection = made({**makers, "loss": Loss})
    other = made({**makers, "loss": Loss})
    for seed in range(3):
        preds, target = batch("scored", seed)
        collection.update_rows(scan_rows(preds, target, nll=True))
        other.update(preds, target)
    assert texts(collection.compute()) == texts(other.compute())
    with pytest.raises(ValueError, match="not all metrics can be counted from rows of scores"):
        made({**makers, "length": Length}).update_rows(scan_rows(preds, target))


def test_names() -> None:
    collection = MetricCollection([Accuracy(), F1()], prefix="val_", postfix="/epoch")
    assert list(collection) == ["Accuracy", "F1"]
    assert len(collection) == 2
    collection.update(*batch("scored", 0))
    values = collection.compute()
    assert list(values) == ["val_Accuracy/epoch", "val_F1/epoch"]
    assert collection["F1"].compute() == values["val_F1/epoch"]
    assert dict(collection)["F1"] is collection["F1"]
    assert repr(collection).startswith("MetricCollection({'Accuracy': Accuracy(average='micro', ")
    with pytest.raises(ValueError, match="two metrics are named F1; pass a dict with other names"):
        MetricCollection([F1(), F1(average="micro")])
    with pytest.raises(TypeError, match="metric 'a' must have the methods update, compute and"):
        MetricCollection({"a": 3})
    with pytest.raises(TypeError, match="metric 'a' is a MetricCollection; pass its metrics"):
        MetricCollection({"a": collection})
    clone = collection.clone(prefix="test_")
    clone.update(*batch("scored", 1))
    assert list(clone.compute()) == ["test_Accuracy/epoch", "test_F1/epoch"]
    assert collection.compute() == values
    assert list(collection.clone(postfix="").compute()) == ["val_Accuracy", "val_F1"]


def test_metrics_that_cannot_share() -> None:
    used = F1()
    used.update(*batch("scored", 0))
    with pytest.raises(ValueError, match="metric 'b' has counted something; reset it before it"):
        MetricCollection({"a": Accuracy(), "b": used})
    with pytest.raises(ValueError, match=r"must have one num_classes, got \[5, 6\]"):
        MetricCollection([F1(num_classes=5), Accuracy(num_classes=6)])
    with pytest.raises(ValueError, match=r"must have one num_labels, got \[2, 3\]"):
        MetricCollection([F1("multilabel", num_labels=2), Accuracy("multilabel", num_labels=3)])

    class Judge(Accuracy):
        updates = 0

        def update(self, preds: Any, target: Any, weight: Tensor | None = None) -> None:
            self.updates += 1
            super().update(preds, target, weight)

    class Verdict(Accuracy):
        def compute(self) -> float:
            return -float(super().compute())

    collection = MetricCollection([Judge(), Accuracy(), Verdict()])
    collection.update(*batch("scored", 0))
    assert collection["Judge"].updates == 1
    values = collection.compute()
    assert values["Judge"] == values["Accuracy"] == -values["Verdict"]


def test_a_metric_that_was_looked_up_holds_what_was_counted() -> None:
    f1 = F1()
    collection = MetricCollection({"f1": f1, "confusion": ConfusionMatrix()})
    collection.update(*batch("scored", 0))
    with pytest.raises(EmptyMetricError):
        f1.compute()
    values = collection.compute()
    assert f1.compute() == values["f1"]
    # What it counts alone is its own.
    f1.update(*batch("scored", 1))
    assert texts(collection.compute()) == texts(values)
    assert f1.compute() == values["f1"]


@pytest.mark.parametrize("kind", CASES)
def test_a_collection_goes_on_from_its_state(kind: str) -> None:
    makers = {**CASES[kind], "length": Length}
    if kind == "labels":
        makers["precision"] = lambda: Precision(num_classes=6, average="none")
    first, second = made(makers), made(makers)
    first.update(*batch(kind, 0))
    second.update(*batch(kind, 5))
    assert_state_roundtrip(first, second)
    for collection in (first, second):
        collection.update(*batch(kind, 1))
    assert texts(first.compute()) == texts(second.compute())
    state = first.state_dict()
    text = str(state)
    second.load_state_dict(state)
    for collection in (first, second):
        collection.update(*batch(kind, 2))
    assert str(state) == text
    names = [name for name, each in state.items() if isinstance(each, str)]
    assert len(names) == len(makers) - 1 - len(first._shared)
    with pytest.raises(ValueError, match="the state must have the metrics"):
        first.load_state_dict({"a": 1})
    other = {**state, next(iter(makers)): names[0]}
    with pytest.raises(ValueError, match="the state of 'accuracy' must be that of 'accuracy', got"):
        first.load_state_dict(other)


@pytest.mark.parametrize("kind", ["scored", "binary", "multilabel"])
def test_collections_merge(kind: str) -> None:
    makers = {**CASES[kind], "length": Length}
    whole, *parts = (made(makers) for _ in range(4))
    for seed, part in enumerate(parts[:2]):
        part.update(*batch(kind, seed))
        whole.update(*batch(kind, seed))
    before = texts(parts[1].compute())
    parts[2].merge(parts[1])
    parts[0].merge(parts[2])
    assert texts(parts[0].compute()) == texts(whole.compute())
    assert texts(parts[1].compute()) == before


def test_collections_that_cannot_merge() -> None:
    first = MetricCollection([F1(), Length()])
    for other in (
        MetricCollection([F1()]),
        MetricCollection([F1(average="micro"), Length()]),
        MetricCollection({"F1": Precision(), "Length": Length()}),
        Length(),
    ):
        with pytest.raises(ValueError, match="only a collection like MetricCollection"):
            first.merge(other)
    first.update(*batch("scored", 0))
    before = str(first.state_dict())
    other = first.clone()
    other.reset()
    other.update(torch.rand(4, 5), torch.arange(4))
    with pytest.raises(ValueError, match="only counts of as many classes can be merged"):
        first.merge(other)
    assert str(first.state_dict()) == before


def test_metrics_of_torchmetrics() -> None:
    peer = torchmetrics.F1Score("multiclass", num_classes=6, average="macro")

    def make() -> MetricCollection:
        return MetricCollection({"ours": F1(), "theirs": copy.deepcopy(peer)})

    first, second = make(), make()
    for seed in range(3):
        first.update(*batch("scored", seed))
        second.update(*batch("scored", seed + 1))
    values = first.compute()
    assert values["ours"] == pytest.approx(float(values["theirs"]), rel=1e-6)
    assert_state_roundtrip(first, second)
    assert texts(second.compute()) == texts(values)
    with pytest.raises(TypeError, match="metric 'theirs' cannot be merged: it has no method merge"):
        first.merge(second)
    first.reset()
    first.update(*batch("scored", 1))
    assert first.compute()["ours"] == pytest.approx(float(first.compute()["theirs"]), rel=1e-6)


def test_values_that_are_mappings_become_flat() -> None:
    class Several(Length):
        def compute(self) -> Any:
            return {"a": 1, "b": 2}

    collection = MetricCollection({"x": Several()}, prefix="p_")
    assert collection.compute() == {"p_x_a": 1, "p_x_b": 2}


def test_what_is_no_tensor_goes_to_metrics_that_take_it() -> None:
    collection = MetricCollection([Length()])
    collection.update({"a": 1}, [1, 2])
    assert collection.compute() == {"Length": 2}


def test_a_bad_batch_leaves_nothing() -> None:
    collection = made({**SCORED, "loss": Loss})
    collection.update(*batch("scored", 0))
    before = str(collection.state_dict())
    preds, target = batch("scored", 1)
    preds[7, 2] = math.nan
    with pytest.raises(ValueError, match="row 7 of the scores has NaN"):
        collection.update(preds, target)
    assert str(collection.state_dict()) == before
