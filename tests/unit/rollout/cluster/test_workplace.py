from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from rollout import workplace
from rollout.arguments import parse
from rollout.kubernetes_api import KubernetesApi
from rollout.terminal import JsonOutput
from rollout.workplace import Workplace

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import FakeCluster

    from rollout.record import Record
    from rollout.release import Release

PLACE = ("--namespace", "radio", "--service", "loc", "--prometheus", "http://p", "--probe-set", "s3://p")


@pytest.fixture
def place(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Workplace]:
    """The surroundings that a command line asks for."""
    monkeypatch.setattr(KubernetesApi, "connect", lambda _: cluster)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-south-1")
    return lambda *words: Workplace.of(parse(["release", *PLACE, *words], {}), JsonOutput())


def test_the_job_reads_the_probe_set_with_a_secret(place: Callable[..., Workplace]) -> None:
    """Keys are named and never copied; the endpoint is the one that pods reach."""
    plain = place().checks().probe_job
    assert plain is not None
    assert plain.model_name == "localization"
    assert plain.env == [{"name": "AWS_DEFAULT_REGION", "value": "eu-south-1"}]
    words = ("--probe-secret", "s", "--probe-endpoint", "http://minio", "--model-name", "radio_model")
    job = place(*words).checks().probe_job
    assert job is not None
    assert job.model_name == "radio_model"
    assert job.env[0] == {
        "name": "AWS_ACCESS_KEY_ID",
        "valueFrom": {"secretKeyRef": {"name": "s", "key": "AWS_ACCESS_KEY_ID"}},
    }
    assert job.env[2] == {"name": "AWS_ENDPOINT_URL", "value": "http://minio"}


def test_what_is_waited_for_is_told_of_the_running_release(
    place: Callable[..., Workplace], record: Record, release: Callable[..., Release], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first release there is nothing to tell it of."""
    told: list[str] = []
    monkeypatch.setattr(JsonOutput, "waiting", lambda _, one, sentence: told.append(f"{one.release_id}: {sentence}"))
    place().checks().waiting("a Job")
    record.save(release(), release().began_at)
    place().checks().waiting("a Job")
    assert told == ["r1: a Job"]


@pytest.mark.parametrize(
    ("words", "url", "host"),
    [
        ((), "http://loc.radio.svc", None),
        (("--url", "http://ingress"), "http://ingress", "loc.radio.example.com"),
        (("--url", "http://ingress", "--host", "other"), "http://ingress", "other"),
    ],
)
def test_where_the_probe_set_is_sent(
    place: Callable[..., Workplace], monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], url: str, host: str | None
) -> None:
    """Inside of the cluster to the service's own address; through an ingress with the service's host."""
    asked: dict[str, Any] = {}
    monkeypatch.setattr(workplace, "ProbeService", lambda to, **given: asked.update(given, url=to))
    with place(*words).evidence():
        assert asked == {"url": url, "model_name": "localization"} | ({} if host is None else {"host": host})
    with place(*words, "--model-name", "radio_model").evidence():
        assert asked["model_name"] == "radio_model"
