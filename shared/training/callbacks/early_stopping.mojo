"""Ends a run that no longer gets better."""

from std.utils.numerics import isfinite

from ..core import TextState
from .callback import Action, Callback, Progress


struct EarlyStopping(Callback):
    """Stops when the validation's loss has not fallen for some validations (Prechelt, 1998).

    The parameters of the best validation are put back at the end of the run.
    """

    var patience: Int
    """After how many validations without improvement the run ends."""
    var min_delta: Float64
    """How much lower a loss must be to be an improvement."""
    var best: Float64
    """The lowest loss so far."""
    var stale: Int
    """Validations since then."""
    var is_stopped: Bool
    """Whether this callback has ended the run."""

    def __init__(out self, patience: Int, *, min_delta: Float64 = 0) raises:
        """Sets the patience.

        Args:
            patience: After how many validations without improvement the run
                ends, at least 1.
            min_delta: How much lower a loss must be to be an improvement, at
                least 0.

        Raises:
            Error: If a number is out of its range.
        """
        if patience < 1:
            raise Error("patience must be at least 1, got ", patience)
        if not (isfinite(min_delta) and min_delta >= 0):
            raise Error("min_delta must be at least 0, got ", min_delta)
        self.patience = patience
        self.min_delta = min_delta
        self.best = Float64.MAX
        self.stale = 0
        self.is_stopped = False

    def on_train_begin(mut self, progress: Progress) raises -> Action:
        """Ends a run at once that it has ended before.

        Args:
            progress: Where the run is.

        Returns:
            Whether to stop.

        Raises:
            Error: Never.
        """
        return Action(stops=self.is_stopped)

    def on_validation_end(mut self, progress: Progress) raises -> Action:
        """Compares the loss with the best one.

        Args:
            progress: Where the run is.

        Returns:
            Whether to keep the parameters, or to stop.

        Raises:
            Error: If the loss is not finite.
        """
        if not isfinite(progress.val_loss):
            raise Error(
                "the validation's loss is ",
                progress.val_loss,
                " after epoch ",
                progress.epoch,
            )
        if progress.val_loss < self.best - self.min_delta:
            self.best = progress.val_loss
            self.stale = 0
            return Action(keeps=True)
        self.stale += 1
        self.is_stopped = self.stale >= self.patience
        return Action(stops=self.is_stopped)

    def on_train_end(mut self, progress: Progress) raises -> Action:
        """Asks for the best parameters.

        Args:
            progress: Where the run is.

        Returns:
            That, if there was a validation.

        Raises:
            Error: Never.
        """
        return Action(restores=self.best < Float64.MAX)

    def state_dict(self) -> String:
        """Writes down what it has seen.

        Returns:
            Lines `key=value`.
        """
        var state = TextState()
        state.put("best", String(self.best))
        state.put("stale", String(self.stale))
        state.put("is_stopped", String(self.is_stopped))
        return state.text

    def load_state_dict(mut self, text: String) raises:
        """Goes on where `state_dict` was taken.

        Args:
            text: What `state_dict` returned.

        Raises:
            Error: If it is of another callback, or damaged.
        """
        var state = TextState(text)
        var best = Float64(state.get("best"))
        self.stale = Int(state.get("stale"))
        self.is_stopped = state.get("is_stopped") == "True"
        self.best = best
