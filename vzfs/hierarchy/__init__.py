"""Hierarchies: one snapshot in one view each, as the file system shows it."""

from vzfs.hierarchy.entries import (
    MAX_NAME,
    Attrs,
    Child,
    NotLoaded,
    Run,
    Totals,
    check_length,
    nbytes_of,
    settle,
)
from vzfs.hierarchy.hierarchy import MAX_COMPANION, Hierarchy, Reading
from vzfs.hierarchy.provenance import CACHED, XATTR_PREFIX, no_attribute

__all__ = [
    "CACHED",
    "MAX_COMPANION",
    "MAX_NAME",
    "XATTR_PREFIX",
    "Attrs",
    "Child",
    "Hierarchy",
    "NotLoaded",
    "Reading",
    "Run",
    "Totals",
    "check_length",
    "nbytes_of",
    "no_attribute",
    "settle",
]
