"""`heimdall report` and `heimdall ab`: what was measured, to be looked at.

What belongs here: gathering it and writing it down. What does not: the figures and the pages (`report`, `ab_report`).
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from rollout import exit_codes
from rollout.ab_report import AbReport, differences, measured_arm
from rollout.errors import RefusedError, RolloutError, UsageError
from rollout.evidence import EvidenceUnavailable
from rollout.measurements import Measurements
from rollout.prometheus import PrometheusEvidence
from rollout.release import Stage
from rollout.workplace import Workplace

if TYPE_CHECKING:
    from rollout.arguments import Arguments
    from rollout.evidence import Places
    from rollout.release import Release
    from rollout.report_destination import Destination
    from rollout.steps import Steps
    from rollout.terminal import Output
    from rollout.verdict import Verdict


def write_report(
    destination: Destination | None, release: Release, steps: Steps, verdict: Verdict | None, output: Output
) -> None:
    """The page of a run that has ended, if one was asked for; without it the run has ended as it did all the same."""
    if destination is None:
        return
    places = None if steps.probed is None else steps.probed.places
    try:
        where = _write(destination, release, steps.measurements, places, verdict)
    except RolloutError as error:
        output.warned(str(error))
    except Exception as error:  # noqa: BLE001 - a fault of the page must not become the exit code of the release
        output.warned(f"the report was not made: {error!r}")
    else:
        output.noted(f"the report is in {where}")


def report(arguments: Arguments, output: Output) -> int:
    """The page of the last release; with Prometheus's memory of its last step, where that is to be had."""
    if arguments.html is None:
        raise UsageError("--html says where the report is written to")
    release = Workplace.of(arguments, output).record.release()
    if release is None:
        raise RefusedError("there was no release yet")
    where = _write(arguments.html, release, _remembered(arguments, release, output))
    output.result({"report": where}, [f"the report is in {where}"])
    return exit_codes.DONE


def _remembered(arguments: Arguments, release: Release, output: Output) -> Measurements | None:
    """The last look at the step that is live, or was the last."""
    if not arguments.prometheus:
        return None
    began_at, ended_at = release.step_began_at, datetime.now(UTC)
    if release.stage is not Stage.CANARY or not release.live:
        if not release.steps:
            return None
        began_at, ended_at = release.steps[-1].began_at, release.steps[-1].ended_at
    try:
        with PrometheusEvidence(arguments.prometheus, arguments.selector) as evidence:
            then = replace(release, step_began_at=began_at)
            return Measurements((evidence.look(then, (ended_at - began_at).total_seconds()),))
    except EvidenceUnavailable as error:
        output.warned(f"without live figures: {error}")
        return None


def ab(arguments: Arguments, output: Output) -> int:
    """Both arms beside each other, from Prometheus."""
    if not arguments.prometheus:
        raise UsageError("--prometheus is needed: the figures come from it")
    workplace = Workplace.of(arguments, output)
    observed, release = workplace.service.observe(), workplace.record.release()
    if release is None or not release.revision:
        raise RefusedError("there was no canary yet: there is only one arm")
    champion = release.champion.version if release.champion is not None else ""
    revisions, versions = (release.stable_revision, release.revision), (champion, release.challenger.version)
    ended_at = datetime.now(UTC)
    began_at = ended_at - timedelta(minutes=arguments.minutes)
    times = began_at.timestamp(), ended_at.timestamp()
    with PrometheusEvidence(arguments.prometheus, arguments.selector) as evidence:
        counts, live = evidence.counts(revisions, *times), evidence.distributions(versions, *times)
    arms = tuple(
        measured_arm(name, one, version, percent=observed.share(one), counts=counts.get(one), live=live.get(version))
        for name, one, version in zip(("stable", "canary"), revisions, versions, strict=True)
    )
    both = [live.get(version) for version in versions]
    apart = (None, None) if both[0] is None or both[1] is None else differences(both[0], both[1])
    found = AbReport(arguments.service, began_at, ended_at, arms, *apart)
    output.result(json.loads(found.as_json()), found.as_text().splitlines())
    return exit_codes.DONE


def _write(
    destination: Destination,
    release: Release,
    measurements: Measurements | None,
    places: Places | None = None,
    verdict: Verdict | None = None,
) -> str:
    from rollout.report import Report, render  # noqa: PLC0415 - matplotlib, which only a page needs, writes when imported

    return destination.write(render(Report(release, measurements, places, verdict)), release)
