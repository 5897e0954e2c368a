"""What a secret file may say."""

import contextlib
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vzfs.errors import ErrorKind, SourceError
from vzfs.source.credentials import AwsKeys, AzureKey, AzureSas, Basic, Bearer
from vzfs.source.credentials.secretfile import parse

SECRET = "hushhushhush"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('access-key-id = "A"\nsecret-access-key = "hush"', AwsKeys("A", "hush", None)),
        (
            '# rotated weekly\naccess-key-id = "A"\nsecret-access-key = "b"\nsession-token = "c"',
            AwsKeys("A", "b", "c"),
        ),
        (f'account-key = "{SECRET}"', AzureKey("", SECRET)),
        ('sas-token = "?sv=2024&sig=hush%3D"', AzureSas("sv=2024&sig=hush%3D")),
        ('bearer-token = "hush\\n"', Bearer("hush")),
        ('username = "u"\npassword = "a: b"', Basic("u", "a: b")),
    ],
)
def test_a_secret_file_holds_one_credential(content: str, expected: object) -> None:
    """A secret file is TOML with exactly the keys of one kind of credential."""
    secret = parse(content.encode(), "/secret")
    assert secret == expected
    assert type(secret) is type(expected)


@pytest.mark.parametrize(
    "content",
    [
        "",
        SECRET,
        f"bearer-token = {SECRET}",
        f'bearer-token = "{SECRET}',
        f'bearer-token = "{SECRET}"\nbearer-token = "{SECRET}"',
        f'"{SECRET}" = 1\n"{SECRET}" = 2',
        f'bearer-token = "{SECRET}"\nusername = "u"',
        f'password = "{SECRET}"',
        f'access-key-id = "{SECRET}"',
        f'{SECRET} = "x"',
        f'bearer-token = ["{SECRET}"]',
        f'bearer-token = "{SECRET} {SECRET}"',
        f'bearer-token = "{SECRET}\\u0000"',
        f'bearer-token = "{SECRET}\\r\\nHost: elsewhere"',
        'bearer-token = ""',
        f'account-key = "{SECRET}!"',
        f'account-key = "{SECRET}a"',
        f'sas-token = "{SECRET}"',
        f'sas-token = "sig=1#{SECRET}"',
        f'username = "a:b"\npassword = "{SECRET}"',
        f'username = "a"\npassword = "{SECRET}\\n"',
        "[" * 5000,
        f"a = {'[' * 5000}{SECRET}",
        f"\xff\xfe{SECRET}",
    ],
)
def test_a_secret_file_that_is_wrong_is_not_quoted(content: str) -> None:
    """What is wrong with a secret file is said without a word of what stands in it."""
    with pytest.raises(SourceError) as caught:
        parse(content.encode("latin-1"), "/secret")
    assert caught.value.kind is ErrorKind.BAD_CONFIG
    assert caught.value.where == "/secret"
    assert caught.value.advice
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert SECRET not in repr(caught.value.__context__)


def test_a_secret_file_that_is_no_toml_names_the_line() -> None:
    """Where a secret file is not TOML, the error names the line."""
    with pytest.raises(SourceError, match=r"not TOML \(line 2\)"):
        parse(b'username = "a"\npassword = \xc3\xa4', "/secret")


@given(st.binary(max_size=200))
def test_junk_in_a_secret_file_is_an_error_of_the_configuration(content: bytes) -> None:
    """Whatever bytes a secret file has, they are a credential or an error of the configuration."""
    with contextlib.suppress(SourceError):
        secret = parse(content, "/secret")
        assert isinstance(secret, AwsKeys | AzureKey | AzureSas | Bearer | Basic)


@pytest.mark.parametrize(
    "secret",
    [
        AwsKeys(SECRET, SECRET, SECRET),
        AzureKey("account", SECRET),
        AzureSas(SECRET),
        Bearer(SECRET),
        Basic(SECRET, SECRET),
    ],
)
def test_credentials_do_not_show_themselves(secret: object) -> None:
    """No way of turning a credential into text shows it."""
    assert SECRET not in f"{secret} {secret!r} {secret!s} {[secret]}"
