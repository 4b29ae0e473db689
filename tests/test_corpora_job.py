"""Jobs: whatever befalls the server, the process or the disk, the same rows in the end, and nothing asked in vain.

Run as a program (`python test_corpora_job.py FOLDER URL`), this file is the child that the tests kill.
"""

import asyncio
import errno
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faulty_server import PASSING, FaultyServer, at_first, mixed, serving
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from hf_tasks.corpora import cache as cache_module
from hf_tasks.corpora import job
from hf_tasks.corpora.base import Corpus, Parameters, Rejected, Reply, Request, Row, split_of
from hf_tasks.corpora.cache import FILE, ReplyCache, reply_key
from hf_tasks.corpora.diversity import axis_counts, diversity_report
from hf_tasks.corpora.job import COLUMNS, REPORT, TABLE, Report, generate, generate_async, write_report
from hf_tasks.corpora.server import NoAnswer, Server
from hf_tasks.errors import UserError

KEY = "sk-secret-0123456789"
ROWS = 40
CHILD_ROWS, CHILD_CONCURRENCY = 60, 8


class Tiny(Corpus):
    """Stories about animals. A third of all answers is rejected; later rows have friends, every other one a moral."""

    name = "tiny"
    animals = tuple(f"animal {number}" for number in range(1000))

    @property
    def axes(self) -> dict[str, Sequence[str]]:
        return {"animal": self.animals, "place": ("wood", "lake")}

    @property
    def columns(self) -> dict[str, str]:
        return {"story": "the story", "words": "its words"}

    def parameters(self, index: int, seed: int) -> Parameters:
        friends = [f"friend {number}" for number in range(index // 5)]
        extra = {"moral": "be kind"} if index % 2 else {}
        return {axis: self.pick(axis, index, seed) for axis in self.axes} | {"friends": friends} | extra

    def request(self, index: int, parameters: Parameters) -> Request:
        content = f"Write about {json.dumps(parameters)}."
        return Request(self.name, index, parameters, [{"role": "user", "content": content}], None, 100)

    def read(self, request: Request, text: str) -> Row:
        if ord(text[-2]) % 3 == 0:
            raise Rejected("ends badly", text[-2])
        return {"story": text, "words": text.split()}

    def text(self, row: Row) -> str:
        return row["story"] + "\n"


class Same(Tiny):
    """Asks for the same thing in every row."""

    def parameters(self, index: int, seed: int) -> Parameters:
        return {"animal": "fox"}


class Echo:
    """A writer without a server: an answer is a function of the request and the attempt. It notes what it was asked."""

    label = "echo"

    def __init__(self, answer: Callable[[Request, int], str | Reply] | None = None) -> None:
        self.sampling: dict[str, Any] = {"temperature": 0.5}
        self.asked: list[tuple[int, int]] = []
        self.answer = answer or (lambda request, attempt: f"row {request.index} try {attempt} {request.prompt_hash}.")

    async def write(self, request: Request, attempt: int) -> Reply:
        self.asked.append((request.index, attempt))
        answer = self.answer(request, attempt)
        return answer if isinstance(answer, Reply) else Reply(answer, "echo-1", "stop", 20, 10)


class Slow(Echo):
    """Takes a random time over each answer."""

    async def write(self, request: Request, attempt: int) -> Reply:
        await asyncio.sleep(random.uniform(0, 0.01))
        return await super().write(request, attempt)


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def quick(url: str, **options: Any) -> Server:
    return Server(url, "tiny", **{"wait": 0.005, "timeout": 10.0, "tries": 12} | options)


def table(folder: Path) -> pa.Table:
    return pq.read_table(folder / TABLE)


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, bytes]:
    """The report and the bytes of the table of a faultless run."""
    folder = tmp_path_factory.mktemp("truth")
    with serving() as faulty:
        report = generate(Tiny(), Server(faulty.url, "tiny"), ROWS, folder)
    return report, (folder / TABLE).read_bytes()


def same(report: Report, other: Report) -> bool:
    """Whether two runs came to the same, apart from when and how."""
    return all(
        value == getattr(other, name) for name, value in vars(report).items() if name not in ("requests", "seconds")
    )


# What a job makes.


def test_the_table(tmp_path: Path) -> None:
    writer = Echo()
    report = generate(Tiny(), writer, ROWS, tmp_path, seed=3)
    rows = table(tmp_path).to_pylist()
    own = ["story", "words", "parameter_animal", "parameter_place", "parameter_friends", "parameter_moral"]
    assert table(tmp_path).column_names == [*own, *COLUMNS]
    assert [row["index"] for row in rows] == sorted(row["index"] for row in rows)
    assert report.kept == len(rows) and report.kept + report.left_out == ROWS and not report.stopped_by
    corpus, last = Tiny(), dict(sorted(writer.asked))  # index -> its last attempt
    for row in rows:
        wanted = corpus.parameters(row["index"], 3)
        request = corpus.request(row["index"], wanted)
        asked = {name: row[f"parameter_{name}"] for name in ("animal", "place", "friends", "moral")}
        assert asked == {"moral": None} | wanted
        assert row["attempt"] == last[row["index"]] and row["prompt_hash"] == request.prompt_hash
        assert row["text"] == f"row {row['index']} try {row['attempt']} {request.prompt_hash}.\n"
        assert row["split"] == split_of("tiny", wanted)
        assert (row["writer"], row["model"], row["sampling"]) == ("echo", "echo-1", '{"temperature": 0.5}')
        assert (row["prompt_tokens"], row["completion_tokens"]) == (20, 10)
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE, TABLE]


def test_datasets_loads_the_table(tmp_path: Path) -> None:
    import datasets

    generate(Tiny(), Echo(), ROWS, tmp_path / "out")
    path, cache_dir = str(tmp_path / "out" / TABLE), str(tmp_path / "cache")
    rows: Any = datasets.load_dataset("parquet", data_files=path, split="train", cache_dir=cache_dir)
    assert rows.to_list() == table(tmp_path / "out").to_pylist()


def test_every_answer_is_counted(tmp_path: Path) -> None:
    writer = Echo()
    report = generate(Tiny(), writer, ROWS, tmp_path, attempts=2, price=(2.0, 5.0))
    bad = sum(ord(writer.answer(Tiny().request(i, Tiny().parameters(i, 0)), a)[-2]) % 3 == 0 for i, a in writer.asked)  # type: ignore
    assert report.requests == report.replies == len(writer.asked) == len(set(writer.asked))
    assert report.rejections == {"ends badly": bad} and report.kept + bad == report.replies
    assert 0 < report.left_out < bad and max(attempt for _, attempt in writer.asked) == 1
    assert (report.prompt_tokens, report.completion_tokens) == (20 * report.replies, 10 * report.replies)
    assert report.cost == pytest.approx(report.replies * (20 * 2 + 10 * 5) / 1e6)


def test_half_a_character_is_rejected_and_the_job_goes_on(tmp_path: Path) -> None:
    broken = Echo(lambda request, attempt: Reply("a\ud801." if attempt == 0 else "a.", "m", "stop", 1, 1))
    report = generate(Tiny(), broken, 5, tmp_path)
    assert report.rejections == {"no_unicode": 5} and report.kept == 5
    assert generate(Tiny(), broken, 5, tmp_path).requests == 0


def test_answers_that_were_cut_off_are_rejected(tmp_path: Path) -> None:
    cut = Echo(lambda request, attempt: Reply("a.", "m", "length" if attempt == 0 else "stop", 1, 1))
    report = generate(Tiny(), cut, 5, tmp_path)
    assert report.rejections == {"cut_off": 5} and report.kept == 5


def test_equal_prompts_get_different_answers(tmp_path: Path) -> None:
    writer = Echo(lambda request, attempt: f"answer {attempt} a.")
    generate(Same(), writer, 3, tmp_path)
    assert table(tmp_path)["story"].to_pylist() == ["answer 0 a.", "answer 100 a.", "answer 200 a."]
    assert generate(Same(), writer, 3, tmp_path).requests == 0


def test_columns_that_first_have_no_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The friends of the first rows are empty lists, and the first row has no moral."""
    monkeypatch.setattr(job, "_GROUP", 1)
    generate(Tiny(), Echo(), ROWS, tmp_path / "small")
    monkeypatch.setattr(job, "_GROUP", 1000)
    generate(Tiny(), Echo(), ROWS, tmp_path / "large")
    assert table(tmp_path / "small") == table(tmp_path / "large")
    assert pq.ParquetFile(tmp_path / "small" / TABLE).num_row_groups > 10


def test_a_job_that_keeps_nothing_has_no_table(tmp_path: Path) -> None:
    generate(Tiny(), Echo(), 3, tmp_path)
    assert generate(Tiny(), Echo(lambda request, attempt: "c..0."), 3, tmp_path / "none").kept == 0
    assert not (tmp_path / "none" / TABLE).exists()


def test_columns_that_are_taken(tmp_path: Path) -> None:
    class Bad(Tiny):
        def read(self, request: Request, text: str) -> Row:
            return {"index": 1, "story": text}

    with pytest.raises(ValueError, match="columns that every corpus has: index"):
        generate(Bad(), Echo(), 3, tmp_path)


@settings(max_examples=10, deadline=None)
@given(concurrency=st.integers(1, 50), seed=st.integers(0, 3), attempts=st.integers(1, 5))
def test_the_order_of_answers_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, concurrency: int, seed: int, attempts: int
) -> None:
    slow, plain = tmp_path_factory.mktemp("slow"), tmp_path_factory.mktemp("plain")
    reports = [
        generate(Tiny(), writer, ROWS, folder, seed=seed, concurrency=wide, attempts=attempts)
        for writer, folder, wide in ((Slow(), slow, concurrency), (Echo(), plain, 1))
    ]
    assert same(*reports)
    assert (slow / TABLE).read_bytes() == (plain / TABLE).read_bytes()


# Faults of the server.


@pytest.mark.parametrize("fault", PASSING)
def test_each_fault_leaves_the_same_rows(fault: str, tmp_path: Path, truth: tuple[Report, bytes]) -> None:
    patience = {"timeout": 0.5} if fault == "late" else {}
    with serving(at_first(fault)) as faulty:
        report = generate(Tiny(), quick(faulty.url, **patience), ROWS, tmp_path)
    assert (tmp_path / TABLE).read_bytes() == truth[1] and same(report, truth[0])
    # On a busy machine, an answer in time may come too late as well.
    assert set(faulty.asked.values()) == {2} or (fault == "late" and min(faulty.asked.values()) == 2)


@pytest.mark.parametrize("seed", range(3))
def test_mixed_faults_leave_the_same_rows(seed: int, tmp_path: Path, truth: tuple[Report, bytes]) -> None:
    with serving(mixed(seed)) as faulty:
        report = generate(Tiny(), quick(faulty.url, timeout=0.5), ROWS, tmp_path)
    assert (tmp_path / TABLE).read_bytes() == truth[1] and same(report, truth[0])
    assert faulty.asked.total() > 1.2 * len(faulty.asked)
    for path in tmp_path.iterdir():
        assert KEY.encode() not in path.read_bytes()


def test_requests_in_flight_are_bounded_and_many(tmp_path: Path) -> None:
    with serving(delay=0.05) as faulty:
        generate(Tiny(), quick(faulty.url), ROWS, tmp_path, concurrency=7)
    assert faulty.most_flying == 7


def test_rows_that_are_given_up_are_asked_for_by_the_next_run(tmp_path: Path, truth: tuple[Report, bytes]) -> None:
    broken = True

    def fault(body: Any, asked: int) -> str | None:
        return "500" if broken and '"lake"' in body["messages"][0]["content"] else None

    with serving(fault) as faulty:
        server = quick(faulty.url, tries=2)
        # One at a time: twenty in a row without an answer would end the run.
        first = generate(Tiny(), server, ROWS, tmp_path, concurrency=1)
        places = table(tmp_path)["parameter_place"].to_pylist()
        broken = False
        second = generate(Tiny(), server, ROWS, tmp_path)
    assert first.given_up == {"status 500": ROWS // 2} and set(places) == {"wood"} and not first.stopped_by
    assert (tmp_path / TABLE).read_bytes() == truth[1] and same(second, truth[0])
    assert set(faulty.answered.values()) == {1}


def test_a_server_that_is_gone_ends_the_run(tmp_path: Path) -> None:
    async def fail(request: Request, attempt: int) -> Reply:
        if request.index < 5:
            return await Echo().write(request, attempt)
        raise NoAnswer("timeout")

    writer = Echo()
    writer.write = fail  # type: ignore[method-assign]
    report = generate(Tiny(), writer, 10_000, tmp_path, concurrency=4)
    assert report.stopped_by == "no answers" and 20 <= report.given_up["timeout"] < 30
    assert report.kept == table(tmp_path).num_rows > 0


def test_a_wrong_key_is_one_line_and_what_was_answered_stays(tmp_path: Path, truth: tuple[Report, bytes]) -> None:
    count = 0

    def fault(body: Any, asked: int) -> str | None:
        nonlocal count
        count += 1
        return "401" if 10 < count <= 12 else None

    with serving(fault) as faulty:
        server = quick(faulty.url)
        with pytest.raises(UserError, match="refuses the key"):
            generate(Tiny(), server, ROWS, tmp_path, concurrency=4)
        assert count <= 12 + 4
        assert not (tmp_path / TABLE).exists()
        generate(Tiny(), server, ROWS, tmp_path)
    assert (tmp_path / TABLE).read_bytes() == truth[1]


# Kills, disks, budgets.


def child(folder: Path, url: str) -> None:
    generate(Tiny(), Server(url, "tiny"), CHILD_ROWS, folder, concurrency=CHILD_CONCURRENCY)


def kill_during(folder: Path, faulty: FaultyServer, answers: int) -> None:
    """Start the child and kill it when the server has given so many answers, over all children."""
    process = subprocess.Popen([sys.executable, __file__, str(folder), faulty.url])
    while faulty.answered.total() < answers and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def test_kill_and_resume(tmp_path: Path) -> None:
    with serving() as plain:
        whole = generate(Tiny(), Server(plain.url, "tiny"), CHILD_ROWS, tmp_path / "whole")
    rng, kills = random.Random(0), 4
    with serving(delay=0.02) as faulty:
        for kill in range(kills):
            kill_during(tmp_path / "killed", faulty, rng.randrange(15 * kill + 3, 15 * kill + 15))
        report = generate(Tiny(), Server(faulty.url, "tiny"), CHILD_ROWS, tmp_path / "killed")
    assert same(report, whole)
    assert (tmp_path / "killed" / TABLE).read_bytes() == (tmp_path / "whole" / TABLE).read_bytes()
    # In flight, or answered and on the way to the disk, when the child was killed: asked twice. Nothing else.
    assert faulty.asked.keys() == plain.asked.keys()
    assert faulty.asked.total() - plain.asked.total() <= kills * 2 * CHILD_CONCURRENCY
    assert report.requests < whole.requests
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == [FILE, TABLE]


def test_an_interruption_loses_nothing(tmp_path: Path) -> None:
    """Ctrl-C: every reply that arrived is in the cache, wherever it was."""
    writer = Slow()

    async def interrupted() -> None:
        task = asyncio.create_task(generate_async(Tiny(), writer, 10_000, tmp_path))
        while len(writer.asked) < 100:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(interrupted())
    with ReplyCache(tmp_path) as cache:
        assert len(cache) == len(writer.asked) >= 100


def test_a_failure_while_the_disk_is_slow_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows 1 ... 5 arrive while row 0 is being written, and then row 6 fails."""
    append, taken = ReplyCache.append, []

    def slow(cache: ReplyCache, replies: Any) -> None:
        taken.append(len(replies))
        time.sleep(0.3 * (len(taken) == 1))
        append(cache, replies)

    class Failing(Echo):
        async def write(self, request: Request, attempt: int) -> Reply:
            await asyncio.sleep({0: 0.0, 6: 0.2}.get(request.index, 0.1))
            if request.index == 6:
                raise UserError("no more")
            return Reply("a.", "m")

    monkeypatch.setattr(ReplyCache, "append", slow)
    with pytest.raises(UserError, match="no more"):
        generate(Tiny(), Failing(), 7, tmp_path)
    assert taken == [1, 5]
    writer = Echo()
    generate(Tiny(), writer, 6, tmp_path)
    assert not writer.asked


@pytest.mark.parametrize("when", [3, 10, 25])
def test_a_full_disk(when: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fills in the middle of a line: one line to the user, and all whole lines stand."""
    write, lines = os.write, 0

    def full(file: int, data: bytes) -> int:
        nonlocal lines
        for line in io.BytesIO(data):
            lines += 1
            if lines == when:
                write(file, line[: len(line) // 2])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write(file, line)
        return len(data)

    monkeypatch.setattr(cache_module.os, "write", full)
    with pytest.raises(UserError, match="no space left on the disk of") as error:
        generate(Tiny(), Echo(), ROWS, tmp_path, concurrency=2)
    assert "\n" not in str(error.value)
    monkeypatch.undo()
    with ReplyCache(tmp_path) as cache:
        assert len(cache) >= when - 1
    writer = Echo()
    report = generate(Tiny(), writer, ROWS, tmp_path)
    assert same(report, generate(Tiny(), Echo(), ROWS, tmp_path / "other"))
    assert (tmp_path / TABLE).read_bytes() == (tmp_path / "other" / TABLE).read_bytes()
    assert len(writer.asked) <= report.replies - (when - 1)


@pytest.mark.parametrize("concurrency", [1, 5, 64])
@pytest.mark.parametrize(
    ("limit", "price"), [({"max_tokens_total": 2000}, None), ({"max_cost": 0.0037}, (1.0, 2.0))], ids=["tokens", "cost"]
)
def test_a_budget_is_kept_and_a_larger_one_continues(
    limit: dict[str, Any], price: Any, concurrency: int, tmp_path: Path
) -> None:
    report = generate(Tiny(), Slow(), ROWS, tmp_path, concurrency=concurrency, price=price, **limit)
    (name, most), used = next(iter(limit.items())), {"max_tokens_total": report.tokens, "max_cost": report.cost}
    assert report.stopped_by == name
    # The most a request may cost is 100 tokens of completion, and the prompt by its bytes.
    assert 0.5 * most < used[name] <= most
    assert table(tmp_path).num_rows == report.kept > 0
    writer = Echo()
    more = generate(Tiny(), writer, ROWS, tmp_path, price=price, **{name: 100 * most})
    assert not more.stopped_by and len(writer.asked) == more.replies - report.replies
    generate(Tiny(), Echo(), ROWS, tmp_path / "other")
    assert (tmp_path / TABLE).read_bytes() == (tmp_path / "other" / TABLE).read_bytes()


def test_a_writer_that_counts_no_tokens_has_no_budget(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'echo' counts no tokens"):
        generate(Tiny(), Echo(lambda request, attempt: Reply("a.", "m")), 3, tmp_path, max_tokens_total=10_000)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"rows": 0}, "rows 0 is out of range"), ({"concurrency": 0}, "concurrency 0"),
        ({"attempts": 101}, "100 at most"),
        ({"max_cost": 1.0}, "needs price"), ({"max_tokens_total": 0}, "no budget"),
    ],
)  # fmt: skip
def test_bad_numbers(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        generate(Tiny(), Echo(), **{"rows": 3, "folder": tmp_path / "out"} | options)
    assert not (tmp_path / "out").exists()


def test_progress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []
    generate(Tiny(), Echo(), ROWS, tmp_path / "quiet", on_progress=lambda report: seen.append(report.settled))
    assert seen == sorted(seen) and seen[-1] == ROWS
    assert capfd.readouterr() == ("", "")  # no terminal
    screen = io.StringIO()
    monkeypatch.setattr(job, "Console", lambda stderr: Console(file=screen, force_terminal=True, width=200))
    generate(Tiny(), Slow(), ROWS, tmp_path / "loud", price=(1.0, 1.0))
    for part in (
        f"{ROWS}/{ROWS}", "rows/s", "tokens/s", "cost", "ends badly", "open alike", "distinct-2", "ROUGE-L", "starving"
    ):  # fmt: skip
        assert part in screen.getvalue()


def test_progress_shows_every_reason_the_commonest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(job, "Console", lambda stderr: Console(file=screen, force_terminal=True, width=80))
    reasons = {f"reason_{number}": 100 + number for number in range(12)}
    report = Report(
        ROWS, kept=ROWS, rejections=Counter(reasons), given_up=Counter({"timeout": 3, "html": 2, "late": 1})
    )
    with job._progress(ROWS, None) as show:
        show(report)
    shown = re.findall(r"reason_\d+ \d+|\(\w+\) \d", screen.getvalue())[-15:]  # whatever line each is on
    assert shown == [f"reason_{number} {100 + number}" for number in reversed(range(12))] + [
        "(timeout) 3", "(html) 2", "(late) 1"
    ]  # fmt: skip


def test_the_report_of_a_corpus(tmp_path: Path) -> None:
    corpus, whole, parts = Tiny(), tmp_path / "whole", tmp_path / "parts"
    report = generate(corpus, Echo(), ROWS, whole, seed=2, attempts=1)
    written = write_report(corpus, whole, 2, report)
    assert json.loads((whole / REPORT).read_text()) == json.loads(json.dumps(written))
    asked = [corpus.parameters(index, 2) for index in range(ROWS)]
    kept = [asked[index] for index in table(whole)["index"].to_pylist()]
    assert 0 < len(kept) < ROWS
    expected = diversity_report(table(whole)["text"].to_pylist(), asked, kept, ["animal", "place"], seed=2)
    assert written["diversity"] == expected
    share = {axis: axis_counts(asked, kept, axis) for axis in ("animal", "place")}
    axis, value, got, wanted = report.diversity.starving or ("", "", 0, 0)
    assert (axis, value) == ("animal", share["animal"]["starving"]) and (got, wanted) == (0, 1)
    assert written["kept"] == report.kept and written["rejections"] == report.rejections
    assert written["running"]["self_overlap"] == report.diversity.self_overlap > 0
    # The same in parts: 64 rows a turn, at most, and a budget that ends the first run.
    stopped = generate(corpus, Slow(), ROWS, parts, seed=2, attempts=1, max_tokens_total=1500)
    assert (
        stopped.stopped_by and write_report(corpus, parts, 2, stopped)["diversity"]["asked"] == stopped.settled < ROWS
    )
    assert write_report(corpus, parts, 2, generate(corpus, Slow(), ROWS, parts, seed=2, attempts=1)) == written
    assert (parts / REPORT).read_bytes() == (whole / REPORT).read_bytes()


def test_the_report_of_no_rows(tmp_path: Path) -> None:
    report = generate(Tiny(), Echo(lambda request, attempt: "c..0."), 3, tmp_path)
    assert write_report(Tiny(), tmp_path, 0, report)["diversity"]["rows"] == 0


# The cache.


REPLIES = {f"{number:032x}": Reply(f"text {number} \n é \U0001f600", "m", "stop", number, 1) for number in range(5)}


def test_the_cache_keeps(tmp_path: Path) -> None:
    with ReplyCache(tmp_path / "new" / "folder") as cache:
        cache.append(REPLIES)
        cache.append({})
        assert {key: cache.get(key) for key in REPLIES} == REPLIES and cache.get("0" * 31 + "f") is None
    with ReplyCache(tmp_path / "new" / "folder") as cache:
        assert {key: cache.get(key) for key in cache} == REPLIES and len(cache) == 5


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_torn_line_is_dropped(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Cut anywhere, the file holds the lines before the cut, and takes new ones."""
    folder = tmp_path_factory.mktemp("cache")
    with ReplyCache(folder) as cache:
        cache.append(REPLIES)
    content = (folder / FILE).read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    (folder / FILE).write_bytes(content[:cut])
    whole = content[:cut].count(b"\n")
    with ReplyCache(folder) as cache:
        assert len(cache) == whole
        cache.append(dict([*REPLIES.items()][whole:]))
    assert (folder / FILE).read_bytes() == content


def test_a_cache_goes_on_after_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written of a line is taken back, so that the next line starts on its own."""
    write, first, second = os.write, dict([*REPLIES.items()][:2]), dict([*REPLIES.items()][2:])
    calls = iter([60, None])  # bytes that there is room for

    def full(file: int, data: bytes) -> int:
        if room := next(calls, None):
            return write(file, data[:room])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with ReplyCache(tmp_path) as cache:
        monkeypatch.setattr(cache_module.os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            cache.append(first)
        monkeypatch.undo()
        cache.append(second)
        assert {key: cache.get(key) for key in REPLIES} == dict.fromkeys(first) | second
    with ReplyCache(tmp_path) as cache:
        assert {key: cache.get(key) for key in REPLIES} == dict.fromkeys(first) | second


def test_a_damaged_line_is_asked_for_again(tmp_path: Path) -> None:
    with ReplyCache(tmp_path) as cache:
        cache.append(REPLIES)
    lines = (tmp_path / FILE).read_bytes().splitlines(keepends=True)
    lines[1] = b"\0" * 40 + b"\n"  # what a power cut leaves
    lines[2] = lines[2].replace(b'"text": ', b'"text":: ')
    (tmp_path / FILE).write_bytes(b"".join(lines))
    with ReplyCache(tmp_path) as cache:
        assert [cache.get(key) == reply for key, reply in REPLIES.items()] == [True, False, False, True, True]


def test_one_process_a_folder(tmp_path: Path) -> None:
    script = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n" + (
        "from hf_tasks.corpora.cache import ReplyCache\nwith ReplyCache(sys.argv[1]):\n    print('open', flush=True)\n"
        "    sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout and other.stdout.readline() == "open\n"
        with pytest.raises(UserError, match="written by another process") as error:
            generate(Tiny(), Echo(), 3, tmp_path)
        assert "\n" not in str(error.value)
        other.kill()
    assert generate(Tiny(), Echo(), 3, tmp_path).kept


def test_keys_change_with_everything() -> None:
    usual: dict[str, Any] = {
        "messages": [{"role": "user", "content": "a"}], "schema": None, "max_tokens": 5, "label": "m",
        "sampling": {"temperature": 1.0}, "attempt": 0,
    }  # fmt: skip
    others: dict[str, Any] = {
        "messages": [{"role": "user", "content": "b"}], "schema": {}, "max_tokens": 6, "label": "n",
        "sampling": {"temperature": 0.5}, "attempt": 1,
    }  # fmt: skip
    keys = {reply_key(**usual | {name: value}) for name, value in others.items()} | {reply_key(**usual)}
    assert len(keys) == 7 and all(len(key) == 32 for key in keys)


def test_opening_many_replies_is_fast(tmp_path: Path) -> None:
    """100,000 replies of 2 kB: measured at 0.2 s on an idle core; the bound leaves room for a busy one."""
    words = " ".join(map(str, np.random.default_rng(0).integers(0, 10_000, 400)))
    line = json.dumps({"key": "0" * 32, **vars(Reply(words, "m", "stop", 100, 400))}).encode() + b"\n"
    head, tail = line.split(b"0" * 32, 1)
    (tmp_path / FILE).write_bytes(b"".join(head + b"%032x" % number + tail for number in range(100_000)))
    start = time.process_time()
    with ReplyCache(tmp_path) as cache:
        seconds = time.process_time() - start
        assert len(cache) == 100_000 and cache.get(f"{99_999:032x}") == Reply(words, "m", "stop", 100, 400)
    assert seconds < 2


if __name__ == "__main__":
    child(Path(sys.argv[1]), sys.argv[2])
