"""Prints a line for each epoch."""

from std.utils.numerics import isnan

from .callback import Action, Callback, Progress


@fieldwise_init
struct PrintEpochs(Callback):
    """Prints the losses and accuracies of each epoch."""

    def on_epoch_end(mut self, progress: Progress) raises -> Action:
        """Prints a line.

        Args:
            progress: Where the run is.

        Returns:
            Nothing to do.

        Raises:
            Error: Never.
        """
        var line = String(
            "epoch ",
            progress.epoch + 1,
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
        print(line)
        return Action()


def _rounded(value: Float64) -> Float64:
    return round(value * 10000) / 10000
