"""Icechunk on disk, spec versions 1, 2 and 2.1: one decoder for each kind of file.

`repo_info` (the entry point of spec 2), `refs` (that of spec 1), `snapshot` and `manifest` give
values of the model; `envelope`, `flatbuffer`, `flexbuffer` and `ids` are the layers that they
share.
"""
