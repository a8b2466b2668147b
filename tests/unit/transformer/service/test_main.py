from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from transformer import __main__ as main_module

if TYPE_CHECKING:
    from oip.http import ASGIApp


class _Server:
    """Takes the place of the process's server: notes what it was made of and serves nothing."""

    made: _Server

    def __init__(self, *, application: Any, **options: Any) -> None:  # noqa: ANN401 - the server's own
        self.application, self.options, self.draining = application, options, False
        self.models: list[Any] = []
        type(self).made = self

    def start(self, models: list[Any]) -> None:
        """Note the models."""
        self.models = models


async def _get(app: ASGIApp, path: str) -> dict[str, Any]:
    body = b""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:  # noqa: ANN401 - of a conftest.py, which cannot be imported
        nonlocal body
        body += message.get("body", b"")

    await app({"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "headers": []}, receive, send)
    document: dict[str, Any] = json.loads(body)
    return document


async def _foreign(*_: object) -> None:
    raise AssertionError


@pytest.mark.usefixtures("process_metrics")
def test_the_parts_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The settings reach the server, and the application answers V2 and REST; both know of the drain."""
    options = ("--predictor_host=127.0.0.1:1", "--http_port=18", "--grpc_port=19", "--enable_grpc=no", "--drain_s=7")
    monkeypatch.setattr(sys, "argv", ["transformer", *options])
    monkeypatch.setattr(main_module, "Server", _Server)
    main_module.main()
    server = _Server.made
    assert server.options.pop("background").__name__ == "run"
    assert server.options == {
        "http_port": 18,
        "grpc_port": 19,
        "enable_grpc": False,
        "drain_s": 7.0,
        "max_bodies_bytes": 2**28,
    }
    assert [model.name for model in server.models] == ["localization"]
    assert server.models[0].ready


@pytest.mark.usefixtures("process_metrics")
async def test_the_applications(monkeypatch: pytest.MonkeyPatch) -> None:
    """V2 and REST are in front of the SDK's application, and neither is ready without a predictor."""
    monkeypatch.setattr(sys, "argv", ["transformer", "--predictor_host", "127.0.0.1:1"])
    monkeypatch.setattr(main_module, "Server", _Server)
    main_module.main()
    background = asyncio.create_task(_Server.made.options["background"]())
    app = _Server.made.application(_foreign)
    assert (await _get(app, "/v2"))["name"] == "heimdall-transformer"
    assert (await _get(app, "/v2/health/ready"))["ready"] is False
    assert (await _get(app, "/health"))["status"] == "unhealthy"
    _Server.made.draining = True
    assert (await _get(app, "/health"))["status"] == "unhealthy"
    background.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await background


def test_bad_settings_end_the_process_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """All problems in one sentence, as the exit message."""
    monkeypatch.setattr(sys, "argv", ["transformer", "--http_port", "0"])
    with pytest.raises(SystemExit, match=r"^transformer: --http_port '0': .*; --predictor_host is missing$"):
        main_module.main()
