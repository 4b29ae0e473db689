"""The command line: `hf-tasks list | generate | corpus | judge | run | train | evaluate | analyze | publish | hub`.

- A mistake of the user is one line and exit code 2, an interruption 130; `--debug` shows the traceback.
- `--seeds`, `--set` and `--namespace` take several values in a row: `--seeds 0 1 2`.
- torch and transformers are imported by the commands that need them, so that `list` and `--help` answer at once.
"""

import os
import shlex
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from hf_tasks.errors import UserError, unknown_name

app = typer.Typer(
    name="hf-tasks",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Small transformers on synthetic reasoning tasks. Begin with: hf-tasks run addition-extrapolation",
)

_SEVERAL = ("--seeds", "--set", "--namespace")
INTERRUPTED = 130  # what a shell reports after Ctrl-C; typer makes it of a KeyboardInterrupt inside a command
PAUSED = "interrupted; nothing is lost: the same command continues"

RecipeName = Annotated[str, typer.Argument(help="A recipe of the package, or a .yaml file.")]
Preset = Annotated[str, typer.Option(help="Which of the recipe's presets.")]
Seeds = Annotated[list[str] | None, typer.Option(help="Seeds to train; the recipe's own if not given.")]
Output = Annotated[Path | None, typer.Option(help="Output folder; runs/RECIPE-PRESET if not given.")]
Jobs = Annotated[int, typer.Option(help="Models trained side by side, each in a process with its share of the cores.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="key=value over the recipe, dotted keys.")]


def _load(recipe: str, preset: str, output: Path | None, settings: list[str] | None) -> tuple[Any, Path]:
    from transformers.utils import logging

    from hf_tasks.recipe import load_recipe

    loaded = load_recipe(recipe, preset, settings)
    logging.disable_progress_bar()  # of transformers: one for the single shard of every checkpoint
    return loaded, output or Path("runs") / f"{loaded.name}-{preset}"


def _seeds(given: list[str] | None) -> list[int] | None:
    """Seeds as numbers; typer's own message for a wrong one does not name it."""
    for text in given or []:
        if not text.isdecimal() or int(text) >= 2**32:
            raise UserError(f"--seeds takes whole numbers from 0 to {2**32 - 1}, not {text!r}")
    return [int(text) for text in given] if given else None


@app.command("list")
def list_(
    what: Annotated[str | None, typer.Argument(help="encodings, position-ids, tasks, corpora or recipes.")] = None,
) -> None:
    """What there is to choose from.

    Example: hf-tasks list encodings
    """
    known = {
        "encodings": _encodings,
        "position-ids": _position_ids,
        "tasks": _tasks,
        "corpora": _corpora,
        "recipes": _recipes,
    }
    if what is not None and what not in known:
        raise unknown_name("list", what, known)
    for kind in known if what is None else [what]:
        table = Table("name", "what it is", title=kind, title_justify="left", box=None, header_style="dim")
        for name, summary in known[kind]().items():
            table.add_row(name, summary)
        Console().print(table)


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0]


def _encodings() -> dict[str, str]:
    from hf_tasks.models import ENCODINGS

    return {name: _first_line(cls) for name, cls in ENCODINGS.items()}


def _position_ids() -> dict[str, str]:
    from hf_tasks.models import POSITION_IDS

    return {name: _first_line(cls) for name, cls in POSITION_IDS.items()}


def _tasks() -> dict[str, str]:
    from hf_tasks.tasks import TASKS

    return {name: _first_line(cls) for name, cls in TASKS.items()}


def _corpora() -> dict[str, str]:
    from hf_tasks.corpora import CORPORA

    return {name: _first_line(cls) for name, cls in CORPORA.items()}


def _recipes() -> dict[str, str]:
    from hf_tasks.recipe import RECIPES, recipe_names
    from hf_tasks.strict import read_yaml

    return {name: read_yaml((RECIPES / f"{name}.yaml").read_text(), name)["title"] for name in recipe_names()}


@app.command()
def generate(
    task: Annotated[str, typer.Argument(help="A task; see: hf-tasks list tasks.")],
    size: Annotated[int, typer.Option(help="Number of rows.")],
    output: Annotated[Path, typer.Option(help="Folder for parquet files and the dataset card.")],
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "train",
    seed: Annotated[int, typer.Option(help="Seed of the rows.")] = 0,
    config: Annotated[str, typer.Option(help="Config of the dataset that the split belongs to.")] = "default",
    name: Annotated[str | None, typer.Option(help="Name of the split, if not its own, such as test_20.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value, a parameter of the task.")] = None,
) -> None:
    """Write rows of a task as parquet with a dataset card; `load_dataset(DIR)` reads them. A folder takes many splits.

    Example: hf-tasks generate addition --split test --size 1000 --output sums --set digits=[1,20] reverse=answer
    """
    from hf_tasks.dataset import write_dataset
    from hf_tasks.strict import parse_settings
    from hf_tasks.tasks import get_task

    parameters = parse_settings(settings or [])
    command = shlex.join(["hf-tasks", *sys.argv[1:]])
    folder = write_dataset(get_task(task, **parameters), output, {split: size}, seed, command, config, name)
    print(f"{size} rows of {task} ({name or split}) are in {folder}")


@app.command()
def corpus(
    name: Annotated[str, typer.Argument(help="A corpus; see: hf-tasks list corpora.")],
    rows: Annotated[int, typer.Option(help="Rows to ask for.")],
    output: Annotated[Path, typer.Option(help="Folder for the answers and rows.parquet.")],
    writer: Annotated[
        str | None,
        typer.Option(
            help="grammar (no model), embedded (a small model in process) or server; if not given, server with "
            "--base-url, else embedded."
        ),
    ] = None,
    base_url: Annotated[str | None, typer.Option(help="Of an OpenAI-compatible server; key in OPENAI_API_KEY.")] = None,
    model: Annotated[
        str | None,
        typer.Option(help="What the server calls the model; with embedded, a GGUF file or USER/REPO:FILE.gguf."),
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Of the model's sampling; 1 if not given.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Of the model's sampling; 1 if not given.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of what is asked for.")] = 0,
    concurrency: Annotated[int | None, typer.Option(help="Requests in flight; 64, or 8 with embedded.")] = None,
    words: Annotated[int | None, typer.Option(help="Verbs, nouns and adjectives of stories, so many of each.")] = None,
    attempts: Annotated[int, typer.Option(help="Answers that are read for a row, at most.")] = 4,
    max_tokens_total: Annotated[int | None, typer.Option(help="Stop before more tokens are used.")] = None,
    price: Annotated[
        tuple[float, float] | None, typer.Option(help="Of a million prompt and completion tokens.")
    ] = None,
    max_cost: Annotated[float | None, typer.Option(help="Stop before it costs more, in the money of --price.")] = None,
) -> None:
    """Ask a writer for a text corpus. The same command again continues; no answer is asked for twice.

    Example: hf-tasks corpus tinystories --writer grammar --rows 2000 --output stories
    """
    from hf_tasks.corpora import get_corpus
    from hf_tasks.corpora.diversity import diversity_markdown
    from hf_tasks.corpora.job import REPORT, TABLE, generate, write_report
    from hf_tasks.corpora.mix import Part, check_writer, open_writer

    asked = get_corpus(name, words)
    part = Part(
        rows=rows, writer=writer or "", base_url=base_url, model=model, temperature=temperature, top_p=top_p,
        concurrency=concurrency,
    )  # fmt: skip
    check_writer(part, name, spelled=lambda key: f"--{key.replace('_', '-')}")
    with open_writer(part, name) as who:
        report = generate(asked, who, rows, output, seed, part.in_flight, attempts, max_tokens_total, price, max_cost)
    rejected = ", ".join(f"{reason} {count}" for reason, count in report.rejections.most_common()) or "none"
    print(
        f"{report.kept} of {rows} rows of {name} by {who.label} are in {output / TABLE}; answers rejected: {rejected}"
    )
    print(diversity_markdown(write_report(asked, output, seed, report)["diversity"]) + f"all of it is in {REPORT}")
    if report.given_up or report.stopped_by:
        why = report.stopped_by or ", ".join(report.given_up)
        missing = report.rows - report.settled + report.given_up.total()
        raise UserError(f"{missing} rows got no answer ({why}); the same command asks for them again")


@app.command()
def judge(
    source: Annotated[
        str,
        typer.Argument(
            metavar="MODEL_OR_FILE",
            help="A causal language model, its folder or name on the Hub; or a .jsonl or .parquet file with columns "
            "beginning and completion.",
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder for completions, replies, report.json and report.md.")],
    judges: Annotated[
        list[str] | None,
        typer.Option("--judge", help="offline (programs alone, the default), embedded or server; may be repeated."),
    ] = None,
    base_url: Annotated[
        list[str] | None, typer.Option(help="Of the server; key in OPENAI_API_KEY. One for each --model, or for all.")
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="A judge of the server; repeated, several judges.")] = None,
    gguf: Annotated[
        str | None, typer.Option(help="Of the embedded judge: a file or USER/REPO:FILE.gguf; SmolLM2 if not given.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="Another model or file, with which the judges compare the completions.")
    ] = None,
    stories: Annotated[
        str | None, typer.Option(help="What the model trained on, to look for copies: a parquet file or a dataset.")
    ] = None,
    likelihood: Annotated[
        str, typer.Option(help="A causal language model; default is SmolLM2, none leaves likelihood out.")
    ] = "default",
    completions: Annotated[int, typer.Option(help="Of each of the 50 beginnings, at temperature 1.")] = 10,
    max_new_tokens: Annotated[int, typer.Option(help="Of a completion, at most.")] = 300,
    seed: Annotated[int, typer.Option(help="Seed of the completions.")] = 0,
    concurrency: Annotated[int, typer.Option(help="Completions before judges at a time.")] = 8,
    max_tokens_total: Annotated[int | None, typer.Option(help="Ask no judge for more, all of them together.")] = None,
    price: Annotated[
        tuple[float, float] | None, typer.Option(help="Of a million prompt and completion tokens.")
    ] = None,
    max_cost: Annotated[float | None, typer.Option(help="Stop before it costs more, in the money of --price.")] = None,
) -> None:
    """Grade a model's stories: by programs, by judges that are models (GPT-Eval), and by what they copy.

    The same command again continues; nothing is sampled or asked for twice.

    Example: hf-tasks judge runs/tinystories-cpu/2-layers-seed0 --output grades --judge server --base-url
    http://127.0.0.1:8000/v1 --model judge --reference runs/tinystories-cpu/1-layer-seed0
    """
    from hf_tasks.corpora.grading import PAGE, grading_markdown
    from hf_tasks.corpora.grading import judge as grade
    from hf_tasks.corpora.job import Budget

    budget = Budget(max_tokens_total, price, max_cost)
    with _judges(judges or ["offline"], base_url or [], model or [], gguf) as asked:
        report = grade(
            source,
            output,
            asked,
            reference,
            stories,
            likelihood,
            completions,
            max_new_tokens,
            seed,
            concurrency,
            budget,
        )
    print(grading_markdown(report, shown=False) + f"\nall of it is in {output / PAGE} and report.json")
    found = [*(report["grades"] or {"judges": {}})["judges"].values()]
    found += [*(report["comparisons"] or {"judges": {}})["judges"].values()]
    lost: Counter[str] = sum((Counter(one["unanswered"]) for one in found), Counter())
    if lost:
        raise UserError(f"{lost.total()} questions got no answer ({', '.join(lost)}); the same command asks them again")


@contextmanager
def _judges(kinds: list[str], base_urls: list[str], models: list[str], gguf: str | None) -> Iterator[list[Any]]:
    """The judges that the options name; none where programs alone are to grade."""
    from hf_tasks.corpora.embedded import embedded
    from hf_tasks.corpora.server import Server

    known = ("offline", "embedded", "server")
    if unknown := [kind for kind in kinds if kind not in known]:
        raise unknown_name("judge", unknown[0], known)
    for kind, option, given in (("server", "base-url", base_urls), ("server", "model", models),
                                ("embedded", "gguf", gguf)):  # fmt: skip
        if given and kind not in kinds:
            raise UserError(f"--{option} is an option of --judge {kind}; give that, too, or leave it out")
        if kind == "server" and kind in kinds and not given:
            raise UserError(f"--judge server needs --{option}")
    if len(base_urls) not in (0, 1, len(models)):
        raise UserError(f"{len(base_urls)} --base-url for {len(models)} --model; give one for each, or one for all")
    urls = base_urls * len(models) if len(base_urls) == 1 else base_urls
    found: list[Any] = [Server(*pair) for pair in zip(urls, models, strict=True)]
    with ExitStack() as stack:
        if "embedded" in kinds:
            found.append(stack.enter_context(embedded(gguf)))
        yield found


@app.command()
def run(
    recipe: RecipeName,
    preset: Preset = "cpu",
    seeds: Seeds = None,
    output: Output = None,
    jobs: Jobs = 1,
    settings: Settings = None,
) -> None:
    """Train, evaluate and describe every model of a recipe. The same command again continues.

    Example: hf-tasks run addition-extrapolation --preset cpu --seeds 0 1 2 --set trainer.max_steps=700
    """
    from hf_tasks.run import run_recipe

    loaded, folder = _load(recipe, preset, output, settings)
    report(run_recipe(loaded, _seeds(seeds) or loaded.seeds, folder, jobs), folder)


@app.command()
def train(
    recipe: RecipeName,
    preset: Preset = "cpu",
    seeds: Seeds = None,
    output: Output = None,
    jobs: Jobs = 1,
    settings: Settings = None,
) -> None:
    """The first step of `run`: train only.

    Example: hf-tasks train addition-extrapolation --seeds 0
    """
    from hf_tasks.run import train_recipe

    loaded, folder = _load(recipe, preset, output, settings)
    train_recipe(loaded, _seeds(seeds) or loaded.seeds, folder, jobs)
    print(f"trained models are in {folder}")


@app.command()
def evaluate(recipe: RecipeName, preset: Preset = "cpu", output: Output = None, settings: Settings = None) -> None:
    """The second step of `run`: measure what is trained, write results.json, the picture and the cards.

    Example: hf-tasks evaluate addition-extrapolation
    """
    from hf_tasks.run import evaluate_recipe

    loaded, folder = _load(recipe, preset, output, settings)
    report(evaluate_recipe(loaded, folder), folder)


@app.command()
def analyze(
    checkpoint: Annotated[Path, typer.Argument(help="A trained token classifier: a model's or checkpoint's folder.")],
    output: Annotated[Path | None, typer.Option(help="The page; CHECKPOINT/analysis.html if not given.")] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="The recipe.yaml of its run, or the folder it is in, if not beside it.")
    ] = None,
    size: Annotated[int, typer.Option(help="Number of test sentences.")] = 400,
    seed: Annotated[int, typer.Option(help="Seed of the sentences and of all else that is drawn.")] = 0,
    layers: Annotated[int | None, typer.Option(help="How often a shared layer is applied, if not as usual.")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="key=value, a parameter of the task.")] = None,
) -> None:
    """Write a page on how a token classifier does it: accuracy, shortcuts, heads, probes, patches.

    Example: hf-tasks analyze runs/lego-generalization-cpu/match-seed0 --set clauses=[12,12]
    """
    from transformers.utils import logging

    from hf_tasks.analysis.report import analyze

    logging.disable_progress_bar()  # of transformers: one for the single shard of every checkpoint
    print(f"the page is {analyze(checkpoint, output, settings or [], size, seed, layers, recipe)}")


@app.command()
def publish(
    folder: Annotated[Path, typer.Argument(help="A model of a run, a generated dataset, or a metric's .py.")],
    repo_id: Annotated[str, typer.Argument(help="user/name on the Hub.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private if it is new.")] = False,
    branch: Annotated[str | None, typer.Option(help="Commit to this branch instead of main.")] = None,
    tag: Annotated[str | None, typer.Option(help="Name the commit, such as v1.0.0.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show files and card; touch nothing.")] = False,
    dataset: Annotated[str | None, typer.Option(help="Of a model: its dataset on the Hub, if not USER/TASK.")] = None,
    base: Annotated[str | None, typer.Option(help="Of an adapter: where its base is on the Hub.")] = None,
    license: Annotated[str | None, typer.Option(help="Of a model trained on another's weights: theirs.")] = None,
    allow_unevaluated: Annotated[
        bool, typer.Option("--allow-unevaluated", help="Of a model: go without results; the card says so.")
    ] = False,
) -> None:
    """Upload a trained model or adapter, a dataset or a metric, with its card, in one commit.

    Example: hf-tasks publish runs/addition-extrapolation-cpu/significance_clipped-seed0 me/adder --dry-run
    """
    from hf_tasks.publish import publish

    done = publish(
        folder, repo_id, private=private, branch=branch, tag=tag, dry_run=dry_run,
        dataset_id=dataset, base_id=base, license=license, allow_unevaluated=allow_unevaluated,
    )  # fmt: skip
    for name, size in done.upload.sizes():
        print(f"{size:>14,}  {name}")
    for name in done.deleted:
        print(f"       deleted  {name}")
    if done.commit is None:
        print(f"would go to {done.upload.kind} {repo_id}, with this card:\n\n{done.upload.card()}")
    else:
        print(f"published to {done.url} (commit {done.commit[:12]}{f', tag {tag}' if tag else ''})")


hub = typer.Typer(
    no_args_is_help=True,
    help="A Hub of your own, on a network without internet. Example: hf-tasks hub serve hub --port 8090",
)
app.add_typer(hub, name="hub")
HubFolder = Annotated[Path, typer.Argument(help="Folder that holds the hub's repositories and users.")]


@hub.command()
def serve(
    folder: HubFolder,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets the network in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8090,
) -> None:
    """Serve models, datasets and metrics to huggingface_hub, transformers, datasets and evaluate, until Ctrl-C.

    Example: hf-tasks hub serve hub --port 8090
    """
    try:
        from hf_tasks.hub.server import serve
    except ImportError as error:
        raise UserError(f'serving needs the extra "hub" ({error}): pip install "hf-tasks[hub]"') from error

    def ready(url: str) -> None:
        print(f"serving {folder}; clients need: export HF_ENDPOINT={url} HF_HUB_DISABLE_XET=1", flush=True)

    serve(folder, host, port, ready)


@hub.command()
def token(
    folder: HubFolder,
    name: Annotated[str, typer.Argument(help="The user that the token is for.")],
    namespaces: Annotated[list[str] | None, typer.Option("--namespace", help="Another namespace to write to.")] = None,
) -> None:
    """Make a user's token, in place of an earlier one, and print it; it is shown this once.

    Example: hf-tasks hub token hub me --namespace our-group
    """
    from hf_tasks.hub.users import make_token

    print(make_token(folder, name, namespaces or []))


def report(results: dict[str, Any], folder: Path) -> None:
    """Print a `results.json` as tables, one for the plain lengths and one a hard family, and where it lies."""
    if not results:  # another process of torchrun has them
        return
    from hf_tasks.cards import results_table

    names = list(dict.fromkeys(run["name"] for run in results["runs"]))
    of_texts = any("text" in row["slice"] for row in results["summary"])
    metric = next((row["metric"].replace("_", " ") for row in results["summary"]), "")
    title, first = ("held-out texts", "metric") if of_texts else (metric, "length")
    title += ", median (minimum) over seeds" if len(results["seeds"]) > 1 else ""
    for case in dict.fromkeys(row["slice"].get("case") for row in results["summary"]):
        table = Table(first, *names, title=f"{title}{f', {case}' if case else ''}", title_justify="left", box=None)
        for row in results_table(results, case):
            table.add_row(row["slice"], *(row.get(name, "") for name in names))
        Console().print(table)
    print(f"results.json, results.png and the models are in {folder}")


def spread(arguments: list[str]) -> list[str]:
    """`--seeds 0 1 2` -> `--seeds 0 --seeds 1 --seeds 2`, which is what click understands."""
    result: list[str] = []
    option = None
    for argument in arguments:
        if argument in _SEVERAL:
            option = argument
        elif argument.startswith("--"):
            option = None
            result.append(argument)
        else:
            result += [argument] if option is None else [option, argument]
    return result


def main(arguments: list[str] | None = None) -> None:
    """Run a command and leave with 0, 2 (a user's mistake, a full disk) or 130 (interrupted)."""
    if int(os.environ.get("RANK", 0)):  # of torchrun's processes the first speaks
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    given = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    try:
        code = app(spread(given), standalone_mode=False) or 0
        if code != INTERRUPTED:
            sys.exit(code)
        _leave(PAUSED, code)
    except KeyboardInterrupt:
        _leave(PAUSED, INTERRUPTED)
    except typer.TyperException as error:
        _leave(error.format_message(), 2)
    except (UserError, OSError) as error:
        if debug:
            raise
        _leave(" ".join(str(error).split()), 2)


def _leave(message: str, code: int) -> None:
    print(f"hf-tasks: {message}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":  # for torchrun
    main()
