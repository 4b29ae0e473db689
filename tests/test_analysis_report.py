"""The page of `hf-tasks analyze`: of a model that was trained for seconds, of one that was not, and of none."""

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from analysis_samples import encoder, tokenizer_of
from transformers import BertConfig, BertForTokenClassification

from hf_tasks.analysis import verdicts
from hf_tasks.analysis.ceiling import Ceiling
from hf_tasks.analysis.report import _groups, _spaced, analyze, elsewhere, open_run, spread
from hf_tasks.clauses import clause_batch
from hf_tasks.cli import main
from hf_tasks.errors import UserError
from hf_tasks.models import PositionalConfig, PositionalForCausalLM
from hf_tasks.recipe import Recipe
from hf_tasks.tasks import get_task

PARAMETERS = {"clauses": [4, 4], "depth": [2, 2], "query": False}
LEGO = get_task("lego", **PARAMETERS)
HISTORY = [
    {"step": 10, "accuracy_by_depth": {"1": 0.95, "2": 0.6}},
    {"step": 20, "accuracy_by_depth": {"1": 1.0, "2": 0.92}},
]


def write_run(folder: Path, model: Any, tokenizer: Any, **recipe: Any) -> Path:
    """A run's folder with one finished model in it."""
    content = {"task": "lego", "head": "token_classification", "parameters": PARAMETERS, **recipe}
    made = Recipe(name="tiny", preset="cpu", title="Tiny", summary="A model.", models={"match": {}}, **content)
    model.save_pretrained(folder / "match-seed0")
    tokenizer.save_pretrained(folder / "match-seed0")
    (folder / "recipe.yaml").write_text(made.to_yaml())
    (folder / "match-seed0" / "training.json").write_text(json.dumps({"log_history": HISTORY}))
    return folder / "match-seed0"


@pytest.fixture(scope="module")
def solved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that follows chains of two beside two distractors, after a hundred steps or so."""
    tokenizer = tokenizer_of(LEGO)
    model = encoder(LEGO, num_hidden_layers=4, initializer_range=0.05)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(400):
        batch = clause_batch(LEGO.table("train", 64, start=64 * step).to_pydict(), tokenizer)
        labels = torch.where(batch.asked, batch.labels, -100)
        scores = batch.read(model(batch.input_ids, batch.attention_mask).logits)
        loss = torch.nn.functional.cross_entropy(scores.flatten(0, 1), labels.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.005:
            break
    return write_run(tmp_path_factory.mktemp("solved"), model, tokenizer)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("untrained"), encoder(LEGO), tokenizer_of(LEGO))


class Page(HTMLParser):
    """Collects what a page consists of, and refuses tags that do not close as they opened."""

    judging = False

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, Any]]] = []
        self.words: list[str] = []
        self.verdicts: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "link"):
            self.open.append(tag)
        if (dict(attrs).get("class") or "").startswith("verdict"):
            self.verdicts.append("")
            self.judging = True

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.judging = self.judging and tag != "p"
        self.words.append(" " if tag in ("td", "th", "p", "li") else "")

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self.judging:
            self.verdicts[-1] += data

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


@pytest.fixture(scope="module")
def pages(solved: Path, untrained: Path) -> dict[str, Page]:
    return {
        name: Page(analyze(folder, size=120).read_text())
        for name, folder in (("solved", solved), ("untrained", untrained))
    }


def verdict_of(page: Page) -> str:
    return next(attrs["class"] for tag, attrs in page.tags if tag == "p" and "verdict" in attrs.get("class", ""))


def test_pages_say_what_the_figures_say(pages: dict[str, Page]) -> None:
    assert verdict_of(pages["solved"]) == "verdict yes"
    assert "It follows the chain: its answers change with the clauses that matter" in pages["solved"].text
    assert verdict_of(pages["untrained"]) == "verdict no"
    assert "it does not do the task" in pages["untrained"].text
    assert "exchanged, the answer stayed in" in pages["solved"].text
    assert "a clause beside the chain" in pages["solved"].text
    assert re.search(NAMED, pages["solved"].text)
    for name in ("heads 0 and 1", "heads 2 and 3"):  # each kind is cut as a whole, in all applications
        assert f"Yes: without {name}, accuracy over all clauses loses" in pages["solved"].text
    assert "It cannot be told: there is nothing to lose" in pages["untrained"].text


NUMBER = r"-?\d+\.\d+"
SPREAD = rf"{NUMBER} \({NUMBER} to {NUMBER}\)"
NAMED = rf"head 0 association ({SPREAD} ){{5}}association in 4 of 4 applications"


def test_cuts_stand_by_depth_and_each_head_once(pages: dict[str, Page]) -> None:
    text = pages["solved"].text
    assert "points lost without over all depth 1 depth 2" in text
    table = text.split("points lost without", 1)[1].split("Where the values stand", 1)[0]
    for name in (*(f"head {head}" for head in range(4)), "all association: heads 0 and 1", "all local: heads 2 and 3"):
        assert re.search(rf"{name} ({SPREAD} ?){{3}}", table), name
    assert len(re.findall(SPREAD, table)) == 18  # and no others: no head of parent is cut, no head twice
    assert "No head has more of parent than by chance: the most has head" in text
    joint = re.search(r"all association: heads 0 and 1 (\S+)", table)
    assert joint is not None
    assert f"without heads 0 and 1, accuracy over all clauses loses {joint[1]} points" in text


def test_heads_stand_with_the_band_and_entropy_beside_even_attention(pages: dict[str, Page]) -> None:
    for page in pages.values():
        assert "KL to the band entropy" in page.text
        even = re.search(rf"even attention((?: {NUMBER}){{5}})", page.text)
        assert even is not None
        *_, entropy = map(float, even[1].split())
        assert entropy == pytest.approx(np.log(21), abs=0.001)  # four clauses of five tokens, behind <bos>


def test_groups_are_of_heads_that_stand_out() -> None:
    def row(head: int, score: str, value: float) -> dict[str, Any]:
        ends = {"ci95": [value - 0.1, value + 0.1], "excess_ci95": [value - 0.3, value - 0.1]}
        return {"layer": 0, "head": head, "score": score, "value": value, "uniform": 0.2, **ends}

    rows = [row(0, "association", 0.9), row(1, "association", 0.5), row(2, "association", 0.2), row(2, "parent", 0.5),
            row(0, "parent", 0.4), row(1, "local", 0.25)]  # fmt: skip
    # By name where there is one, else by what stands out; never a head that is called something else.
    assert _groups(rows, [["association", None, None]]) == {"association": [(0, 0)], "parent": [(0, 2)]}
    assert _groups(rows[:3], [["association", "association", "association"]]) == {"association": [(0, 0), (0, 1)]}
    assert _groups(rows[5:], [[None, None, None]]) == {}
    weak = [row(head, "parent", 0.5 + head / 100) for head in range(5)]
    assert _groups(weak, [[None] * 5]) == {"parent": [(0, 2), (0, 3), (0, 4)]}


def test_pages_have_every_picture_and_need_nothing_else(pages: dict[str, Page]) -> None:
    for name, page in pages.items():
        drawn = {attrs["aria-label"] for tag, attrs in page.tags if tag == "svg"}
        assert {"accuracy", "learning", "heads", "probes", "map0", "map1"} <= drawn
        assert ("patches" in drawn) or name == "untrained"
        # Nothing is fetched: no scripts, no links, no sources but those inside the page.
        assert not {"script", "link", "iframe", "object", "embed", "base", "a"} & {tag for tag, _ in page.tags}
        for _, attrs in page.tags:
            for key, value in attrs.items():
                if key in ("src", "href", "xlink:href", "srcset", "action"):
                    assert value.startswith(("#", "data:")), (key, value[:60])
                elif key == "style":
                    assert "url(" not in value.replace("url(#", "")
        names = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
        assert len(names) == len(set(names))
        assert any(tag == "meta" and "width=device-width" in attrs.get("content", "") for tag, attrs in page.tags)


def test_pages_follow_the_colours_of_the_reader(solved: Path, pages: dict[str, Page]) -> None:
    text = (solved / "analysis.html").read_text()
    assert "prefers-color-scheme: dark" in text
    assert "currentColor" in text
    assert "#010203" not in text
    assert "@import" not in text
    for svg in re.findall(r"<svg.*?</svg>", text, re.S):
        assert "#000000" not in svg.lower()


def test_pages_repeat_what_the_evaluation_found(untrained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "match-seed0"
    shutil.copytree(untrained.parent, tmp_path, dirs_exist_ok=True)
    assert "evaluated with its recipe" not in Page(analyze(folder, size=20).read_text()).text
    cells = [{"slice": {"clauses": 12, "depth": d}, "metric": "accuracy", **one} for d, one in
             enumerate((GOOD, GOOD, HALF, GOOD), 1)]  # fmt: skip
    (folder / "cells.json").write_text(json.dumps(cells))
    text = Page(analyze(folder, size=20).read_text()).text
    figure = "100.0 % (95 % interval 99.0 to 100.0, 400 clauses)"
    assert f"12 clauses 2 {figure} 4 {figure}" in text
    cells[0] |= HALF
    (folder / "cells.json").write_text(json.dumps(cells))
    (row,) = elsewhere(folder)
    assert (row["solved"], row["weakest"]["depth"], row["depth"]) == (0, 1, 4)


def test_every_verdict_has_a_number_with_its_interval(pages: dict[str, Page]) -> None:
    for page in pages.values():
        assert len(page.verdicts) == sum(attrs.get("class", "").startswith("verdict") for _, attrs in page.tags)
        for said in page.verdicts:
            assert re.search(r"\(95 % interval [-+]?\d", said) or "too few to edit" in said, said
        asked = [said.split("?")[0] for said in page.verdicts]
        for part in ("follow the chain", "training told", "learned after", "upstream", "leave the answer", "the middle",
                     "association heads", "local heads"):  # fmt: skip
            assert sum(part in question for question in asked) == 1, part
        assert "What was not tested" in page.text
        assert re.search(r"seed 0; \d+ seconds on", page.text)


def test_the_same_seed_gives_the_same_page(solved: Path, tmp_path: Path) -> None:
    texts = [analyze(solved, tmp_path / f"{i}.html", size=20, seed=i // 2).read_text() for i in range(3)]
    same, again, other = (re.sub(r"\d+ seconds", "", text) for text in texts)
    assert same == again
    assert same != other


def test_settings_and_layers_reach_the_sentences(solved: Path) -> None:
    run = open_run(solved, ["clauses=[7,7]", "depth=[5,5]"], layers=10)
    assert run.task.parameters()["clauses"] == [7, 7]
    assert run.told == [1, 2]
    assert (run.layers, run.model.config.num_hidden_layers) == (10, 10)
    assert open_run(solved).layers == 4


def test_layers_are_those_of_the_evaluation(tmp_path: Path) -> None:
    from hf_tasks.recipe import Evaluation

    evaluation = Evaluation(lengths=[4, 6], layers={4: 8})
    folder = write_run(tmp_path, encoder(LEGO), tokenizer_of(LEGO), evaluation=evaluation)
    assert open_run(folder).layers == 8
    assert open_run(folder, ["clauses=[6,6]"]).layers == 3


def test_checkpoints_and_models_elsewhere_are_analysed(solved: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run" / ".training" / "match-seed3" / "checkpoint-20"
    shutil.copytree(solved, checkpoint)
    (checkpoint / "training.json").rename(checkpoint / "trainer_state.json")
    shutil.copy(solved.parent / "recipe.yaml", tmp_path / "run")
    run = open_run(checkpoint)
    assert (run.name, run.history) == ("match", HISTORY)
    shutil.copytree(solved, tmp_path / "elsewhere")
    for given in (solved.parent, solved.parent / "recipe.yaml"):
        assert open_run(tmp_path / "elsewhere", recipe_at=given).told == [1, 2]
    with pytest.raises(SystemExit) as left:
        main(["analyze", str(tmp_path / "elsewhere"), "--recipe", str(tmp_path / "run"), "--size", "20"])
    assert left.value.code == 0
    assert (tmp_path / "elsewhere" / "analysis.html").is_file()


def test_stock_models_are_analysed(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(LEGO)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        pad_token_id=0, num_labels=2, max_position_embeddings=64,
    )  # fmt: skip
    folder = write_run(tmp_path, BertForTokenClassification(config), tokenizer)
    page = Page(analyze(folder, size=20).read_text())
    assert "layer 1 head 1" in page.text
    with pytest.raises(UserError, match="takes 64 tokens, and test sentences have up to 66"):
        open_run(folder, ["clauses=[13,13]"])
    with pytest.raises(UserError, match="--layers 4: this model does not share its layers"):
        open_run(folder, layers=4)


def test_programs_are_analysed(tmp_path: Path) -> None:
    task = get_task("programs", lines=(3, 4))
    tokenizer = tokenizer_of(task)
    positions = [{"ids": "sequential", "encoding": "rotary"}]
    folder = write_run(
        tmp_path, encoder(task, positions=positions), tokenizer, task="programs", parameters={"lines": [3, 4]}
    )
    text = Page(analyze(folder, size=20).read_text()).text
    assert "clauses of programs have no element to exchange" in text
    assert "There is no counting ceiling" in text


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as left:
        main(["analyze", *arguments])
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_command_writes_the_page(solved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(
            ["analyze", str(solved), "--output", str(tmp_path / "page.html"), "--size", "20", "--set", "clauses=[4,4]"]
        )
    assert left.value.code == 0
    assert capsys.readouterr().out == f"the page is {tmp_path / 'page.html'}\n"
    assert "clauses: [4, 4]" in (tmp_path / "page.html").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_mistakes_are_one_line(
    solved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def copy(name: str, change: Callable[[Path], None]) -> str:
        shutil.copytree(solved.parent, tmp_path / name)
        change(tmp_path / name)
        return str(tmp_path / name / "match-seed0")

    assert "is no trained model: it has no config.json" in refused(capsys, str(tmp_path / "nowhere"))
    alone = copy("a", lambda folder: (folder / "recipe.yaml").unlink())
    assert "has no recipe.yaml in it or beside it to say what" in (said := refused(capsys, alone))
    assert "give --recipe the recipe.yaml of its run, or the folder it is in" in said
    assert "is no recipe" in refused(capsys, alone, "--recipe", str(tmp_path / "nowhere"))
    adapter = copy("b", lambda folder: (folder / "match-seed0" / "adapter_config.json").write_text("{}"))
    assert "is an adapter of a causal model" in refused(capsys, adapter)
    broken = copy("c", lambda folder: (folder / "match-seed0" / "config.json").write_text("{"))
    assert "is no config of a model" in refused(capsys, broken)
    tokenizer = tokenizer_of(LEGO)
    causal = PositionalForCausalLM(PositionalConfig.from_tokenizer(tokenizer, hidden_size=16, num_hidden_layers=1))
    lm = write_run(tmp_path / "d", causal, tokenizer)
    assert "is a PositionalForCausalLM: train one with head: token_classification" in refused(capsys, str(lm))
    sums = write_run(tmp_path / "e", encoder(LEGO), tokenizer, task="addition", parameters={})
    assert "task addition of" in refused(capsys, str(sums))
    assert "unknown" in refused(capsys, str(solved), "--set", "claws=[4,4]")
    assert "--size 3" in refused(capsys, str(solved), "--size", "3")
    assert "--layers 0" in refused(capsys, str(solved), "--layers", "0")
    assert "cannot be written" in refused(capsys, str(solved), "--output", str(tmp_path / "no" / "page.html"))
    assert "has no token for something in" in refused(capsys, str(solved), "--set", "group=S3")
    three = write_run(tmp_path / "g", encoder(LEGO, num_labels=3), tokenizer)
    assert "knows 3 values, and these sentences have 2" in refused(capsys, str(three))
    renamed = copy("f", lambda folder: (folder / "match-seed0").rename(folder / "copy"))
    assert open_run(Path(renamed).parent / "copy").name == "match"  # a recipe with one model leaves no doubt
    monkeypatch.setattr("hf_tasks.analysis.forward._maps", _refuse)
    assert "gives no attention maps" in refused(capsys, str(solved), "--size", "20")


def _refuse(model: Any, batch: Any) -> Any:
    from hf_tasks.analysis.forward import no_maps

    raise no_maps(model)


# Sentences.


def cell(value: float, low: float, high: float, count: int = 400, **facts: Any) -> dict[str, Any]:
    return {"value": value, "ci95": [low, high], "count": count, **facts}


GOOD, HALF, MIDDLE = cell(1.0, 0.99, 1.0), cell(0.5, 0.45, 0.55), cell(0.9, 0.87, 0.93)


def depths(*cells: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**one, "depth": depth} for depth, one in enumerate(cells, 1)]


def test_told_depths_and_those_beyond() -> None:
    assert verdicts.told_depths(depths(GOOD, GOOD, HALF), [1, 2]).answer == "yes"
    assert verdicts.told_depths(depths(GOOD, MIDDLE), [1, 2]).answer == "open"
    no = verdicts.told_depths(depths(GOOD, HALF), [1, 2])
    assert no.answer == "no"
    assert "depth 2, has 50.0 % (95 % interval 45.0 to 55.0, 400 clauses)" in no.sentence
    assert verdicts.told_depths(depths(GOOD), [4]).answer == "open"
    rare = cell(0.0, 0.0, 0.79, count=1)  # one clause at a depth is not judged by while others have more
    assert verdicts.told_depths(depths(GOOD, rare), [1, 2]).answer == "yes"
    assert verdicts.told_depths(depths(rare), [1]).answer == "no"
    assert verdicts.beyond(depths(GOOD), [1], 0.5) is None
    found = {
        name: verdicts.beyond(depths(GOOD, *more), [1], 0.5)
        for name, more in {"all": (GOOD, GOOD), "none": (HALF, HALF), "some": (GOOD, MIDDLE, HALF)}.items()
    }
    assert {name: one.answer for name, one in found.items() if one} == {"all": "yes", "none": "no", "some": "open"}
    assert found["some"] is not None
    assert "goes on to depth 2" in found["some"].sentence
    assert "from depth 4 on nothing is left but guessing" in found["some"].sentence
    assert found["none"] is not None
    assert "no more than guessing (50.0 %)" in found["none"].sentence


def test_signs_of_counting() -> None:
    excess = {"out": cell(0.3, 0.2, 0.4), "no": cell(-0.1, -0.2, 0.0), "open": cell(0.04, 0.0, 0.08)}
    answers = {name: one.answer for name, of in excess.items() if (one := verdicts.last_variable(of))}
    assert answers == {"out": "no", "no": "yes", "open": "open"}
    assert verdicts.last_variable(None) is None
    d3 = Ceiling(0.35, (0.34, 0.36), False, 1 / 3, 1 / 6)
    for of, answer in ((GOOD, "yes"), (cell(0.35, 0.3, 0.4), "open"), (cell(0.2, 0.15, 0.25), "no")):
        assert verdicts.against_counting(of, d3, 12).answer == answer
    assert "35.0 % (95 % interval 34.0 to 36.0)" in verdicts.against_counting(GOOD, d3, 12).sentence
    assert verdicts.against_counting(GOOD, Ceiling(1, (1, 1), True, 1, 0.5), 12).answer == "open"


def test_order_of_learning_is_told_where_the_intervals_are_apart() -> None:
    assert verdicts.order_of_learning(None, 0.9) is None
    for before, last, answer in ((HALF, GOOD, "no"), (GOOD, HALF, "yes"), (MIDDLE, cell(0.92, 0.89, 0.94), "open")):
        look = {"step": 1500, "before": {**before, "depth": 2}, "last": {**last, "depth": 3}}
        found = verdicts.order_of_learning(look, 0.9)
        assert found is not None
        assert found.answer == answer
        assert "at step 1,500, depth 2 had" in found.sentence
        for one in (before, last):
            assert verdicts.figure(one, "clauses") in found.sentence
    assert "not told apart" in found.sentence
    told = {"told_depths": "yes", "upstream": "yes", "irrelevant": "yes", "removed": "yes", "order_of_learning": "open"}
    parts = {name: verdicts.Verdict("?", answer, name) for name, answer in told.items()}
    assert verdicts.overall(parts).answer == "yes"  # what is not told apart does not decide


def test_edited_sentences() -> None:
    few = cell(1.0, 0.8, 1.0, count=19, kind="beside")
    for judge in (verdicts.upstream, verdicts.irrelevant, lambda one: verdicts.removed(one, 0.5)):
        assert judge(few).answer == "open"
        assert "only 19 sentences" in judge(few).sentence
    assert [verdicts.upstream(one).answer for one in (GOOD, MIDDLE, HALF)] == ["yes", "open", "no"]
    assert [verdicts.irrelevant({**one, "kind": "downstream"}).answer for one in (GOOD, HALF)] == ["yes", "no"]
    assert [verdicts.removed(one, 0.5).answer for one in (HALF, cell(0.57, 0.52, 0.6), GOOD)] == ["yes", "open", "no"]


def test_what_it_comes_to_follows_from_the_parts() -> None:
    def whole(**answers: str) -> str:
        return verdicts.overall({name: verdicts.Verdict("?", answer, name) for name, answer in answers.items()}).answer

    good = {"told_depths": "yes", "upstream": "yes", "irrelevant": "yes", "removed": "yes", "last_variable": "yes"}
    assert whole(**good) == "yes"
    assert whole(**{**good, "told_depths": "no"}) == "no"
    assert whole(**{**good, "irrelevant": "no"}) == "no"
    assert whole(**{**good, "last_variable": "no"}) == "no"
    assert whole(**good, order_of_learning="no") == "no"
    assert whole(**{**good, "upstream": "open"}) == "open"
    assert whole(told_depths="yes") == "open"
    counts = {"told_depths": "no", "last_variable": "no"}
    parts = {name: verdicts.Verdict("?", answer, name) for name, answer in counts.items()}
    assert verdicts.overall(parts).sentence.startswith("It counts, and does not follow")


def test_sentences_about_probes_patches_and_heads() -> None:
    base = {"control": 0.5, "control_ci95": [0.4, 0.6], "selectivity": 0.5, "selectivity_ci95": [0.4, 0.6]}
    cells = [{**one, **base, "layer": layer, "depth": depth} for layer, depth, one in
             [(0, 1, HALF), (0, 2, HALF), (1, 1, GOOD), (1, 2, HALF), (2, 1, GOOD), (2, 2, GOOD)]]  # fmt: skip
    rows = verdicts.first_readable(cells)
    assert [(row["depth"], row["layer"], row["readable"]) for row in rows] == [(1, 1, True), (2, 2, True)]
    assert [row["readable"] for row in verdicts.first_readable(cells[:4])] == [True, False]
    assert "interval and all, at depth 1. The deepest" in verdicts.readable_from(verdicts.first_readable(cells[:4]))
    said = verdicts.readable_from(rows)
    assert "at depths 1, 2. The deepest of them, depth 2, has 100.0 % (95 % interval" in said
    assert "permuted labels has 50.0 % (95 % interval 40.0 to 60.0)" in said
    assert "+50.0 points (95 % interval +40.0 to +60.0)" in said
    assert "Nowhere is a value readable" in verdicts.readable_from(verdicts.first_readable(cells[:2]))
    assert verdicts.readable_from([]) == "There were too few sentences to fit a probe."
    patches = [{**one, "layer": layer, "distance": distance} for one, layer, distance in
               ((GOOD, 3, 1), (HALF, 2, 1), (HALF, 2, 2), (GOOD, 2, 3))]  # fmt: skip
    carried = verdicts.carried(patches[:2], 0.5)
    assert carried.startswith("The patch carries to its children best at layer 3, in 100.0 %")
    assert "; not to clauses 2 steps downstream, best at layer 2, in 50.0 %" in verdicts.carried(patches, 0.5)
    assert "3 steps" not in verdicts.carried(patches, 0.5)
    assert "; to clauses 3 steps" in verdicts.carried(patches, 0.2)
    assert verdicts.carried([{**GOOD, "count": 3, "layer": 3, "distance": 1}], 0.5) == ""
    most = {**cell(0.1, 0.05, 0.15), "uniform": 0.2, "null": 0.12, "null_ci95": [0.11, 0.13]}
    steps = verdicts.two_steps([["association"], ["local"]], most)
    assert "is 10.0 % (95 % interval 5.0 to 15.0), where even attention has 20.0 %" in steps
    assert verdicts.two_steps([["association"], ["local"], ["parent"]], most) == ""
    assert verdicts.two_steps([["local"]], most) == verdicts.two_steps([["association"], ["local"]], None) == ""
    assert "the most has head 3, 10.0 % (95 % interval 5.0 to 15.0)" in verdicts.no_head("parent", most, "head 3")


def test_use_follows_from_what_cutting_costs() -> None:
    def judged(drop: tuple[float, float, float], whole: dict[str, Any] = GOOD) -> verdicts.Verdict:
        drops = [
            cell(*drop, depth=None),
            cell(0.0, -0.01, 0.01, depth=1),
            cell(0.1, 0, 0.2, depth=2),
            HALF | {"depth": 9},
        ]
        return verdicts.used("association", "heads 0 and 1", drops, whole, 0.4)

    lost = {"yes": (0.3, 0.2, 0.4), "no": (0.0, -0.01, 0.01), "open": (0.05, 0.01, 0.09)}
    assert {answer: judged(drop).answer for answer, drop in lost.items()} == {answer: answer for answer in lost}
    said = judged(lost["yes"]).sentence
    assert "without heads 0 and 1, accuracy over all clauses loses 30.0 points (95 % interval 20.0 to 40.0) of" in said
    assert "at depth 1 it loses 0.0 points (95 % interval -1.0 to 1.0), and most at depth 9, 50.0 points" in said
    nothing = judged(lost["no"], cell(0.44, 0.42, 0.46))
    assert (nothing.answer, "hardly better than guessing (40.0 %)" in nothing.sentence) == ("open", True)
    assert verdicts.head_names([(0, 0), (0, 1), (0, 3)], 1) == "heads 0, 1 and 3"
    assert verdicts.head_names([(0, 2)], 1) == "head 2"
    assert verdicts.head_names([(0, 2), (1, 0), (1, 3)], 2) == "layer 0 head 2 and layer 1 heads 0 and 3"
    weak = verdicts.used("parent", "head 0", [cell(0.3, 0.2, 0.4), cell(0.3, 0.2, 0.4, depth=1)], GOOD, 0.5, False)
    assert weak.question == "Does it use the heads that have most of parent?"


def test_numbers_are_short() -> None:
    assert spread({"value": -0.0001, "ci95": [-0.002, 0.7664]}) == "0.000 (-0.002 to 0.766)"
    assert spread({"null": 0.5, "null_ci95": [0.25, 0.75]}, "null", 100, 1) == "50.0 (25.0 to 75.0)"
    assert _spaced([*range(10)], 4) == [0, 3, 6, 9]
    assert _spaced([1, 2], 4) == [1, 2]
    assert _spaced([], 4) == []


def test_spans_are_short() -> None:
    assert [verdicts.spans(of) for of in ([], [3], [1, 2], [1, 2, 3, 4, 6], [2, 4, 5, 6])] == [
        "", "3", "1, 2", "1 to 4, 6", "2, 4 to 6"
    ]  # fmt: skip
