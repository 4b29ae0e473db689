"""From a mix to a published corpus: whatever interrupts it, the same bytes; and what its card says.

Run as a program (`python test_corpora_build.py FOLDER`), this file is the process that is killed again and again.
"""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from faulty_server import serving

from hf_tasks.corpora import build as build_module
from hf_tasks.corpora import get_corpus, quality
from hf_tasks.corpora.build import REPORT, WORK, build, source_hash
from hf_tasks.corpora.card import both_halves
from hf_tasks.corpora.decontaminate import humaneval
from hf_tasks.corpora.job import PARAMETER
from hf_tasks.corpora.mix import Decontamination, Mix, Part, Quality, load_mix, mix_names
from hf_tasks.corpora.quality import Encoder as EncoderOfTheWheel
from hf_tasks.corpora.readability import readability
from hf_tasks.dataset import PROVENANCE, finished_splits
from hf_tasks.errors import UserError
from hf_tasks.publish import publish

ROWS, PIECE = 24, 10
SMALL: dict[str, Any] = {
    "title": "Stories and exercises",
    "summary": "A mix for the tests.",
    "parts": {
        "code_exercises": {"rows": ROWS, "writer": "grammar", "clean": []},
        "stories": {"corpus": "tinystories", "rows": ROWS, "writer": "grammar"},
        "tinystories_instruct": {"rows": 5, "writer": "grammar", "clean": []},
    },
}


def write_mix(path: Path, content: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def plain(name: str = "tinystories", rows: int = 5, **fields: Any) -> Mix:
    """One part, not cleaned, as that takes a process of its own."""
    part = Part(rows=rows, **{"writer": "grammar", "clean": [], **fields})
    return Mix(name="plain", title="Plain", summary="One part.", parts={name: part})


def files(folder: Path) -> dict[str, bytes]:
    """Everything that is not hidden, but for the times."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    names = {str(path.relative_to(folder)): path for path in paths}
    return {name: path.read_bytes() for name, path in names.items() if name[0] != "." and name != REPORT}


# Kills.


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def at_call(number: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, killed when it is called for that time, from 1 on."""
    calls = Counter[str]()

    def wrapped(*arguments: Any, **options: Any) -> Any:
        calls["of it"] += 1
        return die() if calls["of it"] == number else function(*arguments, **options)

    return wrapped


def child(folder: Path) -> None:
    """Build the mix in a row of processes, each killed at a later point than the one before, and once in peace."""
    import hf_tasks.analysis.plots  # noqa: F401  (imported once, and not in every process)
    from hf_tasks.corpora import steps
    from hf_tasks.corpora.cache import ReplyCache

    readability("A dog ran.")
    build_module.PIECE = PIECE
    mix = load_mix(folder.with_suffix(".yaml"))
    points = {
        "generate": (ReplyCache, "append", 2),
        "execute": (build_module, "check", 2),
        "decontaminate": (build_module, "decontaminate", 1),
        "write": (build_module, "describe", 2),
        "clean": (steps, "collect", 1),
        "across parts": (steps, "collect", 2),
        "measure": (build_module, "readability", PIECE + 5),
        "card": (build_module, "write_card", 1),
    }
    for point, (owner, name, number) in points.items():
        process = os.fork()
        if process == 0:
            setattr(owner, name, at_call(number, getattr(owner, name)))
            build(mix, folder)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL, point
    build(mix, folder)


@pytest.fixture(scope="module")
def mix(tmp_path_factory: pytest.TempPathFactory) -> Mix:
    return load_mix(write_mix(tmp_path_factory.mktemp("mix") / "small.yaml", SMALL))


@pytest.fixture(scope="module")
def folder(mix: Mix, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "small"
    build(mix, path)
    return path


@pytest.fixture(autouse=True)
def no_pictures(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than all the rest; the picture of `folder` is a true one."""
    monkeypatch.setattr("hf_tasks.analysis.plots.draw_statistics", lambda splits: b"a picture")


def test_killed_anywhere_it_ends_with_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    write_mix(tmp_path / "small.yaml", SMALL)
    subprocess.run([sys.executable, __file__, str(tmp_path / "small")], check=True)
    assert files(tmp_path / "small") == files(folder)
    for name in SMALL["parts"]:  # no row was asked for twice
        asked = [(one / WORK / name / "replies.jsonl").read_bytes() for one in (folder, tmp_path / "small")]
        assert Counter(asked[0].splitlines()) == Counter(asked[1].splitlines())
    assert not [path for path in (tmp_path / "small").rglob("*.part*") if path.name.endswith((".part", ".partial"))]


def test_the_same_mix_again_changes_nothing(mix: Mix, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet") if WORK not in path.parts}
    for name in ("check", "readability", "decontaminate", "describe"):
        monkeypatch.setattr(build_module, name, lambda *_, name=name: pytest.fail(f"{name} was done again"))
    content = files(folder)
    build(mix, folder)
    assert files(folder) == content
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_other_sources_make_the_steps_again_and_ask_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(plain(), tmp_path / "out")
    replies = (tmp_path / "out" / WORK / "tinystories" / "replies.jsonl").read_bytes()
    monkeypatch.setattr(build_module, "source_hash", lambda: "0123456789abcdef")
    monkeypatch.setattr(build_module, "readability", lambda text: {"spache": float(len(text))})
    build(plain(), tmp_path / "out")
    split = pq.read_table(tmp_path / "out" / "tinystories" / "train" / "00000-of-00001.parquet")
    assert split["readability_spache"].to_pylist() == [float(len(text)) for text in split["text"].to_pylist()]
    assert "readability_grammar_errors" not in split.column_names
    assert (tmp_path / "out" / WORK / "tinystories" / "replies.jsonl").read_bytes() == replies


def test_a_full_disk_is_one_line_and_loses_nothing(
    folder: Path, mix: Mix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = pq.write_table, Counter[str]()

    def full(*arguments: Any, **options: Any) -> None:
        calls["all"] += 1
        if calls["all"] > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(*arguments, **options)

    one = replace(mix, parts={name: mix.parts[name] for name in ("code_exercises", "tinystories_instruct")})
    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", full)
        with pytest.raises(UserError, match=r"^no space left on the disk of .*run the same command again$"):
            build(one, tmp_path / "out")
    assert finished_splits(tmp_path / "out") == {}
    monkeypatch.setattr(build_module, "check", lambda rows: pytest.fail("executed again"))
    build(one, tmp_path / "out")
    expected = {name: content for name, content in files(folder).items() if name.endswith(".parquet")}
    found = {name: content for name, content in files(tmp_path / "out").items() if name.endswith(".parquet")}
    assert found == {name: content for name, content in expected.items() if not name.startswith("stories")}


# A server.


def item(body: Any) -> str:
    """An answer for topics_qa, a function of what is asked and the seed; the same for no two."""
    asked = body["messages"][-1]["content"]
    number, topic = abs(hash((asked, body["seed"]))), asked.partition(", about ")[2].partition(" (")[0]
    words = " ".join(f"w{digit}{place}x{number % 997}" for place, digit in enumerate(str(number)))
    options = "\n(A) red\n(B) blue\n(C) green\n(D) grey"
    return json.dumps({
        "question": f"Which colour has {topic}?{options}", "answer": "(B) blue",
        "explanation": f"It is the blue one, as everybody can see who looks at it from here, and who knows: {words}.",
    })  # fmt: skip


def test_a_spent_budget_stops_and_more_of_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-0123456789")
    with serving(answer=item) as faulty:
        asked = {"writer": "server", "base_url": faulty.url, "model": "tiny", "rows": 12, "concurrency": 2}
        # A request may take up to 1,024 tokens beside its prompt, and takes 30: some are answered, and then no more.
        first = get_corpus("topics_qa").request(0, get_corpus("topics_qa").parameters(0, 0))
        most = 256 + len(first.messages[0]["content"].encode()) + first.max_tokens
        poor = plain("topics_qa", **asked, max_tokens_total=most + 200)
        with pytest.raises(UserError, match=r"part 'topics_qa' stopped \(max_tokens_total\) with \d+ of 12 rows"):
            build(poor, tmp_path / "out")
        assert 0 < faulty.answered.total() < 12
        report = build(plain("topics_qa", **asked), tmp_path / "out")
        assert set(faulty.answered.values()) == {1} and len(faulty.answered) == 12
    part = report["parts"]["topics_qa"]
    assert part["writers"] == [
        {"writer": "tiny", "model": "tiny-1", "sampling": {"temperature": 1.0, "top_p": 1.0}, "rows": 12}
    ]
    assert part["tokens"] == {"prompt": 240, "completion": 120} and part["decontamination"] is None
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Their makers' terms may bind" in card and "templates filled by a program" not in card
    everything = "".join(path.read_text(errors="replace") for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert "sk-secret" not in everything
    assert faulty.url not in card + (tmp_path / "out" / REPORT).read_text()


def test_a_part_of_which_nothing_is_kept_is_one_line(tmp_path: Path) -> None:
    with serving() as faulty:
        bad = plain("topics_qa", writer="server", base_url=faulty.url, model="tiny", attempts=2)
        with pytest.raises(UserError, match=r"^part 'topics_qa': none of 5 rows was kept \(no_json 10\); ask"):
            build(bad, tmp_path / "out")


# What is written.


@pytest.mark.parametrize("name", SMALL["parts"])
def test_every_part_loads_and_streams(name: str, folder: Path, tmp_path: Path) -> None:
    loaded = datasets.load_dataset(str(folder), name, cache_dir=str(tmp_path))
    stream = datasets.load_dataset(str(folder), name, streaming=True)
    corpus = get_corpus(SMALL["parts"][name].get("corpus", name))
    for split, rows in loaded.items():
        assert list(stream[split]) == list(rows)
        made_by = json.loads((folder / name / str(split) / PROVENANCE).read_text())
        assert rows.column_names == [*made_by["columns"]] and made_by["size"] == len(rows)
        for row in rows:
            assert row["split"] == split and row["writer"] == "grammar"
            parameters = {key.removeprefix(PARAMETER): row[key] for key in row if key.startswith(PARAMETER)}
            assert corpus.request(row["index"], parameters).prompt_hash == row["prompt_hash"]
            if name == "stories":
                assert row["readability_spache"] == round(readability(row["story"])["spache"], 3)
    assert sum(map(len, loaded.values())) == SMALL["parts"][name]["rows"]


def test_the_card_is_what_was_counted(folder: Path, mix: Mix, tmp_path: Path) -> None:
    card, report = (folder / "README.md").read_text(), json.loads((folder / REPORT).read_text())
    assert card.startswith("---\n") and "# Stories and exercises\n" in card and mix.summary in card
    assert "templates filled by a program; no model wrote them" in card and "weak writer" not in card
    assert "| generate | 24 | 24 | none |" in card and "Problems with a close match" in card
    for part in report["parts"].values():
        assert part["prompt"]["messages"][0]["content"] in card
        assert f"{part['diversity']['self_overlap']:.3f}" in card
    (tmp_path / "mix.yaml").write_text(card.partition("```yaml\n")[2].partition("```")[0])
    again = load_mix(tmp_path / "mix.yaml")
    assert {name: again.asked(name) for name in mix.parts} == {name: mix.asked(name) for name in mix.parts}
    assert again.parts["stories"].clean == ["language", "repetition", "exact_duplicate", "near_duplicate"]
    assert report["benchmark"]["with_match"] + report["benchmark"]["without_match"] != []
    assert len(report["parts"]["code_exercises"]["nearest"]) == 164
    assert report["parts"]["stories"]["nearest"] == []


def test_publish_takes_the_folder(folder: Path) -> None:
    done = publish(folder, "me/textbooks", dry_run=True)
    names = [name for name, _ in done.upload.sizes()]
    assert "code_exercises/train/00000-of-00001.parquet" in names and "README.md" in names
    assert not [name for name in names if name.startswith(".")]


def test_an_exercise_that_fails_its_tests_is_dropped_with_its_reason(tmp_path: Path) -> None:
    build(plain("code_exercises", rows=12), tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / WORK / "code_exercises" / "rows.parquet")
    rows = table.to_pylist()
    rows[3]["tests"] += "\nassert False\n"
    rows[5]["solution"] = "    import socket\n" + rows[5]["solution"]
    broken = pa.Table.from_pylist(rows, table.schema)
    kept, report = build_module._execute(broken, tmp_path)
    assert report == {"dropped": {"wrong": 1, "forbidden_import": 1}}
    assert kept["index"].to_pylist() == [0, 1, 2, 4, *range(6, 12)] and kept.schema == table.schema


def test_what_resembles_a_problem_of_the_benchmark_is_dropped() -> None:
    limits = {"benchmark": "humaneval", "tau": 0.95, "ngram": 13}
    problems = humaneval()
    copied, words = problems[31], problems[40]["prompt"].partition('"""')[2].partition(">>>")[0]
    renamed = re.sub(r"\bn\b", "number", copied["solution"])
    exercises = pa.table({
        "index": [4, 7], "text": ["", ""],
        "prompt": ["def greet(name: str) -> str:\n    '''Say hello.'''\n", copied["prompt"]],
        "solution": ["    return 'hello ' + name\n", renamed],
    })  # fmt: skip
    kept, report = build_module._decontaminate(exercises, Path(), problems, limits)
    assert kept["index"].to_pylist() == [4] and report["dropped"] == {"close_to_humaneval": 1}
    assert report["with_match"] == ["HumanEval/31"] and report["programs"] == 2
    assert [one["index"] for one in report["nearest"] if one["problem"] == "HumanEval/31"] == [7]
    sections = pa.table({
        "index": [1, 2, 3], "code": [["print(1)"], ["x = 1", copied["prompt"] + copied["solution"]], ["print(2)"]],
        "text": ["Numbers.", "Primes, in a program.", f"Read this: {words}"],
    })  # fmt: skip
    kept, report = build_module._decontaminate(sections, Path(), problems, limits)
    assert kept["index"].to_pylist() == [1] and report["dropped"] == {"close_to_humaneval": 2}
    assert {"HumanEval/31", "HumanEval/40"} <= {*report["with_match"]}  # others share words with the latter
    one, other = (
        {"with_match": ["P/10"], "without_match": ["P/2", "P/3"], "with_match_by": {"ast": ["P/10"], "ngram": []}},
        {"with_match": ["P/2"], "without_match": ["P/3", "P/10"], "with_match_by": {"ast": ["P/2"]}},
    )
    assert both_halves([one, other]) == {
        "with_match": ["P/2", "P/10"], "without_match": ["P/3"], "with_match_by": {"ast": ["P/2", "P/10"], "ngram": []}
    }  # fmt: skip


class Letters:
    """In place of the model of embeddings: a text's loops, and its length."""

    size, name = 2, "letters"

    def __init__(self, model: str | None = None) -> None:
        assert model is None  # the wheel

    def __call__(self, text: str) -> np.ndarray:
        return np.array([text.count("for "), len(text) / 1000], np.float32)

    @contextmanager
    def one_thread(self) -> Iterator[None]:
        yield


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> type[Letters]:
    for place in (quality, build_module):
        monkeypatch.setattr(place, "Encoder", Letters)
    monkeypatch.setattr(quality, "TREES", 20)
    return Letters


@pytest.fixture
def loops(letters: type[Letters], tmp_path: Path) -> Path:
    """A quality filter, made by its command: functions with a loop are good."""
    pytest.importorskip("sklearn")
    (tmp_path / "code").mkdir()
    good = "def f(x):\n    '''Return the values.'''\n    return [y for y in x]\n"
    for number in range(20):
        (tmp_path / "code" / f"a{number}.py").write_text(good + "# more\n" * (20 + number))
        (tmp_path / "code" / f"b{number}.py").write_text("import sys\nsys.platform = 1\n" + "x.y = 3\n" * (10 + number))
    folder, work = str(tmp_path / "filter"), str(tmp_path / "runs")
    assert quality.main(["--output", folder, "--folder", str(tmp_path / "code"), "--work", work]) == 0
    return tmp_path / "filter"


def test_a_quality_filter_drops_what_scores_too_little(loops: Path, tmp_path: Path) -> None:
    exercises = plain("code_exercises", rows=30, quality=Quality(filter=str(loops), probability=0.5))
    report = build(exercises, tmp_path / "out")["parts"]["code_exercises"]
    asked = pq.read_table(tmp_path / "out" / WORK / "code_exercises" / "rows.parquet").to_pylist()
    scores = quality.QualityFilter.load(loops / "filter.npz").scores(
        np.array([Letters()(one["text"]) for one in asked])
    )
    expected = {
        one["index"]: round(score, 4) for one, score in zip(asked, scores.tolist(), strict=True) if score >= 0.5
    }
    assert 0 < len(expected) < 30  # the test tells nothing otherwise
    paths = (tmp_path / "out" / "code_exercises").rglob("*.parquet")
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    assert {row["index"]: row["quality"] for row in rows} == expected
    [step] = [one for one in report["steps"] if one["step"] == "quality"]
    assert step == {
        "step": "quality",
        "rows": 30,
        "kept": len(expected),
        "dropped": {"low_quality": 30 - len(expected)},
    }
    card = (tmp_path / "out" / "README.md").read_text()
    assert report["quality"]["report"]["judge"] == quality.RUBRIC and quality.RUBRIC in card
    assert f"`{loops}` ({report['quality']['digest']})" in card and "below 0.5 are gone" in card
    assert f"| quality | 30 | {len(expected)} | low_quality {30 - len(expected)} |" in card and "| `quality` |" in card
    (tmp_path / "mix.yaml").write_text(card.partition("```yaml\n")[2].partition("```")[0])
    assert load_mix(tmp_path / "mix.yaml").parts["code_exercises"].quality == Quality(
        filter=str(loops), probability=0.5
    )
    # Another filter of the same name makes the step again.
    (loops / "filter.npz").unlink()
    quality.QualityFilter(np.eye(2, dtype=np.float32), np.array([True, False]), 0).save(loops / "filter.npz")
    again = build(exercises, tmp_path / "out")["parts"]["code_exercises"]
    assert again["quality"]["digest"] != report["quality"]["digest"] and again["rows_hash"] != report["rows_hash"]


def test_the_filter_of_the_rubric_is_made_on_the_way_and_once(
    letters: type[Letters], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setattr(build_module, "find_embedding_model", lambda: tmp_path)
    wanted = plain("code_exercises", rows=30, quality=Quality(filter="rubric", probability=0.3))
    report = build(wanted, tmp_path / "out")
    made = tmp_path / "out" / WORK / "quality-filter"
    said = report["parts"]["code_exercises"]["quality"]
    whole = json.loads((made / "report.json").read_text())
    assert said["report"]["judge"] == quality.RUBRIC and said["report"]["pool"].startswith(
        "standard library of CPython"
    )
    assert whole["sampled"] == whole["snippets"] == quality.SAMPLE and whole["held_out"] > 800
    assert report["seconds"]["quality filter"] > 0
    stamp = (made / "filter.npz").stat().st_mtime_ns
    monkeypatch.setattr(build_module, "make_rubric_filter", lambda *_: pytest.fail("made twice"))
    again = build(wanted, tmp_path / "out")["parts"]["code_exercises"]
    assert again["quality"] == said and (made / "filter.npz").stat().st_mtime_ns == stamp


def test_of_a_textbook_the_filter_sees_the_programs(tmp_path: Path) -> None:
    table = pa.table({"text": ["for all of us", "prose"], "code": [["x = 1", "y = 2"], ["for x in y: pass"]]})

    def scores(texts: Any, _: Path) -> np.ndarray:
        assert texts == ["x = 1\n\ny = 2", "for x in y: pass"]
        return np.array([0.29999, 0.3])

    kept, report = build_module._quality(table, tmp_path, scores, 0.3)
    assert kept["quality"].to_pylist() == [0.3] and report == {"dropped": {"low_quality": 1}}


def test_without_the_filter_nothing_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_module, "generate", lambda *_, **__: pytest.fail("asked for"))
    wanted = plain("code_exercises", quality=Quality(filter=str(tmp_path / "none"), probability=0.3))
    with pytest.raises(UserError, match=r"^no quality filter in .*none'") as caught:
        build(wanted, tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
    monkeypatch.setattr(quality, "EMBEDDING_WHEEL", "no_such_wheel")
    with pytest.raises(UserError, match=r"^no model for embeddings: pip install"):
        build(plain("code_exercises", quality=Quality(filter="rubric", probability=0.3)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_programs_are_compared_by_embeddings_too(letters: type[Letters], tmp_path: Path) -> None:
    limits = {"benchmark": "humaneval", "tau": 0.95, "ngram": 13, "max_distance": 0.0005}
    problems = humaneval()
    source = problems[0]["prompt"] + problems[0]["solution"]
    other = "for " * source.count("for ")
    texts = [other + "!" * (len(source) - len(other)), "print(1)"]  # no Python, and as many loops and letters
    table = pa.table({"index": [5, 6], "code": [["  ", texts[0]], [texts[1]]], "text": ["Prose.", "More."]})
    kept, report = build_module._decontaminate(table, tmp_path, problems, limits, cast(Any, Letters()))
    assert kept["index"].to_pylist() == [6] and report["dropped"] == {"close_to_humaneval": 1}
    assert report["removed_by"] == {"ngram": 0, "ast": 0, "embedding": 1} and report["least_distance"] == 0
    assert "HumanEval/0" in report["with_match"] == report["with_match_by"]["embedding"]
    assert report["nearest"][0] | {"match_rate": 0, "index": 0} == {
        "problem": "HumanEval/0", "match_rate": 0, "index": 0, "embedding_distance": 0.0, "embedding_index": 5
    }  # fmt: skip
    assert build_module._decontaminate(table, tmp_path, problems, limits)[0].num_rows == 2


def test_without_the_model_of_embeddings_it_says_so_and_goes_on(
    letters: type[Letters], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mix = replace(plain("code_exercises"), decontaminate=Decontamination(max_distance=0.0001))
    with_it = build(mix, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "embedding" in with_it["benchmark"]["with_match_by"] and capsys.readouterr().err == ""
    assert "all-MiniLM-L6-v2 at most 0.0001 apart" in card and "not compared.**" not in card
    monkeypatch.setattr(build_module, "Encoder", EncoderOfTheWheel)
    monkeypatch.setattr(quality, "EMBEDDING_WHEEL", "no_such_wheel")
    without = build(mix, tmp_path / "out")
    said = capsys.readouterr().err
    assert said.startswith("embeddings are not compared with humaneval: no model") and said.count("\n") == 1
    assert {*without["benchmark"]["with_match_by"]} == {"ngram", "ast"}
    assert "**Embeddings were not compared.**" in (tmp_path / "out" / "README.md").read_text()


def test_any_file_of_problems_is_a_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of an exercise that a part asks for goes, and the card names the file; another file of its name counts."""
    made = build(replace(plain("code_exercises", rows=12), decontaminate=None), tmp_path / "plain")
    assert made["benchmark"]["with_match"] == made["benchmark"]["without_match"] == []
    rows = pq.read_table(tmp_path / "plain" / WORK / "code_exercises" / "rows.parquet").to_pylist()
    other = "def hi(name):\n    return [name, *(x for x in (1, 2) if x > 1), {}]\n"
    problems = [
        {"text": "Greet.", "code": other, "task_id": 1},
        {"text": "As this.", "code": rows[7]["prompt"] + rows[7]["solution"], "task_id": 2},
    ]
    file = tmp_path / "problems.jsonl"
    file.write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    wanted = {"benchmark": str(file), "prompt": "text", "solution": "code", "tau": 1.0}
    content = {"title": "A", "summary": "B.", "decontaminate": wanted}
    parts = {"code_exercises": {"rows": 12, "writer": "grammar", "clean": []}}
    mix = load_mix(write_mix(tmp_path / "mine.yaml", {**content, "parts": parts}))
    report = build(mix, tmp_path / "out")
    assert report["benchmark"]["with_match"] == ["2"] and report["benchmark"]["without_match"] == ["1"]
    [step] = [one for one in report["parts"]["code_exercises"]["steps"] if one["step"] == "decontaminate"]
    assert step["dropped"]["close_to_problems.jsonl"] >= 1
    paths = (tmp_path / "out" / "code_exercises").rglob("*.parquet")
    left = [index for path in paths for index in pq.read_table(path)["index"].to_pylist()]
    assert 7 not in left and len(left) == step["kept"] > 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "compared with those of problems.jsonl:" in card and "humaneval" not in (card + json.dumps(report)).lower()
    (tmp_path / "again.yaml").write_text(card.partition("```yaml\n")[2].partition("```")[0])
    assert load_mix(tmp_path / "again.yaml").decontaminate == mix.decontaminate
    file.write_text(json.dumps(problems[0]) + "\n")  # the same name, and other problems
    assert build(mix, tmp_path / "out")["benchmark"] | {"with_match_by": {}} == {
        "with_match": [], "without_match": ["1"], "with_match_by": {}
    }  # fmt: skip
    file.unlink()
    monkeypatch.setattr(build_module, "generate", lambda *_, **__: pytest.fail("asked for"))
    with pytest.raises(UserError, match=r"problems.jsonl' cannot be read \(there is no such file\)"):
        build(mix, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_later_part_loses_what_an_earlier_one_has(tmp_path: Path) -> None:
    content = {
        "title": "Twice", "summary": "The same stories.",
        "parts": {
            "first": {"corpus": "tinystories", "rows": 8, "writer": "grammar", "clean": []},
            "code_exercises": {"rows": 4, "writer": "grammar", "clean": ["near_duplicate"]},
            "again": {"corpus": "tinystories", "rows": 12, "writer": "grammar", "clean": ["exact_duplicate"]},
            "as_they_are": {"corpus": "tinystories", "rows": 9, "writer": "grammar", "clean": []},
        },
    }  # fmt: skip
    mix = load_mix(write_mix(tmp_path / "twice.yaml", content))
    report = build(mix, tmp_path / "out")["parts"]
    steps = {name: {one["step"]: one for one in part["steps"]} for name, part in report.items()}
    assert steps["again"]["across parts"] == {
        "step": "across parts", "rows": 12, "kept": 4, "dropped": {"exact_duplicate_of_earlier_part": 8}
    }  # fmt: skip
    assert steps["code_exercises"]["across parts"]["dropped"] == {}
    assert "across parts" not in steps["first"].keys() | steps["as_they_are"].keys()
    left = [pq.read_table(path)["index"].to_pylist() for path in (tmp_path / "out" / "again").rglob("*.parquet")]
    assert sorted(index for indices in left for index in indices) == [8, 9, 10, 11]
    # The order decides, and so the card keeps it.
    card = (tmp_path / "out" / "README.md").read_text()
    (tmp_path / "mix.yaml").write_text(card.partition("```yaml\n")[2].partition("```")[0])
    assert [*load_mix(tmp_path / "mix.yaml").parts] == [*content["parts"]]


def test_one_prompt_is_in_one_split() -> None:
    table = pa.table({"prompt": ["a", "b", "a"], "index": [0, 1, 2]})
    kept, report = build_module._first_of_prompt(table, Path())
    assert kept["index"].to_pylist() == [0, 1] and report["dropped"] == {"same_prompt": 1}


# Mistakes.


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: replace(m, seed=1), "its part 'tinystories' was made with seed 0, not 1"),
        (lambda m: plain(rows=6), "its part 'tinystories' was made with rows 5, not 6"),
        (lambda m: plain("code_exercises"), "it has no part 'code_exercises'"),
        (lambda m: replace(m, decontaminate=None), "decontaminate"),
    ],
)
def test_a_folder_of_another_mix_is_refused(change: Callable[[Mix], Mix], says: str, tmp_path: Path) -> None:
    build(plain(), tmp_path / "out")
    content = files(tmp_path / "out")
    for again in range(2):
        with pytest.raises(UserError, match="holds another corpus") as caught:
            build(change(plain()), tmp_path / "out")
        assert says in str(caught.value) and "\n" not in str(caught.value)
        if not again:  # the splits alone say so, too
            (tmp_path / "out" / WORK / "mix.json").unlink()
    assert files(tmp_path / "out") == content


def test_other_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds other files \('notes.txt'\)"):
        build(plain(), tmp_path)
    with pytest.raises(UserError, match="is a file; choose a folder"):
        build(plain(), tmp_path / "notes.txt")
    (tmp_path / "busy").mkdir()
    with (
        build_module._locked(tmp_path / "busy", tmp_path / "busy"),
        pytest.raises(UserError, match="is being written by another process"),
        build_module._locked(tmp_path / "busy", tmp_path / "busy"),
    ):
        pass


def part(**fields: Any) -> dict[str, Any]:
    return {"parts": {"tinystories": {"rows": 5, "writer": "grammar", **fields}}}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"sead": 1}, "unknown key of mine 'sead' (did you mean 'seed'?)"),
        (part(row=5), "unknown key of mine.parts.tinystories 'row' (did you mean 'rows'?)"),
        (part(rows="many"), "mine.parts.tinystories.rows must be of type int, not 'many'"),
        (part(rows=0), "mine.parts.tinystories.rows is 0; give 1 or more"),
        (part(attempts=101), "attempts is 101; give 1 or more, 100 at most"),
        (part(writer="gramar"), "unknown writer of mine.parts.tinystories 'gramar' (did you mean 'grammar'?)"),
        (part(corpus="tinystory"), "did you mean 'tinystories'?"),
        (part(model="x"), "mine.parts.tinystories: writer grammar takes no model"),
        (part(temperature=0.5), "writer grammar takes no temperature"),
        (part(writer="server", model="x"), "writer server needs base_url"),
        (part(writer="", base_url="http://h"), "writer server needs model"),
        (part(writer="server", model="x", base_url="http://h", api_key="k"), "unknown key of mine.parts.tinystories"),
        (part(clean=["near_duplicates"]), "did you mean 'near_duplicate'?"),
        (part(max_tokens_total=5), "writer grammar counts no tokens"),
        (part(max_cost=5.0), "needs price"),
        (part(price=[1.0]), "price is [1.0]; give two"),
        ({"parts": {"textbook": {"rows": 5, "writer": "grammar"}}}, "no grammar writes textbook"),
        ({"parts": {"stories": {"rows": 5, "writer": "grammar"}}}, "a part of another name says corpus: NAME"),
        ({"parts": {"my stories": {"rows": 5, "writer": "grammar", "corpus": "tinystories"}}}, "is no name for a"),
        ({"parts": {}}, "mine.parts names no part"),
        ({"seed": -1}, "mine.seed is -1"),
        ({"decontaminate": {"solution": "code"}}, "mine.decontaminate: benchmark humaneval takes no solution"),
        ({"decontaminate": {"tau": 0}}, "tau is a match rate above 0"),
        ({"decontaminate": {"max_distance": 2.5}}, "mine.decontaminate.max_distance is 2.5; it is a distance"),
        (part(quality={"filter": "x", "probability": 0.3}), "has learned code, and tinystories has none"),
        (part(quality={"filter": "x"}), "mine.parts.tinystories.quality lacks probability"),
        (part(quality={"filtre": "x"}), "did you mean 'filter'?"),
        (part(corpus="code_exercises", quality={"filter": "x", "probability": 1}), "probability is 1.0; give one"),
        ({"title": None}, "mine.title must be of type str, not None"),
    ],
)  # fmt: skip
def test_a_mix_with_a_mistake_is_one_line(fields: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = write_mix(tmp_path / "mine.yaml", {"title": "Mine", "summary": "Mine.", **part(), **fields})
    with pytest.raises(UserError) as caught:
        load_mix(path)
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [({}, "embedded"), ({"model": "x.gguf"}, "embedded"), ({"base_url": "http://h", "model": "m"}, "server"),
     ({"writer": "grammar"}, "grammar")],
)  # fmt: skip
def test_a_part_without_a_writer_has_a_server_or_a_small_model(
    fields: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    content = {"title": "Mine", "summary": "Mine.", "parts": {"tinystories": {"rows": 5, **fields}}}
    mix = load_mix(write_mix(tmp_path / "mine.yaml", content))
    assert mix.parts["tinystories"].writer == mix.asked("tinystories")["writer"] == kind
    assert mix.parts["tinystories"].in_flight == (8 if kind == "embedded" else 64)


def test_files_that_are_no_mix(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'textbooks'"):
        load_mix("textbook")
    with pytest.raises(UserError, match=r"no mix file .*none.yaml"):
        load_mix(tmp_path / "none.yaml")
    for name, content, says in (
        ("a", b"[1]", "must hold keys"),
        ("b", b"a: [", "no valid YAML"),
        ("c", b"\xff", "UTF"),
    ):
        (tmp_path / f"{name}.yaml").write_bytes(content)
        with pytest.raises(UserError, match=says):
            load_mix(tmp_path / f"{name}.yaml")


def test_the_mixes_of_the_package_are_whole() -> None:
    assert mix_names() == ["textbooks"]
    shipped = load_mix("textbooks")
    assert sum(one.rows for one in shipped.parts.values()) > 2000
    assert {one.writer for one in shipped.parts.values()} == {"grammar", "embedded"}
    assert shipped.decontaminate is not None and len(source_hash()) == 16


def test_the_example_in_the_documentation_is_a_mix(tmp_path: Path) -> None:
    from hf_tasks.corpora import mix as module

    text = (module.__doc__ or "").partition("\n\n")[2].partition("\n\n")[0]
    (tmp_path / "example.yaml").write_text("\n".join(line[4:] for line in text.splitlines()))
    assert [*load_mix(tmp_path / "example.yaml").parts] == ["tinystories", "textbook"]


if __name__ == "__main__":
    child(Path(sys.argv[1]))
