from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from transformer.name_lookup import NameLookup


class Names:
    """A name server that counts its questions.

    Attributes:
        asked: How often.
        known: Whether it knows the name.
    """

    def __init__(self) -> None:
        self.asked = 0
        self.known = True

    async def getaddrinfo(self, host: str, port: int, **_: object) -> list[Any]:
        """See `asyncio.AbstractEventLoop`."""
        self.asked += 1
        await asyncio.sleep(0.01)
        if not self.known:
            raise socket.gaierror(socket.EAI_NONAME, host)
        family = socket.AF_INET
        return [(family, 0, 0, "", (address, port)) for address in ("10.0.0.1", "10.0.0.2", "10.0.0.1")]


@pytest.fixture
async def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """The name server that the event loop asks."""
    made = Names()
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", made.getaddrinfo)
    return made


async def test_those_who_ask_together_share_the_answer(names: Names) -> None:
    """Many questions at once, and all that follow for a while, are one; each address occurs once."""
    lookup = NameLookup()
    answers = await asyncio.gather(*(lookup.addresses("p", 80) for _ in range(10)), lookup.addresses("q", 80))
    assert set(answers) == {("10.0.0.1", "10.0.0.2")}
    await lookup.addresses("p", 80)
    assert names.asked == 2


async def test_answers_grow_old(names: Names) -> None:
    """A service that moves is found again."""
    lookup = NameLookup(max_age_s=0.0)
    await lookup.addresses("p", 80)
    await asyncio.sleep(0.001)
    await lookup.addresses("p", 80)
    assert names.asked == 2


async def test_failures_are_not_remembered(names: Names) -> None:
    """Who asks for an unknown name is told, and the next one asks anew."""
    lookup = NameLookup()
    names.known = False
    failed = await asyncio.gather(*(lookup.addresses("p", 80) for _ in range(3)), return_exceptions=True)
    assert {type(error) for error in failed} == {socket.gaierror}
    names.known = True
    assert await lookup.addresses("p", 80)
    assert names.asked == 2


async def test_giving_up_takes_nothing_from_others(names: Names) -> None:
    """One of two who wait is cancelled; the other gets the answer, and there was one question."""
    lookup = NameLookup()
    first, second = (asyncio.create_task(lookup.addresses("p", 80)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second
    assert names.asked == 1
