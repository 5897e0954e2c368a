"""The test matrix with real readers of Zarr: `make test-clients`, and the table in docs/CLIENTS.md."""
