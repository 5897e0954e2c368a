"""Immutable values that every other room shares. No I/O, nothing but numpy."""
