"""results.json or provenance.json -> a picture.

- Curves of exact match against length: the median over seeds as a line, minimum to maximum as a band. Where it is
  accuracy by depth that was measured, one panel a length, over depth; of texts, one panel a metric.
- Where a grid over digit pairs was evaluated, one heat-map of medians a model, below the curves.
- Of a dataset, one histogram for each config and column, its splits on top of one another as shares of their rows.
- Drawn on matplotlib's object interface, so nothing touches the user's own figures or back end.
"""

import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hf_tasks.cards import COUNTS, length_of
from hf_tasks.files import write_bytes

PANELS = 5  # in a row


def draw_results(results: dict[str, Any], path: Path) -> None:
    """Draw the picture of a `results.json` into a PNG."""
    write_bytes(path, png(results_figure(results)))


def draw_statistics(splits: Mapping[str, dict[str, Any]]) -> bytes:
    """Draw the statistics of a dataset's splits, given by their provenance, as a PNG."""
    return png(statistics_figure(splits))


def png(figure: Figure) -> bytes:
    """A figure as a file, which does not say what drew it, so that the same figure is the same file."""
    image = io.BytesIO()
    figure.savefig(image, format="png", metadata={"Software": None})
    return image.getvalue()


def results_figure(results: dict[str, Any]) -> Figure:
    """The curves of a `results.json`, and below them its grids if there are any."""
    names = list(dict.fromkeys(row["name"] for row in results["summary"]))
    if any("text" in row["slice"] for row in results["summary"]):
        return _text_figure(results, names)
    if any("depth" in row["slice"] for row in results["summary"]):
        return _depth_figure(results, names)
    grids = {name: _cells(results, name, "grid") for name in names}
    with_grid = [name for name in names if grids[name]]
    columns = max(1, len(with_grid))
    figure = Figure(figsize=(max(7.0, 3.2 * columns), 4.2 + (3.2 if with_grid else 0)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    spec = figure.add_gridspec(2 if with_grid else 1, columns)
    _draw_curves(figure.add_subplot(spec[0, :]), results, names)
    for column, name in enumerate(with_grid):
        _draw_grid(figure.add_subplot(spec[1, column]), name, grids[name])
    return figure


def statistics_figure(splits: Mapping[str, dict[str, Any]]) -> Figure:
    """One row of histograms a config, one column for each column of numbers or lengths of text."""
    configs = list(dict.fromkeys(made_by["config"] for made_by in splits.values()))
    columns = list(dict.fromkeys(
        column for made_by in splits.values() for column, histogram in made_by["statistics"].items()
        if not isinstance(next(iter(histogram["values"]), ""), str)
    ))  # fmt: skip
    figure = Figure(figsize=(3.2 * max(1, len(columns)), 0.6 + 2.4 * len(configs)), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(configs), max(1, len(columns)), squeeze=False)
    for row, config in zip(axes, configs, strict=True):
        members = [made_by for made_by in splits.values() if made_by["config"] == config]
        for place, column in zip(row, columns, strict=False):
            _draw_histogram(place, column, members)
        row[0].set_ylabel(f"{config}\nshare of rows", fontsize=8)
    drawn = next((place for place in figure.axes if place.lines), None)
    if drawn is not None:
        drawn.legend(fontsize=7)
    return figure


def _draw_histogram(axes: Axes, column: str, members: list[dict[str, Any]]) -> None:
    highest = 0
    for made_by in members:
        histogram = made_by["statistics"].get(column)
        if histogram is not None:
            total = sum(histogram["counts"])
            shares = [count / total for count in histogram["counts"]]
            axes.plot(histogram["values"], shares, marker="o", markersize=3, lw=1, label=made_by["name"])
            highest = max(highest, *histogram["values"])
    axes.set_title(column, fontsize=8)
    axes.set_xscale("symlog" if highest > 100 else "linear")
    axes.tick_params(labelsize=7)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)


def _cells(results: dict[str, Any], name: str, case: str | None) -> list[dict[str, Any]]:
    rows = [row for row in results["summary"] if row["name"] == name and row["slice"].get("case") == case]
    return [row for row in rows if "shortest" not in row["slice"]]  # pooled over lengths that have points of their own


def _depth_figure(results: dict[str, Any], names: list[str]) -> Figure:
    """One panel a length: accuracy by depth."""
    lengths = sorted({length_of(row["slice"]) for row in results["summary"]})
    unit = next((key for row in results["summary"] for key in COUNTS if key in row["slice"]), "")
    lines = math.ceil(len(lengths) / PANELS)
    columns = math.ceil(len(lengths) / lines)
    figure = Figure(figsize=(max(5.0, 3.6 * columns), 4.2 * lines), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False).ravel()
    for axes in panels[len(lengths) :]:
        axes.remove()
    panels = panels[: len(lengths)]
    for axes, length in zip(panels, lengths, strict=True):
        for name in names:
            rows = [row for row in _cells(results, name, None) if length_of(row["slice"]) == length]
            rows.sort(key=lambda row: row["slice"]["depth"])
            color = _draw_band(axes, name, [row["slice"]["depth"] for row in rows], rows)
            for ceiling in results.get("ceilings", []):
                if ceiling["name"] == name and length_of(ceiling["slice"]) == length:
                    axes.plot([ceiling["slice"]["depth"]], [ceiling["value"]], marker="*", markersize=11, color=color)
        axes.set(ylim=(-0.03, 1.03), xlabel="depth", title=f"{length:g} {unit}" if length else "")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    for axes in panels[::columns]:
        axes.set_ylabel("accuracy")
    panels[-1].legend(fontsize=8)
    stars = "\nstar: counting ceiling of the last clause" if results.get("ceilings") else ""
    figure.suptitle(f"{results['recipe']} ({results['preset']})\n{_shown(results)}{stars}", fontsize=9)
    return figure


def _text_figure(results: dict[str, Any], names: list[str]) -> Figure:
    """One panel a metric and text: a bar a model, minimum to maximum as a line, the held-out texts' own as dashes."""
    panels = list(dict.fromkeys((row["metric"], *row["slice"].values()) for row in results["summary"]))
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    height = 0.8 + 0.25 * len(names)
    figure = Figure(figsize=(3.4 * columns, 0.6 + rows * (height + 0.6)), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    places = figure.subplots(rows, columns, squeeze=False).flat
    truths = {(one["metric"], *one["slice"].values()): one["value"] for one in results.get("references", [])}
    for axes, panel in zip(places, panels, strict=False):
        found = {r["name"]: r for r in results["summary"] if (r["metric"], *r["slice"].values()) == panel}
        for place, name in enumerate(names):
            if row := found.get(name):
                axes.barh(place, row["median"], color=f"C{place % 10}")
                axes.plot([row["min"], row["max"]], [place, place], color="black", lw=1)
        if panel in truths:
            axes.axvline(truths[panel], color="black", ls="--", lw=1)
        axes.set_yticks(range(len(names)), names, fontsize=7)
        axes.invert_yaxis()
        axes.tick_params(axis="x", labelsize=7)
        metric, text, *case = panel
        axes.set_title("\n".join([f"{metric.replace('_', ' ')}: {text}", *case]), fontsize=8)
        axes.grid(alpha=0.3, axis="x")
    for axes in list(places):
        axes.set_axis_off()
    dashes = "; dashes: the held-out texts themselves" if truths else ""
    figure.suptitle(f"{results['recipe']} ({results['preset']}): {_shown(results)}{dashes}", fontsize=9)
    return figure


def _shown(results: dict[str, Any]) -> str:
    seeds = len(results["seeds"])
    return f"median of {seeds} seeds, band: minimum to maximum" if seeds > 1 else "one seed"


def _draw_band(axes: Axes, name: str, places: list[Any], rows: list[dict[str, Any]]) -> Any:
    """A line of medians in its band; its colour comes back."""
    (line,) = axes.plot(places, [row["median"] for row in rows], marker="o", markersize=4, label=name)
    low, high = [row["min"] for row in rows], [row["max"] for row in rows]
    axes.fill_between(places, low, high, color=line.get_color(), alpha=0.15, lw=0)
    return line.get_color()


def _draw_curves(axes: Axes, results: dict[str, Any], names: list[str]) -> None:
    for name in names:
        rows = sorted(_cells(results, name, None), key=lambda row: length_of(row["slice"]))
        lengths = [length_of(row["slice"]) for row in rows]
        _draw_band(axes, name, lengths, rows)
    known = sorted({length_of(row["slice"]) for name in names for row in _cells(results, name, None)})
    # Problems of all lengths together stand at 0, where no logarithm is.
    scale = "log" if all(known) else "linear"
    slices = [row["slice"] for row in results["summary"]]
    numbers = all(any(key.startswith("digits_") for key in place) for place in slices)
    counted = next((key for key in COUNTS if all(key in place for place in slices)), "length")
    label = "length (digits of each operand)" if numbers else counted
    axes.set(xscale=scale, ylim=(-0.03, 1.03), xlabel=label, ylabel="exact match")
    ticks: list[float] = []
    for length in known:
        if not ticks or length >= 1.25 * ticks[-1]:  # nearer ones would overlap
            ticks.append(length)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.set_title(f"{results['recipe']} ({results['preset']}): {_shown(results)}", fontsize=10)
    axes.legend(fontsize=8)


def _draw_grid(axes: Axes, name: str, rows: list[dict[str, Any]]) -> None:
    a = sorted({row["slice"]["digits_a"] for row in rows})
    b = sorted({row["slice"]["digits_b"] for row in rows})
    values = {(row["slice"]["digits_a"], row["slice"]["digits_b"]): row["median"] for row in rows}
    axes.imshow([[values[x, y] for x in a] for y in b], vmin=0, vmax=1, origin="lower", cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(a)), [str(x) for x in a], fontsize=7)
    axes.set_yticks(range(len(b)), [str(y) for y in b], fontsize=7)
    axes.set(xlabel="digits of a", ylabel="digits of b")
    axes.set_title(name, fontsize=9)
