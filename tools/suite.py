"""Run the tests on every backend that this machine has: `make test`.

The first run takes everything, on the best kernels that this CPU runs. The others repeat
what depends on the backend. Arguments go to pytest; a path among them stands in place of
the paths chosen here.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass

import kernels

ROOT = kernels.ROOT
sys.path.insert(0, str(ROOT / "python"))

from hotloop import backend  # noqa: E402

EVERYTHING = ("tests",)
PER_BACKEND = ("tests/python", "tests/parity", "tests/properties", "tests/integration")
# Files that take no optimizer's step, or none that matters: once is enough.
ONCE = (
    "integration/faults/test_damage.py",
    "integration/faults/test_full_disk.py",
    "integration/faults/test_hostile.py",
    "integration/faults/test_kill.py",
    "integration/test_tasks.py",
    "integration/test_wheel.py",
    "properties/test_retention.py",
    "properties/test_schedules.py",
    "properties/test_shuffled_sampler.py",
    "python/test_anomaly_detector.py",
    "python/test_argument.py",
    "python/test_background.py",
    "python/test_checkpoint*.py",
    "python/test_cli*.py",
    "python/test_config.py",
    "python/test_data.py",
    "python/test_manifest.py",
    "python/test_metric_tracker.py",
    "python/test_outbox.py",
    "python/test_random_state.py",
    "python/test_redaction.py",
    "python/test_schedulers.py",
    "python/test_tensor_file.py",
    "python/test_throughput.py",
    "python/test_trackers.py",
)
_PASSED, _NOTHING_COLLECTED = 0, 5


@dataclass(frozen=True)
class Run:
    """One run of pytest."""

    name: str
    variables: dict[str, str]
    paths: tuple[str, ...]


def plan() -> tuple[list[Run], list[str]]:
    """Return the runs for this machine, and a line for each backend that is left out."""
    flags = backend.cpu_flags()
    runs: list[Run] = []
    left_out: list[str] = []
    levels = backend.CPU_LEVELS if kernels.can_build() else {}
    if not levels:
        left_out.append(f"native: no kernels for {platform.system()} on {platform.machine()}")
    for level, needed in levels.items():
        missing = sorted(needed - flags)
        if missing:
            left_out.append(f"native {level}: this CPU lacks {' '.join(missing)}")
            continue
        variables = {"HOTLOOP_BACKEND": "native", "HOTLOOP_CPU": level}
        runs.append(Run(f"native {level}", variables, PER_BACKEND if runs else EVERYTHING))
    torch_paths = PER_BACKEND if runs else EVERYTHING
    runs.append(Run("torch", {"HOTLOOP_BACKEND": "torch"}, torch_paths))
    return runs, left_out


def execute(run: Run, arguments: list[str]) -> int:
    """Run pytest and return its exit code."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HOTLOOP_")}
    paths = [str(ROOT / "python"), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    # Threads that spin while they wait for another, whose core is busy, take milliseconds for
    # each parallel region.
    environment.setdefault("OMP_WAIT_POLICY", "passive")
    has_path = any((ROOT / argument.partition("::")[0]).exists() for argument in arguments)
    chosen = [] if has_path else run.paths
    ignored = [f"--ignore-glob={ROOT}/tests/{each}" for each in ONCE if run.paths != EVERYTHING]
    # A process for each core, which takes what is left of another's share.
    workers = ["--numprocesses=auto", "--dist=worksteal"]
    command = [sys.executable, "-m", "pytest", *workers, *chosen, *ignored, *arguments]
    return subprocess.run(command, cwd=ROOT, env={**environment, **run.variables}).returncode


def main(arguments: list[str]) -> int:
    """Run the tests on each backend and return the exit code."""
    runs, left_out = plan()
    outcomes: list[str] = []
    has_failed = False
    for run in runs:
        print(f"\n=== {run.name} ===", flush=True)
        start = time.perf_counter()
        code = execute(run, arguments)
        seconds = time.perf_counter() - start
        # A filter may leave a backend without tests.
        is_fine = code == _PASSED or (code == _NOTHING_COLLECTED and bool(arguments))
        has_failed |= not is_fine
        verdict = "passed" if is_fine else f"FAILED (pytest's exit code {code})"
        outcomes.append(f"{run.name}: {verdict} in {seconds:.0f} s")
    print("\n=== summary ===")
    print("\n".join([*outcomes, *(f"left out: {line}" for line in left_out)]), flush=True)
    return 1 if has_failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
