"""Render the committed cards from the committed results and the generators: `make cards`.

- One card a model of `results/`, for the first seed (the one that `make demo` trains), and one for its recipe; one card
  a corpus of `datasets_scripts/arithmetic.py`, which is generated into a temporary folder for the purpose, and of those
  that take minutes to make, from their committed provenance.
- The README's table of the papers' headlines is written as well; see reproduction.py.
- A card is text; only the dataset's picture is binary, and it is left alone while its card is right.
"""

import contextlib
import json
import tempfile
from pathlib import Path

from datasets_scripts import arithmetic
from datasets_scripts.common import write_corpus
from hf_tasks.analysis.plots import draw_statistics
from hf_tasks.cards import license_of, render_dataset_card, render_model_card, render_recipe_card
from hf_tasks.dataset import PICTURE, finished_splits
from hf_tasks.files import write_bytes, write_text
from hf_tasks.recipe import load_recipe, run_name
from model_cards.reproduction import in_readme

HERE = Path(__file__).parent
BUILT = ("lego", "programs", "textbooks")  # not made again, their provenance is in results/
RESULTS = HERE.parent / "results"


def model_cards() -> dict[str, str]:
    """Path under model_cards/ -> card, of every recipe with committed results and of every model in these.

    A file beside `results.json` gives cards to the models that are in no file before it.
    """
    cards: dict[str, str] = {}
    for path in sorted(RESULTS.glob("*/*.json"), key=lambda path: (path.parent, path.name != "results.json", path)):
        results = json.loads(path.read_text("utf-8"))
        if not {"recipe", "runs"} <= {*results}:  # of a command that trains no model of ours
            continue
        names, seed = dict.fromkeys(run["name"] for run in results["runs"]), results["seeds"][0]
        paths = {name: f"{results['recipe']}/{run_name(name, seed)}.md" for name in names}
        if path.name != "results.json" and {*paths.values()} <= {*cards}:
            continue
        left_out = load_recipe(results["recipe"], results["preset"]).models.keys() - names
        recipe = load_recipe(results["recipe"], results["preset"], [f"models.{name}=null" for name in sorted(left_out)])
        with contextlib.chdir(HERE):  # not where `make demo` leaves a base, whose card says more than a clone knows
            made = {
                paths[name]: render_model_card(recipe, results, name, seed, license=license_of(recipe, name))
                for name in names
            }
            if path.name == "results.json":
                made[f"{recipe.name}/README.md"] = render_recipe_card(recipe, results)
        picture = f"(../../{path.with_suffix('.png').relative_to(RESULTS.parent)})"
        cards = {where: text.replace("(results.png)", picture) for where, text in made.items()} | cards
    return cards


def dataset_cards() -> dict[str, tuple[str, bytes]]:
    """Path under model_cards/ -> card and picture, of every corpus that is published."""
    cards = {}
    with tempfile.TemporaryDirectory() as scratch:
        for script, name in [(arithmetic, name) for name in arithmetic.CORPORA]:
            command = f"python -m {script.__name__} --corpus {name} --output corpora/{name}"
            folder = write_corpus(script.CORPORA, name, Path(scratch) / name, command)
            text = (folder / "README.md").read_text("utf-8").replace(f"({PICTURE})", f"({name}.png)")
            cards[f"datasets/{name}.md"] = (text, (folder / PICTURE).read_bytes())
    for name in BUILT:
        splits = finished_splits(RESULTS / f"{name}-corpus")
        text = render_dataset_card(splits).replace(f"({PICTURE})", f"({name}.png)")
        cards[f"datasets/{name}.md"] = (text, draw_statistics(splits))
    return cards


def main() -> None:
    """Write every card that is missing or stale."""
    datasets = dataset_cards()
    pictures = {path: picture for path, (_, picture) in datasets.items()}
    for path, text in (model_cards() | {path: text for path, (text, _) in datasets.items()}).items():
        card = HERE / path
        if card.is_file() and card.read_text("utf-8") == text:
            continue
        card.parent.mkdir(exist_ok=True)
        if path in pictures:
            write_bytes(card.with_suffix(".png"), pictures[path])
        write_text(card, text)
        print(f"rendered model_cards/{path}")
    readme = HERE.parent / "README.md"
    before = readme.read_text("utf-8")
    if (now := in_readme(before)) != before:
        write_text(readme, now)
        print("rendered the table of README.md")


if __name__ == "__main__":
    main()
