"""What each command of `heimdall` does.

What belongs here: one function a command. What does not: the command line (`arguments`), and how a release goes on
(`steps`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rollout import exit_codes
from rollout.errors import NothingNewError, RefusedError
from rollout.policy import Policy
from rollout.probe_command import probe
from rollout.release import Release, Stage, release_to_json
from rollout.report_commands import ab, report, write_report
from rollout.workplace import Workplace, resolved, running

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rollout.arguments import Arguments
    from rollout.release import ModelVersion
    from rollout.steps import Ended
    from rollout.terminal import Output


def run(arguments: Arguments, output: Output) -> int:
    """Run a command; its exit code."""
    return _COMMANDS[arguments.command](arguments, output)


def _resolve(arguments: Arguments, output: Output) -> int:
    found = resolved(arguments, even_if_rejected=True)
    lines = [
        f"{found.name} version {found.version}",
        f"files      {found.storage_uri}",
        f"digest     {found.model_digest}",
        f"contract   {found.contract_digest or 'none'}",
        f"signature  {found.signature or 'none'}",
        f"run        {found.run_id or 'unknown'}",
        *(f"metric     {name} = {value:g}" for name, value in found.metrics),
    ]
    output.result(asdict(found) | {"metrics": dict(found.metrics)}, lines)
    return exit_codes.DONE


def _release(arguments: Arguments, output: Output) -> int:
    return _run(arguments, output, lambda _: False)


def _canary(arguments: Arguments, output: Output) -> int:
    return _run(arguments, output, lambda release: release.stage is Stage.CANARY and release.live)


def _run(arguments: Arguments, output: Output, until: Callable[[Release], bool]) -> int:
    workplace = Workplace.of(arguments, output)
    try:
        return _released(workplace, until)
    except NothingNewError as error:
        if not arguments.if_new:
            raise
        _nothing_to_do(str(error), output)
        return exit_codes.DONE


def _released(workplace: Workplace, until: Callable[[Release], bool]) -> int:
    arguments, output = workplace.arguments, workplace.output
    unfinished = workplace.record.release()
    # A release that was interrupted after its version had been rejected still has to be ended.
    taken_up = unfinished is not None and not unfinished.stage.finished
    challenger = resolved(arguments, even_if_rejected=arguments.again or taken_up)
    with workplace.lease.held() as lease, workplace.steps(lease) as steps:
        release = _begun(workplace, challenger)
        if release is None:
            _nothing_to_do(f"{challenger} serves already", output)
            return exit_codes.DONE
        workplace.record.save(release, release.began_at)
        ended = steps.run(release, until)
        write_report(arguments.html, ended.release, steps, None, output)
    _told(ended, output)
    return exit_codes.of(ended)


def _nothing_to_do(sentence: str, output: Output) -> None:
    output.result({"outcome": "pass", "sentence": sentence, "exit_code": exit_codes.DONE}, [sentence])


def _begun(workplace: Workplace, challenger: ModelVersion) -> Release | None:
    """The release of this version: a new one, or the one that was interrupted; None if it serves already."""
    arguments, now = workplace.arguments, datetime.now(UTC)
    found = workplace.record.release()
    if found is not None and not found.stage.finished:
        if found.challenger.model_digest != challenger.model_digest:
            raise RefusedError(f"the release of {found.challenger} is not over: take it up again, or roll it back")
        found = _with_percent(found.told(now, "taken up again"), arguments.percent, now)
        workplace.output.happened(found.events[-1])
        if arguments.policy is not None and found.policy != _asked(arguments):
            workplace.output.warned(
                "it goes on with the policy that it began with, which is not the one that is given now"
            )
        return found
    if workplace.service.observe().names(challenger):
        return None
    workplace.checks().may_begin(challenger)
    champion = workplace.champion(challenger.name)
    names = arguments.namespace, arguments.service
    release_id = f"{now:%Y%m%dT%H%M%SZ}-{challenger.version}"
    return Release(release_id, *names, challenger, champion, _asked(arguments), Stage.PREFLIGHT, 0, now, now)


def _asked(arguments: Arguments) -> Policy:
    policy = arguments.policy or Policy()
    return policy if arguments.percent is None else replace(policy, steps_percent=(arguments.percent,))


def _with_percent(release: Release, percent: int | None, now: datetime) -> Release:
    if percent is None or release.stage is not Stage.CANARY or release.percent == percent:
        return release
    policy = replace(release.policy, steps_percent=(percent,))
    return replace(release, policy=policy, step=0, live=False, step_began_at=now)


def _judge(arguments: Arguments, output: Output) -> int:
    workplace = Workplace.of(arguments, output)
    release = running(workplace)
    if release.stage is not Stage.CANARY or not release.live:
        raise RefusedError(f"the release of {release.challenger} has no live canary: it is {release.stage}")
    with workplace.lease.held() as lease, workplace.steps(lease) as steps:
        release, verdict = steps.judge(release)
        write_report(arguments.html, release, steps, verdict, output)
    output.result(asdict(verdict), [f"{release.challenger} at {release.percent} %: {verdict.outcome.value}"])
    return exit_codes.OF_OUTCOME[verdict.outcome]


def _promote(arguments: Arguments, output: Output) -> int:
    return _moved(arguments, output, Stage.PROMOTING, "promoted by hand")


def _rollback(arguments: Arguments, output: Output) -> int:
    return _moved(arguments, output, Stage.ROLLING_BACK, arguments.reason)


def _moved(arguments: Arguments, output: Output, stage: Stage, sentence: str) -> int:
    workplace = Workplace.of(arguments, output)
    with workplace.lease.held() as lease:
        steps = workplace.unjudged_steps(lease)
        release = _to_be_moved(workplace, stage)
        now = datetime.now(UTC)
        reason = sentence if stage is Stage.ROLLING_BACK else ""
        release = replace(release, stage=stage, step_began_at=now, live=False, reason=reason).told(now, sentence)
        workplace.record.save(release, now)
        output.happened(release.events[-1])
        ended = steps.run(release)
    _told(ended, output)
    return exit_codes.OF_OUTCOME[ended.outcome]


def _to_be_moved(workplace: Workplace, stage: Stage) -> Release:
    """The running release, or for a rollback the one that was promoted last."""
    found = workplace.record.release()
    if found is not None and found.stage is Stage.PROMOTED and stage is Stage.ROLLING_BACK:
        return found
    release = running(workplace)
    if release.stage is Stage.PREFLIGHT:
        raise RefusedError(f"the release of {release.challenger} has changed nothing yet")
    return release


def _status(arguments: Arguments, output: Output) -> int:
    workplace = Workplace.of(arguments, output)
    observed, release, holder = workplace.service.observe(), workplace.record.release(), workplace.lease.holder()
    traffic = ", ".join(f"{revision} {share} %" for revision, share in observed.traffic) or "none"
    lines = [f"serves     {observed.storage_uri} {observed.model_digest}", f"traffic    {traffic}"]
    if observed.failure or observed.complaint:
        lines.append(f"trouble    {observed.failure or observed.complaint}")
    if release is not None:
        lines.append(f"release    {release.release_id} of {release.challenger}: {release.stage}")
        lines += [f"  {one.at:%Y-%m-%d %H:%M:%S}  {one.stage}  {one.sentence}" for one in release.events]
    if holder:
        lines.append(f"run by     {holder}")
    document = {"observed": asdict(observed), "holder": holder}
    shown = None if release is None else json.loads(release_to_json(release))
    output.result(document | {"release": shown}, lines)
    return exit_codes.DONE


def _history(arguments: Arguments, output: Output) -> int:
    past = [asdict(one) for one in Workplace.of(arguments, output).record.history()]
    output.table(past, ("release_id", "challenger", "stage", "began_at", "ended_at", "reason"))
    return exit_codes.DONE


def _told(ended: Ended, output: Output) -> None:
    release = ended.release
    document = {"outcome": ended.outcome.value, "sentence": ended.sentence, "exit_code": exit_codes.of(ended)}
    lines = [f"{release.challenger}: {release.stage}, {ended.sentence}"]
    if release.reason:
        lines.append(f"because {release.reason}")
    output.result(document | {"release": json.loads(release_to_json(release))}, lines)


_COMMANDS: Mapping[str, Callable[[Arguments, Output], int]] = {
    "resolve": _resolve,
    "release": _release,
    "canary": _canary,
    "judge": _judge,
    "promote": _promote,
    "rollback": _rollback,
    "status": _status,
    "history": _history,
    "probe": probe,
    "report": report,
    "ab": ab,
}
