from __future__ import annotations

import argparse
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from transformer import settings
from transformer.errors import BadSettings
from transformer.settings import Settings

HOST = ("--predictor_host", "predictor:8081")


def test_promised_defaults() -> None:
    """The defaults that documentation and chart rely on do not change unnoticed."""
    assert asdict(Settings.from_args(HOST, {})) == EXPECTED


EXPECTED = {
    "predictor_host": "predictor:8081",
    "model_name": "localization",
    "predictor_use_ssl": False,
    "predictor_request_timeout_seconds": 10,
    "http_port": 8080,
    "grpc_port": 9080,
    "enable_grpc": True,
    "request_timeout_s": 30.0,
    "connect_timeout_s": 1.0,
    "metadata_timeout_s": 10.0,
    "predictor_restart_s": 0.0,
    "drain_s": 3.0,
    "max_body_bytes": 67108864,
    "max_bodies_bytes": 268435456,
    "max_json_bytes": 16777216,
    "max_batch": 256,
    "dsp_threads": 0,
    "max_queue": 128,
    "max_calls": 64,
    "settling_s": 10.0,
    "log_level": "INFO",
    "inference_service": "",
    "predictor_readiness": True,
    "redis_url": "",
    "redis_host": "",
    "redis_port": 6379,
    "redis_db": 0,
    "redis_password": "",
    "cache_ttl_s": 3600,
    "cache_timeout_s": 0.010,
    "cache_max_bytes": 67108864,
    "mlflow_tracking_uri": "",
    "registered_model": "localization_model",
    "cors_origins": ("http://localhost:3000", "http://localhost:5173"),
}


def test_timeouts_are_ordered() -> None:
    """The cache takes less than connecting and asking, those less than a call, and that less than the request."""
    found = Settings.from_args(HOST, {})
    assert found.cache_timeout_s < found.connect_timeout_s
    assert found.connect_timeout_s < found.metadata_timeout_s <= found.predictor_request_timeout_seconds
    assert found.predictor_request_timeout_seconds < found.request_timeout_s


def test_every_setting_can_be_given() -> None:
    """Each option is read into its type; the command line goes before the environment."""
    given = {
        "predictor_host": ("[::1]:81", "[::1]:81"), "model_name": ("m", "m"), "predictor_use_ssl": ("yes", True),
        "predictor_request_timeout_seconds": ("7", 7), "http_port": ("1", 1), "grpc_port": ("65535", 65535),
        "enable_grpc": ("False", False), "request_timeout_s": ("2.5", 2.5), "connect_timeout_s": ("0.5", 0.5),
        "metadata_timeout_s": ("1", 1.0), "predictor_restart_s": ("5", 5.0),
        "drain_s": ("0", 0.0), "max_body_bytes": ("2048", 2048),
        "max_json_bytes": ("4096", 4096), "max_bodies_bytes": ("8192", 8192),
        "max_batch": ("3", 3), "dsp_threads": ("4", 4), "max_queue": ("0", 0), "max_calls": ("1", 1),
        "settling_s": ("0", 0.0), "log_level": ("DEBUG", "DEBUG"), "cors_origins": ("a, b,", ("a", "b")),
        "inference_service": ("loc-1", "loc-1"), "predictor_readiness": ("no", False), "redis_url": ("u", "u"),
        "redis_host": ("r", "r"), "redis_port": ("1", 1), "redis_db": ("2", 2), "redis_password": ("p", "p"),
        "cache_ttl_s": ("5", 5), "cache_timeout_s": ("0.02", 0.02), "cache_max_bytes": ("0", 0),
        "mlflow_tracking_uri": ("http://mlflow:5000", "http://mlflow:5000"), "registered_model": ("m", "m"),
    }  # fmt: skip
    argv = [f"--{name}={text}" for name, (text, _) in given.items()]
    found = asdict(Settings.from_args(argv, {"HEIMDALL_CORS_ORIGINS": "c"}))
    assert {name: found[name] for name in given} == {name: value for name, (_, value) in given.items()}
    assert set(given) == set(EXPECTED)
    assert Settings.from_args(HOST, {"HEIMDALL_CORS_ORIGINS": " c "}).cors_origins == ("c",)


def test_the_environment_names_cache_and_service() -> None:
    """Deployments give these by the environment, in the names that they have everywhere."""
    texts = {
        "REDIS_URL": "rediss://r", "REDIS_HOST": "h", "REDIS_PORT": "7", "REDIS_DB": "3", "REDIS_PASSWORD": "p",
        "HEIMDALL_INFERENCE_SERVICE": "loc", "MLFLOW_TRACKING_URI": "https://u:p@h/x", "HEIMDALL_REGISTERED_MODEL": "r",
    }  # fmt: skip
    found = Settings.from_args(HOST, texts)
    assert (found.redis_url, found.redis_host, found.redis_port, found.redis_db) == ("rediss://r", "h", 7, 3)
    assert (found.redis_password, found.inference_service) == ("p", "loc")
    assert (found.mlflow_tracking_uri, found.registered_model) == ("https://u:p@h/x", "r")


@pytest.mark.parametrize("uri", ["sqlite:///m.db", "databricks", "mlflow:5000", "http://", "http://h?q", "http://[h/"])
def test_only_servers_are_registries(uri: str) -> None:
    """A tracking URI that needs MLflow itself to be read is refused, without a word of it: it may hold a password."""
    with pytest.raises(BadSettings, match=r"^MLFLOW_TRACKING_URI: is not the http"):
        Settings.from_args(HOST, {"MLFLOW_TRACKING_URI": uri})


def test_no_message_shows_a_secret() -> None:
    """Neither the representation nor a complaint quotes what may hold a password."""
    told = {"REDIS_URL": "redis://:s3cret@r", "REDIS_PASSWORD": "s3cret", "MLFLOW_TRACKING_URI": "http://u:s3cret@m"}
    found = Settings.from_args(HOST, told)
    assert "s3cret" not in repr(found)
    with pytest.raises(BadSettings) as caught:
        Settings.from_args(HOST, {"REDIS_PORT": "s"})
    assert str(caught.value).startswith("REDIS_PORT 's': ")


def test_all_bad_values_are_reported_together() -> None:
    """One start shows every mistake, each with the option and the value, the missing host too."""
    bad = {
        "model_name": "a/b", "predictor_use_ssl": "perhaps", "predictor_request_timeout_seconds": "0.5",
        "http_port": "0", "grpc_port": "70000", "request_timeout_s": "0", "connect_timeout_s": "nan",
        "drain_s": "-1", "max_body_bytes": "1", "max_batch": "0", "dsp_threads": "²", "max_queue": "1.5",
        "max_calls": "0", "log_level": "loud",
    }  # fmt: skip
    with pytest.raises(BadSettings) as caught:
        Settings.from_args([f"--{name}={value}" for name, value in bad.items()], {})
    for name, value in bad.items():
        assert f"--{name} {value!r}: " in str(caught.value)
    assert "--predictor_host is missing" in str(caught.value)


@pytest.mark.parametrize("host", ["", "http://predictor", "predictor:port", "a b"])
def test_bad_hosts(host: str) -> None:
    """A host is a host, and not a URL."""
    with pytest.raises(BadSettings, match="HOST:PORT"):
        Settings.from_args([f"--predictor_host={host}"], {})


def test_ports_must_differ() -> None:
    """One port cannot serve HTTP and gRPC; without gRPC its port does not matter."""
    argv = (*HOST, "--http_port=8080", "--grpc_port=8080")
    with pytest.raises(BadSettings, match="--http_port and --grpc_port are both 8080"):
        Settings.from_args(argv, {})
    assert not Settings.from_args((*argv, "--enable_grpc=false"), {}).enable_grpc


@pytest.mark.parametrize("argv", [["--predictor_hots=x"], ["--predictor_ho=x"], ["--http_port"]])
def test_unknown_options_are_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt option is never silently ignored, nor taken for an abbreviation."""
    with pytest.raises(SystemExit, match="2"):
        Settings.from_args(argv, {})
    assert "error: " in capsys.readouterr().err


def test_options_of_the_sdk_are_left_to_it() -> None:
    """The SDK's own options pass; where both know one, this component's reading and default hold."""
    sdk = argparse.ArgumentParser(add_help=False)
    sdk.add_argument("--workers", type=int, default=1)
    sdk.add_argument("--grpc_port", type=int, default=8081)
    for _ in range(2):  # the SDK's parser is left as it is
        assert Settings.from_args((*HOST, "--workers=4"), {}, sdk).grpc_port == 9080
    assert sdk.parse_args(["--grpc_port=7"]).grpc_port == 7
    with pytest.raises(SystemExit, match="2"):
        Settings.from_args((*HOST, "--worker=4"), {}, sdk)


def test_threads_follow_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    """0 threads means the CPU quota; a number means that number."""
    monkeypatch.setattr(settings, "available_cpus", lambda: 3)
    assert Settings(predictor_host="p").dsp_threads_or_quota == 3
    assert Settings(predictor_host="p", dsp_threads=7).dsp_threads_or_quota == 7


def test_the_arm() -> None:
    """The only arm's address follows from the predictor's host and whether it is called over TLS."""
    assert Settings(predictor_host="p:1").arm.base_url == "http://p:1"
    assert Settings(predictor_host="p", predictor_use_ssl=True).arm.base_url == "https://p"


def test_every_setting_is_explained() -> None:
    """Each field is followed by a string that says what it means."""
    source = Path(settings.__file__).read_text(encoding="utf-8")
    for name in EXPECTED:
        assert re.search(rf'^    {name}: [^\n]*\n    """[\w`]', source, re.MULTILINE), name
