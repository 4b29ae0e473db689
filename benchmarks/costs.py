"""How costs grow: time and peak memory of a training step by length and by batch, and of training data by their rows.

    python -m benchmarks.costs [--device cuda]

- A step is forward, backward and AdamW of the model of benchmarks/models.py, with rotary positions (no bias), with a
  bias by distance (a table) and with a bias by place value (a mask of all pairs of tokens). Rounds alternate between
  all pairs and sizes, so that a busy machine slows them down alike; a time is the median.
- Peak memory of a step is measured as there: beyond the weights and what the optimizer keeps.
- Data are made and encoded as training does it, each size once and in a process of its own; their memory is how far
  what that process holds (VmHWM, Linux) rose above what it held after its imports.
- Growth is told by the exponent: the slope of a straight line through the upper half of a curve, both axes in
  logarithms. The lower half tells of what every step costs.
- `benchmarks/costs.json` keeps the last run with hardware and versions, `costs.png` draws it; on a GPU `costs-cuda`.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.generation import versions
from benchmarks.models import (
    ALIKE,
    PAIRS,
    SIZES,
    VOCABULARY,
    device_here,
    machine,
    ours,
    peak_mib,
    short,
    timed,
    training_step,
)
from hf_tasks.analysis.plots import png
from hf_tasks.files import write_bytes, write_text

FOLDER = Path(__file__).parent
NAMES = [ALIKE, "sequential+clipped", "significance+clipped"]
LENGTHS, ROWS = [64, 128, 256, 512, 1024, 2048], 4
BATCHES, LENGTH = [1, 2, 4, 8, 16, 32, 64], 64
DATA = [10_000, 100_000, 1_000_000]
ROUNDS = 7
MAKER = """
import json, re, sys, time
from pathlib import Path
import datasets
from hf_tasks.tasks import get_task
from hf_tasks.train import training_data
datasets.disable_progress_bars()
held = lambda kind: int(re.search(rf"{kind}:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
before, start = held("VmRSS"), time.perf_counter()
rows = training_data(get_task("addition", digits=(1, 10), pad=True, reverse="answer"), int(sys.argv[1]), 0)
print(json.dumps([len(rows), time.perf_counter() - start, held("VmHWM") - before]))
"""
Curve = dict[str, dict[Any, float]]


def exponent(costs: dict[int, float]) -> float:
    """The x of size^x, of costs by size in rising order."""
    upper = list(costs.items())[len(costs) // 2 :]
    sizes, values = np.log(upper).T
    return round(float(np.polyfit(sizes, values, 1)[0]), 3)


def curve(seconds: dict[int, float], mib: dict[int, float]) -> Curve:
    """Costs by size, with their exponents."""
    costs = {"seconds": seconds, "peak_mib": mib}
    rounded = {name: {size: short(cost) for size, cost in of.items()} for name, of in costs.items()}
    return {**rounded, "exponents": {name: exponent(of) for name, of in costs.items()}}


def of_steps(device: str, batches: dict[int, torch.Tensor]) -> dict[str, Curve]:
    """One curve a pair, over batches by size."""
    models = {name: ours(PAIRS[name], device) for name in NAMES}
    steps = {
        f"{name} {size}": training_step(model, batch)
        for size, batch in batches.items()
        for name, model in models.items()
    }
    found = timed(steps, device, ROUNDS)
    return {
        name: curve(
            {size: statistics.median(found[f"{name} {size}"]) for size in batches},
            {size: peak_mib(steps[f"{name} {size}"], device) for size in batches},
        )
        for name in NAMES
    }


def of_data() -> Curve:
    """The curve over numbers of rows."""
    seconds, mib = {}, {}
    for rows in DATA:
        command = [sys.executable, "-c", MAKER, str(rows)]
        told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        made, seconds[rows], mib[rows] = json.loads(told)
        assert made == rows, f"{made} rows instead of {rows}"
    return curve(seconds, mib)


def measure(device: str) -> dict[str, dict[str, Curve]]:
    """What the size is -> name -> curve."""
    torch.manual_seed(0)
    tokens = torch.randint(0, VOCABULARY, (max(ROWS, *BATCHES), max(LENGTH, *LENGTHS)), device=device)
    return {
        "length": of_steps(device, {length: tokens[:ROWS, :length].contiguous() for length in LENGTHS}),
        "batch": of_steps(device, {rows: tokens[:rows, :LENGTH].contiguous() for rows in BATCHES}),
        "rows": {"addition": of_data()},
    }


def titles() -> dict[str, str]:
    """What each size is the size of."""
    return {
        "length": f"a training step, {ROWS} rows, by length in tokens",
        "batch": f"a training step, rows of {LENGTH} tokens, by batch in rows",
        "rows": "making and encoding training data, by rows",
    }


def show(found: dict[str, dict[str, Curve]]) -> None:
    """Print one table a size."""
    for size, curves in found.items():
        print(f"\n{titles()[size]}: seconds, peak MiB")
        print(f"{size:>12}" + "".join(f"{name:>26}" for name in curves))
        for at in next(iter(curves.values()))["seconds"]:
            cells = [f"{of['seconds'][at]:>16.4g}{of['peak_mib'][at]:>10.4g}" for of in curves.values()]
            print(f"{at:>12,}" + "".join(cells))
        cells = [f"{of['exponents']['seconds']:>16.2f}{of['exponents']['peak_mib']:>10.2f}" for of in curves.values()]
        print(f"{size + '^x, x =':>12}" + "".join(cells))


def draw(found: dict[str, dict[str, Curve]]) -> bytes:
    """A PNG: one panel a size, time above and memory below, all axes in logarithms."""
    figure = Figure(figsize=(4.4 * len(found), 6.4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, len(found), sharex="col")
    marks = {"length": "length, tokens", "batch": "batch, rows", "rows": "training data, rows"}
    for size, time, memory in zip(found, above, below, strict=True):
        for axes, cost, unit in ((time, "seconds", "time, s"), (memory, "peak_mib", "peak memory, MiB")):
            for name, of in found[size].items():
                label = f"{name}: ~ {size}^{of['exponents'][cost]:.2f}"
                axes.loglog([*of[cost]], [*of[cost].values()], marker="o", markersize=4, label=label)
            axes.set_ylabel(unit)
            axes.legend(fontsize=7)
            axes.grid(alpha=0.3)
        time.set_title(titles()[size], fontsize=9)
        memory.set_xlabel(marks[size])
        sizes = [*next(iter(found[size].values()))["seconds"]]
        memory.set_xticks(sizes, [f"{at:,}" for at in sizes])
        memory.set_xticks([], minor=True)
    return png(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    told = "of the steps; data take the CPU"
    parser.add_argument("--device", type=device_here, default="cpu", metavar="cpu|cuda", help=told)
    device = parser.parse_args().device
    found = measure(device)
    show(found)
    name = "costs-cuda" if device == "cuda" else "costs"
    result = {
        "command": "python -m benchmarks.costs" + (" --device cuda" if device == "cuda" else ""),
        "hardware": machine(device),
        "versions": versions("torch", "transformers", "datasets"),
        "shape": {
            "vocabulary": VOCABULARY,
            **{key: value for key, value in SIZES[device].items() if key != "tokens"},
        },
        "rows_by_length": ROWS,
        "length_by_batch": LENGTH,
        "curves": found,
    }
    write_text(FOLDER / f"{name}.json", json.dumps(result, indent=1) + "\n")
    write_bytes(FOLDER / f"{name}.png", draw(found))
    print(f"\nwritten to benchmarks/{name}.json and {name}.png")


if __name__ == "__main__":
    main()
