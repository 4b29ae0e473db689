"""The road of language models on texts, on a tiny recipe: train, evaluate, publish (dry), interrupt, refuse."""

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_tasks.cards import render_model_card, render_recipe_card
from hf_tasks.cli import main
from hf_tasks.corpora.code_exercises import CodeExercises, ExerciseWriter, beginning, function_alone, program
from hf_tasks.corpora.decontaminate import decontaminate
from hf_tasks.corpora.job import generate as write_corpus
from hf_tasks.errors import UserError
from hf_tasks.publish import publish
from hf_tasks.recipe import TEXT, load_recipe, read_recipe
from hf_tasks.run import run_recipe, train_recipe
from hf_tasks.text.evaluate import exercise_prompts, story_cells, training_programs
from hf_tasks.text.generate import Completion, sample
from hf_tasks.text.recipe import Completions, Source, TextRecipe
from hf_tasks.text.sources import FOLDER, place_of, recipe_tokenizer, source_rows, source_texts

TINY = """
title: Tiny
summary: For the tests.
sources:
  stories: {corpus: tinystories_instruct, rows: 240}
  exercises: {corpus: code_exercises, rows: 200}
vocab_size: 600
context: 128
model:
  stock: phi
  data: [exercises]
  hidden_size: 32
  intermediate_size: 64
  num_hidden_layers: 1
  num_attention_heads: 2
  max_position_embeddings: 1024
models:
  untrained: {data: [stories], trainer: {max_steps: 0}}
  before: {data: [stories]}
  after: {start_from: before, trainer: {max_steps: 2}}
  neo:
    {stock: gpt_neo, num_layers: 1, attention_types: [[[local], 1]], hidden_size: 32, num_heads: 2, window_size: 16,
     max_position_embeddings: 1024}
  ours: {stock: null, data: [stories, exercises], hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2}
  later: {start_from: ours, trainer: {max_steps: 0}}
trainer:
  {max_steps: 4, per_device_train_batch_size: 4, save_steps: 2, learning_rate: 1e-3, use_cpu: true, disable_tqdm: true}
evaluation:
  loss: [stories, exercises]
  loss_rows: 4
  stories: {source: stories, prompts: 2, samples: 2, max_new_tokens: 8}
  exercises: {source: exercises, prompts: 3, samples: 1, temperature: 0, max_new_tokens: 8}
presets: {cpu: {}}
"""


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def recipe(recipe_file: Path) -> TextRecipe:
    return load_recipe(str(recipe_file))


@pytest.fixture(scope="module")
def output(recipe: TextRecipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "out"
    run_recipe(recipe, [0], folder)
    return folder


def test_the_road_leaves_models_results_picture_and_cards(recipe: TextRecipe, output: Path) -> None:
    results = json.loads((output / "results.json").read_text())
    assert [run["name"] for run in results["runs"]] == list(recipe.models)
    for run in results["runs"]:
        folder = output / f"{run['name']}-seed0"
        metrics = {(one["metric"], one["slice"]["text"]) for one in run["cells"]}
        assert {("loss", "stories"), ("loss", "exercises"), ("pass@1", "exercises")} <= metrics
        assert all(one["ci95"][0] <= one["value"] <= one["ci95"][1] for one in run["cells"])
        assert {one["source"] for one in run["completions"]} == {"stories", "exercises"}
        written = [json.loads(line) for line in (folder / "completions.jsonl").read_text().splitlines()]
        assert len(written) == 2 * 2 + 3
        assert sum(one["parameter_noun"] in one["beginning"] for one in written[:4]) == 4  # `judge` looks for them
        assert run["name"] in (folder / "README.md").read_text()
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        assert tokenizer.decode(tokenizer("Tom has 12 kites.")["input_ids"]) == "Tom has 12 kites."
    assert (output / "results.png").stat().st_size > 1000
    truth = {one["metric"]: one["value"] for one in results["references"]}
    assert truth["words_present"] == truth["ended"] == 1  # the grammar keeps to what it is asked
    steps = {run["name"]: run["train_steps"] for run in results["runs"]}
    assert steps == {"untrained": 0, "before": 4, "after": 2, "neo": 4, "ours": 4, "later": 0}


def test_who_starts_from_another_has_moved_on_from_its_weights(output: Path) -> None:
    before, after, untrained = (
        load_file(output / f"{name}-seed0" / "model.safetensors") for name in ("before", "after", "untrained")
    )
    change = [float((after[name] - before[name]).abs().max()) for name in before]
    assert 0 < max(change) <= 2.1e-3  # two steps of Adam at 1e-3, none larger than the learning rate
    assert max(float((before[name] - untrained[name]).abs().max()) for name in before) > 0


def test_the_fields_of_who_starts_from_another_are_the_other_s(recipe_file: Path, recipe: TextRecipe) -> None:
    assert recipe.model_fields("later") == recipe.model_fields("ours") and recipe.is_ours("later")
    # Not every architecture calls its layers num_hidden_layers.
    settings = ["models.after=null", "models.late.start_from=neo"]
    late = load_recipe(str(recipe_file), settings=settings)
    assert late.model_fields("late") == late.model_fields("neo") and not late.is_ours("late")


def test_loss_is_that_of_texts_read_one_by_one(recipe: TextRecipe, output: Path) -> None:
    results = json.loads((output / "results.json").read_text())
    for name in ("neo", "ours"):
        (said,) = (
            one["value"]
            for run in results["runs"] if run["name"] == name
            for one in run["cells"] if one["metric"] == "loss" and one["slice"]["text"] == "exercises"
        )  # fmt: skip
        tokenizer = AutoTokenizer.from_pretrained(output / f"{name}-seed0", trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(output / f"{name}-seed0", trust_remote_code=False).eval()
        total, count = 0.0, 0
        for text in source_texts(recipe, ["exercises"], "test", output)[:4]:
            ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id][: recipe.context]
            with torch.no_grad():
                loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss
            total, count = total + float(loss) * (len(ids) - 1), count + len(ids) - 1
        assert said == pytest.approx(total / count, rel=1e-5)


def test_the_folder_of_a_model_can_be_published_and_its_recipe_read_back(recipe: TextRecipe, output: Path) -> None:
    done = publish(output / "ours-seed0", "me/teller", dry_run=True)
    card = done.upload.card()
    assert "me/teller" in card and "trust_remote_code=True" in card and "`stories`: 240 rows" in card
    assert "trust_remote_code=False" in render_model_card(recipe, None, "after", 0) and recipe.head == TEXT
    assert read_recipe(output / "recipe.yaml").to_dict() == recipe.to_dict()
    assert "| words_present | stories | all |" in render_recipe_card(
        recipe, json.loads((output / "results.json").read_text())
    )


def test_killed_and_run_again_it_ends_the_same(recipe_file: Path, output: Path, tmp_path: Path) -> None:
    """Killed behind the first checkpoint of the model that starts from another."""
    folder = tmp_path / "out"
    command = [sys.executable, "-m", "hf_tasks.cli", "train", str(recipe_file), "--output", str(folder)]
    code = "import sys; from hf_tasks.cli import main; main(sys.argv[1:])"
    child = subprocess.Popen([sys.executable, "-c", code, *command[3:]], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (folder / ".training" / "before-seed0" / "checkpoint-2").exists():
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (folder / "after-seed0").exists()
    train_recipe(load_recipe(str(recipe_file)), [0], folder)
    for name in ("before", "after", "neo", "ours"):
        path = f"{name}-seed0/model.safetensors"
        assert (folder / path).read_bytes() == (output / path).read_bytes(), name
    written = Path(FOLDER) / "stories" / "rows.parquet"
    assert (folder / written).read_bytes() == (output / written).read_bytes()


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        (
            "sources.stories.corpus=tinystory",
            "unknown corpus of tiny.sources.stories that a grammar writes 'tinystory'",
        ),
        ("sources.stories.corpus=textbook", "unknown corpus .* 'textbook'.* name the folder as dataset"),
        ("sources.stories.rows=0", "rows must say how many rows"),
        ("sources.stories.row=5", "unknown key of tiny.sources.stories 'row'"),
        ("sources.stories.dataset=x", "must name one of corpus and dataset"),
        ("sources.stories.quality=0.5", "quality is for python_files"),
        ("sources.stories.words=0", "words 0 is out of range; give 1 to"),
        ("sources.stories={corpus: python_files, rows: null, words: 3}", "words is for stories that a grammar writes"),
        ("models.before.data=[story]", "unknown source in tiny.models.before.data 'story'"),
        ("models.before.data=[]", "data names no source"),
        ("models.after.start_from=ours", "unknown earlier model in tiny.models.after.start_from 'ours'"),
        ("models.after.hidden_size=64", "starts from 'before', which has a shape: leave hidden_size out"),
        ("models.before.hidden=3", "^tiny.models.before: phi has no field 'hidden'"),
        ("models.before.stock=fi", "unknown architecture in tiny.models.before.stock 'fi'"),
        ("models.ours.hiden_size=3", "unknown field of PositionalConfig 'hiden_size'"),
        ("models.before.trainer={max_step: 3}", "unknown key of tiny.models.before.trainer .* 'max_step'"),
        ("model.num_attention_heads=5", "tiny.models.untrained: "),
        ("context=2048", "max_position_embeddings 1024 is below context 2048"),
        ("evaluation.loss=[story]", "unknown source in tiny.evaluation.loss 'story'"),
        ("evaluation.stories.source=exercises", "'exercises' is code_exercises; it must be tinystories_instruct"),
        ("evaluation.exercises.samples=4", "at 0 all samples are the same"),
        ("evaluation.stories.prompts=1", "prompts 1 gives no interval"),
        ("evaluation.batch_size=0", "batch_size must be positive, not 0"),
    ],
)
def test_mistakes_are_one_clear_line(recipe_file: Path, setting: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as raised:
        load_recipe(str(recipe_file), settings=[setting])
    assert "\n" not in str(raised.value)


def test_a_mistake_on_the_command_line_leaves_no_folder(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        main(["run", str(recipe_file), "--output", str(tmp_path / "out"), "--set", "sources.stories.rows=-1"])
    assert left.value.code == 2 and capsys.readouterr().err.startswith("hf-tasks: tiny.sources.stories.rows must")
    assert not (tmp_path / "out").exists()


def test_a_dataset_is_read_like_a_corpus(recipe_file: Path, output: Path, tmp_path: Path) -> None:
    """A folder of `hf-tasks corpus` in place of the corpus: the same texts, rows and tokenizer."""
    write_corpus(CodeExercises(), ExerciseWriter(), 200, tmp_path / "exercises")
    usual = load_recipe(str(recipe_file))
    content = usual.to_dict() | {"presets": {"cpu": {}}}
    content["sources"]["exercises"] = {"dataset": str(tmp_path / "exercises")}
    del content["name"], content["preset"]
    (tmp_path / "other.yaml").write_text(json.dumps(content))
    other = load_recipe(str(tmp_path / "other.yaml"))
    assert source_rows(other, "exercises", "test", tmp_path) == source_rows(usual, "exercises", "test", output)
    assert source_texts(other, ["exercises"], "train", tmp_path) == source_texts(usual, ["exercises"], "train", output)
    assert recipe_tokenizer(other, output).get_vocab() == recipe_tokenizer(usual, output).get_vocab()
    with pytest.raises(UserError, match="no-such"):
        content["sources"]["exercises"] = {"dataset": str(tmp_path / "no-such")}
        (tmp_path / "other.yaml").write_text(json.dumps(content))
        source_texts(load_recipe(str(tmp_path / "other.yaml")), ["exercises"], "train", tmp_path)


def test_sampling_is_seeded_batched_and_leaves_the_generator_alone(output: Path) -> None:
    folder = output / "ours-seed0"
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    prompts = ["Words: sit, kite, sunny\nStory:", "Tom", ""]
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first = sample(model, tokenizer, prompts, samples=2, max_new_tokens=6, batch_size=4, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert [len(several) for several in first] == [2, 2, 2] and first[0][0] != first[0][1]
    assert first == sample(model, tokenizer, prompts, samples=2, max_new_tokens=6, batch_size=4, seed=1)
    assert first != sample(model, tokenizer, prompts, samples=2, max_new_tokens=6, batch_size=4, seed=2)
    # Greedy completions are the same alone and beside longer ones.
    together = sample(model, tokenizer, prompts, temperature=0, max_new_tokens=6)
    alone = [sample(model, tokenizer, [prompt], temperature=0, max_new_tokens=6)[0] for prompt in prompts]
    assert together == alone


def test_what_is_counted_of_stories() -> None:
    row = {"parameter_verb": "sit", "parameter_noun": "kite", "parameter_adjective": "sunny"}
    stories = [[Completion("She sat on the sunny hill. She sat on the sunny hill.", True), Completion("", False)]] * 2
    cells = {one["metric"]: one for one in story_cells("x", [row, row], stories)}
    assert cells["words_present"]["value"] == pytest.approx((2 / 3 + 0) / 2)
    assert cells["all_words_present"]["value"] == 0
    assert cells["ended"]["value"] == 0.5 and cells["words"]["value"] == 6
    # 12 words, 9 runs of four, of which 3 stood before ("she sat on the", "sat on the sunny", "on the sunny hill").
    assert cells["repeated_4grams"]["value"] == pytest.approx(3 / 9)
    assert cells["repeated_4grams"]["count"] == cells["grammar_errors"]["count"] == 2  # the empty ones are left out
    assert np.isclose(cells["words"]["ci95"], [6, 6]).all()


def test_programs_end_where_the_function_does() -> None:
    prompt = 'def f(x):\n    """Double."""\n'
    for start in ("", "\n"):  # a completion may bring the line break that `beginning` takes away
        written = function_alone(start + "    y = 2 * x\n\n    return y\n\ndef g():\n    pass")
        assert program(prompt, written) == prompt + "    y = 2 * x\n\n    return y\n\n"
    assert program(prompt, function_alone("    return 2 * x")) == prompt + "    return 2 * x\n"


def test_whoever_reads_an_exercise_in_a_section_has_a_close_match(
    recipe: TextRecipe, output: Path, tmp_path: Path
) -> None:
    """A section of a held-out exercise is a close match, as an exercise would be."""
    held_out = exercise_prompts(recipe, Completions(source="exercises", prompts=3), output)
    sections = [{"split": "train", "text": "Prose.", "code": [row["prompt"] + row["solution"]]} for row in held_out]
    path = tmp_path / "sections.parquet"
    pq.write_table(pa.Table.from_pylist(sections), path)
    with_books = replace(recipe, sources={**recipe.sources, "books": Source(dataset=str(path))})
    assert not training_programs(*place_of(recipe, "stories", output))
    read = training_programs(*place_of(recipe, "exercises", output))
    assert read == source_rows(recipe, "exercises", "train", output)
    books = place_of(with_books, "books", output)
    close = {*decontaminate(training_programs(*books), held_out)[1]["with_match"]}
    assert len(close) == 3
    for row in sections:
        del row["split"]
    pq.write_table(pa.Table.from_pylist(sections), path)  # without the column all of it is for training
    assert len(training_programs(*books)) == 2 * len(sections)
    with pytest.raises(UserError, match="unknown split 'test'; known: train"):
        source_rows(with_books, "books", "test", output)


def test_the_beginning_of_an_exercise_is_cut_where_tokens_are(recipe: TextRecipe, output: Path) -> None:
    """The tokens of a beginning are the first of the whole text, so that a model goes on as it was trained."""
    tokenizer = recipe_tokenizer(recipe, output)
    for row in source_rows(recipe, "exercises", "test", output)[:20]:
        ids = tokenizer(beginning(row["prompt"]))["input_ids"]
        assert tokenizer(row["text"])["input_ids"][: len(ids)] == ids
    for row in source_rows(recipe, "stories", "test", output)[:20]:
        ids = tokenizer(row["instruction"])["input_ids"]
        assert tokenizer(row["text"])["input_ids"][: len(ids)] == ids
