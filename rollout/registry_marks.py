"""What a release leaves in the registry: the alias of the champion, and tags.

What belongs here: which version the alias stands for at the end, and which tags come and go. What does not: the
registry itself (`registry`), and when a release is over (`next_action`).

Tags are for people, so that a registry that is away costs a warning. The alias is what others deploy by: without it a
release is not over.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rollout.errors import RolloutError
from rollout.registry import CHAMPION, REJECTED

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rollout.registry import Registry
    from rollout.release import Release

_NO_REGISTRY = f"MLFLOW_TRACKING_URI is not set: the alias {CHAMPION} stays with the version that it stands for"


@dataclass(frozen=True, slots=True)
class RegistryMarks:
    """Alias and tags of the versions of one release.

    Attributes:
        registry: Where they are; None leaves them alone.
        warned: Told what went wrong and does not stop the release.
    """

    registry: Registry | None
    warned: Callable[[str], None]

    def tag(self, release: Release, tags: Mapping[str, str]) -> None:
        """Tell those who look at the challenger in the registry."""
        challenger = release.challenger
        self._tell(lambda registry: registry.tag(challenger.name, challenger.version, tags))

    def reject(self, release: Release) -> None:
        """The challenger is not to be released again by itself."""
        self.tag(release, {REJECTED: release.reason})

    def forgive(self, release: Release) -> None:
        """What has passed is not rejected any more: a schedule, which never says `--again`, may take it up."""
        challenger = release.challenger
        self._tell(lambda registry: registry.untag(challenger.name, challenger.version, REJECTED))

    def _tell(self, what: Callable[[Registry], None]) -> None:
        if self.registry is None:
            return
        try:
            what(self.registry)
        except RolloutError as error:
            self.warned(f"the registry was not told: {error}")

    def alias_before(self, release: Release) -> Release:
        """The release with the version that the alias stands for, unless that is the challenger already."""
        if self.registry is None:
            return release
        before = self.registry.version_of_alias(release.challenger.name, CHAMPION)
        return release if before == release.challenger.version else replace(release, alias_before=before)

    def move_alias(self, release: Release) -> None:
        """To the challenger, which serves everything."""
        if self.registry is None:
            self.warned(_NO_REGISTRY)
        else:
            self.registry.move_alias(release.challenger.name, CHAMPION, release.challenger.version)

    def return_alias(self, release: Release) -> None:
        """From a challenger that was promoted before it was rolled back, to whose it was."""
        name, champion, before = release.challenger.name, release.champion, release.alias_before
        if self.registry is None:
            if before is not None:
                self.warned(_NO_REGISTRY)
            return
        if self.registry.version_of_alias(name, CHAMPION) != release.challenger.version:
            return
        if before is None and champion is not None:
            before = champion.version
        if before:
            self.registry.move_alias(name, CHAMPION, before)
        else:
            self.registry.remove_alias(name, CHAMPION)
