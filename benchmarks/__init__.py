"""Measurements: whole programs, in turn, as ratios within one run."""
