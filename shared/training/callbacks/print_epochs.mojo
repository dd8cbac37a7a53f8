"""Prints lines for epochs."""

from std.utils.numerics import isnan

from .callback import Action, Callback, Progress


struct PrintEpochs(Callback):
    """Prints the losses and accuracies of epochs."""

    var every: Int
    """After how many epochs a line is printed; the last epoch always has one."""

    def __init__(out self, *, every: Int = 1) raises:
        """Sets how often.

        Args:
            every: After how many epochs a line is printed, at least 1.

        Raises:
            Error: If it is below 1.
        """
        if every < 1:
            raise Error("every must be at least 1, got ", every)
        self.every = every

    def on_epoch_end(mut self, progress: Progress) raises -> Action:
        """Prints a line.

        Args:
            progress: Where the run is.

        Returns:
            Nothing to do.

        Raises:
            Error: Never.
        """
        var done = progress.epoch + 1
        if done % self.every != 0 and done != progress.epochs:
            return Action()
        var line = String(
            "epoch ",
            done,
            "/",
            progress.epochs,
            "  step ",
            progress.step,
            "  loss ",
            _rounded(progress.loss),
        )
        if not isnan(progress.accuracy):
            line += String("  accuracy ", _rounded(progress.accuracy))
        if not isnan(progress.val_loss):
            line += String("  val_loss ", _rounded(progress.val_loss))
        if not isnan(progress.val_accuracy):
            line += String("  val_accuracy ", _rounded(progress.val_accuracy))
        if not isnan(progress.val_metric):
            line += String("  val_metric ", _rounded(progress.val_metric))
        print(line)
        return Action()


def _rounded(value: Float64) -> Float64:
    return round(value * 10000) / 10000
