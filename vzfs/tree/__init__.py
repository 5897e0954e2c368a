"""Names <-> nodes <-> inodes: what a snapshot looks like as a directory. Pure."""
