"""Runs a function in several processes that can talk to each other."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from hotloop.argument import check_count

__all__ = ["RankError", "run_ranks"]

#: Seconds that the others have, once a rank has failed, to fail as well and say why.
_GRACE = 2.0


class RankError(RuntimeError):
    """A function failed in a process of `run_ranks`, or took too long there.

    Attributes:
        failures: Why, by rank: a traceback, or a line.
    """

    def __init__(self, failures: dict[int, str]) -> None:
        self.failures = failures
        super().__init__(
            "\n".join(f"rank {rank}: {text.strip()}" for rank, text in sorted(failures.items()))
        )


def run_ranks(ranks: int, function: Callable[[int], Any], timeout: float = 60.0) -> list[Any]:
    """Call a function in several processes, with torch.distributed's gloo between them.

    The processes are spawned: nothing of this one is theirs, and the function must be one of
    a module that they can import. Their process group meets in a file of a temporary folder,
    so that no port is needed. None of them is left over.

    Args:
        ranks: How many processes, at least 1.
        function: Called with the rank, from 0.
        timeout: Seconds for all of it, above 0.

    Returns:
        What each rank returned, which must be picklable, by rank.

    Raises:
        RankError: If a rank raises, ends without a result or takes too long. Those that still
            ran were killed.
        ValueError: If `ranks` or `timeout` is out of range.
    """
    check_count("ranks", ranks)
    if not timeout > 0:
        raise ValueError(f"timeout must be above 0, got {timeout!r}")
    context = multiprocessing.get_context("spawn")
    deadline = time.monotonic() + timeout
    processes: list[BaseProcess] = []
    receivers: dict[Connection, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        store = (Path(folder) / "store").as_uri()
        try:
            for rank in range(ranks):
                receiver, sender = context.Pipe(duplex=False)
                process: BaseProcess = context.Process(
                    target=_work, args=(rank, ranks, store, function, sender), daemon=True
                )
                process.start()
                # Only the child's end is left open, so that its death is seen here.
                sender.close()
                processes.append(process)
                receivers[receiver] = rank
            return _gather(processes, receivers, deadline, timeout)
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
                process.join()
            for receiver in receivers:
                receiver.close()


def _gather(
    processes: list[BaseProcess],
    receivers: dict[Connection, int],
    deadline: float,
    timeout: float,
) -> list[Any]:
    results: dict[int, Any] = {}
    failures: dict[int, str] = {}
    waiting = dict(receivers)
    reason = f"took more than {timeout:g} seconds, and was killed"
    while waiting:
        ready = wait(list(waiting), max(0.0, deadline - time.monotonic()))
        if not ready:
            failures |= dict.fromkeys(waiting.values(), reason)
            break
        for receiver in ready:
            assert isinstance(receiver, Connection)
            rank = waiting.pop(receiver)
            try:
                is_done, value = receiver.recv()
            except EOFError:
                processes[rank].join()
                is_done = False
                value = f"ended with status {processes[rank].exitcode} and without a result"
            (results if is_done else failures)[rank] = value
            if not is_done and time.monotonic() + _GRACE < deadline:
                deadline = time.monotonic() + _GRACE
                reason = "was killed, since another rank had failed"
    if failures:
        raise RankError(failures)
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    return [results[rank] for rank in range(len(processes))]


def _work(
    rank: int, ranks: int, store: str, function: Callable[[int], Any], sender: Connection
) -> None:
    try:
        import torch.distributed as dist

        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks)
        result = function(rank)
        # A rank that ends takes its connections along, which others may still use.
        dist.barrier()
        dist.destroy_process_group()
        sender.send((True, result))
    except BaseException:
        sender.send((False, traceback.format_exc()))
