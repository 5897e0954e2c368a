"""Names of views, and the arithmetic of forms."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzfs.errors import ErrorKind, FormatError
from vzfs.views.forms import MAX_BLOCK, Decoded, Framed
from vzfs.views.view import ALL, View, ViewName

nbytes = st.integers(1, 1000) | st.integers(1, MAX_BLOCK)
frames = st.builds(
    Framed,
    nbytes=nbytes,
    cname=st.sampled_from(["zlib", "lz4", "zstd"]),
    typesize=st.integers(1, 255),
    is_shuffled=st.booleans(),
    skip=st.sampled_from([0, 4]),
    cut=st.sampled_from([0, 4]),
    is_raw=st.booleans(),
)
lengths = st.integers(0, 2000) | st.integers(0, 2**63 - 1)


def test_there_are_six_views_each_with_a_name() -> None:
    """A view is named by what is done and the version, and its name leads back to it."""
    assert [str(view) for view in ALL] == [
        "stored-v3", "portable-v3", "decoded-v3", "stored-v2", "portable-v2", "decoded-v2",
    ]  # fmt: skip
    assert [View.parse(str(view)) for view in ALL] == list(ALL)
    assert View.parse("decoded-v2", consolidated=False) == (ViewName.DECODED, 2, False)
    assert [view.is_verbatim for view in ALL] == [True, False, False, False, False, False]


@pytest.mark.parametrize("name", ["", "portable", "portable-v4", "Portable-v3", "portable-v3 "])
def test_another_name_is_no_view(name: str) -> None:
    """A name that is none of them is refused, and the message says which there are."""
    with pytest.raises(ValueError, match="there are stored-v3, portable-v3"):
        View.parse(name)


@given(frames, st.lists(lengths))
def test_sizes_of_many_are_those_of_each(form: Framed, several: list[int]) -> None:
    """The sizes of a column of chunks are what each of them has, also beside the chunk's own length."""
    several += [form.nbytes + form.skip + form.cut + n for n in (-1, 0, 1)]
    column = np.array(several, np.int64)

    assert form.sizes(column).dtype == np.int64
    assert form.sizes(column).tolist() == [form.size(n) for n in several]
    assert column.tolist() == several


@given(frames, lengths)
def test_a_frame_has_the_size_that_is_said(form: Framed, length: int) -> None:
    """A frame is as long as its size says, takes bytes of the chunk alone, and its header counts both."""
    try:
        head, inner, tail = form.frame(length)
    except FormatError:
        return
    assert len(head) + inner.length + len(tail) == form.size(length)
    assert 0 <= inner.offset <= inner.end <= length
    assert struct.unpack("<iii", head[4:16]) == (form.nbytes, form.nbytes, form.size(length))
    assert struct.unpack("<ii", head[16:]) == (20, inner.length + len(tail))


@pytest.mark.parametrize(
    ("form", "length"),
    [
        (Framed(8, "zlib", 1, is_shuffled=False), 0),
        (Framed(8, "zlib", 1, is_shuffled=False, cut=4), 4),
        (Framed(8, "lz4", 1, is_shuffled=False, skip=4), 3),
        (Framed(8, "zlib", 2, is_shuffled=True, is_raw=True), 7),
        (Framed(8, "zlib", 2, is_shuffled=True, is_raw=True), 9),
    ],
)
def test_a_chunk_that_contradicts_its_codecs_has_no_frame(form: Framed, length: int) -> None:
    """A stored chunk that cannot be what the codecs say is an error that names its length."""
    with pytest.raises(FormatError, match=f"a chunk of {length} bytes") as error:
        form.frame(length)
    assert error.value.kind is ErrorKind.CORRUPT_METADATA


@pytest.mark.parametrize("length", [2**31 - 24, 2**40])
def test_a_buffer_of_blosc_has_two_gigabytes_at_most(length: int) -> None:
    """A chunk that would make a larger buffer has no frame; the largest that fits has one."""
    form = Framed(100, "zlib", 1, is_shuffled=False)

    with pytest.raises(FormatError, match="cannot be framed"):
        form.frame(length)
    assert form.size(length) == length + 24
    assert form.frame(2**31 - 25).inner == (0, 2**31 - 25)


@given(st.integers(1, 2**40), st.lists(lengths))
def test_decoded_chunks_are_all_of_one_size(size: int, several: list[int]) -> None:
    """How long stored chunks are says nothing about decoded ones."""
    form = Decoded(size, b"{}")

    assert form.sizes(np.array(several, np.int64)).tolist() == [size] * len(several)
    assert all(form.size(n) == size for n in several)


def test_the_digest_names_the_specification() -> None:
    """Forms with one specification have one digest, and others another."""
    specs = [json.dumps(spec).encode() for spec in ({"shape": [1]}, {"shape": [2]})]
    digests = [Decoded(4, spec).digest for spec in specs]

    assert digests == [Decoded(8, spec).digest for spec in specs]
    assert len(set(digests)) == 2
    assert all(int(d, 16) for d in digests)
