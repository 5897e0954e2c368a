"""The bytes of FUSE: what a request says, and what is no request."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import fuse_request
from vzfs.fuse import protocol
from vzfs.fuse.protocol import Attributes, Feature, MalformedError, Opcode, Opening, Span

OF = Attributes(mode=0o100444, uid=1, gid=2, time=3 * 10**9 + 4, block_size=512)


def test_a_header_says_who_asks_what() -> None:
    """Of a request are known its kind, its number, its inode and the thread that waits."""
    head = protocol.header(fuse_request(Opcode.READ, 5, b"body", unique=6, thread=7))
    assert (head.opcode, head.inode, head.unique, head.thread) == (Opcode.READ, 5, 6, 7)


def test_a_request_is_as_long_as_it_says() -> None:
    """What is cut short, or is longer than its header says, is no request."""
    message = fuse_request(Opcode.READ, 5, b"body")
    for wrong in (b"", message[:39], message[:-1], message + b"x"):
        with pytest.raises(MalformedError):
            protocol.header(wrong)


@pytest.mark.parametrize("body", [b"", b"\0", b"name", b"a\0b\0", b"\0\0"])
def test_a_name_ends_where_its_request_does(body: bytes) -> None:
    """A name is not empty, has one zero byte, and that at its end."""
    with pytest.raises(MalformedError):
        protocol.name(fuse_request(Opcode.LOOKUP, 1, body))


@given(st.binary(min_size=1, max_size=300).filter(lambda name: 0 not in name))
def test_a_name_is_any_bytes(name: bytes) -> None:
    """A name is given as it was sent."""
    assert protocol.name(fuse_request(Opcode.LOOKUP, 1, name + b"\0")) == name
    asked = fuse_request(Opcode.GETXATTR, 1, struct.pack("=II", 9, 0) + name + b"\0")
    assert (protocol.xattr_size(asked), protocol.xattr_name(asked)) == (9, name)


def test_a_read_asks_for_a_span() -> None:
    """READ and READDIR name where to begin and how much to give at most."""
    body = struct.pack("=QQIIQII", 9, 2**40, 4096, 0, 0, 0, 0)
    assert protocol.span(fuse_request(Opcode.READ, 1, body)) == Span(2**40, 4096)


@given(st.binary(max_size=64))
def test_any_bytes_are_taken_apart_or_refused(body: bytes) -> None:
    """Whatever a request holds, it is understood or MalformedError."""
    message = fuse_request(Opcode.BATCH_FORGET, 1, body)
    for take in (
        protocol.name,
        protocol.span,
        protocol.open_flags,
        protocol.xattr_size,
        protocol.xattr_name,
        protocol.interrupted,
        protocol.init,
        lambda m: list(protocol.forgotten(Opcode.FORGET, 1, m)),
        lambda m: list(protocol.forgotten(Opcode.BATCH_FORGET, 1, m)),
    ):
        try:
            take(message)
        except MalformedError:
            continue


def test_forgotten_inodes_are_those_of_the_request() -> None:
    """FORGET is about its own inode, BATCH_FORGET about those it counts."""
    one = fuse_request(Opcode.FORGET, 5, struct.pack("=Q", 3))
    assert list(protocol.forgotten(Opcode.FORGET, 5, one)) == [(5, 3)]
    batch = struct.pack("=II", 2, 0) + struct.pack("=QQQQ", 7, 1, 8, 2)
    many = fuse_request(Opcode.BATCH_FORGET, 0, batch)
    assert list(protocol.forgotten(Opcode.BATCH_FORGET, 0, many)) == [(7, 1), (8, 2)]
    lying = fuse_request(Opcode.BATCH_FORGET, 0, struct.pack("=II", 2**32 - 1, 0))
    with pytest.raises(MalformedError):
        list(protocol.forgotten(Opcode.BATCH_FORGET, 0, lying))


def test_features_beyond_the_first_32_are_heard_where_they_are_sent() -> None:
    """A kernel that has more flags than one word says so in the first."""
    plain = struct.pack("=IIII", 7, 31, 0, Feature.ASYNC_READ)
    said = protocol.init(fuse_request(Opcode.INIT, 0, plain))
    assert said == (7, 31, Feature.ASYNC_READ)
    more = struct.pack("=IIIII44x", 7, 40, 0, Feature.INIT_EXT, 1 << 4)
    said = protocol.init(fuse_request(Opcode.INIT, 0, more))
    assert said.features == Feature.INIT_EXT | Feature.DIRECT_IO_ALLOW_MMAP


def test_replies_have_the_sizes_of_the_kernels_structures() -> None:
    """The kernel takes a reply only if it is exactly as long as its structure."""
    assert len(protocol.init_reply(Feature.ASYNC_READ, 1, 2)) == 64
    assert len(protocol.entry_reply(2, 3, OF, 4)) == 128
    assert len(protocol.absent_reply(4)) == 128
    assert len(protocol.attr_reply(2, 3, OF, 4)) == 104
    assert len(protocol.open_reply(Opening.KEEP_CACHE)) == 16
    assert len(protocol.statfs_reply(1, 2, 3, 4)) == 80
    assert len(protocol.xattr_size_reply(1)) == 8
    assert len(protocol.reply_header(16, 0, 1)) == protocol.REPLY_SIZE == 16


def test_an_entry_has_its_attributes() -> None:
    """Times are given to the nanosecond, and blocks are of 512 bytes."""
    fields = struct.unpack("=QQQQIIQQQQQQIIIIIIIIII", protocol.entry_reply(2, 1025, OF, 4))
    assert fields[:6] == (2, 0, 4, 4, 0, 0)
    assert fields[6:] == (2, 1025, 3, 3, 3, 3, 4, 4, 4, 0o100444, 1, 1, 2, 0, 512, 0)


@given(st.binary(min_size=1, max_size=255))
def test_a_line_of_a_listing_is_aligned(name: bytes) -> None:
    """A line is its inode, where the next one is, the kind, and the name, to a multiple of 8 bytes."""
    line = protocol.dirent(5, 6, 8, name)
    assert len(line) % 8 == 0
    assert struct.unpack_from("=QQII", line) == (5, 6, len(name), 8)
    assert line[24 : 24 + len(name)] == name
    assert not any(line[24 + len(name) :])


def test_a_notice_is_as_long_as_it_says() -> None:
    """Notices carry their code in the place of an errno, and no number."""
    notice = protocol.inval_inode_notice(7)
    assert struct.unpack("=IiQQqq", notice) == (len(notice), 2, 0, 7, 0, 0)
