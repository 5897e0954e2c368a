"""Writes down what is true of a repository: `truth.json` and the numbers in `values`."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync


class Entry(NamedTuple):
    """An array of the repository by its path, with its values if somebody else could read them."""

    path: str
    sha256: str
    values: np.ndarray | None


def write(folder: Path, store: Any, entries: Iterable[Entry], digest: Callable[[Any], str]) -> None:
    """Say what is true of each array of *store*; where only zarr-python has read it, it must agree."""
    (folder / "values").mkdir(parents=True)
    truth = {}
    prototype = default_buffer_prototype()
    for number, (path, sha256, known) in enumerate(entries):
        content = sync(store.get(f"{path}/zarr.json", prototype))
        assert content is not None, path
        document = json.loads(content.to_bytes())
        values = np.asarray(
            zarr.open_array(store, path=path, mode="r")[...] if known is None else known
        )
        assert known is not None or digest(values) == sha256, path
        entry = {"sha256": sha256, "shape": list(values.shape), "document": document}
        if values.dtype.kind in "biufc":
            entry |= {"dtype": values.dtype.newbyteorder("=").name, "values": f"{number}.npy"}
            np.save(folder / "values" / f"{number}.npy", values)
        truth[path] = entry
    (folder / "truth.json").write_text(json.dumps(truth, indent=1, sort_keys=True))
