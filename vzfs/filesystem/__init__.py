"""What FUSE asks, answered without FUSE: hierarchies that come and go, and the names that lead to them."""

from vzfs.filesystem.filesystem import FOREVER, IDLE, Filesystem
from vzfs.filesystem.known import RETRY_AFTER
from vzfs.hierarchy import CACHED, MAX_NAME, Attrs, NotLoaded, Reading, Run, settle

__all__ = [
    "CACHED",
    "FOREVER",
    "IDLE",
    "MAX_NAME",
    "RETRY_AFTER",
    "Attrs",
    "Filesystem",
    "NotLoaded",
    "Reading",
    "Run",
    "settle",
]
