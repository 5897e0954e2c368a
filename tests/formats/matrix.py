"""What a mount shows of each real file, beside what is known to be in it.

Each array is equal, or left out by name with a reason, or *wrong* or *silently missing*, of which
there is to be none. Arrays are read as the decoded view shows them, else as the portable one does.
"""

import enum
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import zarr

VIEWS = ("decoded-v3", "portable-v3")
TOLERANCE = 1e-6
"""Of values of GRIB messages, which decoders round in ways of their own."""


class Outcome(enum.StrEnum):
    """What became of an array."""

    EQUAL = "equal"
    LEFT_OUT = "left out"
    AWAY = "not there to be read"
    WRONG = "wrong"
    MISSING = "silently missing"


class Found(NamedTuple):
    """An array of a file: what became of it, and why."""

    file: str
    kind: str
    array: str
    outcome: Outcome
    reason: str = ""


def survey(source: str | Path, *options: str) -> list[dict[str, str]]:
    """Return what `vzfs info` says is left out."""
    words = [sys.executable, "-m", "vzfs", "info", str(source), *options, "--json"]
    result = subprocess.run(words, capture_output=True, text=True, check=True, timeout=300)
    found: list[dict[str, str]] = json.loads(result.stdout)["left_out"]
    return found


class Shown:
    """What a mount shows at and below *group*, and why it shows not more."""

    def __init__(self, mountpoint: Path, group: str, left_out: list[dict[str, str]]) -> None:
        self._views = [mountpoint / ".vzfs" / "view" / view / group for view in VIEWS]
        self._group = f"/{group}".rstrip("/")
        self._left_out = {o["path"]: o["reason"] for o in left_out}

    def why_not(self, array: str) -> str | None:
        """Return why an array, or a group above it, is left out."""
        path = f"{self._group}/{array}"
        while True:
            if path in self._left_out:
                return self._left_out[path]
            if path in {"", "/"}:
                return self._left_out.get("/")
            path = path.rpartition("/")[0]

    def path(self, array: str) -> Path | None:
        """Return where an array is shown best."""
        for view in self._views:
            if (view / array / "zarr.json").exists():
                return view / array
        return None

    def read(self, array: str) -> Any:
        """Return the values of an array. Raises what the reader raises."""
        path = self.path(array)
        assert path is not None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = zarr.open_array(path, mode="r")
            return found[...]

    def arrays(self) -> Iterator[str]:
        """Yield the paths of all arrays, relative to the group."""
        root = self._views[1]
        for document in sorted(root.rglob("zarr.json")):
            if json.loads(document.read_bytes())["node_type"] == "array":
                yield "" if document.parent == root else str(document.parent.relative_to(root))


def compare(file: str, truth: Mapping[str, Any], shown: Shown, digest: Any) -> Iterator[Found]:
    """Compare what is *shown* of a file with what is known of it."""
    kind = file.split("/")[1] if file.startswith("archival") else file.split("/")[0]
    if truth["kind"] == "grib":
        yield from _messages(file, kind, truth, shown)
        return
    for name, known in (truth.get("arrays") or truth.get("ifds") or {}).items():
        yield Found(file, kind, name, *_array(name, known, shown, digest))


def _array(name: str, known: Mapping[str, Any], shown: Shown, digest: Any) -> tuple[Outcome, str]:
    if shown.path(name) is None:
        reason = shown.why_not(name)
        if reason is not None:
            return Outcome.LEFT_OUT, reason
        if "sha256" not in known:
            return Outcome.LEFT_OUT, "nothing is known of its values"
        return Outcome.MISSING, ""
    try:
        values = shown.read(name)
    except Exception as error:  # noqa: BLE001 -- whatever a reader raises
        if "sha256" not in known:
            return Outcome.AWAY, str(error)[:200]
        return Outcome.WRONG, f"{type(error).__name__}: {error}"[:200]
    if "sha256" not in known:
        return Outcome.EQUAL, "nothing is known of its values"
    found = digest(_as_known(np.asarray(values), known))
    if found["sha256"] == known["sha256"]:
        return Outcome.EQUAL, ""
    return Outcome.WRONG, f"{found} is not {known}"[:300]


def _as_known(values: np.ndarray, known: Mapping[str, Any]) -> np.ndarray:
    """Return *values* as their file says them: texts of any length, and structures without what pads them."""
    if known.get("dtype") == "string" and values.dtype.kind in "US":
        return values.astype(object)
    names = [n for n in values.dtype.names or () if not n.startswith("padding_")]
    return values[names] if values.dtype.names else values


def _messages(file: str, kind: str, truth: Mapping[str, Any], shown: Shown) -> Iterator[Found]:
    """Match each message with a slice of values that none before it matched."""
    slices = []
    for array in shown.arrays():
        values = np.asarray(shown.read(array))
        if values.dtype.kind == "f" and values.ndim >= 1:
            slices += [_summary(part) for part in _planes(values)]
    for number, message in enumerate(truth["messages"]):
        name = f"{number}: {message.get('shortName')}"
        if "mean" not in message:
            yield Found(file, kind, name, Outcome.LEFT_OUT, "nothing is known of its values")
            continue
        size = int(np.prod(message["shape"]))
        wanted = (size, message["n_nan"], message["min"], message["max"], message["mean"])
        match = next((s for s in slices if _alike(s, wanted)), None)
        if match is not None:
            slices.remove(match)
            yield Found(file, kind, name, Outcome.EQUAL)
            continue
        reason = shown.why_not(f"message {number}") or shown.why_not(message["shortName"])
        if reason is not None:
            yield Found(file, kind, name, Outcome.LEFT_OUT, reason)
        else:
            yield Found(file, kind, name, Outcome.MISSING)


def _planes(values: np.ndarray) -> Iterator[np.ndarray]:
    if values.ndim <= 2:
        yield values
        return
    yield from values.reshape(-1, *values.shape[-2:])


def _summary(values: np.ndarray) -> tuple[int, int, float, float, float]:
    missing = np.isnan(values)
    rest = values[~missing]
    if not rest.size:
        return values.size, int(missing.sum()), 0.0, 0.0, 0.0
    return values.size, int(missing.sum()), float(rest.min()), float(rest.max()), float(rest.mean())


def _alike(one: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    if one[:2] != other[:2]:
        return False
    pairs = zip(one[2:], (v or 0.0 for v in other[2:]), strict=True)
    scale = max(abs(other[2] or 0.0), abs(other[3] or 0.0), 1e-30)
    return all(abs(a - b) <= TOLERANCE * scale for a, b in pairs)
