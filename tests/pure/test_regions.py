"""Regions of a grid against a naive look at each of them."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from vzfs.model.regions import Ranges, Regions, separate

SIDE = 6


@st.composite
def disjoint(draw: st.DrawFn) -> list[Ranges]:
    """Cut a grid, or what is left of it, again and again, and leave some parts away."""
    ndim = draw(st.integers(1, 3))
    parts: list[Ranges] = [((0, SIDE),) * ndim]
    for _ in range(draw(st.integers(0, 6))):
        part = parts.pop(draw(st.integers(0, len(parts) - 1)))
        axis = draw(st.integers(0, ndim - 1))
        low, high = part[axis]
        cut = draw(st.integers(low, high))
        halves = ((low, cut), (cut, high))
        parts += [(*part[:axis], half, *part[axis + 1 :]) for half in halves]
    kept = [part for part in parts if draw(st.booleans())]
    return draw(st.permutations(kept))


def meets(ranges: Ranges, prefix: tuple[int, ...]) -> bool:
    is_solid = all(low < high for low, high in ranges)
    return is_solid and all(low <= c < high for c, (low, high) in zip(prefix, ranges, strict=False))


@given(disjoint())
def test_regions_are_found_as_by_looking_at_each(ranges: list[Ranges]) -> None:
    """A chunk's region, and those that a beginning of coordinates meets, are those of a naive search."""
    regions = Regions(ranges)
    ndim = len(ranges[0]) if ranges else 2
    for depth in range(ndim + 1):
        for prefix in itertools.product(range(SIDE + 1), repeat=depth):
            expected = [i for i, r in enumerate(ranges) if meets(r, prefix)]
            assert sorted(regions.meeting(prefix)) == expected
            if depth == ndim:
                assert regions.at(prefix) == (expected[0] if expected else None)


def test_a_pinwheel_is_found_in() -> None:
    """Regions that no dimension separates are told apart all the same."""
    wheel: list[Ranges] = [
        ((0, 2), (0, 1)), ((2, 3), (0, 2)), ((1, 3), (2, 3)), ((0, 1), (1, 3)), ((1, 2), (1, 2)),
    ]  # fmt: skip
    regions = Regions(wheel)
    for coords in itertools.product(range(3), repeat=2):
        number = regions.at(coords)
        assert number is not None
        assert meets(wheel[number], coords)


def test_a_staircase_without_end_is_no_recursion_without_end() -> None:
    """However often regions have to be separated, the way to one is not deep."""
    stairs: list[Ranges] = []
    low = (0, 0)
    for step in range(2000):
        axis = step % 2
        ranges = [(low[0], 10**6), (low[1], 10**6)]
        ranges[axis] = (low[axis], low[axis] + 1)
        stairs.append((ranges[0], ranges[1]))
        low = (low[0] + (axis == 0), low[1] + (axis == 1))
    regions = Regions(stairs)
    assert regions.at((999, 10**5)) == 1999 - 1
    assert regions.at((10**5, 999)) == 1999
    assert regions.at((10**5, 10**5)) is None


def test_a_scalar_array_has_one_region() -> None:
    """The chunk of an array without dimensions lies in its only region; without manifests in none."""
    assert Regions([()]).at(()) == 0
    assert list(Regions([()]).meeting(())) == [0]
    assert Regions([]).at((1, 2)) is None
    assert list(Regions([]).meeting(())) == []


def test_spans_are_parted_where_none_reaches_across() -> None:
    """Spans that touch keep apart, and one that reaches over others keeps them together."""
    assert separate([(4, 6), (0, 2), (2, 4), (5, 7)]) == [[1], [2], [0, 3]]
    assert separate([(0, 9), (1, 2), (3, 4)]) == [[0, 1, 2]]
    assert separate([]) == []
