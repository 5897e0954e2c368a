"""Repositories of one snapshot: references that are known whole."""

from collections.abc import Mapping

import pytest
import trio

from vzfs.errors import ErrorKind, RepositoryError
from vzfs.model.chunkgrid import ChunkGrid, ChunkKeyEncoding
from vzfs.model.location import parse_location
from vzfs.model.manifest import ChunkKind, ChunkRef, Manifest
from vzfs.model.references import ManifestBuilder, References, array_id, whole
from vzfs.model.snapshot import Array, RefSpec, WantedArray
from vzfs.repository import check_out
from vzfs.repository.fixed import MAX_FOLDERS, FixedRepository, containers_of


def leading_to(*urls: str) -> References:
    """Return an array of which each chunk lies in another object."""
    builder = ManifestBuilder()
    for flat, url in enumerate(urls):
        builder.add(flat, ChunkRef(ChunkKind.VIRTUAL, 1, url))
    grid = ChunkGrid((len(urls),))
    node = Array(
        path="/x",
        documents={},
        id=array_id("/x"),
        grid=grid,
        key_encoding=ChunkKeyEncoding(),
        manifests=whole("x", grid),
    )
    return References((node,), {node.id: builder.build()})


REPOSITORY = FixedRepository(
    leading_to("s3://b/x/1"), format="a fake", where="s3://b", state="ab12", written_at=7
)


@pytest.mark.parametrize("ref", [RefSpec(), RefSpec(branch="main"), RefSpec(snapshot="aB1")])
async def test_there_is_one_snapshot(ref: RefSpec) -> None:
    """What asks for no special snapshot, or for that one, gets the one there is."""
    assert await REPOSITORY.resolve(ref) == "AB12"
    assert (await REPOSITORY.snapshot("AB12")).written_at == 7
    assert [info.id async for info in REPOSITORY.history("AB12")] == ["AB12"]


@pytest.mark.parametrize(
    "ref", [RefSpec(branch="dev"), RefSpec(tag="v1"), RefSpec(snapshot="C"), RefSpec(as_of=5)]
)
async def test_there_is_no_other(ref: RefSpec) -> None:
    """Branches, tags, times and other ids are refused, since nobody could tell what they mean."""
    with pytest.raises(RepositoryError):
        await REPOSITORY.resolve(ref)
    with pytest.raises(RepositoryError):
        await REPOSITORY.snapshot("C")


class Broken(FixedRepository):
    """A repository whose manifests are read by code with a bug."""

    async def manifest(
        self, manifest_id: str, wanted: Mapping[bytes, WantedArray]
    ) -> Mapping[bytes, Manifest]:
        raise TypeError("unhashable type: 'dict'")


async def test_a_bug_costs_one_manifest(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever raises where a manifest is read is logged and fails its chunks, and ends no preloading."""
    repository = Broken(
        leading_to("s3://b/x/1"), format="a fake", where="s3://b", state="ab12", written_at=7
    )
    checkout = await check_out(repository, RefSpec())
    async with trio.open_nursery() as nursery:
        await nursery.start(checkout.preload)
    (node,) = checkout.snapshot.nodes
    assert isinstance(node, Array)
    with pytest.raises(RepositoryError) as caught:
        checkout.refs(node).find((0,))
    assert caught.value.kind is ErrorKind.BUG
    assert "unhashable" in caplog.text


def test_where_references_lead_is_known() -> None:
    """The folders that references lead to are its containers; where they are many, the buckets are."""

    def places(*urls: str) -> list[str] | None:
        found = containers_of(leading_to(*urls))
        return None if found is None else [container.url_prefix for container in found]

    assert places("s3://b/x/1", "s3://b/x/2", "file:///d/y", "no url") == [
        "file:///d/",
        "s3://b/x/",
    ]
    many = [f"s3://b/{i}/1" for i in range(MAX_FOLDERS + 1)]
    assert places(*many) == ["s3://b/"]
    assert places(*(f"s3://b{i}/1" for i in range(MAX_FOLDERS + 1))) is None
    assert places("file:///x") is None


def test_files_that_were_named_need_no_container() -> None:
    """Where the user named the files, they may be read by that."""
    named = [parse_location("s3://b/x/1")]
    repository = FixedRepository(
        leading_to("s3://b/x/1"),
        format="a file",
        where="s3://b",
        state="ab",
        written_at=0,
        named=named,
    )
    assert repository.containers is None
    assert repository.named == named
