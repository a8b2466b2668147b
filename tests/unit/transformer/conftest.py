"""A contract like that of a trained model, for the tests of everything that works by one."""

from __future__ import annotations

import copy
import json
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import REGISTRY

from transformer.contract import Contract, parse_contract

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = ("Aquila di Giaveno", "Montanaro", "Torino", "Coazze", "Passo dei Giovi", "Genova", "Milano-Baggio")

DOCUMENT: dict[str, Any] = {
    "schema": "heimdall.localization/1",
    "receivers": [
        {"name": name, "latitude": 44.5 + index / 10, "longitude": 7.0 + index / 5, "altitude_m": 250}
        for index, name in enumerate(NAMES)
    ],
    "sample_rate_hz": 48000,
    "samples": 4480,
    "full_scale_dbm": -50.0,
    "features": {
        "input": "log_mel",
        "fft_size": 512,
        "hop_size": 128,
        "window": "hann_periodic",
        "band_scale": "linear",
        "bands": 128,
        "frames": 32,
        "floor_dbm": -140.0,
        "mean": -12.3,
        "std": 4.5,
    },
    "outputs": {
        "position": {"name": "position", "unit": "degree"},
        "uncertainty": {"name": "uncertainty", "unit": "metre"},
        "confidence": {"name": "confidence", "meaning": "P(error < 20 km)"},
    },
    "ellipse_scale": [{"confidence_level": 0.5, "k": 1.18}, {"confidence_level": 0.9, "k": 2.3}],
    "power_range_dbm": [-125.0, -55.0],
    "region": {"south": 43.9, "west": 6.7, "north": 46.2, "east": 9.8},
    "sigma_range_m": [1.0, 200000.0],
}


class Contracts:
    """Makes contracts that differ from `DOCUMENT` in members named by their path."""

    @staticmethod
    def document(**changes: object) -> dict[str, Any]:
        """The document with `features__bands=64`, or without a member where the value is `...`."""
        document = copy.deepcopy(DOCUMENT)
        for path, value in changes.items():
            *parents, name = path.split("__")
            owner = document
            for parent in parents:
                owner = owner[parent]
            if value is ...:
                del owner[name]
            else:
                owner[name] = value
        return document

    def make(self, **changes: object) -> Contract:
        """The parsed contract with those changes."""
        return parse_contract(json.dumps(self.document(**changes)))

    def one_receiver(self, **changes: object) -> Contract:
        """The same for a model of one receiver."""
        return self.make(receivers=DOCUMENT["receivers"][:1], **changes)


@pytest.fixture(scope="session")
def contracts() -> Contracts:
    """Contracts with changes."""
    return Contracts()


@pytest.fixture(scope="session")
def contract(contracts: Contracts) -> Contract:
    """The unchanged contract."""
    return contracts.make()


@pytest.fixture
def swallowing() -> Iterator[str]:
    """The URL of a port that answers no SYN: its queue of new connections is full."""
    with socket.socket() as listener, ExitStack() as waiting:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(2):
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def process_metrics() -> Iterator[set[str]]:
    """Takes back what a test adds to the process's own registry; holds the names that have been there before."""
    names = REGISTRY._names_to_collectors  # noqa: SLF001 - the library offers no other way to take metrics away
    before = set(names)
    yield before
    for collector in {names[name] for name in set(names) - before}:
        REGISTRY.unregister(collector)
