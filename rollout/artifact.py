"""A model's files in a bucket: whether they are there, and their digests.

What belongs here: reading them once from S3, or from anything that speaks its protocol. What does not: whether KServe
can read them with its own credentials, which only a pod can tell (`preflight_job`).

Access is boto3's own: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_DEFAULT_REGION.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import re
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import boto3
import yaml
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from rollout.errors import ArtifactError
from rollout.onnx_file import MalformedError, external_names, metadata

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

    from types_boto3_s3 import S3Client

MODEL, CONTRACT, DESCRIPTION = "model.onnx", "contract.json", "MLmodel"
CONTRACT_KEY = "heimdall.contract"
_CHUNK_BYTES = 1 << 20
_LARGEST_DOCUMENT = 10 << 20
_URI = re.compile(r"s3://(?P<bucket>[^/]+)/(?P<key>.+)")


@dataclass(frozen=True, slots=True)
class Artifact:
    """The files of one version.

    Attributes:
        storage_uri: Where KServe has to read them.
        model_digest: "sha256:HEX" of the model, files with its tensors included.
        contract: Its canonical text; empty if it carries none.
        contract_digest: "sha256:HEX" of that.
        signature: MLflow's, as JSON text; empty without one.
        bytes: Of the model's file.
    """

    storage_uri: str
    model_digest: str
    contract: str
    contract_digest: str
    signature: str
    bytes: int


def s3_client() -> S3Client:
    """A client of the S3 service that the environment names; with an endpoint of its own the bucket is in the path."""
    own = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    settings = Config(
        connect_timeout=5.0,
        read_timeout=30.0,
        retries={"mode": "standard", "total_max_attempts": 3},
        s3={"addressing_style": "path" if own else "auto"},
    )
    return boto3.Session().client("s3", config=settings)


class Artifacts:
    """Models in buckets.

    Args:
        client: Of their S3 service.
    """

    def __init__(self, client: S3Client) -> None:
        self._client = client

    def inspect(self, uri: str, version: str) -> Artifact:
        """Read the files of a version.

        Args:
            uri: Of `model.onnx`, or of a folder that holds it or a folder VERSION with it.
            version: The registry's number.

        Raises:
            ArtifactError: They are not there, cannot be read, or are no ONNX model.
        """
        match = _URI.fullmatch(uri.rstrip("/"))
        if match is None:
            raise ArtifactError(
                f"the files lie at {uri}: KServe and this command read s3://BUCKET/KEY. An experiment whose artifact "
                "location is in a bucket makes such versions; mlflow-artifacts:/ can only be read through MLflow"
            )
        with _translated(uri):
            return self._inspect(match["bucket"], match["key"], uri, version)

    def _inspect(self, bucket: str, key: str, uri: str, version: str) -> Artifact:
        model = self._model(bucket, key, version)
        folder = model.rpartition("/")[0]
        with tempfile.TemporaryFile() as file:
            digest = self._copy(bucket, model, file)
            if file.tell() == 0:
                raise ArtifactError(f"s3://{bucket}/{model} is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                names = sorted(name for name in external_names(content) if self._there(bucket, f"{folder}/{name}"))
                contract = "" if key == model else self._document(bucket, f"{folder}/{CONTRACT}")
                contract = canonical(contract or metadata(content).get(CONTRACT_KEY, ""))
            size = file.tell()
        if names:
            lines = {MODEL: digest} | {name: self._copy(bucket, f"{folder}/{name}", None) for name in names}
            digest = hashlib.sha256("".join(f"{n}\0{lines[n]}\n" for n in sorted(lines)).encode()).hexdigest()
        signature = "" if key == model else _signature(self._document(bucket, f"{folder}/{DESCRIPTION}"))
        of_contract = contract and f"sha256:{hashlib.sha256(contract.encode()).hexdigest()}"
        return Artifact(uri, f"sha256:{digest}", contract, of_contract, signature, size)

    def _model(self, bucket: str, key: str, version: str) -> str:
        if key.endswith(".onnx"):
            return key
        for candidate in (f"{key}/{MODEL}", f"{key}/{version}/{MODEL}"):
            if self._there(bucket, candidate):
                return candidate
        raise ArtifactError(f"s3://{bucket}/{key} holds neither {MODEL} nor {version}/{MODEL}")

    def _there(self, bucket: str, key: str) -> bool:
        try:
            self._client.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:  # noqa: PLR2004 - HTTP's "not found"
                return False
            raise
        return True

    def _document(self, bucket: str, key: str) -> str:
        """A small text; empty if it is not there."""
        if not self._there(bucket, key):
            return ""
        return self._client.get_object(Bucket=bucket, Key=key)["Body"].read(_LARGEST_DOCUMENT).decode()

    def _copy(self, bucket: str, key: str, file: IO[bytes] | None) -> str:
        """Hex digest of an object, which is also written to a file if one is given."""
        digest = hashlib.sha256()
        for chunk in self._client.get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(_CHUNK_BYTES):
            digest.update(chunk)
            if file is not None:
                file.write(chunk)
        if file is not None:
            file.flush()
        return digest.hexdigest()


def canonical(contract: str) -> str:
    """A contract's canonical text: keys sorted, no spaces, UTF-8; empty for no contract."""
    if not contract:
        return ""
    try:
        return json.dumps(json.loads(contract), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    except ValueError as error:
        raise ArtifactError(f"the model's contract is not JSON: {error}") from error


def _signature(description: str) -> str:
    """Of the file MLmodel, which is YAML."""
    document = yaml.safe_load(description) if description else None
    found = document.get("signature") if isinstance(document, dict) else None
    return json.dumps(found, sort_keys=True) if found else ""


@contextmanager
def _translated(uri: str) -> Iterator[None]:
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        raise ArtifactError(f"{uri}: {error}") from error
    except (MalformedError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ArtifactError(f"{uri} holds no model that can be read: {error}") from error
