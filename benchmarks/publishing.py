"""Publishing and loading back over the loopback: a 400 MB model and a 1 GB dataset, beside a plain `upload_folder`.

    python -m benchmarks.publishing

- Ours looks for secrets, compares the rows of all splits, renders cards and commits; the peer, huggingface_hub's
  `upload_folder`, uploads the same files and checks nothing. Both go to the same server, in turns, each time to a new
  repository, since a server that has a file is not sent it again.
- Every step is a process of its own, timed inside it after its imports, with its peak memory; beside it stands the same
  step with a file a hundredth of the size, so that what grows with the file is seen. The server's peak is read when all
  is over.
- `benchmarks/publishing.json` keeps the last run with hardware and versions.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.generation import hardware
from hf_tasks.files import write_text
from hf_tasks.hub.users import make_token

RESULT = Path(__file__).with_suffix(".json")
ROUNDS = 3
MEGABYTE = 1_000_000

SERVER = """
import sys, threading
from pathlib import Path
from hf_tasks.hub.server import running
with running(Path(sys.argv[1])) as url:
    print(url, flush=True)
    sys.stdin.read()
peak = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(peak[0], flush=True)
"""

# Each reads a folder and a repository, and prints its seconds and its peak memory in kB. (`ru_maxrss` would not do: a
# child inherits it.)
STEP = """
import sys, time
import {imports}
folder, repo, kind = sys.argv[1:]
start = time.perf_counter()
{code}
seconds = time.perf_counter() - start
peak = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(seconds, peak[0])
"""
STEPS = {
    "publish": (
        "hf_tasks.publish",
        "hf_tasks.publish.publish(folder, repo, **({'allow_unevaluated': True} if kind == 'model' else {}))",
    ),
    "upload_folder": (
        "huggingface_hub",
        "huggingface_hub.create_repo(repo, repo_type=kind)\n"
        "huggingface_hub.upload_folder(repo_id=repo, folder_path=folder, repo_type=kind)",
    ),
    "snapshot_download": ("huggingface_hub", "huggingface_hub.snapshot_download(repo, repo_type=kind)"),
    "from_pretrained": (
        "transformers",
        "transformers.AutoModelForCausalLM.from_pretrained(repo, trust_remote_code=True)",
    ),
    "load_dataset": ("datasets", "datasets.load_dataset(repo)"),
    "streaming": ("datasets", "for row in datasets.load_dataset(repo, split='train', streaming=True): pass"),
}


def make_model(folder: Path, megabytes: int) -> None:
    """A model of about that size, with float32 weights, and a card of its own."""
    from hf_tasks.models import PositionalConfig, PositionalForCausalLM

    layer = 12 * 1024**2 * 4 / MEGABYTE  # of width 1024: 12 squares of four bytes
    layers = max(1, round(megabytes / layer))
    width = 1024 if megabytes > layer else 256
    positions = [{"ids": "sequential", "encoding": "none"}]
    config = PositionalConfig(
        hidden_size=width, num_hidden_layers=layers, num_attention_heads=8, positions=positions, vocab_size=32
    )
    PositionalForCausalLM(config).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# For a benchmark\n")


def make_dataset(folder: Path, megabytes: int) -> None:
    """Sums of numbers of 500 to 1,000 digits; a thousand rows are about a megabyte of parquet."""
    from hf_tasks.dataset import write_dataset
    from hf_tasks.tasks import get_task

    task = get_task("addition", digits=(500, 1000))
    write_dataset(task, folder, {"train": max(100, 960 * megabytes), "test": max(100, 10 * megabytes)})


def size_of(folder: Path) -> float:
    """Megabytes of all its files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / MEGABYTE


class Bench:
    """A server, its clients' environment, and the steps between them."""

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.repositories = scratch, 0
        token = make_token(scratch / "hub", "me")
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER, str(scratch / "hub")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.server.stdout is not None
        self.environment = os.environ | {
            "HF_ENDPOINT": self.server.stdout.readline().strip(), "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }  # fmt: skip

    def repository(self) -> str:
        self.repositories += 1
        return f"me/number-{self.repositories}"

    def step(self, name: str, folder: Path, repo: str, kind: str) -> tuple[float, float]:
        """Seconds and peak memory in MB; what is loaded goes to a cache that is new each time."""
        imports, code = STEPS[name]
        with tempfile.TemporaryDirectory(dir=self.scratch) as home:
            done = subprocess.run(
                [sys.executable, "-c", STEP.format(imports=imports, code=code), str(folder), repo, kind],
                env=self.environment | {"HF_HOME": home}, stdout=subprocess.PIPE, text=True, check=True,
            )  # fmt: skip
        seconds, peak = done.stdout.split()[-2:]
        return float(seconds), int(peak) * 1024 / MEGABYTE

    def close(self) -> float:
        """End the server; its peak memory in MB."""
        output, _ = self.server.communicate()
        return int(output.split()[-1]) * 1024 / MEGABYTE


def measure(bench: Bench, kind: str, folder: Path, loads: tuple[str, ...], rounds: int) -> dict[str, dict[str, float]]:
    """Step -> median MB/s and highest peak in MB; we and the peer alternate, and loading reads what we published."""
    size = size_of(folder)
    seen: dict[str, list[tuple[float, float]]] = {}
    for _ in range(rounds):
        ours = bench.repository()
        seen.setdefault("publish", []).append(bench.step("publish", folder, ours, kind))
        seen.setdefault("upload_folder", []).append(bench.step("upload_folder", folder, bench.repository(), kind))
        for name in loads:
            seen.setdefault(name, []).append(bench.step(name, folder, ours, kind))
    return {
        name: {
            "mb_per_s": round(size / statistics.median(seconds for seconds, _ in pairs), 1),
            "peak_mb": round(max(peak for _, peak in pairs)),
        }
        for name, pairs in seen.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-mb", type=int, default=400)
    parser.add_argument("--dataset-mb", type=int, default=1000)
    options = parser.parse_args()
    result: dict[str, Any] = {"command": "python -m benchmarks.publishing", "hardware": hardware(), "rounds": ROUNDS}
    result["versions"] = {name: version(name) for name in ("huggingface_hub", "transformers", "datasets", "starlette")}
    kinds = {
        "model": (make_model, options.model_mb, ("snapshot_download", "from_pretrained")),
        "dataset": (make_dataset, options.dataset_mb, ("snapshot_download", "load_dataset", "streaming")),
    }
    with tempfile.TemporaryDirectory() as scratch:
        for kind, (make, megabytes, loads) in kinds.items():
            bench = Bench(Path(scratch))
            for label, wanted, rounds in (("small", megabytes // 100, 1), ("large", megabytes, ROUNDS)):
                folder = Path(scratch) / f"{kind}-{label}"
                make(folder, wanted)
                print(f"{kind} of {size_of(folder):.0f} MB ...", flush=True)
                measured = measure(bench, kind, folder, loads, rounds)
                result[f"{label} {kind}"] = {"mb": round(size_of(folder)), "steps": measured}
                for name, step in measured.items():
                    print(f"  {name:20}{step['mb_per_s']:>10,.1f} MB/s{step['peak_mb']:>8,} MB peak")
            result[f"server of {kind}s"] = {"peak_mb": round(bench.close())}
    for kind in kinds:
        steps = result[f"large {kind}"]["steps"]
        result[f"{kind}: publish / upload_folder"] = round(
            steps["publish"]["mb_per_s"] / steps["upload_folder"]["mb_per_s"], 2
        )
    write_text(RESULT, json.dumps(result, indent=2) + "\n")
    print(f"written to benchmarks/{RESULT.name}")


if __name__ == "__main__":
    main()
