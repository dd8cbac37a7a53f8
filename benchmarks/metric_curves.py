"""Time the metrics of scores against torchmetrics, torcheval and scikit-learn, on one thread.

The ratio is the peer's time by hotloop's, from interleaved pairs: above 1, hotloop is faster. Each
line has its bar. Binned metrics and those of probabilities are updated with a batch; exact ones
count all scores and compute the value. Nothing else may run meanwhile. torcheval is there if it is
installed.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from sklearn import metrics as sklearn
from torch import Tensor
from torchmetrics import classification
from torchmetrics.functional import classification as functional

from hotloop import backend
from hotloop.metrics import (
    AUROC,
    ROC,
    AveragePrecision,
    BrierScore,
    CalibrationError,
    LogLoss,
    Metric,
)
from measure import compare, describe_machine

Program = Callable[[], object]
#: What is compared, the two programs, and the least ratio.
Case = tuple[str, Program, Program, float]

BATCHES = (32, 1024, 65536)
CLASSES = 10
THRESHOLDS = 200
SCORES = 1_000_000


def probabilities(rows: int) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, CLASSES).softmax(1), torch.randint(0, CLASSES, (rows,))


def of_thresholds() -> Iterator[Case]:
    kinds: list[tuple[str, Any, Any, float]] = [
        ("AUROC", AUROC, classification.MulticlassAUROC, 50.0),
        ("average precision", AveragePrecision, classification.MulticlassAveragePrecision, 50.0),
    ]
    listed = torch.linspace(0, 1, THRESHOLDS).tolist()
    for rows in BATCHES:
        batch = probabilities(rows)
        for name, kind, peer, bar in kinds:
            ours = kind(num_classes=CLASSES, thresholds=THRESHOLDS)
            theirs = peer(CLASSES, thresholds=THRESHOLDS)
            what = f"binned {name}, {rows} x {CLASSES}, {THRESHOLDS} thresholds"
            yield what, *updates(ours, theirs, batch), bar
        ours = AUROC(num_classes=CLASSES, thresholds=listed)
        theirs = classification.MulticlassAUROC(CLASSES, thresholds=listed)
        what = f"binned AUROC, {rows} x {CLASSES}, a list of {THRESHOLDS} thresholds"
        yield what, *updates(ours, theirs, batch), 0.0
    for rows in BATCHES:
        batch = torch.rand(rows), torch.randint(0, 2, (rows,))
        ours = AUROC("binary", thresholds=THRESHOLDS)
        theirs = classification.BinaryAUROC(thresholds=THRESHOLDS)
        what = f"binned AUROC, {rows}, binary, {THRESHOLDS} thresholds"
        yield what, *updates(ours, theirs, batch), 0.0


def updates(ours: Metric, theirs: Any, batch: tuple[Tensor, Tensor]) -> tuple[Program, Program]:
    return lambda: ours.update(*batch), lambda: theirs.update(*batch)


def of_all_scores() -> Iterator[Case]:
    target = torch.randint(0, 2, (SCORES,))
    tied = (torch.rand(SCORES) * 1000).round() / 1000
    for what, preds, bar in (
        ("float32", torch.rand(SCORES), 3.0),
        ("float32 logits", torch.randn(SCORES), 0.0),
        ("float32, 1001 values", tied, 0.0),
        ("float64", torch.rand(SCORES, dtype=torch.float64), 0.0),
    ):
        for peer, theirs in areas(preds, target).items():
            yield (
                f"exact AUROC, 1M {what}, {peer}",
                counted(AUROC("binary"), preds, target),
                theirs,
                bar,
            )
    preds = torch.rand(SCORES)
    arrays = target.numpy(), preds.numpy()
    yield (
        "exact average precision, 1M float32, scikit-learn",
        counted(AveragePrecision("binary"), preds, target),
        lambda: sklearn.average_precision_score(*arrays),
        0.0,
    )
    yield (
        "exact average precision, 1M float32, torchmetrics",
        counted(AveragePrecision("binary"), preds, target),
        lambda: functional.binary_average_precision(preds, target),
        0.0,
    )
    yield (
        "exact ROC curve, 1M float32, scikit-learn",
        counted(ROC("binary"), preds, target),
        lambda: sklearn.roc_curve(*arrays),
        0.0,
    )


def areas(preds: Tensor, target: Tensor) -> dict[str, Program]:
    # Each peer's fastest way in: torcheval takes float targets without a copy.
    arrays, floats = (target.numpy(), preds.numpy()), target.float()
    peers: dict[str, Program] = {
        "scikit-learn": lambda: sklearn.roc_auc_score(*arrays),
        "torchmetrics": lambda: functional.binary_auroc(preds, target, validate_args=False),
    }
    if importlib.util.find_spec("torcheval") is not None:
        from torcheval.metrics.functional import binary_auroc

        peers["torcheval"] = lambda: binary_auroc(preds, floats)
    return peers


def counted(metric: Metric, preds: Tensor, target: Tensor) -> Program:
    def run() -> Any:
        metric.reset()
        metric.update(preds, target)
        return metric.compute()

    return run


def of_probabilities() -> Iterator[Case]:
    for rows in BATCHES:
        batch = probabilities(rows)
        yield (
            f"calibration error, {rows} x {CLASSES}, torchmetrics",
            *updates(CalibrationError(), classification.MulticlassCalibrationError(CLASSES), batch),
            0.0,
        )
        preds, target = batch
        losses = LogLoss(), BrierScore()
        yield (
            f"log loss, {rows} x {CLASSES}, torch",
            lambda m=losses[0], b=batch: m.update(*b),
            lambda p=preds, t=target: p.gather(1, t[:, None]).clamp(1e-7, 1).log().sum().item(),
            0.0,
        )
        yield (
            f"Brier score, {rows} x {CLASSES}, torch",
            lambda m=losses[1], b=batch: m.update(*b),
            lambda p=preds, t=target: (
                (p - torch.nn.functional.one_hot(t, CLASSES)).square().sum().item()
            ),
            0.0,
        )


CASES = {
    "thresholds": of_thresholds,
    "scores": of_all_scores,
    "probabilities": of_probabilities,
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
    # torchmetrics warns of the memory of exact metrics.
    warnings.simplefilter("ignore")

    lines: list[str] = []

    def tell(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    tell(f"{datetime.date.today()}: {describe_machine()}")
    tell(backend.describe().splitlines()[0])
    tell("")
    tell("| what | hotloop | peer | ratio | bar | met |")
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
