"""`hotloop.layout` against the Mojo sources whose numbers it repeats."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hotloop import layout

SHARED = Path(__file__).resolve().parents[2] / "shared"
SOURCES = "\n".join(
    (SHARED / path).read_text()
    for path in (
        "training/core/table.mojo",
        "training/core/rule.mojo",
        "bindings/plan.mojo",
        "bindings/kernels.mojo",
        "bindings/dtypes.mojo",
        "bindings/native.mojo",
        "training/loops/program.mojo",
        "training/models/table.mojo",
    )
)
STRUCTS = [
    *("RowWord", "ContextWord", "LaunchWord", "HandleWord", "PlanWord", "Outcome", "Dtype"),
    *("LayerKind", "LayerWord", "ObjectiveKind", "ProgramWord", "RateWord"),
]


def read_struct(name: str) -> dict[str, int]:
    (body,) = re.findall(rf"^struct {name}:\n(.*?)(?=^\S|\Z)", SOURCES, re.MULTILINE | re.DOTALL)
    numbers = {}
    for key, value in re.findall(r"^    comptime (\w+) = (.+)$", body, re.MULTILINE):
        value = value.replace("ContextWord.END", str(layout.ContextWord.END))
        numbers[key] = sum(int(term) for term in value.split("+"))
    return numbers


@pytest.mark.parametrize("name", STRUCTS)
def test_words_are_those_of_mojo(name: str) -> None:
    ours = {k: v for k, v in vars(getattr(layout, name)).items() if k.isupper()}
    assert read_struct(name) == ours


def test_kernels_are_those_of_mojo() -> None:
    numbers = read_struct("Kernel")
    assert numbers.pop("END") == len(layout.KERNELS)
    assert {name: number for number, name in enumerate(layout.KERNELS)} == numbers


def test_constants_are_those_of_mojo() -> None:
    for name in ("BLOCK", "RECORD_WORDS", "SUMS_MAX"):
        assert f"comptime {name} = {getattr(layout, name)}\n" in SOURCES


def test_functions_are_those_of_mojo() -> None:
    sources = "".join(path.read_text() for path in (SHARED / "bindings").glob("*.mojo"))
    names = re.findall(r'methods\.add\(\s*"(\w+)\\0"', sources)
    assert sorted(names) == sorted(layout.FUNCTIONS)
