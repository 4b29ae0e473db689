"""A mix: which corpora, how many rows of each, who writes them and what is dropped; one YAML file, read strictly.

    title: Stories and a textbook
    summary: What it is for, in a sentence or two.
    parts:
      tinystories: {rows: 900, writer: grammar}
      textbook: {rows: 200, writer: server, base_url: http://127.0.0.1:8000/v1, model: NAME, max_tokens_total: 1000000}

- A part is a config of the dataset. It is named after its corpus, or names it: `weak: {corpus: tinystories, ...}`.
- A part without a `writer` is written by the server at its `base_url`; with no server named, by the embedded model.
- The key of a server stands in the environment and in no file.
- A part with code may name a quality filter, and how sure that has to be:
  `quality: {filter: runs/quality-filter, probability: 0.3}`. The filter `rubric` is made on the way, without a judge.
- Programs are compared with HumanEval, or with any file or dataset of problems:
  `decontaminate: {benchmark: mbpp.jsonl, prompt: text, solution: code}`.
- Where rows are asked for, and what they may cost, may change between two runs of a mix; what is asked for may not.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hf_tasks.corpora import CORPORA, GRAMMARS
from hf_tasks.corpora.base import Writer
from hf_tasks.corpora.code_exercises import CodeExercises
from hf_tasks.corpora.decontaminate import HUMANEVAL, NGRAM, TAU
from hf_tasks.corpora.embedded import embedded
from hf_tasks.corpora.job import MOST_ATTEMPTS, Budget
from hf_tasks.corpora.server import Server
from hf_tasks.corpora.textbook import Textbook
from hf_tasks.dataset import check_names
from hf_tasks.errors import UserError, unknown_name
from hf_tasks.strict import build, read_yaml

MIXES = Path(__file__).parent / "mixes"
RUBRIC_FILTER = "rubric"

# Writer -> the fields that it takes, and whether it needs them.
SAMPLING = {"temperature": False, "top_p": False}
TAKES: dict[str, dict[str, bool]] = {
    "grammar": {},
    "embedded": {"model": False, **SAMPLING},
    "server": {"model": True, "base_url": True, **SAMPLING},
}
_FREE = ("base_url", "concurrency", "price", "max_cost", "max_tokens_total")  # no row depends on these
WITH_CODE = (CodeExercises, Textbook)  # corpora of which each row has programs


@dataclass(frozen=True, kw_only=True)
class Quality:
    """The quality filter of a part; see quality.py.

    Attributes:
        filter: what `python -m hf_tasks.corpora.quality --output FOLDER` wrote: the folder, or its name on the Hub. Or
            "rubric": one is made on the way, see `quality.make_rubric_filter`.
        probability: least score of a row that stays.
    """

    filter: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class Part:
    """One corpus of a mix.

    Attributes:
        rows: to ask for. corpus: a name of the registry; the part's own, if not given.
        writer: "grammar" (no model), "embedded" (a small model in process) or "server"; if not given, "server" where
            there is a `base_url`, else "embedded".
        model: what the server calls it; with "embedded", a GGUF file. base_url: of an OpenAI-compatible server.
        temperature, top_p: of a model's sampling; 1 if not given.
        attempts: answers that are read for a row, at most.
        concurrency: requests in flight; 64, or 8 with "embedded", if not given.
        price, max_cost, max_tokens_total: see `job.Budget`.
        quality: the filter of its code; None leaves it out.
        clean: which of `steps.STEPS` run; all of them, or of exercises `steps.CODE_STEPS`, if not given. Duplicates are
            then looked for in the parts before it as well.
    """

    rows: int
    writer: str = ""
    corpus: str | None = None
    model: str | None = None
    base_url: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    attempts: int = 4
    concurrency: int | None = None
    price: list[float] | None = None
    max_cost: float | None = None
    max_tokens_total: int | None = None
    quality: Quality | None = None
    clean: list[str] | None = None

    def __post_init__(self) -> None:
        if not self.writer:
            object.__setattr__(self, "writer", "embedded" if self.base_url is None else "server")

    @property
    def in_flight(self) -> int:
        """Requests at a time."""
        usual = 8 if self.writer == "embedded" else 64
        return usual if self.concurrency is None else self.concurrency

    @property
    def budget(self) -> dict[str, Any]:
        """As `job.generate` takes it."""
        price = None if self.price is None else (self.price[0], self.price[1])
        return {"price": price, "max_cost": self.max_cost, "max_tokens_total": self.max_tokens_total}


@dataclass(frozen=True, kw_only=True)
class Decontamination:
    """Against what rows with code are compared, and how close is too close; see decontaminate.py.

    Attributes:
        benchmark, split, prompt, solution: see `decontaminate.read_benchmark`.
        max_distance: of the embeddings by all-MiniLM-L6-v2, whose length is 1; None compares none. Where that model is
            not installed none are compared either, and the build and the card say so.
    """

    benchmark: str = HUMANEVAL
    split: str | None = None
    prompt: str | None = None
    solution: str | None = None
    tau: float = TAU
    ngram: int = NGRAM
    max_distance: float | None = None


@dataclass(frozen=True, kw_only=True)
class Mix:
    """A corpus of several parts, checked.

    Attributes:
        name: file name without `.yaml`. title, summary: for the card.
        parts: name of the part, and config of the dataset -> what it is.
        seed: of every part.
        decontaminate: None leaves it out.
    """

    name: str
    title: str
    summary: str
    parts: dict[str, Part]
    seed: int = 0
    decontaminate: Decontamination | None = field(default_factory=Decontamination)

    def corpus_of(self, part: str) -> str:
        """The name of a part's corpus."""
        return self.parts[part].corpus or part

    def clean_steps(self, part: str) -> list[str]:
        """The steps of steps.py that a part goes through."""
        from hf_tasks.corpora.steps import CODE_STEPS, STEPS  # datatrove

        usual = CODE_STEPS if self.corpus_of(part) == CodeExercises.name else STEPS
        given = self.parts[part].clean
        return [*usual] if given is None else given

    def duplicate_steps(self, part: str) -> list[str]:
        """Those of them that look for duplicates in the parts before it as well."""
        from hf_tasks.corpora.steps import DUPLICATES  # datatrove

        return [step for step in self.clean_steps(part) if step in DUPLICATES]

    def asked(self, part: str) -> dict[str, Any]:
        """All that the rows of a part depend on, JSON values; what is not given is left out."""
        given = {key: value for key, value in asdict(self.parts[part]).items() if key not in _FREE}
        compared = self.decontaminate and {k: v for k, v in asdict(self.decontaminate).items() if v is not None}
        everything = given | {
            "corpus": self.corpus_of(part),
            "seed": self.seed,
            "clean": self.clean_steps(part),
            "decontaminate": compared,
        }
        return {key: value for key, value in everything.items() if value is not None}


def mix_names() -> list[str]:
    """The mixes of the package."""
    return sorted(path.stem for path in MIXES.glob("*.yaml"))


def load_mix(name: str | Path) -> Mix:
    """Read a mix and check all of it.

    Args:
        name: a mix of the package, or the path of a YAML file.

    Raises:
        UserError: anything unknown, of the wrong type, out of range or contradictory.
    """
    path = Path(name) if str(name).endswith((".yaml", ".yml")) else MIXES / f"{name}.yaml"
    if path.parent == MIXES and not path.is_file():
        raise unknown_name("mix", path.stem, mix_names(), "or the path of a .yaml file")
    if not path.is_file():
        raise UserError(f"no mix file {str(name)!r}; the package's own: {', '.join(mix_names())}")
    try:
        content = read_yaml(path.read_text("utf-8"), path.name)
    except UnicodeDecodeError as error:
        raise UserError(f"{str(path)!r} is no UTF-8 ({error}): save it as such") from error
    if not isinstance(content, dict):
        raise UserError(f"{path.name} must hold keys and values, not {content!r}")
    mix = build(Mix, {**content, "name": path.stem}, path.stem)
    _check(mix)
    return mix


@contextmanager
def open_writer(part: Part, corpus: str) -> Iterator[Writer]:
    """The writer of a part. An embedded model runs until the block ends."""
    sampling = {key: getattr(part, key) for key in SAMPLING if getattr(part, key) is not None}
    if part.writer == "grammar":
        yield GRAMMARS[corpus]()
    elif part.writer == "server":
        yield Server(str(part.base_url), str(part.model), **sampling)
    else:
        with embedded(part.model, **sampling) as server:
            yield server


def _check(mix: Mix) -> None:
    """Refuse at the door what would fail later."""
    if not mix.parts:
        raise UserError(f"{mix.name}.parts names no part; corpora: {', '.join(CORPORA)}")
    if mix.seed < 0:
        raise UserError(f"{mix.name}.seed is {mix.seed}; give 0 or more")
    wanted = mix.decontaminate
    for key in ("split", "prompt", "solution"):
        if wanted and wanted.benchmark == HUMANEVAL and getattr(wanted, key) is not None:
            raise UserError(f"{mix.name}.decontaminate: benchmark {HUMANEVAL} takes no {key}; leave it out")
    if wanted and not (0 < wanted.tau <= 1 and wanted.ngram >= 1):
        raise UserError(
            f"{mix.name}.decontaminate has tau {wanted.tau} and ngram {wanted.ngram}; tau is a match rate above 0 and "
            f"at most 1, such as {TAU}, ngram a number of tokens, such as {NGRAM}"
        )
    if wanted and wanted.max_distance is not None and not 0 < wanted.max_distance < 2:
        raise UserError(
            f"{mix.name}.decontaminate.max_distance is {wanted.max_distance}; it is a distance of embeddings of length "
            "1, above 0 and below 2, such as 0.6"
        )
    for name, part in mix.parts.items():
        check_names(name, None, {})
        _check_part(f"{mix.name}.parts.{name}", part, mix.corpus_of(name))


def check_writer(part: Part, corpus: str, where: str = "", spelled: Callable[[str], str] = str) -> None:
    """Refuse what the writer of a part lacks, does not take or cannot write.

    Args:
        part, corpus: what is to be written.
        where: the part's own name, where it has one.
        spelled: how the user spells a key of the part.
    """
    kind, begin = part.writer, where and f"{where}: "
    if kind not in TAKES:
        raise unknown_name(f"writer of {where}" if where else "writer", kind, TAKES)
    for key in ("base_url", "model", *SAMPLING):
        given = getattr(part, key) is not None
        if given and key not in TAKES[kind]:
            raise UserError(f"{begin}{spelled('writer')} {kind} takes no {spelled(key)}; leave it out")
        if TAKES[kind].get(key) and not given:
            raise UserError(f"{begin}{spelled('writer')} {kind} needs {spelled(key)}")
    if kind == "grammar" and corpus not in GRAMMARS:
        raise UserError(f"{begin}no grammar writes {corpus}, only {', '.join(GRAMMARS)}; take server or embedded")


def _check_part(where: str, part: Part, corpus: str) -> None:
    if corpus not in CORPORA:
        raise unknown_name(f"corpus of {where}", corpus, CORPORA, "a part of another name says corpus: NAME")
    check_writer(part, corpus, where)
    for key, most in (("rows", None), ("attempts", MOST_ATTEMPTS), ("concurrency", None)):
        value = getattr(part, key)
        if value is not None and (value < 1 or (most and value > most)):
            raise UserError(f"{where}.{key} is {value}; give 1 or more" + (f", {most} at most" if most else ""))
    if part.quality and not issubclass(CORPORA[corpus], WITH_CODE):
        raise UserError(f"{where}.quality: the filter has learned code, and {corpus} has none; leave it out")
    if part.quality and not 0 < part.quality.probability < 1:
        raise UserError(f"{where}.quality.probability is {part.quality.probability}; give one between 0 and 1")
    for step in part.clean or ():
        from hf_tasks.corpora.steps import STEPS

        if step not in STEPS:
            raise unknown_name(f"step of {where}.clean", step, STEPS)
    if part.price is not None and (len(part.price) != 2 or min(part.price) < 0):
        raise UserError(f"{where}.price is {part.price}; give two: that of a million prompt and completion tokens")
    if part.writer == "grammar" and Budget(**part.budget).is_limited:
        raise UserError(f"{where}: writer grammar counts no tokens, so that no budget can be kept; leave it out")
