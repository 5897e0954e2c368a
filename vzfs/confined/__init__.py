"""Processes for what others wrote: chunks to decode and files to parse, with libraries in C.

`process` starts and ends them, with no more of the environment than they need; `confinement` is what
they give up by themselves before they see a hostile byte; `text` makes fit for a log what they say.
"""
