"""Configuration: one frozen value from files, environment and flags, in that order of weight.

`files` reads what stands in files, each by itself; `rules` makes of all of them, and of the flags,
the buckets and access policies that count, within what the administrator allows; `loading` adds the
rest. `values` parses what people write, and `editing` changes a file in place.
"""

from vzfs.config.loading import (
    DEFAULT_CACHE_SIZE,
    DEFAULT_DEADLINE,
    DEFAULT_MEMORY,
    DEFAULT_VIEW,
    DEFAULT_ZARR_FORMAT,
    Config,
    Flags,
    load,
    load_cache,
    parse_source,
)
from vzfs.config.sources import SUPPORTED, parse_sources
from vzfs.config.values import (
    DEFAULT_FOLLOW,
    VIEW_NAMES,
    ZARR_FORMATS,
    Egress,
    ViewName,
    ZarrFormat,
    parse_egress,
    parse_size,
    parse_time,
)
from vzfs.errors import ConfigError

__all__ = [
    "DEFAULT_CACHE_SIZE",
    "DEFAULT_DEADLINE",
    "DEFAULT_FOLLOW",
    "DEFAULT_MEMORY",
    "DEFAULT_VIEW",
    "DEFAULT_ZARR_FORMAT",
    "SUPPORTED",
    "VIEW_NAMES",
    "ZARR_FORMATS",
    "Config",
    "ConfigError",
    "Egress",
    "Flags",
    "ViewName",
    "ZarrFormat",
    "load",
    "load_cache",
    "parse_egress",
    "parse_size",
    "parse_source",
    "parse_sources",
    "parse_time",
]
