"""Settings that every test shares."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

from hotloop import backend

# The same examples in each run: a change must not fail for what it did not change.
# `make test-fuzz` looks for new ones.
# Neither is a busy machine a fault: no example has to be quick.
settings.register_profile(
    "default",
    deadline=None,
    max_examples=40,
    print_blob=True,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "fuzz", settings.get_profile("default"), max_examples=1000, derandomize=False
)
settings.load_profile("default")

# Needs no kernels: only what torch's own operators do.
needs_native = pytest.mark.skipif(
    os.environ.get("HOTLOOP_BACKEND") == "torch", reason="tests the kernels themselves"
)


def pytest_report_header() -> str:
    return backend.describe()


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def lenient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow falling back to torch, as HOTLOOP_BACKEND=auto does."""
    allowed = dataclasses.replace(backend.current(), is_strict=False)
    monkeypatch.setattr(backend, "current", lambda: allowed)


@pytest.fixture(scope="module")
def rounded_roots() -> Iterator[None]:
    """Let torch round square roots correctly, which MKL's do not always."""

    def sqrt_(tensor: torch.Tensor) -> torch.Tensor:
        with np.errstate(invalid="ignore"):
            return tensor.copy_(torch.from_numpy(np.sqrt(tensor.detach().double().numpy())))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "sqrt_", sqrt_)
        patch.setattr(torch.Tensor, "sqrt", lambda tensor: sqrt_(tensor.clone()))
        yield
