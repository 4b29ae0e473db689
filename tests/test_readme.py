"""The front page and the page of results: figures are the committed ones, the tree is the tree, code runs."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hf_tasks.cards import length_of, markdown_table, results_markdown, results_table, sharpness_markdown
from hf_tasks.recipe import CAUSAL_LM, load_recipe
from hf_tasks.text.card import text_markdown
from model_cards.reproduction import BEGIN, END, in_readme

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
MEASURED = (ROOT / "results" / "README.md").read_text()
RESULTS = json.loads((ROOT / "results" / "addition-extrapolation" / "results.json").read_text())


def shown_table(name: str) -> str:
    """What stands between the markers of a table, on one of the two pages."""
    (page,) = (page for page in (README, MEASURED) if f"<!-- {name}:table -->\n" in page)
    return page.partition(f"<!-- {name}:table -->\n")[2].partition(f"\n<!-- {name}:end -->")[0]


def test_figures_are_the_committed_ones() -> None:
    assert shown_table("results") == results_markdown(RESULTS)


def test_figures_of_the_adapters_are_the_committed_ones() -> None:
    folder = ROOT / "results" / "addition-adapter"
    adapted, base = (results_table(json.loads((folder / name).read_text())) for name in ("results.json", "base.json"))
    names = ["full", "lora", "lora+encodings"]
    rows = [
        [row["slice"], row["count"], known["full"], *(row[name] for name in names)]
        for row, known in zip(adapted, base, strict=True)
    ]
    assert shown_table("adapter") == markdown_table(["length", "rows", "base", *names], rows)


def length_table() -> str:
    """One row a task: ours by the length of its longest operand, and the usual network at two of them."""
    results = json.loads((ROOT / "results" / "length-generalization" / "results.json").read_text())
    found: dict[str, dict[float, str]] = {}
    for one in results["summary"]:
        found.setdefault(one["name"], {})[length_of(one["slice"])] = f"{one['median']:.2f}"
    lengths, rows = [10, 20, 50, 100, 200], []
    for name in (name for name in found if not name.endswith("-usual")):
        usual = found[f"{name}-usual"]
        rows.append([name, *(found[name].get(n, "") for n in lengths), *(usual.get(n, "") for n in lengths[:2])])
    return markdown_table(["task", *map(str, lengths), "usual, 10", "usual, 20"], rows)


def test_figures_of_other_tasks_are_the_committed_ones() -> None:
    assert shown_table("length-generalization") == length_table()


@pytest.mark.parametrize(
    "recipe",
    [
        "lego-groups",
        "lego-curriculum",
        "lego-generalization",
        "lego-encodings",
        "lego-shortcut",
        "lego-paper",
        "c-programs",
        "multiplication",
        "multiplication-loops",
        "modular-addition",
        "state-tracking",
        "addition-in-context",
        "addition-encodings",
        "addition-samples",
        "addition-formats",
        "plain-format",
        "sum-of-products",
        "sgd-fine-tuning",
        "threshold-neurons",
        "vision-sgd",
    ],
)
def test_figures_of_chains_are_committed_ones(recipe: str) -> None:
    shown = shown_table(recipe).splitlines()
    committed = results_markdown(json.loads((ROOT / "results" / recipe / "results.json").read_text()))
    assert len(shown) > 3 and shown == [line for line in committed.splitlines() if line in shown]


@pytest.mark.parametrize("recipe", ["tinystories", "textbooks", "code-quality"])
def test_figures_of_texts_are_committed_ones(recipe: str) -> None:
    shown = shown_table(recipe).splitlines()
    committed = text_markdown(json.loads((ROOT / "results" / recipe / "results.json").read_text()))
    assert len(shown) > 3 and shown == [line for line in committed.splitlines() if line in shown]


def test_figures_of_sharpness_are_the_committed_ones() -> None:
    results = json.loads((ROOT / "results" / "edge-of-stability" / "results.json").read_text())
    assert shown_table("edge-of-stability") == sharpness_markdown(results)


def test_the_table_of_the_papers_is_the_committed_figures() -> None:
    assert in_readme(README) == README
    shown = README.partition(BEGIN)[2].partition(END)[0].splitlines()
    assert len(shown) > 6 and any("**not reached**" in line for line in shown)
    with pytest.raises(ValueError, match="once each"):
        in_readme(README.replace(END, ""))


OF_RECIPES = [path for path in sorted((ROOT / "results").glob("*/*.json")) if '"preset":' in path.read_text()[:200]]


@pytest.mark.parametrize("path", OF_RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_results_name_the_command_that_makes_them(path: Path) -> None:
    """Of these models with these seeds, as many steps and rows, and the lengths that were asked for."""
    results = json.loads(path.read_text())
    head, _, rest = results["command"].partition(" --seeds ")
    program, verb, name, flag, preset, *settings = shlex.split(head)
    assert (program, verb, name, flag) == ("hf-tasks", "run", results["recipe"], "--preset")
    recipe = load_recipe(name, preset, settings[1:])
    assert preset == results["preset"] and rest.split() == [str(seed) for seed in results["seeds"]]
    made = {run["name"] for run in results["runs"]}
    assert made == {*recipe.models} if path.name == "results.json" else made <= {*recipe.models}
    for run in results["runs"]:
        trainer = recipe.with_trainer_of(run["name"]).trainer
        assert run["train_steps"] == trainer["max_steps"]
        if recipe.head == CAUSAL_LM:
            wanted = recipe.section(run["name"]).lengths or recipe.evaluation.lengths
            longest = max((max(n) if isinstance(n, list) else n for n in wanted), default=0)
            assert (
                max((length_of(one["slice"]) for one in run["cells"] if "case" not in one["slice"]), default=0)
                == longest
            )
            seen = trainer["max_steps"] * trainer["per_device_train_batch_size"]
            assert run["train_examples"] == min(seen, recipe.data_of(run["name"]).size)


def test_headline_holds() -> None:
    """The goal of the project's first result, on the committed run of five seeds."""
    assert len(RESULTS["seeds"]) >= 5 and RESULTS["preset"] == "cpu"
    for length in (100, 1000):
        place = {"digits_a": length, "digits_b": length}
        reached = {row["name"]: row for row in RESULTS["summary"] if row["slice"] == place}
        assert reached["sequential+learned"]["max"] == 0.0
        assert reached["significance+clipped"]["min"] >= 0.99
    assert max(run["train_examples"] for run in RESULTS["runs"]) <= 120_000


@pytest.mark.parametrize("page", ["README.md", "results/README.md"])
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    links = re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", path.read_text())
    inside = [(target, anchor) for target, anchor in links if not target.startswith("http")]
    assert inside
    for target, anchor in inside:
        there = path.parent / target if target else path
        assert there.exists(), target
        if anchor:  # as GitHub makes them of headings
            heads = re.findall(r"^#+ (.*)$", there.read_text(), re.M)
            assert anchor in [re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads]


def test_every_recipe_is_on_the_front_page() -> None:
    measured = README.partition("## What else was measured")[2].partition("## ")[0]
    recipes = {path.stem for path in (ROOT / "hf_tasks" / "recipes").glob("*.yaml")}
    assert recipes - {*re.findall(r"`([\w-]+)`", measured)} == {"addition-extrapolation", "addition-adapter"}


def test_every_module_is_in_the_tree() -> None:
    tree = README.partition("## The tree")[2].partition("## ")[0]
    files = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    shipped = [Path(name) for name in files.split() if name.startswith(("hf_tasks/", "datasets_scripts/"))]
    missing = [p for p in shipped if p.name != "__init__.py" and "metrics" not in p.parts and p.name not in tree]
    assert not missing


@pytest.mark.slow
def test_code_of_the_front_page_runs_without_this_package(tmp_path: Path) -> None:
    """A model trained by the recipe adds two 30-digit numbers in a left-padded batch, in a stranger's process."""
    hf_tasks = [sys.executable, "-c", "import sys; from hf_tasks.cli import main; main(sys.argv[1:])"]
    output = tmp_path / "runs" / "addition-extrapolation-cpu"
    settings = ["models.sequential+learned=null", "models.significance+learned=null", "evaluation.lengths=[30]"]
    command = [*hf_tasks, "run", "addition-extrapolation", "--output", str(output), "--set", *settings]
    subprocess.run(command, check=True, cwd=tmp_path, capture_output=True)
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", README, re.S) if "trust_remote_code" in block]
    blocked = "import sys; sys.modules['hf_tasks'] = None\n" + code
    done = subprocess.run([sys.executable, "-c", blocked], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    total = 271828182845904523536028747135 + 314159265358979323846264338327
    assert done.stdout.strip() == str([f"{total:031}", f"{58 + 1234:05}"])


@pytest.mark.slow
def test_the_sequence_that_publishes_and_loads_back_runs_in_a_fresh_clone(tmp_path: Path) -> None:
    """The block of commands to the letter, but for the port: two environments are installed, so it takes minutes."""
    (block,) = [block for block in re.findall(r"```bash\n(.*?)```", README, re.S) if "hub serve" in block]
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(tmp_path / "clone")], check=True)
    plain = {
        key: value for key, value in os.environ.items() if not key.startswith(("HF_", "PYTHONPATH", "VIRTUAL_ENV"))
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.replace("8090", str(port))],
        cwd=tmp_path / "clone", env=plain | {"HF_HOME": str(tmp_path / "cache")}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    right, of = re.search(r"(\d+) of (\d+) sums of 20 digits are right", done.stdout).groups()  # type: ignore[union-attr]
    assert int(of) == 100 and int(right) >= 95
