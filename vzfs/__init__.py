"""vzfs shows virtual Zarr repositories as ordinary directories."""

__version__ = "0.1.0"
