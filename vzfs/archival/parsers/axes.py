"""Names of axes where a file has arrays of several sizes and no names for what they share.

In one group an axis of one name has one length. So the first has the plain name, and one of another
length has the name of its array behind it.
"""

from collections.abc import Sequence


class Axes:
    """The names of the axes of one file so far."""

    def __init__(self) -> None:
        self._names: dict[tuple[str, int], str] = {}
        self._taken: set[str] = set()

    def names(self, axes: Sequence[str], shape: Sequence[int], array: str) -> list[str]:
        """Return the names of *axes*, which have these lengths in the *array* of this name."""
        found = []
        for axis, length in zip(axes, shape, strict=True):
            if (axis, length) not in self._names:
                name = f"{axis}_{array}" if axis in self._taken else axis
                while name in self._taken:
                    name += "_"
                self._taken.add(name)
                self._names[axis, length] = name
            found.append(self._names[axis, length])
        return found
