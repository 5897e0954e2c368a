"""Apache Parquet, as far as tables of references need it: flat columns of integers and of bytes.

Decoding is pure and takes hostile input: every length in a file is checked before it is used or
allocated for. What a file says wrongly, or in a way unknown here, is a `FormatError`.
"""
