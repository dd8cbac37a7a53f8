"""How many predictions are right."""

from .class_metric import Average, ClassMetric
from .precision_recall import RecallRatio

comptime Accuracy[
    average: StaticString = "micro", dtype: DType = DType.int64
] = ClassMetric[Average[RecallRatio, average], dtype]
"""The fraction of samples that are right; of one class it is its recall.

Parameters:
    average: "micro", "macro" or "weighted"; see `Average`.
    dtype: The dtype of the counters: int64, or float64 for weights.
"""
