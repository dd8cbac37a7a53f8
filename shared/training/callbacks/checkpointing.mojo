"""Says when a run is saved, and where."""

from ..core import TextState
from .callback import Action, Callback, Progress


struct Checkpointing(Callback):
    """Saves the run after some epochs, and after each best validation.

    A file replaces the one before it, once it is complete.
    """

    var path: String
    """The file of the last epoch; empty for none."""
    var best_path: String
    """The file of the epoch with the lowest loss of validation; empty for none."""
    var every: Int
    """After how many epochs `path` is written; the last epoch always is."""
    var best: Float64
    """The lowest loss so far."""

    def __init__(
        out self, path: String, *, every: Int = 1, best_path: String = ""
    ) raises:
        """Sets the files.

        Args:
            path: The file of the last epoch; empty for none.
            every: After how many epochs it is written, at least 1.
            best_path: The file of the epoch with the lowest loss of validation;
                empty for none.

        Raises:
            Error: If `every` is below 1.
        """
        if every < 1:
            raise Error("every must be at least 1, got ", every)
        self.path = path
        self.best_path = best_path
        self.every = every
        self.best = Float64.MAX

    def on_validation_end(mut self, progress: Progress) raises -> Action:
        """Asks for the file of the best epoch.

        Args:
            progress: Where the run is.

        Returns:
            Whether to save.

        Raises:
            Error: Never.
        """
        if self.best_path == "" or not progress.val_loss < self.best:
            return Action()
        self.best = progress.val_loss
        return Action(saves=[self.best_path])

    def on_epoch_end(mut self, progress: Progress) raises -> Action:
        """Asks for the file of the last epoch.

        Args:
            progress: Where the run is.

        Returns:
            Whether to save.

        Raises:
            Error: Never.
        """
        var done = progress.epoch + 1
        var is_due = done % self.every == 0 or done == progress.epochs
        if self.path == "" or not is_due:
            return Action()
        return Action(saves=[self.path])

    def state_dict(self) -> String:
        """Writes down the lowest loss.

        Returns:
            Lines `key=value`.
        """
        var state = TextState()
        state.put("best", String(self.best))
        return state.text

    def load_state_dict(mut self, text: String) raises:
        """Goes on where `state_dict` was taken.

        Args:
            text: What `state_dict` returned.

        Raises:
            Error: If it is of another callback, or damaged.
        """
        self.best = Float64(TextState(text).get("best"))
