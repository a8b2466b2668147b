"""Which changes of a model's contract its clients notice.

What belongs here: comparing two contracts. What does not: reading them (`artifact`), and what their members mean (the
transformer).

Every training has another normalisation and another table k(p), so that contracts as a whole are never equal. The
transformer builds each arm's features from that arm's own contract; what has to stay is what clients send and what they
are told.
"""

from __future__ import annotations

import json

INTERFACE = ("schema", "receivers", "sample_rate_hz", "samples", "full_scale_dbm", "outputs")
"""Members that a client sees: the shape, order and scale of captures, and the meaning of the answers."""


def interface_changes(live: str, new: str) -> tuple[str, ...]:
    """The members of the interface in which two contracts differ; empty texts stand for no contract."""
    if not live or not new:
        return () if live == new else ("members (one of both has none at all)",)
    before, after = json.loads(live), json.loads(new)
    return tuple(name for name in INTERFACE if before.get(name) != after.get(name))
