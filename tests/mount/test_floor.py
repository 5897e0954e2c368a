"""What benchmarks mount is what they say it is."""

import subprocess
import sys
from pathlib import Path

from benchmarks.fuse_floor import DISTINCT, LARGE


def test_the_floor_is_compared_with_all_of_vzfs(tmp_path: Path) -> None:
    """The mount whose chunks are in memory shows the chunks of the repository that was written for it."""
    python, mountpoint = [sys.executable, "-m", "benchmarks.fuse_floor"], tmp_path / "mnt"
    subprocess.run([*python, "build", str(tmp_path)], check=True, timeout=60)
    mountpoint.mkdir()
    words = [*python, "serve_whole", str(mountpoint), str(tmp_path / "repository")]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            source = (tmp_path / "sources" / "x").read_bytes()
            for n in (0, DISTINCT - 1):
                found = (mountpoint / "m" / f"c.{n}").read_bytes()
                assert found == source[n * LARGE : (n + 1) * LARGE]
        finally:
            subprocess.run(["fusermount3", "-uz", str(mountpoint)], check=False)
            process.wait(20)
