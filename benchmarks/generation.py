"""Rows per second of ours against reasoning_gym's `chain_sum`, side by side, and the memory of ten million rows.

    python -m benchmarks.generation

- Both add (the peer: or subtract) two numbers of 10 digits on one core. Ours checks the split of every row and ends as
  an Arrow table of prompt, answer and metadata; `chain_sum` checks none and is timed as the dicts it makes and as a
  table.
- Rounds alternate between the two, so that a busy machine slows both down; medians are reported.
- Memory is the peak of a process of its own that writes parquet shards with `hf_tasks.dataset.write_dataset`.
- `benchmarks/generation.json` keeps the last run with hardware and versions.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa

from hf_tasks.files import write_text
from hf_tasks.tasks import get_task

RESULT = Path(__file__).with_suffix(".json")
ROUNDS = 5
DIGITS = 10
WRITER = """
import re, sys
from pathlib import Path
from hf_tasks.dataset import write_dataset
from hf_tasks.tasks import get_task
write_dataset(get_task("addition", digits=(1, 10)), sys.argv[1], {"train": int(sys.argv[2])})
# Not ru_maxrss, which a child inherits.
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


def ours(split: str, rows: int, **parameters: Any) -> Callable[[int], pa.Table]:
    """A run of our addition: give it the round, which is also the seed."""
    task = get_task("addition", digits=(DIGITS, DIGITS), **parameters)
    return lambda seed: task.table(split, rows, seed=seed)


def chain_sum(rows: int, as_table: bool) -> Callable[[int], Any]:
    """A run of the peer, its rows as dicts or collected in an Arrow table."""
    import reasoning_gym  # pyright: ignore[reportMissingImports]  # of the extra `bench`

    shape = {"min_terms": 2, "max_terms": 2, "min_digits": DIGITS, "max_digits": DIGITS}

    def run(seed: int) -> Any:
        # Its item i of seed s is item i - 1 of seed s + 1, so that seeds must lie far apart.
        items = [*reasoning_gym.create_dataset("chain_sum", seed=seed * rows, size=rows, **shape)]
        if not as_table:
            return items
        return pa.table({column: [item[column] for item in items] for column in ("question", "answer")})

    return run


def rows_per_second(runs: dict[str, tuple[int, Callable[[int], Any]]], rounds: int) -> dict[str, float]:
    """The median speed of each run, after one round to warm up.

    Args:
        runs: name -> (rows, run).
        rounds: how often each is timed, in turns.
    """
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, (rows, run) in runs.items():
            start = time.perf_counter()
            run(turn)
            speeds[name].append(rows / (time.perf_counter() - start))
    return {name: round(statistics.median(values[1:])) for name, values in speeds.items()}


def writing(rows: int) -> dict[str, float]:
    """Write so many rows in a process of its own: its seconds, its peak memory in MiB, and the size on disk in MiB.

    On Linux a child inherits the peak of the process that starts it: the figure is an upper bound.
    """
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        command = [sys.executable, "-c", WRITER, f"{folder}/rows", str(rows)]
        peak = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
        shards = [*Path(folder).rglob("*.parquet")]
        return {
            "rows": rows,
            "seconds": round(time.perf_counter() - start, 1),
            "peak_mib": round(int(peak) / 1024),
            "shards": len(shards),
            "disk_mib": round(sum(path.stat().st_size for path in shards) / 2**20),
        }


def hardware() -> dict[str, Any]:
    """The processor and how many of its cores this process may use."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"processor": next(iter(models), platform.machine()), "cores": cores}


def versions(*packages: str) -> dict[str, str]:
    """Of Python and some packages."""
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows to write for the memory figure")
    rows = parser.parse_args().rows

    print(f"writing {rows} rows to parquet ...", flush=True)
    memory = writing(rows)
    runs = {
        "ours: plain": (500_000, ours("train", 500_000)),
        "ours: padded, reversed": (500_000, ours("train", 500_000, pad=True, reverse="answer")),
        "ours: plain, test split": (100_000, ours("test", 100_000)),
        "chain_sum: dicts": (20_000, chain_sum(20_000, as_table=False)),
        "chain_sum: Arrow table": (20_000, chain_sum(20_000, as_table=True)),
    }
    print(f"timing {len(runs)} generators, {ROUNDS} rounds ...", flush=True)
    speeds = rows_per_second(runs, ROUNDS)
    ratio = speeds["ours: plain"] / speeds["chain_sum: dicts"]

    for name, speed in speeds.items():
        print(f"{name:28}{speed:>12,.0f} rows/s")
    print(f"{'ours: plain / chain_sum':28}{ratio:>12.1f} times")
    size = f"peak {memory['peak_mib']} MiB, {memory['disk_mib']} MiB on disk"
    print(f"{rows:,} rows written in {memory['seconds']} s, {size}")
    result = {
        "command": "python -m benchmarks.generation",
        "hardware": hardware(),
        "versions": versions("numpy", "pyarrow", "reasoning-gym"),
        "digits": DIGITS,
        "rows_per_second": speeds,
        "ratio": round(ratio, 1),
        "writing": memory,
    }
    write_text(RESULT, json.dumps(result, indent=2) + "\n")
    print(f"written to benchmarks/{RESULT.name}")


if __name__ == "__main__":
    main()
