"""What reading chunks has cost, in numbers."""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class ChunksStatistics:
    """What reading chunks has cost so far; *in_flight* is of the moment.

    Reads are answered from bytes in memory or on their way, or wait. Pieces come *from_disk* or are
    *fetched*; *ahead* counts those of both that nobody had asked for when they were sent for, and
    *joined* those of them that came by a request for several. *in_vain* are bytes between these.
    """

    reads: int
    from_memory: int
    from_disk: int
    fetched: int
    ahead: int
    joined: int
    in_vain: int
    failed: int
    in_flight: int
