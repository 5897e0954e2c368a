"""Has readers read views, and judges what they found."""

import base64
import enum
import hashlib
import json
import queue
import subprocess
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.clients.cdl import FILLS as CDL_FILLS
from tests.clients.cdl import TYPES

FILLS = {TYPES[kind][0]: fill for kind, fill in CDL_FILLS.items()}
"""What stands for missing where a variable does not say, by numpy's names of data types."""

PATIENCE = 120
"""Seconds within which a reader says the next line."""


class Found(enum.StrEnum):
    """What came of reading an array."""

    RIGHT = "right"
    ERROR = "error"
    LEFT_OUT = "left out"  # the view does not show it
    WRONG = "wrong"
    CRASH = "crash"


class Result(NamedTuple):
    """What came of reading an array, and what the reader said."""

    found: Found
    said: str = ""


class Truth:
    """What is true of the corpus at *folder*."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.arrays: dict[str, Any] = json.loads((folder / "truth.json").read_text())

    def groups(self) -> dict[str, list[str]]:
        """Return the names of the arrays of each group."""
        groups: dict[str, list[str]] = {}
        for path in sorted(self.arrays):
            group, _, name = path.rpartition("/")
            groups.setdefault(group, []).append(name)
        return groups

    def is_right(self, path: str, answer: Mapping[str, Any]) -> bool:
        """Whether an answer has the array's values: as they are, exactly widened, or unpacked."""
        array = self.arrays[path]
        if answer["dtype"] == "unpacked":
            return bool(answer["sha256"] == self._unpacked(path))
        if answer["shape"] != array["shape"]:
            return False
        if answer["sha256"] == array["sha256"]:
            return True
        if "values" not in array or answer["dtype"] in ("", "string", "struct"):
            return False
        wider = np.dtype(answer["dtype"])
        if not np.can_cast(array["dtype"], wider):
            return False
        return bool(answer["sha256"] == _digest(self._values(path).astype(wider)))

    def _values(self, path: str) -> np.ndarray:
        return np.load(self._folder / "values" / self.arrays[path]["values"])

    def _unpacked(self, path: str) -> str:
        """Return the digest of what scale, offset and missing values make of the numbers, as CDO has it."""
        attributes = self.arrays[path]["document"].get("attributes", {})
        values = self._values(path)
        numbers = values.astype("f8")
        for name in ("_FillValue", "missing_value"):
            if name in attributes:
                numbers[values == number(attributes[name], values.dtype)] = np.nan
        is_float = values.dtype.kind == "f"
        if not {"_FillValue", "missing_value"} & attributes.keys() and not is_float:
            numbers[values == FILLS.get(values.dtype.newbyteorder("=").name)] = np.nan
        low, high = -np.inf, np.inf
        for name in ("valid_range", "valid_min", "valid_max"):
            said = np.ravel(attributes.get(name, ()))
            if said.size and (said.dtype.kind == "f") != is_float:
                continue  # bounds of another kind than the numbers do not count
            low = said[0] if name != "valid_max" and said.size else low
            high = said[-1] if name != "valid_min" and said.size else high
        if low <= high:
            numbers[(values < low) | (values > high)] = np.nan
        numbers[np.isnan(numbers)] = np.nan  # of one kind
        if {"scale_factor", "add_offset"} & attributes.keys():
            numbers *= np.ravel(attributes.get("scale_factor", 1.0))[0]
            numbers += np.ravel(attributes.get("add_offset", 0.0))[0]
        return _digest(numbers)


def number(said: Any, dtype: np.dtype[Any]) -> Any:
    """Return the number of an attribute, which xarray writes as base64 of a double."""
    said = said[0] if isinstance(said, list) else said
    if isinstance(said, str):
        content = base64.standard_b64decode(said)
        return np.frombuffer(content, "<f8" if len(content) == 8 else "<f4")[0].astype(dtype)
    return np.asarray(said).astype(dtype)


def _digest(values: np.ndarray) -> str:
    little = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<")))
    return hashlib.sha256(little.tobytes()).hexdigest()


def read(
    words: Sequence[str], jobs: Mapping[str, Sequence[str]], truth: Truth, *, apart: bool
) -> tuple[str, dict[str, Result]]:
    """Start a reader, again after each crash, until it has answered for all *jobs*.

    Returns its version, and results by path.
    """
    version, results = "", {}
    for part in [{g: n} for g, n in jobs.items()] if apart else [dict(jobs)]:
        left = {group: list(names) for group, names in part.items()}
        while left:
            said, found, begun = _run(words, left, truth)
            version = said or version
            results.update(found)
            if begun is None and not found:
                begun = _first(left)
            if begun is not None:
                results[begun] = Result(Found.CRASH, "it died")
            left = _without(left, results)
            if begun is None and left:
                raise AssertionError(f"{words} ended with {sorted(left)} to do")
    return version, results


def _first(jobs: Mapping[str, Sequence[str]]) -> str:
    group, names = next(iter(jobs.items()))
    return f"{group}/{names[0]}"


def _without(jobs: Mapping[str, list[str]], done: Iterable[str]) -> dict[str, list[str]]:
    done = set(done)
    left = {g: [n for n in names if f"{g}/{n}" not in done] for g, names in jobs.items()}
    return {group: names for group, names in left.items() if names}


def _run(
    words: Sequence[str], jobs: Mapping[str, Sequence[str]], truth: Truth
) -> tuple[str, dict[str, Result], str | None]:
    """Run a reader once; return its version, its results, and the path it died at, if it did."""
    process = subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    lines: queue.Queue[str | None] = queue.Queue()
    threading.Thread(target=_collect, args=(process, lines), daemon=True).start()
    version, results, begun = "", {}, None
    try:
        process.stdin.write(json.dumps(list(jobs.items())))
        process.stdin.close()
        while (line := lines.get(timeout=PATIENCE)) is not None:
            answer = _parsed(line)
            if "version" in answer:
                version = answer["version"]
            elif "begin" in answer:
                begun = answer["begin"]
            elif "path" in answer:
                results[answer["path"]] = judge(answer, truth)
                begun = None
    except (queue.Empty, BrokenPipeError):
        pass  # it hangs, or died at once; *begun* says where
    finally:
        process.kill()
        process.wait()
    return version, results, begun


def _collect(process: subprocess.Popen[str], lines: "queue.Queue[str | None]") -> None:
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            lines.put(line)
    lines.put(None)


def _parsed(line: str) -> dict[str, Any]:
    """Return what a line says; libraries print lines of their own."""
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def judge(answer: Mapping[str, Any], truth: Truth) -> Result:
    """Compare an answer with the truth."""
    if "error" in answer:
        crashed = answer["error"].startswith("ProgramCrashedError")
        return Result(Found.CRASH if crashed else Found.ERROR, answer["error"])
    if truth.is_right(answer["path"], answer):
        return Result(Found.RIGHT)
    return Result(Found.WRONG, f"{answer['dtype']} {answer['shape']}")
