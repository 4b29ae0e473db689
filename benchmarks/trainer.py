"""What training costs beside the model: steps of a recipe as `hf-tasks run` takes them, and by the `Trainer` alone.

    python -m benchmarks.trainer

- Both are measured against a bare loop over the same batches. The model is significance+clipped of
  addition-extrapolation, preset cpu: weights, rows, batches, loss, clipping, optimizer, schedule are the same; what
  dropout draws is not, so losses are but alike.
- The bare loop has its batches as tensors in memory. So the Trainer's ratio holds everything between the rows and the
  optimizer: loading, collation, accelerate, logging every 50 steps; no callbacks of ours and no saving.
- A run has both: throughput, stopwatch, and one checkpoint, which is listed with its hashes, in as many steps as the
  recipe takes for one. Only the progress bar is left out.
- Rounds alternate, each beginning with another; a ratio is the median over the rounds.
- `benchmarks/trainer.json` keeps the last run with hardware and versions.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, get_scheduler, set_seed

from benchmarks.generation import versions
from benchmarks.models import machine
from hf_tasks.files import write_text
from hf_tasks.models import PositionalForCausalLM
from hf_tasks.optimizer import build_optimizer
from hf_tasks.recipe import build_config, load_recipe, training_arguments
from hf_tasks.tokenizer import build_tokenizer
from hf_tasks.train import AnswerCollator, RecipeTrainer, _build_trainer, training_data

RESULT = Path(__file__).with_suffix(".json")
ROUNDS, STEPS = 3, 500  # `save_steps` of the recipe
SETTINGS = ["trainer.report_to=none", "trainer.disable_tqdm=true"]
NAME = "significance+clipped"


def trainer(recipe: Any, folder: Path) -> RecipeTrainer:
    """The Trainer alone, before its first step."""
    args, task = training_arguments(recipe, str(folder), 0), recipe.get_task()
    set_seed(0)
    # The rows are asked for as a run asks, argument by argument, so that all find the same ones kept.
    made = RecipeTrainer(
        recipe,
        model=PositionalForCausalLM(build_config(recipe, NAME)),
        args=args,
        train_dataset=training_data(task, recipe.data.size, 0, None, False),
        data_collator=AnswerCollator(build_tokenizer(task).pad_token_id),  # type: ignore[arg-type]
    )
    made.remove_callback(PrinterCallback)
    return made


def by_trainer(made: Trainer) -> tuple[float, float]:
    """Seconds of all steps, and the mean loss of the last 50 of them."""
    start = time.perf_counter()
    made.train()
    seconds = time.perf_counter() - start
    return seconds, [one["loss"] for one in made.state.log_history if "loss" in one][-1]


def by_hand(made: RecipeTrainer) -> tuple[float, float]:
    """The same by a bare loop over the batches of this Trainer."""
    model, args = made.model, made.args
    assert model is not None
    batches = [batch for batch, _ in zip(made.get_train_dataloader(), range(STEPS), strict=False)]
    optimizer = build_optimizer(model, made.recipe, args)
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
    """Time all three, print the ratios and keep them."""
    recipe = load_recipe("addition-extrapolation", "cpu", [*SETTINGS, f"trainer.max_steps={STEPS}"])
    unsaved = replace(recipe, trainer={**recipe.trainer, "save_strategy": "no"})
    ways: dict[str, Callable[[Path], tuple[float, float]]] = {
        "run": lambda folder: by_trainer(_build_trainer(recipe, NAME, 0, folder, continued=False)),
        "Trainer": lambda folder: by_trainer(trainer(unsaved, folder)),
        "bare loop": lambda folder: by_hand(trainer(unsaved, folder)),
    }
    names, found = [*ways], {name: list[float]() for name in ways}
    for turn in range(ROUNDS + 1):  # the first warms up
        losses = {}
        for name in names[turn % 3 :] + names[: turn % 3]:  # each of them is first, second and last as often
            with tempfile.TemporaryDirectory() as folder:
                seconds, losses[name] = ways[name](Path(folder))
            if turn:
                found[name].append(1000 * seconds / STEPS)
        same = losses["bare loop"]
        assert all(abs(loss - same) < 0.3 * same for loss in losses.values()), f"they do not train alike: {losses}"
        if turn:
            print(f"round {turn}: " + ", ".join(f"{name} {of[-1]:.1f} ms a step" for name, of in found.items()))
    ratios = {
        name: statistics.median(a / b for a, b in zip(found[name], found["bare loop"], strict=True))
        for name in ("run", "Trainer")
    }
    print(
        f"a bare loop's time is taken {ratios['run']:.3f} times by a run, {ratios['Trainer']:.3f} times by the Trainer"
    )
    result = {
        "command": "python -m benchmarks.trainer",
        "hardware": machine("cpu"),
        "versions": versions("torch", "transformers", "accelerate", "datasets"),
        "steps": STEPS,
        "rows_per_step": recipe.trainer["per_device_train_batch_size"],
        "milliseconds_per_step": {name: round(statistics.median(of), 2) for name, of in found.items()},
        "ratio": round(ratios["Trainer"], 3),
        "ratio_of_run": round(ratios["run"], 3),
    }
    write_text(RESULT, json.dumps(result, indent=2) + "\n")
    print(f"written to benchmarks/{RESULT.name}")


if __name__ == "__main__":
    main()
