"""What the `Trainer` costs: steps of a recipe through it, against a bare loop over the same batches.

    python -m benchmarks.trainer

- The model is significance+clipped of addition-extrapolation, preset cpu, without the callbacks of a run: weights,
  rows, batches, loss, clipping, optimizer, schedule are the same; what dropout draws is not, so losses are but alike.
- The bare loop has its batches as tensors in memory. So the ratio holds everything between the rows and the optimizer:
  loading, collation, accelerate, logging every 50 steps. Saving is left out.
- Rounds alternate; the ratio is the median over the rounds.
- `benchmarks/trainer.json` keeps the last run with hardware and versions.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, ProgressCallback, get_scheduler, set_seed

from benchmarks.generation import hardware, versions
from hf_tasks.files import write_text
from hf_tasks.models import PositionalForCausalLM
from hf_tasks.optimizer import build_optimizer
from hf_tasks.recipe import build_config, load_recipe, training_arguments
from hf_tasks.tokenizer import build_tokenizer
from hf_tasks.train import AnswerCollator, RecipeTrainer, training_data

RESULT = Path(__file__).with_suffix(".json")
ROUNDS, STEPS = 3, 400
SETTINGS = [f"trainer.max_steps={STEPS}", "trainer.save_strategy='no'", "trainer.report_to=none"]
NAME = "significance+clipped"


def trainer(recipe: Any, folder: Path) -> RecipeTrainer:
    """The Trainer of a run, before its first step."""
    args, tokenizer = training_arguments(recipe, str(folder), 0), build_tokenizer(recipe.get_task())
    set_seed(0)
    made = RecipeTrainer(
        recipe,
        model=PositionalForCausalLM(build_config(recipe, NAME)),
        args=args,
        train_dataset=training_data(recipe.get_task(), recipe.data.size, 0),
        data_collator=AnswerCollator(tokenizer.pad_token_id),  # type: ignore[arg-type]
    )
    for noisy in (ProgressCallback, PrinterCallback):
        made.remove_callback(noisy)
    return made


def by_trainer(recipe: Any, folder: Path) -> tuple[float, float]:
    """Seconds of all steps, and the mean loss of the last 50 of them."""
    made = trainer(recipe, folder)
    start = time.perf_counter()
    made.train()
    seconds = time.perf_counter() - start
    return seconds, [one["loss"] for one in made.state.log_history if "loss" in one][-1]


def by_hand(recipe: Any, folder: Path) -> tuple[float, float]:
    """The same by a bare loop."""
    made = trainer(recipe, folder)
    model, args = made.model, made.args
    assert model is not None
    batches = [batch for batch, _ in zip(made.get_train_dataloader(), range(STEPS), strict=False)]
    optimizer = build_optimizer(model, recipe, args)
    schedule = get_scheduler(args.lr_scheduler_type, optimizer, args.get_warmup_steps(STEPS), STEPS)
    model.train()
    set_seed(0)
    losses = []
    start = time.perf_counter()
    for batch in batches:
        loss = model(**batch).loss  # type: ignore[misc]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return time.perf_counter() - start, float(torch.stack(losses[-int(args.logging_steps) :]).mean())


def main() -> None:
    """Time both, print the ratio and keep it."""
    recipe = load_recipe("addition-extrapolation", "cpu", SETTINGS)
    found: dict[str, list[float]] = {"Trainer": [], "bare loop": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(ROUNDS + 1):  # the first warms up
            (ours, loss), (bare, same) = by_trainer(recipe, Path(folder)), by_hand(recipe, Path(folder))
            assert abs(loss - same) < 0.3 * same, f"the two do not train alike: loss {loss} and {same}"
            if turn:
                found["Trainer"].append(1000 * ours / STEPS)
                found["bare loop"].append(1000 * bare / STEPS)
                print(f"round {turn}: " + ", ".join(f"{name} {of[-1]:.1f} ms a step" for name, of in found.items()))
    ratio = statistics.median(ours / bare for ours, bare in zip(*found.values(), strict=True))
    print(f"the Trainer takes {ratio:.3f} times as long as a bare loop")
    result = {
        "command": "python -m benchmarks.trainer",
        "hardware": {**hardware(), "threads": torch.get_num_threads()},
        "versions": versions("torch", "transformers", "accelerate", "datasets"),
        "steps": STEPS,
        "rows_per_step": recipe.trainer["per_device_train_batch_size"],
        "milliseconds_per_step": {name: round(statistics.median(of), 2) for name, of in found.items()},
        "ratio": round(ratio, 3),
    }
    write_text(RESULT, json.dumps(result, indent=2) + "\n")
    print(f"written to benchmarks/{RESULT.name}")


if __name__ == "__main__":
    main()
