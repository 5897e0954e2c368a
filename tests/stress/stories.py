"""Steps of the model that chance seldom takes in this order, each story with the objects it is about."""

from typing import Any, Final

CHUNKS: Final = 3
"""Chunks of each object."""
LIE: Final = "lie-etag"
QUICK: Final = (
    *("403", "404", "412", "416", "reset", "cut", "short", "overlong", "overlong-chunked"),
    *("wrong-range", "whole-object", "no-version"),
)
"""Lies that cost a reader no long wait."""
LIES: Final = (*QUICK, "503", "stall", "stall-in-body", LIE, LIE, LIE)

STORIES: Final[dict[str, tuple[tuple[str, str], list[tuple[Any, ...]]]]] = {
    "a lie about the version, believed, is not believed of other bytes": (
        ("web-none", "bucket-date"),
        [
            *(("read_whole", (which, 0), True) for which in (0, 1)),
            *(("lie", (which, 1), LIE) for which in (0, 1)),
            *(("change", (which, 2), "new") for which in (0, 1)),
        ],
    ),
    "a damaged cache costs a fetch": (
        ("web-none", "bucket-etag"),
        [
            *(("read_whole", (which, n), True) for which in (0, 1) for n in range(CHUNKS)),
            ("harm_cache", "flipped"),
            ("harm_cache", "swapped"),
        ],
    ),
    "what a server sends wrongly is not given on": (
        ("web-etag", "bucket-none"),
        [
            *(("lie", (which, n % 3), lie) for n, lie in enumerate(QUICK) for which in (0, 1)),
            ("be_honest", 0),
            ("be_honest", 1),
        ],
    ),
    "what may not be read any more is not read from what the kernel keeps": (
        ("web-none", "bucket-etag"),
        [
            *(("read_whole", (which, n), True) for which in (0, 1) for n in range(CHUNKS)),
            ("withdraw", 0),
            ("withdraw", 1),
            ("grant",),
        ],
    ),
    "a new mount over an old cache shows one version": (
        ("bucket-none", "web-date"),
        [
            *(("read_whole", (which, 0), True) for which in (0, 1)),
            ("crash",),
            *(("change", (which, 1), "new") for which in (0, 1)),
            *(("read_whole", (which, 0), True) for which in (0, 1)),
        ],
    ),
}
