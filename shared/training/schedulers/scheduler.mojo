"""The scheduler: gives an optimizer the learning rate of each step."""

from ..core import LearningRate, TextState
from .checks import check_number
from .schedule import Schedule

comptime VERSION = "1"
"""The version of the text of states."""


trait LRScheduler(Deinitable, Movable):
    """What training loops ask of a scheduler."""

    def get_lr(self, step: Int) -> Float64:
        """Gives the learning rate of a step.

        Args:
            step: How many steps have been taken, at least 0.

        Returns:
            The learning rate.
        """
        ...

    def start[Target: LearningRate](self, mut optimizer: Target):
        """Gives an optimizer the learning rate of the present step.

        Parameters:
            Target: The type of the optimizer.

        Args:
            optimizer: The optimizer.
        """
        ...

    def after_update[Target: LearningRate](mut self, mut optimizer: Target):
        """Takes note of an applied update.

        Parameters:
            Target: The type of the optimizer.

        Args:
            optimizer: Gets the next learning rate, if a step is an update.
        """
        ...

    def after_epoch[Target: LearningRate](mut self, mut optimizer: Target):
        """Takes note of the end of an epoch.

        Parameters:
            Target: The type of the optimizer.

        Args:
            optimizer: Gets the next learning rate, if a step is an epoch.
        """
        ...

    def state_dict(self) -> String:
        """Writes down where the scheduler is.

        Returns:
            Lines `key=value`.
        """
        ...

    def load_state_dict(mut self, text: String) raises:
        """Goes on where `state_dict` was taken.

        Args:
            text: What `state_dict` returned.

        Raises:
            Error: If it is of another scheduler, or damaged.
        """
        ...


struct Scheduler[Kind: Schedule, unit: StaticString = "step"](LRScheduler):
    """Multiplies a base learning rate by a schedule's factor.

    Parameters:
        Kind: The type of the schedule.
        unit: What a step is: "step" for an applied update, "epoch" for an epoch.
    """

    var schedule: Self.Kind
    """The factor of each step."""
    var base_lr: Float64
    """The learning rate at a factor of 1."""
    var steps: Int
    """How many steps have been taken."""
    var multiplier: Float64
    """A further factor, such as that of a `ReduceOnPlateau`."""

    def __init__(out self, var schedule: Self.Kind, *, base_lr: Float64) raises:
        """Starts at step 0.

        Args:
            schedule: The factor of each step.
            base_lr: The learning rate at a factor of 1, at least 0.

        Raises:
            Error: If `base_lr` is negative or not finite.
        """
        comptime assert (
            Self.unit == "step" or Self.unit == "epoch"
        ), "unit must be step or epoch"
        check_number("base_lr", base_lr)
        self.schedule = schedule^
        self.base_lr = base_lr
        self.steps = 0
        self.multiplier = 1

    def get_lr(self, step: Int) -> Float64:
        """Gives the learning rate of a step.

        Args:
            step: How many steps have been taken, at least 0.

        Returns:
            The learning rate.
        """
        return self.base_lr * self.schedule.value(step) * self.multiplier

    def start[Target: LearningRate](self, mut optimizer: Target):
        """Gives an optimizer the learning rate of the present step.

        Parameters:
            Target: The type of the optimizer.

        Args:
            optimizer: The optimizer.
        """
        optimizer.set_learning_rate(self.get_lr(self.steps))

    def after_update[Target: LearningRate](mut self, mut optimizer: Target):
        """Takes note of an applied update.

        Parameters:
            Target: The type of the optimizer.

        Args:
            optimizer: Gets the next learning rate, if a step is an update.
        """
        comptime if Self.unit == "step":
            self.steps += 1
            self.start(optimizer)

    def after_epoch[Target: LearningRate](mut self, mut optimizer: Target):
        """Takes note of the end of an epoch.

        Parameters:
            Target: The type of the optimizer.

        Args:
            optimizer: Gets the next learning rate, if a step is an epoch.
        """
        comptime if Self.unit == "epoch":
            self.steps += 1
            self.start(optimizer)

    def state_dict(self) -> String:
        """Writes down where the scheduler is.

        Returns:
            Lines `key=value`.
        """
        var state = TextState()
        state.put("version", VERSION)
        state.put("steps", String(self.steps))
        state.put("unit", String(Self.unit))
        state.put("base_lr", String(self.base_lr))
        state.put("multiplier", String(self.multiplier))
        state.put("schedule", String(self.schedule))
        return state.text

    def load_state_dict(mut self, text: String) raises:
        """Goes on where `state_dict` was taken.

        Args:
            text: What `state_dict` returned.

        Raises:
            Error: If it is of another scheduler, or damaged; nothing is changed then.
        """
        var state = TextState(text)
        var mine = TextState(self.state_dict())
        for key in ["version", "unit", "base_lr", "schedule"]:
            if state.get(key) != mine.get(key):
                raise Error(
                    "the state is of another scheduler: its ",
                    key,
                    " is ",
                    state.get(key),
                    ", this one's is ",
                    mine.get(key),
                )
        var steps = Int(state.get("steps"))
        self.multiplier = Float64(state.get("multiplier"))
        self.steps = steps
