"""The bytes of decoded chunks: plain, little-endian, in C order, as zarr's own codecs make them.

Chunk bytes and codec configurations are hostile, and codecs are C: so they run in processes of their
own, with limits of memory and time, and the daemon never imports them. From the bottom up: `wire`
(what daemon and worker say to each other), `installed` (which codecs there are); `pipeline`, which
alone imports zarr, and `worker` (one decoder process); `workers` (all of them), `room` (how much is
under way), and `decoder`, which everybody else uses: caches, policy, single flight.
"""
