"""What a training loop measures: state machines with `update`, `compute` and `reset`."""

from hotloop.metrics.accuracy import Accuracy, TopKAccuracy
from hotloop.metrics.as_torchmetrics import as_torchmetrics
from hotloop.metrics.auroc import AUROC
from hotloop.metrics.average_precision import AveragePrecision
from hotloop.metrics.balanced_accuracy import BalancedAccuracy
from hotloop.metrics.bits_per_byte import BitsPerByte
from hotloop.metrics.brier_score import BrierScore
from hotloop.metrics.calibration_error import CalibrationError
from hotloop.metrics.cohen_kappa import CohenKappa
from hotloop.metrics.confusion_matrix import ConfusionMatrix
from hotloop.metrics.explained_variance import ExplainedVariance
from hotloop.metrics.extrema import Max, Min
from hotloop.metrics.jaccard import Jaccard
from hotloop.metrics.log_loss import LogLoss
from hotloop.metrics.matthews_corr_coef import MatthewsCorrCoef
from hotloop.metrics.mean import Mean
from hotloop.metrics.mean_absolute_error import MeanAbsoluteError
from hotloop.metrics.mean_absolute_percentage_error import MeanAbsolutePercentageError
from hotloop.metrics.mean_squared_error import MeanSquaredError
from hotloop.metrics.metric import Metric, MetricLike
from hotloop.metrics.metric_collection import MetricCollection
from hotloop.metrics.metric_tracker import MetricTracker
from hotloop.metrics.pearson_corr_coef import PearsonCorrCoef
from hotloop.metrics.perplexity import Perplexity
from hotloop.metrics.plot import (
    plot_calibration,
    plot_confusion_matrix,
    plot_precision_recall,
    plot_roc,
)
from hotloop.metrics.precision_recall import F1, FBeta, Precision, Recall, Specificity
from hotloop.metrics.precision_recall_curve import PRCurve, PrecisionRecallCurve
from hotloop.metrics.quantile import Quantile
from hotloop.metrics.r2_score import R2Score
from hotloop.metrics.roc import ROC, ROCCurve
from hotloop.metrics.running_mean import RunningMean
from hotloop.metrics.running_moments import RunningMoments
from hotloop.metrics.spearman_corr_coef import SpearmanCorrCoef
from hotloop.metrics.sum import Sum
from hotloop.metrics.token_accuracy import TokenAccuracy

__all__ = [
    "AUROC",
    "F1",
    "ROC",
    "Accuracy",
    "AveragePrecision",
    "BalancedAccuracy",
    "BitsPerByte",
    "BrierScore",
    "CalibrationError",
    "CohenKappa",
    "ConfusionMatrix",
    "ExplainedVariance",
    "FBeta",
    "Jaccard",
    "LogLoss",
    "MatthewsCorrCoef",
    "Max",
    "Mean",
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanSquaredError",
    "Metric",
    "MetricCollection",
    "MetricLike",
    "MetricTracker",
    "Min",
    "PRCurve",
    "PearsonCorrCoef",
    "Perplexity",
    "Precision",
    "PrecisionRecallCurve",
    "Quantile",
    "R2Score",
    "ROCCurve",
    "Recall",
    "RunningMean",
    "RunningMoments",
    "SpearmanCorrCoef",
    "Specificity",
    "Sum",
    "TokenAccuracy",
    "TopKAccuracy",
    "as_torchmetrics",
    "plot_calibration",
    "plot_confusion_matrix",
    "plot_precision_recall",
    "plot_roc",
]
