"""How real files are damaged: as bytes, and as what they are, so that damage gets past the first check.

Every function takes a `random.Random` and gives the same for the same state of it.
"""

import json
import random
import struct
from collections.abc import Callable, Sequence

import msgpack
import numpy as np
import zstandard

from vzfs.formats.icechunk.envelope import HEADER_LENGTH

type Mutate = Callable[[random.Random, bytes], bytes]

INTEGERS = [
    0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 63, 64, 100, 127, 128, 255, 256, 1000, 4095, 4096, 65535,
    65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1,
]  # fmt: skip

NAMES = [
    "", ".", "..", "/", "//", "/..", "/a/../b", "a/b", "\0", "a\0b", "c", "c/0", "zarr.json", "0",
    "-1", "x" * 255, "x" * 256, "x" * 5000, "é" * 128, "\u202e", "\ufeff", "a\nb", "\x1b[2J", "%2e%2e", "%00",
    "\U0001f9ca", "٣",
]  # fmt: skip

LOCATIONS = [
    "s3://bucket/key", "s3://bucket/../key", "s3://bucket/a//b", "s3://bucket", "s3://", "s3:///key",
    "vcc://name/rest", "vcc://", "file:///etc/passwd", "file:///a/../../etc/passwd", "file://host/x",
    "http://169.254.169.254/latest", "http://user:word@host/x", "http://[::1]:80/x", "http://host:99999/x",
    "https://host/x?y=z", "https://host/x#y", "memory://x", "gs://b/%ff", "az://b/%00", "tigris://b/k",
    "s3://b/" + "a/" * 5000, "javascript:alert(1)", "S3://B/%2e%2e/%2F", "s3://b/k\n", "http://xn--/", "/a",
]  # fmt: skip

VALUES: list[object] = [
    None, True, False, 0, -1, 1, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63), 10**400, 0.5, 1e308, -0.0,
    float("nan"), float("inf"), float("-inf"), "", "..", "x" * 300, "\ud800", "\0", [], [[]], [0], {}, {"": {}},
    [[[[[[[[]]]]]]]], {"name": "regular"}, {"name": "default", "configuration": {}}, [1] * 65, [2**32] * 64,
]  # fmt: skip


def number(rng: random.Random) -> int:
    """Return an integer that is likely to be at the edge of something."""
    return rng.choice(INTEGERS) + rng.choice((0, 0, 0, 1, -1))


def havoc(rng: random.Random, data: bytes, tokens: Sequence[bytes] = ()) -> bytes:
    """Damage *data* as bytes, in a few places."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3, 5))):
        at = rng.randrange(len(out) + 1)
        length = min(rng.choice((1, 2, 4, 8, 16, 64, 256)), len(out) - at)
        match rng.randrange(9):
            case 0 if at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(out):
                out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            case 2:
                width = rng.choice((1, 2, 4, 8))
                out[at : at + width] = (number(rng) % 256**width).to_bytes(width, "little")
            case 3:
                del out[at : at + length]
            case 4:
                out[at:at] = out[at : at + length] * rng.choice((1, 2, 50))
            case 5:
                other = rng.randrange(len(out) + 1)
                out[at : at + length] = out[other : other + length]
            case 6:
                out[at:at] = rng.choice(tokens) if tokens else rng.randbytes(length)
            case 7:
                out[at:at] = (rng.choice(tokens) if tokens else b"[") * rng.choice((10, 1000))
            case 8:
                del out[at:]
    return bytes(out)


def with_tokens(*tokens: bytes | str) -> Mutate:
    """Return havoc that knows some words of a format."""
    words = [t if isinstance(t, bytes) else t.encode("utf-8", "surrogatepass") for t in tokens]
    return lambda rng, data: havoc(rng, data, words)


# -- flatbuffers ---------------------------------------------------------------------------------


def flatbuffer(rng: random.Random, data: bytes) -> bytes:
    """Damage what links a flatbuffer: offsets, vtables, counts; or a text, in place."""
    if len(data) < 16:
        return havoc(rng, data)
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        links, targets = _links(bytes(out))
        if not len(links):
            return havoc(rng, bytes(out))
        link, target = (int(c[rng.randrange(len(c))]) for c in (links, targets))
        match rng.randrange(8):
            case 0:  # an offset leads to another object: shared content, cycles, other types
                struct.pack_into("<I", out, link, (target - link) % 2**32)
            case 1:  # a count, or the distance to a vtable
                struct.pack_into("<I", out, target, number(rng) % 2**32)
            case 2:
                struct.pack_into("<I", out, link, number(rng) % 2**32)
            case 3:  # a table gets the vtable of another
                other = int(targets[rng.randrange(len(targets))])
                vtable = other - struct.unpack_from("<i", out, other)[0]
                struct.pack_into("<I", out, target, (target - vtable) % 2**32)
            case 4:  # an entry of a vtable, or its lengths
                vtable = target - struct.unpack_from("<i", out, target)[0]
                if 0 <= vtable <= len(out) - 24:
                    entry = vtable + 2 * rng.randrange(12)
                    struct.pack_into(
                        "<H", out, entry, rng.choice((0, 4, 8, 12, rng.randrange(65536)))
                    )
            case 5:  # a scalar, inside a table
                at = min(target + 4 * rng.randrange(1, 10), len(out) - 8)
                struct.pack_into("<Q", out, at, number(rng) % 2**64)
            case 6:  # a text with its right length, or the wrong one
                text = rng.choice(NAMES + LOCATIONS).encode()
                size = int.from_bytes(out[target : target + 4], "little")
                if size <= len(out) - target - 4:
                    text = text[:size] if rng.randrange(2) else text[:size].ljust(size, b"/")
                    out[target : target + 4 + len(text)] = struct.pack("<I", len(text)) + text
            case 7:  # a new object behind the end, pointed to by an old offset
                out += bytes(-len(out) % 4)
                struct.pack_into("<I", out, link, len(out) - link)
                text = rng.choice(NAMES + LOCATIONS).encode()
                count = len(text) if rng.randrange(3) else number(rng) % 2**32
                out += struct.pack("<I", count) + text
    return bytes(out) if rng.randrange(4) else havoc(rng, bytes(out))


def _links(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return what look like offsets in a flatbuffer, and what they point to."""
    words = np.frombuffer(data, "<u4", len(data) // 4)
    places = 4 * np.arange(len(words))
    targets = places + words
    plausible = (words >= 4) & (targets <= len(data) - 8)
    return places[plausible], np.unique(targets[plausible])


def in_envelope(mutate: Mutate) -> Mutate:
    """Return a mutation of a file's payload, in a sound envelope, packed or not."""

    def mutation(rng: random.Random, data: bytes) -> bytes:
        header, payload = data[:HEADER_LENGTH], unpacked(data)
        if payload is None or not rng.randrange(20):
            return havoc(rng, data)
        payload = mutate(rng, payload)
        return pack(header, payload) if not rng.randrange(8) else header[:-1] + b"\0" + payload

    return mutation


def unpacked(data: bytes) -> bytes | None:
    """Return the payload of a metadata file, or None if it has none that is sound."""
    header, payload = data[:HEADER_LENGTH], data[HEADER_LENGTH:]
    if len(header) < HEADER_LENGTH:
        return None
    if header[-1] != 1:
        return payload
    try:
        return zstandard.ZstdDecompressor().decompressobj().decompress(payload)
    except zstandard.ZstdError:
        return None


def pack(header: bytes, payload: bytes) -> bytes:
    """Return a metadata file with *payload* compressed."""
    packer = zstandard.ZstdCompressor(level=1, write_content_size=False)
    return header[:-1] + b"\1" + packer.compress(payload)


# -- trees of values -----------------------------------------------------------------------------


def value(rng: random.Random, tree: object) -> object:
    """Replace, repeat, drop or wrap something in a tree of lists and dictionaries."""
    if isinstance(tree, dict) and tree and rng.randrange(6):
        key = rng.choice(list(tree))
        changed = dict(tree)
        match rng.randrange(8):
            case 0:
                del changed[key]
            case 1:
                changed[rng.choice(NAMES)] = changed[key]
            case _:
                changed[key] = value(rng, changed[key])
        return changed
    if isinstance(tree, list) and tree and rng.randrange(6):
        at = rng.randrange(len(tree))
        match rng.randrange(8):
            case 0:
                return tree[:at] + tree[at + 1 :]
            case 1:
                return tree[:at] + [tree[at]] * rng.choice((2, 70)) + tree[at:]
            case _:
                return [*tree[:at], value(rng, tree[at]), *tree[at + 1 :]]
    match rng.randrange(5):
        case 0:
            return rng.choice(NAMES + LOCATIONS)
        case 1:
            return number(rng)
        case 2:
            wrapped = tree
            for _ in range(rng.choice((1, 60, 200, 3000))):
                wrapped = [wrapped]
            return wrapped
        case _:
            return rng.choice(VALUES)


def json_value(rng: random.Random, data: bytes) -> bytes:
    """Damage JSON as a tree, or as text."""
    if rng.randrange(4):
        try:
            return json.dumps(value(rng, json.loads(data))).encode()
        except (ValueError, RecursionError):
            pass
    words = [
        b"[",
        b'{"a":',
        b"1e999",
        b"NaN",
        b"-Infinity",
        b"9" * 5000,
        b'"\\ud800"',
        b"\xff",
        b"null",
    ]
    return havoc(rng, data, words)


def msgpack_value(rng: random.Random, data: bytes) -> bytes:
    """Damage MessagePack as a tree, or as bytes."""
    if rng.randrange(3):
        try:
            tree = value(rng, msgpack.unpackb(data, strict_map_key=False))
            packed: bytes = msgpack.packb(tree, unicode_errors="surrogatepass")
        except (ValueError, OverflowError, TypeError, RecursionError, msgpack.UnpackException):
            pass
        else:
            return packed
    words = [
        b"\x91",
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xd6\xff\0\0\0\0",
    ]
    return havoc(rng, data, words)
