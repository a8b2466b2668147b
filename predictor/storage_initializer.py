"""`python -m predictor.storage_initializer URI FOLDER …`: models into folders, as KServe's storage initializer does it.

What belongs here: the program that KServe starts before the predictor's, with what `storageUri` says. What does not:
the predictor's own fetching (`source`), which needs boto3 for S3 and knows MLflow too.

It is in the predictor's image, which the node needs anyway, and takes a fifth of the time of KServe's own. It reads S3
with access keys only; for anything else KServe's image is there.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from predictor.download import Download
from predictor.errors import PredictorError, SourceError
from predictor.model_files import copy_files, copy_model
from predictor.s3_reader import S3Reader
from predictor.s3_source import S3Access
from predictor.store import Interrupted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PATIENCE_S = 10.0
"""How long an S3 service that does not answer is asked again. Kubernetes itself waits 10 s after the second failure,
and then longer and longer."""

_PAUSE_S = 0.5


def main() -> None:
    """Fetch all of them; the first failure ends the process with one line, which Kubernetes shows."""
    started_s = time.monotonic()
    try:
        initialize(sys.argv[1:], os.environ)
    except (PredictorError, OSError) as error:
        sys.exit(f"storage initializer: {error}")
    sys.stderr.write(f"fetched {' to '.join(sys.argv[1:])} in {time.monotonic() - started_s:.3f} s\n")


def initialize(arguments: Sequence[str], environ: Mapping[str, str]) -> None:
    """Fetch every model.

    Args:
        arguments: URI and folder, again and again.
        environ: Says how to get there; see `S3Access`.

    Raises:
        SourceError: One cannot be fetched.
        OSError: A folder cannot be written to.
    """
    for uri, folder in zip(arguments[::2], arguments[1::2], strict=True):
        end_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                _copy(uri, Path(folder), environ)
            except Interrupted:
                if time.monotonic() >= end_s:
                    raise
                time.sleep(_PAUSE_S)
            else:
                break


def _copy(uri: str, folder: Path, environ: Mapping[str, str]) -> None:
    parts = urlsplit(uri, allow_fragments=False)
    if parts.scheme != "s3" or not parts.netloc:
        raise SourceError(f"{uri} is not s3://BUCKET/FOLDER: choose KServe's image in storage.container.image")
    key = parts.path.strip("/")
    place, _, name = key.rpartition("/") if key.endswith(".onnx") else (key, "", "")
    store, download = S3Reader(S3Access.from_environ(environ), parts.netloc, place), Download(folder)
    if name:
        copy_model(store, "", name, download)
    else:
        copy_files(store, download)


if __name__ == "__main__":
    main()
