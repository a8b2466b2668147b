"""The arm that serves a version which a client names.

What belongs here: asking the arms which version each serves. What does not: the draw among arms (`arms`), and what an
arm serves (`described_model`).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from oip.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from transformer.arms import Arm, Arms
    from transformer.described_model import DescribedModel, ModelDirectory

ASKED_TWICE = 2
"""What was known of an arm without a revision may be old: it is asked anew before a version is said not to exist. A
revision never changes its model, so that requests for versions which do not exist cost its predictor nothing."""


async def arm_of_version(
    model_name: str,
    version: str,
    arms: Arms,
    models: ModelDirectory,
    model_of: Callable[[Arm], Awaitable[DescribedModel]],
) -> Arm:
    """The arm that serves this version.

    Args:
        model_name: For the message.
        version: As the client names it.
        arms: Those that a request may be pinned to.
        models: Forgets what may be old.
        model_of: What an arm serves.

    Raises:
        NotFound: None of the arms serves it.
        Exception: What `model_of` raised, where that arm may be the one.
    """
    for asked in range(ASKED_TWICE):
        served = await asyncio.gather(*map(model_of, arms.candidates), return_exceptions=True)
        described = [
            (arm, model)
            for arm, model in zip(arms.candidates, served, strict=True)
            if not isinstance(model, BaseException)
        ]
        for arm, model in described:
            if model.version == version:
                return arm
        for arm, model in described:
            if not asked and not arm.revision:
                models.forget(arm, model)
    for failure in served:
        if isinstance(failure, BaseException):
            raise failure
    versions = ", ".join(model.version for _, model in described)
    raise NotFound(f"the model '{model_name}' has no version '{version}' here; it has {versions}")
