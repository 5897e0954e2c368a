"""References of kerchunk in JSON: values, templates and what is generated, against Jinja and fsspec."""

import base64
import gzip
import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import fsspec
import jinja2
import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from vzfs.errors import AccessDenied, ErrorKind, FormatError
from vzfs.formats.kerchunk import jsonfile, looks_like_kerchunk
from vzfs.formats.kerchunk import templates as rendering
from vzfs.formats.kerchunk.jsonfile import Found, decode_references
from vzfs.formats.kerchunk.locations import location_of
from vzfs.formats.kerchunk.partitions import count_partitions, decode_metadata, regions
from vzfs.formats.kerchunk.rows import UNKNOWN, WHOLE, flat_indices
from vzfs.formats.kerchunk.templates import Template, TemplateProblem
from vzfs.model.chunkgrid import ChunkGrid, ChunkKeyEncoding, KeyStyle
from vzfs.model.location import parse_location, parse_prefix
from vzfs.model.references import whole
from vzfs.repository import documents

FOLDER = parse_prefix("s3://bucket/refs")


def decode(value: object, **limits: int) -> Found:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return decode_references(data, FOLDER, **limits)


def refs(found: Found) -> dict[str, Any]:
    """Return the references as kerchunk would say them in version 0, but for where they are read."""
    said: dict[str, Any] = {}
    for folder, gathered in found.refs.items():
        for name, location, offset, length in zip(gathered.names, *gathered.columns(), strict=True):
            key = f"{folder}/{name}" if folder else name
            if location < 0:
                said[key] = bytes(found.inline[offset : offset + length])
            elif length == WHOLE:
                said[key] = [found.locations[location]]
            elif length == UNKNOWN:
                said[key] = found.locations[location]
            else:
                said[key] = [found.locations[location], offset, length]
    return said


# -- values --------------------------------------------------------------------------------------

URL = "s3://b/x.nc"


@pytest.mark.parametrize("is_one", [False, True])
def test_values_are_what_kerchunk_means(is_one: bool) -> None:
    """Text is UTF-8, base64 its bytes, an object its text, a list an object or a part of one."""
    values = {
        "a/0": "plain \u00e9\u0000",
        "a/1": "base64:" + base64.b64encode(b"\x00\xff").decode(),
        "a/2": {"x": [1, 2]},
        "a/3": [URL],
        "a/4": [URL, 10, 20],
        "a/5": [URL, None, None],
        "a/6": [URL, None],
        "a/7": [URL, 0, None],
        "a/8": [URL, 5, 0],
    }
    found = refs(decode({"version": 1, "refs": values} if is_one else values))
    assert found == {
        "a/0": "plain \u00e9\u0000".encode(),
        "a/1": b"\x00\xff",
        "a/2": b'{"x": [1, 2]}',
        "a/3": [URL],
        "a/4": [URL, 10, 20],
        "a/5": [URL],
        "a/6": [URL],
        "a/7": [URL],
        "a/8": [URL, 5, 0],
    }


def test_values_are_those_that_fsspec_reads() -> None:
    """Bytes that a reference gives are the bytes that fsspec reads for it."""
    values = {
        "a": "\u00e9\u20ac",
        "b": "base64:AAECAw==",
        "c": "base64: A A E=\n",
        "d": "",
        "e": "base64:",
    }
    system = fsspec.filesystem("reference", fo={"version": 1, "refs": dict(values)})
    assert refs(decode({"version": 1, "refs": values})) == {
        name: system.cat_file(name) for name in values
    }


@pytest.mark.parametrize(
    "value",
    [None, 5, True, [], [5], ["", 0, 1], [None, 0, 1], [URL, 0], [URL, 1.5, 2], [URL, True, 2],
     [URL, -1, 2], [URL, 0, -2], [URL, 2**63, 1], [URL, 2**62, 2**62], [URL, "0", "1"], [URL, 0, 1, 2],
     [URL, 7, None], "base64:A", "\ud800"],
)  # fmt: skip
def test_what_is_no_reference_is_a_chunk_that_nobody_can_read(value: object) -> None:
    """A malformed value is kept as a chunk whose location is refused, and says why."""
    text = refs(decode({"a/0": value}))["a/0"]
    assert text.startswith("unreadable: the reference is malformed: ")
    assert text.isprintable()
    with pytest.raises(AccessDenied):
        parse_location(text)


def test_the_last_of_equal_keys_counts() -> None:
    """A key that is written twice means what it is last, and what is generated comes after all."""
    data = b"""{"version": 1, "gen": [{"key": "a/{{i}}", "url": "s3://b/{{i}}", "dimensions": {"i": [1]}}],
        "refs": {"a/0": "x", "a/0": "y", "a/1": "z"}}"""
    gathered = decode(data).refs["a"]
    assert gathered.names == ["0", "0", "1", "1"]
    found = refs(decode(data))
    assert found == {"a/0": b"y", "a/1": ["s3://b/1"]}


_KEYS = st.text("a/0.c\u00e9", max_size=6)
_URLS = st.sampled_from(["s3://b/x", "s3://b/\u00e9", "/x\\y", 's3://b/"'])
_REFS = st.tuples(_URLS, st.integers(-1, 2**63), st.integers(-1, 9)).map(list)


@given(
    st.lists(st.tuples(_KEYS, _REFS | st.sampled_from(["x", ["s3://b/y"], None])), max_size=8),
    st.sampled_from([None, 1]),
    st.booleans(),
    st.booleans(),
)
def test_references_mean_the_same_however_they_are_written(
    items: list[tuple[str, object]], indent: int | None, escapes: bool, is_one: bool
) -> None:
    """Spaces and escapes change nothing, nor does what stands before and after a reference."""
    values = {key: value for key, value in items if not key.startswith("/")}
    together = json.dumps(
        {"refs": values} if is_one else values, indent=indent, ensure_ascii=escapes
    )
    if escapes:
        together = together.replace("/", "\\/")
    wanted: dict[str, Any] = {}
    for key, value in values.items():
        wanted |= refs(decode({key: value}))
        wanted |= refs(decode(json.dumps({"refs": {key: value}}, indent=3).encode()))
    assert refs(decode(together.encode())) == wanted


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", ErrorKind.CORRUPT_METADATA),
        (b"{", ErrorKind.CORRUPT_METADATA),
        (b'{"a": }', ErrorKind.CORRUPT_METADATA),
        (b'{"a": 1} x', ErrorKind.CORRUPT_METADATA),
        (b'{"a" 1}', ErrorKind.CORRUPT_METADATA),
        (b'{"a": 1,}', ErrorKind.CORRUPT_METADATA),
        (b'{"a": ' + b"[" * 100_000, ErrorKind.CORRUPT_METADATA),
        (b'{"a": ' + b"1" * 5000 + b"}", ErrorKind.CORRUPT_METADATA),
        (b'{"\xff": 1}', ErrorKind.CORRUPT_METADATA),
        (b"[{}]", ErrorKind.UNSUPPORTED_FORMAT),
        (b'{"version": 2, "refs": {}}', ErrorKind.UNSUPPORTED_FORMAT),
        (b'{"version": 1.5}', ErrorKind.UNSUPPORTED_FORMAT),
        (gzip.compress(b"{}", mtime=0)[:-3], ErrorKind.CORRUPT_METADATA),
        (zstandard.compress(b"{}" * 100)[:-3], ErrorKind.CORRUPT_METADATA),
    ],
)
def test_a_file_that_is_none_of_references_is_refused(data: bytes, kind: ErrorKind) -> None:
    """A file that is no JSON object, damaged, or of another version is refused as such."""
    with pytest.raises(FormatError) as refused:
        decode(data)
    assert refused.value.kind is kind


@pytest.mark.parametrize(
    "pack",
    [bytes, gzip.compress, zstandard.compress, lambda data: b"\xef\xbb\xbf" + data],
    ids=["plain", "gzip", "zstd", "mark"],
)
def test_compressed_files_are_read_and_recognized(pack: Any) -> None:
    """A file may be compressed by gzip or Zstandard, and begin with a byte order mark."""
    data = pack(json.dumps({"version": 1, "refs": {"a/0": ["s3://b/x", 1, 2]}}).encode())
    assert refs(decode(data)) == {"a/0": ["s3://b/x", 1, 2]}
    assert looks_like_kerchunk(data)


def test_compressed_files_are_bounded() -> None:
    """A small file that unpacks to more than a file may have is refused."""
    for pack in (gzip.compress, zstandard.compress):
        with pytest.raises(FormatError, match="more than 1000 bytes"):
            decode(pack(b"{" + b" " * 10_000 + b"}"), limit=1000)


@pytest.mark.parametrize(
    ("head", "is_one"),
    [
        (b'{"version": 1, "refs": {', True),
        (b' {"refs" : {"x', True),
        (b'{"templates": {"u": "s3:', True),
        (b'{".zgroup": "{', True),
        (b'{"a\\/.zarray": "{', True),
        (b'{"a/zarr.json": {', True),
        (b'{"a/0": ["s3://b/x", 0, 10], ', True),
        (b'{"zarr_format": 3, "node_type": "group"}', False),
        (b'{"type": "FeatureCollection", "features": [', False),
        (b'{"version": "1.0", "x": 1}', False),
        (b'[{"version": 1}]', False),
        (b"\x89HDF\r\n\x1a\n", False),
        (b"\x1f\x8bnonsense", False),
        (b"\x28\xb5\x2f\xfdnonsense", False),
        (b"", False),
    ],
)
def test_references_are_recognized_by_their_beginning(head: bytes, is_one: bool) -> None:
    """The first bytes tell references from other JSON, and from what is none."""
    assert looks_like_kerchunk(head) is is_one


# -- templates -----------------------------------------------------------------------------------

VALUES = {"i": 7, "j": -3, "u": "server/path", "name": "x y"}


@pytest.mark.parametrize(
    "text",
    ["", "plain", "{{u}}", "http://{{ u }}/{{i}}.nc", "{{(i + 1) * 1000}}", "{{ 2780 + i * 103044 }}",
     "{{i - j}}", "{{i // 2}}_{{i % 4}}", "{{ -i }}", "{{ u ~ '_' ~ i }}",
     "{{'%02d' % i}}", "{{ '%05d_%%' % i }}", "{{'{:03d}'.format(i)}}", "{{ '{}-{}'.format(u, i) }}",
     "{{'{1:02d}{0}'.format(u, i)}}", "{{ '%03d'|format(i) }}", "{{ '%s.%d' | format(u, i) }}",
     "{{ 'a' + \"b\" }}", "{{ i+j*2-1 }}", "{{((i))}}", "}} {", "{{'{{}}'.format()}}", "x\n", "{{u}}\n"],
)  # fmt: skip
def test_templates_are_rendered_as_jinja_renders_them(text: str) -> None:
    """What the subset has is rendered as Jinja renders it."""
    wanted = jinja2.Environment().from_string(text).render(**VALUES)
    assert Template(text).render(VALUES) == wanted


def test_parameterised_templates_are_called() -> None:
    """A template with expressions takes its values by name, where it is used."""
    values = {**VALUES, "f": Template("{{c}}-{{n + 1}}"), "g": Template("<{{c}}>")}
    assert Template("{{f(c='text', n=i)}}").render(values) == "text-8"
    assert Template("{{ f(c=g(c=u), n = 1) }}").render(values) == "<server/path>-2"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{{x}}", "'x' is not defined"),
        ("{{f}}", "without its arguments"),
        ("{{f()}}", "'c' is not defined"),
        ("{{-i}}", "'{{-'"),
        ("{{+ i}}", "is not supported"),
        ("{{i -}}", "ends early"),
        ("{{ u ~ i + 1 }}", "no integer"),
        ("{{u()}}", "takes no arguments"),
        ("{{f('text')}}", "by name alone"),
        ("{% if i %}x{% endif %}", "'{%'"),
        ("{# x #}", "'{#'"),
        ("{{i / 2}}", "'/'"),
        ("{{i ** 2}}", "'**'"),
        ("{{i // 0}}", "by zero"),
        ("{{i | upper}}", "the filter 'upper'"),
        ("{{u.upper()}}", "the attribute 'upper'"),
        ("{{u.__class__}}", "the attribute '__class__'"),
        ("{{u[0]}}", r"'\[0\]}}'"),
        ("{{i if j else u}}", "'if'"),
        ("{{1.5}}", "'1.5}}'"),
        ("{{'a' * 3}}", "no integer"),
        ("{{" + "9" * 19 + "}}", "18 digits"),
        ("{{" + " * ".join(["999999999999999999"] * 2) + "}}", "64 bits"),
        ("{{i", "'}}' is missing"),
        ("{{}}", "ends early"),
        ("{{" + "(" * 100 + "1" + ")" * 100 + "}}", "too deeply"),
        ("{{ '%x' % i }}", "format '%x'"),
        ("{{ '%d' | format() }}", "too few"),
        ("{{ '%d' | format(1, 2) }}", "too many"),
        ("{{ '{0.real}'.format(i) }}", "not supported"),
        ("x" * 10_000, "characters"),
        ("{{f(c=" + "f(c=" * 20 + "u" + ")" * 21 + "}}", "characters"),
    ],
)
def test_what_the_subset_has_not_is_refused_by_name(text: str, words: str) -> None:
    """What Jinja has beyond the subset is refused and named, and nothing grows without bounds."""
    values = {**VALUES, "f": Template("{{c}}{{c}}{{c}}{{c}}")}
    with pytest.raises(TemplateProblem, match=words.replace("*", r"\*").replace("(", r"\(")):
        Template(text).render(values)


def test_locations_are_expanded_wherever_templates_stand() -> None:
    """Templates may follow the references that use them; a location that cannot be expanded is unreadable."""
    found = refs(
        decode(
            {
                "version": 1,
                "refs": {
                    "a/0": ["{{u}}/x.nc", 1, 2],
                    "a/1": ["s3://{{f(c='text')}}/y"],
                    "a/2": ["s3://b/{{v}}", 3, 4],
                    "a/3": ["{{i / 2}}"],
                },
                "templates": {"u": "s3://bucket/path", "f": "{{c}}"},
            }
        )
    )
    assert found["a/0"] == ["s3://bucket/path/x.nc", 1, 2]
    assert found["a/1"] == ["s3://text/y"]
    reason = "unreadable: its location cannot be expanded: "
    assert found["a/2"] == [reason + "'v' is not defined", 3, 4]
    assert found["a/3"] == [reason + "the operator '/' is not supported in templates"]


def test_templates_that_are_given_to_others_call_nothing() -> None:
    """A template called with itself would have no end, and few called with each other one that nobody sees."""
    templates = {"f": "{{ g(g=g) }}", "e": "{{ n(n=n) }}" * 2, "n": "{{ '' }}"}
    found = refs(
        decode(
            {
                "version": 1,
                "templates": templates,
                "refs": {
                    "a/0": ["{{ f(g=f) }}"],
                    "a/1": ["{{ e(n=n) }}"],
                    "a/2": ["s3://b/{{'x'}}"],
                },
            }
        )
    )
    without = "a parameterised template is used without its arguments"
    assert without in found["a/0"][0]
    assert without in found["a/1"][0]
    assert found["a/2"] == ["s3://b/x"]


def test_long_expressions_are_a_problem_of_their_template() -> None:
    """An expression of thousands of parts is refused like others that cannot be rendered."""
    with pytest.raises(TemplateProblem, match="too many parts"):
        Template("{{" + "+".join(["1"] * 4000) + "}}").render({})


def test_what_templates_become_is_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Templates of one file are rendered from and to so many characters, whether generated or not."""
    monkeypatch.setattr(rendering, "MAX_RENDERED", 20_000)
    templates = {"f": "{{c}}" + "x" * 5000}
    urls = [f"{{{{f(c='{i}')}}}}" for i in range(4)]
    said = {f"a/{i}": [url] for i, url in enumerate(urls)}
    found = refs(decode({"version": 1, "templates": templates, "refs": said}))
    assert ["more than 20000 characters" in found[key][0] for key in said] == [
        False,
        True,
        True,
        True,
    ]
    entry = {"key": "a/{{i}}" + "x" * 5000, "url": "u", "dimensions": {"i": {"stop": 4}}}
    with pytest.raises(FormatError, match="more than 20000 characters"):
        decode({"version": 1, "gen": [entry], "refs": {}})


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gzip", "zstd"])
def test_no_more_is_unpacked_than_is_read(pack: Callable[[bytes], bytes]) -> None:
    """A compressed file that has more text than is taken is refused without the memory that all of it takes."""
    data = pack(b" " * 2**26)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="more than 1000 bytes"):
            decode(data, limit=1000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**22


def test_folders_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short file may name very many groups or arrays: it is refused before all are in memory."""
    monkeypatch.setattr(jsonfile, "MAX_FOLDERS", 10)
    for values in (
        {f"{i}/.zgroup": "{}" for i in range(11)},
        {f"{i}/.zgroup": ["u"] for i in range(11)},
        {f"{i}/0": "x" for i in range(11)},
        {f"{i}/0": ["u", 0, 1] for i in range(11)},
    ):
        with pytest.raises(FormatError, match="more than 10 groups and arrays"):
            decode(values)
        assert decode(dict(list(values.items())[:10]))
    metadata = {f"{i}/.zgroup": {} for i in range(11)}
    said = json.dumps({"metadata": metadata, "record_size": 1}).encode()
    with pytest.raises(FormatError, match="more than 10 groups and arrays"):
        decode_metadata(said)


def test_groups_that_only_paths_name_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are many nodes, one in groups that have no documents is left out, by name."""
    monkeypatch.setattr(documents, "MAX_NODES", 10)
    group = b'{"zarr_format":2}'
    names = [f"{i}/a/b" for i in range(5)]
    found = documents.read_nodes({name: {".zgroup": group} for name in names}, whole)
    assert [o.path for o in found.omissions] == [f"/{name}" for name in names[3:]]
    assert "there are 10 nodes" in found.omissions[0].reason


def test_version_0_has_no_templates() -> None:
    """In version 0 braces are part of a location."""
    assert refs(decode({"a/0": ["s3://b/{{u}}", 0, 1]})) == {"a/0": ["s3://b/%7B%7Bu%7D%7D", 0, 1]}


# -- what is generated ---------------------------------------------------------------------------

SPEC = {
    "version": 1,
    "templates": {"u": "server.domain/path", "f": "{{c}}"},
    "gen": [
        {
            "key": "gen_key{{i}}",
            "url": "http://{{u}}_{{i}}",
            "offset": "{{(i + 1) * 1000}}",
            "length": "1000",
            "dimensions": {"i": {"stop": 5}},
        },
        {
            "key": "a/{{i}}.{{j}}",
            "url": "http://{{f(c='text')}}/{{j}}",
            "dimensions": {"i": {"start": 4, "stop": 0, "step": -2}, "j": [5, 1]},
        },
    ],
    "refs": {
        "key0": "data",
        "key1": ["http://target_url/x", 10000, 100],
        "key2": ["http://{{u}}", 10000, 100],
        "key3": ["http://{{f(c='text')}}/x", 10000, 100],
    },
}
"""The example of kerchunk's specification, and a product of dimensions."""


def test_what_is_generated_is_what_fsspec_generates() -> None:
    """The example of the specification gives what fsspec makes of it, if it is told to look at `gen`."""
    system = fsspec.filesystem("reference", fo=json.loads(json.dumps(SPEC)), simple_templates=False)
    wanted = {k: v.encode() if isinstance(v, str) else v for k, v in system.references.items()}
    assert refs(decode(SPEC)) == wanted
    assert len(wanted) == 4 + 5 + 4
    unasked = fsspec.filesystem("reference", fo={**SPEC, "templates": {}, "refs": {}})
    assert dict(unasked.references) == {}, "fsspec looks at 'gen' unasked by now"


def generating(**fields: object) -> dict[str, object]:
    entry: dict[str, object] = {
        "key": "a/{{i}}",
        "url": "s3://b/x",
        "dimensions": {"i": {"stop": 3}},
    }
    entry |= fields
    return {"version": 1, "gen": [{k: v for k, v in entry.items() if v is not None}]}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"key": "a/{{k}}"}, "'k' is not defined"),
        ({"key": "a/{{i / 2}}"}, "operator '/'"),
        ({"key": None}, "lacks 'key'"),
        ({"offset": "1"}, "belong together"),
        ({"offset": "{{ -i }}", "length": "1"}, "'-1'"),
        ({"offset": "x", "length": "1"}, "'x'"),
        ({"offset": "\u0663", "length": "1"}, "no number"),
        ({"dimensions": {}}, "no dimensions"),
        ({"dimensions": {"i": {"start": 1}}}, "neither a range"),
        ({"dimensions": {"i": {"stop": 5, "step": 0}}}, "neither a range"),
        ({"dimensions": {"i": {"stop": 1.5}}}, "neither a range"),
        ({"dimensions": {"i": {"stop": 2**70}}}, "neither a range"),
        ({"dimensions": {"i": [1.5]}}, "neither a range"),
        ({"dimensions": {"i": {"stop": 2**40}}}, "more references"),
        ({"dimensions": {str(n): {"stop": 2} for n in range(32)}}, "more references"),
    ],
)
def test_what_cannot_be_generated_refuses_the_file(fields: dict[str, object], words: str) -> None:
    """Where nobody can know which keys an entry makes, the file is refused, and the reason named."""
    with pytest.raises(FormatError, match=words):
        decode(generating(**fields))


def test_generated_references_are_bounded_before_they_are_made() -> None:
    """More references than are taken from one file are refused, and of no combination nothing is made."""
    dimensions = {"i": {"stop": 2**61}, "j": []}
    assert refs(decode(generating(dimensions=dimensions))) == {}
    assert len(refs(decode(generating(), max_generated=3))) == 3
    with pytest.raises(FormatError, match="more references"):
        decode(generating(), max_generated=2)


# -- locations -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "folder", "location"),
    [
        ("s3://b/k", "s3://x/y", "s3://b/k"),
        ("s3://b/a b#1 100%.nc", "s3://x/y", "s3://b/a%20b%231%20100%25.nc"),
        ("gs://b/a%20b", "s3://x/y", "gs://b/a%2520b"),
        ("s3://b/a::b", "s3://x/y", "s3://b/a::b"),
        ("https://h/a%20b", "s3://x/y", "https://h/a%20b"),
        ("/data/a b#1.nc", "s3://x/y", "file:///data/a%20b%231.nc"),
        ("file:///data/a b%20.nc", "s3://x/y", "file:///data/a%20b%2520.nc"),
        ("local:///data/x", "s3://x/y", "file:///data/x"),
        ("file:/data/x", "s3://x/y", "file:///data/x"),
        ("x.nc", "s3://x/y", "s3://x/y/x.nc"),
        ("./a b/x.nc", "s3://x/y", "s3://x/y/a%20b/x.nc"),
        ("../x.nc", "s3://x/y/z", "s3://x/y/x.nc"),
        ("../../x.nc", "file:///y/z", "file:///x.nc"),
        ("x.nc", "https://h/y", "https://h/y/x.nc"),
        ("simplecache::s3://b/k", "s3://x/y", "s3://b/k"),
        ("filecache::blockcache::https://h/k", "s3://x/y", "https://h/k"),
    ],
)
def test_a_location_is_what_fsspec_takes_it_for(text: str, folder: str, location: str) -> None:
    """Keys and paths are verbatim, those of web servers are encoded, and relative ones begin at the references."""
    found = location_of(text, parse_prefix(folder))
    assert found == location
    parse_location(found)


@pytest.mark.parametrize(
    "text",
    ["", ".", "..", "../../../x", "zip://x.nc::s3://b/k.zip", "zip::s3://b/k", "simplecache::zip::s3://b/k",
     "s3://b/k?versionId=3", "s3://b/\ud800", "\ud800", "/\ud800x", "ftp://h/k", "https://h/k?token=1"],
)  # fmt: skip
def test_a_location_that_no_url_names_is_refused_when_it_is_read(text: str) -> None:
    """Chains of file systems, versions, and what leads nowhere are locations that nobody can read."""
    with pytest.raises(AccessDenied):
        parse_location(location_of(text, FOLDER))


# -- chunk keys ----------------------------------------------------------------------------------

_ENCODINGS = [ChunkKeyEncoding(style, separator) for style in KeyStyle for separator in ("/", ".")]


@pytest.mark.parametrize("encoding", _ENCODINGS, ids=str)
@given(
    st.lists(st.integers(1, 12), max_size=4).map(tuple),
    st.lists(st.lists(st.integers(0, 14), max_size=5).map(tuple), max_size=20),
    st.lists(st.text("0123456789./c\n-x\u0663", max_size=6), max_size=3),
)
def test_many_keys_are_read_as_each_alone(
    encoding: ChunkKeyEncoding,
    shape: tuple[int, ...],
    written: list[tuple[int, ...]],
    others: list[str],
) -> None:
    """Chunk keys that are read together give what each gives alone; what names no chunk gives none."""
    grid = ChunkGrid(shape)
    good = [encoding.encode(coords) for coords in written]
    for keys in (good, good + others):
        coordinates = [encoding.decode(key, len(shape)) for key in keys]
        wanted = [-1 if c is None or not grid.contains(c) else grid.ravel(c) for c in coordinates]
        assert flat_indices(keys, grid, encoding).tolist() == wanted


def test_huge_coordinates_name_no_chunk() -> None:
    """Coordinates far outside of a huge grid do not wrap around into it."""
    grid = ChunkGrid((2**31, 2**31))
    encoding = ChunkKeyEncoding(KeyStyle.V2, ".")
    keys = [
        "999999999999999999.0",
        "0.999999999999999999",
        "9" * 19 + ".0",
        "2147483647.2147483647",
    ]
    assert flat_indices(keys, grid, encoding).tolist() == [-1, -1, -1, 2**62 - 1]
    assert flat_indices(keys[:2] + keys[3:], grid, encoding).tolist() == [-1, -1, 2**62 - 1]


# -- partitions ----------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 5), max_size=4).map(tuple), st.integers(1, 40))
def test_partitions_speak_for_boxes_of_the_grid(shape: tuple[int, ...], record_size: int) -> None:
    """The regions of a partition hold exactly its chunks, and there are few of them."""
    grid = ChunkGrid(shape)
    numbers = np.arange(grid.size).reshape(shape)
    seen: list[int] = []
    for partition in range(count_partitions(grid, record_size)):
        boxes = regions(grid, record_size, partition)
        assert len(boxes) <= max(2 * len(shape) - 1, 1)
        for box in boxes:
            seen += (
                numbers[tuple(slice(low, high) for low, high in box.ranges)].reshape(-1).tolist()
            )
        assert len(seen) == min((partition + 1) * record_size, grid.size)
    assert seen == sorted(seen) == list(range(grid.size))


@pytest.mark.parametrize(
    ("data", "is_one"),
    [
        ({"metadata": {".zgroup": {"zarr_format": 2}}, "record_size": 10}, True),
        ({"metadata": {}, "zarr_consolidated_format": 1}, False),
        ([], False),
    ],
)
def test_consolidated_metadata_of_zarr_are_no_references(data: object, is_one: bool) -> None:
    """A `.zmetadata` without a record size is Zarr's own."""
    assert (decode_metadata(json.dumps(data).encode()) is not None) is is_one


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "10", 2**40])
def test_a_bad_record_size_is_refused(size: object) -> None:
    """A record size that is no number of rows is refused."""
    with pytest.raises(FormatError, match="record size"):
        decode_metadata(json.dumps({"metadata": {}, "record_size": size}).encode())


def test_documents_are_kept_byte_for_byte() -> None:
    """Documents in `.zmetadata` are kept as they are written there, and other keys are named."""
    data = b'{"metadata": {"a/.zarray": { "shape" : [1] }, "b/.zattrs": "{\\"x\\": 1}", "a/0": "x"}, "record_size": 5}'
    found = decode_metadata(data)
    assert found is not None
    assert found.documents == {
        "a": {".zarray": b'{ "shape" : [1] }'},
        "b": {".zattrs": b'{"x": 1}'},
    }
    assert (found.record_size, found.others) == (5, ["a/0"])
