"""What Python and the kernels share: the numbers of words in arrays, and of kernels.

Each class repeats the struct of that name in `shared/training/core/table.mojo`,
`shared/training/models/table.mojo`, `shared/training/loops/program.mojo` or one of the files in
`shared/bindings`; a test compares the sources, and `hotloop.backend` compares the sizes, and the
names of functions, with those of the extension that it loads.
"""

from __future__ import annotations

__all__ = [
    "BLOCK",
    "FUNCTIONS",
    "KERNELS",
    "ContextWord",
    "Dtype",
    "HandleWord",
    "LaunchWord",
    "LayerKind",
    "LayerWord",
    "ObjectiveKind",
    "PlanWord",
    "ProgramWord",
    "RateWord",
    "RowWord",
]

#: Elements in a block, the unit that is dealt out to threads.
BLOCK = 256
#: Words that the constants of one step may take.
RECORD_WORDS = 16
#: Sums over whole tensors that a rule may measure.
SUMS_MAX = 2


class RowWord:
    """A tensor's row in the table."""

    PARAM = 0
    GRAD = 1
    STATE = 2
    STEP = 6
    SCALAR = 7
    AVERAGE = 9
    NUMEL = 10
    FIRST_BLOCK = 11
    GROUP = 12
    RECORD = 13
    ROWS = 14
    COLUMNS = 15
    PARTS = 16
    SCRATCH = 17
    END = 18


class ContextWord:
    """What the kernels read of a launch."""

    TABLE = 0
    TENSORS = 1
    BLOCKS = 2
    HYPERPARAMETERS = 3
    HYPERPARAMETERS_STRIDE = 4
    RECORDS = 5
    GRAD_SCALE = 6
    ELEMENTS = 7
    GRAD_FACTOR = 8
    AVERAGE_WEIGHT = 9
    ZERO_GRAD = 10
    PARTIALS = 11
    GROUPS = 12
    END = 13


class LaunchWord:
    """What a launch's context holds behind the words that kernels read."""

    KERNEL = ContextWord.END
    KERNEL_DTYPE = ContextWord.END + 1
    DTYPE = ContextWord.END + 2
    HANDLES = ContextWord.END + 3
    HELD = ContextWord.END + 4
    STATE_DTYPE = ContextWord.END + 5
    STATE_SPAN = ContextWord.END + 9
    FLOAT32 = ContextWord.END + 13
    END = ContextWord.END + 14


class HandleWord:
    """The handles of a tensor's row."""

    PARAM = 0
    STATE = 1
    STEP = 5
    SCALAR = 6
    AVERAGE = 8
    END = 9


class PlanWord:
    """A plan."""

    RUNTIME = 0
    OBJECTS = 1
    STATE_IS_SHARED = 2
    IS_NORM_MEASURED = 3
    IS_UPDATED = 4
    MAX_NORM = 5
    GRAD_SCALE = 6
    GRAD_FACTOR = 7
    AVERAGE_WEIGHT = 8
    ZERO_GRAD = 9
    NORM = 10
    LAUNCHES = 11
    END = 12


class Outcome:
    """What a step reports."""

    DONE = 0
    CHANGED = 1
    NOT_FINITE = 2


#: The kernels in the order of their numbers, `Kernel` in Mojo.
KERNELS = (
    "SGD",
    "SGD_MOMENTUM",
    "SGD_NESTEROV",
    "ADAM",
    "ADAM_AMSGRAD",
    "ADAMW",
    "ADAMW_AMSGRAD",
    "ADAM_FAST",
    "ADAMW_FAST",
    "ADAMW_8BIT",
    "LION_8BIT",
    "LION_WIDE_STATE",
    "ADAM_WIDE_STATE",
    "ADAMW_WIDE_STATE",
    "ADAM_MASTER",
    "ADAMW_MASTER",
    "RMSPROP",
    "RMSPROP_MOMENTUM",
    "RMSPROP_CENTERED",
    "RMSPROP_CENTERED_MOMENTUM",
    "ADAGRAD",
    "ADADELTA",
    "ADAMAX",
    "NADAM",
    "RADAM",
    "RPROP",
    "ASGD",
    "LION",
    "ADAN",
    "ADOPT",
    "SOPHIAG",
    "SCHEDULE_FREE_SGD",
    "SCHEDULE_FREE_ADAMW",
    "ADAMW_8BIT_FAST",
    "LAMB",
    "LARS",
    "LARS_MOMENTUM",
    "LARS_NESTEROV",
    "PRODIGY",
    "MUON_MOMENTUM",
    "MUON_NESTEROV",
    "ADAFACTOR",
    "ADAFACTOR_FACTORED",
    "ADAFACTOR_POINTS",
)


class Dtype:
    """The dtypes of tensors that functions of the extension read, by number."""

    FLOAT32 = 0
    FLOAT64 = 1
    BFLOAT16 = 2
    FLOAT16 = 3
    INT64 = 4
    INT32 = 5
    INT16 = 6
    INT8 = 7
    UINT8 = 8
    BOOL = 9


class LayerKind:
    """The layers, by number."""

    LINEAR = 0
    RELU = 1
    LEAKY_RELU = 2
    TANH = 3
    SIGMOID = 4
    SILU = 5
    GELU = 6
    GELU_TANH = 7
    LAYER_NORM = 8
    BATCH_NORM = 9
    DROPOUT = 10
    EMBEDDING = 11
    CONV2D = 12
    MAX_POOL2D = 13
    AVG_POOL2D = 14
    SHORTCUT_START = 15
    SHORTCUT_END = 16
    END = 17


class LayerWord:
    """A layer's row in the table."""

    KIND = 0
    INPUTS = 1
    OUTPUTS = 2
    X = 3
    Y = 4
    KEPT = 5
    DY = 6
    DX = 7
    WEIGHT = 8
    BIAS = 9
    WEIGHT_GRAD = 10
    BIAS_GRAD = 11
    OPTION = 12
    MEAN = 13
    VARIANCE = 14
    BATCHES = 15
    MOMENTUM = 16
    CHANNELS = 17
    HEIGHT = 18
    WIDTH = 19
    OUT_HEIGHT = 20
    OUT_WIDTH = 21
    KERNEL_HEIGHT = 22
    KERNEL_WIDTH = 23
    STRIDE_HEIGHT = 24
    STRIDE_WIDTH = 25
    PADDING_HEIGHT = 26
    PADDING_WIDTH = 27
    ENTRIES = 28
    PADDING_INDEX = 29
    STREAM = 30
    END = 31


class ObjectiveKind:
    """The losses, by number."""

    CROSS_ENTROPY = 0
    MEAN_SQUARED_ERROR = 1
    HUBER = 2
    BINARY_CROSS_ENTROPY = 3
    POISSON = 4
    END = 5


class ProgramWord:
    """A program: a network, its data and its memory."""

    DTYPE = 0
    LAYERS = 1
    TABLE = 2
    BATCH = 3
    BLOCK = 4
    THREADS = 5
    WORKSPACE = 6
    WORKSPACE_SIZE = 7
    GRADS = 8
    GRADS_SIZE = 9
    DATA = 10
    INPUTS = 11
    X = 12
    OUTPUTS = 13
    Y = 14
    DY = 15
    ROWS = 16
    LABELS = 17
    VALUES = 18
    ORDER = 19
    EPOCH = 20
    OBJECTIVE = 21
    OPTION = 22
    FIRST_STEP = 23
    LOSSES = 24
    CORRECT = 25
    PREDICTIONS = 26
    PARTIALS = 27
    STEP = 28
    IS_TRAINING = 29
    DONE = 30
    SEED = 31
    HAS_INDICES = 32
    NORMS = 33
    WEIGHTS = 34
    TOTAL = 35
    SQUARES = 36
    END = 37


class RateWord:
    """The numbers that change with each batch; their places follow."""

    NUMBERS = 0
    VALUES = 1
    PLACES = 2


#: The functions of the extension.
FUNCTIONS = (
    "area_under_roc",
    "average_precision",
    "bin_scores",
    "check_scores",
    "count_at_thresholds",
    "count_binary",
    "count_class_scores",
    "count_classes",
    "count_confidences",
    "count_values",
    "cross_entropy",
    "forward_batches",
    "layer_kept",
    "layout",
    "measure_errors",
    "measure_values",
    "pointwise_loss",
    "probe",
    "rank_scores",
    "scan_rows",
    "step",
    "sum_brier_scores",
    "sum_log_losses",
    "sum_tokens",
    "sum_values",
    "train_batches",
)
