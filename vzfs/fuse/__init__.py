"""FUSE: the kernel's requests become calls of `Filesystem`, and every outcome becomes a reply.

`protocol` knows the bytes of requests and replies, `session` reads and answers them, `operations`
knows what to answer and has the one errno table, and `mounting` has the descriptor that all goes
through. `mount` puts them together.
"""

from vzfs.fuse.mounting import attach, options, read_further_ahead
from vzfs.fuse.operations import ERRNO, Operations, Ownership
from vzfs.fuse.protocol import ROOT
from vzfs.fuse.session import Session

__all__ = [
    "ERRNO",
    "ROOT",
    "Operations",
    "Ownership",
    "Session",
    "mount",
    "options",
    "read_further_ahead",
]


def mount(operations: Operations, mountpoint: str, chosen: list[str]) -> Session:
    """Mount, and agree with the kernel upon how to talk. Raises MountError where that cannot be."""
    session = Session(attach(mountpoint, chosen), operations, mountpoint)
    try:
        session.agree()
    except BaseException:
        session.close()
        raise
    return session
