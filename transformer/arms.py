"""The predictor's arms: which revision a request goes to.

What belongs here: the arms and the choice among them, as pure values. What does not: how the arms of a running
InferenceService become known (`traffic`, `traffic_watch`), and the calls to them (`upstream`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

STABLE = "stable"
CANARY = "canary"

_WHOLE = 100
_SHARE_BITS = 53  # as many as a float holds exactly, so that the quotient never rounds up to 1.0


@dataclass(frozen=True, slots=True)
class Arm:
    """One live predictor revision, or the only predictor where there is no canary.

    Attributes:
        name: "stable" or "canary"; reported to the client.
        base_url: Scheme, host and port of the predictor, without a path.
        percent: Its share of the requests, 0 to 100.
        revision: The Knative revision behind it; empty where none is known.
    """

    name: str
    base_url: str
    percent: int = _WHOLE
    revision: str = ""


@dataclass(frozen=True, slots=True)
class Arms:
    """The live arms: the stable one always, beside it at most one canary; their shares add to 100 percent.

    Attributes:
        stable: The last revision that reached 100 percent.
        canary: The revision on trial; at 0 percent it is never drawn, but a request may still be pinned to it.
    """

    stable: Arm
    canary: Arm | None = None

    def __post_init__(self) -> None:
        """Refuse shares that do not add up; raises `ValueError`."""
        shares = [arm.percent for arm in self.candidates]
        if sum(shares) != _WHOLE or min(shares) < 0:
            raise ValueError(f"the shares of the arms are {shares}, which do not add to {_WHOLE} percent")

    @property
    def candidates(self) -> tuple[Arm, ...]:
        """Every arm that a request may be pinned to, stable first; which version each serves, its predictor says."""
        return (self.stable,) if self.canary is None else (self.stable, self.canary)

    def fallback(self, arm: Arm, ordinary: Arm) -> Arm:
        """Who is asked when an arm is gone: the stable one; for that one the ordinary host, which outlives its tag.

        At a promotion the ingress forgets the tag's host before the status says so.
        """
        if arm != self.stable:
            return self.stable
        return arm if arm.base_url == ordinary.base_url else ordinary

    def serve(self, arm: Arm) -> bool:
        """Whether an arm that was drawn before still gets requests; its host may be another one since."""
        return any(
            one.percent > 0 and (one.revision == arm.revision if arm.revision else one.base_url == arm.base_url)
            for one in self.candidates
        )

    def draw(self, session_id: str | None, random: float) -> Arm:
        """The arm of one request.

        Args:
            session_id: Requests of one session meet the same arm while the split is unchanged, in every process. When
                the canary's share grows, sessions move to it and none moves back.
            random: Uniform in [0, 1); decides where there is no session.
        """
        if self.canary is None:
            return self.stable
        position = random if session_id is None else _position(session_id, self.canary.revision)
        return self.canary if position * _WHOLE < self.canary.percent else self.stable


def _position(session_id: str, revision: str) -> float:
    """Where a session stands in [0, 1), uniform over sessions.

    The canary's revision salts the hash: without it the same few sessions would meet every canary first.
    """
    # Surrogates cannot come over the wire, but JSON escapes can spell them.
    text = session_id.encode("utf-8", "surrogatepass")
    salt = hashlib.blake2b(revision.encode(), digest_size=hashlib.blake2b.SALT_SIZE).digest()
    digest = hashlib.blake2b(text, digest_size=8, salt=salt).digest()
    return (int.from_bytes(digest, "big") >> (64 - _SHARE_BITS)) / (1 << _SHARE_BITS)
