"""Targets of files of archives whose structure is read here: TIFF, FITS, HDF4, DMR++, and GRIB's messages."""

import io
import struct
from collections.abc import Callable, Iterable
from typing import BinaryIO

from tests.fuzz.archives import look
from vzfs.archival.building import HierarchyBuilder, Unpresentable
from vzfs.archival.parsers import dmrpp, fits, gribscan, hdf4, tiff
from vzfs.errors import ErrorKind, FormatError
from vzfs.formats.references import decode_references, encode_references

type Parse = Callable[[BinaryIO, int, HierarchyBuilder], None]

BESIDE = 10**9
"""Bytes of the file that a DMR++ document describes."""


def parsed(parse: Parse, size: int | None = None) -> Callable[[bytes], None]:
    """Return what parses data by *parse*, after which every chunk lies within them, or within *size* bytes."""

    def run(data: bytes) -> None:
        to = HierarchyBuilder("file")
        try:
            parse(io.BytesIO(data), len(data), to)
        except Unpresentable as reason:
            raise FormatError(ErrorKind.UNSUPPORTED_FORMAT, str(reason)[:300]) from None
        found = to.build()
        if size is None:
            look(found, len(data))
            assert decode_references(encode_references(found), len(data)).nodes == found.nodes

    return run


def messages(data: bytes) -> None:
    """Find the messages in *data*; each lies within them and behind the one before."""
    end, count = 0, 0
    for found in gribscan.scan(io.BytesIO(data), len(data)):
        if isinstance(found, gribscan.Broken):
            continue
        count += 1
        assert found.offset >= end or found.number
        end = found.offset + found.length
        assert end <= len(data)
        if found.parts:
            gribscan.composed(io.BytesIO(data), found)
    if not count:
        raise FormatError(ErrorKind.UNSUPPORTED_FORMAT, "there is no message")


RUN = {
    "tiff": parsed(tiff.parse),
    "fits": parsed(fits.parse),
    "hdf4": parsed(hdf4.parse),
    "dmrpp": parsed(dmrpp.parse, BESIDE),
    "messages": messages,
}


def tiff_seeds() -> Iterable[bytes]:
    """Give files of one directory, of both orders and both kinds, with strips and with tiles."""
    for order, mark in (("<", b"II"), (">", b"MM")):
        for is_big in (False, True):
            for tags in (
                {256: 4, 257: 6, 258: 8, 259: 1, 262: 1, 273: (200, 216), 278: 4, 279: (16, 8)},
                {256: 20, 257: 6, 258: 16, 259: 8, 317: 2, 322: 16, 323: 16, 324: (220, 300), 325: (40, 40)},
                {256: 4, 257: 4, 258: 8, 259: 7, 262: 6, 277: 3, 273: 200, 279: 60, 347: 5, 33550: 9},
            ):  # fmt: skip
                yield _tiff(order, mark, tags, is_big=is_big).ljust(400, b"\7")


def _tiff(
    order: str, mark: bytes, tags: dict[int, int | tuple[int, int]], *, is_big: bool
) -> bytes:
    count, place = ("Q", "Q") if is_big else ("H", "I")
    head = struct.pack(order + "2sHHHQ", mark, 43, 8, 0, 16) if is_big else struct.pack(order + "2sHI", mark, 42, 8)  # fmt: skip
    table = struct.pack(order + count, len(tags))
    behind = len(head) + len(table) + len(tags) * (20 if is_big else 12) + struct.calcsize(place)
    extra = b""
    for tag, value in tags.items():
        values = value if isinstance(value, tuple) else (value,)
        packed = struct.pack(f"{order}{len(values)}I", *values)
        if len(packed) > (8 if is_big else 4):
            packed, extra = struct.pack(order + place, behind + len(extra)), extra + packed
        table += struct.pack(f"{order}HH{place}", tag, 4, len(values))
        table += packed.ljust(8 if is_big else 4, b"\0")
    return head + table + struct.pack(order + place, 0) + extra


def fits_seeds() -> Iterable[bytes]:
    """Give files with an image, a table and an extension without data."""
    image = _cards("SIMPLE  = T", "BITPIX  = -32", "NAXIS   = 2", "NAXIS1  = 5", "NAXIS2  = 3", "BZERO   = 1.5")  # fmt: skip
    table = _cards(
        "XTENSION= 'BINTABLE'", "BITPIX  = 8", "NAXIS   = 2", "NAXIS1  = 14", "NAXIS2  = 3",
        "PCOUNT  = 0", "GCOUNT  = 1", "TFIELDS = 3", "TTYPE1  = 'a'", "TFORM1  = '2I'",
        "TTYPE2  = 'b'", "TFORM2  = 'D'", "TFORM3  = '2A'", "HISTORY made", "EXTNAME = 'T'",
    )  # fmt: skip
    yield image + bytes(2880)
    yield image + bytes(2880) + table + bytes(2880)
    yield _cards("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 0") + table + bytes(2880)


def _cards(*lines: str) -> bytes:
    text = b"".join(line.ljust(80).encode() for line in (*lines, "END"))
    return text.ljust(-(-len(text) // 2880) * 2880)


def hdf4_seeds() -> Iterable[bytes]:
    """Give files with a data set in one piece, in blocks and in chunks, and a table."""
    text = b"\0\3abc"
    number = bytes([1, 22, 16, 1])
    dimensions = struct.pack(">HIIHHHHHH", 2, 3, 4, 106, 1, 106, 1, 106, 1)
    group = struct.pack(">HHHHHHH", 3, 701, 702, 720, 1, 1, 1) + text + b"\0\6Var0.0" + bytes(8)
    records = struct.pack(">HIHHHHHH", 0, 3, 2, 1, 22, 2, 0, 1) + text + text + b"\0\1x" + bytes(8)
    data = bytes(range(24))
    blocks = struct.pack(">HIIIH", 1, 24, 12, 2, 5)
    links = struct.pack(">HHH", 0, 6, 7)
    rows = struct.pack(">IIHHIIHH", 0, 0, 61, 8, 1, 0, 61, 8)
    about = struct.pack(">HIBIIIIHHHHI", 5, 57, 0, 0, 24, 16, 2, 1962, 9, 0, 0, 2)
    about += struct.pack(">IIIIII", 0, 3, 2, 0, 4, 4) + struct.pack(">I", 2) + b"\0\7"
    listed = struct.pack(">HIHHHHHHHHHHHH", 0, 2, 12, 3, 25, 23, 23, 8, 2, 2, 0, 8, 10, 2)
    listed += struct.pack(">HH", 1, 1)
    listed += b"\0\1o\0\1t\0\1r" + text + b"\0\1c" + bytes(8)
    common = [(106, 1, number), (701, 1, dimensions), (720, 1, b""), (1965, 2, group)]
    yield _hdf4([*common, (702, 1, data), (1962, 3, records), (1963, 3, data[:6])])
    yield _hdf4([*common, (702 | 0x4000, 1, blocks), (20, 5, links), (20, 6, data[:12]), (20, 7, data[12:])])  # fmt: skip
    yield _hdf4([*common, (702 | 0x4000, 1, about), (61, 8, data[:16]), (1962, 9, listed), (1963, 9, rows)])  # fmt: skip


def _hdf4(objects: list[tuple[int, int, bytes]]) -> bytes:
    at = 10 + 12 * len(objects)
    table, body = struct.pack(">HI", len(objects), 0), b""
    for tag, ref, data in objects:
        table += struct.pack(">HHII", tag, ref, at + len(body), len(data))
        body += data
    return b"\x0e\x03\x13\x01" + table + body


def dmrpp_seeds() -> Iterable[bytes]:
    """Give documents with every way in which data can lie."""
    yield (
        b'<Dataset xmlns="http://xml.opendap.org/ns/DAP/4.0#" dmrpp:version="3" '
        b'xmlns:dmrpp="http://xml.opendap.org/dap/dmrpp/1.0.0#"><Dimension name="x" size="10"/>'
        b'<Group name="g"><Int16 name="v"><Dim name="/x"/><Attribute name="a" type="Int32">'
        b'<Value>1</Value></Attribute><dmrpp:chunks compressionType="shuffle deflate" '
        b'fillValue="0" byteOrder="LE"><dmrpp:chunkDimensionSizes>4</dmrpp:chunkDimensionSizes>'
        b'<dmrpp:chunk offset="4016" nBytes="16" chunkPositionInArray="[4]"/></dmrpp:chunks>'
        b'</Int16></Group><String name="s"><Dim size="2"/><dmrpp:vlsa><v c="2">ab</v>'
        b'</dmrpp:vlsa></String><Byte name="b"><Dim size="3"/><dmrpp:compact>AAAA</dmrpp:compact>'
        b'</Byte><Float64 name="f"><Dim size="2"/><dmrpp:chunk offset="1" nBytes="16"/></Float64>'
        b"</Dataset>"
    )


def message_seeds() -> Iterable[bytes]:
    """Give a message of either edition, and one with two fields, with something before them."""
    product = (28).to_bytes(3) + bytes(4) + b"\xc0" + bytes([0] * 16 + [21, 0, 0, 0])
    body = product + (32).to_bytes(3) + bytes(29) + (8).to_bytes(3) + bytes(5) + (16).to_bytes(3) + bytes(13)  # fmt: skip
    yield b"x" + b"GRIB" + (12 + len(body)).to_bytes(3) + b"\1" + body + b"7777"
    sections = {1: 16, 3: 67, 4: 29, 5: 16, 6: 1, 7: 20}
    packed = {
        n: struct.pack(">IB", 5 + length, n) + bytes(length) for n, length in sections.items()
    }
    one = b"".join(packed.values())
    for body in (one, one + b"".join(packed[n] for n in (4, 5, 6, 7))):
        yield b"GRIB\0\0\0\2" + (20 + len(body)).to_bytes(8) + body + b"7777"
