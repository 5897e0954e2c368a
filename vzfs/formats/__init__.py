"""Foreign bytes become values of the model here, and nowhere else.

Every decoder is a function of bytes: no I/O, bounded in time and memory by the length of what it is
given, and the only exception that leaves it is `FormatError`.
"""
