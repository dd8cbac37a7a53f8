"""Writes what a run measures to a file."""

from std.os.path import exists
from std.pathlib import Path
from std.utils.numerics import isinf, isnan

from .callback import Action, Callback, Progress


@fieldwise_init
struct LogMetrics(Callback):
    """Writes each epoch as a line of JSON, as `JsonlTracker` does in Python.

    `{"step": 12, "epoch": 1, "loss": 0.5, "learning_rate": 0.1}`, with accuracies and
    values of validation where there are any. Numbers that are not finite are the
    strings "nan", "inf" and "-inf". A run that begins makes the file anew; one that
    goes on keeps the lines up to its step.
    """

    var path: String
    """The file."""

    def on_train_begin(mut self, progress: Progress) raises -> Action:
        """Makes the file, or goes on with it.

        Args:
            progress: Where the run is.

        Returns:
            Nothing to do.

        Raises:
            Error: If the file cannot be written, or a run goes on with one that
                has other lines.
        """
        var kept = String()
        if progress.step > 0 and exists(self.path):
            var text = Path(self.path).read_text()
            # What follows the last line's end was torn by a crash.
            var end = text.rfind("\n") + 1
            for line in text[byte=0:end].splitlines():
                if _step(line, self.path) <= progress.step:
                    kept += String(line, "\n")
        with open(self.path, "w") as file:
            file.write(kept)
        return Action()

    def on_epoch_end(mut self, progress: Progress) raises -> Action:
        """Writes a line.

        Args:
            progress: Where the run is.

        Returns:
            Nothing to do.

        Raises:
            Error: If the file cannot be written.
        """
        var line = String(
            '{"step": ', progress.step, ', "epoch": ', progress.epoch + 1
        )
        line += String(', "loss": ', _number(progress.loss))
        if not isnan(progress.accuracy):
            line += String(', "accuracy": ', _number(progress.accuracy))
        if not isnan(progress.val_loss):
            line += String(', "val_loss": ', _number(progress.val_loss))
        if not isnan(progress.val_accuracy):
            line += String(', "val_accuracy": ', _number(progress.val_accuracy))
        if not isnan(progress.val_metric):
            line += String(', "val_metric": ', _number(progress.val_metric))
        line += String(
            ', "learning_rate": ', _number(progress.learning_rate), "}\n"
        )
        with open(self.path, "a") as file:
            file.write(line)
        return Action()


def _number(value: Float64) -> String:
    if isnan(value):
        return '"nan"'
    if isinf(value):
        return '"inf"' if value > 0 else '"-inf"'
    return String(value)


def _step(line: StringSpan, path: String) raises -> Int:
    comptime start = '{"step": '
    try:
        return Int(line.removeprefix(start).split(",")[0])
    except:
        raise Error(
            path, " must have lines that begin with ", start, ", got ", line
        )
