"""Hints: told while a model is trained, gone when it is finished, and one step of them every so many layers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hf_tasks.errors import UserError
from hf_tasks.hints import FILE, HintCollator, add_hint_heads, drop_hint_heads, hint_loss, save_hint_heads
from hf_tasks.models import PositionalForCausalLM
from hf_tasks.recipe import build_config, load_recipe, run_name, training_arguments
from hf_tasks.run import run_recipe
from hf_tasks.tasks import get_task
from hf_tasks.train import AnswerCollator, training_data

RECIPE = """
title: Products
summary: For the tests.
task: multiplication
parameters: {digits: [1, 2], lengths: balanced, pad: true, reverse: all}
data: {size: 96}
model: {hidden_size: 16, num_hidden_layers: 9, num_loops: 3, share_layers: true, num_attention_heads: 2}
models:
  hints: {layers_per_hint: 1, positions: [{ids: sequential, encoding: clipped}]}
trainer: {max_steps: 4, per_device_train_batch_size: 8, use_cpu: true, save_steps: 2}
evaluation: {lengths: [2, 4], layers: {4: 15}, size: 8}
presets: {cpu: {}}
"""


@pytest.fixture
def recipe_file(tmp_path: Path) -> str:
    path = tmp_path / "products.yaml"
    path.write_text(RECIPE)
    return str(path)


def test_a_finished_model_has_no_heads_for_hints(recipe_file: str, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_file)
    results = run_recipe(recipe, [0], tmp_path / "out")
    folder = tmp_path / "out" / run_name("hints", 0)
    weights = load_file(folder / "model.safetensors")
    plain = PositionalForCausalLM(build_config(recipe, "hints"))
    assert {*weights} == {*plain.state_dict()} - {"lm_head.weight"}  # tied
    facts = json.loads((folder / "training.json").read_text())
    assert facts["parameters"] == facts["trainable_parameters"] == sum(p.numel() for p in plain.parameters())
    assert [one["slice"]["digits_a"] for one in results["runs"][0]["cells"]] == [2, 4]
    assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == 9  # evaluation at 4 leaves no trace


def test_loss_is_that_of_the_answer_and_of_every_hint(recipe_file: str) -> None:
    recipe = load_recipe(recipe_file)
    task, config = recipe.get_task("hints"), build_config(recipe, "hints")
    rows = [*training_data(task, 5, 0, None, True)]
    collator = HintCollator(AnswerCollator(config.pad_token_id), task, 9)  # type: ignore[arg-type]
    batch = collator(rows)
    torch.manual_seed(0)
    model: Any = PositionalForCausalLM(config).eval()
    add_hint_heads(model, task)
    labels = batch.pop("labels")
    assert labels.shape == (*batch["input_ids"].shape, 1 + 8 * 9)
    outputs = model(**batch)
    args = training_arguments(recipe, "unused", 0)
    found = hint_loss(model, 1, args)(outputs, labels)

    expected = model(input_ids=batch["input_ids"], labels=labels[..., 0]).loss
    hints = task.hints([row["prompt"] for row in rows], 9)
    for name, values in hints.items():
        losses = []
        for row, step, place in zip(*(values != -100).nonzero(), strict=True):
            state = outputs.hidden_states[step + 1][row, place + 1]  # <bos> stands before the text
            logits = model.hint_heads[name](state if step == 8 else model.base_model.norm(state))
            losses.append(-logits.log_softmax(-1)[values[row, step, place]])
        expected = expected + torch.stack(losses).mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    drop_hint_heads(model)
    drop_hint_heads(model)
    assert not hasattr(model, "hint_heads")


def test_a_model_goes_on_with_the_heads_of_the_one_before(recipe_file: str, tmp_path: Path) -> None:
    later = "{start_from: hints, layers_per_hint: 1, positions: [{ids: sequential, encoding: clipped}], "
    settings = [f"models.later={later}trainer: {{max_steps: 0}}}}"]
    run_recipe(load_recipe(recipe_file, settings=settings), [0], tmp_path / "out")
    before, after = (load_file(tmp_path / "out" / run_name(name, 0) / FILE) for name in ("hints", "later"))
    assert {*before} == {*after} and all(torch.equal(before[name], after[name]) for name in before)

    model: Any = PositionalForCausalLM(build_config(load_recipe(recipe_file), "hints"))
    parity = get_task("parity")
    add_hint_heads(model, parity, tmp_path / "out" / run_name("hints", 0))  # heads of another task: new ones
    assert {*model.hint_heads} == {*parity.hint_classes}
    drop_hint_heads(model)
    save_hint_heads(model, tmp_path)
    assert not (tmp_path / FILE).exists()


def test_sharpness_of_hints_does_not_depend_on_accumulation(recipe_file: str, tmp_path: Path) -> None:
    measured = []
    for accumulated in (1, 4):
        settings = [
            "trainer.per_device_train_batch_size=2",
            f"trainer.gradient_accumulation_steps={accumulated}",
            "trainer.max_steps=1",
            "trainer.learning_rate=0.0",
            "evaluation={lengths: [2], size: 4, sharpness: 1, every_size: 8}",
        ]
        recipe = load_recipe(recipe_file, settings=settings)
        (run,) = run_recipe(recipe, [0], tmp_path / f"out{accumulated}")["runs"]
        measured.append(run["sharpness"][0]["sharpness"])
    assert measured[0] == pytest.approx(measured[1], rel=0.02)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            ["model.num_hidden_layers=6", "model.num_loops=2"],
            r"takes 9 steps, so num_hidden_layers .* at least 9, not 6",
        ),
        (["models.hints.layers_per_hint=4"], r"layers_per_hint 4: .* a multiple of it, at least 36, not 9"),
        (["models.hints.layers_per_hint=0"], r"layers_per_hint 0: "),
        (["parameters.reverse=answer"], r"hints of multiplication need"),
        (
            ["task=addition"],
            r"addition has no hints for head causal_lm; causal_lm has them on: multiplication, parity",
        ),
    ],
)
def test_hints_that_do_not_fit_are_refused(recipe_file: str, settings: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says) as caught:
        load_recipe(recipe_file, settings=settings)
    assert "\n" not in str(caught.value)


def test_only_tasks_that_give_hints_name_them() -> None:
    assert get_task("multiplication").hint_classes and not get_task("copy").hint_classes
