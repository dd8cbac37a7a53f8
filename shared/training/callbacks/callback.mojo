"""The callback: hooks of a run, and what they may ask for."""


@fieldwise_init
struct Progress(ImplicitlyCopyable, Movable):
    """Where a run is, for callbacks to read."""

    var epoch: Int
    """The epoch, counted from 0."""
    var epochs: Int
    """How many epochs the run has."""
    var step: Int
    """How many updates were applied."""
    var batch: Int
    """The batch of the epoch, counted from 0."""
    var loss: Float64
    """The mean loss of the batch in `on_batch_end`, of the epoch in `on_epoch_end`."""
    var accuracy: Float64
    """The fraction of these samples that was classified right; NaN without classes."""
    var val_loss: Float64
    """The mean loss of the last validation; NaN without one."""
    var val_accuracy: Float64
    """The fraction of its samples that was classified right; NaN without classes."""
    var val_metric: Float64
    """The metric of the last validation; NaN without one."""
    var learning_rate: Float64
    """The learning rate of the next update."""


struct Action(Copyable, Movable):
    """What a callback asks the loop for."""

    var stops: Bool
    """Whether to end the run after this hook."""
    var keeps: Bool
    """Whether to keep a copy of the parameters, in place of the last one."""
    var restores: Bool
    """Whether to put the kept parameters back."""
    var saves: List[String]
    """Files to save the run to, once the epoch is over."""

    def __init__(
        out self,
        *,
        stops: Bool = False,
        keeps: Bool = False,
        restores: Bool = False,
        var saves: List[String] = List[String](),
    ):
        """Asks for something, or for nothing.

        Args:
            stops: Whether to end the run after this hook.
            keeps: Whether to keep a copy of the parameters.
            restores: Whether to put the kept parameters back.
            saves: Files to save the run to, once the epoch is over.
        """
        self.stops = stops
        self.keeps = keeps
        self.restores = restores
        self.saves = saves^

    def joined(self, other: Self) -> Self:
        """Asks for what either asks for.

        Args:
            other: The other one.

        Returns:
            Both.
        """
        return Self(
            stops=self.stops or other.stops,
            keeps=self.keeps or other.keeps,
            restores=self.restores or other.restores,
            saves=self.saves + other.saves.copy(),
        )


trait Callback(Deinitable, Movable):
    """Watches a run; every hook does nothing unless it is written."""

    def on_train_begin(mut self, progress: Progress) raises -> Action:
        """Called before the first epoch.

        Args:
            progress: Where the run is.

        Returns:
            What to do.

        Raises:
            Error: To end the run with it.
        """
        return Action()

    def on_epoch_begin(mut self, progress: Progress) raises -> Action:
        """Called before each epoch.

        Args:
            progress: Where the run is.

        Returns:
            What to do.

        Raises:
            Error: To end the run with it.
        """
        return Action()

    def on_batch_begin(mut self, progress: Progress) raises -> Action:
        """Called before each batch.

        Args:
            progress: Where the run is.

        Returns:
            What to do.

        Raises:
            Error: To end the run with it.
        """
        return Action()

    def on_batch_end(mut self, progress: Progress) raises -> Action:
        """Called after each batch, and the update if the batch completes one.

        Args:
            progress: Where the run is.

        Returns:
            What to do.

        Raises:
            Error: To end the run with it.
        """
        return Action()

    def on_validation_begin(mut self, progress: Progress) raises -> Action:
        """Called before each validation.

        Args:
            progress: Where the run is.

        Returns:
            What to do.

        Raises:
            Error: To end the run with it.
        """
        return Action()

    def on_validation_end(mut self, progress: Progress) raises -> Action:
        """Called after each validation.

        Args:
            progress: Where the run is.

        Returns:
            What to do.

        Raises:
            Error: To end the run with it.
        """
        return Action()

    def on_epoch_end(mut self, progress: Progress) raises -> Action:
        """Called after each epoch and its validation.

        Args:
            progress: Where the run is.

        Returns:
            What to do.

        Raises:
            Error: To end the run with it.
        """
        return Action()

    def on_train_end(mut self, progress: Progress) raises -> Action:
        """Called after the last epoch.

        Args:
            progress: Where the run is.

        Returns:
            What to do.

        Raises:
            Error: To end the run with it.
        """
        return Action()

    def state_dict(self) -> String:
        """Writes down what the callback goes on from, for files of the run.

        Returns:
            Lines of text; none unless it is written.
        """
        return ""

    def load_state_dict(mut self, text: String) raises:
        """Goes on where `state_dict` was taken.

        Args:
            text: What `state_dict` returned.

        Raises:
            Error: If it is of another callback, or damaged.
        """
        pass


struct Callbacks[*Watchers: Callback](Callback):
    """Several callbacks, called in order; at ends in reverse order.

    Parameters:
        Watchers: The types of the callbacks.
    """

    comptime COUNT = len(Self.Watchers)
    """How many there are."""

    var items: Tuple[*Self.Watchers]
    """The callbacks."""

    def __init__(out self, var items: Tuple[*Self.Watchers]):
        """Takes callbacks.

        Args:
            items: The callbacks.
        """
        self.items = items^

    def on_train_begin(mut self, progress: Progress) raises -> Action:
        """Calls each one.

        Args:
            progress: Where the run is.

        Returns:
            What any of them asks for.

        Raises:
            Error: What one of them raises.
        """
        var action = Action()
        comptime for i in range(Self.COUNT):
            action = action.joined(self.items[i].on_train_begin(progress))
        return action^

    def on_epoch_begin(mut self, progress: Progress) raises -> Action:
        """Calls each one.

        Args:
            progress: Where the run is.

        Returns:
            What any of them asks for.

        Raises:
            Error: What one of them raises.
        """
        var action = Action()
        comptime for i in range(Self.COUNT):
            action = action.joined(self.items[i].on_epoch_begin(progress))
        return action^

    def on_batch_begin(mut self, progress: Progress) raises -> Action:
        """Calls each one.

        Args:
            progress: Where the run is.

        Returns:
            What any of them asks for.

        Raises:
            Error: What one of them raises.
        """
        var action = Action()
        comptime for i in range(Self.COUNT):
            action = action.joined(self.items[i].on_batch_begin(progress))
        return action^

    def on_batch_end(mut self, progress: Progress) raises -> Action:
        """Calls each one, the last first.

        Args:
            progress: Where the run is.

        Returns:
            What any of them asks for.

        Raises:
            Error: What one of them raises.
        """
        var action = Action()
        comptime for i in range(Self.COUNT):
            comptime j = Self.COUNT - 1 - i
            action = action.joined(self.items[j].on_batch_end(progress))
        return action^

    def on_validation_begin(mut self, progress: Progress) raises -> Action:
        """Calls each one.

        Args:
            progress: Where the run is.

        Returns:
            What any of them asks for.

        Raises:
            Error: What one of them raises.
        """
        var action = Action()
        comptime for i in range(Self.COUNT):
            action = action.joined(self.items[i].on_validation_begin(progress))
        return action^

    def on_validation_end(mut self, progress: Progress) raises -> Action:
        """Calls each one, the last first.

        Args:
            progress: Where the run is.

        Returns:
            What any of them asks for.

        Raises:
            Error: What one of them raises.
        """
        var action = Action()
        comptime for i in range(Self.COUNT):
            comptime j = Self.COUNT - 1 - i
            action = action.joined(self.items[j].on_validation_end(progress))
        return action^

    def on_epoch_end(mut self, progress: Progress) raises -> Action:
        """Calls each one, the last first.

        Args:
            progress: Where the run is.

        Returns:
            What any of them asks for.

        Raises:
            Error: What one of them raises.
        """
        var action = Action()
        comptime for i in range(Self.COUNT):
            comptime j = Self.COUNT - 1 - i
            action = action.joined(self.items[j].on_epoch_end(progress))
        return action^

    def on_train_end(mut self, progress: Progress) raises -> Action:
        """Calls each one, the last first.

        Args:
            progress: Where the run is.

        Returns:
            What any of them asks for.

        Raises:
            Error: What one of them raises.
        """
        var action = Action()
        comptime for i in range(Self.COUNT):
            comptime j = Self.COUNT - 1 - i
            action = action.joined(self.items[j].on_train_end(progress))
        return action^

    def state_dict(self) -> String:
        """Writes down the state of each one.

        Returns:
            Their lines, each behind the number of its callback.
        """
        var result = String()
        comptime for i in range(Self.COUNT):
            for line in self.items[i].state_dict().splitlines():
                result += String(i, ".", line, "\n")
        return result^

    def load_state_dict(mut self, text: String) raises:
        """Goes on where `state_dict` was taken.

        Args:
            text: What `state_dict` returned.

        Raises:
            Error: If it is of other callbacks, or damaged.
        """
        comptime for i in range(Self.COUNT):
            var own = String()
            var start = String(i, ".")
            for line in text.splitlines():
                if line.startswith(start):
                    own += String(line.removeprefix(start), "\n")
            self.items[i].load_state_dict(own)
