"""An OpenAI-compatible server on the loopback whose answers are as bad as one asks for.

- What it answers is a function of the prompt and the seed alone, so that a corpus made through faults can be compared
  with one made without: a story, or with `answer=judgement` what a judge says.
- Plain asyncio and not a web framework: half of the faults are no HTTP.
- It keeps the key from every answer but `echo_key`, which repeats it as bad servers do.
"""

import asyncio
import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Any

# Faults after which the same request may be answered.
PASSING = ("429", "429_retry_after", "500", "503", "cut_json", "cut_body", "empty", "closed", "html", "no_choices",
           "wrong_schema", "late")  # fmt: skip
LATE = 20.0  # seconds


def retry_after() -> str:
    """What the header says."""
    return "0.2"


Body = Mapping[str, Any]


class FaultyServer:
    """What it does and has seen. `fault` is given a request's body and how often it came, and names what befalls it.

    Attributes:
        asked: (prompt, seed) -> how often it was asked for. answered: how often it was answered in full.
        headers, bodies: of every request. flying, most_flying: requests being answered, now and at most.
        delay: seconds before an answer.
    """

    def __init__(
        self, fault: Callable[[Body, int], str | None], delay: float, answer: Callable[[Body], str]
    ) -> None:  # fmt: skip
        self.fault, self.delay, self.answer = fault, delay, answer
        self.asked: Counter[tuple[str, int]] = Counter()
        self.answered: Counter[tuple[str, int]] = Counter()
        self.headers: list[dict[str, str]] = []
        self.bodies: list[Body] = []
        self.flying = self.most_flying = 0
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while await self._one(reader, writer):
                    pass
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether the connection goes on."""
        line, *rest = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = {name.lower(): value for name, value in (field.split(": ", 1) for field in rest)}
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        assert line == "POST /v1/chat/completions HTTP/1.1", line
        self.headers.append(headers)
        self.bodies.append(body)
        what = (body["messages"][-1]["content"], body.get("seed", 0))
        self.asked[what] += 1
        self.flying += 1
        self.most_flying = max(self.most_flying, self.flying)
        try:
            fault = self.fault(body, self.asked[what])
            await asyncio.sleep(LATE if fault == "late" else self.delay)
            if fault == "closed":
                return False
            status, extra, content = _answer(fault, body, headers, self.answer)
            length = len(content) + 50 * (fault == "cut_body")
            writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{extra}\r\n".encode() + content)
            await writer.drain()
            self.answered[what] += fault is None
            return fault != "cut_body"
        finally:
            self.flying -= 1


def story(body: Body) -> str:
    """What a request is answered."""
    digest = hashlib.sha256(json.dumps([body["messages"], body.get("seed")]).encode()).hexdigest()
    return json.dumps({"title": digest[:8]}) if "response_format" in body else f"A story about {digest[:16]}."


def judgement(body: Body) -> str:
    """An assessment; grades by the length of the completion; or the verdict for the longer of two completions.

    A completion with "@" is graded without a word on grammar, and one with "#" is said to be the better one always.
    """
    asked = body["messages"][0]["content"]
    if "First:\n" in asked:
        first, second = asked.split("First:\n")[1].split("\n\nWhich of the two")[0].split("\n\nSecond:\n")
        better = "First" if len(first) > len(second) else "Second" if len(first) < len(second) else "Equal"
        return f"They differ.\n\nVerdict: {'First' if '#' in first + second else better}"
    completion = asked.split("student's completion: ")[1].split(" *** ")[1].split(". Please provide")[0]
    if len(body["messages"]) == 1:
        return f"It has {len(completion)} letters."
    grades = "Creativity: 6/10, Consistency: 7/10, Plot: 5/10, Age group: C"
    return grades if "@" in completion else f"Grammar: {min(10, len(completion.split()))}/10, {grades}"


def _answer(
    fault: str | None, body: Body, headers: Mapping[str, str], answer: Callable[[Body], str]
) -> tuple[int, str, bytes]:
    """Status, further header lines and content."""
    good: dict[str, Any] = {
        "id": "1", "object": "chat.completion", "created": 1, "model": f"{body['model']}-1",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": answer(body)}}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30},
    }  # fmt: skip
    plain = json.dumps(good).encode()
    error = json.dumps({"error": {"message": "out of order"}}).encode()
    match fault:
        case None | "late" | "cut_body":
            return 200, "", plain
        case "429_retry_after":
            return 429, f"retry-after: {retry_after()}\r\n", error
        case "cut_json":
            return 200, "", plain[:-30]
        case "empty":
            return 200, "", b""
        case "html":
            return 200, "content-type: text/html\r\n", b"<html><body>502 Bad Gateway</body></html>"
        case "no_choices":
            return 200, "", json.dumps(good | {"choices": []}).encode()
        case "wrong_schema":
            return 200, "", json.dumps(good | {"choices": [{"message": {"content": 7}}]}).encode()
        case "no_schemas":
            return 400, "", b'{"error": {"message": "response_format of type json_schema is not supported"}}'
        case "new_limit":
            return 400, "", b'{"error": {"message": "max_tokens is not supported, use max_completion_tokens instead"}}'
        case "echo_key":
            return 401, "", json.dumps({"error": {"message": f"Incorrect {headers.get('authorization')}"}}).encode()
        case "echo_key_404":
            return 404, "", json.dumps({"error": {"message": f"no model for {headers.get('authorization')}"}}).encode()
        case "quota":
            return 429, "", b'{"error": {"code": "insufficient_quota"}}'
        case "moved":
            return 301, "location: /v2\r\n", b""
        case _:
            return int(fault), "", error


def never(body: Body, times: int) -> None:
    """No fault at all."""


def at_first(fault: str, times: int = 1) -> Callable[[Body, int], str | None]:
    """Each request meets the fault before it is answered."""
    return lambda body, asked: fault if asked <= times else None


def mixed(seed: int, share: float = 0.4) -> Callable[[Body, int], str | None]:
    """A share of all tries meets some fault, drawn by the seed."""

    def fault(body: Body, asked: int) -> str | None:
        rng = random.Random(f"{seed} {body['messages']} {body.get('seed')} {asked}")
        return rng.choice(PASSING) if rng.random() < share else None

    return fault


@contextmanager
def serving(
    fault: Callable[[Body, int], str | None] = never, delay: float = 0.0, answer: Callable[[Body], str] = story
) -> Iterator[FaultyServer]:
    """A running server, in a thread of its own."""
    faulty = FaultyServer(fault, delay, answer)
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(asyncio.start_server(faulty.serve, "127.0.0.1", 0), loop).result()
    faulty.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield faulty
    finally:
        asyncio.run_coroutine_threadsafe(_stop(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _stop(server: asyncio.Server) -> None:
    server.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
