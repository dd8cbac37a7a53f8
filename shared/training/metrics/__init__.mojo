"""Metrics of training and validation: one pass over spans of memory."""

from .accuracy import Accuracy
from .auroc import AUROC, AreaUnderROC, BinnedAUROC
from .average_precision import (
    AveragePrecision,
    BinnedAveragePrecision,
    PrecisionArea,
)
from .balanced_accuracy import BalancedAccuracy
from .brier_score import BrierScore
from .calibration_error import CalibrationError
from .class_counts import ClassCounts, Counter, Totals
from .class_metric import Average, ClassFormula, ClassMetric, ClassRatio
from .cohen_kappa import CohenKappa
from .confusion_matrix import ConfusionMatrix, normalized
from .curve import BinnedMetric, CurveValue, RankedMetric
from .jaccard import Jaccard
from .label_counts import LabelCounts
from .log_loss import LogLoss
from .matthews_corr_coef import MatthewsCorrCoef
from .mean import Mean
from .perplexity import Perplexity
from .precision_recall import (
    F1,
    FBeta,
    FBetaRatio,
    Precision,
    Recall,
    Specificity,
)
from .quantile import Quantile
from .regression import (
    ErrorFormula,
    ErrorMetric,
    ExplainedVariance,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    PearsonCorrCoef,
    R2Score,
    RootMeanSquaredError,
)
from .row_mean import RowMean, RowSum
from .running_moments import RunningMoments
