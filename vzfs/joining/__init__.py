"""Several hierarchies as one: a group for each, or arrays put end to end along a dimension.

What is joined is exactly what the files hold, or nothing is: `JoinError` says what differs and
where. Everything is decided on documents and columns of refs. Bytes are read, through a function
that is given, only where they decide: values of coordinates, and variables that every file repeats.
"""

from vzfs.joining.concatenation import Joined, concatenate, join
from vzfs.joining.grouping import group_names, group_per_file
from vzfs.joining.inlining import inline_coordinates
from vzfs.joining.refusal import JoinError

__all__ = [
    "JoinError",
    "Joined",
    "concatenate",
    "group_names",
    "group_per_file",
    "inline_coordinates",
    "join",
]
