"""Every decoder under mutated real files: `make fuzz` with feedback from coverage, tests/pure a small sample.

`targets` has one function for each decoder, `corpus` what they start from, `mutations` how that is
damaged, `contract` what must hold all the same, and `hostile` what no mutation finds in time.
"""
