"""S3 stores as boto3 fills them: what moto's and s3rver's fixtures have in common."""

from typing import Any, ClassVar

import boto3
import botocore.auth
import botocore.awsrequest
import botocore.config
import botocore.credentials

from tests.stores.liar import Headers
from tests.stores.store import BUCKET, Store
from vzfs.access import StoreOptions

REGION = "us-east-1"


class S3Store(Store):
    """A bucket of an S3 server at *url*, for who has these keys."""

    scheme: ClassVar[str] = "s3"

    def __init__(self, url: str, access_key: str, secret_key: str) -> None:
        self.url = url
        self._keys = botocore.credentials.Credentials(access_key, secret_key)
        self.environment = {
            "AWS_ACCESS_KEY_ID": access_key,
            "AWS_SECRET_ACCESS_KEY": secret_key,
            "AWS_REGION": REGION,
        }
        self._client: Any = boto3.client(
            "s3",
            endpoint_url=url,
            region_name=REGION,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            config=botocore.config.Config(
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                proxies={},
            ),
        )
        self._client.create_bucket(Bucket=BUCKET)

    def put(self, key: str, data: bytes) -> None:
        self._client.put_object(Bucket=BUCKET, Key=key, Body=data)

    def delete(self, key: str) -> None:
        self._client.delete_object(Bucket=BUCKET, Key=key)

    def etag(self, key: str) -> str:
        return str(self._client.head_object(Bucket=BUCKET, Key=key)["ETag"])

    def modified(self, key: str) -> int:
        found = self._client.head_object(Bucket=BUCKET, Key=key)
        return int(found["LastModified"].timestamp())

    def options(self, endpoint: str) -> StoreOptions:
        return StoreOptions(
            endpoint=endpoint,
            allow_http=endpoint.startswith("http:"),
            path_style=True,
            region=REGION,
        )

    def flags(self, endpoint: str) -> list[str]:
        return [*super().flags(endpoint), "--region", REGION]

    def sign(self, method: str, target: str, headers: Headers) -> Headers:
        signing = {"authorization", "x-amz-date", "x-amz-content-sha256", "x-amz-security-token"}
        kept = [(n, v) for n, v in headers if n.lower() not in signing]
        host = next(v for n, v in kept if n.lower() == "host")
        request = botocore.awsrequest.AWSRequest(method, f"http://{host}{target}")
        request.headers["Host"] = host
        botocore.auth.S3SigV4Auth(self._keys, "s3", REGION).add_auth(request)
        return [*kept, *((n, v) for n, v in request.headers.items() if n.lower() != "host")]
