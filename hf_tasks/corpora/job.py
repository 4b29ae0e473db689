"""From a corpus and a writer to `rows.parquet`: asks for every row, loses no answer, stops when told.

- A reply counts once it is in the cache (`replies.jsonl`), on the disk. Replies go there in groups: those that arrive
  while one group is written are the next. So a slow disk costs no request its place.
- Nothing else is kept. A run that continues another reads its replies and comes to the same rows, counts and bytes;
  what was in flight, or on its way to the disk, when the first was killed is asked again.
- Rows are written in their own order, whichever reply came first, a thousand at a time, into hidden parts that one
  rename at the end turns into the table.
- A budget is not overdrawn: a request is sent only if the most it can cost is left, counting those in flight. (Tries
  that failed are not counted: what a server bills for them is not known.)
- Of rows that ask for the very same thing, the second counts its attempts from 100, the third from 200: they are
  different requests, and get different answers.
"""

import asyncio
import errno
import json
import shutil
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from hf_tasks.corpora.base import Corpus, Rejected, Reply, Request, Row, Writer, split_of
from hf_tasks.corpora.cache import ReplyCache, reply_key
from hf_tasks.corpora.diversity import Running, diversity_report
from hf_tasks.corpora.server import NoAnswer
from hf_tasks.errors import UserError
from hf_tasks.files import write_text

TABLE = "rows.parquet"
REPORT = "report.json"
MOST_ATTEMPTS = 100  # of a row
COLUMNS = (
    "text",
    "split",
    "writer",
    "model",
    "sampling",
    "prompt_hash",
    "attempt",
    "index",
    "prompt_tokens",
    "completion_tokens",
)  # fmt: skip  (of every corpus; behind its own)
PARAMETER = "parameter_"  # prefix of the columns that hold parameters
_GROUP = 1000  # rows of a row group
_TURN = 64  # rows that are dealt with before the event loop gets its turn
_BACKLOG = 1024  # replies on their way to the disk before no more are asked for
_TEMPLATE = 256  # tokens that a chat template adds to a prompt, at most
_STATUS_SECONDS = 0.2  # between two looks at what starves, which goes through every value of every axis
SILENCE = 20  # requests without an answer, one after the other, after which the server counts as gone


@dataclass
class Report:
    """What became of a job. All but `requests` and `seconds` are the same however often it was interrupted.

    Attributes:
        rows: asked for. kept: in the table. left_out: with all their attempts rejected.
        given_up: rows that got no answer in this run, by reason; another run asks for them again.
        rejections: answers that were not kept, by reason.
        replies: read, from the cache or fresh. requests: answered in this run.
        prompt_tokens, completion_tokens: of all replies. cost: of all replies, in the money of `price`.
        seconds: of this run. stopped_by: "" if it came to its end, or "max_tokens_total", "max_cost", "no answers".
        diversity: of the rows so far, in their order: which value starves, how many open alike, distinct-n, ROUGE-L.
    """

    rows: int
    kept: int = 0
    left_out: int = 0
    given_up: Counter[str] = field(default_factory=Counter)
    rejections: Counter[str] = field(default_factory=Counter)
    replies: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    seconds: float = 0.0
    stopped_by: str = ""
    diversity: Running = field(default_factory=lambda: Running(()))

    @property
    def tokens(self) -> int:
        """Of all replies, prompts and completions together."""
        return self.prompt_tokens + self.completion_tokens

    @property
    def settled(self) -> int:
        """Rows that were decided."""
        return self.kept + self.left_out + self.given_up.total()


@dataclass(frozen=True)
class Budget:
    """What a job may use.

    Attributes:
        max_tokens_total: prompts and completions together. max_cost: in the money of `price`.
        price: of a million tokens of prompts and of completions.
    """

    max_tokens_total: int | None = None
    price: tuple[float, float] | None = None
    max_cost: float | None = None

    def __post_init__(self) -> None:
        if self.max_cost is not None and self.price is None:
            raise UserError(f"max_cost {self.max_cost!r} needs price: that of a million prompt and completion tokens")
        for name in ("max_tokens_total", "max_cost"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise UserError(f"{name} {value!r} is no budget; give more than 0, or leave it out")

    @property
    def is_limited(self) -> bool:
        return self.max_tokens_total is not None or self.max_cost is not None

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        """0 where no price is known."""
        prompt, completion = self.price or (0.0, 0.0)
        return (prompt_tokens * prompt + completion_tokens * completion) / 1e6

    def exceeded(self, prompt_tokens: int, completion_tokens: int) -> str:
        """The limit that so many tokens would break; "" if none."""
        if self.max_tokens_total is not None and prompt_tokens + completion_tokens > self.max_tokens_total:
            return "max_tokens_total"
        if self.max_cost is not None and self.cost(prompt_tokens, completion_tokens) > self.max_cost:
            return "max_cost"
        return ""


@dataclass
class Spending:
    """What was used of a budget, and what is set aside for the requests on their way.

    Attributes:
        prompt_tokens, completion_tokens: used. reserved: the most tokens, of prompts and of completions, that what is
            on its way can cost.
    """

    budget: Budget
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reserved: tuple[int, int] = (0, 0)

    @property
    def cost(self) -> float:
        return self.budget.cost(self.prompt_tokens, self.completion_tokens)

    def reserve(self, messages: Sequence[Mapping[str, str]], max_tokens: int) -> str:
        """Set aside the most that a request can cost, unless that breaks a limit, which is then returned.

        A token of a prompt is a byte at least, and the server's template adds some.
        """
        if not self.budget.is_limited:
            return ""
        prompt, completion = self._reserved_with(messages, max_tokens, 1)
        limit = self.budget.exceeded(self.prompt_tokens + prompt, self.completion_tokens + completion)
        if not limit:
            self.reserved = prompt, completion
        return limit

    def free(self, messages: Sequence[Mapping[str, str]], max_tokens: int) -> None:
        """Take back what was set aside for a request."""
        if self.budget.is_limited:
            self.reserved = self._reserved_with(messages, max_tokens, -1)

    def add(self, reply: Reply, label: str) -> None:
        """Count what a reply of a writer or judge has used.

        Raises:
            UserError: it does not say, and there is a budget to keep.
        """
        if self.budget.is_limited and not reply.prompt_tokens + reply.completion_tokens:
            raise UserError(
                f"{label!r} counts no tokens, so that no budget can be kept; leave max_tokens_total and max_cost out"
            )
        self.prompt_tokens += reply.prompt_tokens
        self.completion_tokens += reply.completion_tokens

    def _reserved_with(self, messages: Sequence[Mapping[str, str]], max_tokens: int, sign: int) -> tuple[int, int]:
        prompt = _TEMPLATE + sum(len(message["content"].encode()) for message in messages)
        return self.reserved[0] + sign * prompt, self.reserved[1] + sign * max_tokens


def generate(
    corpus: Corpus,
    writer: Writer,
    rows: int,
    folder: str | Path,
    seed: int = 0,
    concurrency: int = 64,
    attempts: int = 4,
    max_tokens_total: int | None = None,
    price: tuple[float, float] | None = None,
    max_cost: float | None = None,
    on_progress: Callable[[Report], None] | None = None,
) -> Report:
    """Ask for rows 0 ... `rows` - 1 of a corpus and write those that are kept to `folder/rows.parquet`.

    Its columns are those that the corpus reads from an answer; every parameter, as `parameter_NAME`; then `text`,
    `split`, `writer`, `model`, `sampling` (JSON), `prompt_hash`, `attempt` (as the writer was given it), `index`,
    `prompt_tokens` and `completion_tokens` of the reply. There is no table where no row was kept.

    Args:
        corpus: what to ask for.
        writer: whom to ask; entered, if it is an asynchronous context manager.
        rows: how many.
        folder: for the replies and the table; made if it is not there.
        seed: of the corpus.
        concurrency: requests in flight, at most.
        attempts: answers that are read for a row, at most. One that ran into `max_tokens` is rejected ("cut_off").
        max_tokens_total: of prompts and completions together, of all runs in this folder.
        price: of a million tokens of prompts and of completions.
        max_cost: in the same money, likewise.
        on_progress: called with the report as it grows, a few times a second or more.

    Returns:
        the report.

    Raises:
        UserError: a number out of range; a folder that another process writes to; a full disk; a server that will not
            answer; a budget for a writer that counts no tokens. What was answered until then is in the cache.
    """
    budget = Budget(max_tokens_total, price, max_cost)
    return asyncio.run(
        generate_async(corpus, writer, rows, folder, seed, concurrency, attempts, budget, on_progress=on_progress)
    )


async def generate_async(
    corpus: Corpus,
    writer: Writer,
    rows: int,
    folder: str | Path,
    seed: int = 0,
    concurrency: int = 64,
    attempts: int = 4,
    budget: Budget | None = None,
    on_progress: Callable[[Report], None] | None = None,
) -> Report:
    """As `generate`, for callers that run in an event loop (a notebook)."""
    for name, value, most in (("rows", rows, None), ("concurrency", concurrency, None),
                              ("attempts", attempts, MOST_ATTEMPTS)):  # fmt: skip
        if value < 1 or (most is not None and value > most):
            raise UserError(f"{name} {value!r} is out of range; give 1 or more" + (f", {most} at most" if most else ""))
    folder = Path(folder)
    try:
        with ReplyCache(folder) as cache, _progress(rows, on_progress) as show:
            async with AsyncExitStack() as stack:
                if hasattr(writer, "__aenter__"):
                    await stack.enter_async_context(writer)  # type: ignore[arg-type]
                table = _Table(folder, Running([*corpus.axes]))
                job = _Job(corpus, writer, rows, seed, concurrency, attempts, budget or Budget(), cache, table)
                return await job.run(show)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"no space left on the disk of {str(folder)!r}: the answers in it are kept; free some space, and run the "
            "same command again"
        ) from error


def write_report(corpus: Corpus, folder: str | Path, seed: int, report: Report) -> dict[str, Any]:
    """Write `report.json` beside the table of a finished job: what became of its rows, and how varied they are.

    What differs between a run that was interrupted and one that was not, `requests` and `seconds`, is left out.

    Args:
        corpus, folder, seed: as `generate` was given them. report: what it returned.

    Returns:
        `corpus`, `seed`; the numbers of `Report`; `running`: `starving` (axis, value, kept, asked; None where nothing
        starves), `alike_openings`, `distinct` (n -> distinct-n of the last thousand rows) and `self_overlap` (mean
        ROUGE-L of a few pairs of them), as they stood at the end;
        `diversity`: see `diversity_report`, with the rows that were decided as those that were asked for.
    """
    path, running = Path(folder) / TABLE, report.diversity
    texts = pq.read_table(path, columns=["text"])["text"].to_pylist() if report.kept else []
    found = {
        "corpus": corpus.name,
        "seed": seed,
        **{name: value for name, value in vars(report).items() if name not in ("requests", "seconds", "diversity")},
        "running": {
            "starving": running.starving,
            "alike_openings": running.alike_openings,
            "distinct": running.distinct,
            "self_overlap": running.self_overlap,
        },
        "diversity": diversity_report(texts, [], [], [], seed=seed)
        | {"asked": report.settled, "axes": running.counts()},
    }
    write_text(Path(folder) / REPORT, json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    return found


@dataclass(frozen=True)
class _Ask:
    """One request for a row. `attempt` is as the writer is given it, `last` the last one that the row may have."""

    request: Request
    attempt: int
    last: int
    key: str


class _Job:
    def __init__(
        self, corpus: Corpus, writer: Writer, rows: int, seed: int, concurrency: int, attempts: int, budget: Budget,
        cache: ReplyCache, table: "_Table",
    ) -> None:  # fmt: skip
        self.corpus, self.writer, self.rows, self.seed = corpus, writer, rows, seed
        self.concurrency, self.attempts, self.spending = concurrency, attempts, Spending(budget)
        self.cache, self.table, self.report = cache, table, Report(rows, diversity=table.diversity)
        self.next_index = 0
        self.same_prompts: Counter[str] = Counter()
        self.again: deque[_Ask] = deque()  # before any new row
        self.flying: set[asyncio.Task[None]] = set()
        self.arrived: list[tuple[_Ask, Reply]] = []  # on their way to the disk
        self.silence = 0
        self.failure: Exception | None = None
        self.wake = asyncio.Event()
        self.sampling = json.dumps(writer.sampling)

    async def run(self, show: Callable[[Report], None]) -> Report:
        start = time.perf_counter()
        keeping: set[asyncio.Task[None]] = set()  # at most one
        try:
            while True:
                self.wake.clear()
                self.fill()
                if self.failure:
                    raise self.failure
                if batch := self.arrived:
                    self.arrived = []
                    keeping = {asyncio.create_task(self.keep(batch))}
                    await asyncio.shield(next(iter(keeping)))
                    for ask, reply in batch:
                        self.spending.free(ask.request.messages, ask.request.max_tokens)
                        self.settle(ask, reply)
                    self.report.requests += len(batch)
                elif self.report.stopped_by or not (self.flying or self.has_more()):
                    break
                else:
                    await self.wake.wait()
                self.report.seconds = time.perf_counter() - start
                show(self.report)
                await asyncio.sleep(0)
        finally:
            for task in self.flying:
                task.cancel()
            await asyncio.gather(*self.flying, *keeping, return_exceptions=True)
            await self.keep(self.arrived)  # whatever went wrong elsewhere
        self.table.write()
        self.report.seconds = time.perf_counter() - start
        show(self.report)
        return self.report

    async def keep(self, replies: list[tuple[_Ask, Reply]]) -> None:
        """Put replies on the disk, in a thread, while others arrive."""
        if replies:
            await asyncio.to_thread(self.cache.append, {ask.key: reply for ask, reply in replies})

    def has_more(self) -> bool:
        return bool(self.again) or self.next_index < self.rows

    def fill(self) -> None:
        """Send requests while there is room; what the cache can answer is settled on the way."""
        for _ in range(_TURN):
            full = len(self.flying) >= self.concurrency or len(self.arrived) >= _BACKLOG
            if full or self.report.stopped_by or self.failure or not self.has_more():
                return
            ask = self.again.popleft() if self.again else self.next_row()
            if reply := self.cache.get(ask.key):
                self.settle(ask, reply)
            elif limit := self.spending.reserve(ask.request.messages, ask.request.max_tokens):
                self.again.appendleft(ask)
                if not any(self.spending.reserved):  # nothing that is on its way could turn out cheaper
                    self.report.stopped_by = limit
                return
            else:
                self.flying.add(asyncio.create_task(self.send(ask)))
        self.wake.set()

    def next_row(self) -> _Ask:
        request = self.corpus.request(self.next_index, self.corpus.parameters(self.next_index, self.seed))
        self.next_index += 1
        prompt = request.prompt_hash
        first = self.same_prompts[prompt] * MOST_ATTEMPTS
        self.same_prompts[prompt] += 1
        return self.ask(request, first, first + self.attempts - 1)

    def ask(self, request: Request, attempt: int, last: int) -> _Ask:
        writer = self.writer
        key = reply_key(request.messages, request.schema, request.max_tokens, writer.label, writer.sampling, attempt)
        return _Ask(request, attempt, last, key)

    async def send(self, ask: _Ask) -> None:
        try:
            try:
                reply = await self.writer.write(ask.request, ask.attempt)
            except NoAnswer as error:
                self.give_up(ask, error.reason)
            else:
                self.silence = 0
                self.arrived.append((ask, reply))
            self.flying.discard(asyncio.current_task())  # type: ignore[arg-type]
            self.fill()  # at once: the place is not to stand empty until the disk has written
        except Exception as error:
            self.failure = self.failure or error
        finally:
            self.flying.discard(asyncio.current_task())  # type: ignore[arg-type]
            self.wake.set()

    def give_up(self, ask: _Ask, reason: str) -> None:
        self.spending.free(ask.request.messages, ask.request.max_tokens)
        self.report.given_up[reason] += 1
        self.table.add(ask.request, None)
        self.silence += 1
        if self.silence >= SILENCE:
            self.report.stopped_by = "no answers"

    def settle(self, ask: _Ask, reply: Reply) -> None:
        """Count a reply that is on the disk, and keep its row or ask again."""
        request, report = ask.request, self.report
        self.spending.add(reply, self.writer.label)
        report.replies += 1
        report.prompt_tokens, report.completion_tokens = self.spending.prompt_tokens, self.spending.completion_tokens
        report.cost = self.spending.cost
        try:
            if reply.finish_reason == "length":
                raise Rejected("cut_off", f"at {request.max_tokens} tokens")
            row = self.row(ask, reply, self.corpus.read(request, reply.text))
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError:  # JSON may hold halves of surrogate pairs, and Arrow may not
            self.reject(ask, "no_unicode")
        except Rejected as rejected:
            self.reject(ask, rejected.reason)
        else:
            report.kept += 1
            self.table.add(request, row)

    def reject(self, ask: _Ask, reason: str) -> None:
        """Count an answer that is not kept, and ask again or leave the row out."""
        self.report.rejections[reason] += 1
        if ask.attempt < ask.last:
            self.again.append(self.ask(ask.request, ask.attempt + 1, ask.last))
        else:
            self.report.left_out += 1
            self.table.add(ask.request, None)

    def row(self, ask: _Ask, reply: Reply, own: Row) -> Row:
        request = ask.request
        ours = {PARAMETER + name: value for name, value in request.parameters.items()} | {
            "text": self.corpus.text(own),
            "split": split_of(request.corpus, request.parameters),
            "writer": self.writer.label,
            "model": reply.model,
            "sampling": self.sampling,
            "prompt_hash": request.prompt_hash,
            "attempt": ask.attempt,
            "index": request.index,
            "prompt_tokens": reply.prompt_tokens,
            "completion_tokens": reply.completion_tokens,
        }
        if taken := sorted((own.keys() & ours.keys()) - {"text"}):
            raise ValueError(f"corpus {self.corpus.name!r} has columns that every corpus has: {', '.join(taken)}")
        return own | ours


class _Table:
    """The table of a folder, written in the order of the rows' indices whatever the order in which they come."""

    def __init__(self, folder: Path, diversity: Running) -> None:
        self.path, self.parts = folder / TABLE, folder / f".{TABLE}.parts"
        shutil.rmtree(self.parts, ignore_errors=True)  # of a run that was killed
        self.diversity = diversity
        self.next, self.waiting = 0, dict[int, tuple[Request, Row | None]]()
        self.group: list[Row] = []
        self.groups: list[Path] = []
        self.schema = pa.schema([])

    def add(self, request: Request, row: Row | None) -> None:
        """A row, or that there is none."""
        self.waiting[request.index] = request, row
        while self.next in self.waiting:
            self._put(*self.waiting.pop(self.next))
            self.next += 1

    def write(self) -> None:
        """Write the table, with the rows that wait behind one that never came."""
        for index in sorted(self.waiting):
            self._put(*self.waiting.pop(index))
        self._flush()
        if not self.groups:
            self.path.unlink(missing_ok=True)
            return
        part = self.parts / TABLE
        own = [name for name in self.schema.names if name not in COLUMNS]
        schema = pa.schema([self.schema.field(name) for name in (*own, *COLUMNS)])
        with pq.ParquetWriter(part, schema) as writer:
            for path in self.groups:
                with pa.ipc.open_file(path) as group:
                    writer.write_table(_as(schema, group.read_all()))
        part.replace(self.path)
        shutil.rmtree(self.parts)

    def _put(self, request: Request, row: Row | None) -> None:
        self.diversity.add(request.parameters, None if row is None else row["text"])
        if row is not None:
            self.group.append(row)
        if len(self.group) == _GROUP:
            self._flush()

    def _flush(self) -> None:
        if not self.group:
            return
        self.parts.mkdir(exist_ok=True)
        names = dict.fromkeys(name for row in self.group for name in row)
        table = pa.table({name: [row.get(name) for row in self.group] for name in names})
        # A group whose lists are all empty does not know of what; the groups together do.
        self.schema = pa.unify_schemas([self.schema, table.schema], promote_options="permissive")
        self.groups.append(self.parts / f"{len(self.groups)}.arrow")
        with pa.ipc.new_file(self.groups[-1], table.schema) as writer:
            writer.write_table(table)
        self.group = []


def _as(schema: pa.Schema, table: pa.Table) -> pa.Table:
    return pa.concat_tables([schema.empty_table(), table], promote_options="permissive").combine_chunks()


@contextmanager
def _progress(rows: int, on_progress: Callable[[Report], None] | None) -> Iterator[Callable[[Report], None]]:
    """A progress bar on a terminal. Yields what it and `on_progress` are told by."""
    console = Console(stderr=True)
    status = TextColumn("{task.fields[status]}", table_column=Column(ratio=1))  # which wraps, and is not cut off
    columns = [TextColumn("rows"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), status]
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=rows, status="")
        fresh, last = (0.0, 0, 0), -_STATUS_SECONDS

        def show(report: Report) -> None:
            nonlocal fresh, last
            if not report.requests:  # all from the cache so far, which says nothing about the writer's speed
                fresh = (report.seconds, report.settled, report.tokens)
            if console.is_terminal and (time.monotonic() - last >= _STATUS_SECONDS or report.settled == rows):
                progress.update(bar, completed=report.settled, status=_status(report, *fresh))
                last = time.monotonic()
            if on_progress:
                on_progress(report)

        yield show


def _status(report: Report, seconds: float, settled: int, tokens: int) -> str:
    """One line on what goes on; speeds are since `seconds`, when that many rows and tokens were there."""
    spent = max(report.seconds - seconds, 1e-9)
    parts = [f"{(report.settled - settled) / spent:.1f} rows/s", f"{(report.tokens - tokens) / spent:.0f} tokens/s"]
    if report.cost:
        parts.append(f"cost {report.cost:.4g}")
    parts += [f"{reason} {count}" for reason, count in report.rejections.most_common()]
    parts += [f"no answer ({reason}) {count}" for reason, count in report.given_up.most_common()]
    if report.diversity.rows:
        parts.append(f"open alike {report.diversity.alike_openings:.0%}")
        parts.append(f"distinct-2 {report.diversity.distinct[2]:.2f}")
        parts.append(f"ROUGE-L {report.diversity.self_overlap:.2f}")
    if starving := report.diversity.starving:
        axis, value, kept, asked = starving
        parts.append(f"starving: {axis} {value!r} {kept} of {asked}")
    return " · ".join(parts)
