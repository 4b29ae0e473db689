"""results.json -> a picture.

- Curves of exact match against length: the median over seeds as a line, minimum to maximum as a band.
- Where a grid over digit pairs was evaluated, one heat-map of medians a model, below the curves.
- Drawn on matplotlib's object interface, so nothing touches the user's own figures or back end.
"""

import io
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hf_tasks.files import write_bytes


def draw_results(results: dict[str, Any], path: Path) -> None:
    """Draw the picture of a `results.json` into a PNG."""
    image = io.BytesIO()
    results_figure(results).savefig(image, format="png", metadata={"Software": None})
    write_bytes(path, image.getvalue())


def results_figure(results: dict[str, Any]) -> Figure:
    """The curves of a `results.json`, and below them its grids if there are any."""
    names = list(dict.fromkeys(row["name"] for row in results["summary"]))
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


def length_of(place: dict[str, Any]) -> float:
    """The length of a slice: its longest operand, or its `length`; 0 where it names none."""
    return max((value for key, value in place.items() if key.startswith("digits_") or key == "length"), default=0)


def _cells(results: dict[str, Any], name: str, case: str | None) -> list[dict[str, Any]]:
    return [row for row in results["summary"] if row["name"] == name and row["slice"].get("case") == case]


def _draw_curves(axes: Axes, results: dict[str, Any], names: list[str]) -> None:
    for name in names:
        rows = sorted(_cells(results, name, None), key=lambda row: length_of(row["slice"]))
        lengths = [length_of(row["slice"]) for row in rows]
        (line,) = axes.plot(lengths, [row["median"] for row in rows], marker="o", markersize=4, label=name)
        axes.fill_between(
            lengths,
            [row["min"] for row in rows],
            [row["max"] for row in rows],
            color=line.get_color(),
            alpha=0.15,
            lw=0,
        )
    seeds = len(results["seeds"])
    axes.set(xscale="log", ylim=(-0.03, 1.03), xlabel="length (digits of each operand)", ylabel="exact match")
    ticks: list[float] = []
    for length in sorted({length_of(row["slice"]) for name in names for row in _cells(results, name, None)}):
        if not ticks or length >= 1.25 * ticks[-1]:  # nearer ones would overlap
            ticks.append(length)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    shown = f"median of {seeds} seeds, band: minimum to maximum" if seeds > 1 else "one seed"
    axes.set_title(f"{results['recipe']} ({results['preset']}): {shown}", fontsize=10)
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
