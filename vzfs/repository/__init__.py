"""Repositories: a ref becomes a snapshot, and manifests load when first needed, once each."""

from vzfs.repository.arrayrefs import ArrayRefs
from vzfs.repository.compiled import Compiled
from vzfs.repository.opening import Opening
from vzfs.repository.refs import Refs
from vzfs.repository.repository import (
    Checkout,
    Repository,
    check_out,
)
from vzfs.repository.timeline import Timeline

__all__ = [
    "ArrayRefs",
    "Checkout",
    "Compiled",
    "Opening",
    "Refs",
    "Repository",
    "Timeline",
    "check_out",
]
