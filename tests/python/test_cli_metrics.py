"""`python -m hotloop metrics`: what the table and the descriptions hold."""

from __future__ import annotations

import inspect
import re

import pytest

from hotloop import cli, metrics
from hotloop.cli.metrics import describe, descriptions
from hotloop.metrics import Metric

METRICS = [
    kind
    for kind in (getattr(metrics, name) for name in metrics.__all__)
    if inspect.isclass(kind) and issubclass(kind, Metric) and not inspect.isabstract(kind)
]


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "COLUMNS", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


def test_every_metric_is_listed_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["metrics"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.split(r" {2,}", lines[0].strip()) == ["metric", "range", "better", "formula"]
    listed = [line.split()[0] for line in lines[1:] if not line.startswith(" ")]
    assert listed == sorted((kind.__name__ for kind in METRICS), key=str.lower)
    assert len(METRICS) > 30
    assert re.search(r"^F1 +\[0, 1\] +higher +2 TP / \(2 TP \+ FN \+ FP\)$", "\n".join(lines), re.M)


@pytest.mark.parametrize("kind", METRICS)
def test_each_docstring_has_a_formula_and_a_range(kind: type[Metric]) -> None:
    found = describe(kind)
    assert found.name == kind.__name__
    assert found.formula, "indent the lines of the formula in the docstring"
    assert all(len(line) < 90 for line in found.formula)
    assert found.range, "tell the range in the first line of the docstring"
    assert found.better == {True: "higher", False: "lower", None: ""}[kind.higher_is_better]


def test_a_table_fits_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert cli.main(["metrics"]) == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(map(len, text.splitlines())) <= 80
    # Nothing is cut: the names and the words of formulas are whole.
    assert "MeanAbsolutePercentageError" in text
    assert "…" not in text
    assert cli.main(["metrics", "quantile"]) == 0
    text = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert max(map(len, text.splitlines())) <= 80
    words = next(each.text for each in descriptions() if each.name == "Quantile").split()
    assert text.split()[1:] == words


@pytest.mark.parametrize("name", ["R2Score", "r2score"])
def test_one_in_full(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["metrics", name]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["R2Score (higher is better)", ""]
    assert "\n".join(lines[2:]) == inspect.getdoc(metrics.R2Score)


def test_units(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["metrics", "BitsPerByte"]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "BitsPerByte (lower is better, in bit/B)"
    assert cli.main(["metrics", "Sum"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "Sum"


def test_an_unknown_metric(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["metrics", "Acuracy"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("hotloop: unknown metric 'Acuracy'")
    assert "it is one of AUROC, Accuracy, " in error


def test_what_docstrings_say() -> None:
    class Own(Metric):
        """What is at least 3 of it.

        Some text.

            a / b
            c

            no formula
        Args:
            none: 0
        """

        higher_is_better = False
        unit = "m"

    found = describe(Own)
    assert (found.formula, found.range, found.better) == (("a / b", "c"), "at least 3", "lower")
    Own.__doc__ = "Nothing."
    assert (describe(Own).formula, describe(Own).range) == ((), "")
