"""Time saving and loading 124M parameters with AdamW's state against what others do.

The state has 1.5 GB. A ratio is hotloop's time by the peer's, from interleaved pairs: below 1,
hotloop is faster. Files are on the disk of DIRECTORY, and nothing else may run meanwhile. What
is read is in the page cache, and what was written before is removed outside of the time.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed.checkpoint as dcp
import xxhash
from safetensors.torch import load_file, save_file

import measure
import models
from hotloop.checkpoint import (
    CheckpointManager,
    flatten,
    read_checkpoint,
    storage,
    verify_checkpoint,
)
from hotloop.optimizers import AdamW

MODEL = "124M in 148 (GPT-2 small)"


def make_state() -> dict[str, Any]:
    params = models.make_params(models.MODELS[MODEL], torch.float32)
    optimizer = AdamW(params)
    optimizer.step()
    optimizer.zero_grad()
    weights = {f"layer{index}": param.detach() for index, param in enumerate(params)}
    return {"model": weights, "optimizer": optimizer.state_dict()}


def sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


class Bench:
    """The programs that are timed, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = make_state()
        self.tensors = flatten(self.state)[1]
        self.manager = CheckpointManager(folder / "hotloop", keep_last=None)
        self.saving: Any = None
        self.buffers = {name: torch.empty_like(each) for name, each in self.tensors.items()}

    def clear(self) -> None:
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        (self.folder / "hotloop").mkdir()
        os.sync()

    def save(self) -> None:
        self.manager.save(self.state, step=1)

    def save_unsynced(self) -> None:
        """Save, and wait for no device."""
        with (
            mock.patch.object(storage, "sync"),
            mock.patch.object(storage, "begin_sync"),
            mock.patch.object(storage, "sync_directory"),
        ):
            self.save()

    def save_safetensors(self) -> None:
        save_file(self.tensors, self.folder / "peer.safetensors")
        sync(self.folder / "peer.safetensors")

    def save_torch(self) -> None:
        torch.save(self.state, self.folder / "peer.pt")
        sync(self.folder / "peer.pt")

    def save_async(self) -> None:
        self.manager.save_async(self.state, step=1)

    def save_async_dcp(self) -> None:
        path = self.folder / "dcp"
        self.saving = dcp.async_save(self.state, checkpoint_id=path, no_dist=True)

    def wait_dcp(self) -> None:
        if self.saving:
            self.saving.result()
        shutil.rmtree(self.folder / "dcp", ignore_errors=True)

    def copy(self) -> None:
        for name, tensor in self.tensors.items():
            self.buffers[name].copy_(tensor)

    def load(self) -> Any:
        return read_checkpoint(self.folder / "hotloop" / "step_00000001")

    def verify(self) -> Any:
        return verify_checkpoint(self.folder / "hotloop" / "step_00000001")

    def load_torch(self) -> Any:
        return torch.load(self.folder / "peer.pt", weights_only=True)

    def load_safetensors(self) -> Any:
        return load_file(self.folder / "peer.safetensors")

    def hash(self) -> None:
        for tensor in self.tensors.values():
            xxhash.xxh3_64_digest(tensor.reshape(-1).view(torch.uint8).numpy())


def report(name: str, ours: Callable[[], object], peer: str, theirs: Any, **options: Any) -> None:
    result = measure.compare(ours, theirs, sample_seconds=0, **options)
    ratio = f"{1 / result.ratio:.2f} ±{result.spread / 2:.0%}"
    if not result.is_reliable:
        ratio = f"too noisy: {ratio}"
    print(
        f"| {name} | {result.ours:.2f} s | {peer} | {result.theirs:.2f} s | {ratio} |", flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", default=tempfile.gettempdir(), help="where files go")
    parser.add_argument("--seconds", type=float, default=40.0, help="for each pair")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="hotloop-checkpoint-", dir=options.directory))
    seconds = options.seconds
    try:
        bench = Bench(folder)
        size = sum(each.numel() * each.element_size() for each in bench.tensors.values())
        print(f"Checkpoints of {MODEL} with AdamW's state, {size / 1e9:.2f} GB.")
        print(measure.describe_machine(), end="\n\n")
        print(
            "| hotloop | time | peer | time | hotloop's by the peer's |\n|---|---:|---|---:|---:|"
        )
        clear = (bench.clear, bench.clear)
        name = "durable save with checksums"
        for peer, save in (
            ("safetensors + fsync", bench.save_safetensors),
            ("torch.save + fsync", bench.save_torch),
        ):
            report(name, bench.save, peer, save, seconds=seconds, before=clear)
        name += ", beside itself without fsync"
        report(name, bench.save, "no fsync", bench.save_unsynced, seconds=seconds, before=clear)
        name = "save in the background, time blocked"
        for peer, run, wait in (
            ("copy into buffers", bench.copy, bench.manager.wait),
            ("DCP's async_save", bench.save_async_dcp, bench.wait_dcp),
        ):
            waiting = (bench.manager.wait, wait)
            report(name, bench.save_async, peer, run, seconds=seconds, before=waiting)
        bench.wait_dcp()
        bench.manager.wait()
        bench.save_safetensors()
        bench.save_torch()
        for peer, load in (
            ("torch.load(weights_only=True)", bench.load_torch),
            ("safetensors", bench.load_safetensors),
        ):
            report("verified load", bench.load, peer, load, seconds=seconds)
        report("verify", bench.verify, "torch.load", bench.load_torch, seconds=seconds)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            bench.hash()
            times.append(time.perf_counter() - start)
        print(f"\nChecksums alone: {min(times):.2f} s, {size / min(times) / 1e9:.1f} GB/s.")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
