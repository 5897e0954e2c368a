"""Archival files, and whatever else vzfs reads, into an Icechunk repository: references, and one commit.

Files are parsed (`parsing`, or on a Dask cluster `cluster`), joined (`vzfs.joining`), given versions
where they have none (`pinning`), perhaps checked against the libraries of their formats (`checking`,
`direct`), turned into what has to be written (`changes`, `containers`), and written with the official
library (`writing`). Nothing is written before everything is known, and all of it is one commit: who
interrupts a run has changed nothing, and the next one parses only what the cache does not have.
"""
