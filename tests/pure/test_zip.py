"""ZIP files: members and where their bytes are, as Python's own reader has them; and what is refused."""

import io
import struct
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzfs.errors import ErrorKind, FormatError
from vzfs.formats import zip as zip_module
from vzfs.formats.zip import (
    DEFLATED,
    STORED,
    TAIL,
    Directory,
    Member,
    data_offset,
    find_directory,
    read_directory,
    unpack,
)

FILES = {"a/b/zarr.json": b"{}" * 50, "a/c/0": bytes(range(256)), "é": b"", "x": b"x" * 1000}


def make(
    files: dict[str, bytes] = FILES, method: int = zipfile.ZIP_STORED, **options: object
) -> bytes:
    """Return a ZIP file that Python wrote."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method, **options) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return target.getvalue()


def read(data: bytes) -> tuple[Directory, dict[str, Member]]:
    directory = find_directory(data[-TAIL:], len(data))
    end = directory.offset + directory.size
    return directory, read_directory(data[directory.offset : end], directory)


def contents(data: bytes) -> dict[str, bytes]:
    """Return all members, unpacked."""
    directory, members = read(data)
    found = {}
    for name, member in members.items():
        header = data[member.local : member.local + member.header]
        start = data_offset(header, member, directory)
        found[name] = unpack(data[start : start + member.compressed], member)
    return found


class Streamed(io.RawIOBase):
    """A file that cannot be sought in, so that lengths come behind the members."""

    def __init__(self) -> None:
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.data += data
        return len(data)


def streamed() -> bytes:
    target = Streamed()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in FILES.items():
            archive.writestr(name, data)
    return bytes(target.data)


def zip64() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in FILES.items():
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(data)
    return target.getvalue()


def zip64_directory(data: bytes) -> bytes:
    """Return a file whose directory is as those of more than four gigabytes are."""
    directory, _ = read(data)
    end = directory.offset + directory.size
    count = directory.members
    central = data[directory.offset : end]
    # The first member has all of its values in the field of ZIP64.
    name_length, extra_length = struct.unpack_from("<HH", central, 28)
    compressed, size = struct.unpack_from("<LL", central, 20)
    field = struct.pack("<HHQQQ", 1, 24, size, compressed, 0)
    head = bytearray(central[:46])
    struct.pack_into("<LL", head, 20, 2**32 - 1, 2**32 - 1)
    struct.pack_into("<H", head, 30, extra_length + len(field))
    struct.pack_into("<L", head, 42, 2**32 - 1)
    names = 46 + name_length
    central = (
        bytes(head) + central[46 : names + extra_length] + field + central[names + extra_length :]
    )
    at = directory.offset + len(central)
    end64 = struct.pack(
        "<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(central), directory.offset
    )
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, at, 1)
    full = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    return data[: directory.offset] + central + end64 + locator + full


@pytest.mark.parametrize(
    "data",
    [
        make(),
        make(method=zipfile.ZIP_DEFLATED),
        streamed(),
        zip64(),
        zip64_directory(make()),
    ],
    ids=["stored", "deflated", "streamed", "zip64", "zip64 directory"],
)
def test_members_are_what_they_were(data: bytes) -> None:
    """Every member is found, and unpacked as it was put in, however the file was written."""
    assert contents(data) == FILES


def test_a_comment_and_an_empty_file() -> None:
    """A comment of any length may stand at the end, and a file may have no members."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("a", b"1")
        archive.comment = b"PK\x05\x06" * 16_000
    assert contents(target.getvalue()) == {"a": b"1"}
    assert contents(make({})) == {}


def test_of_equal_names_the_last_counts() -> None:
    """As for every reader, a member that was written again is what was written last; folders are none."""
    target = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(target, "w") as archive:
        archive.mkdir("folder")
        archive.writestr("a", b"old")
        archive.writestr("a", b"new")
    assert contents(target.getvalue()) == {"a": b"new"}


def test_names_of_old_programs() -> None:
    """A name that is not said to be UTF-8 is in the code page that ZIP had first."""
    data = make({"ae": b"1"}).replace(b"ae", b"\x84\x81")
    assert contents(data) == {"äü": b"1"}


def patched(at: Callable[[bytes], int], form: str, value: int) -> bytes:
    data = bytearray(make())
    struct.pack_into(form, data, at(bytes(data)), value)
    return bytes(data)


def central(offset: int) -> Callable[[bytes], int]:
    return lambda data: data.index(b"PK\x01\x02") + offset


def end(offset: int) -> Callable[[bytes], int]:
    return lambda data: data.rindex(b"PK\x05\x06") + offset


REFUSED = {
    "nothing": (b"", "missing"),
    "text": (b"no zip " * 100, "missing"),
    "cut off": (make()[:-1], "missing"),
    "encrypted": (patched(central(8), "<H", 1), "encrypted"),
    "encrypted strongly": (patched(central(8), "<H", 1 << 6), "encrypted"),
    "on another disk": (patched(central(34), "<H", 1), "several files"),
    "one of several": (patched(end(4), "<H", 3), "several files"),
    "members elsewhere": (patched(end(8), "<H", 1), "several files"),
    "too many members": (patched(end(8), "<L", 0x0FFF0FFF), "too short"),
    "a directory beyond the end": (patched(end(16), "<L", 2**31), "beyond its end"),
    "a large directory": (patched(end(12), "<L", 2**31), "beyond its end"),
    "a directory elsewhere": (patched(end(16), "<L", 3), "else than members"),
    "a member beyond": (patched(central(42), "<L", 2**31), "into its directory"),
    "a long member": (patched(central(20), "<L", 2**31), "into its directory"),
    "two sizes": (patched(central(24), "<L", 5), "two sizes"),
    "a long name": (patched(central(28), "<H", 60_000), "cut off"),
    "no ZIP64 field": (patched(central(42), "<L", 2**32 - 1), "into its directory"),
    "a name with a NUL": (make({"ab": b""}).replace(b"ab", b"a\0"), "no proper name"),
    "a deep name": (make({"a/" * 200 + "b": b""}), "no proper name"),
    "a name that is no text": (make({"é": b""}).replace("é".encode(), b"\xc3\xc3"), "not UTF-8"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case: str) -> None:
    """A file that is damaged, encrypted or spread over several is refused, and the error says which."""
    data, reason = REFUSED[case]
    with pytest.raises(FormatError, match=reason) as caught:
        read(data)
    assert caught.value.kind in {ErrorKind.CORRUPT_METADATA, ErrorKind.UNSUPPORTED_FORMAT}


@pytest.mark.parametrize(
    ("offset", "value"), [(0, 0), (6, 1), (8, DEFLATED), (26, 7), (28, 60_000), (30, 65)]
)
def test_a_local_header_must_agree(offset: int, value: int) -> None:
    """A member whose own header has another signature, name or method, or reaches too far, is not read."""
    data = bytearray(make())
    struct.pack_into("<H", data, offset, value)
    directory, members = read(bytes(data))
    member = members["a/b/zarr.json"]
    with pytest.raises(FormatError):
        data_offset(bytes(data[: member.header]), member, directory)
    with pytest.raises(FormatError):
        data_offset(b"PK\3\4", member, directory)


def test_what_is_unpacked_is_checked() -> None:
    """A member that unpacks to more, fewer or other bytes than it says is refused, and never held beyond its size."""
    plain = bytes(10_000_000)
    packed = zlib.compress(plain, wbits=-15)
    member = Member(b"x", 0, len(packed), len(plain), DEFLATED, zlib.crc32(plain))
    assert unpack(packed, member) == plain
    for wrong in (
        member._replace(size=100),
        member._replace(size=len(plain) + 1),
        member._replace(crc=1),
        member._replace(method=12),
        member._replace(method=STORED),
    ):
        with pytest.raises(FormatError):
            unpack(packed, wrong)
    for damaged in (packed[:-3], b"\xff" * 50, b""):
        with pytest.raises(FormatError):
            unpack(damaged, member)


@given(st.data())
def test_a_damaged_file_is_read_or_refused(data: st.DataObject) -> None:
    """Any bytes give members within the file, or FormatError, and nothing else."""
    found = bytearray(zip64_directory(make({"a": b"1", "b/c": b"22"})))
    for _ in range(data.draw(st.integers(1, 4))):
        where = data.draw(st.integers(0, len(found) - 1))
        found[where : where + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    try:
        directory, members = read(bytes(found))
    except FormatError:
        return
    assert all(m.local + m.header + m.compressed <= directory.offset for m in members.values())


@pytest.mark.parametrize(("bound", "value"), [("MAX_MEMBERS", 3), ("MAX_DIRECTORY", 150)])
def test_directories_are_bounded_before_they_are_read(
    monkeypatch: pytest.MonkeyPatch, bound: str, value: int
) -> None:
    """More members, or bytes of a directory, than are taken are refused by what the end of the file says."""
    data = make()
    assert find_directory(data[-TAIL:], len(data)).members == 4
    monkeypatch.setattr(zip_module, bound, value)
    with pytest.raises(FormatError, match="has more than"):
        find_directory(data[-TAIL:], len(data))


def test_no_more_is_unpacked_than_a_member_says() -> None:
    """A member that unpacks to more than it says is refused without the memory that all of it takes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    data = packer.compress(bytes(2**26)) + packer.flush()
    member = Member(b"x", 0, len(data), 10, DEFLATED, 0)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="checksum"):
            unpack(data, member)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20
