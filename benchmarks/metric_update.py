"""Time updates of the metrics of classification against torchmetrics and torch, on one thread.

The ratio is the peer's time by hotloop's, from interleaved pairs: above 1, hotloop is faster. Each
line has its bar. A collection is accuracy, top-5 accuracy, confusion matrix and F1 of logits; what
five metrics cost a training loop is the time of five epochs on scikit-learn's digits without them
by that with them. Nothing else may run meanwhile.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics import classification

from hotloop import backend
from hotloop.config import TrainingConfig
from hotloop.loops import Trainer
from hotloop.metrics import (
    F1,
    Accuracy,
    BalancedAccuracy,
    ConfusionMatrix,
    MatthewsCorrCoef,
    Metric,
    MetricCollection,
    TopKAccuracy,
)
from hotloop.optimizers import AdamW
from measure import compare, describe_machine

Program = Callable[[], object]
#: What is compared, the two programs, and the least ratio.
Case = tuple[str, Program, Program, float]

LABEL_BARS = {32: 5.0, 1024: 5.0, 65536: 20.0}
CLASSES = 10
#: A trainer is made anew for each sample, which is no cost of a loop.
EPOCHS = 5


def of_labels() -> Iterator[Case]:
    for count, bar in LABEL_BARS.items():
        preds, target = (torch.randint(0, CLASSES, (count,)) for _ in range(2))
        pairs: dict[str, tuple[Metric, classification.MulticlassStatScores]] = {
            "accuracy": (Accuracy(), classification.MulticlassAccuracy(CLASSES, average="micro")),
            "macro accuracy": (
                Accuracy(num_classes=CLASSES, average="macro"),
                classification.MulticlassAccuracy(CLASSES, average="macro"),
            ),
            "confusion matrix": (
                ConfusionMatrix(num_classes=CLASSES),
                classification.MulticlassConfusionMatrix(CLASSES),
            ),
            "F1": (F1(num_classes=CLASSES), classification.MulticlassF1Score(CLASSES)),
        }
        for name, (ours, theirs) in pairs.items():
            yield (
                f"{name}, {count} labels",
                lambda m=ours, p=preds, t=target: m.update(p, t),
                lambda m=theirs, p=preds, t=target: m.update(p, t),
                bar,
            )


def of_many_classes() -> Iterator[Case]:
    few, many = 10, 1000
    ours = {size: Accuracy(num_classes=size, average="macro") for size in (few, many)}
    labels = {size: torch.randint(0, size, (2, 32)) for size in (few, many)}
    peer = classification.MulticlassAccuracy(many, average="macro")
    yield (
        "macro accuracy, 32 labels of 1000 classes",
        lambda: ours[many].update(*labels[many]),
        lambda: peer.update(*labels[many]),
        5.0,
    )
    yield (
        "macro accuracy, 32 labels: of 1000 classes against of 10",
        lambda: ours[many].update(*labels[many]),
        lambda: ours[few].update(*labels[few]),
        0.8,
    )


def of_logits() -> Iterator[Case]:
    for count in (1024, 65536):
        for classes in (10, 1000):
            logits, target = torch.randn(count, classes), torch.randint(0, classes, (count,))
            collection = MetricCollection([Accuracy(), TopKAccuracy(5), ConfusionMatrix(), F1()])
            yield (
                f"collection of 4, logits {count} x {classes}, against argmax",
                lambda c=collection, x=logits, t=target: c.update(x, t),
                lambda x=logits: x.argmax(1),
                1 / 1.1,
            )
    logits, target = torch.randn(16384, 1000), torch.randint(0, 1000, (16384,))
    metric = TopKAccuracy(5)
    yield (
        "top-5 accuracy, logits 16384 x 1000, against topk",
        lambda: metric.update(logits, target),
        lambda: logits.topk(5, 1),
        8.0,
    )


def of_training() -> Iterator[Case]:
    images, labels = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(labels))
    loader = DataLoader(data, 32)
    layers = (nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
    model = nn.Sequential(*layers)

    def five() -> dict[str, Metric]:
        metrics = (Accuracy(), TopKAccuracy(5), F1(), BalancedAccuracy(), MatthewsCorrCoef())
        return {type(metric).__name__: metric for metric in metrics}

    def train(with_metrics: bool) -> None:
        Trainer(
            model,
            TrainingConfig(epochs=EPOCHS, progress=False),
            loader,
            loss=nn.CrossEntropyLoss(),
            optimizer=AdamW(model.parameters(), lr=1e-5),
            metrics=five() if with_metrics else None,
        ).train()

    yield "5 epochs with 5 metrics, digits", lambda: train(True), lambda: train(False), 1 / 1.03
    collection = MetricCollection(five())
    logits, target = torch.randn(32, 10), torch.randint(0, 10, (32,))
    yield (
        "collection of 5, logits 32 x 10, against argmax",
        lambda: collection.update(logits, target),
        lambda: logits.argmax(1),
        0.0,
    )


CASES = {
    "labels": of_labels,
    "classes": of_many_classes,
    "logits": of_logits,
    "training": of_training,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=6.0, help="for each ratio")
    parser.add_argument("--report", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    lines: list[str] = []

    def tell(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    tell(f"{datetime.date.today()}: {describe_machine()}")
    tell(backend.describe().splitlines()[0])
    tell("")
    tell("| update | hotloop | peer | ratio | bar | met |")
    tell("|---|---:|---:|---:|---:|---|")
    for name in arguments.cases:
        for what, ours, theirs, bar in CASES[name]():
            result = compare(ours, theirs, arguments.seconds)
            met = "yes" if result.ratio >= bar else "NO"
            times = f"{result.ours * 1e6:,.1f} µs | {result.theirs * 1e6:,.1f} µs"
            tell(f"| {what} | {times} | {result} | {bar:.2f} | {met if bar else ''} |")
    if arguments.report:
        arguments.report.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
