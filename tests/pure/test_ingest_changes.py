"""What an ingest writes: containers no broader than needed, and only what a branch does not have."""

import datetime
from typing import Any

import numpy as np
import pytest

from tests.pure.joins import DEFLATED, Files
from vzfs.errors import AccessDenied
from vzfs.ingest.changes import changes_for, collisions
from vzfs.ingest.containers import containers_for
from vzfs.ingest.writing import said_checksum
from vzfs.joining import JoinError, join
from vzfs.model.location import ETag, LastModified
from vzfs.model.manifest import ChunkKind


@pytest.mark.parametrize(
    ("locations", "declared", "containers"),
    [
        (["s3://b/sst/1.nc", "s3://b/sst/2.nc"], [], ["s3://b/sst/"]),
        (["s3://b/sst/2026/1.nc", "s3://b/sst/2027/2.nc"], [], ["s3://b/sst/"]),
        (["s3://b/x/1.nc", "s3://b/y/z/2.nc"], [], ["s3://b/x/", "s3://b/y/z/"]),
        (["s3://b/1.nc", "s3://b/y/2.nc"], [], ["s3://b/"]),
        (["file:///d/a/1.nc", "file:///e/1.nc"], [], ["file:///d/a/", "file:///e/"]),
        (["s3://b/sst/1.nc", "s3://c/1.nc"], [], ["s3://b/sst/", "s3://c/"]),
        (["s3://b/sst/1.nc", "s3://b/ice/2.nc"], ["s3://b/sst"], ["s3://b/ice/"]),
        (["s3://b/sst/1.nc"], ["nonsense", "s3://b/"], []),
        (["file:///d/odd%20names/%231.nc"], [], ["file:///d/odd%20names/"]),
        ([], [], []),
    ],
)
def test_containers(locations: list[str], declared: list[str], containers: list[str]) -> None:
    """Files of a bucket or disk have the folder that they share, those that share none each their own, and what is declared suffices."""
    assert [str(prefix) for prefix in containers_for(locations, declared)] == containers


def test_the_root_of_a_disk_is_no_container() -> None:
    """Files right below the root would need a container for all files of the machine, which is refused."""
    with pytest.raises(AccessDenied, match="right below the root"):
        containers_for(["file:///1.nc"])


def day(number: int, *, rows: int = 1) -> dict[str, dict[str, Any]]:
    values = np.full((rows, 2, 3), number)
    return {
        "/sst": {"values": values, "dims": ["time", "y", "x"], "chunks": [1, 2, 3], "codecs": DEFLATED},
        "/time": {"values": np.arange(number, number + rows), "dims": ["time"], "chunks": [1]},
        "/lat": {"values": [1, 2], "dims": ["y"]},
    }  # fmt: skip


async def test_only_what_is_new_is_written() -> None:
    """What is appended writes the refs behind the old ones, and documents of arrays that are longer; nothing else."""
    files = Files()
    old = files.file("s3://b/old/0", day(0, rows=3))[1]
    new = files.file("s3://b/new/9", day(9))
    joined = await join([("repository", old), new], "time", files.read, is_append=True)
    changes = changes_for(joined.references, old, ["s3://b/old/"])
    assert dict(changes.groups) == {}
    assert [(c.path, c.is_new, c.is_replaced, len(c.rows)) for c in changes.arrays] == [
        ("/sst", False, False, 1),
        ("/time", False, False, 1),
    ]
    sst = changes.arrays[0]
    assert sst.manifest.ref(int(sst.rows[0])).location == "s3://b/new/9"
    assert [str(prefix) for prefix in changes.containers] == ["s3://b/new/"]
    assert changes.chunks == {ChunkKind.INLINE: 0, ChunkKind.NATIVE: 0, ChunkKind.VIRTUAL: 2}
    assert collisions(joined.references, old) == ["/lat", "/sst", "/time"]
    assert [c.is_new for c in changes_for(old).arrays] == [True, True, True]


async def test_what_is_there_has_to_grow() -> None:
    """An array of the branch that a new file cannot give would stay behind the others, so nothing is appended."""
    files = Files()
    old = files.file("repository", day(0, rows=3))[1]
    part = files.file("s3://b/9", day(9), lambda builder: builder.drop("/sst", "it is szip"))
    with pytest.raises(JoinError, match="/sst cannot be appended to: it is szip"):
        await join([("repository", old), part], "time", files.read, is_append=True)


@pytest.mark.parametrize(
    ("checksum", "location", "said"),
    [
        (ETag('"abc"'), "s3://b/1", '"abc"'),
        (ETag("21c19b-60a24181e4000-10"), "s3://b/1", "21c19b-60a24181e4000-10"),
        (ETag("21c19b-60a24181e4000-10"), "file:///1", 1_700_000_000),
        (ETag("21c19b-60a24181e4001-10"), "file:///1", 1_700_000_001),
        (ETag("of another making"), "file:///1", "of another making"),
        (LastModified(5), "s3://b/1", 5),
        (None, "s3://b/1", None),
    ],
)
def test_versions_as_the_library_can_tell_them(
    checksum: ETag | LastModified | None, location: str, said: object
) -> None:
    """Tags and dates are said as they are; for a local file, whose tag the library cannot compare, the date in it."""
    found = said_checksum(checksum, location)
    assert (found.timestamp() if isinstance(found, datetime.datetime) else found) == said
