"""Which entries of the disk cache go first, and how many."""

import types

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from vzfs.cache import sweep
from vzfs.cache.eviction import Cut, Survey, choose, excess

entries = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 100)), max_size=30)


def survey(rows: list[tuple[int, int]]) -> Survey:
    used_at, sizes = zip(*rows, strict=True) if rows else ((), ())
    return Survey(np.array(used_at, np.int64), np.array(sizes, np.int64))


@hypothesis.given(entries, st.integers(1, 2000))
def test_a_cut_frees_enough_of_the_oldest(rows: list[tuple[int, int]], need: int) -> None:
    """A cut takes everything older, of its own moment no more than is needed, and nothing younger."""
    cut = choose(survey(rows), need)
    total = sum(size for _, size in rows)
    older = sum(size for used, size in rows if used < cut.before)
    same = sum(size for used, size in rows if used == cut.before)
    assert older + cut.at == (need if need <= total else total)
    assert 0 <= cut.at <= same
    assert cut.at > 0 or need > total


def test_a_cut_names_the_moment_and_what_is_left_to_delete_of_it() -> None:
    """With 10 bytes of moment 1 and 20 of moment 2, 15 bytes are all of the former and 5 of the latter."""
    assert choose(survey([(2, 20), (1, 10)]), 15) == Cut(2, 5)


def test_nothing_has_to_go_while_the_room_for_a_pass_is_free() -> None:
    """Up to 95 % of the limit is in order; beyond it, all above 90 % goes."""
    assert excess(950, 1000) == 0
    assert excess(951, 1000) == 51
    assert excess(3000, 1000) == 2100


def test_surveys_add_up() -> None:
    """Joined surveys hold the columns of all and the unfinished bytes of all; none is an empty one."""
    columns = np.array([1, 2], np.int64), np.array([10, 20], np.int64)
    joined = Survey.joined([Survey(*columns, 5), Survey(*columns)])
    assert joined.total == 65
    assert joined.used_at.tolist() == [1, 2, 1, 2]
    assert Survey.joined([]).total == 0


@pytest.mark.parametrize(("modified", "used"), [(-(2**70), 0), (5, 5), (2**70, 100)])
def test_a_time_that_cannot_be_is_one_that_can(modified: int, used: int) -> None:
    """A file dated before the epoch or in the future is the oldest or the newest, and breaks no pass."""
    status = types.SimpleNamespace(st_mtime_ns=modified)

    assert sweep._used_at(status, 100) == used
