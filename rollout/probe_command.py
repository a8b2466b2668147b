"""`heimdall probe`: the probe set against one version, which the pre-flight Job runs beside it.

What belongs here: asking the version on trial and the champion, and judging their answers. What does not: the Job.

The answer is the last line on standard output, a JSON object with `outcome`, `sentence` and `reasons`.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING

import httpx

from rollout import exit_codes
from rollout.errors import UsageError
from rollout.evidence import EvidenceUnavailable
from rollout.policy import Policy
from rollout.probe_answers import compared
from rollout.probe_folder import open_folder
from rollout.probe_run import ProbeService, Version
from rollout.probe_set import MANIFEST, ProbeSetError, parse_manifest
from rollout.verdict import Outcome

if TYPE_CHECKING:
    from rollout.arguments import Arguments
    from rollout.probe_answers import ServedAnswers
    from rollout.terminal import Output
    from rollout.verdict import Reason

_READY_S, _POLL_S, _ASK_S = 300.0, 0.5, 5.0


def probe(arguments: Arguments, output: Output) -> int:
    """Send the probe set, and judge the answers; against the champion's where one is named."""
    if not arguments.url or not arguments.probe_set:
        raise UsageError("--url and --probe-set are needed")
    _wait_until_ready(f"{arguments.url.rstrip('/')}/v2/models/{arguments.model_name}/ready")
    try:
        reasons = _judged(arguments)
    except ProbeSetError as error:
        raise EvidenceUnavailable(f"the probe set cannot be used: {error}") from error
    worst = next((one for outcome in _ORDER for one in reasons if one.outcome is outcome), reasons[0])
    failed = [one.sentence for one in reasons if one.outcome is Outcome.FAIL]
    sentence = "; ".join(failed) or worst.sentence
    document = {"outcome": worst.outcome.value, "sentence": sentence, "reasons": [asdict(one) for one in reasons]}
    output.result(document, [one.sentence for one in reasons])
    return exit_codes.OF_OUTCOME[worst.outcome]


_ORDER = (Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS)


def _judged(arguments: Arguments) -> tuple[Reason, ...]:
    folder = open_folder(arguments.probe_set)
    probe_set = parse_manifest(folder.read(MANIFEST))

    def answers(url: str, host: str, version: str, digest: str) -> ServedAnswers:
        service = ProbeService(url, host=host or None, model_name=arguments.model_name)
        return service.answers(probe_set, folder, [Version(version, digest)])[0]

    canary = answers(arguments.url, arguments.host, arguments.version, arguments.digest)
    stable = canary
    if arguments.champion_url:
        stable = answers(arguments.champion_url, "", arguments.champion_version, arguments.champion_digest)
    policy = arguments.policy or Policy()
    return policy.probe_test().judge(compared(probe_set, stable, canary).results)


def _wait_until_ready(ready: str) -> None:
    """The other containers of the pod are still starting."""
    ends_s = time.monotonic() + _READY_S
    while True:
        try:
            if httpx.get(ready, timeout=_ASK_S).is_success:
                return
        except httpx.HTTPError as error:
            trouble = str(error) or type(error).__name__
        else:
            trouble = "it is not ready"
        if time.monotonic() > ends_s:
            raise EvidenceUnavailable(f"{ready} within {_READY_S:g} s: {trouble}")
        time.sleep(_POLL_S)
