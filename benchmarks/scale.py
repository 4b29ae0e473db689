"""Ten million rows by datatrove's local executor, and by one process: rows a second, peak memory, the same bytes.

    python -m benchmarks.scale

- Sums as the recipe addition-extrapolation trains on. Both commands are run as a user runs them, imports included.
- Peak memory is that of the largest process among all that a command started, and of all of them together, looked at
  ten times a second.
- `benchmarks/scale.json` keeps the last run with hardware and versions.
"""

import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.generation import hardware, versions
from hf_tasks.files import write_text

RESULT = Path(__file__).with_suffix(".json")
ROWS, WORKERS = 10_000_000, 2
WANTED = f"addition --size {ROWS} --set digits=[1,10] lengths=balanced carry_heavy=0.5 reverse=answer pad=true"
COMMANDS = {
    "local executor": f"-m datasets_scripts.launch.local {WANTED} --workers {WORKERS} --output",
    "one process": f"-c 'from hf_tasks.cli import main; main()' generate {WANTED} --output",
}


def memory(session: int) -> list[int]:
    """Megabytes that every process of a session holds now."""
    found = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            if os.getsid(int(status.parent.name)) == session:
                held = re.search(r"VmRSS:\s+(\d+)", status.read_text())
                found.append(int(held[1]) // 1024 if held else 0)
        except OSError:  # it has ended
            continue
    return found


def measure(command: str, output: Path) -> dict[str, Any]:
    """Run a command in a session of its own."""
    start, largest, together = time.perf_counter(), 0, 0
    words = [sys.executable, *shlex.split(command), "sums"]
    run = subprocess.Popen(words, cwd=output, stderr=subprocess.DEVNULL, start_new_session=True)
    while run.poll() is None:
        held = memory(run.pid)
        largest, together = max([largest, *held]), max(together, sum(held))
        time.sleep(0.1)
    seconds = time.perf_counter() - start
    if run.returncode:
        raise SystemExit(f"{command} ended with {run.returncode}")
    data = sorted((output / "sums" / "data" / "train").glob("*.parquet"))
    return {
        "seconds": round(seconds, 1),
        "rows_per_second": round(ROWS / seconds),
        "peak_megabytes": {"largest process": largest, "all together": together},
        "files": len(data),
        "megabytes_on_disk": round(sum(path.stat().st_size for path in data) / 1e6),
        "sha256": [hashlib.sha256(path.read_bytes()).hexdigest() for path in data],
    }


def main() -> None:
    result: dict[str, Any] = {
        "command": "python -m benchmarks.scale",
        "rows": ROWS,
        "workers": WORKERS,
        "hardware": hardware(),
        "load_average": round(os.getloadavg()[0], 1),
        "versions": versions("datatrove", "numpy", "pyarrow"),
    }
    written = {}
    for name, command in COMMANDS.items():
        with tempfile.TemporaryDirectory() as folder:
            found = measure(command, Path(folder))
        written[name] = found.pop("sha256")
        result[name] = {"command": f"python {command.replace(' --output', ' --output sums')}", **found}
        print(name, json.dumps(result[name]), flush=True)
    result["same_bytes"] = len({json.dumps(hashes) for hashes in written.values()}) == 1
    write_text(RESULT, json.dumps(result, indent=2) + "\n")
    print(f"written to benchmarks/{RESULT.name}")


if __name__ == "__main__":
    main()
