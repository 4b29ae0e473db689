"""Threshold neurons through the edge of stability: Ahn et al. 2022 (arXiv 2212.07469), Figure 1, and its mean model.

- Two groups of d neurons share all but three numbers: f(x) = a- sum_i ReLU(-x_i + b) + a+ sum_i ReLU(x_i + b). One
  coordinate of x carries the label, all others noise: what tells is a threshold, b < 0, that keeps the noise out.
- Gradient descent leaves b where it began unless its steps are larger than 8 pi / d^2; beyond, it has to lower b until
  the loss is flat enough for its steps.
- In the mean model, A = d (a+ + a-) and b fall down the logistic loss of A g(b), g(b) = E ReLU(z + b), and b must come
  to rest where g(b) <= 2 / (d sqrt(step size)): own algebra, which `resting_bias` solves and the figures confirm.

    python -m hf_tasks.analysis.threshold_neurons --output results/threshold-neurons
"""

import json
import math
import time
from importlib.metadata import version
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tqdm import tqdm

from hf_tasks import __version__
from hf_tasks.analysis.command import command, read
from hf_tasks.analysis.plots import png
from hf_tasks.errors import UserError
from hf_tasks.evaluate import hardware, summary
from hf_tasks.files import write_bytes, write_text
from hf_tasks.metrics.functions import cell

DIMENSIONS, ROWS, TEST_ROWS, SIGNAL, TIME = 200, 300, 2000, 3.0, 10.0  # Figure 1; TIME: steps x step size
RATIOS = (0.5, 0.75, 0.95, 1.1, 1.25, 1.5, 2.0, 4.0, 8.0)  # step sizes over the threshold


def threshold(dimensions: int) -> float:
    """The step size beyond which b has to move: 8 pi / d^2."""
    return 8 * math.pi / dimensions**2


def expected_relu(bias: float) -> tuple[float, float]:
    """g(b) = E ReLU(z + b) of a standard normal z, and its derivative, the probability of z > -b."""
    density = math.exp(-(bias**2) / 2) / math.sqrt(2 * math.pi)
    above = 0.5 * math.erfc(-bias / math.sqrt(2))
    return density + bias * above, above


def resting_bias(step_size: float, dimensions: int) -> float:
    """Where g(b) = 2 / (d sqrt(step size)), or 0 if b may stay there.

    Raises:
        UserError: a step size that is not positive.
    """
    if step_size <= 0:
        raise UserError(f"step size {step_size} must be positive")
    wanted, low, high = 2 / (dimensions * math.sqrt(step_size)), -40.0, 0.0
    if expected_relu(0.0)[0] <= wanted:
        return 0.0
    for _ in range(100):  # g rises
        middle = (low + high) / 2
        low, high = (middle, high) if expected_relu(middle)[0] < wanted else (low, middle)
    return (low + high) / 2


def train_mean_model(step_size: float, dimensions: int = DIMENSIONS, steps: int = 200_000) -> float:
    """b at the end of gradient descent on the mean model from A = 0.3, b = 0."""
    total, bias = 0.3, 0.0
    for _ in range(steps):
        height, slope = expected_relu(bias)
        pull = math.tanh(total * height / 2) / 2  # of the logistic loss, the mean over both labels
        total, bias = (
            total - 2 * dimensions**2 * step_size * pull * height,
            bias - step_size * pull * total * slope,
        )
    return bias


def draw(rows: int, dimensions: int, signal: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """x (rows, d) = signal y e_j + N(0, I), j uniform, and y (rows,) = +-1, uniform."""
    labels = rng.choice([-1.0, 1.0], rows)
    x = rng.standard_normal((rows, dimensions))
    x[np.arange(rows), rng.integers(0, dimensions, rows)] += signal * labels
    return x, labels


def train_neurons(step_size: float, seed: int, dimensions: int = DIMENSIONS) -> tuple[float, int]:
    """Full-batch gradient descent on the logistic loss, for TIME / step_size steps.

    Returns:
        b at its end, and how many of TEST_ROWS new rows are on the right side.
    """
    rng = np.random.default_rng(seed)
    x, labels = draw(ROWS, dimensions, SIGNAL, rng)
    minus, plus = rng.normal(0, (2 * dimensions) ** -0.5, 2)
    bias = 0.0
    flat = np.concatenate([x, -x], axis=1)
    for _ in range(round(TIME / step_size)):
        below, above = flat[:, dimensions:] + bias, flat[:, :dimensions] + bias
        sums = np.maximum(below, 0).sum(axis=1), np.maximum(above, 0).sum(axis=1)
        counts = np.count_nonzero(below > 0, axis=1), np.count_nonzero(above > 0, axis=1)
        pull = -labels / (1 + np.exp(labels * (minus * sums[0] + plus * sums[1]))) / ROWS
        minus, plus, bias = (
            minus - step_size * (pull @ sums[0]),
            plus - step_size * (pull @ sums[1]),
            bias - step_size * (pull @ (minus * counts[0] + plus * counts[1])),
        )
    x, labels = draw(TEST_ROWS, dimensions, SIGNAL, rng)
    outputs = minus * np.maximum(-x + bias, 0).sum(axis=1) + plus * np.maximum(x + bias, 0).sum(axis=1)
    return float(bias), int(np.count_nonzero(outputs * labels > 0))


def measure(ratios: tuple[float, ...], seeds: list[int], dimensions: int = DIMENSIONS) -> dict[str, Any]:
    """Both models at step sizes of so many thresholds, in the form of `results.json`, but for a recipe."""
    begun, runs = time.monotonic(), []
    bar = tqdm(total=len(ratios) * len(seeds), desc="threshold neurons")
    cells = []
    for ratio in ratios:
        size, place = ratio * threshold(dimensions), {"step_size": ratio}
        cells.append({"slice": place, "metric": "bias", "value": train_mean_model(size, dimensions), "count": 1})
        rest = resting_bias(size, dimensions)
        cells.append({"slice": place, "metric": "bias by algebra", "value": rest, "count": 1})
    runs += [{"name": "mean model", "seed": seed, "cells": cells} for seed in seeds]  # nothing in it is random
    for seed in seeds:
        cells = []
        for ratio in ratios:
            bias, right = train_neurons(ratio * threshold(dimensions), seed, dimensions)
            place = {"step_size": ratio}
            cells.append({"slice": place, "metric": "bias", "value": bias, "count": 1})
            cells.append(cell(right, TEST_ROWS, place, "test accuracy"))
            bar.update()
        runs.append({"name": "threshold neurons", "seed": seed, "cells": cells})
    bar.close()
    return {
        "settings": {"dimensions": dimensions, "rows": ROWS, "signal": SIGNAL, "steps x step size": TIME,
                     "threshold": threshold(dimensions)},
        "seeds": seeds,
        "versions": {"hf_tasks": __version__, "numpy": version("numpy")},
        "hardware": hardware(),
        "seconds": round(time.monotonic() - begun, 1),
        "paper": [{"claim": "b stays until the step size passes 8 pi / d^2, and falls beyond it",
                   "source": "Ahn et al. 2022, arXiv 2212.07469, Figure 1"}],
        "summary": summary(runs),
        "runs": runs,
    }  # fmt: skip


def figure_of(results: dict[str, Any]) -> Figure:
    """b against the step size: what was measured, and where algebra has it."""
    figure = Figure(figsize=(7.0, 4.2), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    sizes: list[float] = []
    for name, metric, style in (
        ("threshold neurons", "bias", "o-"), ("mean model", "bias", "s-"), ("mean model", "bias by algebra", "k--"),
    ):  # fmt: skip
        rows = [row for row in results["summary"] if (row["name"], row["metric"]) == (name, metric)]
        sizes = [row["slice"]["step_size"] for row in rows]
        axes.plot(sizes, [row["median"] for row in rows], style, ms=4, label=f"{name}, {metric}")
        axes.fill_between(sizes, [row["min"] for row in rows], [row["max"] for row in rows], alpha=0.2)
    axes.axvline(1.0, color="gray", lw=1)
    axes.set(xscale="log", xlabel="step size over 8 pi / d^2", ylabel="b at the end")
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
    axes.minorticks_off()
    axes.set_title(
        f"d = {results['settings']['dimensions']}; {len(results['seeds'])} seeds, minimum to maximum", fontsize=10
    )
    axes.legend(fontsize=8)
    axes.grid(alpha=0.3)
    return figure


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write results.json and results.png."""
    given = read(command("threshold_neurons", __doc__, seeds=[0, 1, 2, 3, 4]), arguments)
    results = {"command": given.command, **measure(RATIOS, given.seeds)}
    write_text(given.output / "results.json", json.dumps(results, indent=1) + "\n")
    write_bytes(given.output / "results.png", png(figure_of(results)))


if __name__ == "__main__":
    main()
