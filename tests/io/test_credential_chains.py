"""The standard chains of the stores, against files, programs and servers of our own."""

import base64
import datetime
import http.server
import importlib
import json
import logging
import os
import socket
import sys
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.io.keyrings import SECRET, STANDARD, Clock, alone, refusal  # noqa: F401 -- alone is a fixture
from vzfs.access import StoreOptions
from vzfs.errors import ErrorKind
from vzfs.source.credentials import AwsKeys, Bearer, Keyring


class Asked(NamedTuple):
    """One request that a token server got."""

    method: str
    target: str
    headers: dict[str, str]
    body: str


class Issuer:
    """A server on loopback that gives out tokens: what it answers, by path, and what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[Asked], object]] = {}
        self.asked: list[Asked] = []
        issuer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                headers = {name.lower(): value for name, value in self.headers.items()}
                asked = Asked(self.command, self.path, headers, body)
                issuer.asked.append(asked)
                make = issuer.answers.get(urllib.parse.urlsplit(self.path).path)
                answer = make(asked) if make else 404
                content = b"" if isinstance(answer, int) else answer
                if not isinstance(content, bytes):
                    content = json.dumps(answer).encode()
                self.send_response(answer if isinstance(answer, int) else 200)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Content-Type", "application/json")
                self.send_header("Metadata-Flavor", "Google")
                self.end_headers()
                self.wfile.write(content)

            do_PUT = do_POST = do_GET  # noqa: N815 -- the names that http.server calls

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.host = f"127.0.0.1:{self._server.server_port}"
        self.url = f"http://{self.host}"

    def paths(self) -> list[str]:
        return [urllib.parse.urlsplit(asked.target).path for asked in self.asked]

    def __enter__(self) -> "Issuer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    """Give a server of tokens."""
    with Issuer() as running:
        yield running


@pytest.fixture
def nowhere() -> Iterator[str]:
    """Give the URL of a server that nobody runs."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def in_an_hour(seconds: float = 3600) -> str:
    end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
    return end.strftime("%Y-%m-%dT%H:%M:%SZ")


def profiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, config: str) -> Path:
    """Write a file of AWS profiles and have it used."""
    file = tmp_path / "config"
    file.write_text(config)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    return file


class Program:
    """A credential_process: it counts its runs and prints a file, or fails."""

    def __init__(self, folder: Path) -> None:
        self._runs = folder / "runs"
        self._output = folder / "output"
        self.path = folder / "program"
        self.path.write_text(
            f"#!/bin/sh\necho run >> {self._runs}\necho {SECRET} >&2\nexec cat {self._output}\n"
        )
        self.path.chmod(0o700)
        self.config = f"[profile vault]\ncredential_process = {self.path}\nregion = eu-x-1\n"

    @property
    def runs(self) -> int:
        return len(self._runs.read_text().split())

    def gives(self, access_key: str, seconds: float = 3600) -> None:
        keys = {
            "Version": 1,
            "AccessKeyId": access_key,
            "SecretAccessKey": SECRET,
            "SessionToken": SECRET + access_key,
            "Expiration": in_an_hour(seconds),
        }
        self._output.write_text(json.dumps(keys))

    def fails(self) -> None:
        self._output.unlink()


VAULT = StoreOptions(credentials="profile:vault")


# -- AWS -------------------------------------------------------------------------------------------


async def test_a_machine_without_aws_credentials_is_told_of_anonymous_reading() -> None:
    """Where no AWS credentials are found, the error says how to read public data."""
    error = await refusal(Keyring().aws(STANDARD))
    assert error.kind is ErrorKind.SOURCE_DENIED
    assert "--anonymous" in error.advice


async def test_keys_of_aws_profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys come from the profile that the options or AWS_PROFILE name, or else the default one."""
    file = tmp_path / "credentials"
    lines = [
        f"[{name}]\naws_access_key_id = {name}\naws_secret_access_key = {SECRET}\n"
        for name in ("default", "one", "two")
    ]
    file.write_text("".join(lines))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    assert await Keyring().aws(STANDARD) == AwsKeys("default", SECRET, None)
    monkeypatch.setenv("AWS_PROFILE", "one")
    assert await Keyring().aws(STANDARD) == AwsKeys("one", SECRET, None)
    two = StoreOptions(credentials="profile:two")
    assert await Keyring().aws(two) == AwsKeys("two", SECRET, None)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    assert await Keyring().aws(STANDARD) == AwsKeys("environment", SECRET, None)
    assert await Keyring().aws(two) == AwsKeys("two", SECRET, None)
    error = await refusal(Keyring().aws(StoreOptions(credentials="profile:three")))
    assert error.kind is ErrorKind.BAD_CONFIG
    assert "'three'" in error.what


async def test_keys_that_were_rotated_in_a_profile_count_after_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that were rotated in the file of profiles count after a refusal, or a quarter of an hour."""
    file = tmp_path / "credentials"

    def rotate(name: str) -> None:
        file.write_text(f"[default]\naws_access_key_id={name}\naws_secret_access_key={SECRET}\n")

    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    clock = Clock()
    keyring = clock.keyring()
    rotate("old")
    assert await keyring.aws(STANDARD) == AwsKeys("old", SECRET, None)
    rotate("new")
    assert await keyring.aws(STANDARD) == AwsKeys("old", SECRET, None)
    assert not keyring.forget(STANDARD, "google")
    assert keyring.forget(STANDARD, "aws")
    assert await keyring.aws(STANDARD) == AwsKeys("new", SECRET, None)
    rotate("newest")
    clock.ahead += 901
    assert await keyring.aws(STANDARD) == AwsKeys("newest", SECRET, None)


async def test_a_program_of_a_profile_is_run_again_before_its_keys_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A credential_process is run once for its keys' life, and again five minutes before its end."""
    program = Program(tmp_path)
    profiles(monkeypatch, tmp_path, program.config)
    clock = Clock()
    keyring = clock.keyring()
    program.gives("first")
    for _ in range(3):
        assert await keyring.aws(VAULT) == AwsKeys("first", SECRET, SECRET + "first")
    runs = program.runs
    program.gives("second", 7200)
    clock.ahead = 3200
    assert await keyring.aws(VAULT) == AwsKeys("first", SECRET, SECRET + "first")
    assert program.runs == runs
    clock.ahead = 3400
    assert await keyring.aws(VAULT) == AwsKeys("second", SECRET, SECRET + "second")
    assert program.runs > runs


async def test_what_a_program_says_when_it_fails_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When a credential_process fails, nothing that it prints gets into the error or the log."""
    program = Program(tmp_path)
    profiles(monkeypatch, tmp_path, program.config)
    clock = Clock()
    keyring = clock.keyring()
    program.gives("only")
    assert await keyring.aws(VAULT)
    program.fails()
    clock.ahead = 3400
    assert await keyring.aws(VAULT), "the old ones are still good"
    assert [r.name for r in caplog.records if r.levelno >= logging.WARNING] == ["vzfs.source"]
    clock.ahead = 3700
    error = await refusal(keyring.aws(VAULT))
    assert error.kind is ErrorKind.SOURCE_DENIED
    assert "'vault'" in error.what
    assert not logging.getLogger("botocore.credentials").isEnabledFor(logging.CRITICAL)


async def test_keys_that_a_program_gives_too_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that come expired are an error that names them."""
    program = Program(tmp_path)
    profiles(monkeypatch, tmp_path, program.config)
    program.gives("late", -10)
    error = await refusal(Keyring().aws(VAULT))
    assert error.kind is ErrorKind.SOURCE_DENIED


async def test_a_program_that_hangs_fails_reads_in_bounded_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What gives out credentials has a time limit, after which the source counts as out of reach."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    profiles(monkeypatch, tmp_path, f"[profile vault]\ncredential_process = cat {fifo}\n")
    error = await refusal(Clock().keyring(patience=0.3).aws(VAULT))
    assert error.kind is ErrorKind.SOURCE_UNREACHABLE
    assert "0.3 s" in error.what
    fifo.open("w").close()


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ("[profile vault]\nsso_session = x\nsso_account_id = 1\nsso_role_name = r\n"
         "[sso-session x]\nsso_region = us-east-1\nsso_start_url = https://example.org\n",
         ErrorKind.SOURCE_DENIED),
        ("[profile vault]\naws_access_key_id = hush\n", ErrorKind.BAD_CONFIG),
        ("[profile vault]\nrole_arn = arn:aws:iam::1:role/x\nsource_profile = hush\n",
         ErrorKind.BAD_CONFIG),
        ("[profile vault\nhush", ErrorKind.BAD_CONFIG),
    ],
    ids=["sso", "half", "source", "syntax"],
)  # fmt: skip
async def test_a_profile_that_gives_no_keys_is_an_error_with_advice(
    config: str, kind: ErrorKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A profile that is not signed in to, or that is wrong, says what to type and quotes nothing."""
    profiles(monkeypatch, tmp_path, config)
    error = await refusal(Keyring().aws(VAULT))
    assert error.kind is kind
    assert "aws s" in error.advice


ROLE = f"""
[profile base]
aws_access_key_id = base
aws_secret_access_key = {SECRET}
[profile vault]
role_arn = arn:aws:iam::123456789012:role/reader
source_profile = base
region = us-east-1
"""


def assumed(asked: Asked) -> bytes:
    """Answer AssumeRole as STS does."""
    assert urllib.parse.parse_qs(asked.body)["Action"] == ["AssumeRole"]
    return (
        '<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>'
        f"<Credentials><AccessKeyId>role</AccessKeyId><SecretAccessKey>{SECRET}</SecretAccessKey>"
        f"<SessionToken>{SECRET}</SessionToken><Expiration>{in_an_hour()}</Expiration>"
        "</Credentials></AssumeRoleResult></AssumeRoleResponse>"
    ).encode()


async def test_a_profile_may_assume_a_role(
    issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keys of a role come from STS, once for their life."""
    profiles(monkeypatch, tmp_path, ROLE)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", issuer.url)
    issuer.answers["/"] = assumed
    keyring = Keyring()
    for _ in range(2):
        assert await keyring.aws(VAULT) == AwsKeys("role", SECRET, SECRET)
    assert len(issuer.asked) == 1


async def test_nobody_is_asked_for_the_code_of_a_second_factor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A profile that wants a code is an error at once, for nobody is there to type it."""
    profiles(monkeypatch, tmp_path, ROLE + "mfa_serial = arn:aws:iam::1:mfa/me\n")
    error = await refusal(Keyring().aws(VAULT))
    assert error.kind is ErrorKind.SOURCE_DENIED
    assert "second factor" in error.what


async def test_keys_of_a_container(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container the keys come from the address that AWS names there, and are renewed."""
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{issuer.url}/keys")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", SECRET)
    clock = Clock()
    keyring = clock.keyring()
    issuer.answers["/keys"] = lambda asked: {
        "AccessKeyId": asked.headers["authorization"][-4:] + str(len(issuer.asked)),
        "SecretAccessKey": SECRET,
        "Token": SECRET,
        "Expiration": in_an_hour(),
    }
    assert await keyring.aws(STANDARD) == AwsKeys("hush1", SECRET, SECRET)
    assert await keyring.aws(STANDARD) == AwsKeys("hush1", SECRET, SECRET)
    clock.ahead = 3400
    assert await keyring.aws(STANDARD) == AwsKeys("hush2", SECRET, SECRET)


async def test_keys_that_nobody_answers_for(
    nowhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where what gives out AWS keys does not answer, the source counts as out of reach."""
    profiles(monkeypatch, tmp_path, ROLE)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", nowhere)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    error = await refusal(Keyring().aws(VAULT))
    assert error.kind is ErrorKind.SOURCE_UNREACHABLE


async def test_keys_of_a_machines_role(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine's role gives keys, unless AWS_EC2_METADATA_DISABLED forbids to ask for them."""
    role = "/latest/meta-data/iam/security-credentials/"
    issuer.answers["/latest/api/token"] = lambda _: b"hush-session"
    issuer.answers[role] = lambda _: b"reader"
    issuer.answers[role + "reader"] = lambda _: {
        "Code": "Success",
        "AccessKeyId": "machine",
        "SecretAccessKey": SECRET,
        "Token": SECRET,
        "Expiration": in_an_hour(),
    }
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", issuer.url)
    assert (await refusal(Keyring().aws(STANDARD))).kind is ErrorKind.SOURCE_DENIED
    assert issuer.asked == []
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    assert await Keyring().aws(STANDARD) == AwsKeys("machine", SECRET, SECRET)


async def test_the_region_of_a_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A region comes from AWS_REGION, AWS_DEFAULT_REGION or the profile whose keys are used."""
    keyring = Keyring()
    assert await keyring.region(STANDARD) is None
    profiles(
        monkeypatch,
        tmp_path,
        "[default]\nregion = eu-d-1\n[profile vault]\nregion = eu-v-1\n[profile none]\n",
    )
    keyring = Keyring()
    assert await keyring.region(STANDARD) == "eu-d-1"
    assert await keyring.region(VAULT) == "eu-v-1"
    assert await keyring.region(StoreOptions(credentials="profile:none")) is None
    for other in (StoreOptions(anonymous=True), StoreOptions(credentials="environment")):
        assert await keyring.region(other) is None
    error = await refusal(keyring.region(StoreOptions(credentials="profile:gone")))
    assert error.kind is ErrorKind.BAD_CONFIG
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-e-2")
    assert await keyring.region(VAULT) == "eu-e-2"
    monkeypatch.setenv("AWS_REGION", "eu-e-1")
    assert await keyring.region(VAULT) == "eu-e-1"


# -- Google ----------------------------------------------------------------------------------------


@pytest.fixture
def no_google_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have google-auth not look for a metadata server; it reads the environment when imported."""
    metadata = importlib.import_module("google.auth.compute_engine._metadata")
    monkeypatch.setattr(metadata, "_NO_GCE_CHECK", True)


def google_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object) -> None:
    file = tmp_path / "google.json"
    file.write_text(json.dumps(content))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))


def access_token(issuer: Issuer) -> Callable[[Asked], object]:
    return lambda _: {
        "access_token": f"{SECRET}{len(issuer.asked)}",
        "expires_in": 3600,
        "token_type": "Bearer",
    }


@pytest.fixture(scope="module")
def private_key() -> str:
    """Give the key of a service account."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


async def test_a_service_account_of_google(
    issuer: Issuer, private_key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key of a service account is exchanged for a token to read with, which is renewed."""
    content = {
        "type": "service_account",
        "project_id": "p",
        "private_key_id": "1",
        "private_key": private_key,
        "client_email": "reader@p.iam.gserviceaccount.com",
        "token_uri": f"{issuer.url}/token",
    }
    google_file(tmp_path, monkeypatch, content)
    issuer.answers["/token"] = access_token(issuer)
    clock = Clock()
    keyring = clock.keyring()
    assert await keyring.google(STANDARD) == Bearer(f"{SECRET}1")
    assert await keyring.google(STANDARD) == Bearer(f"{SECRET}1")
    clock.ahead = 3400
    assert await keyring.google(STANDARD) == Bearer(f"{SECRET}2")
    assertion = urllib.parse.parse_qs(issuer.asked[0].body)["assertion"][0].split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(assertion + "=" * (-len(assertion) % 4)))
    assert claims["scope"] == "https://www.googleapis.com/auth/devstorage.read_only"


USER = {
    "type": "authorized_user",
    "client_id": "c",
    "client_secret": SECRET,
    "refresh_token": SECRET,
}


async def test_a_google_user_who_signed_in(
    issuer: Issuer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `gcloud auth application-default login` left gives tokens, without a warning."""
    sdk = importlib.import_module("google.auth._cloud_sdk")
    oauth2 = importlib.import_module("google.oauth2.credentials")
    monkeypatch.setattr(oauth2, "_GOOGLE_OAUTH2_TOKEN_ENDPOINT", f"{issuer.url}/token")
    issuer.answers["/token"] = access_token(issuer)
    (tmp_path / "gcloud").mkdir()
    (tmp_path / "gcloud" / "application_default_credentials.json").write_text(
        # That of gcloud itself, of which the library would warn.
        json.dumps(USER | {"client_id": sdk.CLOUD_SDK_CLIENT_ID})
    )
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "gcloud"))
    monkeypatch.setenv("PATH", str(tmp_path))  # without a gcloud that may be installed
    assert await Keyring().google(STANDARD) == Bearer(f"{SECRET}1")


async def test_a_google_user_who_signed_out(
    issuer: Issuer, nowhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sign-in to Google that has ended names the command that renews it; a dead server does not."""
    google_file(tmp_path, monkeypatch, USER)
    oauth2 = importlib.import_module("google.oauth2.credentials")
    issuer.answers["/token"] = lambda _: 400
    monkeypatch.setattr(oauth2, "_GOOGLE_OAUTH2_TOKEN_ENDPOINT", f"{issuer.url}/token")
    error = await refusal(Keyring().google(STANDARD))
    assert error.kind is ErrorKind.SOURCE_DENIED
    assert "gcloud auth application-default login" in error.advice
    monkeypatch.setattr(oauth2, "_GOOGLE_OAUTH2_TOKEN_ENDPOINT", f"{nowhere}/token")
    error = await refusal(Keyring().google(STANDARD))
    assert error.kind is ErrorKind.SOURCE_UNREACHABLE


async def test_a_token_of_googles_metadata_server(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine of Google's gives the token of its service account."""
    metadata = importlib.import_module("google.auth.compute_engine._metadata")
    monkeypatch.setattr(metadata, "_GCE_METADATA_HOST", issuer.host)
    monkeypatch.setenv("GCE_METADATA_IP", issuer.host)
    base = "/computeMetadata/v1/"
    issuer.answers["/"] = lambda _: b"ok"
    issuer.answers[base + "project/project-id"] = lambda _: b"p"
    issuer.answers[base + "universe/universe-domain"] = lambda _: b"googleapis.com"
    account = base + "instance/service-accounts/default/"
    issuer.answers[account] = lambda _: {"email": "e", "scopes": ["s"], "aliases": []}
    for name in ("default", "e"):
        issuer.answers[base + f"instance/service-accounts/{name}/token"] = access_token(issuer)
    found = await Keyring().google(STANDARD)
    assert found is not None
    assert found.token.startswith(SECRET)


@pytest.mark.usefixtures("no_google_machine")
async def test_a_machine_without_google_credentials_is_told_of_anonymous_reading() -> None:
    """Where no Google credentials are found, the error says how to read public data."""
    error = await refusal(Keyring().google(STANDARD))
    assert error.kind is ErrorKind.SOURCE_DENIED
    assert "--anonymous" in error.advice


@pytest.mark.usefixtures("no_google_machine")
@pytest.mark.parametrize(
    "content", [{"type": SECRET}, USER | {"refresh_token": None}, {}, SECRET, [SECRET]]
)
async def test_a_google_key_file_that_is_wrong_is_not_quoted(
    content: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key file that Google's library cannot use is an error that quotes nothing of it."""
    google_file(tmp_path, monkeypatch, content)
    error = await refusal(Keyring().google(STANDARD))
    assert error.kind in {ErrorKind.SOURCE_DENIED, ErrorKind.BAD_CONFIG}


# -- Azure -----------------------------------------------------------------------------------------


def azure_token(issuer: Issuer) -> Callable[[Asked], object]:
    def answer(asked: Asked) -> object:
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(asked.target).query)
        if asked.headers.get("metadata") != "true" or "resource" not in query:
            return 400
        return {
            "access_token": f"{SECRET}{len(issuer.asked)}",
            "expires_on": str(int(time.time()) + 3600),
            "expires_in": "3600",
            "resource": query["resource"][0],
            "token_type": "Bearer",
        }

    return answer


async def test_a_token_of_an_azure_machine(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of Azure's gives a token for storage, which is renewed."""
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", issuer.url)
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
    issuer.answers["/metadata/identity/oauth2/token"] = azure_token(issuer)
    clock = Clock()
    keyring = clock.keyring()
    first = await keyring.azure(STANDARD, "account")
    assert first == await keyring.azure(STANDARD, "other")
    assert isinstance(first, Bearer)
    assert first.token.startswith(SECRET)
    clock.ahead = 3400
    assert await keyring.azure(STANDARD, "account") != first
    assert "resource=https://storage.azure.com" in urllib.parse.unquote(issuer.asked[-1].target)


async def test_a_machine_without_azure_credentials_is_told_of_anonymous_reading(
    issuer: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no Azure credentials are found, the error says how to read public data."""
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", issuer.url)
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "ManagedIdentityCredential")
    issuer.answers["/metadata/identity/oauth2/token"] = lambda _: 400
    error = await refusal(Keyring().azure(STANDARD, "account"))
    assert error.kind is ErrorKind.SOURCE_DENIED
    assert "--anonymous" in error.advice


@pytest.mark.parametrize(
    ("module", "extra"), [("google.auth", "vzfs[gcs]"), ("azure.identity", "vzfs[azure]")]
)
async def test_a_library_that_is_not_installed_is_named(
    module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the library of a store's standard chain is missing, the error says how to install it."""
    monkeypatch.setitem(sys.modules, module, None)
    keyring = Keyring()
    asking = keyring.google(STANDARD) if extra == "vzfs[gcs]" else keyring.azure(STANDARD, "a")
    error = await refusal(asking)
    assert error.kind is ErrorKind.BAD_CONFIG
    assert f"pip install '{extra}'" in error.advice
    assert "--anonymous" in error.advice
