"""The command line: its arguments, and what each command does with them.

What belongs here: argparse and printing. What does not: any work of its own.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from reference import demo, variants
from reference.capture_file import CAPTURE_SEED, load, prepare_captures
from reference.client import Service
from reference.estimates import LocalModel
from reference.evaluate import Judged, in_blocks, judge_locally, judge_service, report
from reference.probe_set import open_folder, write_probe_set
from reference.simulate import blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reference.simulate import Captures

_EVALUATION_SEED = 99
_PROBE_SEED = 2_500


def parser() -> argparse.ArgumentParser:
    """The arguments of `python -m reference`."""
    root = argparse.ArgumentParser(prog="python -m reference", description=__doc__.splitlines()[0])
    commands = root.add_subparsers(required=True, metavar="COMMAND")
    _add_make(commands.add_parser("make", help="train and write models and captures"))
    _add_evaluate(commands.add_parser("evaluate", help="judge a service, or a model file, against the exact bound"))
    _add_probe_set(commands.add_parser("probe-set", help="write captures with their truth for judging a release"))
    _add_demo(commands.add_parser("demo", help="show the whole service on this machine"))
    return root


def _add_make(command: argparse.ArgumentParser) -> None:
    command.add_argument("directory", type=Path)
    command.add_argument("--captures", type=int, default=64, help="number of captures in captures.npz")
    command.add_argument("--seed", type=int, default=CAPTURE_SEED, help="of the captures")
    command.add_argument("--variants", nargs="+", default=list(variants.NAMES), choices=variants.NAMES, metavar="NAME")
    command.set_defaults(run=make)


def _add_evaluate(command: argparse.ArgumentParser) -> None:
    subject = command.add_mutually_exclusive_group(required=True)
    subject.add_argument("--url", help="a transformer, such as http://127.0.0.1:8080")
    subject.add_argument("--model", type=Path, help="a model.onnx to run in this process")
    command.add_argument("--host", help="the Host header, where an ingress routes by it")
    command.add_argument("--captures", type=Path, help="a captures.npz instead of simulated cases")
    command.add_argument("--cases", type=int, default=2_000, help="number of simulated cases")
    command.add_argument("--seed", type=int, default=_EVALUATION_SEED, help="of the simulated cases")
    command.add_argument("--output", choices=("text", "json"), default="text")
    command.set_defaults(run=evaluate)


def _add_probe_set(command: argparse.ArgumentParser) -> None:
    command.add_argument("--out", required=True, metavar="PLACE", help="a folder, or s3://BUCKET/PREFIX")
    command.add_argument("--captures", type=int, default=2_500, help="how many: 125 kB each")
    command.add_argument("--seed", type=int, default=_PROBE_SEED, help="of the captures")
    command.set_defaults(run=probe_set)


def _add_demo(command: argparse.ArgumentParser) -> None:
    command.add_argument("--dir", type=Path, default=Path("build/demo"))
    command.add_argument("--http_port", type=int, default=8080)
    command.add_argument("--predictor_port", type=int, default=8081)
    command.add_argument("--oneshot", action="store_true", help="end after the map instead of serving on")
    command.set_defaults(run=show)


def make(arguments: argparse.Namespace) -> None:
    """`make`: write the models and the captures, or find them there."""
    for folder in variants.prepare(arguments.directory, arguments.variants).values():
        print(folder / "model.onnx")
    print(prepare_captures(arguments.directory, arguments.captures, arguments.seed))


def evaluate(arguments: argparse.Namespace) -> None:
    """`evaluate`: print the report."""
    cases = in_blocks(load(arguments.captures)) if arguments.captures else blocks(arguments.seed, arguments.cases)
    if arguments.model:
        judged = judge_locally(LocalModel(arguments.model), cases)
    else:
        judged = asyncio.run(_judge_url(arguments.url, arguments.host, cases))
    result = report(judged)
    print(result.as_json() if arguments.output == "json" else result.as_text())


def probe_set(arguments: argparse.Namespace) -> None:
    """`probe-set`: write it, and print its digest."""
    print(write_probe_set(open_folder(arguments.out), arguments.captures, arguments.seed))


def show(arguments: argparse.Namespace) -> None:
    """`demo`: the demonstration."""
    demo.run(demo.Demo(arguments.dir, arguments.http_port, arguments.predictor_port, arguments.oneshot))


async def _judge_url(url: str, host: str | None, cases: Iterator[Captures]) -> Judged:
    async with Service(url, headers={"Host": host} if host else None) as service:
        return await judge_service(service, cases)
