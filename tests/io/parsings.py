"""Files in memory, and a `FileParser` over them."""

from pathlib import Path

from tests.fakes import FakeSource
from vzfs.access import Access, AccessPolicy
from vzfs.archival.parsing import FileParser
from vzfs.cache import DiskCache
from vzfs.model.location import Location, parse_location, parse_prefix

PLACE = "s3://b/archive"


class Files(FakeSource):
    """A `FakeSource` of files."""

    def add(self, name: str, data: bytes | Path) -> Location:
        """Store a file, and return where."""
        url = f"{PLACE}/{name}"
        self.put(url, data if isinstance(data, bytes) else data.read_bytes())
        return parse_location(url)

    def parser(self, disk: DiskCache | None = None, **options: float) -> FileParser:
        """Return what parses these files."""
        place = parse_prefix(PLACE)
        access = Access(place, policies=[AccessPolicy(place)], containers=None)
        return FileParser(self, access, disk, **options)
