"""Pictures of an analysis as SVG that is put into a page as it is.

- Lines and letters have the colour of the page's text, so that one picture serves light and dark; letters stay letters.
- Pictures are as wide as a phone's screen, and grow with it.
- Drawn on matplotlib's object interface, so nothing touches the user's own figures or back end.
"""

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK = "#010203"  # stands for the colour of the page's text
WIDTH = 4.8  # inches
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "font.size": 8, "axes.titlesize": 8, "legend.frameon": False, "axes.spines.top": False,
    "axes.spines.right": False,
    **{f"{part}.color": INK for part in ("text", "xtick", "ytick", "grid")},
    **{f"axes.{part}color": INK for part in ("edge", "label", "title")},
}  # fmt: skip
DEPTHS_WITH_NUMBERS = 14  # heat maps up to so wide have their values written into them


def svg(draw: Any, name: str, height: float, panels: int = 1) -> str:
    """A picture of `panels` Axes side by side, drawn by `draw(axes)` or `draw(*axes)`.

    Args:
        name: makes the names inside the picture unlike those of the page's other pictures.
        height: in inches.
    """
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)
        draw(*figure.subplots(1, panels, squeeze=False)[0])
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    head, rest = text.split(">", 1)
    view = re.search(r'viewBox="[^"]*"', head)
    assert view is not None
    # Matplotlib gives the same names to the parts of every picture, and a page is to have each once.
    rest = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", rest)
    return f'<svg role="img" aria-label="{name}" {view[0]}>{rest}'.replace(INK, "currentColor")


def depth_curve(
    cells: Sequence[dict[str, Any]], chance: float, asked: Sequence[int], ceilings: Sequence[tuple[int, float]]
) -> str:
    """Accuracy by depth with its intervals, chance, the depths told in training, and the counting ceiling."""

    def draw(axes: Axes) -> None:
        depths, values = [cell["depth"] for cell in cells], np.array([cell["value"] for cell in cells])
        ends = np.array([cell["ci95"] for cell in cells])
        if asked:
            axes.axvspan(
                min(asked) - 0.4, max(asked) + 0.4, color="tab:blue", alpha=0.1, lw=0, label="told in training"
            )
        reach = np.abs(ends.T - values)
        axes.errorbar(depths, values, reach, color="tab:blue", marker="o", markersize=3, lw=1, capsize=2, label="model")
        if ceilings:
            axes.plot(*zip(*ceilings, strict=True), color="tab:orange", lw=1, ls="--", label="best counter")
        axes.axhline(chance, color=INK, lw=0.8, ls=":", label="guessing")
        axes.set(ylim=(-0.03, 1.05), xlabel="depth of the clause", ylabel="accuracy")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(loc="lower left", fontsize=7)

    return svg(draw, "accuracy", 2.6)


def learning_curves(history: Sequence[dict[str, Any]]) -> str:
    """Accuracy of each depth over training."""
    entries = [entry for entry in history if "accuracy_by_depth" in entry]
    depths = sorted({int(depth) for entry in entries for depth in entry["accuracy_by_depth"]})

    def draw(axes: Axes) -> None:
        colours = mpl.colormaps["viridis"](np.linspace(0, 0.9, len(depths)))
        for depth, colour in zip(depths, colours, strict=True):
            steps = [entry["step"] for entry in entries if str(depth) in entry["accuracy_by_depth"]]
            values = [of[str(depth)] for entry in entries if str(depth) in (of := entry["accuracy_by_depth"])]
            named = depth in (depths[0], depths[-1]) or len(depths) <= 8
            axes.plot(steps, values, color=colour, lw=1, label=f"depth {depth}" if named else None)
        axes.set(ylim=(-0.03, 1.05), xlabel="training step", ylabel="accuracy")
        axes.legend(fontsize=7)

    return svg(draw, "learning", 2.4)


def heat_map(cells: Sequence[dict[str, Any]], across: tuple[str, str], name: str) -> str:
    """Values of cells by layer over one of their keys, given as (key, label); empty where there is no cell."""
    columns = sorted({cell[across[0]] for cell in cells})
    rows = sorted({cell["layer"] for cell in cells})
    values = np.full((len(rows), len(columns)), np.nan)
    for cell in cells:
        values[rows.index(cell["layer"]), columns.index(cell[across[0]])] = cell["value"]

    def draw(axes: Axes) -> None:
        _heat(axes, values, rows, columns, len(columns) <= DEPTHS_WITH_NUMBERS and len(rows) <= 2 * DEPTHS_WITH_NUMBERS)
        axes.set(xlabel=across[1], ylabel="layer")

    return svg(draw, name, 0.9 + min(5.0, max(1.2, 0.2 * len(rows))))


def head_scores(values: dict[str, np.ndarray]) -> str:
    """One heat map a score, (applications, heads)."""
    applications, heads = next(iter(values.values())).shape

    def draw(*panels: Axes) -> None:
        for axes, (name, of) in zip(panels, values.items(), strict=True):
            _heat(axes, of, range(applications), range(heads), heads <= 4 and applications <= 24)
            axes.set(title=name, xlabel="head")
        panels[0].set_ylabel("application")

    return svg(draw, "heads", 0.9 + min(4.0, max(1.2, 0.2 * applications)), panels=len(values))


def attention_map(weights: np.ndarray, tokens: Sequence[str], title: str, name: str) -> str:
    """One head on one sentence: rows look at columns."""

    def draw(axes: Axes) -> None:
        axes.imshow(weights, vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
        size = min(7.0, 200 / len(tokens))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(range(len(tokens)), [*tokens], fontsize=size)
        axes.tick_params(length=0, pad=1)
        axes.set_title(title)
        axes.set(xlabel="looks at", ylabel="token")

    return svg(draw, name, 4.4)


def _heat(axes: Axes, values: np.ndarray, rows: Sequence[int], columns: Sequence[int], written: bool) -> None:
    axes.imshow(values, vmin=0, vmax=1, origin="lower", cmap="viridis", aspect="auto", interpolation="nearest")
    axes.set_xticks(range(len(columns)), [str(column) for column in columns])
    if len(columns) > DEPTHS_WITH_NUMBERS:
        axes.xaxis.set_ticks(range(0, len(columns), 5), [str(column) for column in columns[::5]])
    step = max(1, len(rows) // 12)
    axes.set_yticks(range(0, len(rows), step), [str(row) for row in rows[::step]])
    if written:
        for (y, x), value in np.ndenumerate(values):
            if not np.isnan(value):
                colour = "black" if value > 0.6 else "white"
                axes.text(x, y, f"{value:.2f}".removeprefix("0"), ha="center", va="center", fontsize=5.5, color=colour)
