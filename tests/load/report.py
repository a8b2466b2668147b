"""What a proof shows: one HTML page with plots, the same figures as JSON, and a table for the terminal.

What belongs here: presentation. What does not: any figure that is not in the JSON too.
"""

from __future__ import annotations

import dataclasses
import io
from typing import TYPE_CHECKING, Any

import jinja2
import matplotlib as mpl
import numpy as np
import orjson
import records
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from measured import Growth, Measured
    from processes import Usage

COLUMNS = (
    "requests",
    "failed",
    "refused",
    "answers/s",
    "P50 ms",
    "P95 ms",
    "P99 ms",
    "hits %",
    "of repeats %",
    "CPU ms",
    "lag ms",
)

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Heimdall: {{ about.proof }}, {{ about.target }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .2rem .7rem; text-align: right }
th:first-child, td:first-child { text-align: left } tr:nth-child(even) { background: #f4f4f4 }
figure { margin: 2rem 0 } svg { max-width: 100%; height: auto }
</style></head><body>
<h1>{{ about.proof | capitalize }}: {{ about.target }}</h1>
<p>{% for name, value in about.items() %}{{ name }}: <b>{{ value }}</b>{{ "; " if not loop.last }}{% endfor %}</p>
<p>Latency counts from the moment at which a request was meant to be sent. <i>Refused</i> are those of the failed that
were told when to come again. <i>Of repeats</i> is the share of hits among captures that had been answered before. CPU
is that of all parts of the service for one request. <i>Lag</i> is the 99th percentile of how late the generator itself
was.</p>
<table><tr><th>run</th>{% for one in columns %}<th>{{ one }}</th>{% endfor %}</tr>
{% for name, row in rows %}<tr><td>{{ name }}</td>{% for one in row %}<td>{{ one }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% if growth %}<table><tr><th>growth an hour, with its interval of 95 %</th><th>memory, MB</th>
<th>descriptors at rest</th><th>flat</th></tr>
{% for one in growth %}<tr><td>{{ one.part }}</td>
<td>{{ "%.2f" | format(one.memory.per_hour / 1e6) }} ({{ "%.2f" | format(one.memory.lower_per_hour / 1e6) }} to
{{ "%.2f" | format(one.memory.upper_per_hour / 1e6) }})</td>
<td>{{ one.descriptors_before }}, then {{ one.descriptors_after }}</td><td>{{ "yes" if one.flat else "NO" }}</td></tr>
{% endfor %}</table>{% endif %}
{% for title, plot in plots %}<figure><figcaption>{{ title }}</figcaption>{{ plot | safe }}</figure>
{% endfor %}</body></html>
"""


def write(
    folder: Path,
    about: Mapping[str, str],
    measured: Sequence[Measured],
    growth: Sequence[Growth],
    usage: Mapping[str, Sequence[Usage]],
) -> None:
    """Write `report.json` and `report.html` into the folder."""
    document = {
        "about": about,
        "runs": [dataclasses.asdict(one) for one in measured],
        "growth": [{**dataclasses.asdict(one), "flat": one.flat} for one in growth],
    }
    (folder / "report.json").write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    page = jinja2.Environment(autoescape=True).from_string(_PAGE)
    rows = [(one.name, _row(one)) for one in measured]
    plots = _plots(folder, measured, usage)
    html = page.render(about=about, columns=COLUMNS, rows=rows, growth=growth, plots=plots)
    (folder / "report.html").write_text(html, encoding="utf-8")


def as_text(about: Mapping[str, str], measured: Sequence[Measured], growth: Sequence[Growth]) -> str:
    """The same in Markdown, for the terminal and the documentation."""
    loads = f"{measured[0].load_average:.1f} and {measured[-1].load_average:.1f}"
    lines = [
        f"{about['begun']}, {about['machine']}, Python {about['python']}; load average first and last {loads}:",
        f"`{about['command']}`",
        "",
        f"| run | {' | '.join(COLUMNS)} |",
        "| --- |" + " --- |" * len(COLUMNS),
    ]
    lines += [f"| {one.name} | {' | '.join(_row(one))} |" for one in measured]
    lines.append("")
    for one in measured:
        lines += [f"- {one.name}: {count} × `{error}`" for error, count in one.figures.failures.items()]
        lines += [f"- {one.name}: {one.wrong} answers differ from an earlier one"] if one.wrong else []
    lines += [f"- {_growth(one)}" for one in growth]
    return "\n".join(lines) + "\n"


def _growth(one: Growth) -> str:
    memory = one.memory
    return (
        f"{one.part}: memory {memory.per_hour / 1e6:+.2f} MB/h (at most {memory.upper_per_hour / 1e6:+.2f}) around "
        f"{memory.mean / 1e6:.0f} MB, descriptors at rest {one.descriptors_before}, then {one.descriptors_after}: "
        f"{_verdict(one)}"
    )


def _verdict(one: Growth) -> str:
    if one.flat:
        return "flat"
    surely = one.memory.lower_per_hour > 0 or one.descriptors_after > one.descriptors_before
    return "GROWS" if surely else "NOT SHOWN FLAT"


def _row(one: Measured) -> list[str]:
    found, cpu_ms = one.figures, sum(one.cpu_ms.values())
    numbers = (found.rate_hz, found.p50_ms, found.p95_ms, found.p99_ms)
    hits = (found.hit_rate * 100, found.hit_rate_of_repeats * 100)
    shown = ["–" if np.isnan(number) else f"{number:.1f}" for number in (*numbers, *hits)]
    cpu = f"{cpu_ms:.2f}" if one.cpu_ms else "?"
    return [str(found.requests), str(found.failed), str(found.refused), *shown, cpu, f"{found.sender_lag_ms:.1f}"]


def _plots(folder: Path, measured: Sequence[Measured], usage: Mapping[str, Sequence[Usage]]) -> list[tuple[str, str]]:
    long = [one for one in measured if one.name.startswith(("closed", "open", "soak"))]
    clients = [one for one in measured if one.name.startswith("clients")]
    batches = [one for one in measured if one.name.startswith("batch")]
    plots = [
        ("Share of requests that took longer", _drawn(lambda axes: _tails(axes, folder, long))),
        ("Latency over the run", _drawn(lambda axes: _over_time(axes, folder, long[-1]))),
    ]
    for title, runs, label in (("Growth with clients", clients, "clients"), ("Growth with batches", batches, "batch")):
        if runs:
            values = [one.offered if label == "clients" else one.batch for one in runs]
            plots.append((f"{title}: latency", _drawn(lambda axes, r=runs, v=values, n=label: _latency(axes, r, v, n))))
            plots.append((f"{title}: work", _drawn(lambda axes, r=runs, v=values, n=label: _work(axes, r, v, n))))
    if usage:
        plots.append(("Memory over the run", _drawn(lambda axes: _usage(axes, usage, "memory_bytes", 1e6, "MB"))))
        plots.append(("Descriptors over the run", _drawn(lambda axes: _usage(axes, usage, "descriptors", 1, "open"))))
    return plots


def _drawn(draw: Callable[[Axes], None]) -> str:
    """An SVG to be put into a page. Its text stays text."""
    with mpl.rc_context({"svg.fonttype": "none"}):
        figure = Figure(figsize=(9, 4), layout="constrained")
        axes = figure.subplots()
        axes.grid(visible=True, alpha=0.3)
        draw(axes)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]


def _tails(axes: Axes, folder: Path, runs: Sequence[Measured]) -> None:
    for one in runs:
        latency_ms = np.sort([record.latency_s * 1e3 for record in records.read(folder / one.records)])
        some = np.unique(np.geomspace(1, len(latency_ms), 400).astype(int))
        axes.loglog(latency_ms[-some], some / len(latency_ms), label=f"{one.name}: {one.figures.rate_hz:.0f}/s")
    axes.set(xlabel="ms from the intended moment", ylabel="share that took longer")
    axes.legend()


def _over_time(axes: Axes, folder: Path, run: Measured) -> None:
    found = records.read(folder / run.records)
    at_s = np.array([one.intended_s for one in found]) - found[0].intended_s
    for ok, colour in ((True, "C0"), (False, "C3")):
        chosen = np.array([one.ok == ok for one in found])
        latency_ms = np.array([one.latency_s * 1e3 for one in found])[chosen]
        # An image, because as shapes a point for each request would make the page large.
        axes.plot(at_s[chosen], latency_ms, ".", markersize=2, color=colour, alpha=0.4, rasterized=True)
    axes.set(xlabel="s", ylabel="ms", yscale="log", title=run.name)


def _latency(axes: Axes, runs: Sequence[Measured], values: Sequence[float], label: str) -> None:
    for name in ("p50_ms", "p95_ms", "p99_ms"):
        axes.loglog(values, [getattr(one.figures, name) for one in runs], "o-", label=name.removesuffix("_ms").upper())
    axes.set(xlabel=label, ylabel="ms")
    _named_ticks(axes, values)
    axes.legend()


def _work(axes: Axes, runs: Sequence[Measured], values: Sequence[float], label: str) -> None:
    axes.semilogx(values, [one.figures.rate_hz * one.batch for one in runs], "ko-", label="captures a second")
    axes.set(xlabel=label, ylabel="captures/s")
    axes.set_ylim(bottom=0)
    beside = axes.twinx()
    for part in runs[0].cpu_ms:
        beside.semilogx(values, [one.cpu_ms.get(part, np.nan) / one.batch for one in runs], "o--", label=f"CPU, {part}")
    beside.set(ylabel="CPU ms for one capture")
    beside.set_ylim(bottom=0)
    _named_ticks(axes, values)  # at last, as the other axis shares these ticks
    axes.legend(loc="upper left")
    beside.legend(loc="upper right")


def _named_ticks(axes: Axes, values: Sequence[float]) -> None:
    """What was measured, instead of powers of ten."""
    axes.set_xticks(list(values), [f"{value:g}" for value in values])
    axes.set_xticks([], minor=True)


def _usage(axes: Axes, usage: Mapping[str, Sequence[Usage]], name: str, unit: float, label: str) -> None:
    for part, taken in usage.items():
        minutes: Any = np.array([one.at_s - taken[0].at_s for one in taken]) / 60
        axes.plot(minutes, [getattr(one, name) / unit for one in taken], label=part)
    axes.set(xlabel="minutes", ylabel=label)
    axes.legend()
