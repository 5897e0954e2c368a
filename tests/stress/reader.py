"""One reader: a process that reads chunks of a mount at random and compares every byte.

`python -IS reader.py PLAN SEED LOG`: PLAN is a JSON file with the mount, its chunks, and where the
true bytes are. LOG gets one JSON line for each operation that failed, and one each second with
counts; lines are written whole, so that a reader can be killed. It ends when the file `stop` that
PLAN names is there, or its parent is gone.
"""

# Readers start often, and sooner without pathlib.
# ruff: noqa: PTH110, PTH116, PTH120, PTH123, PTH208

import errno
import json
import mmap
import os
import random
import sys
import time

KEPT = 6
"""Files that a reader has open beside the one it reads."""


class Reader:
    def __init__(self, plan: dict, seed: int, log: int) -> None:
        self.plan = plan
        self.rng = random.Random(seed)
        self.log = log
        self.truths: dict[str, int] = {}
        self.kept: list[tuple[int, int]] = []
        self.counts = {"reads": 0, "bytes": 0, "longest": 0.0}
        self.said = time.monotonic()

    def run(self) -> None:
        parent = os.getppid()
        while not os.path.exists(self.plan["stop"]) and os.getppid() == parent:
            index = self.rng.randrange(len(self.plan["chunks"]))
            draw = self.rng.random()
            if draw < 0.03:
                self.look(index)
            elif draw < 0.2 and self.kept:
                self.read(*self.rng.choice(self.kept))
            else:
                self.open_and_read(index)
            if time.monotonic() > self.said + 1:
                self.say_counts()
        self.say_counts()

    def look(self, index: int) -> None:
        """List, stat, and look up what is not there."""
        path, _, _, length = self.plan["chunks"][index]
        whole = f"{self.plan['mount']}/{path}"
        began = time.monotonic()
        try:
            size = os.stat(whole).st_size
            names = sorted(os.listdir(os.path.dirname(whole)), key=int)
            outcome = "" if size == length and names == self.plan["names"] else "LISTING"
        except OSError as error:
            outcome = errno.errorcode[error.errno]
        self.note(began, index, 0, 0, outcome)
        try:
            os.stat(f"{self.plan['mount']}/{path}0000")
            self.note(began, index, 0, 0, "PRESENT")
        except OSError as error:
            if error.errno != errno.ENOENT:
                self.note(began, index, 0, 0, errno.errorcode[error.errno])

    def open_and_read(self, index: int) -> None:
        began = time.monotonic()
        is_direct = self.rng.random() < 0.3
        flags = os.O_RDONLY | (os.O_DIRECT if is_direct else 0)
        try:
            fd = os.open(f"{self.plan['mount']}/{self.plan['chunks'][index][0]}", flags)
        except OSError as error:
            self.note(began, index, 0, 0, errno.errorcode[error.errno])
            return
        if self.rng.random() < 0.8:
            # Else the kernel's pages would answer after a while, and nothing be tested.
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        if self.rng.random() < 0.5:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        self.read(fd, index)
        self.kept.append((fd, index))
        if len(self.kept) > KEPT:
            os.close(self.kept.pop(self.rng.randrange(KEPT))[0])

    def read(self, fd: int, index: int) -> None:
        _, file, start, length = self.plan["chunks"][index]
        offset, size = 0, length
        if self.rng.random() < 0.5:
            offset = self.rng.randrange(length)
            size = self.rng.randint(1, length - offset)
        began = time.monotonic()
        try:
            # What O_DIRECT reads into is aligned.
            with mmap.mmap(-1, size) as room:
                come = 0
                # What fails behind pages that are there already gives those first.
                while come < size:
                    with memoryview(room) as view, view[come:] as rest:
                        more = os.preadv(fd, [rest], offset + come)
                    if not more:
                        break
                    come += more
                data = room[:come]
        except OSError as error:
            self.note(began, index, offset, size, errno.errorcode[error.errno])
            return
        if file not in self.truths:
            self.truths[file] = os.open(f"{self.plan['truth']}/{file}", os.O_RDONLY)
        true = os.pread(self.truths[file], size, start + offset)
        outcome = "" if data == true else "SHORT" if true.startswith(data) else "WRONG"
        self.note(began, index, offset, size, outcome)

    def note(self, began: float, index: int, offset: int, size: int, outcome: str) -> None:
        now = time.monotonic()
        self.counts["reads"] += size > 0
        self.counts["longest"] = max(self.counts["longest"], now - began)
        if outcome:
            self.write({"failed": [began, now, index, offset, size, outcome]})
        else:
            self.counts["bytes"] += size

    def say_counts(self) -> None:
        self.said = time.monotonic()
        self.write({"counts": self.counts})

    def write(self, what: object) -> None:
        os.write(self.log, json.dumps(what).encode() + b"\n")


if __name__ == "__main__":
    with open(sys.argv[1]) as file:
        plan = json.load(file)
    log = os.open(sys.argv[3], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    Reader(plan, int(sys.argv[2]), log).run()
