"""The command line of `heimdall`: its commands, its options, and where their defaults come from.

What belongs here: names, meanings and defaults. What does not: doing anything (`commands`).

Every option that describes a place can also be given in the environment, so that a Job needs none of them.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from oip import __version__
from rollout.policy import policy_from_json, policy_from_toml
from rollout.probe_run import MODEL_NAME
from rollout.registry import CHALLENGER
from rollout.report_destination import destination_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rollout.policy import Policy
    from rollout.report_destination import Destination

_DESCRIPTION = "Takes a version of a registered model from its alias to 100 % of the requests, or back, on evidence."
EPILOG = """exit codes:
  0  done: promoted, passed, or rolled back because that was asked for
  1  the version is not good enough: rolled back, or judged so
  2  the command line or the policy is wrong
  3  inconclusive: the traffic stays where it is, and the same command takes the release up again
  4  refused: by a check before the release, by somebody else's lease, or by the cluster
  5  something failed: the traffic stays where it is, and the same command takes the release up again
  130  interrupted: the same"""

_PLACES = (
    ("--namespace", "HEIMDALL_NAMESPACE", "heimdall", "namespace of the InferenceService"),
    ("--service", "HEIMDALL_SERVICE", "localization", "name of the InferenceService"),
    ("--model", "HEIMDALL_REGISTERED_MODEL", "localization_model", "registered model that bare aliases mean"),
)
_EVIDENCE = (
    ("--prometheus", "HEIMDALL_PROMETHEUS_URL", "", "URL of the Prometheus that reads the transformer"),
    ("--selector", "HEIMDALL_PROMETHEUS_SELECTOR", "", "label matchers of the transformer's pods"),
    ("--probe-set", "HEIMDALL_PROBE_SET", "", "folder or s3:// prefix of the probe set"),
    ("--url", "HEIMDALL_SERVICE_URL", "", "URL of the transformer; default: the service's own inside of the cluster"),
    ("--host", "HEIMDALL_SERVICE_HOST", "", "Host header for --url; default with --url: the service's own"),
    ("--model-name", "HEIMDALL_MODEL_NAME", MODEL_NAME, "the model's name in the URLs of the service"),
)
_PREFLIGHT = (
    ("--image", "HEIMDALL_ROLLOUT_IMAGE", f"docker.io/heimdall/rollout:{__version__}", "image of this command"),
    ("--probe-secret", "HEIMDALL_PROBE_SECRET", "", "Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    ("--probe-endpoint", "HEIMDALL_PROBE_ENDPOINT", "", "S3 endpoint as the pods of the cluster reach it"),
)


@dataclass(frozen=True, slots=True)
class Arguments:
    """The command and everything that it was given; see the options for what each means."""

    command: str
    json: bool
    context: str | None
    namespace: str
    service: str
    model: str
    reference: str = CHALLENGER
    policy: Policy | None = None
    prometheus: str = ""
    selector: str = ""
    probe_set: str = ""
    url: str = ""
    host: str = ""
    model_name: str = MODEL_NAME
    image: str = ""
    probe_secret: str = ""
    probe_endpoint: str = ""
    skip_preflight: bool = False
    again: bool = False
    if_new: bool = False
    percent: int | None = None
    reason: str = ""
    html: Destination | None = None
    minutes: float = 60.0
    version: str = ""
    digest: str = ""
    champion_url: str = ""
    champion_version: str = ""
    champion_digest: str = ""


def parse(words: Sequence[str], environ: Mapping[str, str] | None = None) -> Arguments:
    """Read the command line; ends the process with code 2, and the reason, if it cannot be read."""
    found = vars(_parser(os.environ if environ is None else environ).parse_args(words))
    found["json"] = found.pop("output") == "json"
    return Arguments(**found)


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    places = argparse.ArgumentParser(add_help=False)
    _add(places, environ, _PLACES)
    places.add_argument("--context", help="context of the kubeconfig; default: the current one")
    places.add_argument("--output", choices=("text", "json"), default="text", help="for people or for programs")
    evidence, judged, checked = (argparse.ArgumentParser(add_help=False) for _ in range(3))
    _add(evidence, environ, _EVIDENCE)
    judged.add_argument("--policy", type=_policy, default=environ.get("HEIMDALL_POLICY"), help="TOML or JSON file")
    _add(checked, environ, _PREFLIGHT)
    checked.add_argument("reference", nargs="?", default=CHALLENGER, help="alias, number, or models:/NAME@ALIAS")
    checked.add_argument("--again", action="store_true", help="even if this digest was rejected before")
    checked.add_argument("--if-new", action="store_true", help="what was rejected before is nothing to do, code 0")
    checked.add_argument("--skip-preflight", action="store_true", help="leave out the Job with the probe set")
    html = argparse.ArgumentParser(add_help=False)
    html.add_argument("--html", type=_destination, help="file, s3://BUCKET/KEY or s3://BUCKET/PREFIX/ for the report")

    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="heimdall", description=_DESCRIPTION, epilog=EPILOG, formatter_class=text)
    parser.add_argument("--version", action="version", version=__version__)
    add = parser.add_subparsers(dest="command", required=True, metavar="COMMAND").add_parser
    resolve = add("resolve", parents=[places], help="alias or stage to version, files, digests and metrics")
    resolve.add_argument("reference", nargs="?", default=CHALLENGER)
    add("release", parents=[places, evidence, judged, checked, html], help="from here to 100 %% or back, on evidence")
    canary = add("canary", parents=[places, evidence, judged, checked], help="give a version a share, and stop there")
    canary.add_argument("--percent", type=_percent, help="the share; default: the policy's first step")
    add("judge", parents=[places, evidence, html], help="look at the evidence until it is decided; changes nothing")
    add("promote", parents=[places], help="give the canary everything and move the alias champion")
    rollback = add("rollback", parents=[places], help="give the champion everything again")
    rollback.add_argument("--reason", default="rolled back by hand", help="is remembered")
    add("status", parents=[places], help="where the release is")
    add("history", parents=[places], help="the releases that are over")
    ab = add("ab", parents=[places, evidence], help="both arms side by side, without a verdict")
    ab.add_argument("--minutes", type=float, default=60.0, help="how far back")
    add("report", parents=[places, evidence, html], help="the last release as one HTML file")
    _probe(
        add("probe", parents=[places, evidence], help="the probe set against one version; the pre-flight Job's part")
    )
    return parser


def _probe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--version", required=True, help="in the URL of the version on trial")
    parser.add_argument("--digest", default="", help="what its answers have to carry")
    parser.add_argument(
        "--champion-url", default="", help="of the live transformer; default: no champion to compare with"
    )
    parser.add_argument("--champion-version", default="")
    parser.add_argument("--champion-digest", default="")
    parser.add_argument("--policy-json", dest="policy", type=_policy_text, help="the release's policy, as JSON text")


def _add(
    parser: argparse.ArgumentParser, environ: Mapping[str, str], options: Sequence[tuple[str, str, str, str]]
) -> None:
    for option, variable, default, text in options:
        parser.add_argument(option, default=environ.get(variable) or default, help=f"{text} [{variable}]")


def _percent(text: str) -> int:
    percent = int(text)
    if not 0 < percent < 100:  # noqa: PLR2004 - all of it
        raise argparse.ArgumentTypeError("from 1 to 99")
    return percent


def _destination(text: str) -> Destination:
    try:
        return destination_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _policy(name: str) -> Policy:
    path = Path(name)
    try:
        text = path.read_text(encoding="utf-8")
        return policy_from_json(text) if path.suffix == ".json" else policy_from_toml(text)
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{name}: {error}") from error


def _policy_text(text: str) -> Policy:
    try:
        return policy_from_json(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
