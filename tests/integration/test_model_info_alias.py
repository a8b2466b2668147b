"""Aliases of a real MLflow server as the real transformer tells them, while they move and when it is gone."""

from __future__ import annotations

import json
import time
import urllib.request
from typing import TYPE_CHECKING, Any

from transformer.registry_aliases import MAX_AGE_S

if TYPE_CHECKING:
    from conftest import Fleet, Running, Server

MODEL = "radio_model"
NOTICED_S = MAX_AGE_S + 5.0


def _told(registry: Running, path: str, **members: str) -> None:
    """What an operator tells the registry, over MLflow's REST API 2.0."""
    url, headers = f"{registry.url}/api/2.0/mlflow/{path}", {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(members).encode(), headers), timeout=30):
        pass


def _alias(server: Server) -> Any:  # noqa: ANN401 - of JSON
    """The member; the answer is always one, and never late."""
    began_s = time.monotonic()
    answer = server.call("GET", "/api/v1/inference/model/info")
    assert (answer.status, answer.json["active_version"]) == (200, "1"), answer.body
    assert time.monotonic() - began_s < 3.0
    return answer.json["alias"]


def test_aliases_follow_the_registry(fleet: Fleet, predictor: Server, own_mlflow_server: Running) -> None:
    """What is set is seen, what moves is seen when the memory is over, and without the registry nothing is known."""
    registry = own_mlflow_server
    options = ("--mlflow_tracking_uri", registry.url, "--registered_model", MODEL)
    stranger = fleet.transformer(predictor.address, *options)
    assert _alias(stranger) is None  # there is no such model yet
    assert stranger.log.read_text().count(f"it knows no version 1 of {MODEL}") == 1

    _told(registry, "registered-models/create", name=MODEL)
    for version in ("1", "2"):
        _told(registry, "model-versions/create", name=MODEL, source=f"s3://models/{version}")
        _told(registry, "registered-models/alias", name=MODEL, alias=f"of-{version}", version=version)
    _told(registry, "registered-models/alias", name=MODEL, alias="champion", version="1")
    server = fleet.transformer(predictor.address, *options)
    assert _alias(server) == ["champion", "of-1"]

    _told(registry, "registered-models/alias", name=MODEL, alias="champion", version="2")
    server.wait_until(lambda: _alias(server) == ["of-1"], NOTICED_S)
    assert _alias(stranger) == ["of-1"]

    registry.process.terminate()
    registry.process.wait(20.0)
    server.wait_until(lambda: _alias(server) is None, NOTICED_S)
    assert server.log.read_text().count("the registry tells no aliases: it cannot be asked: ") == 1
