"""A small repository on a store, whose virtual chunks lie on the same store.

It has one row of virtual chunks for each kind of checksum, with the bytes of a real file and of an
object with an odd name, and an array of native chunks.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import icechunk
import numpy as np
import zarr

from tests.mount.repositories import Ref, add_native, add_virtual, create, pattern
from tests.stores.store import Store

REAL_FILE: Final = Path(__file__).parents[1] / "data" / "tos_201501.nc"
ODD_NAME: Final = "an odd name+with %25 & ümlaut.bin"
LENGTH: Final = 5000
VALUES: Final = np.arange(600, dtype="i4").reshape(20, 30)
CONTAINERS: Final[Mapping[str, Any]] = {
    "s3": icechunk.s3_store(region="us-east-1"),
    "gs": icechunk.gcs_store({}),
    "az": icechunk.ObjectStoreConfig.Azure({}),
    "http": icechunk.http_store(),
    "https": icechunk.http_store(),
}


class Sample(NamedTuple):
    """A repository at *url* with sources below *archive*; *chunks* are the bytes of its chunk files."""

    url: str
    archive: str
    folder: str
    chunks: Mapping[str, bytes]


def write(store: Store, endpoint: str, scratch: Path, *, spec: int = 2) -> Sample:
    """Put sources and a repository into a folder of *store*, for readers of *endpoint*."""
    folder = store.folder()
    archive = store.place(f"{folder}/archive", endpoint)
    sources = {REAL_FILE.name: REAL_FILE.read_bytes(), ODD_NAME: pattern(3 * LENGTH)}
    for name, data in sources.items():
        store.put(f"{folder}/archive/{name}", data)
    repository = create(
        scratch / "repo", containers={f"{archive}/": CONTAINERS[store.scheme]}, spec=spec
    )
    session = repository.writable_session("main")
    root = zarr.group(session.store)
    chunks = {}
    for kind in ("etag", "date", "none"):
        refs = []
        for name, data in sources.items():
            key = f"{folder}/archive/{name}"
            checksum = {"etag": store.etag, "date": store.modified}.get(kind, lambda _: None)(key)
            chunks[f"{kind}/c/{len(refs)}"] = data[LENGTH : 2 * LENGTH]
            refs.append(Ref(f"{archive}/{_quoted(name)}", LENGTH, LENGTH, checksum))
        add_virtual(session, root, kind, refs)
    add_native(root, "native", VALUES, (20, 10))
    for i in range(3):
        chunks[f"native/c/0/{i}"] = VALUES[:, 10 * i : 10 * i + 10].tobytes()
    repository.create_tag("v1", session.commit("a sample"))
    store.put_all(scratch / "repo", f"{folder}/repo")
    return Sample(store.place(f"{folder}/repo", endpoint), archive, folder, chunks)


def _quoted(name: str) -> str:
    """Write a name as a location does: percent-encoded where it could be read otherwise."""
    return name.replace("%", "%25").replace(" ", "%20")
