"""How readers walk through the chunk grid of an array, and which chunks to get ahead. Pure.

**What is seen.** The kernel asks for the first byte of a chunk: a *touch*. Nobody says who reads.
Threads of one reader come under different ids, the page cache hides what is read again, several
readers may walk through one array at once, and the touches of one reader come out of order, since
it keeps up to some 32 requests in flight.

**What a walk is.** A *path*, and how far along it the reader is. Nearly every path is a `Box`:
nested loops over the axes of the grid, innermost first, each with a first coordinate, a step and a
count. C order, F order, slices with steps, time series and lines in either direction are boxes. What
jumps through the grid in constant steps of the flat index, across its edges, is a `Jump`. Each chunk
of a path has an *ordinal*, its place in the walk; prediction is counting on.

**How it is proposed.** A touch that is on no walk's path is a *stray*. When strays form a
progression that chance would hardly make, a walk is seeded (`fitting`): with the box that all
strays since then fill, or with the progression alone. If it begins a box as large as that of another
walk, it is taken to be its like, as where blocks of an array are read one after another.

**How it is confirmed.** Each touch on the path moves the walk's *front*, a median, so that a stranger
who hits upon the path does not. When half of what is ahead has been touched, the window doubles, up
to the caller's limit, and is filled again at once, so that chunks are asked for in batches which can
be coalesced.

**How it is corrected.** A path says more than was seen: its outermost loop goes on to the edge of
the grid, and then come the axes that have not moved yet. So the walk asks for no more than a probe
beyond each turn that it never saw taken. When strays show that the reader turned earlier, goes in
other steps, or left nothing out where the path does, and when chunks that were asked for are passed
over, the path is fitted again to what was touched last; the new path must explain that with as few
chunks left out, and as little out of order, as this reader's touches come.

**How it is dropped.** A walk that nobody follows asks for nothing. Of more than `MAX_WALKS` the one
touched longest ago goes, as does one of whose chunks too many were dropped unread.
"""

from vzfs.walks.walks import MAX_WALKS, Walks, WalksStatistics

__all__ = ["MAX_WALKS", "Walks", "WalksStatistics"]
