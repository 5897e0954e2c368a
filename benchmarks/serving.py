"""The object store that benchmarks read from: `server.c`, compiled and run on loopback.

A server is a process that ends with the benchmark, and after a bounded time in any case.
"""

import contextlib
import json
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

SOURCE: Final = Path(__file__).parent / "server.c"
PATIENCE: Final = 60
"""Seconds that the compiler, or a reply of the server, may take."""


class Counts(NamedTuple):
    """What was asked for below one bucket, and how many bytes of objects were promised."""

    gets: int
    heads: int
    lists: int
    errors: int
    bytes: int


NOTHING: Final = Counts(0, 0, 0, 0, 0)


class Traffic(NamedTuple):
    """What the server has done since its counts were reset; *most* requests at a time."""

    buckets: dict[str, Counts]
    most: int

    def of(self, bucket: str) -> Counts:
        """Return the counts of one bucket."""
        return self.buckets.get(bucket, NOTHING)


@dataclass(frozen=True)
class Network:
    """Milliseconds to the first byte, and how many more by chance; bytes a second for a connection."""

    latency: float = 0
    jitter: float = 0
    rate: float = 0

    def __str__(self) -> str:
        """Say it to people."""
        if not self.latency:
            return "0 ms"
        pace = f", {self.rate / 1e6:.0f} MB/s a connection" if self.rate else ""
        return f"{self.latency:g} to {self.latency + self.jitter:g} ms{pace}"


@contextlib.contextmanager
def compiled() -> Iterator[Path]:
    """Compile the server into a temporary folder. Raises CalledProcessError."""
    with tempfile.TemporaryDirectory(prefix="vzfs-bench-server-") as folder:
        program = Path(folder) / "server"
        words = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(SOURCE)]
        subprocess.run(words, check=True, timeout=PATIENCE)
        yield program


class Server:
    """A server of the buckets below *root*, for at most *seconds*."""

    def __init__(self, program: Path, root: Path, network: Network, seconds: int) -> None:
        numbers = [network.latency, network.jitter, network.rate, seconds]
        self._process = subprocess.Popen(
            [program, root, *map(str, numbers)], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None  # noqa: S101 -- a pipe was asked for
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server ended with {self._process.wait(PATIENCE)}")
        self.url = f"http://127.0.0.1:{int(line)}"

    def __enter__(self) -> Self:
        """Serve until the end of the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None  # noqa: S101 -- as above
        self._process.stdout.close()

    def reset(self) -> Traffic:
        """Return what was asked for so far, and forget it."""
        return self._ask("reset")

    def _ask(self, what: str) -> Traffic:
        with urllib.request.urlopen(f"{self.url}/-/{what}", timeout=PATIENCE) as reply:  # noqa: S310 -- loopback
            said = json.load(reply)
        buckets = {name: Counts(**counts) for name, counts in said["buckets"].items()}
        return Traffic(buckets, said["busy_most"])
