"""What a load generator is told: one JSON file for each run, read by the open and the closed loop alike.

What belongs here: the plan and its file. What does not: what requests look like (`traffic`), and the sending.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orjson
from traffic import MIXED, Bodies, Draw, Traffic

_OPTIONS = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS

PLAN_VARIABLE = "HEIMDALL_LOAD_PLAN"
"""Names the plan's file for the generator whose command line belongs to locust."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One run of a generator.

    Attributes:
        url: Base URL of the service.
        captures: A file of numpy's: FP32 [K,R,N,2].
        records: Where a line is written for every request.
        seconds: How long requests are sent; those that were sent are waited for.
        host: The header `Host`, where an ingress routes by it; empty: as the URL says.
        traffic: Who sends what.
        rate_hz: Of the open loop: requests a second, in the mean.
        clients: Of the closed loop: each sends its next request when it has its answer.
        seed: Of the draw.
        timeout_s: After which a client gives a request up.
    """

    url: str
    captures: Path
    records: Path
    seconds: float
    host: str = ""
    traffic: Traffic = MIXED
    rate_hz: float = 30.0
    clients: int = 1
    seed: int = 1
    timeout_s: float = 30.0

    def save(self, path: Path) -> Path:
        """Write it; returns the path."""
        path.write_bytes(orjson.dumps(dataclasses.asdict(self), default=str, option=_OPTIONS))
        return path

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read what `save` wrote."""
        told = orjson.loads(path.read_bytes())
        files = {name: Path(told[name]) for name in ("captures", "records")}
        return cls(**{**told, **files, "traffic": Traffic(**told["traffic"])})

    def bodies(self) -> Bodies:
        """What its requests are made of."""
        return Bodies(self.traffic, np.load(self.captures))

    def draw(self, bodies: Bodies, part: int = 0) -> Draw:
        """Its requests; several clients take a part each."""
        return Draw(bodies, self.seed * 1000 + part)

    @property
    def headers(self) -> dict[str, str]:
        """What every request carries."""
        return {"Host": self.host} if self.host else {}
