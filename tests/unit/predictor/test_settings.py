from __future__ import annotations

import argparse
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from predictor import settings
from predictor.errors import SettingsError
from predictor.settings import Settings


def test_promised_defaults() -> None:
    """The defaults that documentation and chart rely on do not change unnoticed."""
    assert asdict(Settings.from_args([], {})) == {
        "model_name": "model",
        "http_port": 8080,
        "grpc_port": 8081,
        "enable_grpc": True,
        "max_body_bytes": 67108864,
        "max_bodies_bytes": 268435456,
        "request_timeout_s": 30.0,
        "log_level": "INFO",
        "drain_s": 3.0,
        "model_dir": Path("/mnt/models"),
        "model_uri": None,
        "download_dir": Path("~/.cache/heimdall/models"),
        "download_timeout_s": 300.0,
        "model_version": None,
        "model_digest": None,
        "also_versions": (),
        "repository_api": False,
        "follow_s": 0.0,
        "session_threads": 0,
        "execution_threads": 0,
        "max_queue": 128,
        "max_batch_size": 1,
        "batch_wait_s": 0.0,
        "inline_run_us": 200,
        "graph_cache_dir": None,
        "warmup_batch_sizes": (1, 2, 8),
        "providers": ("CPUExecutionProvider",),
    }


def test_every_setting_can_be_given() -> None:
    """Each option is read into its type; the environment's providers give way to the command line's."""
    digest = "sha256:" + "0f" * 32
    given = {
        "model_name": ("localization", "localization"),
        "http_port": ("1", 1),
        "grpc_port": ("65535", 65535),
        "enable_grpc": ("False", False),
        "max_body_bytes": ("2048", 2048),
        "max_bodies_bytes": ("8192", 8192),
        "request_timeout_s": ("2.5", 2.5),
        "log_level": ("WARNING", "WARNING"),
        "drain_s": ("0", 0.0),
        "model_dir": ("models", Path("models")),
        "model_uri": ("", None),
        "download_dir": ("kept", Path("kept")),
        "download_timeout_s": ("9", 9.0),
        "model_version": ("12", "12"),
        "model_digest": (digest, digest),
        "also_versions": ("1, 3", ("1", "3")),
        "repository_api": ("yes", True),
        "follow_s": ("5", 5.0),
        "session_threads": ("1", 1),
        "execution_threads": ("3", 3),
        "max_queue": ("0", 0),
        "max_batch_size": ("4", 4),
        "batch_wait_s": ("0.001", 0.001),
        "inline_run_us": ("0", 0),
        "graph_cache_dir": ("graphs", Path("graphs")),
        "warmup_batch_sizes": ("1,4", (1, 4)),
        "providers": ("A,B", ("A", "B")),
    }
    argv = [f"--{name}={text}" for name, (text, _) in given.items()]
    assert asdict(Settings.from_args(argv, {"ONNXRUNTIME_PROVIDERS": "C"})) == {
        name: value for name, (_, value) in given.items()
    }


@pytest.mark.parametrize("option", ["--repository_api=true", "--follow_s=5"])
def test_a_revision_of_knative_never_changes(option: str) -> None:
    """Loading on request and following are refused where a revision's model must stay what it is."""
    assert Settings.from_args([option], {})
    with pytest.raises(SettingsError, match="a Knative revision must not change its model"):
        Settings.from_args([option], {"K_REVISION": "m-00001"})


def test_settings_that_contradict_each_other() -> None:
    """One port for two protocols, and versions of a folder that is not used."""
    with pytest.raises(SettingsError, match="are both 9000"):
        Settings.from_args(["--http_port=9000", "--grpc_port=9000"], {})
    with pytest.raises(SettingsError, match="--also_versions: "):
        Settings.from_args(["--also_versions=all", "--model_uri=s3://bucket/m"], {})


def test_batch_sizes() -> None:
    """The largest batch is among those that are warmed up, unless nothing is batched or warmed up."""
    assert Settings().batch_sizes == (1, 2, 8)
    assert Settings(max_batch_size=16).batch_sizes == (1, 2, 8, 16)
    assert Settings(warmup_batch_sizes=()).batch_sizes == ()


def test_environment_and_empty_values() -> None:
    """ONNXRUNTIME_PROVIDERS is honoured; empty values from a template mean what is not set."""
    environ = {"ONNXRUNTIME_PROVIDERS": " CUDAExecutionProvider, CPUExecutionProvider "}
    assert Settings.from_args([], environ).providers == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert Settings.from_args([], {"HEIMDALL_MODEL_VERSION": "7"}).model_version == "7"
    with pytest.raises(SettingsError, match="HEIMDALL_MODEL_VERSION 'x': "):
        Settings.from_args([], {"HEIMDALL_MODEL_VERSION": "x"})
    empty = Settings.from_args(["--model_version=", "--model_digest=", "--warmup_batch_sizes=", "--providers="], {})
    assert (empty.model_version, empty.model_digest, empty.warmup_batch_sizes) == (None, None, ())
    assert empty.providers == ("CPUExecutionProvider",)


def test_all_bad_values_are_reported_together() -> None:
    """One start shows every mistake, each with the option and the value."""
    bad = {
        "model_name": "a/b", "http_port": "0", "grpc_port": "70000", "enable_grpc": "perhaps", "max_body_bytes": "-1",
        "request_timeout_s": "0", "drain_s": "nan", "model_version": "latest", "model_digest": "sha256:AB",
        "session_threads": "two", "execution_threads": "1.5", "max_queue": "²", "warmup_batch_sizes": "1,0",
        "also_versions": "1,a", "log_level": "LOUD",
    }  # fmt: skip
    with pytest.raises(SettingsError) as caught:
        Settings.from_args([f"--{name}={value}" for name, value in bad.items()], {})
    for name, value in bad.items():
        assert f"--{name} {value!r}: " in str(caught.value)


@pytest.mark.parametrize("argv", [["--model_digst=x"], ["--model_di=x"], ["--http_port"]])
def test_unknown_options_are_refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelt option is never silently ignored, nor taken for an abbreviation."""
    with pytest.raises(SystemExit, match="2"):
        Settings.from_args(argv, {})
    assert "error: " in capsys.readouterr().err


def test_options_of_the_sdk_are_left_to_it() -> None:
    """The SDK's own options pass; where both know one, this component's reading holds."""
    sdk = argparse.ArgumentParser(add_help=False)
    sdk.add_argument("--workers", type=int, default=1)
    sdk.add_argument("--http_port", type=int, default=9999)
    assert Settings.from_args(["--workers=4"], {}, sdk).http_port == 8080


def test_threads_follow_the_quota_up_to_a_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    """0 threads means the CPU quota, capped; a number means that number."""
    monkeypatch.setattr(settings, "available_cpus", lambda: 3)
    assert (Settings().session_threads_or_quota, Settings().execution_threads_or_quota) == (3, 3)
    monkeypatch.setattr(settings, "available_cpus", lambda: 96)
    assert Settings().session_threads_or_quota == settings.MAX_DEFAULT_THREADS
    assert Settings(session_threads=12, execution_threads=1).session_threads_or_quota == 12


def test_every_setting_is_explained() -> None:
    """Each field is followed by a string that says what it means."""
    source = Path(settings.__file__).read_text(encoding="utf-8")
    for name in asdict(Settings()):
        assert re.search(rf'^    {name}: .* = .*\n    """[\w`]', source, re.MULTILINE), name


def test_ports_must_differ() -> None:
    """One port cannot serve HTTP and gRPC; without gRPC its port does not matter."""
    argv = ["--http_port=8080", "--grpc_port=8080"]
    with pytest.raises(SettingsError, match="--http_port and --grpc_port are both 8080"):
        Settings.from_args(argv, {})
    assert not Settings.from_args([*argv, "--enable_grpc=false"], {}).enable_grpc
