"""A state as plain JSON and tensors by name, and back."""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.nn import Parameter

from hotloop.errors import CheckpointError, CorruptCheckpointError

__all__ = [
    "DTYPES",
    "MAX_DEPTH",
    "encode_json",
    "flatten",
    "is_shape",
    "parse_json",
    "rebuild",
]

#: The dtypes that a tensor may have, by their names in the safetensors format.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
#: The most dicts, lists and tuples that may lie within each other.
MAX_DEPTH = 64

# Python may refuse to convert ints of more than 640 digits.
_MAX_DIGITS = 600
_MAX_INT = 10**_MAX_DIGITS - 1
_ALLOWED_SHAPES = "allowed are 64 dimensions, and a product below 2**60 of those above 0"
_KEY_TYPES = (str, int, float, bool, type(None))
_FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def is_shape(shape: Sequence[int]) -> bool:
    """Return whether a tensor that is saved may have a shape.

    Args:
        shape: Its lengths: at most 64, the product of those above 0 below 2**60.
    """
    # No stride may overflow, even where a length of 0 leaves no bytes.
    is_small = len(shape) <= 64 and all(0 <= length < 1 << 60 for length in shape)
    return is_small and math.prod(length or 1 for length in shape) < 1 << 60


def encode_json(value: Any, indent: int | None = None) -> bytes:
    """Return a plain value as strict JSON in ASCII.

    Args:
        value: None, a bool, an int, a finite float, a str, a list or a dict with str keys.
        indent: Spaces of a level; None for all in one line.
    """
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(value, allow_nan=False, separators=separators, indent=indent)
    return text.encode("ascii")


def parse_json(data: bytes | bytearray, where: str) -> Any:
    """Return the value of a strict JSON text in UTF-8.

    Args:
        data: The text.
        where: What it is, for the error.

    Raises:
        CorruptCheckpointError: If it is not JSON, has a key twice in an object, a number that
            no float or no int of 600 digits holds, or is nested too deeply.
    """
    try:
        return json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_int=_parse_int,
        )
    except RecursionError:
        reason = "it is nested too deeply"
    except MemoryError:
        reason = "it does not fit into memory"
    except ValueError as error:
        reason = str(error)
    raise CorruptCheckpointError(f"{where} is not valid JSON: {reason}")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError(f"a key occurs twice in {sorted(key for key, _ in pairs)!r:.200}")
    return result


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number of JSON")


def _parse_int(text: str) -> int:
    if len(text.lstrip("-")) > _MAX_DIGITS:
        raise ValueError(f"an int has more than {_MAX_DIGITS} digits")
    return int(text)


def flatten(state: Any) -> tuple[Any, dict[str, Tensor]]:
    """Split a state into a value that JSON holds and its tensors.

    A state is None, a bool, an int of at most 600 digits, a float, a str, a tensor, or a dict,
    `OrderedDict`, `Counter`, list, tuple or `torch.Size` of states, no more than 64 deep. Keys
    are None, a bool, an int, a float or a str. Subclasses of these types are no states, NumPy's
    scalars included. Tensors are strided, have data, at most 64 dimensions and one of the dtypes
    in `DTYPES`.

    A tensor's name is its path, such as "model.layers.0.weight", with "~2", "~3"... after it
    if that is taken. Tensors with the same memory, shape, strides and dtype are one tensor.

    Args:
        state: The state; it is not changed.

    Returns:
        The plain value and the tensors by name, detached, in the order of the state. They
        share memory with the state's.

    Raises:
        CheckpointError: If a value or a key is none of these; it names the path.
    """
    flattener = _Flattener()
    return flattener.encode(state, "", 0), flattener.tensors


class _Flattener:
    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[tuple[Any, ...], str] = {}

    def encode(self, value: Any, path: str, depth: int) -> Any:
        kind = type(value)
        if value is None or kind is bool:
            return value
        if kind is int:
            if abs(value) > _MAX_INT:
                raise _unsavable(path, f"an int of more than {_MAX_DIGITS} digits")
            return value
        if kind is float:
            return value if math.isfinite(value) else {"$float": repr(value)}
        if kind is str:
            return value if _is_text(value) else {"$str": _to_hex(value)}
        if isinstance(value, Tensor):
            return {"$tensor": self._add(value, path)}
        if depth == MAX_DEPTH:
            raise _unsavable(path, f"more than {MAX_DEPTH} levels deep, or contains itself")
        if kind in (dict, OrderedDict, Counter):
            return self._encode_dict(value, path, depth + 1)
        if kind in (list, tuple, torch.Size):
            items = [self.encode(v, _join(path, i), depth + 1) for i, v in enumerate(value)]
            return items if kind is list else {"$tuple": items}
        raise _unsavable(
            path,
            f"of type {_name(kind)}; allowed are None, bool, int, float, str, Tensor, dict, "
            "Counter, list and tuple",
        )

    def _encode_dict(self, value: dict[Any, Any], path: str, depth: int) -> Any:
        for key in value:
            if type(key) not in _KEY_TYPES:
                raise _unsavable(
                    path,
                    f"a dict with a key of type {_name(type(key))}; allowed are None, bool, int, "
                    "float and str",
                )
            if type(key) is int and abs(key) > _MAX_INT:
                raise _unsavable(path, f"a dict with an int of more than {_MAX_DIGITS} digits")
        items = [(key, self.encode(v, _join(path, key), depth)) for key, v in value.items()]
        if type(value) is not Counter and all(map(_is_plain_key, value)):
            return dict(items)
        tag = "$counter" if type(value) is Counter else "$dict"
        return {tag: [[self.encode(key, path, depth), item] for key, item in items]}

    def _add(self, tensor: Tensor, path: str) -> str:
        if type(tensor) not in (Tensor, Parameter):
            raise _unsavable(path, f"of type {_name(type(tensor))}; allowed is torch.Tensor")
        if tensor.is_nested or tensor.layout != torch.strided:
            kind = "a nested tensor" if tensor.is_nested else f"a tensor of layout {tensor.layout}"
            raise _unsavable(path, f"{kind}; allowed are strided ones")
        if tensor.dtype not in DTYPES.values():
            allowed = ", ".join(map(str, DTYPES.values()))
            raise _unsavable(path, f"a tensor of {tensor.dtype}; allowed are {allowed}")
        if not is_shape(tensor.shape):
            reason = f"a tensor of shape {tuple(tensor.shape)!r:.500}; {_ALLOWED_SHAPES}"
            raise _unsavable(path, reason)
        if tensor.is_meta:
            raise _unsavable(path, "a tensor without data, on the device meta")
        # Without memory, only the same object is the same tensor.
        place = tensor.data_ptr() if tensor.numel() else id(tensor)
        view = (tensor.dtype, tensor.shape, tensor.stride(), tensor.is_conj(), tensor.is_neg())
        key = (tensor.device, place, *view)
        if key not in self._names:
            # The safetensors format keeps one name to itself, and its names are UTF-8.
            base = path.encode("utf-8", "replace").decode() or "state"
            name = base
            count = 1
            while name in self.tensors or name == "__metadata__":
                count += 1
                name = f"{base}~{count}"
            self._names[key] = name
            self.tensors[name] = tensor.detach()
        return self._names[key]


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _unsavable(path: str, reason: str) -> CheckpointError:
    return CheckpointError(f"{_quote(path)} cannot be saved: it is {reason}")


def _quote(path: str) -> str:
    return f"{path!r:.500}" if path else "the state"


def _is_text(value: str) -> bool:
    """Return whether a str survives UTF-8: has no surrogates."""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _is_plain_key(key: Any) -> bool:
    return type(key) is str and not key.startswith("$") and _is_text(key)


def _to_hex(text: str) -> str:
    return text.encode("utf-8", "surrogatepass").hex()


def rebuild(plain: Any, tensors: Mapping[str, Any], where: str = "the state") -> Any:
    """Return the state that `flatten` split.

    Args:
        plain: The plain value.
        tensors: The tensors by name, which are put in their places as they are.
        where: What `plain` is, for the error.

    Raises:
        CorruptCheckpointError: If `plain` is no value that `flatten` returns, names a tensor
            that is missing or leaves one over.
    """
    rebuilder = _Rebuilder(tensors, where)
    state = rebuilder.decode(plain, "", 0)
    left_over = sorted(set(tensors) - rebuilder.used)
    if left_over:
        raise CorruptCheckpointError(f"{where} has no place for tensor {left_over[0]!r:.500}")
    return state


class _Rebuilder:
    def __init__(self, tensors: Mapping[str, Any], where: str) -> None:
        self.used: set[str] = set()
        self._tensors = tensors
        self._where = where

    def decode(self, node: Any, path: str, depth: int) -> Any:
        kind = type(node)
        if node is None or kind in (bool, int, str):
            return node
        if kind is float and math.isfinite(node):
            return node
        if kind is list:
            return self._decode_list(node, path, depth)
        if kind is dict and all(type(key) is str for key in node):
            if any(key.startswith("$") for key in node):
                return self._decode_tag(node, path, depth)
            self._check_depth(path, depth)
            return {key: self.decode(v, _join(path, key), depth + 1) for key, v in node.items()}
        raise self._error(path, f"it is no valid {kind.__name__}")

    def _decode_list(self, node: Any, path: str, depth: int) -> list[Any]:
        self._check_depth(path, depth)
        return [self.decode(item, _join(path, i), depth + 1) for i, item in enumerate(node)]

    def _decode_tag(self, node: dict[str, Any], path: str, depth: int) -> Any:
        tag, value = next(iter(node.items()))
        if len(node) == 1:
            if tag == "$tuple" and type(value) is list:
                return tuple(self._decode_list(value, path, depth))
            if tag in ("$dict", "$counter") and type(value) is list:
                return self._decode_items(tag, value, path, depth)
            if tag == "$tensor" and type(value) is str:
                if value not in self._tensors:
                    raise self._error(path, f"there is no tensor {value!r:.500}")
                self.used.add(value)
                return self._tensors[value]
            if tag == "$float" and type(value) is str and value in _FLOATS:
                return _FLOATS[value]
            if tag == "$str" and type(value) is str:
                with contextlib.suppress(ValueError):
                    return bytes.fromhex(value).decode("utf-8", "surrogatepass")
        raise self._error(path, f"it has no valid {tag!r:.80}")

    def _decode_items(self, tag: str, pairs: list[Any], path: str, depth: int) -> dict[Any, Any]:
        self._check_depth(path, depth)
        result: dict[Any, Any] = Counter() if tag == "$counter" else {}
        for pair in pairs:
            if type(pair) is not list or len(pair) != 2:
                raise self._error(path, f"{tag!r} has something else than pairs")
            key = self.decode(pair[0], path, depth + 1)
            if type(key) not in _KEY_TYPES:
                raise self._error(path, f"{tag!r} has a key of type {_name(type(key))}")
            if key in result:
                raise self._error(path, f"{tag!r} has the key {key!r:.80} twice")
            result[key] = self.decode(pair[1], _join(path, key), depth + 1)
        return result

    def _check_depth(self, path: str, depth: int) -> None:
        if depth >= MAX_DEPTH:
            raise self._error(path, f"it is more than {MAX_DEPTH} levels deep")

    def _error(self, path: str, reason: str) -> CorruptCheckpointError:
        return CorruptCheckpointError(f"{self._where} is damaged at {_quote(path)}: {reason}")
