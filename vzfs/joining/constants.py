"""Variables that every file repeats: whether they are equal, told by their bytes."""

import hashlib
from typing import Final

import numpy as np

from vzfs.joining.described import difference
from vzfs.joining.pieces import Piece
from vzfs.joining.refusal import JoinError
from vzfs.joining.values import (
    Read,
    Undecodable,
    bytes_of,
    check,
    decoded,
    values_of,
)
from vzfs.model.manifest import ChunkRef, Manifest

MAX_COMPARED: Final = 256 * 2**20
"""Bytes of one variable of one file that are read to be compared, and of a chunk that is decoded for it."""


class Constant:
    """A variable as the first file has it, with which those of other files are compared."""

    def __init__(self, path: str, first: Piece, read: Read) -> None:
        self._path = path
        self._first = first
        self._read = read
        self._digests: dict[int, bytes] = {}

    async def check(self, other: Piece) -> None:
        """Raise JoinError if *other* is not equal to the first, or if that cannot be told."""
        found = difference(self._first.metadata, other.metadata, None)
        if found is not None and not found.is_of_layout:
            raise self._refusal(other, f"has the {found.what}")
        if found is None and _same(self._first.manifest, other.manifest):
            return
        stored = max(int(p.manifest.length.sum(dtype="u8")) for p in (self._first, other))
        if stored > MAX_COMPARED:
            raise self._refusal(other, f"is too large to be compared, with {stored} bytes,")
        if found is not None:
            await self._check_values(other, found.what)
            return
        mine, theirs = (_rows(piece.manifest) for piece in (self._first, other))
        for flat in sorted(mine.keys() | theirs.keys()):
            if flat in mine and flat in theirs:
                one, two = self._first.manifest.ref(mine[flat]), other.manifest.ref(theirs[flat])
                if one == two or await self._is_same_chunk(flat, one, two):
                    continue
                if await self._decodes_alike(one, two):
                    continue
            raise self._refusal(other, "has other values")

    async def _is_same_chunk(self, flat: int, one: ChunkRef, two: ChunkRef) -> bool:
        if one.length != two.length:
            return False
        digest = self._digests.get(flat)
        if digest is None:
            digest = self._digests[flat] = _digest(await bytes_of(one, self._read))
        return digest == _digest(await bytes_of(two, self._read))

    async def _decodes_alike(self, one: ChunkRef, two: ChunkRef) -> bool:
        """Whether chunks whose bytes differ have the same values: compressors make different bytes of them."""
        metadata = self._first.metadata
        # Few bytes may be decoded to very many.
        if metadata.nbytes > MAX_COMPARED:
            return False
        try:
            codecs = check(metadata)
            if len(codecs) == 1:
                return False
            values = [
                decoded(await bytes_of(ref, self._read), metadata, codecs) for ref in (one, two)
            ]
        except Undecodable:
            return False
        return values[0].tobytes() == values[1].tobytes()

    async def _check_values(self, other: Piece, why: str) -> None:
        try:
            one, two = [
                await values_of(piece.array, piece.metadata, piece.manifest, self._read)
                for piece in (self._first, other)
            ]
        except Undecodable as reason:
            raise self._refusal(other, f"has the {why} (and {reason}),") from None
        if one.tobytes() != two.tobytes():
            raise self._refusal(other, "has other values")

    def _refusal(self, other: Piece, what: str) -> JoinError:
        first = self._first.where
        return JoinError(
            f"{self._path} does not have the dimension, and {what} in {first} and {other.where}",
            where=other.where,
        )


def _same(one: Manifest, two: Manifest) -> bool:
    """Whether two manifests say the same, without reading any bytes."""
    columns = ("kind", "offset", "length")
    return (
        len(one) == len(two)
        and list(one.locations) == list(two.locations)
        and list(one.checksums) == list(two.checksums)
        and one.inline == two.inline
        and bool(np.array_equal(one.indices(0, len(one)), two.indices(0, len(two))))
        and all(np.array_equal(getattr(one, c), getattr(two, c)) for c in columns)
        and bool(np.array_equal(one.location, two.location))
        and bool(np.array_equal(one.checksum, two.checksum))
    )


def _rows(manifest: Manifest) -> dict[int, int]:
    return {flat: row for row, flat in enumerate(manifest.indices(0, len(manifest)).tolist())}


def _digest(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=32).digest()
