"""Has all readers read all views, and compares with what was foreseen."""

import concurrent.futures
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tests.clients.clients import Client, LackingError, words
from tests.clients.expected import (
    LEFT_OUT,
    Prediction,
    Shown,
    must_be_right,
    predict,
    shown_v2,
    shown_v3,
)
from tests.clients.matrix import Found, Result, Truth, read

VIEWS = ("stored-v3", "portable-v3", "decoded-v3", "stored-v2", "portable-v2", "decoded-v2")


def _kin(arrays: Mapping[str, Shown], path: str) -> list[Shown]:
    """Return the arrays of the group in which *path* lies."""
    group = path.rpartition("/")[0]
    return [array for p, array in arrays.items() if p.rpartition("/")[0] == group]


class Matrix:
    """What came of each array in each view with each client, and what was foreseen.

    *folder* has the views by their names, *installed* the readers' environments.
    """

    def __init__(
        self, folder: Path, installed: Path, truth: Truth, views: Sequence[str] = VIEWS
    ) -> None:
        self._folder = folder
        self.views = views
        self._installed = installed
        self.truth = truth
        self.stored = {p: shown_v3(p, a["document"]) for p, a in truth.arrays.items()}
        self.shown: dict[str, dict[str, Shown]] = {}
        self.results: dict[tuple[str, str], dict[str, Result]] = {}
        self.versions: dict[str, str] = {}
        self.lacking: dict[str, str] = {}
        self.surprises: list[str] = []
        self.passed = 0

    def run(self, clients: Iterable[Client]) -> None:
        """Have all *clients* read all views, two at a time."""
        for view in self.views:
            self.shown[view] = self._documents(view)
        work = []
        with concurrent.futures.ThreadPoolExecutor(max_workers=2) as threads:
            for client in clients:
                try:
                    for view in self.views:
                        if int(view[-1]) in client.formats:
                            root = os.fspath(self._folder / view)
                            command = words(client, self._installed, root, int(view[-1]))
                            future = threads.submit(self._read, client, view, command)
                            work.append((client, view, future))
                except LackingError as error:
                    self.lacking[client.name] = str(error)
                    print(f"left out: {client.title}: {error}", flush=True)
            for client, view, future in work:
                self.versions[client.name], self.results[client.name, view] = future.result()
                self._judge(client, view)

    def _documents(self, view: str) -> dict[str, Shown]:
        """Read the documents of a view; what it leaves out has none."""
        found = {}
        for path in self.truth.arrays:
            folder = self._folder / view / path
            if view.endswith("3") and (folder / "zarr.json").exists():
                found[path] = shown_v3(path, json.loads((folder / "zarr.json").read_bytes()))
            elif view.endswith("2") and (folder / ".zarray").exists():
                array = json.loads((folder / ".zarray").read_bytes())
                attributes = json.loads((folder / ".zattrs").read_bytes())
                found[path] = shown_v2(path, array, attributes)
        return found

    def _read(self, client: Client, view: str, command: list[str]) -> tuple[str, dict[str, Result]]:
        jobs = {}
        for group, names in self.truth.groups().items():
            there = [name for name in names if f"{group}/{name}" in self.shown[view]]
            if there:
                jobs[group] = there
        return read(command, jobs, self.truth, apart=client.apart)

    def foreseen(self, client: str, view: str, path: str) -> Prediction:
        """Return what is predicted of an array."""
        array = self.shown[view].get(path)
        if array is None:
            return LEFT_OUT
        return predict(client, array, _kin(self.shown[view], path))

    def _is_promised(self, client: str, view: str, path: str) -> bool:
        return must_be_right(client, view, self.stored[path])

    def found(self, client: str, view: str, path: str) -> Result:
        """Return what came of an array."""
        return self.results[client, view].get(path, Result(Found.LEFT_OUT))

    def _judge(self, client: Client, view: str) -> None:
        for path in self.stored:
            result = self.found(client.name, view, path)
            foreseen = self.foreseen(client.name, view, path)
            ok = result.found in foreseen.found
            if result.found is Found.WRONG and not foreseen.bug:
                ok = False
            if self._is_promised(client.name, view, path) and result.found is not Found.RIGHT:
                ok = False
                foreseen = Prediction(frozenset({Found.RIGHT}), "promised")
            if ok:
                self.passed += 1
            else:
                wanted = " or ".join(sorted(foreseen.found))
                self.surprises.append(
                    f"{client.name} {view} {path}: {result.found} instead of {wanted}: {result.said}"
                )
