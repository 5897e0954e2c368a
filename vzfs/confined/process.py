"""How a confined process comes to be, and how it ends.

It has the import path of the daemon, the descriptors that it is given, and next to nothing of the
environment: no credentials, no terminal. It is ended by SIGKILL, as it has nothing to save.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

import trio

_ENDING: Final = 5.0
"""Seconds in which a process that was killed, or closed its socket, should have ended."""

# The import path is the daemon's, of which -I would leave out a part, and -m add to it.
_PROGRAM: Final = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]);"
    "import importlib; importlib.import_module(sys.argv[1]).main()"
)
ENVIRONMENT: Final = {
    "LC_ALL": "C.UTF-8",
    "MALLOC_ARENA_MAX": "1",
    "BLOSC_NTHREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
"""What a process knows of the world: threads cost memory, and processes are what there are several of."""
HANDED_ON: Final = ("LD_LIBRARY_PATH", "PATH")


async def start(module: str, descriptors: Sequence[int]) -> trio.Process:
    """Start a process that calls `main` of *module*; the *descriptors* are its last arguments."""
    path = json.dumps([entry for entry in sys.path if entry])
    known = {name: os.environ[name] for name in HANDED_ON if name in os.environ}
    return await trio.lowlevel.open_process(
        [sys.executable, "-IB", "-c", _PROGRAM, module, path, *map(str, descriptors)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=descriptors,
        env=ENVIRONMENT | known,
        cwd="/",
        start_new_session=True,
    )


async def end(process: trio.Process) -> None:
    """End *process*, and wait until it has."""
    process.kill()
    with trio.CancelScope(shield=True), trio.move_on_after(_ENDING):
        await process.wait()


async def death(process: trio.Process) -> str:
    """Return why *process*, which does not talk any more, died, if it says so in time."""
    reason = "no reason is known"
    with trio.move_on_after(_ENDING):
        code = await process.wait()
        reason = f"exit code {code}"
        with contextlib.suppress(ValueError):
            reason = signal.Signals(-code).name
    return reason
