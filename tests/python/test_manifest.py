"""A manifest comes back from its text, and no other text is taken for one."""

from __future__ import annotations

import json
import math
import re
from dataclasses import FrozenInstanceError, replace
from datetime import datetime, timedelta, timezone
from typing import Any

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given
from hypothesis import strategies as st

import hotloop
from hotloop.checkpoint import FileEntry, Info, Manifest, manifest
from hotloop.checkpoint.manifest import check_name
from hotloop.errors import CheckpointError, CorruptCheckpointError

WHERE = "a/manifest.json"


def make(**values: Any) -> Manifest:
    files = {
        "state.json": FileEntry(3, "0123456789abcdef"),
        "tensors.safetensors": FileEntry(90, "f" * 16, {"model.é": "0" * 16, "b": "1" * 16}),
    }
    expected: dict[str, Any] = {
        "name": "step_00000012",
        "step": 12,
        "epoch": 2,
        "sequence": 7,
        "created": "2026-01-02T03:04:05.000006+00:00",
        "metrics": {"loss": 0.5, "nan": math.nan, "up": math.inf, "down": -math.inf},
        "is_best": True,
        "is_pinned": False,
        "versions": {"torch": "2.10"},
        "config": {"betas": (0.9, 0.99), "epochs": None},
        "files": files,
    }
    return Manifest(**{**expected, **values})


BODY = make().to_bytes().decode().rpartition(',\n "checksum"')[0]


def sign(body: str | bytes) -> bytes:
    """Return a text that ends with its right checksum."""
    data = body.encode() if isinstance(body, str) else body
    return data + f',\n "checksum": "{xxhash.xxh3_64_hexdigest(data)}"\n}}\n'.encode()


def forge(old: str, new: str) -> bytes:
    """Return the text of a manifest with a part replaced and the right checksum."""
    assert BODY.count(old) == 1
    return sign(BODY.replace(old, new))


def test_the_text_of_a_manifest() -> None:
    text = make().to_bytes()
    body, checksum = text.rsplit(b',\n "checksum": "', 1)
    assert checksum == xxhash.xxh3_64_hexdigest(body).encode() + b'"\n}\n'
    assert json.loads(text) == {
        "format_version": 1,
        "name": "step_00000012",
        "step": 12,
        "epoch": 2,
        "sequence": 7,
        "created": "2026-01-02T03:04:05.000006+00:00",
        "metrics": {"loss": 0.5, "nan": "nan", "up": "inf", "down": "-inf"},
        "is_best": True,
        "is_pinned": False,
        "versions": {"torch": "2.10"},
        "config": {"betas": {"$tuple": [0.9, 0.99]}, "epochs": None},
        "files": {
            "state.json": {"size": 3, "checksum": "0123456789abcdef", "tensors": {}},
            "tensors.safetensors": {
                "size": 90,
                "checksum": "f" * 16,
                "tensors": {"model.é": "0" * 16, "b": "1" * 16},
            },
        },
        "checksum": xxhash.xxh3_64_hexdigest(body),
    }
    assert text.startswith(b'{\n "format_version": 1,\n "name": "step_00000012",\n')
    assert text.isascii()


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"config": None},
        {"config": {}},
        {"config": {1: {2: "\ud800"}, "$a": [1, (2,)], "b": math.nan}},
        {"metrics": {}, "versions": {}, "files": {}},
        {"metrics": {"a": 3, "é": -0.0, "": 1e-320}},
        {"step": 0, "epoch": 0, "sequence": 10**500},
        {"name": "é x", "created": ""},
    ],
)
def test_a_manifest_comes_back(values: dict[str, Any]) -> None:
    before = make(**values)
    after = Manifest.parse(before.to_bytes(), WHERE)
    assert repr(after) == repr(replace(before, metrics=dict(after.metrics)))
    assert after.metrics.keys() == before.metrics.keys()
    for name, value in before.metrics.items():
        assert type(after.metrics[name]) is float
        assert repr(after.metrics[name]) == repr(float(value))
    assert after.to_bytes() == before.to_bytes()


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


@given(
    st.dictionaries(st.text(max_size=3), plain, max_size=3) | st.none(),
    st.dictionaries(st.text(max_size=3), st.floats() | st.integers(-(2**60), 2**60), max_size=3),
    st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=3),
    st.integers(0),
)
def test_any_manifest_comes_back(
    config: Any, metrics: dict[str, float], versions: dict[str, str], step: int
) -> None:
    before = make(config=config, metrics=metrics, versions=versions, step=step)
    after = Manifest.parse(before.to_bytes(), WHERE)
    assert repr(after.config) == repr(config)
    assert repr(after.metrics) == repr({name: float(value) for name, value in metrics.items()})
    assert (after.versions, after.step) == (versions, step)


def test_what_a_saver_need_not_say() -> None:
    info = Info(name="a", step=3)
    assert (info.epoch, info.sequence, info.is_best, info.is_pinned) == (0, 0, False, False)
    assert (info.metrics, info.config) == ({}, None)
    created = datetime.fromisoformat(info.created)
    assert created.utcoffset() == timedelta(0)
    assert abs(datetime.now(timezone.utc) - created) < timedelta(minutes=1)
    assert len(info.created) == len("2026-01-02T03:04:05.000006+00:00")
    assert info.versions.keys() == {"hotloop", "python", "torch"}
    assert info.versions["hotloop"] == hotloop.__version__
    assert info.versions["torch"] == torch.__version__
    assert re.fullmatch(r"3\.\d+\.\d+\S*", info.versions["python"])
    with pytest.raises(FrozenInstanceError):
        info.step = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"name": "a/b"}, "name must be a file name .* got 'a/b'"),
        ({"step": -1}, "step must be an int of at least 0, got -1"),
        ({"epoch": 1.0}, r"epoch must be an int of at least 0, got 1\.0"),
        ({"sequence": True}, "sequence must be an int of at least 0, got True"),
        ({"created": None}, "created must be a str, got None"),
        ({"is_best": 1}, "is_best must be a bool, got 1"),
        ({"is_pinned": "no"}, "is_pinned must be a bool, got 'no'"),
        ({"metrics": {1: 1.0}}, r"metrics must map str to int or float, got 1: 1\.0"),
        ({"metrics": {"a": "1"}}, "metrics must map str to int or float, got 'a': '1'"),
        ({"metrics": {"a": True}}, "metrics must map str to int or float, got 'a': True"),
        ({"metrics": {"a": torch.ones(())}}, "metrics must map str to int or float, got 'a': ten"),
        ({"versions": {"a": 1}}, "versions must map str to str, got 'a': 1"),
        ({"versions": {1: "a"}}, "versions must map str to str, got 1: 'a'"),
        ({"config": [1]}, r"config must be a dict, or None; got \[1\]"),
        ({"config": {"a": torch.ones(1)}}, "config must not have tensors"),
    ],
)
def test_wrong_arguments_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        make(**values)
    with pytest.raises(ValueError, match=f"^{message}"):
        Info(**{"name": "a", "step": 1, **values})


def test_a_config_that_cannot_be_saved_is_refused_by_its_path() -> None:
    with pytest.raises(
        CheckpointError, match=r"^'config\.lr\.0' cannot be saved: .*numpy\.float64"
    ):
        Info(name="a", step=1, config={"lr": [np.float64(1)]})


@pytest.mark.parametrize("name", ["a", "step_00000001", "é ü", "a.b", "a..b", "x" * 200, "~", "-"])
def test_names_that_are_allowed(name: str) -> None:
    check_name(name)
    assert Info(name=name, step=1).name == name


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "..", ".a", "a/b", "/a", "../a", "a\0b", "a\nb", "\x7f", "\ud800", "a" * 201),
        *("é" * 101, 1, None, b"a"),
    ],
)
def test_names_that_are_refused(name: Any) -> None:
    with pytest.raises(ValueError, match="name must be a file name of 1 to 200") as caught:
        check_name(name)
    assert str(caught.value).endswith(f"got {name!r}")


# What is refused


def test_a_bit_that_flips_is_found() -> None:
    data = make().to_bytes()
    for at in range(len(data)):
        for bit in range(8):
            changed = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
            with pytest.raises(CorruptCheckpointError, match="damaged: its checksum is wrong"):
                Manifest.parse(changed, WHERE)


def test_a_text_that_is_cut_or_longer_is_found() -> None:
    data = make().to_bytes()
    others = [data[:size] for size in range(len(data))]
    for text in [*others, data + b"\n", b"\n" + data, data + data, b"\0" * 100]:
        with pytest.raises(CorruptCheckpointError, match="its checksum is wrong"):
            Manifest.parse(text, WHERE)


NAME = '"name": "step_00000012"'


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"step": 12', '"step": 12.0'),
        ('"step": 12', '"step": -1'),
        ('"step": 12', '"step": true'),
        ('"step": 12', '"step": "12"'),
        ('"step": 12', '"step": 012'),
        ('"step": 12', '"step":  12'),
        ('"step": 12', '"step": 12,\n "more": 1'),
        ('"step": 12', '"step": 12,\n "step": 12'),
        (' "step": 12,\n', ""),
        (NAME, '"name": "../step_00000012"'),
        (NAME, '"name": ".."'),
        (NAME, '"name": "a\\u0000"'),
        (NAME, '"name": "\\u0073tep_00000012"'),
        (NAME, '"name": null'),
        (NAME, '"name": ["a"]'),
        ('"metrics": {', '"metrics": [],\n "more": {'),
        ('"loss": 0.5', '"loss": 1e999'),
        ('"loss": 0.5', '"loss": 0.50'),
        ('"loss": 0.5', '"loss": 1'),
        ('"loss": 0.5', '"loss": NaN'),
        ('"loss": 0.5', '"loss": "0.5"'),
        ('"loss": 0.5', '"loss": null'),
        ('"nan": "nan"', '"nan": "NaN"'),
        ('"nan": "nan"', '"nan": "x"'),
        ('"is_best": true', '"is_best": 1'),
        ('"is_best": true', '"is_best": null'),
        ('"torch": "2.10"', '"torch": 2.1'),
        ('"epochs": null', '"epochs": {"$tensor": "a"}'),
        ('"epochs": null', '"epochs": {"$other": 1}'),
        ('"epochs": null', '"epochs": ' + "[" * 64 + "]" * 64),
        ('"epochs": null', '"epochs": ' + "[" * 500 + "]" * 500),
        ('"epochs": null', '"epochs": ' + "[" * 100_000 + "]" * 100_000),
        ('"config": {', '"config": [],\n "more": {'),
        ('"size": 3', '"size": -3'),
        ('"size": 3', '"size": 3.0'),
        ('"size": 3', '"size": null'),
        ('"0123456789abcdef"', "12"),
        ('"0123456789abcdef"', "null"),
        ('"model.\\u00e9": "0000000000000000"', '"model": 1'),
        ('"model.\\u00e9": "0000000000000000"', '"model": {}'),
        ('"tensors": {}', '"tensors": []'),
        ('"tensors": {}', '"tensors": null'),
        ('"tensors": {}', '"more": {}'),
        ('"state.json": {', '"state.json": [],\n "more": {'),
        ('"files": {', '"files": [],\n "more": {'),
        ('"created": "2026-01-02T03:04:05.000006+00:00"', '"created": 2026'),
        ('"created": "2026-01-02T03:04:05.000006+00:00"', '"created": ' + "[" * 900 + "]" * 900),
        ('"format_version": 1', '"format_version": "1"'),
        ('"format_version": 1', '"format_version": 1.0'),
        ('"format_version": 1', '"format_version": null'),
        (' "format_version": 1,\n', ""),
    ],
)
def test_a_forged_text_is_refused(old: str, new: str) -> None:
    with pytest.raises(CorruptCheckpointError, match=f"^{WHERE} is n|^{WHERE} is damaged at"):
        Manifest.parse(forge(old, new), WHERE)
    assert Manifest.parse(forge(old, old), WHERE).step == 12


def test_what_is_too_deep_for_the_stack_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for depth in range(900, 1000, 5):
        text = forge('"is_best": true', '"is_best": ' + "[" * depth + "]" * depth)
        with pytest.raises(CorruptCheckpointError, match=f"^{WHERE} is n"):
            Manifest.parse(text, WHERE)

    def overflow(*_: Any) -> None:
        raise RecursionError("maximum recursion depth exceeded")

    # Where parsing leaves less room than what comes after it needs.
    monkeypatch.setattr(manifest, "check_name", overflow)
    with pytest.raises(CorruptCheckpointError, match="is no manifest: RecursionError"):
        Manifest.parse(sign(BODY), WHERE)


@pytest.mark.parametrize(
    "body",
    [
        "[]" + BODY[1:],
        "[" + BODY[1:],
        BODY.replace("\n ", "\n  "),
        BODY.replace("\n", "\r\n"),
        "\ufeff" + BODY,
        BODY.encode("utf-16"),
        BODY.encode() + b"\xff",
        b"\x80" * 100,
        "",
        "[1",
        '{"a": 1',
        '{"format_version": 1',
        '{"format_version": {"a": 2}',
        '{"format_version": 1,\n "checksum": ""',
        BODY + ',\n "checksum": ""',
    ],
)
def test_other_texts_with_a_right_checksum_are_refused(body: str | bytes) -> None:
    with pytest.raises(CorruptCheckpointError, match=r"^a/manifest\.json is n"):
        Manifest.parse(sign(body), WHERE)


@pytest.mark.parametrize("version", [0, 2, 100])
def test_another_format_is_no_damage(version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = forge('"format_version": 1', f'"format_version": {version},\n "more": 1')
    message = f"^{WHERE} has format {version}; this version of hotloop reads 1$"
    with pytest.raises(CheckpointError, match=message) as caught:
        Manifest.parse(data, WHERE)
    assert not isinstance(caught.value, CorruptCheckpointError)
    old = make().to_bytes()
    monkeypatch.setattr(manifest, "FORMAT_VERSION", version)
    with pytest.raises(CheckpointError, match=f"has format 1; .* reads {version}$"):
        Manifest.parse(old, WHERE)
    assert Manifest.parse(make().to_bytes(), WHERE).step == 12
