"""moto's S3 server: it honours preconditions, and checks who asks and how the request is signed."""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import boto3

from tests.stores.programs import Program
from tests.stores.s3client import REGION, S3Store

_EVERYTHING: Final = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}],
}
_ACTIONS_OF_ANYBODY: Final = 3
"""Those of `_make_user`. After them moto wants to know who asks."""


class Moto(S3Store):
    """A bucket of moto, for a user of its IAM."""

    name = "moto"


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Moto]:
    """Run moto's server in *folder* while the context lasts."""
    words = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", "0"]
    environment = {"INITIAL_NO_AUTH_ACTION_COUNT": str(_ACTIONS_OF_ANYBODY)}
    with Program(
        words, r"Running on (http://127\.0\.0\.1:\d+)", folder=folder, environment=environment
    ) as program:
        assert program.match is not None
        url = program.match[1]
        keys = _make_user(url)
        yield Moto(url, keys["AccessKeyId"], keys["SecretAccessKey"])


def _make_user(url: str) -> dict[str, Any]:
    """Make a user who may do everything with objects, and return the keys."""
    users: Any = boto3.client(
        "iam",
        endpoint_url=url,
        region_name=REGION,
        aws_access_key_id="first",
        aws_secret_access_key="first",
    )
    users.create_user(UserName="reader")
    users.put_user_policy(
        UserName="reader", PolicyName="all", PolicyDocument=json.dumps(_EVERYTHING)
    )
    keys: dict[str, Any] = users.create_access_key(UserName="reader")["AccessKey"]
    users.close()
    return keys
