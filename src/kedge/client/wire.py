"""What goes over the wire: msgpack, with numpy's arrays as openpi's clients write them.

An array is a map of four: `{b"__ndarray__": True, b"data": bytes, b"dtype": "<f8", b"shape": (4,)}`; a number of
numpy's is `{b"__npgeneric__": True, b"data": 0.5, b"dtype": "<f8"}`. What is read may have been written by anyone: no
type but plain numbers and truth values is made, no array that its bytes do not fill, and nothing is set aside for what
a header merely declares.
"""

from __future__ import annotations

import math
from typing import Any

import msgpack
import numpy as np

CODES = {
    np.dtype(code).newbyteorder("<").str: np.dtype(code).newbyteorder("<")
    for code in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?")
}
"""The types that an array may have, by what they are called."""
ITEMS, AXES = 64, 8
"""Entries of a list or a map, and axes of an array, at most."""


class WireError(ValueError):
    """Bytes that are no message."""


def pack(message: Any) -> bytes:
    """A message as bytes."""
    data = msgpack.packb(message, default=_written)
    assert isinstance(data, bytes)
    return data


def unpack(data: bytes) -> dict[str, Any]:
    """A message from bytes; `WireError` says in one line what is wrong with them."""
    try:
        found = msgpack.unpackb(
            data, object_hook=_read, ext_hook=_no_extension, max_array_len=ITEMS, max_map_len=ITEMS, max_ext_len=0
        )
    except WireError:
        raise
    except msgpack.exceptions.StackError:
        raise WireError("the message is nested too deeply") from None
    except (ValueError, TypeError, OverflowError, msgpack.exceptions.UnpackException) as error:
        raise WireError(f"the message is no msgpack that is understood here ({_first_line(error)})") from None
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise WireError("a message is a map from names to values")
    return found


def _written(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic) and value.dtype.newbyteorder("<").str not in CODES:
        raise TypeError(f"arrays of {value.dtype} cannot be sent")
    if isinstance(value, np.ndarray):
        value = value.astype(value.dtype.newbyteorder("<"), copy=False)
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.newbyteorder("<").str}
    raise TypeError(f"a {type(value).__name__} cannot be sent")


def _read(found: dict[Any, Any]) -> Any:
    if b"__ndarray__" in found:
        return _array(found.get(b"data"), _dtype(found), found.get(b"shape"))
    if b"__npgeneric__" in found:
        return _number(found.get(b"data"), _dtype(found))
    return found


def _dtype(found: dict[Any, Any]) -> np.dtype[Any]:
    name = found.get(b"dtype")
    known = CODES.get(name) if isinstance(name, str) else None
    if known is None:
        raise WireError(f"an array's type is one of {', '.join(CODES)}, not {_short(name)}")
    return known


def _array(data: Any, dtype: np.dtype[Any], shape: Any) -> np.ndarray:
    whole = isinstance(shape, list) and all(type(n) is int and 0 <= n < 2**31 for n in shape)
    if not whole or len(shape) > AXES:
        raise WireError(f"an array's shape is a list of at most {AXES} whole numbers")
    if not isinstance(data, bytes) or not data or len(data) != math.prod(shape) * dtype.itemsize:
        raise WireError(f"an array of {dtype.name} and shape {_short(shape)} is not filled by its bytes")
    return np.frombuffer(data, dtype).reshape(shape)


def _number(data: Any, dtype: np.dtype[Any]) -> Any:
    if not isinstance(data, int | float):
        raise WireError("a number of numpy's is a number")
    try:
        return dtype.type(data)
    except (OverflowError, ValueError):
        raise WireError(f"{data} is no {dtype.name}") from None


def _no_extension(code: int, data: bytes) -> Any:
    raise WireError("the message has an extension type, and none is known here")


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:80]


def _short(value: Any) -> str:
    said = repr(value)
    return said if len(said) <= 20 else said[:17] + "..."
