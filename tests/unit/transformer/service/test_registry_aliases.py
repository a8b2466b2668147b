from __future__ import annotations

import asyncio
import logging

import pytest

from transformer.mlflow_server import RegistryError
from transformer.registry_aliases import MAX_AGE_S, RegistryAliases

LONG_S = 5.0
NEVER = -1.0


class Registry:
    """Knows aliases by version, and counts the questions.

    Attributes:
        known: What it knows.
        error: Raised in place of an answer.
        hold: What an answer waits for.
    """

    def __init__(self) -> None:
        self.known = {"1": ("champion",), "2": ("challenger", "next")}
        self.error: Exception | None = None
        self.hold: asyncio.Event | None = None
        self.questions: list[str] = []

    async def ask(self, version: str) -> tuple[str, ...]:
        """Which aliases this version has."""
        self.questions.append(version)
        if self.hold is not None:
            await self.hold.wait()
        if self.error is not None:
            raise self.error
        return self.known[version]


@pytest.fixture
def registry() -> Registry:
    """A registry that is there."""
    return Registry()


async def test_without_a_registry_nothing_is_known() -> None:
    """Nobody is asked, and closing has nothing to close."""
    aliases = RegistryAliases(None)
    assert await aliases.of("1", LONG_S) is None
    await aliases.close()


async def test_an_answer_is_remembered_for_a_while(registry: Registry) -> None:
    """Until it is too old the registry is asked once, then once more; the documents promise ten seconds."""
    assert MAX_AGE_S == 10.0
    aliases = RegistryAliases(registry.ask, max_age_s=0.2)
    assert [await aliases.of("1", LONG_S) for _ in range(3)] == [("champion",)] * 3
    registry.known["1"] = ()
    assert await aliases.of("1", LONG_S) == ("champion",)
    assert registry.questions == ["1"]
    await asyncio.sleep(0.25)
    assert await aliases.of("1", LONG_S) == ()
    assert registry.questions == ["1", "1"]


async def test_another_version_is_asked_for_at_once(registry: Registry) -> None:
    """A version that was promoted never shows the aliases of the one before."""
    aliases = RegistryAliases(registry.ask)
    assert await aliases.of("1", LONG_S) == ("champion",)
    assert await aliases.of("2", LONG_S) == ("challenger", "next")


async def test_one_question_for_all_who_ask_meanwhile(registry: Registry) -> None:
    """They share it and its answer."""
    registry.hold = asyncio.Event()
    aliases = RegistryAliases(registry.ask)
    waiting = [asyncio.create_task(aliases.of("1", LONG_S)) for _ in range(5)]
    await asyncio.sleep(0.01)
    registry.hold.set()
    assert await asyncio.gather(*waiting) == [("champion",)] * 5
    assert registry.questions == ["1"]


async def test_who_gives_up_takes_nothing_from_the_others(registry: Registry) -> None:
    """One without time, and one whose client leaves, end without an answer; the question goes on for the next."""
    registry.hold = asyncio.Event()
    aliases = RegistryAliases(registry.ask)
    leaving = asyncio.create_task(aliases.of("1", LONG_S))
    assert await aliases.of("1", 0.01) is None
    assert await aliases.of("1", -1.0) is None
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    registry.hold.set()
    assert await aliases.of("1", LONG_S) == ("champion",)
    assert registry.questions == ["1"]


async def test_a_registry_that_is_away_is_left_alone_for_a_while(registry: Registry) -> None:
    """That there was no answer is remembered like one, so that only the first to ask has to wait for it."""
    registry.error = RegistryError("it is away")
    aliases = RegistryAliases(registry.ask)
    assert [await aliases.of("1", LONG_S) for _ in range(3)] == [None] * 3
    assert registry.questions == ["1"]


async def test_one_warning_for_each_failure(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    """The same failure is told once; another one, and the same after an answer, are told again."""
    aliases = RegistryAliases(registry.ask, max_age_s=NEVER)
    for words in ("it is away", "it is away", "it answers with status 500", "", "it is away"):
        registry.error = RegistryError(words) if words else None
        assert await aliases.of("1", LONG_S) == (None if words else ("champion",))
    told = [record.getMessage().removeprefix("the registry tells no aliases: ") for record in caplog.records]
    assert told == ["it is away", "it answers with status 500", "it is away"]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    assert not any(record.exc_info for record in caplog.records)


async def test_what_nobody_has_foreseen_is_no_error_either(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told with its story, and what is served can still be asked for."""
    registry.error = ZeroDivisionError("a fault of this process")
    assert await RegistryAliases(registry.ask).of("1", LONG_S) is None
    (record,) = caplog.records
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)


async def test_the_end_ends_the_question(registry: Registry) -> None:
    """A registry that hangs does not hold up the end of the process."""
    registry.hold = asyncio.Event()
    aliases = RegistryAliases(registry.ask)
    assert await aliases.of("1", 0.0) is None
    await aliases.of("1", 0.01)
    async with asyncio.timeout(1.0):
        await aliases.close()
    assert registry.questions == ["1"]
