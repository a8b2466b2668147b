"""AWS Signature Version 4: Amazon's own examples, and botocore."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from unittest.mock import patch
from urllib.parse import quote

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from predictor.s3_signature import Key, canonical_query, signed_headers

EXAMPLE = Key("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", None, "us-east-1")
EXAMPLE_HOST = "examplebucket.s3.amazonaws.com"
EXAMPLE_TIME = datetime(2013, 5, 24, tzinfo=UTC)


@pytest.mark.parametrize(
    ("path", "query", "headers", "signature"),
    [
        (
            "/test.txt",
            {},
            {"range": "bytes=0-9"},
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        ("/", {"lifecycle": ""}, {}, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        (
            "/",
            {"max-keys": "2", "prefix": "J"},
            {},
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ],
    ids=["GET Object", "GET Bucket Lifecycle", "Get Bucket (List Objects)"],
)
def test_the_examples_of_the_specification(
    path: str, query: dict[str, str], headers: dict[str, str], signature: str
) -> None:
    """The GET examples of "Signature Calculations for the Authorization Header" in the Amazon S3 API reference."""
    found = signed_headers(EXAMPLE, EXAMPLE_HOST, path, query, EXAMPLE_TIME, **headers)
    assert found["authorization"].endswith(f"Signature={signature}")


@given(
    key=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30),
    prefix=st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30),
    token=st.none() | st.text("abcABC123+/=", min_size=1),
    secret=st.text("abcABC123+/", min_size=1),
)
def test_botocore_signs_alike(key: str, prefix: str, token: str | None, secret: str) -> None:
    """Any key, prefix, secret and session token gives the signature that Amazon's own library gives."""
    path = f"/bucket/{quote(key, safe='/-._~')}"
    query = {"list-type": "2", "prefix": prefix}
    now = datetime.now(UTC)
    ours = signed_headers(Key("id", secret, token, "eu-south-1"), "minio:9000", path, query, now, if_match='"e"')
    request = AWSRequest("GET", f"http://minio:9000{path}?{canonical_query(query)}", headers={"if-match": '"e"'})
    with patch("botocore.auth.get_current_datetime", return_value=now):
        S3SigV4Auth(Credentials("id", secret, token), "s3", "eu-south-1").add_auth(request)
    assert _signature(request.headers["Authorization"]) == _signature(ours["authorization"])


def _signature(authorization: str) -> str:
    found = re.search(r"Signature=([0-9a-f]{64})$", authorization)
    assert found
    return found[1]
