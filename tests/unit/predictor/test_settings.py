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
        "request_timeout_s": 30.0,
        "drain_s": 3.0,
        "model_dir": Path("/mnt/models"),
        "model_version": None,
        "model_digest": None,
        "session_threads": 0,
        "execution_threads": 0,
        "max_queue": 64,
        "warmup_batch_sizes": (1, 2, 8),
        "providers": ("CPUExecutionProvider",),
    }


def test_every_setting_can_be_given() -> None:
    """Each option is read into its type; the environment's providers give way to the command line's."""
    digest = "sha256:" + "0f" * 32
    argv = (
        f"--model_name=localization --http_port 1 --grpc_port 65535 --enable_grpc False --max_body_bytes 2048 "
        f"--request_timeout_s 2.5 --drain_s 0 --model_dir models --model_version 12 --model_digest {digest} "
        f"--session_threads 1 --execution_threads 3 --max_queue 0 --warmup_batch_sizes 1,4 --providers A,B"
    ).split()
    values = asdict(Settings.from_args(argv, {"ONNXRUNTIME_PROVIDERS": "C"}))
    assert list(values.values()) == [
        "localization", 1, 65535, False, 2048, 2.5, 0.0, Path("models"), "12", digest, 1, 3, 0, (1, 4), ("A", "B"),
    ]  # fmt: skip


def test_environment_and_empty_values() -> None:
    """ONNXRUNTIME_PROVIDERS is honoured; empty values from a template mean what is not set."""
    environ = {"ONNXRUNTIME_PROVIDERS": " CUDAExecutionProvider, CPUExecutionProvider "}
    assert Settings.from_args([], environ).providers == ("CUDAExecutionProvider", "CPUExecutionProvider")
    empty = Settings.from_args(["--model_version=", "--model_digest=", "--warmup_batch_sizes=", "--providers="], {})
    assert (empty.model_version, empty.model_digest, empty.warmup_batch_sizes) == (None, None, ())
    assert empty.providers == ("CPUExecutionProvider",)


def test_all_bad_values_are_reported_together() -> None:
    """One start shows every mistake, each with the option and the value."""
    bad = {
        "model_name": "a/b", "http_port": "0", "grpc_port": "70000", "enable_grpc": "perhaps", "max_body_bytes": "-1",
        "request_timeout_s": "0", "drain_s": "nan", "model_version": "latest", "model_digest": "sha256:AB",
        "session_threads": "two", "execution_threads": "1.5", "max_queue": "²", "warmup_batch_sizes": "1,0",
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
