"""kerchunk's references, in JSON and in Parquet: which bytes of which objects are the chunks of a hierarchy.

`jsonfile` reads the one, over `scanning`, `templates` and `generating`; `partitions` the other, over
Parquet tables. Both give Zarr documents by their keys, and `rows` makes manifests of refs. Nobody
else knows that references are kerchunk's.
"""

from vzfs.formats.kerchunk.jsonfile import looks_like_kerchunk

__all__ = ["looks_like_kerchunk"]
