"""What the library of a file's own format reads of it, in a process of its own.

Started with the path of a job (JSON: a list of items with `number`, `kind`, `file`, `path`, `region`,
`offset` and `length`), it writes beside it, for each item in turn, NUMBER.npy with plain numbers, or
NUMBER.txt with the reason why there are none. It has limits of memory and time, for what it reads is
hostile, and may die of it; whoever started it goes on behind the item of which it died.
"""

import json
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

MEMORY: Final = 4 * 2**30
"""Bytes of address space."""
SECONDS: Final = 120
"""How long it may take for one item."""

type Item = Mapping[str, Any]
type Reader = Callable[[str, Item], np.ndarray[Any, Any]]


class UncheckedError(Exception):
    """Why an item cannot be read like that."""


def main() -> None:
    """Do the job that the only argument names."""
    job = Path(sys.argv[1])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    for item in json.loads(job.read_text()):
        signal.alarm(SECONDS)
        made = job.parent / f"{item['number']}"
        try:
            values = _READERS[item["kind"]](item["file"], item)
            np.save(made.with_suffix(".npy"), values, allow_pickle=False)
        except UncheckedError as why:
            made.with_suffix(".txt").write_text(str(why))
        except ModuleNotFoundError as missing:
            made.with_suffix(".txt").write_text(f"{missing.name} is not installed")
        except Exception as error:  # noqa: BLE001 -- libraries raise whatever they like
            said = " ".join(str(error).split())[:200] or type(error).__name__
            made.with_suffix(".txt").write_text(f"its library cannot read it: {said}")


def _region(item: Item) -> tuple[slice, ...]:
    return tuple(slice(begin, end) for begin, end in item["region"])


def _hdf5(path: str, item: Item) -> np.ndarray[Any, Any]:
    import h5py  # type: ignore[import-untyped]  # as below: it has no types

    with h5py.File(path, "r", locking=False) as file:
        found = file.get(item["path"])
        if not isinstance(found, h5py.Dataset):
            raise UncheckedError("the file calls it otherwise")
        return _plain(found[_region(item)])


def _netcdf(path: str, item: Item) -> np.ndarray[Any, Any]:
    import netCDF4

    with netCDF4.Dataset(path) as file:
        file.set_auto_maskandscale(False)
        file.set_auto_chartostring(False)
        try:
            found = file[item["path"].lstrip("/")]
        except (KeyError, IndexError):
            raise UncheckedError("the file calls it otherwise") from None
        return _plain(found[_region(item)])


def _grib(path: str, item: Item) -> np.ndarray[Any, Any]:
    import eccodes  # type: ignore[import-untyped]

    with Path(path).open("rb") as file:
        file.seek(item["offset"])
        message = file.read(item["length"])
    if not message.startswith(b"GRIB"):
        raise UncheckedError("it is no message")
    handle = eccodes.codes_new_from_message(message)
    try:
        values = eccodes.codes_get_values(handle).astype("f8")
        if eccodes.codes_get(handle, "bitmapPresent"):
            missing = eccodes.codes_get_double(handle, "missingValue")
            values[values == missing] = np.nan
    finally:
        eccodes.codes_release(handle)
    return np.asarray(values)


def _tiff(path: str, item: Item) -> np.ndarray[Any, Any]:
    import tifffile

    with tifffile.TiffFile(path) as file:
        for page in _pages(file.pages):
            offsets = getattr(page, "dataoffsets", ())
            if item["offset"] not in offsets:
                continue
            number = offsets.index(item["offset"])
            file.filehandle.seek(item["offset"])
            data = file.filehandle.read(page.databytecounts[number])
            segment, _, shape = page.decode(data, number, jpegtables=page.jpegtables)
            if segment is None:
                raise UncheckedError("it is not there")
            return np.asarray(segment)[tuple(slice(n) for n in shape)]
    raise UncheckedError("no strip or tile begins there")


def _pages(pages: Any) -> Any:  # noqa: ANN401 -- tifffile has no types
    for page in pages:
        yield page
        if getattr(page, "pages", None):
            yield from _pages(page.pages)


def _plain(values: Any) -> np.ndarray[Any, Any]:  # noqa: ANN401 -- whatever a library gives
    array = np.asarray(values)
    if array.dtype.hasobject:
        raise UncheckedError("its elements have no fixed size")
    return array


_READERS: Final[Mapping[str, Reader]] = {
    "hdf5": _hdf5,
    "netcdf3": _netcdf,
    "grib": _grib,
    "tiff": _tiff,
}

KINDS: Final = frozenset(_READERS)
"""The kinds of files that can be read here."""

if __name__ == "__main__":
    main()
