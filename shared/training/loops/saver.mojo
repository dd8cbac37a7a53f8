"""Parts of a run in files, and back."""

from std.reflection import reflect

from ..checkpoint import TensorFile
from ..core import UpdateRule
from ..models import Layer, Network, ParameterLabel
from ..optimizers import Optimizer, OptimizerState
from .validation_loop import EpochValues

comptime MODEL = "model."
"""Before the names of the model's parameters and buffers."""

comptime KEPT = "kept."
"""Before the names of a copy of them that was kept."""

comptime OPTIMIZER = "optimizer."
"""Before the names of the optimizer's state."""

comptime HISTORY = "history"
"""The name of what was measured in each epoch."""
comptime COLUMNS = 5
"""How many numbers that is."""


def copy_tensors[
    Model: Layer
](network: Network[Model]) -> List[List[Scalar[Model.dtype]]]:
    """Copies what a network has learnt: its parameters, and its buffers behind them.

    Parameters:
        Model: The type of the model.

    Args:
        network: The network.

    Returns:
        The elements of each tensor.
    """
    var result = List[List[Scalar[Model.dtype]]]()
    for i in range(len(network.parameters)):
        result.append(network.parameters[i].value.copy())
    for i in range(len(network.buffers)):
        result.append(network.buffers[i].copy())
    return result^


def place_tensors[
    Model: Layer
](mut network: Network[Model], values: List[List[Scalar[Model.dtype]]]):
    """Puts back what `copy_tensors` returned.

    Parameters:
        Model: The type of the model.

    Args:
        network: The network.
        values: The elements of each tensor; none to leave all as it is.
    """
    # Layers know the addresses, so that elements are written, and not lists.
    var parameters = len(network.parameters)
    for i in range(len(values)):
        for j in range(len(values[i])):
            if i < parameters:
                network.parameters[i].value[j] = values[i][j]
            else:
                network.buffers[i - parameters][j] = values[i][j]


def put_tensors[
    Model: Layer
](
    mut file: TensorFile,
    network: Network[Model],
    values: List[List[Scalar[Model.dtype]]],
    prefix: String,
) raises:
    """Adds what `copy_tensors` returned.

    Parameters:
        Model: The type of the model.

    Args:
        file: The file.
        network: The network, which knows names and shapes.
        values: The elements of each tensor, or none.
        prefix: What names begin with.

    Raises:
        Error: If two tensors have one name.
    """
    for i in range(len(values)):
        var label = _label(network, i)
        file.put[Model.dtype](prefix + label.name, values[i], label.shape)


def get_tensors[
    Model: Layer
](file: TensorFile, network: Network[Model], prefix: String) raises -> List[
    List[Scalar[Model.dtype]]
]:
    """Reads what `put_tensors` added.

    Parameters:
        Model: The type of the model.

    Args:
        file: The file.
        network: The network, which knows names and shapes.
        prefix: What names begin with.

    Returns:
        The elements of each tensor.

    Raises:
        Error: If one is not there, or is of another shape or dtype.
    """
    var result = List[List[Scalar[Model.dtype]]]()
    for i in range(len(network.parameters) + len(network.buffers)):
        var label = _label(network, i)
        result.append(file.get[Model.dtype](prefix + label.name, label.shape))
    return result^


def put_optimizer[
    Model: Layer, Rule: UpdateRule
](
    mut file: TensorFile,
    network: Network[Model],
    optimizer: Optimizer[Rule, Model.dtype],
) raises:
    """Adds the state of an optimizer.

    Parameters:
        Model: The type of the model.
        Rule: The optimizer's rule.

    Args:
        file: The file.
        network: The network of the parameters.
        optimizer: The optimizer.

    Raises:
        Error: If two parameters have one name.
    """
    comptime states = Rule.Update.STATES
    var state = optimizer.state_dict()
    file.header.metadata["rule"] = String(reflect[Rule].name())
    file.put[DType.float64](
        OPTIMIZER + "hyperparameters",
        state.hyperparameters,
        [len(state.hyperparameters)],
    )
    file.put[DType.float32](
        OPTIMIZER + "steps", state.steps, [len(state.steps)]
    )
    file.put[DType.float32](
        OPTIMIZER + "scalars", state.scalars, [len(state.scalars)]
    )
    for i in range(len(state.tensors)):
        var label = network.model.label(i // states)
        file.put[Model.dtype](
            _state_name(label.name, i % states), state.tensors[i], label.shape
        )


def get_optimizer[
    Model: Layer, Rule: UpdateRule
](
    file: TensorFile,
    network: Network[Model],
    mut optimizer: Optimizer[Rule, Model.dtype],
) raises:
    """Gives an optimizer its state.

    Parameters:
        Model: The type of the model.
        Rule: The optimizer's rule.

    Args:
        file: The file.
        network: The network of the parameters.
        optimizer: The optimizer.

    Raises:
        Error: If the file is of another rule, or a tensor does not fit; the
            optimizer is left as it was then.
    """
    comptime states = Rule.Update.STATES
    var rule = String(reflect[Rule].name())
    if file.string("rule") != rule:
        raise Error(
            "its optimizer is ", file.string("rule"), ", this one's is ", rule
        )
    var state = OptimizerState[Model.dtype](
        _get_vector[DType.float64](file, OPTIMIZER + "hyperparameters"),
        _get_vector[DType.float32](file, OPTIMIZER + "steps"),
        _get_vector[DType.float32](file, OPTIMIZER + "scalars"),
        [],
    )
    if len(state.steps) > 0:
        for i in range(states * network.model.parameters()):
            var label = network.model.label(i // states)
            state.tensors.append(
                file.get[Model.dtype](
                    _state_name(label.name, i % states), label.shape
                )
            )
    optimizer.load_state_dict(state^, network.parameters)


def put_history(
    mut file: TensorFile,
    history: List[EpochValues],
    val: List[EpochValues],
    metrics: List[Float64],
) raises:
    """Adds what was measured in each epoch.

    Args:
        file: The file.
        history: Of the training data.
        val: Of the validation data.
        metrics: The metric of the validation data.

    Raises:
        Error: If the name is taken.
    """
    var numbers = List[Float64]()
    for i in range(len(history)):
        numbers += [history[i].loss, history[i].accuracy]
        numbers += [val[i].loss, val[i].accuracy, metrics[i]]
    file.put[DType.float64](HISTORY, numbers, [len(history), COLUMNS])


def get_history(file: TensorFile, epochs: Int) raises -> List[Float64]:
    """Copies what was measured in each epoch.

    Args:
        file: The file.
        epochs: How many epochs there were.

    Returns:
        For each the loss and the accuracy, of the training data and of the
        validation data, and the metric of these: `COLUMNS` numbers.

    Raises:
        Error: If that is not there.
    """
    return file.get[DType.float64](HISTORY, [epochs, COLUMNS])


def get_count(file: TensorFile, name: String) raises -> Int:
    """Reads a number of the metadata.

    Args:
        file: The file.
        name: Its name.

    Returns:
        The number.

    Raises:
        Error: If it is none, or negative.
    """
    var text = file.string(name)
    var count = -1
    try:
        count = Int(text)
    except:
        pass
    if count < 0:
        raise Error("its ", name, " must be a whole number, got ", repr(text))
    return count


def _get_vector[
    dtype: DType
](file: TensorFile, name: String) raises -> List[Scalar[dtype]]:
    var size = 1
    for length in file.entry(name).shape:
        size *= length
    return file.get[dtype](name, [size])


def _state_name(parameter: String, index: Int) -> String:
    return String(OPTIMIZER, parameter, ".", index)


def _label[Model: Layer](network: Network[Model], index: Int) -> ParameterLabel:
    var parameters = len(network.parameters)
    if index < parameters:
        return network.model.label(index)
    return network.model.buffer_label(index - parameters)
