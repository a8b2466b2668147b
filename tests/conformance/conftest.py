"""What the suite needs: the server under test (started here, or anybody's by URL), and requests that it must accept.

The model under test echoes: its k-th output is its k-th input. Everything else is read from its metadata, so that the
clauses hold for whatever datatypes it has. `docs/conformance.md` explains the options.
"""

from __future__ import annotations

import http.client
import itertools
import json
import math
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import numpy as np
import onnx
import pytest
from held_port import held_port
from onnx import TensorProto, helper

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    Entry = dict[str, Any]

PROFILES = ("core", "binary", "heimdall")
"""Each contains those before it: the protocol; Triton's binary tensors; what this service promises beyond."""

_BITS = (8, 16, 32, 64)
DTYPES = (
    {"BOOL": "?"}
    | {f"UINT{bits}": f"<u{bits // 8}" for bits in _BITS}
    | {f"INT{bits}": f"<i{bits // 8}" for bits in _BITS}
    | {f"FP{bits}": f"<f{bits // 8}" for bits in _BITS[1:]}
    | {"BYTES": "O"}
)
"""The table "Tensor Data Types" of the protocol, written once more on purpose: the suite trusts no code of ours."""

ONNX_TYPES = {"FP16": "FLOAT16", "FP32": "FLOAT", "FP64": "DOUBLE", "BYTES": "STRING"}
START_S = 60.0
COUNTS: Counter[tuple[str, str]] = Counter()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of a run against a server that is there already."""
    group = parser.getgroup("conformance")
    group.addoption("--server-url", help="http://host:port of the server under test; without it one is started")
    group.addoption("--model-name", default="identity", help="a model whose k-th output is its k-th input")
    group.addoption("--profile", default="heimdall", choices=PROFILES, help="how much is demanded")


def pytest_configure(config: pytest.Config) -> None:
    """Tell pytest about the marker that every module of clauses carries."""
    config.addinivalue_line("markers", "profile(name): the least profile of the conformance suite to run under")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the profile does not demand, and what concerns only servers started here."""
    wanted = PROFILES[: PROFILES.index(config.getoption("--profile", "heimdall")) + 1]
    foreign = config.getoption("--server-url", None) is not None
    kept = [item for item in items if (_profile(item) or "core") in wanted or (_profile(item) == "own" and not foreign)]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def _profile(item: pytest.Item) -> str | None:
    mark = item.get_closest_marker("profile")
    return None if mark is None else str(mark.args[0])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:  # noqa: ANN401 - pytest's generator protocol
    """Count results by profile, for the table of `docs/conformance.md`."""
    report = yield
    if report.when == "call" or report.outcome != "passed":
        COUNTS[_profile(item) or "", report.outcome] += 1
    return report


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:  # noqa: ANN401 - not exported
    """One line for each profile, when a server was named."""
    if config.getoption("--server-url", None) is not None:
        for profile in PROFILES:
            figures = ", ".join(f"{COUNTS[profile, word]} {word}" for word in ("passed", "failed", "skipped"))
            terminalreporter.write_line(f"profile {profile}: {figures}")


@dataclass(frozen=True)
class Answer:
    """Status, headers in lower case, and body."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json_size(self) -> int | None:
        """The length of the JSON part where binary tensors follow it."""
        size = self.headers.get("inference-header-content-length")
        return None if size is None else int(size)

    @property
    def members(self) -> Any:  # noqa: ANN401 - JSON
        """The JSON part."""
        return json.loads(self.body[: self.json_size])

    @property
    def outputs(self) -> dict[str, Entry]:
        """The response's outputs by name, each with its bytes as member `raw` if it is binary."""
        assert self.status == 200, self.body[:500]
        outputs, at = {}, self.json_size
        for entry in self.members["outputs"]:
            size = (entry.get("parameters") or {}).get("binary_data_size")
            raw = {} if size is None else {"raw": self.body[at : at + size]}
            at = at if size is None else at + size
            outputs[entry["name"]] = entry | raw
        assert at in {None, len(self.body)}
        return outputs

    def refuses(self, *statuses: int) -> str:
        """The message of an error object; a client's mistake has a status of 4xx, or one of `statuses`."""
        assert self.status in (statuses or range(400, 500)), (self.status, self.body[:300])
        assert isinstance(self.members, dict), self.body[:300]
        assert isinstance(self.members.get("error"), str), self.body[:300]
        return str(self.members["error"])


@dataclass(frozen=True)
class Target:
    """The server under test."""

    url: str
    model_name: str
    process: subprocess.Popen[bytes] | None = None
    grpc: str = ""
    metadata: Entry = field(default_factory=dict)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        return str(parts.hostname), parts.port or 80

    @property
    def path(self) -> str:
        """The model's path."""
        return f"/v2/models/{quote(self.model_name, safe='')}"

    def call(
        self, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None, method: str | None = None
    ) -> Answer:
        """One request on a connection of its own; POST where there is a body."""
        connection = http.client.HTTPConnection(*self.address, timeout=20)
        try:
            connection.request(method or ("GET" if body is None else "POST"), path, body, dict(headers or {}))
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, names, answer.read())
        finally:
            connection.close()

    def raw(self, *chunks: bytes, pause_s: float = 0.0, timeout_s: float = 10.0) -> bytes:
        """What the server sends until it closes, in answer to exactly these bytes."""
        received = bytearray()
        with socket.create_connection(self.address, timeout=timeout_s) as connection:
            for chunk in chunks:
                try:
                    connection.sendall(chunk)
                except (BrokenPipeError, ConnectionResetError):
                    break  # it has answered already
                time.sleep(pause_s)
            while part := _received(connection):
                received += part
        return bytes(received)

    def infer(
        self, request: Entry | bytes, raw: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """An inference request; with `raw` as binary tensors behind the JSON text."""
        text = request if isinstance(request, bytes) else json.dumps(request).encode()
        sizes = {} if raw is None else {"Inference-Header-Content-Length": str(len(text))}
        kind = {"Content-Type": "application/json" if raw is None else "application/octet-stream"}
        return self.call(f"{self.path}/infer", text + (raw or b""), kind | sizes | dict(headers or {}))

    @property
    def datatypes(self) -> list[str]:
        """The datatypes that the model can echo, in its inputs' order."""
        return [entry["datatype"] for entry in self.metadata["inputs"]]

    def names(self, datatype: str) -> tuple[str, str]:
        """The input of that datatype, and the output that echoes it; skips where the model has none."""
        if datatype not in self.datatypes:
            pytest.skip(f"the model has no {datatype} input")
        at = self.datatypes.index(datatype)
        return self.metadata["inputs"][at]["name"], self.metadata["outputs"][at]["name"]

    def shape(self, datatype: str, batch: int = 1) -> list[int]:
        """A shape that fits, with `batch` for each dynamic axis; skips where the model has no such input."""
        self.names(datatype)
        shape = self.metadata["inputs"][self.datatypes.index(datatype)]["shape"]
        return [batch if size == -1 else size for size in shape]

    def inputs(self, *changed: Entry, batch: int = 1) -> list[Entry]:
        """All the model's inputs, valid, as JSON; `changed` entries take the place of those of their name."""
        replaced = {entry["name"]: entry for entry in changed}
        return [
            replaced.get(one["name"]) or self.entry(one["datatype"], values(one["datatype"]), batch=batch)
            for one in self.metadata["inputs"]
        ]

    def entry(self, datatype: str, elements: Sequence[object], batch: int = 1, **members: object) -> Entry:
        """One input with the elements repeated to the full shape; members given replace or (None) remove others."""
        shape = self.shape(datatype, batch)
        data = list(itertools.islice(itertools.cycle(elements), math.prod(shape)))
        entry = {"name": self.names(datatype)[0], "datatype": datatype, "shape": shape, "data": data} | members
        return {key: value for key, value in entry.items() if value is not None}

    def binary(self, datatype: str, raw: bytes, batch: int = 1) -> Entry:
        """One input whose data stands behind the JSON text."""
        return self.entry(datatype, [0], batch, data=None, parameters={"binary_data_size": len(raw)})


def values(datatype: str) -> list[Any]:
    """Elements that every server can take."""
    return {"BOOL": [True, False], "BYTES": ["a", "bc"]}.get(datatype, [1, 2])


def encoded(datatype: str, elements: Sequence[Any]) -> bytes:
    """Elements as the binary extension lays them out."""
    if datatype == "BYTES":
        return b"".join(len(one).to_bytes(4, "little") + one for one in elements)
    return np.array(elements, DTYPES[datatype]).tobytes()


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except ConnectionResetError:
        return b""


def write_echo_model(path: Path, datatypes: Sequence[str]) -> None:
    """An ONNX model with an input and an output of each datatype, [batch, 2]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kinds = {name: getattr(TensorProto, ONNX_TYPES.get(name, name)) for name in datatypes}
    nodes = [helper.make_node("Identity", [f"in_{name}"], [f"out_{name}"]) for name in kinds]
    inputs = [helper.make_tensor_value_info(f"in_{name}", kind, ["batch", 2]) for name, kind in kinds.items()]
    outputs = [helper.make_tensor_value_info(f"out_{name}", kind, ["batch", 2]) for name, kind in kinds.items()]
    graph = helper.make_graph(nodes, "echo", inputs, outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)


@contextmanager
def serving(model_dir: Path, model_name: str, *options: str) -> Iterator[Target]:
    """This project's predictor as a process of its own."""
    ports = [held_port(), held_port()]
    command = [sys.executable, "-m", "predictor", f"--model_name={model_name}", f"--model_dir={model_dir}"]
    command += [f"--http_port={ports[0]}", f"--grpc_port={ports[1]}", "--drain_s=0", *options]
    with (model_dir / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        target = Target(f"http://127.0.0.1:{ports[0]}", model_name, process, f"127.0.0.1:{ports[1]}")
        try:
            yield described(target)
        finally:
            process.terminate()
            try:
                process.wait(20)
            finally:
                process.kill()


def described(target: Target) -> Target:
    """The target with the metadata of its model, as soon as it has it."""
    deadline_s = time.monotonic() + START_S
    while True:
        try:
            answer = target.call(target.path)
            assert answer.status == 200, answer.body
            return Target(target.url, target.model_name, target.process, target.grpc, answer.members)
        except (OSError, AssertionError):
            if time.monotonic() > deadline_s or (target.process is not None and target.process.poll() is not None):
                raise
            time.sleep(0.05)


@pytest.fixture(scope="session")
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """The server of `--server-url`, or a predictor with a model of every datatype whose name needs quoting."""
    url = request.config.getoption("--server-url", None)
    with ExitStack() as stack:
        if url is None:
            directory = tmp_path_factory.mktemp("echo")
            write_echo_model(directory / "model.onnx", list(DTYPES))
            yield stack.enter_context(serving(directory, "identité"))
        else:
            yield described(Target(url.rstrip("/"), request.config.getoption("--model-name")))


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A predictor of ours with a small body limit and a short time budget, to be mistreated."""
    directory = tmp_path_factory.mktemp("guarded")
    write_echo_model(directory / "model.onnx", ["FP32", "BYTES"])
    options = ("--max_body_bytes=1000000", "--request_timeout_s=2", "--enable_grpc=false")
    with serving(directory, "echo", *options) as target:
        yield target


@pytest.fixture(scope="session", params=list(DTYPES))
def datatype(request: pytest.FixtureRequest) -> str:
    """Each datatype of the protocol."""
    return str(request.param)


@pytest.fixture(scope="session")
def encode() -> Any:  # noqa: ANN401 - `encoded`, for modules that cannot import it
    """`encoded`."""
    return encoded
