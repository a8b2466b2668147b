"""Coverage-guided fuzzing of `targets.py` with Atheris, which grows the corpus that the tests replay.

    python tests/fuzz/run.py [--seconds 60] [--smallest] [TARGET …]

Each target runs in a process of its own, because libFuzzer ends its process. What it finds worth keeping goes to
`build/fuzz/TARGET`, and with `--smallest` the smallest set with the same coverage replaces the kept corpus. An input
that breaks a promise is left as `build/fuzz/TARGET-crash-…`; it belongs into the corpus together with its repair.
"""

from __future__ import annotations

import argparse
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

HERE = Path(__file__).parent
MAX_BYTES = 2048
INSIDE = "HEIMDALL_FUZZ_TARGET"
"""Names the target to the process that fuzzes it. A variable, because libFuzzer starts that process again by itself
for merging, and fills its command line."""


def main() -> int:
    """Fuzz one target after the other; the exit code says whether all promises were kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all of them if none is named")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--smallest", action="store_true", help="replace the kept corpus")
    arguments = parser.parse_args()
    names = arguments.targets or sorted(path.name for path in (HERE / "corpus").iterdir())
    broken = [name for name in names if not _target(name, arguments.seconds, smallest=arguments.smallest)]
    print(f"broken: {', '.join(broken)}" if broken else "no promise was broken")  # noqa: T201 - a command line program
    return 1 if broken else 0


def _target(name: str, seconds: int, *, smallest: bool) -> bool:
    """Fuzz one target; whether it kept its promises."""
    kept, found = HERE / "corpus" / name, Path("build/fuzz") / name
    found.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={MAX_BYTES}",
        f"-artifact_prefix=build/fuzz/{name}-",
        "-timeout=5",
    ]
    print(f"{name}: {seconds} s", flush=True)  # noqa: T201 - a command line program
    passed = _run(name, [*options, "-verbosity=0", "-print_final_stats=1", str(found), str(kept)])
    if passed and smallest:
        _replace(name, kept, found)
    return passed


def _replace(name: str, kept: Path, found: Path) -> None:
    """The smallest corpus that covers what both cover; what was put there by hand (`NAME-…`) stays."""
    with tempfile.TemporaryDirectory() as folder:
        by_hand = [path for path in kept.iterdir() if "-" in path.name]
        for path in by_hand:
            shutil.copy(path, folder)
        if _run(name, ["-merge=1", f"-max_len={MAX_BYTES}", folder, str(kept), str(found)]):
            shutil.rmtree(kept)
            shutil.copytree(folder, kept)


def _run(name: str, options: list[str]) -> bool:
    command = [sys.executable, __file__, *options]
    return subprocess.run(command, env=os.environ | {INSIDE: name}, check=False).returncode == 0


def _fuzz(name: str, libfuzzer: list[str]) -> None:
    import atheris  # noqa: PLC0415 - only the fuzzing process needs it

    warnings.simplefilter("error")
    with atheris.instrument_imports(include=["oip", "predictor", "transformer"]):
        target = runpy.run_path(str(HERE / "targets.py"))["TARGETS"][name]
    atheris.Setup([f"{sys.executable} {__file__}", *libfuzzer], target)
    atheris.Fuzz()


if __name__ == "__main__":
    if INSIDE in os.environ:
        _fuzz(os.environ[INSIDE], sys.argv[1:])
    sys.exit(main())
