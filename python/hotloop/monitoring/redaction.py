"""Configurations without their secrets."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["redact"]

_HIDDEN = "***"
_ALWAYS = re.compile(r"passw|passphrase|secret|credential")
# "api_key", "apiKey", "apikey" and "key2", but neither "tokenizer" nor "keyboard".
_ENDING = re.compile(r"(key|token)s?\d*$")
_WORDS = re.compile(r"[A-Z]*[a-z0-9]+|[A-Z]+")


def redact(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a configuration with "***" in the place of what looks secret.

    The name decides. Whatever the value, it is hidden if the name has "passw", "passphrase",
    "secret" or "credential" in it, in upper or lower case. If a word of the name ends in "key",
    "keys", "token" or "tokens", also with digits behind it, it is hidden unless it is a number, a
    bool or None: `max_tokens: 512` stays, `hf_token: "hf_…"` does not. Words are split at capitals
    and at what is no letter or digit. Mappings and dataclasses are searched at any depth, also
    inside of lists and tuples. A secret under a name that does not look like one is not found.

    Args:
        config: The configuration.

    Returns:
        A copy; tuples become lists, and dataclasses dicts.
    """
    return {
        name: _HIDDEN if _is_secret(str(name), value) else _searched(value)
        for name, value in config.items()
    }


def _is_secret(name: str, value: Any) -> bool:
    if _ALWAYS.search(name.lower()):
        return True
    if value is None or isinstance(value, (bool, int, float)):
        return False
    return any(_ENDING.search(word.lower()) for word in _WORDS.findall(name))


def _searched(value: Any) -> Any:
    if isinstance(value, Mapping):
        return redact(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return redact({one.name: getattr(value, one.name) for one in dataclasses.fields(value)})
    if isinstance(value, (list, tuple)):
        return [_searched(item) for item in value]
    return value
