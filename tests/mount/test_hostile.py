"""Repositories written to do harm: absurd refs, odd locations and names that lead elsewhere."""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import icechunk
import numpy as np
import pytest
import zarr

from tests.mount.conftest import Mount, MountFailedError
from tests.mount.outcomes import errno_of, read, walk
from tests.mount.repositories import add_native, create, open_for_writing, patch_payload, pattern

DATA = pattern(4000)
MAX_MEMORY = 400 * 2**20
"""Bytes that a daemon may have held at most: its caches of 256 MiB, and itself."""


class Hostile:
    """Writes refs that no honest writer writes, next to the good array `good`."""

    def __init__(self, folder: Path) -> None:
        self.archive = folder / "archive"
        self.archive.mkdir()
        self.source = self.archive / "source"
        self.source.write_bytes(DATA)
        self.url = self.source.as_uri()
        self.prefix = f"{self.archive.as_uri()}/"
        self.path = folder / "repository"
        repository = create(self.path, containers=[self.prefix])
        session = repository.writable_session("main")
        add_native(zarr.group(session.store), "good", np.arange(1, 11, dtype="u1"), (5,))
        session.commit("good")

    def write(self, *refs: tuple[str, int, int]) -> None:
        """Add the array `bad`, whose chunks are *refs*: location, offset, length."""
        session = open_for_writing(self.path).writable_session("main")
        root = zarr.open_group(session.store, mode="a")
        shape = (10 * len(refs),)
        root.create_array("bad", shape=shape, chunks=(10,), dtype="u1", compressors=None)
        specs = [icechunk.VirtualChunkSpec([n], *ref) for n, ref in enumerate(refs)]
        session.store.set_virtual_refs("/bad", specs, validate_containers=False)
        session.commit("bad")


@pytest.fixture(name="hostile")
def _hostile(tmp_path: Path) -> Hostile:
    return Hostile(tmp_path)


def good_is_readable(mounted: Mount) -> bool:
    return read(mounted.path / "good/c/1") == bytes([6, 7, 8, 9, 10])


def peak_memory(mounted: Mount) -> int:
    """Return the most bytes of memory that the daemon has held."""
    status = Path(f"/proc/{mounted.pid}/status").read_text()
    (kib,) = re.findall(r"VmHWM:\s+(\d+) kB", status)
    return int(kib) * 1024


def test_absurd_lengths_and_offsets_fail_at_once_in_bounded_memory(
    hostile: Hostile, mount: Callable[..., Mount]
) -> None:
    """Refs of exabytes, or behind the end of any object, are listed with their length and give EIO without allocating it."""
    url = hostile.url
    hostile.write(
        (url, 0, 2**62), (url, 2**62, 10), (url, 0, 2**40), (url, 3995, 10), (url, 0, 4001)
    )
    mounted = mount(hostile.path, "--allow", str(hostile.archive))
    mounted.expect_log("ends")
    chunks = [mounted.path / "bad/c" / str(n) for n in range(5)]
    assert [chunk.stat().st_size for chunk in chunks] == [2**62, 10, 2**40, 10, 4001]
    began = time.monotonic()
    assert [read(chunk, 0, 10) for chunk in chunks] == ["EIO"] * 5
    assert [read(chunk, max(chunk.stat().st_size - 10, 0), 10) for chunk in chunks] == ["EIO"] * 5
    assert time.monotonic() - began < 10
    assert peak_memory(mounted) < MAX_MEMORY
    assert good_is_readable(mounted)


@pytest.mark.parametrize("ref", [(2**63, 10), (2**64 - 1, 10), (0, 2**64 - 1), (2**63 - 5, 10)])
def test_refs_beyond_what_an_offset_can_be_fail(
    ref: tuple[int, int], hostile: Hostile, mount: Callable[..., Mount]
) -> None:
    """Offsets and lengths that overflow a signed 64-bit integer give EIO, never a negative or wrapped range."""
    hostile.write((hostile.url, *ref), (hostile.url, 0, 10))
    mounted = mount(hostile.path, "--allow", str(hostile.archive))
    mounted.expect_log("beyond|manifest")
    assert (mounted.path / "bad/c/0").stat().st_size >= 1
    assert read(mounted.path / "bad/c/0", 0, 10) == "EIO"
    assert read(mounted.path / "bad/c/1") in {DATA[:10], "EIO"}
    assert good_is_readable(mounted)


REFUSED_LOCATIONS = {
    "control character": "{prefix}new%0Aline",
    "nul": "{prefix}nul%00byte",
    "query": "{url}?versionId=1",
    "fragment": "{url}#part",
    "credentials": "http://user:secret@127.0.0.1:1/x",
}


def test_locations_with_two_readings_are_refused_and_said_so_each(
    hostile: Hostile, mount: Callable[..., Mount]
) -> None:
    """A query, a fragment, credentials, a NUL or a control character gives EACCES, and each reason has its line in the log."""
    texts = [t.format(prefix=hostile.prefix, url=hostile.url) for t in REFUSED_LOCATIONS.values()]
    hostile.write(*((text, 0, 10) for text in texts))
    (hostile.archive / "new\nline").write_bytes(DATA)
    mounted = mount(hostile.path, "--allow", str(hostile.archive))
    mounted.expect_log("the location is refused")
    for n, reason in enumerate(REFUSED_LOCATIONS):
        before = len(mounted.warnings())
        assert read(mounted.path / "bad/c" / str(n)) == "EACCES", reason
        added = mounted.warnings()[before:]
        if reason != "fragment":
            # A query and a fragment are one reason.
            assert len(added) == 1, reason
    assert "secret" not in mounted.log_file.read_text()
    assert all(re.match(r"\d{4}-\d\d-\d\d ", line) for line in mounted.log())


def test_the_ways_to_write_a_local_location_are_one(
    hostile: Hostile, mount: Callable[..., Mount]
) -> None:
    """`file:///x`, `FILE:///x`, `file://localhost/x` and percent-encoded spellings name the same file."""
    path = hostile.url.removeprefix("file://")
    encoded = "".join(f"%{ord(c):02x}" if c.isalpha() else c for c in path)
    hostile.write(
        *(
            (text, 0, 10)
            for text in (f"FILE://{path}", f"file://localhost{path}", f"file://{encoded}")
        )
    )
    mounted = mount(hostile.path, "--allow", str(hostile.archive))
    for n in range(3):
        assert read(mounted.path / "bad/c" / str(n)) == DATA[:10], n


def test_a_location_of_another_host_is_no_local_file(
    hostile: Hostile, mount: Callable[..., Mount]
) -> None:
    """`file://host/path` names no file of this machine."""
    path = hostile.url.removeprefix("file://")
    hostile.write((f"file://elsewhere{path}", 0, 10))
    mounted = mount(hostile.path, "--allow", str(hostile.archive))
    assert read(mounted.path / "bad/c/0") == "EACCES"
    mounted.expect_log("refused")


def test_names_too_long_for_the_system_are_vanished_not_absent(
    hostile: Hostile, mount: Callable[..., Mount]
) -> None:
    """A location whose file name Linux cannot have gives ESTALE: the chunk is in the snapshot, its source is not there."""
    hostile.write((hostile.prefix + "x" * 4000, 0, 10), (hostile.prefix + "x/" * 1500 + "x", 0, 10))
    mounted = mount(hostile.path, "--allow", str(hostile.archive))
    for n in (0, 1):
        assert read(mounted.path / "bad/c" / str(n)) == "ESTALE"
    mounted.expect_log("does not exist")


@pytest.mark.parametrize(
    "name", [b"/go/..", b"/../go", b"/go//d", b"/./ood", b"/goo/\0", b"/good/", b"//good"]
)
def test_node_paths_that_lead_elsewhere_are_refused(
    name: bytes, tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """A snapshot with `.`, `..`, empty or NUL components in a node's path is not mounted, exit code 6."""
    path = tmp_path / "repository"
    session = create(path).writable_session("main")
    victim = b"/" + b"g" * (len(name) - 1)
    add_native(zarr.group(session.store), victim[1:].decode(), np.arange(10), (5,))
    tip = session.commit("nodes")
    patch_payload(path / "snapshots" / tip, text=(victim, name))
    with pytest.raises(MountFailedError) as caught:
        mount(path)
    assert caught.value.args[0]["exit"] == 6
    assert "\n" not in caught.value.args[0]["error"]


def test_a_name_with_control_characters_cannot_forge_a_log_line(
    tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """A node named with a newline and a forged date is shown under its name, and its troubles are one line."""
    path = tmp_path / "repository"
    repository = create(path)
    session = repository.writable_session("main")
    name = "x\n2026-01-01 00:00:00,000 ERROR vzfs: forged"
    add_native(zarr.group(session.store), name, np.arange(1, 11, dtype="u1"), (5,))
    session.commit("forged")
    for chunk in (path / "chunks").iterdir():
        chunk.unlink()
    mounted = mount(path)
    assert name in walk(mounted.path)
    assert read(mounted.path / name / "c/0") in {"EIO", "ESTALE"}
    mounted.expect_log("does not exist")
    lines = [li for li in mounted.log() if re.match(r"[-\d]+ [:,\d]+ (WARNING|ERROR) ", li)]
    assert len(lines) == 1
    assert not any(line.startswith("2026-01-01 00:00:00,000") for line in mounted.log())


def test_a_huge_grid_with_few_chunks_is_walked_at_once(
    tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """An array of 10^18 possible chunks, of which three exist, costs what three cost."""
    path = tmp_path / "repository"
    session = create(path).writable_session("main")
    array = zarr.group(session.store).create_array(
        "huge", shape=(10**9, 10**9), chunks=(1, 1), dtype="u1", compressors=None
    )
    for place in ((0, 0), (123456789, 5), (10**9 - 1, 10**9 - 1)):
        array[place] = 7
    session.commit("huge")
    began = time.monotonic()
    mounted = mount(path)
    found = [name for name in walk(mounted.path) if (mounted.path / name).is_file()]
    assert found == [
        "huge/c/0/0",
        "huge/c/123456789/5",
        "huge/c/999999999/999999999",
        "huge/zarr.json",
        "zarr.json",
    ]
    for name in found[:3]:
        assert read(mounted.path / name) == bytes([7])
    assert errno_of(os.stat, mounted.path / "huge/c/0/1") == "ENOENT"
    assert errno_of(os.stat, mounted.path / "huge/c/1") == "ENOENT"
    assert errno_of(os.stat, mounted.path / "huge/c/1000000000") == "ENOENT"
    assert time.monotonic() - began < 10
