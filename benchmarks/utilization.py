"""How much of what a machine can multiply a training step makes use of, and what bounds it.

    python -m benchmarks.utilization [--device cuda] [--compile] [--preset cpu|gpu] [--batch ROWS] [--bf16]

- On a GPU, some minutes with what compiling takes:
      python -m benchmarks.utilization --device cuda --compile
- The model is significance+operand of the recipe multiplication, with the recipe's clipping and optimizer (Muon beside
  AdamW), on one batch of its rows that lies on the device. On CUDA its preset is gpu, in bf16 by autocast.
- FLOPs are those of all matrix products of forward and backward, counted as Chowdhery et al. 2022 do (arXiv 2204.02311,
  appendix B): attention over all pairs of tokens, though half of them are masked, and nothing twice, though fused
  attention computes its scores again. Padding counts as tokens. Muon's own products are told apart.
- They are divided by those of the fastest square product, found in the same run and type, and by the vendor's figure.
- `optimizer` is clipping and the update. `loading` is what the Trainer does before a step, without workers: it takes
  rows from the dataset, collates them and moves them to the device; it is no part of a step here.
- `benchmarks/utilization.json` keeps the last run with hardware and versions, `utilization-cuda.json` that on a GPU.
"""

import argparse
import json
import shlex
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.generation import versions
from benchmarks.models import device_here, machine, short, timed
from hf_tasks.files import write_text
from hf_tasks.models import PositionalForCausalLM
from hf_tasks.optimizer import build_optimizer
from hf_tasks.recipe import build_config, load_recipe, training_arguments
from hf_tasks.tokenizer import build_tokenizer
from hf_tasks.train import AnswerCollator, training_data

FOLDER = Path(__file__).parent
RECIPE, NAME = "multiplication", "significance+operand"
SIDES = {"cpu": [256, 512, 1024, 2048], "cuda": [1024, 2048, 4096, 8192]}  # of the square products
CALLS = {"cpu": 1, "cuda": 10}  # in one timing: a GPU works on one call while the next is prepared
ROUNDS = 5
# Dense bf16 FLOP/s by the name that torch gives a card, from NVIDIA's data sheets.
VENDOR = {"NVIDIA H200": 989.4e12, "NVIDIA H100 80GB HBM3": 989.4e12}


def seconds_each(runs: dict[str, Callable[[], Any]], device: str) -> dict[str, float]:
    """Seconds of one call of every run, the median over rounds that alternate between the runs."""

    def often(run: Callable[[], Any]) -> Callable[[], None]:
        def calls() -> None:
            for _ in range(CALLS[device]):
                run()

        return calls

    found = timed({name: often(run) for name, run in runs.items()}, device, ROUNDS)
    return {name: statistics.median(of) / CALLS[device] for name, of in found.items()}


def products(device: str, dtype: torch.dtype) -> dict[str, float]:
    """FLOP/s of square matrix products by their side."""

    def product(side: int) -> Callable[[], Any]:
        a, b = torch.randn(2, side, side, device=device, dtype=dtype)
        return lambda: a @ b

    found = seconds_each({str(side): product(side) for side in SIDES[device]}, device)
    return {side: 2 * int(side) ** 3 / seconds for side, seconds in found.items()}


def flops(run: Callable[[], Any]) -> int:
    """Of all matrix products of a run."""
    # Fused attention is not counted on CPU, and on CUDA with what it computes again: here it is written out.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def parts_of_step(model: Any, batch: dict[str, Any], optimizer: Any, args: Any) -> dict[str, Callable[[], None]]:
    """A training step on a batch, whole and in halves; the second takes the gradients that the first left."""

    def gradients() -> None:
        optimizer.zero_grad()
        with torch.autocast(batch["input_ids"].device.type, dtype=torch.bfloat16, enabled=args.bf16):
            loss = model(**batch).loss
        loss.backward()

    def update() -> None:
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        optimizer.step()

    def step() -> None:
        gradients()
        update()

    return {"step": step, "forward+backward": gradients, "optimizer": update}


def peaks(speeds: dict[str, float], device: str, bf16: bool) -> dict[str, float]:
    """What FLOP/s are divided by."""
    found = {"fastest product": max(speeds.values())}
    card = torch.cuda.get_device_name() if device == "cuda" and bf16 else ""
    return found | ({"vendor": VENDOR[card]} if card in VENDOR else {})


def measure(device: str, preset: str, rows: int | None, bf16: bool, compiled: bool) -> dict[str, Any]:
    """Everything about one batch of these rows, or of as many as the recipe takes."""
    recipe = load_recipe(RECIPE, preset, [f"trainer.bf16={bf16}"])
    args, task = training_arguments(recipe, "unused", 0), recipe.get_task(NAME)
    size: int = args.per_device_train_batch_size if rows is None else rows
    data, collate = training_data(task, size, 0), AnswerCollator(build_tokenizer(task).pad_token_id)  # type: ignore[arg-type]

    def load() -> dict[str, torch.Tensor]:
        return {name: value.to(device) for name, value in collate(data.__getitems__([*range(size)])).items()}

    torch.manual_seed(0)
    model: Any = PositionalForCausalLM(build_config(recipe, NAME))
    batch, optimizer = load(), build_optimizer(model.to(device), recipe, args)
    one_row = parts_of_step(model, {name: value[:1] for name, value in batch.items()}, optimizer, args)
    needed, of_optimizer = size * flops(one_row["forward+backward"]), flops(one_row["optimizer"])
    speeds = products(device, torch.bfloat16 if bf16 else torch.float32)
    ways = {"eager": model} | ({"compiled": torch.compile(model)} if compiled else {})
    parts = {way: parts_of_step(one, batch, optimizer, args) for way, one in ways.items()}
    runs = {f"{way} {part}": run for way in ways for part, run in parts[way].items()}
    seconds = seconds_each({"loading": load, **runs}, device)
    result: dict[str, Any] = {
        "recipe": f"{RECIPE}, {NAME}, preset {preset}",
        "parameters": model.num_parameters(),
        "dtype": "bfloat16" if bf16 else "float32",
        "rows": size,
        "length": batch["input_ids"].shape[1],
        "padding": round(float((batch["input_ids"] == model.config.pad_token_id).float().mean()), 3),
        "flops_per_step": needed,
        "flops_of_optimizer": of_optimizer,
        "flops_per_second_of_products": {side: short(speed) for side, speed in speeds.items()},
        "peak_flops_per_second": peaks(speeds, device, bf16),
        "loading_milliseconds": short(1000 * seconds["loading"]),
        "ways": {},
    }
    for way in ways:
        speed = needed / seconds[f"{way} step"]
        result["ways"][way] = {
            "tokens_per_second": round(batch["input_ids"].numel() / seconds[f"{way} step"]),
            "flops_per_second": short(speed),
            "utilization": {name: short(speed / peak) for name, peak in result["peak_flops_per_second"].items()},
            "milliseconds": {part: short(1000 * seconds[f"{way} {part}"]) for part in parts[way]},
        }
    return result


def show(result: dict[str, Any]) -> None:
    """Print what was measured."""
    print(f"{result['recipe']}: {result['parameters']:,} parameters, {result['dtype']}")
    print(f"a batch: {result['rows']} rows of {result['length']} tokens, {result['padding']:.0%} of them padding")
    needed, of_optimizer = result["flops_per_step"] / 1e9, result["flops_of_optimizer"] / 1e9
    print(f"a step: {needed:,.1f} GFLOP in forward and backward, {of_optimizer:,.1f} in the optimizer")
    sides = [f"{side}: {speed / 1e9:,.0f}" for side, speed in result["flops_per_second_of_products"].items()]
    print("square products, GFLOP/s by their side: " + ", ".join(sides))
    for way, found in result["ways"].items():
        print(f"{way}: {found['tokens_per_second']:,} tokens/s, {found['flops_per_second'] / 1e9:,.1f} GFLOP/s")
        for name, share in found["utilization"].items():
            print(f"  {share:.1%} of {name} ({result['peak_flops_per_second'][name] / 1e9:,.0f} GFLOP/s)")
        print("  " + ", ".join(f"{part} {taken:,.1f} ms" for part, taken in found["milliseconds"].items()))
    print(f"loading a batch: {result['loading_milliseconds']:,.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=device_here, default="cpu", metavar="cpu|cuda")
    parser.add_argument("--preset", choices=["cpu", "gpu"], help="of the recipe; gpu on CUDA unless given, else cpu")
    parser.add_argument("--batch", type=int, metavar="ROWS", help="rows of a batch; the recipe's unless given")
    parser.add_argument("--bf16", action="store_true", help="bf16 on CPU, too")
    parser.add_argument("--compile", action="store_true", help="measure it compiled as well")
    wanted = parser.parse_args()
    if wanted.batch is not None and wanted.batch < 1:
        parser.error(f"--batch {wanted.batch}: give 1 or more")
    on_gpu = wanted.device == "cuda"
    preset = wanted.preset or ("gpu" if on_gpu else "cpu")
    found = measure(wanted.device, preset, wanted.batch, on_gpu or wanted.bf16, wanted.compile)
    show(found)
    result = {
        "command": shlex.join(["python", "-m", "benchmarks.utilization", *sys.argv[1:]]),
        "hardware": machine(wanted.device),
        "versions": versions("torch", "transformers"),
        **found,
    }
    path = FOLDER / ("utilization-cuda.json" if on_gpu else "utilization.json")
    write_text(path, json.dumps(result, indent=1) + "\n")
    print(f"written to benchmarks/{path.name}")


if __name__ == "__main__":
    main()
