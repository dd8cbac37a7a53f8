"""Compare AdamW's step with a loop that moves the same memory and computes nothing.

Both go through the same chunks of tensors of the same sizes, in one process. A ratio of 1
means that memory is all that the step waits for.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import sys
import tempfile
from pathlib import Path

import torch

from hotloop import backend
from hotloop.optimizers import AdamW
from measure import compare, describe_machine
from models import MODELS, choose_models, make_params

ROOT = Path(__file__).resolve().parents[1]
#: Bytes that a step moves for each float32 parameter: four reads and three writes.
BYTES = 28


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=["670k", "2.2M", "42M", "124M"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=6.0, help="for each ratio")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    chosen = backend.current()
    if chosen.cpu_level is None or chosen.runtime is None:
        sys.exit(f"there are no kernels to measure: {chosen.reason}")
    sys.path.insert(0, str(ROOT / "tools"))
    import kernels

    print(f"{datetime.date.today()}: {describe_machine()}")
    print("\n| parameters | AdamW | GB/s | loop without arithmetic | GB/s | AdamW's share |")
    print("|---|---:|---:|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(__file__).with_suffix(".mojo")
        library = ctypes.CDLL(kernels.compile_shared(source, chosen.cpu_level, Path(folder)))
        parallel_for = int(chosen.runtime.words[0])
        for model in choose_models(arguments.models):
            params, other = (make_params(MODELS[model], torch.float32) for _ in range(2))
            optimizer, streamed = AdamW(params), AdamW(other)
            streamed.step()
            assert streamed._plan is not None
            (launch,) = streamed._plan._launches
            address = ctypes.c_int64(launch.context.ctypes.data)
            words = (address, ctypes.c_int64(parallel_for))
            result = compare(
                optimizer.step, lambda words=words: library.stream(*words), arguments.seconds
            )
            size = BYTES * sum(param.numel() for param in params)
            cells = [
                f"{result.ours * 1e6:,.0f} µs",
                f"{size / result.ours / 1e9:.1f}",
                f"{result.theirs * 1e6:,.0f} µs",
                f"{size / result.theirs / 1e9:.1f}",
                f"{result.ratio:.0%} ±{result.spread / 2:.0%}",
            ]
            print(f"| {model} | {' | '.join(cells)} |", flush=True)
            del params, other, optimizer, streamed


if __name__ == "__main__":
    main()
