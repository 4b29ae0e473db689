"""A writer behind an OpenAI-compatible server, and how it is asked until it answers.

- Whatever may pass is tried again, with back-off and jitter: 408, 409, 425, 429, 5xx, timeouts, cut connections, bodies
  that are empty, no JSON, or lack a field. What cannot pass (a wrong key, an unknown model) is one `UserError` at once.
- Retry-After holds back every request to the server, not only the one that was told.
- aiohttp and not `AsyncInferenceClient` carries the requests: given a URL, huggingface_hub 2.4 rewrites a `json_schema`
  into TGI's own form, which other servers refuse or ignore, and sends the saved Hub token to any host when it is given
  no key; and it spends some 1.3 ms of processor time a request, too much for 64 at once to be kept in flight.
- The key is read from the environment and goes into one header. OPENAI_API_KEY goes to the server that is named,
  HF_TOKEN to Hugging Face alone. No message, file or repr holds either.
"""

import asyncio
import email.utils
import json
import os
import random
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from hf_tasks.corpora.base import Reply, Request
from hf_tasks.errors import UserError
from hf_tasks.tasks.hashing import hash_name

LONGEST_WAIT = 60.0  # seconds between two tries, where the server does not say
LONGEST_RETRY_AFTER = 3600.0  # seconds; a server that asks for more is asked another day
_HUGGING_FACE = ("huggingface.co", "hf.co", "hf.space", "huggingface.cloud")
_PASSING = {408, 409, 425, 429}  # and all of 500 ... 599
_ABOUT_THIS_REQUEST = {400, 413, 422}


class NoAnswer(Exception):  # noqa: N818  (counted, and asked again by the next run)
    """A request that was not answered after every try, or that the server refuses.

    Attributes:
        reason: a short name, by which such requests are counted ("status 500", "timeout", "not JSON").
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class _Fault(Exception):  # noqa: N818
    """One try that failed and may be repeated, after `wait` seconds if the server said so."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.reason, self.wait = reason, wait


class Server:
    """A `Writer`: a model behind an OpenAI-compatible server. Ask it inside `async with server:`.

    Args:
        base_url: as OpenAI's client takes it ("https://api.openai.com/v1"); a bare host gets `/v1`.
        model: its name on the server.
        temperature, top_p: of sampling. The seed is a function of the prompt's hash and the attempt.
        timeout: seconds that one try may take.
        tries: of one request.
        wait: seconds before the second try; doubled with each, up to a minute, and cut by a random share.

    Raises:
        UserError: a URL that is none or that holds a password; a key that no header can hold; no aiohttp.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        temperature: float = 1.0,
        top_p: float = 1.0,
        timeout: float = 300.0,
        tries: int = 8,
        wait: float = 1.0,
    ) -> None:
        self.url = _chat_url(base_url)
        self.label = model
        self.sampling = {"temperature": temperature, "top_p": top_p}
        self._timeout, self._tries, self._wait = timeout, tries, wait
        self._key = _key(self.url)
        self._has_schemas, self._limit_name = True, "max_tokens"  # until the server says otherwise
        self._has_answered = False  # with any status
        self._has_accepted = False  # with status 200
        self._not_before = 0.0  # by time.monotonic
        _aiohttp()

    async def __aenter__(self) -> Self:
        aiohttp = _aiohttp()
        host = urlsplit(self.url).hostname
        self._session = aiohttp.ClientSession(
            headers={"authorization": f"Bearer {self._key}"} if self._key else {},
            connector=aiohttp.TCPConnector(limit=0),  # the job bounds how many there are
            timeout=aiohttp.ClientTimeout(total=self._timeout),
            trust_env=host not in ("localhost", "127.0.0.1", "::1"),  # proxies
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._session.close()

    async def write(self, request: Request, attempt: int) -> Reply:
        """See `Writer`.

        Raises:
            NoAnswer, UserError: see `chat`.
        """
        seed = hash_name(request.prompt_hash, attempt) % 2**31
        return await self.chat(request.messages, request.schema, request.max_tokens, seed=seed)

    async def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        schema: Mapping[str, Any] | None = None,
        max_tokens: int = 1024,
        **sampling: Any,
    ) -> Reply:
        """The answer to a chat.

        Args:
            messages: each with `role` and `content`.
            schema: JSON schema of the answer. A server that refuses schemas is asked without, from then on.
            max_tokens: of the answer.
            sampling: over the server's own (`temperature`, `top_p`, `seed`, ...).

        Raises:
            NoAnswer: none after every try, or this one request is refused.
            UserError: no request will be answered: a wrong key, an unknown model, nobody there.
        """
        wait = self._wait
        for left in reversed(range(self._tries)):
            await self._pause()
            try:
                while (reply := await self._try(messages, schema, max_tokens, sampling)) is None:
                    pass
                return reply
            except _Fault as fault:
                if left == 0:
                    raise NoAnswer(fault.reason, f"{self._tries} tries at {self.url}") from None
                if fault.wait is not None:
                    self._not_before = max(self._not_before, time.monotonic() + fault.wait)
                await asyncio.sleep(wait * random.uniform(0.5, 1.0))
                wait = min(2 * wait, LONGEST_WAIT)
        raise AssertionError("a server is given at least one try")

    async def _pause(self) -> None:
        while (wait := self._not_before - time.monotonic()) > 0:
            await asyncio.sleep(wait)

    async def _try(
        self, messages: Sequence[Mapping[str, str]], schema: Mapping[str, Any] | None, max_tokens: int, sampling: Any
    ) -> Reply | None:
        """One request. None: the server has not this way of asking, and is to be asked in another at once."""
        asked_schema, asked_limit = schema is not None and self._has_schemas, self._limit_name
        body = {"model": self.label, "messages": [*map(dict, messages)], asked_limit: max_tokens}
        body |= self.sampling | sampling
        if asked_schema:
            form = {"name": "answer", "schema": schema, "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        status, retry_after, content = await self._post(body)
        if status == 200:
            self._has_accepted = True
            return _read_reply(content, self.label)
        said = self._said(content)
        if status in _PASSING or status >= 500:
            # OpenAI's code for an account without money, which no waiting helps.
            if "insufficient_quota" in said:
                raise UserError(f"{self.url} says that the quota of this key is used up ({status}): {said}")
            raise _Fault(f"status {status}", _seconds(retry_after, self.url))
        if status in _ABOUT_THIS_REQUEST:
            if asked_limit == "max_tokens" and "max_completion_tokens" in said:  # OpenAI's newer models
                self._limit_name = "max_completion_tokens"
                return None
            if asked_schema and any(word in said.lower() for word in ("response_format", "json", "schema", "grammar")):
                self._has_schemas = False
                return None
            if self._has_accepted:  # so it is this prompt that it does not take: too long, against its rules, ...
                raise NoAnswer(f"status {status}", said)
        raise _refused(status, said, self)

    async def _post(self, body: Mapping[str, Any]) -> tuple[int, str | None, bytes]:
        """Status, Retry-After and body."""
        aiohttp = _aiohttp()
        try:
            async with self._session.post(self.url, json=body, allow_redirects=False) as answer:
                self._has_answered = True
                return answer.status, answer.headers.get("retry-after"), await answer.read()
        except TimeoutError:
            raise _Fault("timeout") from None
        except aiohttp.ClientConnectorError as error:
            if not self._has_answered:
                said = " ".join(str(error).split())
                raise UserError(f"no server at {self.url} ({said}): start it, or name another base URL") from None
            raise _Fault("no connection") from None
        except aiohttp.ClientError:  # cut in the head or the body
            raise _Fault("connection cut") from None

    def _said(self, content: bytes) -> str:
        """The server's own words in one short line, without the key, which some servers repeat."""
        text = " ".join(content[:10_000].decode("utf-8", "replace").split())
        return (text.replace(self._key, "***") if self._key else text)[:200]


def _refused(status: int, said: str, server: Server) -> UserError:
    if status in (401, 403):  # its words are left out: they may hold parts of the key
        return UserError(
            f"{server.url} refuses the key ({status}): set OPENAI_API_KEY, or HF_TOKEN for Hugging Face, to one that "
            f"may use the model {server.label!r}"
        )
    if status == 404:
        return UserError(
            f"{server.url} knows no model {server.label!r}, or is no chat address ({status}): {said}; check --model "
            "and --base-url"
        )
    if 300 <= status < 400:
        return UserError(f"{server.url} sends requests elsewhere ({status}); give the address that it moved to")
    return UserError(f"{server.url} refuses the request ({status}): {said}")


def _read_reply(content: bytes, model: str) -> Reply:
    """The reply in the body of a chat completion.

    Raises:
        _Fault: it is empty, no JSON (cut, or a page), or lacks a field.
    """
    if not content.strip():
        raise _Fault("empty body")
    try:
        body = json.loads(content)
    except ValueError:  # UnicodeDecodeError is one
        raise _Fault("not JSON") from None
    try:
        choice = body["choices"][0]
        text = choice["message"]["content"]
        usage = body.get("usage") or {}
        # A model that spent all its tokens on thinking says null.
        if not isinstance(text, str | None):
            raise TypeError
        return Reply(
            text=_writable(text or ""),
            model=_writable(str(body.get("model") or model)),
            finish_reason=str(choice.get("finish_reason") or "stop"),
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            completion_tokens=int(usage.get("completion_tokens") or 0),
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        raise _Fault("missing fields") from None


def _writable(text: str) -> str:
    """Without halves of surrogate pairs, which JSON can hold and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


def _seconds(retry_after: str | None, url: str) -> float | None:
    """What a Retry-After header asks for: seconds, or the time until a date; None if it cannot be read.

    Raises:
        UserError: more than an hour.
    """
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(retry_after).timestamp() - time.time()
        except ValueError:
            return None
    if seconds > LONGEST_RETRY_AFTER:
        raise UserError(
            f"{url} asks to wait {seconds:.0f} seconds: run the same command again then, and it goes on from here"
        )
    return max(0.0, seconds) if seconds == seconds else None


def _chat_url(base_url: str) -> str:
    if "@" in base_url.partition("//")[2].partition("/")[0]:
        raise UserError("the address of the server holds a password; put the key into OPENAI_API_KEY instead")
    parts = urlsplit(base_url)
    try:
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # the port is no number
        usable = False
    if not usable:
        raise UserError(f"{base_url!r} is no address of a server; one looks like http://127.0.0.1:8000/v1")
    path = parts.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path = f"{path or '/v1'}/chat/completions"
    return parts._replace(path=path).geturl()


def _key(url: str) -> str:
    """The key for a server, from the environment; empty if there is none."""
    host = urlsplit(url).hostname or ""
    hugging_face = any(host == name or host.endswith(f".{name}") for name in _HUGGING_FACE)
    for name in ("HF_TOKEN", "OPENAI_API_KEY") if hugging_face else ("OPENAI_API_KEY",):
        key = os.environ.get(name, "").strip()
        # Checked here, because the HTTP library would repeat the value in its complaint.
        if not (key.isascii() and (key.isprintable())) or " " in key:
            raise UserError(
                f"the environment variable {name} is no key: it holds spaces or other than plain characters"
            )
        if key:
            return key
    return ""


def _aiohttp() -> Any:
    try:
        import aiohttp
    except ImportError:
        raise UserError('servers are asked through aiohttp: pip install "hf-tasks[textbooks]"') from None
    return aiohttp
