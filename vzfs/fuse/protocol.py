"""The kernel's side of FUSE as bytes: requests are taken apart and replies put together. Pure.

What the structures are is in the kernel's `include/uapi/linux/fuse.h`; they are in the byte order
of the machine. A request that is shorter than its structure, or that has a name which is none,
raises `MalformedError`; the kernel sends none, but nothing here trusts it.
"""

import enum
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

MAJOR: Final = 7
MINOR: Final = 31
"""The version of the protocol that is spoken: Linux 5.2 and later know it."""
ROOT: Final = 1
"""The inode number of the root directory."""
MIN_BUFFER: Final = 8192
"""Bytes that the kernel wants a buffer for requests to have."""
MAX_WRITE: Final = 4096
"""Bytes of a request to write, the smallest that the kernel accepts: there are none. Every request
fits into `MIN_BUFFER`."""
MAX_PAGES: Final = 256
"""Pages that a read may ask for: 1 MiB."""


class Opcode(enum.IntEnum):
    """What a request asks."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    IOCTL = 39
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    COPY_FILE_RANGE = 47
    TMPFILE = 51


class Feature(enum.IntFlag):
    """What kernel and file system agree upon at the beginning."""

    ASYNC_READ = 1 << 0
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    PARALLEL_DIROPS = 1 << 18
    MAX_PAGES = 1 << 22
    INIT_EXT = 1 << 30
    DIRECT_IO_ALLOW_MMAP = 1 << 36


class Opening(enum.IntFlag):
    """How an open file or directory is read."""

    DIRECT_IO = 1 << 0
    KEEP_CACHE = 1 << 1
    CACHE_DIR = 1 << 3


class Notice(enum.IntEnum):
    """What the file system tells the kernel unasked."""

    INVAL_INODE = 2
    INVAL_ENTRY = 3


class MalformedError(Exception):
    """A request is not what the protocol says."""


# -- requests ----------------------------------------------------------------------------------

_HEADER: Final = struct.Struct("=IIQQIIIHH")
HEADER_SIZE: Final = _HEADER.size
_INIT: Final = struct.Struct("=IIII")
_FLAGS: Final = struct.Struct("=I")
_READ: Final = struct.Struct("=QQI")
_GETXATTR: Final = struct.Struct("=II")
_UNIQUE: Final = struct.Struct("=Q")
_COUNT: Final = struct.Struct("=II")
_FORGET_ONE: Final = struct.Struct("=QQ")


class Header(NamedTuple):
    """The beginning of every request. *thread* is who waits for the answer, 0 if it is out of sight."""

    length: int
    opcode: int
    unique: int
    inode: int
    uid: int
    gid: int
    thread: int
    extensions: int
    padding: int


def header(message: bytes) -> Header:
    """Return the header of a request, which is as long as it says. Raises MalformedError."""
    if len(message) < HEADER_SIZE:
        raise MalformedError(f"a request of {len(message)} bytes")
    found = Header._make(_HEADER.unpack_from(message))
    if found.length != len(message):
        raise MalformedError(f"a request of {len(message)} bytes that says {found.length}")
    return found


def _fields(form: struct.Struct, message: bytes) -> tuple[int, ...]:
    try:
        return form.unpack_from(message, HEADER_SIZE)
    except struct.error as error:
        raise MalformedError(str(error)) from None


def name(message: bytes, skip: int = 0) -> bytes:
    """Return the name that makes up a request behind *skip* bytes of other fields."""
    start = HEADER_SIZE + skip
    if len(message) < start + 2 or message.find(0, start) != len(message) - 1:
        raise MalformedError("a name that is empty or does not end where its request does")
    return message[start:-1]


def open_flags(message: bytes) -> int:
    """Return the flags of open(2) of an OPEN or OPENDIR."""
    return _fields(_FLAGS, message)[0]


class Span(NamedTuple):
    """What READ, READDIR and READDIRPLUS ask for: at most *size* bytes from *offset* on."""

    offset: int
    size: int


def span(message: bytes) -> Span:
    """Return what a READ or READDIR asks for."""
    _, offset, size = _fields(_READ, message)
    return Span(offset, size)


def xattr_size(message: bytes) -> int:
    """Return the bytes that the answer to GETXATTR or LISTXATTR may have, 0 where its size is asked for."""
    return _fields(_GETXATTR, message)[0]


def xattr_name(message: bytes) -> bytes:
    """Return the attribute that a GETXATTR asks for."""
    return name(message, _GETXATTR.size)


def interrupted(message: bytes) -> int:
    """Return the number of the request that an INTERRUPT is about."""
    return _fields(_UNIQUE, message)[0]


def forgotten(opcode: int, inode: int, message: bytes) -> Iterator[tuple[int, int]]:
    """Yield the inodes that a FORGET or BATCH_FORGET is about, and how often each was given that is given back."""
    if opcode == Opcode.FORGET:
        yield inode, _fields(_UNIQUE, message)[0]
        return
    count = _fields(_COUNT, message)[0]
    start = HEADER_SIZE + _COUNT.size
    if len(message) < start + count * _FORGET_ONE.size:
        raise MalformedError(f"{count} inodes in {len(message)} bytes")
    yield from _FORGET_ONE.iter_unpack(message[start : start + count * _FORGET_ONE.size])


class Init(NamedTuple):
    """What the kernel says first: its version of the protocol and what it can."""

    major: int
    minor: int
    features: Feature


def init(message: bytes) -> Init:
    """Return what an INIT says."""
    major, minor, _, features = _fields(_INIT, message)
    start = HEADER_SIZE + _INIT.size
    if features & Feature.INIT_EXT and len(message) >= start + _FLAGS.size:
        features |= _FLAGS.unpack_from(message, start)[0] << 32
    return Init(major, minor, Feature(features))


# -- replies -----------------------------------------------------------------------------------

_REPLY: Final = struct.Struct("=IiQ")
_INIT_REPLY: Final = struct.Struct("=IIIIHHIIHHI28x")
_ATTR: Final = "QQQQQQIIIIIIIIII"
_ENTRY_REPLY: Final = struct.Struct("=QQQQII" + _ATTR)
_ATTR_REPLY: Final = struct.Struct("=QII" + _ATTR)
_OPEN_REPLY: Final = struct.Struct("=QII")
_STATFS_REPLY: Final = struct.Struct("=QQQQQIIII24x")
_XATTR_SIZE: Final = struct.Struct("=II")
_DIRENT: Final = struct.Struct("=QQII")
_INVAL_INODE: Final = struct.Struct("=Qqq")
_INVAL_ENTRY: Final = struct.Struct("=QII")
REPLY_SIZE: Final = _REPLY.size
DIRENT_SIZE: Final = _DIRENT.size
ENTRY_SIZE: Final = _ENTRY_REPLY.size
NAME_ONLY: Final = bytes(ENTRY_SIZE)
"""What stands before a line of READDIRPLUS that has no attributes."""
UNKNOWN_INODE: Final = 0xFFFF_FFFF
"""The number in a line of READDIR whose own is not known."""

reply_header: Final = _REPLY.pack
"""The beginning of a reply: its length as a whole, a negated errno or 0, and the request's number."""


def init_reply(features: Feature, max_readahead: int, max_background: int) -> bytes:
    """Answer INIT. As long as *max_background* reads wait, the kernel lets further ones begin."""
    return _INIT_REPLY.pack(
        MAJOR,
        MINOR,
        max_readahead,
        features & 0xFFFF_FFFF,
        max_background,
        max_background,
        MAX_WRITE,
        1,
        MAX_PAGES,
        0,
        features >> 32,
    )


class Attributes(NamedTuple):
    """What every file of one kind has in common, as the kernel wants it: *time* is in ns."""

    mode: int
    uid: int
    gid: int
    time: int
    block_size: int


def _attributes(inode: int, size: int, of: Attributes) -> tuple[int, ...]:
    seconds, rest = divmod(of.time, 10**9)
    blocks = -(-size // 512)
    times = (seconds & 0xFFFF_FFFF_FFFF_FFFF,) * 3 + (rest,) * 3
    return (inode, size, blocks, *times, of.mode, 1, of.uid, of.gid, 0, of.block_size, 0)


def entry_reply(inode: int, size: int, of: Attributes, valid: int) -> bytes:
    """Answer LOOKUP: the name is *inode*, and may be kept with its attributes for *valid* seconds."""
    return _ENTRY_REPLY.pack(inode, 0, valid, valid, 0, 0, *_attributes(inode, size, of))


def absent_reply(valid: int) -> bytes:
    """Answer LOOKUP: there is no such name, which may be kept for *valid* seconds."""
    return _ENTRY_REPLY.pack(0, 0, valid, *[0] * (3 + 16))


def attr_reply(inode: int, size: int, of: Attributes, valid: int) -> bytes:
    """Answer GETATTR."""
    return _ATTR_REPLY.pack(valid, 0, 0, *_attributes(inode, size, of))


def open_reply(opening: Opening) -> bytes:
    """Answer OPEN or OPENDIR. A handle needs no number: every request names its inode."""
    return _OPEN_REPLY.pack(0, opening, 0)


def statfs_reply(blocks: int, files: int, block_size: int, name_max: int) -> bytes:
    """Answer STATFS: nothing is free."""
    return _STATFS_REPLY.pack(blocks, 0, 0, files, 0, block_size, name_max, block_size, 0)


def xattr_size_reply(size: int) -> bytes:
    """Answer GETXATTR or LISTXATTR where only the size is asked for."""
    return _XATTR_SIZE.pack(size, 0)


def dirent(inode: int, position: int, kind: int, name: bytes) -> bytes:
    """Return one line of READDIR; *kind* is that of `d_type`, and *position* where the next line is."""
    padding = -len(name) % 8
    return _DIRENT.pack(inode, position, len(name), kind) + name + bytes(padding)


def inval_inode_notice(inode: int) -> bytes:
    """Have the kernel drop what it keeps of an inode: attributes and all pages."""
    size = REPLY_SIZE + _INVAL_INODE.size
    return _REPLY.pack(size, Notice.INVAL_INODE, 0) + _INVAL_INODE.pack(inode, 0, 0)


def inval_entry_notice(parent: int, name: bytes) -> bytes:
    """Have the kernel forget a name in a directory, and what is below it as far as nobody uses that."""
    size = REPLY_SIZE + _INVAL_ENTRY.size + len(name) + 1
    fields = _INVAL_ENTRY.pack(parent, len(name), 0)
    return _REPLY.pack(size, Notice.INVAL_ENTRY, 0) + fields + name + b"\0"
