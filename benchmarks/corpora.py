"""Asking for corpora: requests kept in flight, bookkeeping a row, and the opening of a large cache.

    python -m benchmarks.corpora
    python -m benchmarks.corpora --peer /tmp/peer/bin/python      # beside distilabel; corpora_peer.py says how

- In flight: a server in a process of its own answers each request after 200 ms; 64 are asked at a time, by a job from
  first row to finished table. The ideal is measured beside it, in turns: 64 bare sockets that send ready-made bytes and
  do not look at the answers. The ratio of the two rates is what a job loses. distilabel first starts a process for each
  step: what counts is how much longer all requests take it than half of them. Of ours the start is in.
- Bookkeeping: the same job with a writer that answers at once. Every reply still goes to the disk first.
- The best processor time of a few rounds counts for the bookkeeping and the cache, because other work on the machine
  only adds to it; rates are medians.
- `benchmarks/corpora.json` keeps the last run with hardware and versions.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.generation import hardware, versions
from hf_tasks.corpora.base import Corpus, Parameters, Reply, Request, Row
from hf_tasks.corpora.cache import ReplyCache
from hf_tasks.corpora.job import generate
from hf_tasks.corpora.server import Server
from hf_tasks.files import write_text

RESULT = Path(__file__).with_suffix(".json")
LATENCY, CONCURRENCY = 0.2, 64  # seconds; requests
REQUESTS = 40 * CONCURRENCY
ROWS, REPLIES = 10_000, 100_000
ROUNDS = 3
STORY = "Once there was a fox who lived in a wood. " * 20
REPLY = Reply(STORY, "bench", "stop", 60, 200)


class Stories(Corpus):
    """Requests as long as those of TinyStories. Its own work is a few microseconds a row."""

    name = "bench"
    axes: ClassVar[Any] = {"number": ()}
    columns: ClassVar[Any] = {"story": "the story"}

    def parameters(self, index: int, seed: int) -> Parameters:
        return {"verb": f"verb {index}", "noun": f"noun {seed}", "adjective": "red", "features": ["dialogue", "twist"]}

    def request(self, index: int, parameters: Parameters) -> Request:
        content = f"Write a short story (3-5 paragraphs) which only uses very simple words. {parameters} " * 3
        return Request(self.name, index, parameters, [{"role": "user", "content": content}])

    def read(self, request: Request, text: str) -> Row:
        return {"story": text}

    def text(self, row: Row) -> str:
        return row["story"]


class Instant:
    """A writer that answers at once."""

    label = "instant"

    def __init__(self) -> None:
        self.sampling: dict[str, Any] = {}

    async def write(self, request: Request, attempt: int) -> Reply:
        return REPLY


def serve(ready: Connection) -> None:
    """The server; sends its port."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": STORY}}
    usage = {"prompt_tokens": 60, "completion_tokens": 200}
    body = json.dumps({"model": "bench", "choices": [choice], "usage": usage}).encode()
    answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
            await asyncio.sleep(LATENCY)
            writer.write(answer)

    async def forever() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)  # clients that hang up
        server = await asyncio.start_server(one, "127.0.0.1", 0, backlog=2 * CONCURRENCY)
        ready.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(forever())


def ideal(port: int) -> float:
    """Requests a second of bare sockets."""
    request = Stories().request(0, Stories().parameters(0, 0))
    body = json.dumps({"model": "bench", "messages": request.messages}).encode()
    data = b"POST /v1/chat/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body) + body

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(REQUESTS // CONCURRENCY):
            writer.write(data)
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
        writer.close()

    async def all_of_them() -> None:
        await asyncio.gather(*(one() for _ in range(CONCURRENCY)))

    start = time.perf_counter()
    asyncio.run(all_of_them())
    return REQUESTS / (time.perf_counter() - start)


def ours(port: int) -> float:
    """Rows a second of a whole job."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        report = generate(Stories(), Server(f"http://127.0.0.1:{port}/v1", "bench"), REQUESTS, folder,
                          concurrency=CONCURRENCY)  # fmt: skip
        seconds = time.perf_counter() - start
    if report.kept != REQUESTS:
        raise SystemExit(f"kept {report.kept} of {REQUESTS} rows")
    return REQUESTS / seconds


def peer(port: int, python: str) -> float:
    """Requests a second of distilabel behind its start."""
    seconds = {}
    for requests in (REQUESTS // 2, REQUESTS):
        command = [python, str(RESULT.with_name("corpora_peer.py")), str(port), str(requests)]
        done = subprocess.run(command, capture_output=True, text=True)
        last = done.stdout.split()[-2:]
        if done.returncode or last[:1] != ["seconds"]:
            raise SystemExit(f"{command} failed: {done.stderr[-400:]}")
        seconds[requests] = float(last[1])
    return (REQUESTS - REQUESTS // 2) / (seconds[REQUESTS] - seconds[REQUESTS // 2])


def in_flight(python: str | None) -> dict[str, Any]:
    """The rates, in turns, and what ours is of the others. python: that has distilabel."""
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    server.start()
    port = here.recv()
    rates: dict[str, list[float]] = {"ideal": [], "ours": []}
    for _ in range(ROUNDS):
        rates["ideal"].append(ideal(port))
        rates["ours"].append(ours(port))
        if python:
            rates.setdefault("distilabel", []).append(peer(port, python))
        print("requests/s:", ", ".join(f"{name} {values[-1]:.1f}" for name, values in rates.items()), flush=True)
    server.terminate()
    server.join()
    ratios = {
        name: round(statistics.median(mine / other for mine, other in zip(rates["ours"], values, strict=True)), 4)
        for name, values in rates.items()
        if name != "ours"
    }
    return {
        "latency_seconds": LATENCY,
        "concurrency": CONCURRENCY,
        "requests_per_second": {name: round(statistics.median(values), 1) for name, values in rates.items()},
        "ratio_to": ratios,
    }


def seconds_of(run: Any) -> tuple[float, float]:
    """The least processor and wall-clock seconds of a few rounds."""
    found = []
    for _ in range(ROUNDS):
        wall, processor = time.perf_counter(), time.process_time()
        run()
        found.append((time.process_time() - processor, time.perf_counter() - wall))
    return min(found)[0], min(wall for _, wall in found)


def bookkeeping() -> dict[str, Any]:
    """Milliseconds a row of a job whose writer takes no time, fresh and from the cache."""

    def job(folder: str) -> None:
        generate(Stories(), Instant(), ROWS, folder)

    def fresh() -> None:
        with tempfile.TemporaryDirectory() as folder:
            job(folder)

    with tempfile.TemporaryDirectory() as folder:
        job(folder)
        times = {"fresh": seconds_of(fresh), "cached": seconds_of(lambda: job(folder))}
    return {
        name: {
            "processor_ms_per_row": round(1e3 * processor / ROWS, 4),
            "wall_ms_per_row": round(1e3 * wall / ROWS, 4),
            "rows_per_second": round(ROWS / wall),
        }
        for name, (processor, wall) in times.items()
    }


def opening() -> dict[str, Any]:
    """Seconds to open a cache of many replies."""
    with tempfile.TemporaryDirectory() as folder:
        with ReplyCache(folder) as cache:
            cache.append({f"{number:032x}": REPLY for number in range(REPLIES)})
        megabytes = sum(path.stat().st_size for path in Path(folder).iterdir()) / 1e6
        processor, wall = seconds_of(lambda: ReplyCache(folder).close())
    return {
        "replies": REPLIES,
        "megabytes": round(megabytes),
        "processor_seconds": round(processor, 3),
        "wall_seconds": round(wall, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.corpora")
    parser.add_argument("--peer", metavar="PYTHON", help="an interpreter that has distilabel; see corpora_peer.py")
    python = parser.parse_args().peer
    parts: dict[str, Callable[[], Any]] = {
        "bookkeeping": bookkeeping,
        "opening": opening,
        "in_flight": partial(in_flight, python),
    }
    result: dict[str, Any] = {
        "command": f"python -m benchmarks.corpora{' --peer PYTHON' if python else ''}",
        "hardware": hardware(),
        "load_average": round(os.getloadavg()[0], 1),
        "versions": versions("aiohttp", "pyarrow"),
    }
    for name, part in parts.items():
        result[name] = part()
        print(name, json.dumps(result[name]), flush=True)
    write_text(RESULT, json.dumps(result, indent=2) + "\n")
    print(f"written to benchmarks/{RESULT.name}")


if __name__ == "__main__":
    main()
