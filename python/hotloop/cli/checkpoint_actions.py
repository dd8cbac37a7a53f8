"""The actions of `checkpoints` on a directory: list, verify, prune, pin and unpin."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from hotloop.checkpoint import CheckpointManager, verify_checkpoint
from hotloop.checkpoint.retention import Retention
from hotloop.cli.catalogue import Catalogue, read_catalogue, size_of
from hotloop.cli.checkpoint_contents import show
from hotloop.cli.text import count_text, local_time, new_table, render, size_text, styled
from hotloop.cli.weights_file import export
from hotloop.errors import CheckpointError

if TYPE_CHECKING:
    from rich.text import Text

__all__ = ["change_pin", "list_checkpoints", "prune", "run", "verify"]

#: Names of up to so many characters are never broken into lines.
_SHORT = 24
_STYLES = {"latest": "cyan", "best": "green", "pinned": "yellow"}


def run(options: argparse.Namespace) -> Iterator[str]:
    """Do what the words after `checkpoints` say, and yield what there is to print.

    Raises:
        CheckpointError: If the directory or a checkpoint does not exist or is damaged.
        ValueError: If a rule of `prune` is out of range.
    """
    catalogue = read_catalogue(options.directory)
    action = options.action or ("list" if catalogue.single is None else "show")
    if action == "list":
        yield list_checkpoints(catalogue)
    elif action == "verify":
        yield from verify(catalogue, options.names)
    elif action == "show":
        yield show(catalogue, getattr(options, "name", None), getattr(options, "depth", None))
    elif action == "prune":
        rules = ("keep_last", "keep_best", "metric", "mode", "keep_every")
        retention = Retention(**{rule: getattr(options, rule) for rule in rules})
        yield prune(catalogue, retention, options.yes)
    elif action == "export":
        yield export(catalogue, options.name, options.file, options.average, options.force)
    else:
        yield change_pin(catalogue, options.name, action == "pin")


def list_checkpoints(catalogue: Catalogue) -> str:
    """Return a table of the checkpoints, and what is wrong with those that are damaged.

    Args:
        catalogue: The directory.

    Raises:
        CheckpointError: If it is one checkpoint.
    """
    catalogue.needs_directory("list")
    if not catalogue.names:
        return f"{catalogue.path} has no checkpoints"
    metrics = _metrics_of(catalogue)
    table = new_table()
    is_short = max(map(len, catalogue.names)) <= _SHORT
    table.add_column("name", overflow="fold", no_wrap=is_short)
    for name in ("step", "epoch", "saved", "size", *metrics):
        table.add_column(styled(name), justify="right", no_wrap=True)
    table.add_column("")
    for manifest in catalogue.checkpoints:
        table.add_row(
            styled(manifest.name),
            f"{manifest.step:,}",
            f"{manifest.epoch:,}",
            styled(local_time(manifest.created)),
            size_text(size_of(manifest)),
            *(f"{manifest.metrics[m]:.6g}" if m in manifest.metrics else "" for m in metrics),
            _marks(catalogue, manifest.name),
        )
    lines = [_problem_line(catalogue, name) for name in catalogue.problems]
    if catalogue.pin_problem is not None:
        lines.append(styled(catalogue.short(catalogue.pin_problem), "red"))
    size = size_text(sum(map(size_of, catalogue.checkpoints)))
    total = f"\n\n{count_text(len(catalogue.checkpoints), 'checkpoint')}, {size}"
    if catalogue.problems:
        total += f"; {len(catalogue.problems)} more cannot be loaded"
    parts = [table] if catalogue.checkpoints else []
    return render(*parts, *lines) + total


def _metrics_of(catalogue: Catalogue) -> list[str]:
    """Return the metrics to show: the one of the best, or else the first two."""
    if catalogue.metric is not None:
        return [catalogue.metric]
    names = (name for manifest in catalogue.checkpoints for name in manifest.metrics)
    return list(dict.fromkeys(names))[:2]


def _marks(catalogue: Catalogue, name: str) -> Text:
    has = {
        "latest": name == catalogue.checkpoints[0].name,
        "best": name == catalogue.best,
        "pinned": name in catalogue.pinned,
    }
    marks = [styled(mark, _STYLES[mark]) for mark in has if has[mark]]
    return styled(" ").join(marks)


def _problem_line(catalogue: Catalogue, name: str) -> Text:
    return styled(f"{name}  {catalogue.short(catalogue.problems[name], name)}", "red")


def verify(catalogue: Catalogue, names: list[str]) -> Iterator[str]:
    """Read every byte of checkpoints, and yield a line of each.

    Args:
        catalogue: The directory, or one checkpoint.
        names: Names, "latest" or "best"; all if there are none.

    Raises:
        CheckpointError: At the end, if any is damaged or cannot be read.
    """
    chosen = list(dict.fromkeys(map(catalogue.resolve, names))) or catalogue.names
    if not chosen:
        yield f"{catalogue.path} has no checkpoints"
    width = max(map(len, chosen), default=0)
    bad = 0
    for name in chosen:
        line = styled(f"{name:<{width}}  ")
        path = catalogue.path / name
        start = time.perf_counter()
        try:
            size = size_of(verify_checkpoint(catalogue.locate(name)))
        except CheckpointError as error:
            if not os.path.lexists(path):
                yield render(line.append("removed in the meantime"))
                continue
            bad += 1
            line.append("FAILED  ", "red")
            yield render(line.append_text(styled(catalogue.short(error, name))))
            continue
        speed = size / 1e9 / (time.perf_counter() - start)
        line.append("ok", "green").append(f"  {size_text(size)}, {speed:.2f} GB/s")
        yield render(line)
    if bad:
        raise CheckpointError(f"{bad} of {count_text(len(chosen), 'checkpoint')} cannot be loaded")


def prune(catalogue: Catalogue, retention: Retention, is_serious: bool) -> str:
    """Tell which checkpoints are not to be kept, and remove them.

    Args:
        catalogue: The directory.
        retention: Which are kept.
        is_serious: Whether they are removed.

    Raises:
        CheckpointError: If there is none with the metric, it is not known which are pinned, the
            best one would be removed, or one cannot be removed.
    """
    catalogue.needs_directory("prune")
    if not catalogue.names:
        return f"{catalogue.path} has no checkpoints"
    if catalogue.pin_problem is not None:
        raise catalogue.pin_problem
    kept = retention.kept(catalogue.checkpoints, catalogue.pinned)
    _check_best(catalogue, retention, kept)
    sizes = {m.name: size_of(m) for m in catalogue.checkpoints if m.name not in kept}
    removed = list(sizes)
    if is_serious and removed:
        manager = CheckpointManager(catalogue.path, **asdict(retention))
        removed = [path.name for path in manager.prune()]
    verb = "removed" if is_serious else "would remove"
    size = size_text(sum(sizes.get(name, 0) for name in removed))
    count = count_text(len(catalogue.checkpoints), "checkpoint")
    lines = [f"keeping {_rules_text(retention)}"]
    if removed:
        lines += [f"{verb} {len(removed)} of {count}, {size}:", *(f"  {n}" for n in removed)]
    else:
        lines.append(f"nothing to remove of {count}")
    if catalogue.problems:
        lines.append(f"left alone, as they cannot be read: {', '.join(catalogue.problems)}")
    if removed and not is_serious:
        lines.append("nothing was removed; --yes removes")
    return "\n".join(lines)


def _rules_text(retention: Retention) -> str:
    best = "the best" if retention.keep_best <= 1 else f"the {retention.keep_best} best"
    if retention.metric is not None:
        best += f" by {retention.metric!r} ({retention.mode})"
    every = "" if retention.keep_every is None else f", multiples of {retention.keep_every} steps"
    return f"the last {retention.keep_last}, {best}{every} and the pinned"


def _check_best(catalogue: Catalogue, retention: Retention, kept: set[str]) -> None:
    """Raise CheckpointError if a wrong metric or mode would make the best one go."""
    metric, best = retention.metric, catalogue.best
    if metric is not None and not retention.best_first(catalogue.checkpoints):
        known = sorted({name for manifest in catalogue.checkpoints for name in manifest.metrics})
        raise CheckpointError(
            f"no checkpoint in {catalogue.path} has a finite {metric!r}; their metrics are: "
            f"{', '.join(known) or 'none'}"
        )
    if best is not None and best not in kept and metric in (None, catalogue.metric):
        by = "" if catalogue.metric is None else f" by {catalogue.metric!r}"
        raise CheckpointError(
            f"{best!r} was saved as the best{by}, and these rules would remove it; give the right "
            "--metric and --mode, or pin it"
        )


def change_pin(catalogue: Catalogue, name: str, is_pinned: bool) -> str:
    """Pin or unpin a checkpoint.

    Args:
        catalogue: The directory.
        name: A name, "latest" or "best".
        is_pinned: Whether it is to stay from now on.

    Raises:
        CheckpointError: If there is no such checkpoint, it is damaged, or the list of pinned
            ones cannot be read or written.
    """
    catalogue.needs_directory("pin" if is_pinned else "unpin")
    # A checkpoint may be gone and still be on the list.
    if is_pinned or name not in catalogue.pinned:
        name = catalogue.locate(name).name
    manager = CheckpointManager(catalogue.path)
    (manager.pin if is_pinned else manager.unpin)(name)
    return f"{'pinned' if is_pinned else 'unpinned'} {name}"
