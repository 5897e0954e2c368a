"""What is read: the shapes of the data that `benchmarks.data` builds, and the parts that tasks read.

Nothing here reads or writes. Tasks are read by every contestant in the same way, so that the sums
of what they read can be compared.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np

SEED: Final = 20261121


@dataclass(frozen=True, kw_only=True)
class Workload:
    """An array `a` of *grid* times *chunk* elements, whose source bytes lie in *files* objects."""

    name: str
    about: str
    dtype: str
    grid: tuple[int, ...]
    chunk: tuple[int, ...]
    files: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return tuple(g * c for g, c in zip(self.grid, self.chunk, strict=True))

    @property
    def chunks(self) -> int:
        """How many chunks it has."""
        return int(np.prod(self.grid))


SMALL: Final = Workload(
    name="small",
    about="4100 chunks of 20 to 60 KB (zstd) in 4 files",
    dtype="<i2",
    grid=(410, 1, 10),
    chunk=(1, 128, 256),
    files=4,
)
BIG: Final = {
    f"big{mib}": Workload(
        name=f"big{mib}",
        about=f"{count} chunks of {mib} MiB, raw, in 4 files",
        dtype="<f4",
        grid=(count, 1, 1),
        chunk=(1, 256 * mib, 1024),
        files=4,
    )
    for mib, count in ((4, 128), (8, 64), (16, 64))
}
SHARDS: Final = Workload(
    name="shards",
    about="8 shards of 512 inner chunks of 20 to 60 KB (zstd), an object each",
    dtype="<i2",
    grid=(8 * 64, 1, 8),
    chunk=(1, 128, 256),
    files=8,
)
SHARD: Final = (64, 128, 8 * 256)
"""The shape of one shard."""

ARRAYS: Final = {w.name: w for w in (SMALL, *BIG.values(), SHARDS)}

OISST_DAYS: Final = 31
OISST_NAMES: Final = ("sst", "anom", "err", "ice")
OISST_SHAPE: Final = (1, 1, 720, 1440)
OISST_PIXEL: Final = {"zlev": 0, "lat": 300, "lon": 700}

META: Final[dict[str, tuple[int, ...]]] = {
    "meta1m": (25, 1000, 40),
    "meta10m": (250, 1000, 40),
    "meta1ms": (25, 1000, 40),
    "meta10ms": (250, 1000, 40),
    "flat10m": (10_000_000,),
}
"""Chunk grids of the array `v`: a million and ten million refs; `s` is for split manifests, `flat`
for a single directory."""
META_FILES: Final = 250
META_LENGTH: Final = 40_000
META_SPLIT: Final = {"meta1ms": 1, "meta10ms": 5}
"""How many steps of the first axis share a manifest."""

STRIDED: Final = 400
RANDOM: Final = 400

NAMES: Final = ("oisst", *ARRAYS, *META)


def random_chunks(workload: Workload) -> np.ndarray[Any, Any]:
    """Choose `RANDOM` different chunks; returns their coordinates, one row each, in no order."""
    chosen = np.random.default_rng(SEED).choice(workload.chunks, RANDOM, replace=False)
    return np.stack(np.unravel_index(chosen, workload.grid), axis=1)
