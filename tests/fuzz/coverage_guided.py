"""One target under atheris: libFuzzer with feedback from the coverage of Python code.

Started by `tests.fuzz.__main__`, as a process for each target. A crash does not end it: an input is
kept for each distinct place that fails, the smallest one. What ends the process itself (a hang, a
fault in C code, memory) is left to libFuzzer, which writes the input and gives its code.
"""

import json
import random
import resource
import sys
import traceback
import warnings
from pathlib import Path

import atheris

MEMORY = 2**29
"""Bytes that an input may make the process grow by: a zstd payload may unpack to 16 MiB whatever its
ratio, is a little more while it is unpacked, and what is read out of it is a few times as large."""

MAX_DISTINCT = 50

PATIENCE = 5
"""How much longer than it should an input may take: each branch taken is counted here."""


def main() -> None:
    """Fuzz the target named first; the folder that is named second gets crashes and their report."""
    name, crashes = sys.argv[1], Path(sys.argv[2])
    warnings.simplefilter("error")
    with atheris.instrument_imports(include=["vzfs", "yaml", "tomllib", "json"]):
        from tests.fuzz import contract, targets
    target = targets.TARGETS[name]
    found: dict[str, int] = {}

    def run(data: bytes) -> None:
        try:
            contract.check(target.run, data, patience=PATIENCE)
        except Exception as error:  # noqa: BLE001 -- whatever comes is what is looked for
            _keep(crashes, found, error, data)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        rng = random.Random(seed)
        damaged = target.mutate(rng, data) if rng.randrange(3) else atheris.Mutate(data, max_size)
        return damaged[:max_size]

    arguments = [sys.argv[0], *sys.argv[3:], f"-max_len={2 * target.max_length}"]
    _limit_memory()
    atheris.Setup(arguments, run, custom_mutator=mutate)
    atheris.Fuzz()


def _keep(crashes: Path, found: dict[str, int], error: Exception, data: bytes) -> None:
    frames = traceback.extract_tb(error.__traceback__)
    inner = [frame for frame in frames if "/vzfs/" in frame.filename] or list(frames)
    name = f"{type(error).__name__}-{Path(inner[-1].filename).stem}-{inner[-1].lineno}"
    if len(found) < MAX_DISTINCT and len(data) < found.get(name, len(data) + 1):
        found[name] = len(data)
        (crashes / name).write_bytes(data)
        (crashes / f"{name}.txt").write_text(
            "".join(traceback.format_exception(error)), errors="replace"
        )
        (crashes / "crashes.json").write_text(json.dumps(found))


def _limit_memory() -> None:
    """Bound what the process may allocate from here on."""
    lines = Path("/proc/self/status").read_text().splitlines()
    held = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData"))
    resource.setrlimit(resource.RLIMIT_DATA, (held + MEMORY, held + MEMORY))


if __name__ == "__main__":
    main()
