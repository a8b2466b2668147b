# ruff: noqa: INP001 - a script of its own, mounted into a Job
"""Puts the quickstart's model where MODEL_URI says, and waits for the S3 service while that starts."""

import os
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

TRIES = 60
PAUSE_S = 1.0


def upload(model: bytes, bucket: str, key: str) -> None:
    """Make the bucket if it is missing and write the object; a second time changes nothing."""
    config = Config(connect_timeout=2, read_timeout=10, retries={"max_attempts": 0}, s3={"addressing_style": "path"})
    s3 = boto3.client("s3", endpoint_url=os.environ["S3_ENDPOINT"], config=config)
    if bucket not in {found["Name"] for found in s3.list_buckets()["Buckets"]}:
        s3.create_bucket(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key=key, Body=model)


def main() -> None:
    """Try once a second for a minute; after that the Job starts it again."""
    model, uri = Path(sys.argv[1]).read_bytes(), urlsplit(os.environ["MODEL_URI"])
    for left in reversed(range(TRIES)):
        try:
            upload(model, uri.netloc, uri.path.strip("/"))
        except (BotoCoreError, ClientError) as error:
            if not left:
                raise
            sys.stderr.write(f"not yet: {error}\n")
            time.sleep(PAUSE_S)
        else:
            sys.stderr.write(f"uploaded {len(model)} bytes to {uri.geturl()}\n")
            return


if __name__ == "__main__":
    main()
