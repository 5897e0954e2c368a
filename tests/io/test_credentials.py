"""Credentials of the environment and of secret files."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.io.keyrings import (
    ENVIRONMENT,
    SECRET,
    STANDARD,
    Clock,
    alone,  # noqa: F401 -- a fixture
    refusal,
)
from vzfs.access import StoreOptions
from vzfs.errors import ErrorKind, SourceError
from vzfs.source.credentials import AwsKeys, AzureKey, AzureSas, Bearer, Keyring

ANONYMOUS = StoreOptions(anonymous=True)


# -- what holds for every kind of store ------------------------------------------------------------


def askers(keyring: Keyring) -> list[Callable[[StoreOptions], Awaitable[object]]]:
    return [
        keyring.aws,
        keyring.google,
        lambda store: keyring.azure(store, "account"),
        lambda store: keyring.http(store, "example.org"),
    ]


async def test_anonymous_requests_have_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """An anonymous store gets no credentials, whatever the environment has."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "VZFS_HTTP_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("GOOGLE_OAUTH_ACCESS_TOKEN", SECRET)
    monkeypatch.setenv("AZURE_STORAGE_KEY", SECRET)
    keyring = Keyring()
    for ask in askers(keyring):
        assert await ask(ANONYMOUS) is None
    assert not keyring.forget(ANONYMOUS)


@pytest.mark.parametrize(
    "source", ["nowhere", "file:", "file:secret", "profile:", "s3:x", "file:/\0"]
)
async def test_a_place_for_credentials_that_is_none_is_refused(source: str) -> None:
    """Credentials are at `environment`, `profile:NAME` or `file:/PATH`, or nowhere."""
    for ask in askers(Keyring()):
        error = await refusal(ask(StoreOptions(credentials=source)))
        assert error.kind is ErrorKind.BAD_CONFIG


async def test_profiles_are_of_s3_alone() -> None:
    """A profile for a store other than S3 is an error of the configuration."""
    for ask in askers(Keyring())[1:]:
        error = await refusal(ask(StoreOptions(credentials="profile:x")))
        assert error.kind is ErrorKind.BAD_CONFIG


async def test_an_environment_without_credentials_is_not_searched_further() -> None:
    """With `environment` nothing else is asked, and the variables that are missing are named."""
    names = (
        "AWS_ACCESS_KEY_ID",
        "GOOGLE_OAUTH_ACCESS_TOKEN",
        "AZURE_STORAGE_KEY",
        "VZFS_HTTP_TOKEN",
    )
    for ask, name in zip(askers(Keyring()), names, strict=True):
        error = await refusal(ask(ENVIRONMENT))
        assert error.kind is ErrorKind.SOURCE_DENIED
        assert name in error.advice
        assert "--anonymous" in error.advice


def test_credentials_of_the_environment_need_no_library() -> None:
    """Where the environment has credentials, no store's library is imported."""
    program = """if True:
        import sys, trio
        from vzfs.access import StoreOptions
        from vzfs.source.credentials import Keyring
        async def main():
            keyring = Keyring()
            assert (await keyring.aws(StoreOptions())).secret_key == "b"
            assert (await keyring.google(StoreOptions())).token == "c"
            assert (await keyring.azure(StoreOptions(), "x")).key == "abcd"
        trio.run(main)
        print(*sorted({"botocore", "google.auth", "azure.identity"} & sys.modules.keys()))
    """
    variables = {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "GOOGLE_OAUTH_ACCESS_TOKEN": "c",
        "AZURE_STORAGE_KEY": "abcd",
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | variables,
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "\n"


# -- the environment -------------------------------------------------------------------------------


async def test_aws_keys_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN come first."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "A")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    for store in (STANDARD, ENVIRONMENT):
        assert await Keyring().aws(store) == AwsKeys("A", SECRET, None)
    monkeypatch.setenv("AWS_SESSION_TOKEN", SECRET + "\n")
    assert await Keyring().aws(STANDARD) == AwsKeys("A", SECRET, SECRET)


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
async def test_half_of_the_aws_keys_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of two AWS keys in the environment is an error, and not a reason to look elsewhere."""
    monkeypatch.setenv(name, SECRET)
    error = await refusal(Keyring().aws(STANDARD))
    assert error.kind is ErrorKind.BAD_CONFIG
    assert f"{name} is set" in error.what


@pytest.mark.parametrize("name", ["GOOGLE_OAUTH_ACCESS_TOKEN", "CLOUDSDK_AUTH_ACCESS_TOKEN"])
async def test_google_token_of_the_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """GOOGLE_OAUTH_ACCESS_TOKEN or CLOUDSDK_AUTH_ACCESS_TOKEN is an access token as it is."""
    monkeypatch.setenv(name, SECRET)
    for store in (STANDARD, ENVIRONMENT):
        assert await Keyring().google(store) == Bearer(SECRET)
    monkeypatch.setenv(name, f"{SECRET}\r\nX: y")
    assert (await refusal(Keyring().google(STANDARD))).kind is ErrorKind.BAD_CONFIG


KEY = AzureKey("mine", SECRET)
SAS = AzureSas(f"sv=1&sig={SECRET}")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"AZURE_STORAGE_KEY": SECRET}, KEY),
        ({"AZURE_STORAGE_ACCOUNT_KEY": SECRET, "AZURE_STORAGE_SAS_TOKEN": SAS.query}, KEY),
        ({"AZURE_STORAGE_SAS_TOKEN": "?" + SAS.query}, SAS),
        ({"AZURE_STORAGE_KEY": SECRET, "AZURE_STORAGE_ACCOUNT": "mine"}, KEY),
        ({"AZURE_STORAGE_KEY": SECRET, "AZURE_STORAGE_ACCOUNT": "other"}, None),
        ({"AZURE_STORAGE_SAS_TOKEN": SAS.query, "AZURE_STORAGE_ACCOUNT_NAME": "other"}, None),
        ({"AZURE_STORAGE_CONNECTION_STRING": f"AccountName=mine;AccountKey={SECRET}"}, KEY),
        ({"AZURE_STORAGE_CONNECTION_STRING": f"AccountName=other;AccountKey={SECRET}"}, None),
        ({"AZURE_STORAGE_CONNECTION_STRING": f"AccountKey={SECRET}"}, None),
        (
            {
                "AZURE_STORAGE_CONNECTION_STRING": "BlobEndpoint=https://mine.blob.core.windows.net/;"
                f"SharedAccessSignature={SAS.query}"
            },
            SAS,
        ),
        (
            {
                "AZURE_STORAGE_CONNECTION_STRING": "BlobEndpoint=https://other.blob.core.windows.net/;"
                f"SharedAccessSignature={SAS.query}"
            },
            None,
        ),
    ],
)
async def test_azure_credentials_of_the_environment(
    variables: dict[str, str], expected: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variables of Azure's tools open the account that they name, and no other."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    if expected is None:
        error = await refusal(Keyring().azure(ENVIRONMENT, "mine"))
        assert error.kind is ErrorKind.SOURCE_DENIED
    else:
        assert await Keyring().azure(ENVIRONMENT, "mine") == expected
        assert await Keyring().azure(STANDARD, "mine") == expected


async def test_the_emulators_account_has_a_published_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """UseDevelopmentStorage=true means the account and the key that every emulator has."""
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", "UseDevelopmentStorage=true")
    key = await Keyring().azure(STANDARD, "devstoreaccount1")
    assert isinstance(key, AzureKey)
    assert key.key.startswith("Eby8vdM02x")


async def test_web_servers_get_nothing_unless_the_user_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A web server gets a token, or a user name and a password, only where that is configured."""
    monkeypatch.setenv("VZFS_HTTP_TOKEN", SECRET)
    keyring = Keyring()
    assert await keyring.http(STANDARD, "example.org") is None
    assert await keyring.http(ENVIRONMENT, "example.org") == f"Bearer {SECRET}"
    monkeypatch.setenv("VZFS_HTTP_USER", "Aladdin")
    error = await refusal(keyring.http(ENVIRONMENT, "example.org"))
    assert error.kind is ErrorKind.BAD_CONFIG
    monkeypatch.delenv("VZFS_HTTP_TOKEN")
    error = await refusal(keyring.http(ENVIRONMENT, "example.org"))
    assert error.kind is ErrorKind.BAD_CONFIG
    monkeypatch.setenv("VZFS_HTTP_PASSWORD", "open sesame")
    value = await keyring.http(ENVIRONMENT, "example.org")
    assert value == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="


# -- secret files ----------------------------------------------------------------------------------


def secret_file(tmp_path: Path, content: str) -> tuple[Path, StoreOptions]:
    file = tmp_path / "secret.toml"
    file.write_text(content)
    file.chmod(0o600)
    return file, StoreOptions(credentials=f"file:{file}")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (f'access-key-id = "A"\nsecret-access-key = "{SECRET}"', 0),
        (f'bearer-token = "{SECRET}"', 1),
        (f'account-key = "{SECRET}"', 2),
        (f'sas-token = "sig={SECRET}"', 2),
        (f'bearer-token = "{SECRET}"', 2),
        (f'bearer-token = "{SECRET}"', 3),
        (f'username = "u"\npassword = "{SECRET}"', 3),
    ],
)
async def test_a_secret_file_serves_its_own_kind_of_store(
    content: str, kind: int, tmp_path: Path
) -> None:
    """A secret file gives its credential to the stores that take such a one, and to no other."""
    _, store = secret_file(tmp_path, content)
    keyring = Keyring()
    assert await askers(keyring)[kind](store)
    for ask in askers(keyring):
        with contextlib.suppress(SourceError):
            assert await ask(store) is not None
    other = askers(keyring)[1 if kind == 0 else 0]
    error = await refusal(other(store))
    assert (error.kind, error.where) == (ErrorKind.BAD_CONFIG, str(tmp_path / "secret.toml"))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o610, 0o602, 0o644, 0o666, 0o4640])
async def test_a_secret_file_that_others_may_use_is_refused(mode: int, tmp_path: Path) -> None:
    """A secret file with any permission for others is refused, with the command that closes it."""
    file, store = secret_file(tmp_path, f'bearer-token = "{SECRET}"')
    file.chmod(mode)
    error = await refusal(Keyring().google(store))
    assert error.kind is ErrorKind.BAD_CONFIG
    assert error.advice.endswith(f"chmod 600 {file}")


async def test_a_secret_file_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secret file belongs to whoever runs vzfs, or to root."""
    file, store = secret_file(tmp_path, f'bearer-token = "{SECRET}"')
    file.chmod(0o400)
    assert await Keyring().google(store)
    if os.geteuid() == 0:
        os.chown(file, 12345, 12345)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    error = await refusal(Keyring().google(store))
    assert error.kind is ErrorKind.BAD_CONFIG
    assert "chown" in error.advice


def folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (Path.unlink, "No such file"),
        (folder, "not a regular file"),
        (fifo, "not a regular file"),
        (lambda file: file.chmod(0o644), "open to others"),
        (
            lambda file: file.write_text(f'bearer-token = "{SECRET}"' + "#" * 2**16),
            "more than 65536 bytes",
        ),
        (lambda file: file.write_text(SECRET), "not TOML"),
        (lambda file: file.write_text(f'account-key = "{SECRET}"'), "another kind of store"),
        (lambda file: file.write_text(""), "keys of the secret file"),
    ],
    ids=["gone", "folder", "fifo", "open", "huge", "junk", "other", "empty"],
)
async def test_a_secret_file_that_goes_bad_ends_its_use(
    spoil: Callable[[Path], object], reason: str, tmp_path: Path
) -> None:
    """The secret of a file that is gone or bad is not used a second later; a good file counts again."""
    file, store = secret_file(tmp_path, f'bearer-token = "{SECRET}"')
    clock = Clock()
    keyring = clock.keyring()
    assert await keyring.google(store) == Bearer(SECRET)
    spoil(file)
    clock.ahead += 1.1
    for _ in range(2):
        error = await refusal(keyring.google(store))
        assert (error.kind, error.where) == (ErrorKind.BAD_CONFIG, str(file))
        assert reason in error.what
    if file.is_dir():
        file.rmdir()
    file.unlink(missing_ok=True)
    secret_file(tmp_path, f'bearer-token = "{SECRET}2"')
    clock.ahead += 1.1
    assert await keyring.google(store) == Bearer(SECRET + "2")


async def test_a_secret_file_may_be_a_link(tmp_path: Path) -> None:
    """A secret file is reached through links, and counts when a link leads elsewhere."""
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    secret_file(tmp_path / "1", f'bearer-token = "{SECRET}1"')
    secret_file(tmp_path / "2", f'bearer-token = "{SECRET}2"')
    link = tmp_path / "current"
    link.symlink_to("1")
    clock = Clock()
    keyring = clock.keyring()
    store = StoreOptions(credentials=f"file:{link}/secret.toml")
    assert await keyring.http(store, "example.org") == f"Bearer {SECRET}1"
    link.unlink()
    link.symlink_to("2")
    clock.ahead += 1.1
    assert await keyring.http(store, "example.org") == f"Bearer {SECRET}2"


async def test_a_refused_secret_is_read_again_at_once(tmp_path: Path) -> None:
    """After a refusal the secret file is looked at before the next attempt."""
    file, store = secret_file(tmp_path, f'bearer-token = "{SECRET}"')
    keyring = Keyring(steady=lambda: 0.0)
    assert await keyring.google(store) == Bearer(SECRET)
    file.write_text(f'bearer-token = "{SECRET}2"')
    assert await keyring.google(store) == Bearer(SECRET)
    assert keyring.forget(store)
    assert await keyring.google(store) == Bearer(SECRET + "2")
