"""The bytes of numpy arrays that digests are taken of."""

import struct
from typing import Any

import numpy as np


def content(values: Any) -> tuple[tuple[int, ...], str, bytes]:
    """Return shape, name of the data type, and the bytes in C order, little-endian."""
    values = np.asarray(values)
    kind = values.dtype.kind
    if kind in "OT":
        parts = []
        for value in values.reshape(-1).tolist():
            text = value if isinstance(value, bytes) else str(value or "").encode()
            parts.append(struct.pack("<I", len(text)) + text)
        return values.shape, "string", b"".join(parts)
    if values.dtype.names:
        packed = np.dtype([(n, values.dtype[n].newbyteorder("<")) for n in values.dtype.names])
        copy = np.empty(values.shape, packed)
        for name in values.dtype.names:
            copy[name] = values[name]
        return values.shape, "struct", copy.tobytes()
    if kind == "S":
        return values.shape, "bytes", values.tobytes()
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return values.shape, values.dtype.newbyteorder("=").name, little.tobytes()
