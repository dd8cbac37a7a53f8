"""What of a configuration is written."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch

from hotloop.monitoring import (
    redact,
)
from hotloop.monitoring.json_value import json_value

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    "name",
    [
        *("api_key", "apiKey", "apikey", "API_KEY", "OPENAI_API_KEY", "APIKey", "keys", "api-key"),
        *("token", "hf_token", "accessTokens", "token_file", "key2", "HF_TOKEN_2", "TOKENS3"),
        *("password", "passwd", "Passphrase", "dbPassword", "client_secret", "SECRETS"),
        *("aws_credentials", "credentialFile"),
    ],
)
def test_a_secret_is_hidden_by_its_name(name: str) -> None:
    for value in ("x", b"x", ["x"], {"a": "x"}, Path("x")):
        assert redact({name: value}) == {name: "***"}
        assert redact({"a": [{"b": ({name: value},)}]}) == {"a": [{"b": [{name: "***"}]}]}


@pytest.mark.parametrize(
    "name", ["lr", "tokenizer", "keyboard", "tokenizer_name", "keyring", "keypoints", "pass"]
)
def test_what_is_no_secret_stays(name: str) -> None:
    assert redact({name: "x"}) == {name: "x"}


@pytest.mark.parametrize("value", [512, 0.5, True, None])
def test_numbers_are_hidden_only_where_they_may_be_secrets(value: Any) -> None:
    config = {"max_tokens": value, "use_key": value, "password": value, "secret": value}
    assert redact(config) == config | {"password": "***", "secret": "***"}


@dataclasses.dataclass
class Account:
    user: str
    api_key: str


@dataclasses.dataclass(frozen=True)
class Slots:
    __slots__ = ("inner", "token")
    token: str
    inner: dict[str, str]


def test_redact_copies_and_leaves_its_argument_as_it_was() -> None:
    inner = {"token": "x", "list": [1, (2, 3)]}
    config: dict[Any, Any] = {"a": MappingProxyType(inner), 3: Path("p"), "b": [inner]}
    hidden = redact(config)
    expected = {"token": "***", "list": [1, [2, 3]]}
    assert hidden == {"a": expected, 3: Path("p"), "b": [expected]}
    assert inner == {"token": "x", "list": [1, (2, 3)]}
    hidden["b"][0]["list"].append(4)
    assert inner["list"] == [1, (2, 3)]


def test_redact_looks_into_dataclasses() -> None:
    config = {"account": Account("me", "x"), "all": [Slots("x", {"password": "x"})], "cls": Account}
    assert redact(config) == {
        "account": {"user": "me", "api_key": "***"},
        "all": [{"token": "***", "inner": {"password": "***"}}],
        "cls": Account,
    }


class Level(enum.IntEnum):
    LOW = 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a", "a"),
        (1, 1),
        (True, True),
        (None, None),
        (0.1, 0.1),
        (np.float64(0.5), 0.5),
        (NAN, "nan"),
        (np.float64(INF), "inf"),
        (-INF, "-inf"),
        ((1, [NAN]), [1, ["nan"]]),
        (MappingProxyType({1: {"a": (Path("a") / "b",)}}), {"1": {"a": ["a/b"]}}),
        (torch.float32, "torch.float32"),
        ({1}, "{1}"),
        (Level.LOW, 1),
    ],
)
def test_json_value_is_what_json_holds(value: Any, expected: Any) -> None:
    result = json_value(value)
    assert result == expected
    assert json.loads(json.dumps(result, allow_nan=False)) == expected
    if isinstance(value, float):
        assert type(result) is type(expected)
