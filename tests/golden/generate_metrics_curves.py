"""Write the golden values of scores: `python tests/golden/generate_metrics_curves.py`.

Scores with ties and labels of them, and what scikit-learn and, for thresholds and bins,
torchmetrics make of both. Nothing of hotloop is imported.
"""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn import metrics
from torchmetrics.functional import classification

GOLDEN = Path(__file__).with_name("metrics_curves.json")

ROWS = 40
CLASSES = 3
#: Thresholds of the binned values: as many from 0 to 1, and these.
UNIFORM = 11
LISTED = [0.25, 0.5, 0.5, 0.75]
BINS = 10


def binary() -> tuple[np.ndarray, np.ndarray]:
    """Return scores that are eighths or tenths, and labels."""
    generator = random.Random(7)
    target = np.array([generator.randrange(2) for _ in range(ROWS)])
    steps = [generator.choice([8, 10]) for _ in range(ROWS)]
    # Negatives stay below 1, where torchmetrics' binned curves begin.
    scores = [generator.randrange(label, step + label) / step for label, step in zip(target, steps)]
    return np.array(scores, np.float32), target


def multiclass() -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities that are sixteenths, and classes."""
    generator = random.Random(8)
    target = np.array([generator.randrange(CLASSES) for _ in range(ROWS)])
    counts = np.zeros((ROWS, CLASSES))
    for row, label in enumerate(target):
        for _ in range(16):
            counts[row, generator.choice([label, generator.randrange(CLASSES)])] += 1
    return (counts / 16).astype(np.float32), target


def values_of_binary() -> dict[str, float]:
    """Return the values of the binary scores by name."""
    scores, target = binary()
    tensors = torch.from_numpy(scores), torch.from_numpy(target)
    made = {
        "AUROC": metrics.roc_auc_score(target, scores),
        "AveragePrecision": metrics.average_precision_score(target, scores),
        "LogLoss": metrics.log_loss(target, scores.astype(np.float64)),
        "BrierScore": metrics.brier_score_loss(target, scores.astype(np.float64)),
    }
    for name, thresholds in (("uniform", UNIFORM), ("listed", LISTED)):
        for kind in ("auroc", "average_precision"):
            peer = getattr(classification, f"binary_{kind}")
            made[f"{kind} {name}"] = float(peer(*tensors, thresholds=thresholds))
    for norm in ("l1", "l2", "max"):
        peer = classification.binary_calibration_error
        made[f"CalibrationError {norm}"] = float(peer(*tensors, n_bins=BINS, norm=norm))
    return made


def values_of_multiclass() -> dict[str, float]:
    """Return the values of the probabilities of classes by name."""
    scores, target = multiclass()
    tensors = torch.from_numpy(scores), torch.from_numpy(target)
    wide = scores.astype(np.float64)
    made = {
        "LogLoss": metrics.log_loss(target, scores),
        "BrierScore": metrics.brier_score_loss(target, wide),
    }
    for kind in ("auroc", "average_precision"):
        peer = getattr(classification, f"multiclass_{kind}")
        made[f"{kind} uniform"] = float(peer(*tensors, CLASSES, thresholds=UNIFORM))
    for norm in ("l1", "l2", "max"):
        peer = classification.multiclass_calibration_error
        value = peer(*tensors, CLASSES, n_bins=BINS, norm=norm)
        made[f"CalibrationError {norm}"] = float(value)
    return made


def generate() -> dict[str, Any]:
    """Return every entry by name."""
    entries: dict[str, Any] = {}
    for task, (scores, target) in (("binary", binary()), ("multiclass", multiclass())):
        entries[f"{task} scores"] = {"values": scores.reshape(-1).tolist()}
        entries[f"{task} target"] = {"values": target.tolist()}
    for task, values in (("binary", values_of_binary()), ("multiclass", values_of_multiclass())):
        for name, value in values.items():
            entries[f"{task} {name}"] = {"values": [value]}
    return entries


def main() -> None:
    warnings.simplefilter("ignore")
    # An entry a line, for readers without a JSON parser.
    lines = [f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in generate().items()]
    GOLDEN.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
