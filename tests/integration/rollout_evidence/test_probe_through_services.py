"""The probe set, written by the reference room into a real MinIO, sent to real transformers and predictors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from reference import __main__ as reference
from reference.estimates import LocalModel
from reference.simulate import captures
from rollout.evidence import EvidenceUnavailable
from rollout.figures import probe_figures
from rollout.policy import Policy
from rollout.probe_answers import ServedAnswers, answers_from_json, answers_to_json, compared
from rollout.probe_folder import open_folder
from rollout.probe_run import ProbeService, ServiceProbe, Version
from rollout.probe_set import ProbeSet, parse_manifest
from rollout.verdict import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from rollout.release import Release

CAPTURES, SEED = 1_000, 2_500
URI = "s3://probes/sets/simulated"
LEVELS = (0.5, 0.68, 0.9, 0.95, 0.99)


@pytest.fixture(scope="module")
def written(minio: Any) -> Iterator[str]:  # noqa: ANN401 - of tests/conftest.py
    """The address of a probe set in a bucket, with the environment that leads to it."""
    boto3 = pytest.importorskip("boto3")
    with pytest.MonkeyPatch.context() as environ:
        for name, value in minio.environ.items():
            environ.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="probes")
        assert reference.main(["probe-set", "--out", URI, "--captures", str(CAPTURES), "--seed", str(SEED)]) == 0
        yield URI


@pytest.fixture(scope="module")
def probe_set(written: str) -> ProbeSet:
    """What the bucket's manifest says."""
    return parse_manifest(open_folder(written).read("manifest.json"))


@pytest.fixture(scope="module")
def answers_of(
    probe_set: ProbeSet,
    new_fleet: Any,  # noqa: ANN401 - of the integration tests
    model_dir: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], ServedAnswers]:
    """Sends the probe set to a variant of the model behind a transformer; each variant once."""
    known: dict[str, ServedAnswers] = {}

    def ask(variant: str) -> ServedAnswers:
        if variant not in known:
            with new_fleet(tmp_path_factory.mktemp(variant)) as fleet:
                predictor = fleet.predictor(model_dir(variant))
                transformer = fleet.transformer(predictor.address)
                transformer.wait_until(transformer.ready)
                service = ProbeService(transformer.url)
                (known[variant],) = service.answers(probe_set, open_folder(URI), [Version("1")])
        return known[variant]

    return ask


def test_served_answers_are_the_models(
    probe_set: ProbeSet, answers_of: Callable[[str], ServedAnswers], model_dir: Callable[[str], Path]
) -> None:
    """The service's answers to INT16 captures are within 100 m of those of the model in this process to the FP32 ones.

    Rounding to INT16 adds 0.01 dB of noise. The ellipses of every level are as large as the model's own table says.
    """
    served = answers_of("reference")
    local = LocalModel(model_dir("reference") / "model.onnx").estimate(captures(SEED, 64))
    assert served.position_deg[:64] == pytest.approx(local.position_deg, abs=0.02)
    assert np.median(np.abs(served.position_deg[:64] - local.position_deg)) < 1e-3
    size = np.array([local.ellipses[level][:, 0] for level in LEVELS])
    assert served.scales == pytest.approx(np.median(size / size[3], axis=1), rel=1e-4)
    assert probe_set.levels == LEVELS
    assert np.isfinite(served.position_deg).all()


@pytest.mark.parametrize(
    ("variant", "fails"),
    [
        ("better", set()),
        ("no_theta", {"log-likelihood"}),
        ("overconfident", {"log-likelihood", "NEES", *(f"coverage at {level:.0%}" for level in LEVELS)}),
    ],
)
def test_what_the_probe_set_says(
    variant: str, fails: set[str], probe_set: ProbeSet, answers_of: Callable[[str], ServedAnswers]
) -> None:
    """A better version passes all signals; the dishonest ones are caught by the signals that can see them."""
    probed = compared(probe_set, answers_of("reference"), answers_of(variant))
    reasons = Policy(probe_captures=CAPTURES).probe_test().judge(probed.results)
    failed = {reason.signal for reason in reasons if reason.outcome is Outcome.FAIL}
    assert failed == fails, [reason.sentence for reason in reasons]
    figures = probe_figures(probed.results)
    assert figures is not None
    assert figures.stable.nees.low < 2.1
    assert 28e3 < figures.stable.rms_m.value < 38e3
    assert probed.disagreement.captures == CAPTURES


def test_answers_survive_being_printed(probe_set: ProbeSet, answers_of: Callable[[str], ServedAnswers]) -> None:
    """A job's output leads to the same judgement as the answers themselves."""
    stable, canary = answers_of("reference"), answers_of("better")
    direct = compared(probe_set, stable, canary).results
    printed = compared(
        probe_set, answers_from_json(answers_to_json(stable)), answers_from_json(answers_to_json(canary))
    ).results
    assert printed.canary.error_m.tobytes() == direct.canary.error_m.tobytes()
    assert printed.canary.inside.tobytes() == direct.canary.inside.tobytes()


def test_a_service_without_that_version(
    transformer: Any,  # noqa: ANN401 - of the integration tests
    begun: Callable[..., Release],
    written: str,
) -> None:
    """A challenger that is not live is no evidence: the versioned URL says 404."""
    with pytest.raises(EvidenceUnavailable, match="404"):
        ServiceProbe(ProbeService(transformer.url), written).probe(begun())
