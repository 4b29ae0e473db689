"""Trained language model -> what its held-out texts, stories and programs are worth, as cells of `results.json`.

- Nothing here is a judge: every metric is named for what it counts. `hf-tasks judge` asks one.
- Stories are those that held-out instructions with words ask for: only then can a model know the words. The true
  stories are measured in the same way (`references`), for their grammar is not faultless by this count either.
- Programs run in the sandbox. Exercises are held out by what was asked for, and templates repeat: so pass@1 is given
  also for those with and without a close match in what any model of the recipe trains on, exercises and worked
  examples (phi-1, section 5).
- Completions of one beginning are alike, so intervals are from a bootstrap of beginnings; of programs, one for each
  problem, they are Wilson's.
"""

import json
from collections.abc import Hashable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_tasks.corpora.code_exercises import beginning, function_alone, program
from hf_tasks.corpora.decontaminate import decontaminate, programs_of
from hf_tasks.corpora.diversity import NGRAM, repeated_ngrams, words
from hf_tasks.corpora.job import PARAMETER
from hf_tasks.corpora.judge import mean_by_cluster
from hf_tasks.corpora.offline_grades import words_present
from hf_tasks.corpora.readability import grammar_errors
from hf_tasks.corpora.words import PARTS_OF_SPEECH
from hf_tasks.evaluate import COMPLETIONS
from hf_tasks.files import write_text
from hf_tasks.metrics.functions import cell
from hf_tasks.metrics.pass_at_k import pass_at_k, score
from hf_tasks.text.data import encode_documents
from hf_tasks.text.generate import Completion, sample
from hf_tasks.text.recipe import PYTHON_FILES, Completions, Source, TextRecipe
from hf_tasks.text.sources import Place, place_of, source_rows, source_table, source_texts, training_sources

CLOSE, NOT_CLOSE = "close match in training", "no close match"
Cell = dict[str, Any]
Row = dict[str, Any]


def measure(recipe: TextRecipe, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> list[Cell]:
    """Everything that the recipe measures of one model; the completions stay in `completions.jsonl` of its folder.

    Args:
        model, tokenizer: a finished model of the recipe, on the device to measure on.
        folder: its own, in the run's folder.

    Returns:
        cells, whose slices name the source as `text` and, of programs, the `case`.
    """
    wanted, output = recipe.evaluation, folder.parent
    cells = [one for name in wanted.loss for one in _loss(recipe, model, tokenizer, name, output)]
    written: list[Row] = []
    if wanted.stories is not None:
        rows = story_prompts(recipe, wanted.stories, output)
        stories = _complete(recipe, model, tokenizer, [row["instruction"] for row in rows], wanted.stories, folder.name)
        cells += story_cells(wanted.stories.source, rows, stories)
        asked = [{key: row[key] for key in row if key.startswith(PARAMETER)} for row in rows]  # for `hf-tasks judge`
        written += _records(wanted.stories.source, [row["instruction"] for row in rows], stories, asked)
    if wanted.exercises is not None:
        rows = exercise_prompts(recipe, wanted.exercises, output)
        prompts = [beginning(row["prompt"]) for row in rows]
        found = _complete(recipe, model, tokenizer, prompts, wanted.exercises, folder.name)
        cells += _exercise_cells(recipe, wanted.exercises, rows, found, output)
        written += _records(wanted.exercises.source, prompts, found, [{}] * len(prompts))
    write_text(folder / COMPLETIONS, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in written))
    return cells


def references(recipe: TextRecipe, output: Path) -> list[Cell]:
    """The cells of the held-out stories themselves, as if a model had written them."""
    wanted = recipe.evaluation.stories
    if wanted is None:
        return []
    rows = story_prompts(recipe, wanted, output)
    return story_cells(wanted.source, rows, [[Completion(row["story"], True)] for row in rows])


# Loss.


@torch.no_grad()
def _loss(
    recipe: TextRecipe, model: Any, tokenizer: PreTrainedTokenizerBase, name: str, output: Path
) -> list[Cell]:  # fmt: skip
    """Mean loss of a token of held-out texts in nats, the first token of each left out as in training."""
    texts = source_texts(recipe, [name], "test", output)[: recipe.evaluation.loss_rows]
    documents = [ids[: recipe.context] for ids in encode_documents(texts, tokenizer)["input_ids"]]
    model.eval()
    losses, owners = [], []
    for start in range(0, len(documents), recipe.evaluation.batch_size):
        rows = documents[start : start + recipe.evaluation.batch_size]
        inputs = tokenizer.pad({"input_ids": rows}, padding_side="right", return_tensors="pt").to(model.device)
        logits = model(**inputs).logits[:, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), inputs["input_ids"][:, 1:], reduction="none")
        real = inputs["attention_mask"][:, 1:].bool()
        losses.append(loss[real].cpu().numpy())
        owners.append(
            (torch.arange(len(rows), device=real.device)[:, None] + start).expand_as(real)[real].cpu().numpy()
        )
    values, clusters = np.concatenate(losses), np.concatenate(owners)
    return _mean("loss", {"text": name}, values, clusters.tolist())


# Stories.


def story_prompts(recipe: TextRecipe, wanted: Completions, output: Path) -> list[Row]:
    """The first held-out rows whose instruction names the words."""
    rows = source_rows(recipe, wanted.source, "test", output)
    return [row for row in rows if "Words: " in row["instruction"]][: wanted.prompts]


def story_cells(source: str, rows: Sequence[Row], stories: Sequence[Sequence[Completion]]) -> list[Cell]:
    """What can be counted of stories, each metric by itself.

    Args:
        source: for the slice. rows: with the words that were asked for. stories: of each row.

    Returns:
        the cells of `words_present`, `all_words_present` (shares), `grammar_errors` (harper's, a hundred words; empty
        stories left out), `repeated_4grams` (share), `ended` (share that came to an end by itself), `words` (length).
    """
    measured: dict[str, list[float]] = {}
    owners: list[int] = []
    for place, (row, written) in enumerate(zip(rows, stories, strict=True)):
        asked = [(part, row[f"parameter_{part}"]) for part in PARTS_OF_SPEECH]
        for story in written:
            text, owners = story.text.strip(), [*owners, place]
            present = words_present(text, asked)
            found = {
                "words_present": present,
                "all_words_present": float(present == 1),
                "grammar_errors": grammar_errors(text) if words(text) else float("nan"),
                f"repeated_{NGRAM}grams": repeated_ngrams(text) if words(text) else float("nan"),
                "ended": float(story.ended),
                "words": float(len(words(text))),
            }
            for metric, value in found.items():
                measured.setdefault(metric, []).append(value)
    return [
        one for metric, values in measured.items() for one in _mean(metric, {"text": source}, np.array(values), owners)
    ]


# Exercises.


def exercise_prompts(recipe: TextRecipe, wanted: Completions, output: Path) -> list[Row]:
    """The first held-out exercises."""
    return source_rows(recipe, wanted.source, "test", output)[: wanted.prompts]


def _exercise_cells(
    recipe: TextRecipe, wanted: Completions, rows: list[Row], found: list[list[Completion]], output: Path
) -> list[Cell]:
    candidates = [
        [program(row["prompt"], function_alone(one.text)) for one in several]
        for row, several in zip(rows, found, strict=True)
    ]
    passed = score(candidates, [row["tests"] for row in rows])["passed"]
    read = tuple(place_of(recipe, name, output) for name in training_sources(recipe))
    close = _close_matches(read, place_of(recipe, wanted.source, output), len(rows))
    cases = {None: [*range(len(rows))]}
    cases |= {CLOSE: [n for n in cases[None] if n in close], NOT_CLOSE: [n for n in cases[None] if n not in close]}
    cells = []
    for case, places in cases.items():
        place = {"text": wanted.source, **({"case": case} if case else {})}
        for k in dict.fromkeys((1, wanted.samples)) if places else ():
            if wanted.samples == 1:
                cells.append(cell(sum(passed[n] for n in places), len(places), place, "pass@1"))
            else:
                values = np.array([pass_at_k(wanted.samples, passed[n], k) for n in places])
                cells += _mean(f"pass@{k}", place, values, places)
    return cells


@lru_cache(maxsize=1)  # the models of a recipe share it
def _close_matches(read: tuple[Place, ...], asked: Place, prompts: int) -> frozenset[int]:
    """Which of the first held-out exercises have a close match in what is read in training."""
    training = [program for place in read for program in training_programs(*place)]
    problems = source_table(*asked, "test").select(range(prompts)).to_list()
    report = decontaminate(training, [{**row, "task_id": str(n)} for n, row in enumerate(problems)])[1]
    return frozenset(int(n) for n in report["with_match"])


def training_programs(source: Source, folder: Path) -> list[Mapping[str, Any]]:
    """What `decontaminate` compares of a source's training texts: exercises, or sections and their blocks, if any."""
    if source.corpus == PYTHON_FILES:
        return []  # no table of `hf-tasks corpus`
    table = source_table(source, folder, "train")
    if not any(wanted <= {*table.column_names} for wanted in ({"prompt", "solution"}, {"text", "code"})):
        return []
    return [program for row in table.to_list() for program in programs_of(row)]


# Both.


def _complete(
    recipe: TextRecipe, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str],
    wanted: Completions, name: str,
) -> list[list[Completion]]:  # fmt: skip
    with Progress(transient=True) as progress:
        bar = progress.add_task(f"completing {wanted.source} by {name}", total=len(prompts) * wanted.samples)
        return sample(
            model, tokenizer, prompts, wanted.samples, wanted.temperature, wanted.max_new_tokens,
            recipe.evaluation.batch_size, on_batch=lambda count: progress.advance(bar, count),
        )  # fmt: skip


def _records(
    source: str, prompts: list[str], found: list[list[Completion]], asked: Sequence[Mapping[str, Any]]
) -> list[Row]:
    return [
        {"source": source, "beginning": prompt, "completion": one.text, "ended": one.ended, **what}
        for prompt, several, what in zip(prompts, found, asked, strict=True)
        for one in several
    ]


def _mean(metric: str, place: dict[str, Any], values: np.ndarray, clusters: Sequence[Hashable]) -> list[Cell]:
    """A mean as a cell, its count that of the values there are; no cell where they are of fewer than two clusters."""
    found = mean_by_cluster(values, clusters)
    count = int(np.count_nonzero(~np.isnan(values)))
    return [{"slice": place, "metric": metric, **found, "count": count}] if found["ci95"] else []
