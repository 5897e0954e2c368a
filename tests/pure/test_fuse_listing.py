"""A directory of keys as bytes: all lines at once are what each would be alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzfs.filesystem import Run
from vzfs.fuse import listing, protocol
from vzfs.fuse.listing import Form
from vzfs.fuse.protocol import Attributes

OF = Attributes(mode=0o100444, uid=1, gid=2, time=3 * 10**9 + 4, block_size=512)
NUMBERS = st.one_of(st.integers(0, 2000), st.integers(0, 2**62))


def one_by_one(run: Run, form: Form) -> list[bytes]:
    lines = []
    for number, size in zip(run.numbers.tolist(), run.sizes.tolist(), strict=True):
        inode = run.inode + number
        line = protocol.dirent(inode, run.position + number, 8, str(number).encode())
        entries = {Form.PLAIN: b"", Form.PLUS_NAMES: bytes(protocol.ENTRY_SIZE)}
        lines.append(entries.get(form, protocol.entry_reply(inode, size, OF, 9)) + line)
    return lines


@given(st.sets(NUMBERS, max_size=40), st.sampled_from(Form), st.integers(0, 8000))
def test_lines_together_are_as_each_alone(numbers: set[int], form: Form, room: int) -> None:
    """Names, numbers and attributes are those of each line, as many lines as there is room for, in order."""
    found = np.array(sorted(numbers), np.int64)
    run = Run(found, found % 1000, 2**40, 2**20 + 1, is_dir=False)
    expected = b""
    for line in one_by_one(run, form):
        if len(expected) + len(line) > room:
            break
        expected += line
    assert listing.lines(run, form, room, OF, 9)[0] == expected


@pytest.mark.parametrize("digits", range(1, 19))
def test_a_page_may_end_between_names_of_different_lengths(digits: int) -> None:
    """Around each power of ten a line is as long as its name takes, and none is left out."""
    found = np.array([10**digits - 1, 10**digits], np.int64)
    run = Run(found, np.zeros(2, np.int64), 1, 1, is_dir=False)
    lines = one_by_one(run, Form.PLAIN)
    assert listing.lines(run, Form.PLAIN, len(lines[0]), OF, 9) == (lines[0], 1)
    assert listing.lines(run, Form.PLAIN, 10**6, OF, 9) == (b"".join(lines), len(lines))
