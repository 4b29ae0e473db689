"""The evaluation grid: sums a second of `hf_tasks.evaluate.judge` against a loop of `generate`, one sum at a time.

    python -m benchmarks.evaluation

- The grid is one test sum for each pair of operand lengths of 2 to 101 digits (of 1 x 1 there are too few to hold out).
  The model is significance+clipped of addition-extrapolation at preset cpu after a few hundred steps: enough to end its
  answers, so that stopping early counts on both sides.
- Both decode greedily with a cache until <eos> or the longest answer of the task. The loop answers every so-manieth sum
  of the grid, in rounds between which the whole grid is answered; its answers must be the same.
- `benchmarks/evaluation.json` keeps the last run with hardware and versions.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from benchmarks.generation import versions
from benchmarks.models import machine
from hf_tasks.adapters import load_model
from hf_tasks.evaluate import judge
from hf_tasks.files import write_text
from hf_tasks.recipe import load_recipe
from hf_tasks.tasks import Task
from hf_tasks.train import train_model

RESULT = Path(__file__).with_suffix(".json")
ROUNDS, ALONE = 3, 40  # sums that the loop answers in a round
SETTINGS = ["trainer.max_steps=400", "data.size=51200", "trainer.save_strategy='no'"]
NAME = "significance+clipped"


def trained() -> tuple[Any, Any, Any]:
    """The recipe, a model of it and its tokenizer."""
    recipe = load_recipe("addition-extrapolation", "cpu", SETTINGS)
    with tempfile.TemporaryDirectory() as folder:
        finished = train_model(recipe, NAME, 0, Path(folder))
        return recipe, load_model(finished).eval(), AutoTokenizer.from_pretrained(finished)


@torch.no_grad()
def one_by_one(model: Any, tokenizer: Any, questions: list[tuple[Task, list[str]]]) -> list[bool]:
    """What `judge` tells, by a straight loop."""
    found = []
    for task, (prompt,) in questions:
        inputs, limit = tokenizer(prompt, return_tensors="pt"), task.max_lengths[1] + 1
        output = model.generate(**inputs, max_new_tokens=limit, do_sample=False, eos_token_id=tokenizer.eos_token_id)
        tokens = output[0, inputs["input_ids"].shape[1] :].tolist()
        answer = tokenizer.decode(tokens[:-1])
        found.append(tokens[-1] == tokenizer.eos_token_id and task.check(prompt, answer))
    return found


def main() -> None:
    """Time both, print the ratio and keep it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", type=int, default=1, help="every so-manieth length of the grid; only 1 is kept")
    step = parser.parse_args().step
    recipe, model, tokenizer = trained()
    lengths = range(2, 102, step)
    start = time.perf_counter()
    tasks = [recipe.task_at([a, b]) for a in lengths for b in lengths]
    questions = [(task, list(task.generate("test", size=1)["prompt"])) for task in tasks]
    making = time.perf_counter() - start
    speeds: dict[str, list[float]] = {"ours": [], "one by one": []}
    right = 0
    for turn in range(ROUNDS):
        start = time.perf_counter()
        found = [one for (one,) in judge(model, tokenizer, questions)]
        speeds["ours"].append(len(questions) / (time.perf_counter() - start))
        some = range(turn, len(questions), max(1, len(questions) // ALONE))
        start = time.perf_counter()
        alone = one_by_one(model, tokenizer, [questions[i] for i in some])
        speeds["one by one"].append(len(alone) / (time.perf_counter() - start))
        assert alone == [found[i] for i in some], "the two ways do not answer alike"
        right = sum(found)
        print(f"round {turn}: " + ", ".join(f"{name} {of[-1]:.1f} sums/s" for name, of in speeds.items()), flush=True)
    ratio = statistics.median(a / b for a, b in zip(*speeds.values(), strict=True))
    print(f"{len(questions)} sums (made in {making:.0f} s, {right} right): {ratio:.1f} times as fast as one by one")
    if step > 1:
        return
    result = {
        "command": "python -m benchmarks.evaluation",
        "hardware": machine("cpu"),
        "versions": versions("torch", "transformers"),
        "sums": len(questions),
        "right": right,
        "seconds_to_make_the_sums": round(making, 1),
        "sums_per_second": {name: round(statistics.median(values), 1) for name, values in speeds.items()},
        "ratio": round(ratio, 1),
    }
    write_text(RESULT, json.dumps(result, indent=2) + "\n")
    print(f"written to benchmarks/{RESULT.name}")


if __name__ == "__main__":
    main()
