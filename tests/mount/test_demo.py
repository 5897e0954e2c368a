"""The demo and the session of the README, as a user types them."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import demo
from tests.mount.conftest import Mount

ROOT = Path(__file__).parents[2]
WITHIN = 120


def test_the_demo_succeeds_and_leaves_nothing_mounted() -> None:
    """The demo ends with 0, tells its story to the end, and warns of nothing."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.demo"],
        cwd=ROOT, capture_output=True, text=True, timeout=WITHIN, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.endswith("Everything was as it should be.\n")
    assert "cat: Permission denied" in ran.stdout
    assert 'user.vzfs.kind="virtual"' in ran.stdout
    assert "vzfs-demo-" not in Path("/proc/self/mountinfo").read_text()


def test_a_difference_ends_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk that is not the part of the file that its attributes name is a failure."""
    chunk, source = tmp_path / demo.CHUNK, tmp_path / "source"
    chunk.parent.mkdir(parents=True)
    chunk.write_bytes(b"other")
    source.write_bytes(b"bytes")
    said = {"source": source.as_uri(), "offset": "0", "length": "5"}
    attributes = {f"user.vzfs.{name}": value.encode() for name, value in said.items()}
    monkeypatch.setattr(os, "listxattr", lambda _: list(attributes))
    monkeypatch.setattr(os, "getxattr", lambda _, name: attributes[name])
    monkeypatch.setattr(demo, "run", lambda *_, **__: None)

    with pytest.raises(demo.DemoFailedError, match="not that part"):
        demo.explain(chunk)


def test_the_session_of_the_readme_runs(tmp_path: Path, mount: Callable[..., Mount]) -> None:
    """The README's Python session prints what it is about, on the repository that it builds."""
    archive, repository = demo.build(tmp_path / "demo")
    mounted = mount(repository, "--allow", str(archive), "--view", "portable")
    (tmp_path / "sst").symlink_to(mounted.path)
    found = re.search(
        r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    assert found is not None

    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", found[1]],
        env=os.environ | {"HOME": str(tmp_path)},
        capture_output=True, text=True, timeout=WITHIN, check=False,
    )  # fmt: skip

    assert ran.returncode == 0, ran.stderr
    assert "warmest point: 31.6" in ran.stdout
    assert "north of 45 degrees: [4.3" in ran.stdout
