"""The optimizer of Mojo programs: applies a rule and owns its state."""

from std.sys import size_of

from ..core import (
    Context,
    Executor,
    LearningRate,
    SerialExecutor,
    UpdateRule,
    update,
    words_at,
)
from ..core.table import (
    RECORD_WORDS,
    ContextWord,
    RowWord,
    block_count,
)


struct Parameter[dtype: DType = DType.float32](Movable):
    """A tensor to optimize and its gradient, both flat.

    Parameters:
        dtype: The dtype of both: float32, float64 or bfloat16.
    """

    var value: List[Scalar[Self.dtype]]
    """The elements."""
    var grad: List[Scalar[Self.dtype]]
    """The gradient of the loss, as long as `value`."""

    def __init__(out self, var value: List[Scalar[Self.dtype]]):
        """Takes the elements and starts with a gradient of zeros.

        Args:
            value: The elements.
        """
        self.grad = List[Scalar[Self.dtype]](length=len(value), fill=0)
        self.value = value^


@fieldwise_init
struct OptimizerState[dtype: DType](Copyable, Movable):
    """What an optimizer goes on from.

    Parameters:
        dtype: The dtype of the state tensors.
    """

    var hyperparameters: List[Float64]
    """The fields of the rule, in their order."""
    var steps: List[Float32]
    """How many steps each parameter has had; empty before the first."""
    var scalars: List[Float32]
    """The states with one element, parameter by parameter."""
    var tensors: List[List[Scalar[Self.dtype]]]
    """The state tensors, parameter by parameter."""


struct Optimizer[
    Rule: UpdateRule,
    dtype: DType = DType.float32,
    Runner: Executor = SerialExecutor,
](LearningRate, Movable):
    """Applies one rule to a list of parameters and keeps their state.

    Parameters:
        Rule: The update rule.
        dtype: The dtype of the parameters, gradients and state.
        Runner: Who runs the blocks of a step.
    """

    var rule: Self.Rule
    """The hyperparameters; may be changed between steps, also by the rule itself."""
    var executor: Self.Runner
    """Who runs the blocks of a step."""
    var _rules: List[Self.Rule]
    var _state: List[List[Scalar[Self.dtype]]]
    var _steps: List[Float32]
    var _scalars: List[Float32]
    var _table: List[Int64]
    var _records: List[Int64]
    var _partials: List[Float64]
    var _context: List[Int64]

    def __init__(
        out self, rule: Self.Rule, executor: Self.Runner = SerialExecutor()
    ):
        """Makes an optimizer without state; the first step creates it.

        Args:
            rule: The hyperparameters.
            executor: Who runs the blocks of a step.
        """
        self.rule = rule
        self.executor = executor
        self._rules = []
        self._state = []
        self._steps = []
        self._scalars = []
        self._table = []
        self._records = []
        self._partials = []
        self._context = List[Int64](length=ContextWord.END, fill=0)

    def learning_rate(self) -> Float64:
        """Reads the learning rate.

        Returns:
            The learning rate of the next step.
        """
        return self.rule.learning_rate()

    def set_learning_rate(mut self, value: Float64):
        """Sets the learning rate.

        Args:
            value: The learning rate of the next step.
        """
        self.rule.set_learning_rate(value)

    def state_dict(self) -> OptimizerState[Self.dtype]:
        """Copies the state.

        Returns:
            The state.
        """
        var rule = self.rule
        var fields = Pointer(to=rule).unsafe_bitcast[Float64]()
        var hyperparameters = List[Float64]()
        for i in range(size_of[Self.Rule]() // size_of[Float64]()):
            hyperparameters.append(fields[unsafe_offset=i])
        return OptimizerState[Self.dtype](
            hyperparameters^,
            self._steps.copy(),
            self._scalars.copy(),
            self._state.copy(),
        )

    def load_state_dict(
        mut self,
        var state: OptimizerState[Self.dtype],
        parameters: List[Parameter[Self.dtype]],
    ) raises:
        """Goes on where `state_dict` was taken.

        Args:
            state: What `state_dict` returned.
            parameters: The parameters of the steps to come.

        Raises:
            Error: If it is the state of another rule, or of other parameters;
                nothing is changed then.
        """
        comptime states = Self.Rule.Update.STATES
        var count = len(parameters) if len(state.steps) > 0 else 0
        if (
            len(state.hyperparameters) * size_of[Float64]()
            != size_of[Self.Rule]()
            or len(state.scalars) != len(state.steps) * Self.Rule.SCALARS
            or len(state.tensors) != len(state.steps) * states
        ):
            raise Error("the state is of an optimizer of another rule")
        if len(state.steps) != count:
            raise Error(
                "the state must be of ",
                len(parameters),
                " parameters, got ",
                len(state.steps),
            )
        for i in range(len(state.tensors)):
            var numel = len(parameters[i // states].value)
            if len(state.tensors[i]) != numel:
                raise Error(
                    "the state of parameters[",
                    i // states,
                    "] must have ",
                    numel,
                    " elements, got ",
                    len(state.tensors[i]),
                )
        var rule = self.rule
        var fields = Pointer(to=rule).unsafe_bitcast[Float64]()
        for i in range(len(state.hyperparameters)):
            fields[unsafe_offset=i] = state.hyperparameters[i]
        self.rule = rule
        self._create_tables(count)
        self._steps = state.steps.copy()
        self._scalars = state.scalars.copy()
        self._state = state.tensors.copy()

    def step(mut self, mut parameters: List[Parameter[Self.dtype]]) raises:
        """Updates every parameter by its gradient.

        Args:
            parameters: The same parameters, in the same order, at each call.

        Raises:
            Error: If a gradient is not as long as its parameter, or the list is
                not the one of the first step.
        """
        comptime states = Self.Rule.Update.STATES
        if len(self._steps) == 0:
            self._create_state(parameters)
        if len(self._steps) != len(parameters):
            raise Error(
                "parameters must be the ",
                len(self._steps),
                " of the first step, got ",
                len(parameters),
            )
        var blocks = 0
        var elements = 0
        for i in range(len(parameters)):
            ref parameter = parameters[i]
            var numel = len(parameter.value)
            if len(parameter.grad) != numel:
                raise Error(
                    "parameters[",
                    i,
                    "].grad must have ",
                    numel,
                    " elements like its value, got ",
                    len(parameter.grad),
                )
            var row = i * RowWord.END
            self._table[row + RowWord.PARAM] = Int64(
                Int(parameter.value.unsafe_ptr())
            )
            self._table[row + RowWord.GRAD] = Int64(
                Int(parameter.grad.unsafe_ptr())
            )
            self._table[row + RowWord.NUMEL] = Int64(numel)
            self._table[row + RowWord.STEP] = Int64(
                Int(Pointer(to=self._steps[i]))
            )
            self._table[row + RowWord.FIRST_BLOCK] = Int64(blocks)
            comptime for s in range(Self.Rule.SCALARS):
                self._table[row + RowWord.SCALAR + s] = Int64(
                    Int(Pointer(to=self._scalars[i * Self.Rule.SCALARS + s]))
                )
            blocks += block_count(numel)
            elements += numel
            comptime for s in range(states):
                ref state = self._state[i * states + s]
                if len(state) != numel:
                    raise Error(
                        "parameters[",
                        i,
                        "].value must keep its ",
                        len(state),
                        " elements, got ",
                        numel,
                    )
                self._table[row + RowWord.STATE + s] = Int64(
                    Int(state.unsafe_ptr())
                )
        self._rules = [self.rule]
        self._write_context(len(parameters), blocks, elements)
        update[Self.Rule, Self.dtype](
            Context(words_at(Int(self._context.unsafe_ptr()))),
            self.executor,
        )
        self.rule = self._rules[0]

    def _create_state(mut self, parameters: List[Parameter[Self.dtype]]):
        for i in range(len(parameters)):
            var numel = len(parameters[i].value)
            for s in range(Self.Rule.Update.STATES):
                var state = List[Scalar[Self.dtype]](length=numel, fill=0)
                for j in range(numel):
                    state[j] = self.rule.initial_state(
                        s, parameters[i].value[j]
                    )
                self._state.append(state^)
            for s in range(Self.Rule.SCALARS):
                self._scalars.append(self.rule.initial_scalar(s))
        self._steps = List[Float32](length=len(parameters), fill=0)
        self._create_tables(len(parameters))

    def _create_tables(mut self, tensors: Int):
        self._table = List[Int64](length=tensors * RowWord.END, fill=0)
        self._records = List[Int64](length=tensors * RECORD_WORDS, fill=0)

    def _write_context(mut self, tensors: Int, blocks: Int, elements: Int):
        self._context[ContextWord.TABLE] = Int64(Int(self._table.unsafe_ptr()))
        self._context[ContextWord.TENSORS] = Int64(tensors)
        self._context[ContextWord.BLOCKS] = Int64(blocks)
        self._context[ContextWord.ELEMENTS] = Int64(elements)
        Context(words_at(Int(self._context.unsafe_ptr()))).set_number(
            ContextWord.GRAD_FACTOR, 1
        )
        self._context[ContextWord.HYPERPARAMETERS] = Int64(
            Int(self._rules.unsafe_ptr())
        )
        self._context[ContextWord.RECORDS] = Int64(
            Int(self._records.unsafe_ptr())
        )
        self._context[ContextWord.GROUPS] = 1
        comptime if Self.Rule.Update.SUMS > 0:
            self._partials.resize(blocks * Self.Rule.Update.SUMS, 0)
            self._context[ContextWord.PARTIALS] = Int64(
                Int(self._partials.unsafe_ptr())
            )
