"""One target for each decoder: what runs, what it starts from, and how that is damaged."""

import contextlib
import dataclasses
import functools
import json
import random
import struct
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgpack
import numpy as np
import xxhash

from tests.fuzz import archives, corpus, formats, hierarchies, mutations, references, servers, use
from tests.fuzz.mutations import Mutate
from tests.pure import craft
from vzfs import config
from vzfs.cache import shelves
from vzfs.cache.entry import (
    EntryKey,
    check_entry,
    decode_record,
    encode_entry,
    encode_record,
    entry_digest,
)
from vzfs.cache.segment import (
    MAX_ENTRIES,
    SEGMENTS,
    decode_contents,
    encode_segment,
    head_size,
    shelf_path,
)
from vzfs.errors import AccessDenied, ConfigError, ErrorKind, FormatError
from vzfs.formats.compiled import decode_compiled, encode_compiled
from vzfs.formats.icechunk.columns import Memory, Tables
from vzfs.formats.icechunk.config import decode_config
from vzfs.formats.icechunk.envelope import MAGIC, FileType, open_envelope
from vzfs.formats.icechunk.flatbuffer import Buffer, Table
from vzfs.formats.icechunk.flexbuffer import decode_flexbuffer
from vzfs.formats.icechunk.manifest import decode_manifest
from vzfs.formats.icechunk.metadata import decode_msgpack
from vzfs.formats.icechunk.refs import decode_ref
from vzfs.formats.icechunk.repo_info import decode_repo_info
from vzfs.formats.icechunk.snapshot import decode_snapshot
from vzfs.formats.zarr import parse_array_document
from vzfs.model.chunkgrid import ChunkGrid
from vzfs.model.location import parse_location, parse_prefix
from vzfs.model.manifest import Manifest
from vzfs.model.snapshot import (
    Array,
    Extents,
    Group,
    Snapshot,
    VirtualChunkContainer,
    WantedArray,
)
from vzfs.views.fromv2 import array_from_v2
from vzfs.views.metadata import Unsaid, read_v3_array


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """A decoder and its use. *seeds* are sound inputs; *mutate* damages one."""

    name: str
    run: Callable[[bytes], object]
    seeds: Callable[[], Iterable[bytes]]
    mutate: Mutate
    libraries: Sequence[str] = ()
    """Modules outside this package whose coverage shows the way as well."""
    max_length: int = 2**15


def samples(target: Target, count: int, seed: int = 0) -> Iterable[bytes]:
    """Yield *count* mutations of the seeds of *target*, always the same ones."""
    pool = [*target.seeds(), *corpus.regressions(target.name)]
    rng = random.Random(seed)
    small = [data for data in pool if len(data) <= target.max_length]
    for _ in range(count):
        data = rng.choice(small)
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            data = target.mutate(rng, data)
        yield data


# -- files of repositories -----------------------------------------------------------------------


def _repo(data: bytes) -> None:
    use.use_repo_info(decode_repo_info(data))


def _snapshot(data: bytes) -> None:
    use.use_snapshot(decode_snapshot(data))


def _manifest(data: bytes) -> None:
    node, wanted, file = corpus.unpack_question(data)
    found = decode_manifest(file, {node: wanted})
    assert found.keys() == {node}
    use.use_manifest(found[node], wanted.grid)


def _checkout(data: bytes) -> None:
    first, second = corpus.unpair(data)
    snapshot = decode_snapshot(first)
    arrays = [n for n in snapshot.nodes if isinstance(n, Array) and not n.problem and n.manifests]
    for array in use.some(arrays)[:5]:
        ids = [ref.id for ref in array.manifests]
        files: dict[str, Manifest] = {}
        with contextlib.suppress(FormatError):
            extents = [ref.extents for ref in array.manifests if ref.id == ids[0]]
            found = decode_manifest(second, {array.id: WantedArray(array.grid, extents)})
            files[ids[0]] = found[array.id]
            use.use_manifest(found[array.id], array.grid)
        use.use_array_refs(array, files)


def _pairs(rng: random.Random, data: bytes) -> bytes:
    damage = mutations.in_envelope(mutations.flatbuffer)
    first, second = corpus.unpair(data)
    match rng.randrange(3):
        case 0:
            first = damage(rng, first)
        case 1:
            second = damage(rng, second)
        case _:
            first, second = damage(rng, first), damage(rng, second)
    return corpus.pair(first, second)


def _questions(rng: random.Random, data: bytes) -> bytes:
    if not rng.randrange(8):
        return mutations.havoc(rng, data)
    file = data.find(MAGIC)
    if file < 0:
        return mutations.havoc(rng, data)
    return data[:file] + mutations.in_envelope(mutations.flatbuffer)(rng, data[file:])


def _ref(data: bytes) -> None:
    assert len(decode_ref(data)) == 20


def _config(data: bytes) -> None:
    use.use_containers(decode_config(data))


# -- compiled manifests --------------------------------------------------------------------------

_GRID = ChunkGrid((2**8, 2**8))
_WANTED = {craft.NODE: WantedArray(_GRID, [Extents(((0, 2**8), (0, 2**8)))])}


def _compiled(data: bytes) -> None:
    found = decode_compiled(data, _WANTED)
    assert found.keys() == _WANTED.keys()
    use.use_manifest(found[craft.NODE], _GRID)
    again = decode_compiled(encode_compiled(found), _WANTED)[craft.NODE]
    assert use.refs(again) == use.refs(found[craft.NODE])


def _compiled_seeds() -> Iterable[bytes]:
    for question in corpus.manifests():
        node, wanted, file = corpus.unpack_question(question)
        found = decode_manifest(file, {node: wanted})[node]
        if wanted.grid.size <= _GRID.size:
            yield bytes(encode_compiled({craft.NODE: found}))


def _mapped(rng: random.Random, data: bytes) -> bytes:
    """Damage the map of a compiled manifest, and give it the length that it should have."""
    if not rng.randrange(3) or len(data) < 16:
        return mutations.havoc(rng, data)
    end = 16 + struct.unpack_from("<I", data, 12)[0]
    packed = mutations.msgpack_value(rng, data[16:end])
    head = data[:12] + struct.pack("<I", len(packed)) + packed
    return head + bytes(-len(head) % 8) + data[end + -end % 8 :]


# -- layers --------------------------------------------------------------------------------------


def _envelope(data: bytes) -> None:
    kind = data[37] if len(data) > 37 and data[37] in FileType else FileType.MANIFEST
    envelope = open_envelope(data, FileType(kind), max_payload=2**24)
    assert len(envelope.payload) <= 2**24
    assert envelope.payload.readonly


def _flatbuffer(data: bytes) -> None:
    buffer = Buffer(memoryview(data))
    root = buffer.root()
    for field in range(10):
        _read_field(root, field)
        with contextlib.suppress(FormatError):
            for table in use.some(root.tables(field)):
                for inner in range(4):
                    _read_field(table, inner)
        with contextlib.suppress(FormatError):
            start, count = root.required_vector(field, 4)
            memory = Memory(buffer)
            columns = Tables(memory, memory.follow(start + 4 * np.arange(count)), (4, 4, 8, 12, 1))
            rows = columns.has(0)
            starts, lengths, codes = memory.distinct(columns.vectors(0, rows), 10_000)
            assert len(codes) == rows.sum()
            assert len(memory.cut(starts, lengths)) == lengths.sum()
            columns.words(2)


def _read_field(table: Table, field: int) -> None:
    for read in (
        table.u8, table.u32, table.i32, table.u64, table.string, table.blob, table.table,
        table.required_strings, functools.partial(table.fixed, length=12),
        functools.partial(table.structs, layout=struct.Struct("<II")),
    ):  # fmt: skip
        with contextlib.suppress(FormatError):
            read(field)


def _msgpack_seeds() -> Iterable[bytes]:
    yield msgpack.packb({"a": [1, -1, 2.5, None, True, "text", {"b": {}}], "c": 2**64 - 1})
    yield from corpus.metadata(1)


def _flexbuffer_seeds() -> Iterable[bytes]:
    yield b"a\0" + bytes([1, 3, 1, 1, 1, 7, 4, 2, 36, 1])
    yield struct.pack("<ffff", 1, 2, 3, 4) + bytes([16, 24 << 2 | 2, 1])
    yield from corpus.metadata(2)


def _flexbuffer_damage(rng: random.Random, data: bytes) -> bytes:
    if not rng.randrange(2) or len(data) < 4:
        return mutations.havoc(rng, data)
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        # Types, widths and most offsets are single bytes, and most of them near the end.
        at = len(out) - 1 - min(int(rng.expovariate(0.05)), len(out) - 1)
        out[at] = rng.choice(
            (rng.randrange(256), rng.randrange(37) << 2 | rng.randrange(4), 0, 1, 255)
        )
    return bytes(out)


# -- documents -----------------------------------------------------------------------------------


def _zarr(data: bytes) -> None:
    counts = [(), (3,), (2, 3), None][len(data) % 4]
    layout = parse_array_document(data, counts)
    assert layout.problem.isprintable()
    assert len(layout.problem) < 500
    assert 1 <= layout.grid.max_chunk_nbytes < 2**63
    array = Array(
        path="/a",
        documents={"zarr.json": data},
        id=craft.NODE,
        grid=layout.grid,
        key_encoding=layout.key_encoding,
        manifests=(),
        problem=layout.problem,
    )
    nodes = (Group(path="/", documents={}), array)
    use.use_snapshot(Snapshot(id="", written_at=0, message="", metadata={}, nodes=nodes))


_YAML = """
virtual_chunk_containers:
  s3:
    name: s3
    url_prefix: s3://testbucket
    store: !s3_compatible
      region: us-east-1
      endpoint_url: "http://localhost:4200"
      anonymous: true
  az: {name: az, url_prefix: az, store: !azure {}}
  file:///a/:
    name: null
    url_prefix: 'file:///a/'
    store: !local_file_system /a/
  odd: 3
"""

_TOML = """
cache-dir = "/var/cache/vzfs"
cache-size = "50G"
memory = 1000
deadline = 1.5

[[bucket]]
prefix = "s3://archive/"
nickname = "archive"
region = "eu"
anonymous = true

[[policy]]
bucket = "archive"
subprefix = "x/"
public = true

[[map]]
from = "s3://old/"
to = "s3://archive/"
"""

_HOME = tempfile.gettempdir()


def _toml(data: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        Path(file.name).write_bytes(data)
        loaded = config.load("s3://archive/repo", config.Flags(config=file.name), {"HOME": _HOME})
    assert loaded.deadline > 0
    assert loaded.cache_size >= 0


def _toml_seeds() -> Iterable[bytes]:
    parts = _TOML.split("\n\n")
    yield from ("\n\n".join(parts[:count]).encode() for count in range(1, len(parts) + 1))


def _words(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape").replace("\0", "")
    for parse in (config.parse_size, config.parse_time, config.parse_source):
        with contextlib.suppress(ConfigError):
            parse(text)


def _zarr_v2(data: bytes) -> None:
    """Convert a document, which is that of the attributes too."""
    try:
        document = array_from_v2(data, data)
    except Unsaid as why:
        raise FormatError(ErrorKind.CORRUPT_METADATA, str(why)) from None
    assert read_v3_array(document).is_strict
    assert parse_array_document(document).problem.isprintable()


def _zarr_v2_seeds() -> Iterable[bytes]:
    for changed in (
        {},
        {"dtype": ">f4", "fill_value": "NaN", "order": "F", "filters": [{"id": "delta", "dtype": ">f4"}]},
        {"dtype": "|S3", "fill_value": "YWJj", "_FillValue": "x", "compressor": None},
        {"dtype": [["a", "<i2"], ["b", [["c", "|u1"]]]], "fill_value": None},
        {"dtype": "|O", "filters": [{"id": "vlen-utf8"}], "fill_value": ""},
        {"dtype": "<M8[ns]", "fill_value": 5, "_ARRAY_DIMENSIONS": ["y", "x"], "_NCZARR_ARRAY": {"dimrefs": ["/y", "/x"]}},
    ):  # fmt: skip
        fields = {
            "zarr_format": 2,
            "shape": [10, 5],
            "chunks": [4, 5],
            "dtype": "<i2",
            "compressor": {"id": "blosc", "cname": "lz4", "shuffle": 1},
            "fill_value": None,
            "order": "C",
            "filters": [],
            "_FillValue": -1.0,
            "missing_value": 3,
        }
        yield json.dumps({**fields, **changed}).encode()


# -- locations -----------------------------------------------------------------------------------


def _location(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    with contextlib.suppress(AccessDenied):
        location = parse_location(text)
        assert parse_location(str(location)) == location
    with contextlib.suppress(AccessDenied):
        prefix = parse_prefix(text)
        assert parse_prefix(str(prefix)) == prefix
        assert prefix.covers(prefix)
        assert prefix.covers(prefix.join("below"))
        assert prefix.relative(prefix.join("below")) == "below"
    use.use_locations(
        [text, f"vcc://own/{text}"], [*use.CONTAINERS, VirtualChunkContainer(text, "own")]
    )


# -- the cache -----------------------------------------------------------------------------------

_KEY = EntryKey("s3://bucket/key", '"etag"', 3, 40)


_SHELF = shelf_path(SEGMENTS, "shelf")


def _cache(data: bytes) -> None:
    if data.startswith(b"VZFSVERS"):
        version = decode_record(_KEY.location, data)
        assert data == encode_record(_KEY.location, version)
    elif data.startswith(b"VZFSCHNK"):
        header, body = data[:-40], data[-40:]
        check_entry(_KEY, header, body)
        assert header == encode_entry(_KEY, body)[0]
    else:
        end = head_size(data)
        assert end <= 2**23
        contents = decode_contents(data[:end], _SHELF, len(data))
        assert len(contents) <= MAX_ENTRIES
        assert (contents.offset + contents.size <= len(data)).all()
        table = shelves.Table([shelves.Segment("name", contents, len(data), 0)])
        found = table.find(entry_digest(_KEY))
        if found is not None:
            entry = data[found[1] : found[1] + found[2]]
            check_entry(_KEY, entry[:-40], entry[-40:])
        assert sum(size for _, _, size in table.rows(table.segments[0])) <= int(contents.size.sum())


def _cache_seeds() -> Iterable[bytes]:
    header, body = encode_entry(_KEY, bytes(range(40)))
    yield header + bytes(body)
    yield encode_record(_KEY.location, _KEY.version)
    others = [dataclasses.replace(_KEY, offset=n) for n in range(3, 6)]
    for keys in ([_KEY], others, []):
        items = [(entry_digest(key), encode_entry(key, bytes(range(40)))) for key in keys]
        yield b"".join(encode_segment("s3://repo/", _SHELF, items))


def _sealed(rng: random.Random, data: bytes) -> bytes:
    """Damage a header or a head, and give it the lengths and the checksum that it should have."""
    if not rng.randrange(4):
        return mutations.havoc(rng, data)
    if data.startswith(b"VZFSSEGM"):
        with contextlib.suppress(FormatError):
            end = head_size(data)
            length, count = struct.unpack_from("<II", data, 12)
            fields, rows = data[20 : 20 + length], data[20 + length : end - 8]
            match rng.randrange(3):
                case 0:
                    fields = mutations.msgpack_value(rng, fields)
                case 1:
                    rows = mutations.havoc(rng, rows)
                    count = len(rows) // 32
                    rows = rows[: count * 32]
                case _:
                    count = rng.choice((0, 1, count + 1, 2**17))
            framed = data[:12] + struct.pack("<II", len(fields), count) + fields + rows
            return framed + struct.pack("<Q", xxhash.xxh3_64_intdigest(framed)) + data[end:]
    body = mutations.havoc(rng, data[16:-8])
    framed = data[:12] + struct.pack("<I", max(len(body) - 8, 0)) + body
    return framed + struct.pack("<Q", xxhash.xxh3_64_intdigest(framed))


_IN_ENVELOPE = mutations.in_envelope(mutations.flatbuffer)
_YAML_DAMAGE = mutations.with_tokens(
    *mutations.NAMES, *mutations.LOCATIONS, "&a ", "*a ", "<<: ", "- ", "[", "{", "? ", ": ", "!!python/name:os ",
    "!<tag> ", '"\\uD800"', '"\\U0010FFFF"', '"\\x00"', "|+\n ", "%YAML 1.1\n", "---\n", "\t", "# ", "'", "1" * 5000,
)  # fmt: skip
_TOML_DAMAGE = mutations.with_tokens(
    *mutations.NAMES, *mutations.LOCATIONS, "[[bucket]]\n", "[[policy]]\n", "[[allow]]\n", "[[map]]\n", "[a]\n", "=",
    "nan", "inf", "-1", "9" * 5000, "0x" + "f" * 5000, "true", '"""', "[", "{a=", "1979-05-27T07:32:00Z", "'~x'", "\\",
    "a." * 100, '"50G"', "1e400", '"9' + "9" * 400 + '"', '["10.0.0.0/8"]',
    *(f"{name} = " for name in ("region", "endpoint", "anonymous", "credentials", "addresses", "public", "subprefix",
                                "nickname", "bucket", "prefix", "deadline", "memory", "requester-pays", "cache-size")),
)  # fmt: skip

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("repo", _repo, corpus.repos, _IN_ENVELOPE),
        Target("snapshot", _snapshot, corpus.snapshots, _IN_ENVELOPE, ("json",)),
        Target("manifest", _manifest, corpus.manifests, _questions),
        Target("checkout", _checkout, corpus.checkouts, _pairs),
        Target(
            "ref",
            _ref,
            lambda: [b'{"snapshot":"VY76P925PRY57WFEK410"}', *corpus.files("ref.json")],
            mutations.json_value,
            max_length=5000,
        ),
        Target(
            "config",
            _config,
            lambda: [_YAML.encode(), *corpus.files("config.yaml")],
            _YAML_DAMAGE,
            ("yaml",),
            max_length=5000,
        ),
        Target(
            "envelope",
            _envelope,
            lambda: [
                craft.wrap(b"payload" * 50, craft.MANIFEST, compression=1),
                *corpus.files("snapshots/*"),
                *corpus.files("manifests/*"),
            ],
            mutations.havoc,
        ),
        Target("flatbuffer", _flatbuffer, corpus.flatbuffers, mutations.flatbuffer),
        Target(
            "flexbuffer", decode_flexbuffer, _flexbuffer_seeds, _flexbuffer_damage, max_length=5000
        ),
        Target("msgpack", decode_msgpack, _msgpack_seeds, mutations.msgpack_value, max_length=5000),
        Target("zarr", _zarr, corpus.documents, mutations.json_value, ("json",), max_length=10_000),
        Target(
            "consolidated",
            hierarchies.run_consolidated,
            hierarchies.consolidated,
            mutations.json_value,
            ("json",),
            max_length=10_000,
        ),
        Target("zip", hierarchies.run_zip, hierarchies.zips, hierarchies.ZIP_DAMAGE),
        Target(
            "kerchunk",
            references.run_json,
            references.jsons,
            references.damage_json,
            ("json", "base64"),
            max_length=10_000,
        ),
        Target(
            "partition",
            references.run_parquet,
            references.parquets,
            mutations.havoc,
            max_length=10_000,
        ),
        Target(
            "zmetadata",
            references.run_metadata,
            references.metadatas,
            mutations.json_value,
            ("json",),
            max_length=10_000,
        ),
        Target("compiled", _compiled, _compiled_seeds, _mapped, max_length=10_000),
        Target(
            "references",
            archives.references,
            archives.reference_seeds,
            archives.damaged,
            max_length=10_000,
        ),
        Target(
            "classic", archives.classic, archives.classic_seeds, mutations.havoc, max_length=5000
        ),
        Target(
            "zarr-v2", _zarr_v2, _zarr_v2_seeds, mutations.json_value, ("json",), max_length=5000
        ),
        Target("tiff", formats.RUN["tiff"], formats.tiff_seeds, mutations.havoc, max_length=5000),
        Target("fits", formats.RUN["fits"], formats.fits_seeds, mutations.havoc, max_length=20_000),
        Target("hdf4", formats.RUN["hdf4"], formats.hdf4_seeds, mutations.havoc, max_length=5000),
        Target(
            "dmrpp", formats.RUN["dmrpp"], formats.dmrpp_seeds, mutations.havoc, max_length=5000
        ),
        Target(
            "messages",
            formats.RUN["messages"],
            formats.message_seeds,
            mutations.havoc,
            max_length=5000,
        ),
        Target("cache", _cache, _cache_seeds, _sealed, max_length=5000),
        Target("toml", _toml, _toml_seeds, _TOML_DAMAGE, ("tomllib",), max_length=10_000),
        Target(
            "words",
            _words,
            lambda: [
                b"1.5TiB",
                b"500",
                b"2026-01-31T12:00:00+01:00",
                b"~/x",
                b"s3://b/r",
                b"/tmp",
                b"x",
            ],
            mutations.with_tokens(
                *mutations.NAMES, *mutations.LOCATIONS, "9" * 400, "~x", "+23:59", "0001-01-01"
            ),
            max_length=1000,
        ),
        Target(
            "location",
            _location,
            lambda: [text.encode() for text in mutations.LOCATIONS],
            mutations.with_tokens(
                *mutations.NAMES,
                *mutations.LOCATIONS,
                "%2f",
                "%2e",
                "%00",
                "%ff",
                "%",
                "@",
                ":",
                "://",
                "[",
                "]",
                "?",
            ),
            max_length=10_000,
        ),
        Target("head", servers.run_head, servers.heads, servers.HEAD_DAMAGE, max_length=5000),
        Target("listing", servers.run_listing, servers.listings, servers.LISTING_DAMAGE),
        Target(
            "secret", servers.run_secret, servers.secrets, servers.SECRET_DAMAGE, max_length=5000
        ),
    )
}
