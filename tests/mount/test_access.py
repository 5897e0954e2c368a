"""Nothing is read that the user did not allow."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import icechunk
import pytest
import zarr

from tests.mount.conftest import Mount
from tests.mount.outcomes import read, walk, xattrs
from tests.mount.repositories import (
    Ref,
    add_native,
    add_virtual,
    create,
    open_for_writing,
    pattern,
    write_virtual,
)
from tests.servers import ObjectServer, redirect, status

DATA = pattern(3000)
REFUSED = r"reading here is not allowed"


@pytest.fixture(name="server")
def _server() -> Iterator[ObjectServer]:
    with ObjectServer() as server:
        yield server


def s3_options(server: ObjectServer) -> list[str]:
    return ["--endpoint", server.url, "--allow-http", "--anonymous", "--region", "us-east-1"]


def put_file(path: Path, data: bytes = DATA) -> str:
    """Write a source file and return its URL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path.as_uri()


def test_without_allow_only_the_repositorys_own_bytes_are_readable(
    tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """Without --allow, metadata, native and inline chunks are readable; virtual ones are listed, and EACCES at READ."""
    location = put_file(tmp_path / "archive" / "source")
    prefix = f"{(tmp_path / 'archive').as_uri()}/"
    path = tmp_path / "repository"
    repository = create(path, containers=[prefix], inline=16)
    session = repository.writable_session("main")
    root = zarr.group(session.store)
    add_virtual(session, root, "virtual", [Ref(location, 0, 1000), Ref(location, 1000, 1000)])
    add_native(root, "native", zarr.array([7] * 100, dtype="u1")[...], (50,))
    add_native(root, "inline", zarr.array([9] * 10, dtype="u1")[...], (10,))
    session.commit("all kinds")
    mounted = mount(path)
    assert b'"zarr_format"' in (mounted.path / "zarr.json").read_bytes()
    assert read(mounted.path / "native/c/1") == bytes([7] * 50)
    assert read(mounted.path / "inline/c/0") == bytes([9] * 10)
    kinds = {n: xattrs(mounted.path / n / "c/0")["kind"] for n in ("native", "inline", "virtual")}
    assert kinds == {n: n for n in kinds}
    for chunk in ("0", "1", "0"):
        assert (mounted.path / "virtual/c" / chunk).stat().st_size == 1000
        assert read(mounted.path / "virtual/c" / chunk) == "EACCES"
    mounted.expect_log(REFUSED)
    assert len(mounted.warnings()) == 1
    assert f"--allow {prefix}" in mounted.warnings()[0]


def test_a_prefix_ends_at_a_whole_path_segment(
    tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """Allowing s3://b/data does not open s3://b/database, nor s3://b/data.bak, nor another bucket."""
    for key in ("b/data/x", "b/database/x", "b/data.bak/x", "c/data/x"):
        server.put(key, DATA)
    refs = [Ref(f"s3://{k}", 0, 100) for k in ("b/data/x", "b/database/x", "b/data.bak/x")]
    path = write_virtual(
        tmp_path / "repository",
        {"a": [*refs, Ref("s3://c/data/x", 0, 100)]},
        containers=["s3://b/", "s3://c/"],
    )
    for allowed in ("s3://b/data", "s3://b/data/"):
        server.forget_requests()
        mounted = mount(path, "--allow", allowed, *s3_options(server))
        assert read(mounted.path / "a/c/0") == DATA[:100]
        assert [read(mounted.path / f"a/c/{n}") for n in (1, 2, 3)] == ["EACCES"] * 3
        assert {r.key for r in server.requests} == {"b/data/x"}
        mounted.expect_log(REFUSED)


@pytest.mark.parametrize(
    "way", ["../secret", "%2e%2e/secret", "%2E%2E%2Fsecret", "sub/../../secret", "./../secret"]
)
def test_dots_do_not_leave_a_file_prefix(
    way: str, tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """However `..` is written, a location outside the allowed folder is EACCES."""
    put_file(tmp_path / "archive/sub/source")
    put_file(tmp_path / "secret")
    prefix = f"{(tmp_path / 'archive').as_uri()}/"
    path = write_virtual(
        tmp_path / "repository",
        {"a": [Ref(prefix + way, 0, 100)]},
        containers=[prefix, f"{tmp_path.as_uri()}/"],
    )
    mounted = mount(path, "--allow", prefix)
    assert read(mounted.path / "a/c/0") == "EACCES"
    mounted.expect_log(REFUSED)


def test_links_do_not_leave_a_file_prefix_and_work_inside_it(
    tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """A link out of the allowed folder is EACCES, of a file or of a folder; one that stays inside is followed."""
    archive = tmp_path / "archive"
    put_file(archive / "sub/source")
    put_file(tmp_path / "outside/secret")
    (archive / "file-out").symlink_to(tmp_path / "outside/secret")
    (archive / "relative-out").symlink_to("../outside/secret")
    (archive / "folder-out").symlink_to(tmp_path / "outside")
    (archive / "up").symlink_to("..")
    (archive / "file-in").symlink_to("sub/source")
    (archive / "folder-in").symlink_to("sub")
    (archive / "sub/back").symlink_to("../sub/source")
    outside = ["file-out", "relative-out", "folder-out/secret", "up/outside/secret"]
    inside = ["file-in", "folder-in/source", "sub/back"]
    prefix = f"{archive.as_uri()}/"
    path = write_virtual(
        tmp_path / "repository",
        {"a": [Ref(prefix + name, 0, 100) for name in [*outside, *inside]]},
        containers=[prefix],
    )
    mounted = mount(path, "--allow", prefix)
    found = [read(mounted.path / f"a/c/{n}") for n in range(len(outside) + len(inside))]
    assert found == ["EACCES"] * len(outside) + [DATA[:100]] * len(inside)
    mounted.expect_log("a link leads out")


def test_a_link_that_turns_outwards_while_mounted_is_not_followed(
    tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """A folder of the archive that becomes a link to elsewhere after the mount gives no bytes from there."""
    archive = tmp_path / "archive"
    location = put_file(archive / "sub/source")
    put_file(tmp_path / "outside/source", pattern(3000, 1))
    path = write_virtual(
        tmp_path / "repository",
        {"a": [Ref(location, 0, 100), Ref(location, 100, 100)]},
        containers=[f"{archive.as_uri()}/"],
    )
    mounted = mount(path, "--allow", str(archive))
    assert read(mounted.path / "a/c/0") == DATA[:100]
    (archive / "sub").rename(tmp_path / "moved")
    (archive / "sub").symlink_to(tmp_path / "outside")
    assert read(mounted.path / "a/c/1") == "EACCES"
    mounted.expect_log("a link leads out")


def test_special_files_are_not_read(tmp_path: Path, mount: Callable[..., Mount]) -> None:
    """A named pipe, a folder or a device in the place of a source fails at once, and hangs nobody."""
    archive = tmp_path / "archive"
    archive.mkdir()
    os.mkfifo(archive / "pipe")
    (archive / "folder").mkdir()
    prefix = f"{archive.as_uri()}/"
    path = write_virtual(
        tmp_path / "repository",
        {"a": [Ref(prefix + "pipe", 0, 100), Ref(prefix + "folder", 0, 100)]},
        containers=[prefix],
    )
    mounted = mount(path, "--allow", prefix)
    assert [read(mounted.path / f"a/c/{n}") for n in (0, 1)] == ["EIO", "EIO"]
    mounted.expect_log("not a regular file")


@pytest.mark.parametrize("middle", ["//source", "sub//source", "sub/./source", "sub/%2e%2e/source"])
def test_keys_that_a_client_would_normalize_are_refused_in_object_stores(
    middle: str, tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """A key with an empty, `.` or `..` segment is EACCES, never altered: no request is made for any other key."""
    for key in ("b/source", "b/sub/source", "b//source", "b/sub//source"):
        server.put(key, DATA)
    http = server.url + "/b/"
    path = write_virtual(
        tmp_path / "repository",
        {"a": [Ref("s3://b/" + middle, 0, 100), Ref(http + middle, 0, 100)]},
        containers=["s3://b/", http],
    )
    mounted = mount(path, "--allow", "s3://b/", "--allow", http, *s3_options(server))
    assert [read(mounted.path / f"a/c/{n}") for n in (0, 1)] == ["EACCES", "EACCES"]
    assert server.requests == []
    mounted.expect_log("the location is refused")


def test_doubled_slashes_in_a_file_location_stay_beneath_the_prefix(
    tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """`//` in a file: location means one slash, and never the root of the machine."""
    put_file(tmp_path / "archive/sub/source")
    prefix = f"{(tmp_path / 'archive').as_uri()}/"
    path = write_virtual(
        tmp_path / "repository",
        {"a": [Ref(prefix + "sub//source", 0, 100), Ref(prefix + "//etc/hostname", 0, 1)]},
        containers=[prefix],
    )
    mounted = mount(path, "--allow", prefix)
    assert read(mounted.path / "a/c/0") == DATA[:100]
    assert read(mounted.path / "a/c/1") == "ESTALE"
    mounted.expect_log("does not exist")


@pytest.mark.parametrize("prefix", ["s3://", "file:///", "file://", "http://"])
def test_containers_without_a_place_authorize_nothing(
    prefix: str, tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """A container that names no bucket, host or path covers nothing, even where the user allows the place."""
    server.put("b/x", DATA)
    local = put_file(tmp_path / "archive/source")
    http = server.url + "/b/x"
    path = write_virtual(
        tmp_path / "repository",
        {"a": [Ref("s3://b/x", 0, 100), Ref(local, 0, 100), Ref(http, 0, 100)]},
        containers=["s3://placeholder/"],
        spec=1,
    )
    config = path / "config.yaml"
    text = config.read_text()
    assert "s3://placeholder/" in text
    config.write_text(text.replace("s3://placeholder/", prefix))
    mounted = mount(
        path,
        *("--allow", "s3://b/", "--allow", str(tmp_path / "archive")),
        *("--allow", server.url + "/b/", *s3_options(server)),
    )
    assert [read(mounted.path / f"a/c/{n}") for n in (0, 1, 2)] == ["EACCES"] * 3
    assert server.requests == []
    mounted.expect_log("no virtual chunk container")


def test_a_location_outside_every_container_is_denied(
    tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """What the user allows but the repository does not declare is EACCES, and the log says whose turn it is."""
    location = put_file(tmp_path / "archive/source")
    path = write_virtual(tmp_path / "repository", {"a": [Ref(location, 0, 100)]})
    mounted = mount(path, "--allow", str(tmp_path))
    assert read(mounted.path / "a/c/0") == "EACCES"
    mounted.expect_log("no virtual chunk container")


def test_an_endpoint_named_by_the_repository_is_not_asked(
    tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """Bytes and credentials go to the user's endpoint; the one in the repository's configuration gets no request."""
    server.put("b/x", DATA)
    with ObjectServer() as stranger:
        stranger.put("b/x", pattern(3000, 1))
        path = write_virtual(
            tmp_path / "repository",
            {"a": [Ref("s3://b/x", 0, 100)]},
            containers={
                "s3://b/": icechunk.s3_store(
                    region="us-east-1",
                    endpoint_url=stranger.url,
                    allow_http=True,
                    force_path_style=True,
                )
            },
        )
        mounted = mount(path, "--allow", "s3://b/", *s3_options(server))
        assert read(mounted.path / "a/c/0") == DATA[:100]
        assert stranger.requests == []
        assert stranger.clients == []


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_out_of_the_prefix_are_refused(
    code: int, tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """A redirect to another host, or out of the allowed folder, gives EACCES, and nobody there is asked."""
    server.put("pub/data/x", DATA)
    server.put("pub/secret", pattern(3000, 1))
    prefix = f"{server.url}/pub/data/"
    path = write_virtual(
        tmp_path / "repository",
        {"a": [Ref(prefix + "x", 0, 100), Ref(prefix + "y", 0, 100), Ref(prefix + "z", 0, 100)]},
        containers=[prefix],
    )
    with ObjectServer() as other:
        other.put("pub/data/x", DATA)
        server.fault("pub/data/x", redirect(f"{other.url}/pub/data/x", code), 99)
        server.fault("pub/data/y", redirect(f"{server.url}/pub/secret", code), 99)
        server.fault("pub/data/z", redirect(f"{prefix}../secret", code), 99)
        mounted = mount(path, "--allow", prefix)
        assert [read(mounted.path / f"a/c/{n}") for n in (0, 1, 2)] == ["EACCES"] * 3
        assert other.clients == []
        assert server.count(key="pub/secret") == 0
        mounted.expect_log("redirect")


def test_redirects_inside_the_prefix_are_followed(
    tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """A redirect that stays below the allowed prefix leads to the bytes."""
    server.put("pub/data/new/x", DATA)
    prefix = f"{server.url}/pub/data/"
    server.fault("pub/data/x", redirect(f"{prefix}new/x"), 99)
    path = write_virtual(
        tmp_path / "repository", {"a": [Ref(prefix + "x", 0, 100)]}, containers=[prefix]
    )
    mounted = mount(path, "--allow", prefix)
    assert read(mounted.path / "a/c/0") == DATA[:100]


@pytest.mark.parametrize("code", [401, 403])
@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_a_source_that_denies_gives_eacces(
    scheme: str, code: int, tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """What a server answers with 401 or 403 is EACCES for the reader, who may ask again later."""
    server.put("b/x", DATA)
    prefix = "s3://b/" if scheme == "s3" else f"{server.url}/b/"
    path = write_virtual(
        tmp_path / "repository", {"a": [Ref(prefix + "x", 0, 100)]}, containers=[prefix]
    )
    server.fault("b/x", status(code), 99)
    mounted = mount(path, "--allow", prefix, *s3_options(server))
    assert read(mounted.path / "a/c/0") == "EACCES"
    mounted.expect_log(rf"{code}|denie")


class TestMap:
    """Relocations: the container is checked on the location as written, the policy on the place really read."""

    def test_a_moved_archive_is_readable(self, tmp_path: Path, mount: Callable[..., Mount]) -> None:
        """--map FROM=TO reads at TO what the repository calls FROM, with TO allowed."""
        put_file(tmp_path / "new/sub/source")
        path = write_virtual(
            tmp_path / "repository",
            {"a": [Ref("s3://old/archive/sub/source", 0, 100)]},
            containers=["s3://old/archive/"],
        )
        new = tmp_path / "new"
        mounted = mount(path, "--map", f"s3://old/archive/={new}", "--allow", str(new))
        assert read(mounted.path / "a/c/0") == DATA[:100]
        about = xattrs(mounted.path / "a/c/0")
        assert about["source"] == "s3://old/archive/sub/source"
        assert about["container"] == "s3://old/archive/"

    def test_what_the_user_allows_is_the_place_really_read(
        self, tmp_path: Path, mount: Callable[..., Mount]
    ) -> None:
        """Allowing FROM does not allow TO, and the log names TO as the prefix to allow."""
        put_file(tmp_path / "new/source")
        path = write_virtual(
            tmp_path / "repository",
            {"a": [Ref("s3://old/archive/source", 0, 100)]},
            containers=["s3://old/archive/"],
        )
        new = tmp_path / "new"
        mounted = mount(path, "--map", f"s3://old/archive={new}", "--allow", "s3://old/archive/")
        assert read(mounted.path / "a/c/0") == "EACCES"
        mounted.expect_log(re.escape(f"--allow {new.as_uri()}/"))

    def test_the_container_is_checked_on_the_location_as_written(
        self, tmp_path: Path, mount: Callable[..., Mount]
    ) -> None:
        """A container that covers TO but not FROM does not make FROM readable."""
        put_file(tmp_path / "new/source")
        new = tmp_path / "new"
        path = write_virtual(
            tmp_path / "repository",
            {"a": [Ref("s3://old/archive/source", 0, 100)]},
            containers=[f"{new.as_uri()}/", "s3://old/other/"],
        )
        mounted = mount(path, "--map", f"s3://old/archive={new}", "--allow", str(new))
        assert read(mounted.path / "a/c/0") == "EACCES"
        mounted.expect_log("no virtual chunk container")

    def test_a_map_ends_at_a_whole_path_segment_and_the_longest_wins(
        self, tmp_path: Path, mount: Callable[..., Mount]
    ) -> None:
        """`--map s3://old/a=...` leaves s3://old/ab alone, and a longer FROM comes before a shorter one."""
        put_file(tmp_path / "one/x", pattern(100, 1))
        put_file(tmp_path / "two/x", pattern(100, 2))
        path = write_virtual(
            tmp_path / "repository",
            {"a": [Ref(f"s3://old/{k}/x", 0, 100) for k in ("a", "a/b", "ab")]},
            containers=["s3://old/"],
        )
        mounted = mount(
            path,
            *(
                "--map",
                f"s3://old/a={tmp_path / 'one'}",
                "--map",
                f"s3://old/a/b={tmp_path / 'two'}",
            ),
            *("--allow", str(tmp_path)),
        )
        assert read(mounted.path / "a/c/0") == pattern(100, 1)
        assert read(mounted.path / "a/c/1") == pattern(100, 2)
        assert read(mounted.path / "a/c/2") == "EACCES"
        mounted.expect_log(REFUSED)

    def test_an_equals_sign_in_a_location_is_written_percent_encoded(
        self, tmp_path: Path, mount: Callable[..., Mount]
    ) -> None:
        """`%3D` in --map and --allow is an equals sign of the location."""
        folder = tmp_path / "year=2020"
        put_file(folder / "source")
        path = write_virtual(
            tmp_path / "repository",
            {"a": [Ref("s3://old/year=2020/source", 0, 100)]},
            containers=["s3://old/"],
        )
        place = f"file://{tmp_path}/year%3D2020"
        mounted = mount(path, "--map", f"s3://old/year%3D2020={place}", "--allow", place)
        assert read(mounted.path / "a/c/0") == DATA[:100]


def test_metadata_names_and_sizes_need_no_permission(
    tmp_path: Path, mount: Callable[..., Mount], server: ObjectServer
) -> None:
    """A tree of denied chunks can be listed and measured in full, and no source is asked."""
    prefix = server.url + "/b/"
    server.put("b/x", DATA)
    path = write_virtual(
        tmp_path / "repository",
        {"a": [Ref(prefix + "x", n, 10 + n) for n in range(20)]},
        containers=[prefix],
    )
    mounted = mount(path)
    assert len(walk(mounted.path)) == 24
    assert [(mounted.path / f"a/c/{n}").stat().st_size for n in range(20)] == list(range(10, 30))
    assert server.clients == []


def test_a_snapshot_written_later_cannot_widen_what_is_allowed(
    tmp_path: Path, mount: Callable[..., Mount]
) -> None:
    """A container that the repository declares after the mount was made changes nothing in it."""
    location = put_file(tmp_path / "archive/source")
    path = write_virtual(tmp_path / "repository", {"a": [Ref(location, 0, 100)]})
    mounted = mount(path, "--allow", str(tmp_path / "archive"))
    assert read(mounted.path / "a/c/0") == "EACCES"
    repository = open_for_writing(path)
    config = repository.config
    prefix = f"{(tmp_path / 'archive').as_uri()}/"
    config.set_virtual_chunk_container(
        icechunk.VirtualChunkContainer(prefix, icechunk.local_filesystem_store(prefix[7:]))
    )
    repository.reopen(config).save_config()
    assert read(mounted.path / "a/c/0") == "EACCES"
    again = mount(path, "--allow", str(tmp_path / "archive"))
    assert read(again.path / "a/c/0") == DATA[:100]
    mounted.expect_log("no virtual chunk container")
