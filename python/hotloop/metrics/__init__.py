"""What a training loop measures: state machines with `update`, `compute` and `reset`."""

from hotloop.metrics.aggregation.extrema import Max, Min
from hotloop.metrics.aggregation.mean import Mean
from hotloop.metrics.aggregation.quantile import Quantile
from hotloop.metrics.aggregation.running_mean import RunningMean
from hotloop.metrics.aggregation.running_moments import RunningMoments
from hotloop.metrics.aggregation.sum import Sum
from hotloop.metrics.as_torchmetrics import as_torchmetrics
from hotloop.metrics.classification.accuracy import Accuracy, TopKAccuracy
from hotloop.metrics.classification.balanced_accuracy import BalancedAccuracy
from hotloop.metrics.classification.cohen_kappa import CohenKappa
from hotloop.metrics.classification.confusion_matrix import ConfusionMatrix
from hotloop.metrics.classification.jaccard import Jaccard
from hotloop.metrics.classification.matthews_corr_coef import MatthewsCorrCoef
from hotloop.metrics.classification.precision_recall import (
    F1,
    FBeta,
    Precision,
    Recall,
    Specificity,
)
from hotloop.metrics.language.bits_per_byte import BitsPerByte
from hotloop.metrics.language.perplexity import Perplexity
from hotloop.metrics.language.token_accuracy import TokenAccuracy
from hotloop.metrics.metric import Metric, MetricLike
from hotloop.metrics.metric_collection import MetricCollection
from hotloop.metrics.metric_tracker import MetricTracker
from hotloop.metrics.plot import (
    plot_calibration,
    plot_confusion_matrix,
    plot_precision_recall,
    plot_roc,
)
from hotloop.metrics.regression.explained_variance import ExplainedVariance
from hotloop.metrics.regression.mean_absolute_error import MeanAbsoluteError
from hotloop.metrics.regression.mean_absolute_percentage_error import MeanAbsolutePercentageError
from hotloop.metrics.regression.mean_squared_error import MeanSquaredError
from hotloop.metrics.regression.pearson_corr_coef import PearsonCorrCoef
from hotloop.metrics.regression.r2_score import R2Score
from hotloop.metrics.regression.spearman_corr_coef import SpearmanCorrCoef
from hotloop.metrics.scores.auroc import AUROC
from hotloop.metrics.scores.average_precision import AveragePrecision
from hotloop.metrics.scores.brier_score import BrierScore
from hotloop.metrics.scores.calibration_error import CalibrationError
from hotloop.metrics.scores.log_loss import LogLoss
from hotloop.metrics.scores.precision_recall_curve import PRCurve, PrecisionRecallCurve
from hotloop.metrics.scores.roc import ROC, ROCCurve

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
