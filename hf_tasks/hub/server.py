"""The Hub over HTTP: the requests that huggingface_hub 2.4, transformers, datasets and evaluate make, over a `Store`.

- Clients need HF_HUB_DISABLE_XET=1, read when huggingface_hub is imported: files then come by the classic LFS route.
- Paths are split before they are decoded. Clients quote a branch `a/b` as one part, `a%2Fb`, which Starlette, like most
  servers, would have decoded into two; `_RawPath` and the convertors see to it.
- Endpoints are plain functions of a `Call` that may block; `_threaded` runs them in Starlette's thread pool. Only the
  two that take in large bodies are asynchronous, and hand over chunk by chunk.
- Uploads carry no token (the client sends none), so their links are signed and expire, as S3's are.
- Who asks for a private or missing repository without a token gets 401, with one 404, both as RepoNotFound: the two
  cannot be told apart, as on the real Hub.
"""

import base64
import codecs
import errno
import json
import re
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from threading import Thread
from typing import IO, Any, NoReturn, TypeVar
from urllib.parse import parse_qs, quote, unquote

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from hf_tasks.errors import UserError
from hf_tasks.hub.store import (
    LINK_SECONDS,
    Change,
    Commit,
    File,
    HubError,
    RepoId,
    Store,
    check_path,
    entries,
)
from hf_tasks.hub.users import Signer, User, Users

JSON_LIMIT = 16 * 2**20  # bytes of a request that is held in memory; also of one line of a commit
COMMIT_LIMIT = 256 * 2**20  # bytes of a commit, which holds its small files
SMALL_FILE = 2**20  # bytes; larger files, and all that is not text, come by LFS
PAGE, EXPANDED_PAGE = 1000, 50  # entries of a listing

T = TypeVar("T")


class _Part(Convertor[str]):
    """One part of a path, decoded after the split."""

    regex = "[^/]+"

    def convert(self, value: str) -> str:
        return unquote(value)


class _Rest(_Part):
    """All that is left of a path."""

    regex = ".+"


class _Kind(Convertor[str]):
    regex = "models|datasets|spaces"

    def convert(self, value: str) -> str:
        return value.removesuffix("s")


register_url_convertor("part", _Part())
register_url_convertor("rest", _Rest())
register_url_convertor("kind", _Kind())


class _RawPath:
    """Lets the router see the path as the client wrote it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["path"] = scope["raw_path"].decode("ascii")
        await self.app(scope, receive, send)


class Hub:
    """What all endpoints share."""

    def __init__(self, folder: Path) -> None:
        self.store, self.users, self.signer = Store(folder), Users(folder), Signer(folder)


class Call:
    """One request, with its body read where that is small enough to be held in memory."""

    def __init__(self, request: Request, body: bytes = b"") -> None:
        self.request, self.body = request, body
        self.hub: Hub = request.app.state.hub
        self.store = self.hub.store
        self.path: dict[str, str] = request.path_params

    @cached_property
    def user(self) -> User | None:
        """Who asks; None without a token.

        Raises:
            HubError: 401, for a token that is nobody's.
        """
        header = self.request.headers.get("authorization")
        if header is None:
            return None
        scheme, _, token = header.partition(" ")
        user = self.hub.users.find(token.strip()) if scheme.lower() == "bearer" else None
        if user is None:
            # This very message keeps huggingface_hub from reporting a missing repository.
            headers = {"X-Error-Message": "Invalid credentials in Authorization header"}
            raise HubError(401, "Invalid username or password.", headers=headers)
        return user

    @cached_property
    def repo(self) -> RepoId:
        """The repository that the path names; see `readable` and `writable` for one that may be touched."""
        return RepoId(self.path.get("kind", "model"), self.path["namespace"], self.path["name"])

    def owns(self, repo: RepoId) -> bool:
        return self.user is not None and repo.namespace in self.user.namespaces

    def readable(self, repo: RepoId | None = None) -> RepoId:
        """The repository, if it is there for this user."""
        repo, user = repo or self.repo, self.user  # a wrong token is refused even where none is needed
        state = self.store.find(repo)
        if state is None or (state.private and not self.owns(repo)):
            if user is None:
                raise HubError(401, "Invalid username or password.", "RepoNotFound")
            raise HubError(404, "Repository not found", "RepoNotFound")
        return repo

    def writable(self, repo: RepoId | None = None) -> RepoId:
        """The repository, if it is there and this user's."""
        repo = self.readable(repo)
        self.check_owner(repo)
        return repo

    def check_owner(self, repo: RepoId) -> None:
        """Raises `HubError` (401 or 403) unless the user may write in the namespace."""
        if self.user is None:
            raise HubError(401, "Invalid username or password.")
        if not self.owns(repo):
            raise HubError(403, f"{self.user.name} has no rights to write in the namespace {repo.namespace!r}")

    @cached_property
    def json(self) -> dict[str, Any]:
        return _parse(self.body)

    def flag(self, name: str) -> bool:
        return self.request.query_params.get(name, "").lower() in ("true", "1")

    def url(self, path: str) -> str:
        """The whole URL, as seen by the client: from its Host header."""
        return f"{self.request.base_url}{quote(path)}"

    def web_url(self, repo: RepoId) -> str:
        return self.url(str(repo) if repo.kind == "model" else repo.path)


def _parse(content: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        raise HubError(400, f"not JSON: {content[:80]!r}") from None
    if not isinstance(parsed, dict):
        raise HubError(400, f"not a JSON object: {content[:80]!r}")
    return parsed


def _field(fields: dict[str, Any], name: str, kind: type[T], default: T | None = None) -> T:
    """A field of a request, checked; it must be there unless there is a default."""
    value = fields.get(name)
    if value is None and default is not None:
        return default
    # JSON may hold halves of surrogate pairs, which no answer could be written with.
    if not isinstance(value, kind) or (isinstance(value, str) and not _is_unicode(value)):
        raise HubError(400, f"{name!r} must be a {kind.__name__}, not {str(value)[:80]!r}")
    return value


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _objects(fields: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """A field of a request that is a list of objects."""
    return [_field({name: one}, name, dict) for one in _field(fields, name, list)]


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise HubError(400, f"not base64: {text[:80]!r}") from None


# --- users and repositories ---


def whoami(call: Call) -> Response:
    user = call.user
    if user is None:
        raise HubError(401, "Invalid username or password.")
    organizations = [{"type": "org", "name": name} for name in sorted(user.namespaces - {user.name})]
    token = {"displayName": user.name, "role": "write"}
    return JSONResponse({
        "type": "user", "id": user.name, "name": user.name, "fullname": user.name, "isPro": False,
        "orgs": organizations, "auth": {"type": "access_token", "accessToken": token},
    })  # fmt: skip


def validate_yaml(call: Call) -> Response:
    """The client has parsed the card already; this Hub has no rules of its own about what cards say."""
    return JSONResponse({"errors": [], "warnings": []})


def _named_repo(call: Call) -> RepoId:
    """The repository that a body names; a name without a namespace is the user's."""
    if call.user is None:
        raise HubError(401, "Invalid username or password.")
    namespace = _field(call.json, "organization", str, call.user.name)
    return RepoId(_field(call.json, "type", str, "model"), namespace, _field(call.json, "name", str))


def create_repo(call: Call) -> Response:
    repo = _named_repo(call)
    call.check_owner(repo)
    assert call.user is not None
    fresh = call.store.create(repo, private=_is_private(call.json, "public"), author=call.user.name)
    said = {} if fresh else {"error": f"You already created this {repo.kind} repo: {repo}"}
    return JSONResponse({"url": call.web_url(repo), "name": str(repo), "id": str(repo), **said}, 200 if fresh else 409)


def _is_private(fields: dict[str, Any], default: str | None = None) -> bool:
    if "private" in fields:  # so said huggingface_hub before `visibility` came
        return _field(fields, "private", bool)
    visibility = _field(fields, "visibility", str, default)
    if visibility not in ("public", "private"):
        raise HubError(400, f"'visibility' must be public or private here, not {visibility!r}")
    return visibility == "private"


def delete_repo(call: Call) -> Response:
    call.store.delete(call.writable(_named_repo(call)))
    return JSONResponse({})


def change_settings(call: Call) -> Response:
    """Visibility is the only setting; a request that is about another one must not make anything public."""
    call.store.set_private(call.writable(), _is_private(call.json))
    return JSONResponse({})


def check_rights(call: Call, write: bool) -> Response:
    call.writable() if write else call.readable()
    return JSONResponse({})


def describe(call: Call) -> Response:
    """What `model_info` and its like show; `?blobs=true` adds sizes and hashes."""
    repo = call.readable()
    state, commit = call.store.read(repo), call.store.resolve(repo, call.path.get("revision", "main"))
    now = call.store.read_commit(repo, commit)
    return JSONResponse({
        "_id": commit[:24], "id": str(repo), "modelId": str(repo), "author": repo.namespace, "sha": commit,
        "private": state.private, "gated": False, "disabled": False, "downloads": 0, "likes": 0, "tags": [],
        "createdAt": state.created, "lastModified": now.date,
        "siblings": [_sibling(path, file, call.flag("blobs")) for path, file in sorted(now.files.items())],
    })  # fmt: skip


def _sibling(path: str, file: File, blobs: bool) -> dict[str, Any]:
    if not blobs:
        return {"rfilename": path}
    known = {"rfilename": path, "size": file.size, "blobId": file.git}
    if file.lfs:
        known["lfs"] = {"sha256": file.sha256, "size": file.size, "pointerSize": file.pointer_size}
    return known


def no_namespace(call: Call) -> NoReturn:
    """The old names of the real Hub ("gpt2"): clients must see a missing repository."""
    raise HubError(404, f"Repository not found: {call.path['name'][:200]!r} has no namespace", "RepoNotFound")


# --- listings ---


def list_repos(call: Call) -> Response:
    """All repositories of a kind that this user may see; `author` and `search` narrow it, `limit` cuts it."""
    query = call.request.query_params
    wanted, limit = query.get("search", "").lower(), query.get("limit", "")
    items = []
    for repo, state in call.store.repos(call.path["kind"]):
        fits = query.get("author", repo.namespace) == repo.namespace and wanted in str(repo).lower()
        if fits and (not state.private or call.owns(repo)):
            items.append({"id": str(repo), "private": state.private, "createdAt": state.created, "tags": []})
    return JSONResponse(items[: int(limit[:9])] if limit.isdecimal() else items)


def _located(call: Call) -> tuple[RepoId, str, Commit]:
    """The repository and commit that the path names."""
    repo = call.readable()
    commit = call.store.resolve(repo, call.path["revision"])
    return repo, commit, call.store.read_commit(repo, commit)


def list_tree(call: Call) -> Response:
    """Folders and files below a folder, by path and a page at a time."""
    repo, commit, now = _located(call)
    folder = call.path.get("path", "").rstrip("/")
    below = f"{folder}/" if folder else ""
    found = {path: entry for path, entry in entries(now.files).items() if path.startswith(below)}
    if folder and not found:
        raise _no_entry(folder, commit)
    if not call.flag("recursive"):
        found = {path: entry for path, entry in found.items() if "/" not in path.removeprefix(below)}
    cursor, size = call.request.query_params.get("cursor", ""), EXPANDED_PAGE if call.flag("expand") else PAGE
    later = [(path, entry) for path, entry in found.items() if path > cursor]
    # The next page is one of this very commit: the branch may move between two pages.
    here = "/".join(["api", repo.path, "tree", commit, *filter(None, [folder])])
    query = {name: call.request.query_params.get(name, "false") for name in ("recursive", "expand")}
    query["cursor"] = later[size - 1][0] if len(later) > size else ""
    items = _entries(call.store, repo, commit, dict(later[:size]), call.flag("expand"))
    return _page(call, items, here if query["cursor"] else None, query)


def _page(call: Call, items: list[dict[str, Any]], more: str | None, query: dict[str, str]) -> Response:
    """A page of a listing, with where the next one is."""
    if more is None:
        return JSONResponse(items)
    link = f"{call.url(more)}?" + "&".join(f"{name}={quote(value, safe='')}" for name, value in query.items())
    return JSONResponse(items, headers={"Link": f'<{link}>; rel="next"'})


def _entries(
    store: Store, repo: RepoId, commit: str, found: dict[str, File | str], expand: bool
) -> list[dict[str, Any]]:
    last = store.last_commits(repo, commit, found) if expand else {}
    return [{**_entry(path, entry), **_last_commit(last.get(path))} for path, entry in found.items()]


def _entry(path: str, entry: File | str) -> dict[str, Any]:
    if isinstance(entry, str):
        return {"type": "directory", "path": path, "size": 0, "oid": entry}
    known = {"type": "file", "path": path, "size": entry.size, "oid": entry.git}
    if entry.lfs:
        known["lfs"] = {"oid": entry.sha256, "size": entry.size, "pointerSize": entry.pointer_size}
    return known


def _last_commit(found: tuple[str, Commit] | None) -> dict[str, Any]:
    return {"lastCommit": {"id": found[0], "title": found[1].title, "date": found[1].date}} if found else {}


def paths_info(call: Call) -> Response:
    """Of the given paths, those that are there; a form or JSON, as clients differ."""
    repo, commit, now = _located(call)
    if call.request.headers.get("content-type", "").startswith("application/json"):
        fields = call.json
        paths, expand = _field(fields, "paths", list), bool(fields.get("expand"))
    else:
        form = parse_qs(call.body.decode(errors="replace"))
        paths, expand = form.get("paths", []), form.get("expand", [""])[0].lower() == "true"
    known = entries(now.files)
    found = {path: known[path] for path in (str(path).rstrip("/") for path in paths) if path in known}
    return JSONResponse(_entries(call.store, repo, commit, found, expand))


def list_references(call: Call) -> Response:
    state = call.store.read(call.readable())
    branches = [_reference("heads", name, commit) for name, commit in state.branches.items()]
    tags = [_reference("tags", name, commit) for name, commit in state.tags.items()]
    return JSONResponse({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})


def _reference(kind: str, name: str, commit: str) -> dict[str, str]:
    return {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": commit}


def list_commits(call: Call) -> Response:
    repo, commit, _ = _located(call)
    items, more = [], None
    for name, one in call.store.history(repo, commit):
        if len(items) == EXPANDED_PAGE:
            more = f"api/{repo.path}/commits/{name}"
            break
        authors = [{"user": one.author}]
        items.append({"id": name, "title": one.title, "message": one.message, "authors": authors, "date": one.date})
    return _page(call, items, more, {})


# --- branches and tags ---


def create_branch(call: Call) -> Response:
    start = _field(call.json, "startingPoint", str, "main")
    call.store.add_reference(call.writable(), "branches", call.path["branch"], start)
    return JSONResponse({})


def create_tag(call: Call) -> Response:
    call.store.add_reference(call.writable(), "tags", _field(call.json, "tag", str), call.path["revision"])
    return JSONResponse({})


def delete_branch(call: Call) -> Response:
    call.store.delete_reference(call.writable(), "branches", call.path["branch"])
    return JSONResponse({})


def delete_tag(call: Call) -> Response:
    call.store.delete_reference(call.writable(), "tags", call.path["revision"])
    return JSONResponse({})


# --- downloads ---


def download(call: Call) -> Response:
    """A file, whole or by ranges; the headers alone for HEAD."""
    repo, commit, now = _located(call)
    file = now.files.get(call.path["path"])
    if file is None:
        raise _no_entry(call.path["path"], commit)
    headers = {"X-Repo-Commit": commit, "ETag": f'"{file.etag}"'}
    if file.lfs:
        headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
    return FileResponse(call.store.blob(repo, file.sha256), headers=headers, media_type="application/octet-stream")


def _no_entry(path: str, commit: str) -> HubError:
    # Clients remember, by the commit, that a file is not there.
    return HubError(404, f"Entry not found: {path[:200]!r}", "EntryNotFound", {"X-Repo-Commit": commit})


# --- uploads and commits ---


def announce(call: Call) -> Response:
    """Tell the client how each of its files is to come, and what is here already."""
    repo = call.writable()
    _check_no_pull_request(call)
    here = call.store.read_commit(repo, call.store.resolve(repo, call.path["revision"])).files
    answers = []
    for wanted in _objects(call.json, "files"):
        path = check_path(_field(wanted, "path", str))
        small = _field(wanted, "size", int) <= SMALL_FILE and _is_text(_base64(_field(wanted, "sample", str)))
        oid = here[path].etag if path in here else None
        mode = "regular" if small else "lfs"
        answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
    return JSONResponse({"files": answers})


def _is_text(sample: bytes) -> bool:
    """UTF-8 without NUL; the sample may end in the middle of a character."""
    try:
        return "\0" not in codecs.getincrementaldecoder("utf-8")().decode(sample)
    except UnicodeDecodeError:
        return False


def _check_no_pull_request(call: Call) -> None:
    if call.request.query_params.get("create_pr"):
        raise HubError(400, "this Hub has no pull requests: commit to a branch instead")


def offer_uploads(call: Call) -> Response:
    """The LFS batch: a signed link for each content that this repository does not have yet."""
    repo = call.writable()
    if _field(call.json, "operation", str) != "upload":
        raise HubError(400, "this Hub speaks LFS for uploads only: download from /resolve/")
    objects = [_offer(call, repo, wanted) for wanted in _objects(call.json, "objects")]
    return JSONResponse({"transfer": "basic", "objects": objects})


def _offer(call: Call, repo: RepoId, wanted: dict[str, Any]) -> dict[str, Any]:
    oid, size = _field(wanted, "oid", str), _field(wanted, "size", int)
    answer = {"oid": oid, "size": size}
    if call.store.blob(repo, oid).exists():
        return answer
    expires = str(int(time.time()) + LINK_SECONDS)
    signature = call.hub.signer.sign(repo.path, oid, str(size), expires)
    href = f"{call.url(f'api/{repo.path}/lfs/{oid}')}?size={size}&expires={expires}&signature={signature}"
    return {**answer, "actions": {"upload": {"href": href}}}


async def upload(request: Request) -> Response:
    """Take in a content by its signed link."""
    call = Call(request)
    size = _signed_size(call)
    await run_in_threadpool(call.store.read, call.repo)
    with call.store.upload(call.repo, call.path["oid"], size) as sink:
        await _receive(request, partial(run_in_threadpool, sink.write))
    return JSONResponse({})


def _signed_size(call: Call) -> int:
    """The size in bytes that an upload link was made for."""
    query = call.request.query_params
    size, expires, signature = (query.get(name, "") for name in ("size", "expires", "signature"))
    if not call.hub.signer.is_signed(signature, call.repo.path, call.path["oid"], size, expires):
        raise HubError(403, "this upload link was not made by this Hub: ask for one at info/lfs/objects/batch")
    if int(expires) < time.time():
        raise HubError(403, "this upload link has expired: ask for another at info/lfs/objects/batch")
    return int(size)


async def commit(request: Request) -> Response:
    """Put changes, one JSON a line, on a branch. The body goes over the disk: it may hold many files."""
    call = Call(request)
    repo = await run_in_threadpool(call.writable)
    _check_no_pull_request(call)
    with call.store.scratch() as lines:
        await _receive(request, partial(run_in_threadpool, lines.write), COMMIT_LIMIT)
        lines.seek(0)
        return await run_in_threadpool(_commit, call, repo, lines)


def _commit(call: Call, repo: RepoId, lines: IO[bytes]) -> Response:
    assert call.user is not None
    header: dict[str, Any] = {}
    changes: list[Change] = []
    while line := lines.readline(JSON_LIMIT + 1):
        if len(line) > JSON_LIMIT:
            raise HubError(413, f"a line of the commit is longer than {JSON_LIMIT} bytes: upload the file by LFS")
        if not line.strip():
            continue
        fields = _parse(line)
        value = _field(fields, "value", dict)
        if fields.get("key") == "header":
            header = value
        else:
            changes.append(_change(call.store, repo, _field(fields, "key", str), value))
    done = call.store.commit(
        repo, call.path["revision"], changes, author=call.user.name, title=_field(header, "summary", str),
        message=_field(header, "description", str, ""), parent=_field(header, "parentCommit", str, ""),
    )  # fmt: skip
    url = f"{call.web_url(repo)}/commit/{done}"
    return JSONResponse({"success": True, "commitOid": done, "commitUrl": url, "hookOutput": ""})


def _change(store: Store, repo: RepoId, key: str, value: dict[str, Any]) -> Change:
    path = _field(value, "path", str)
    if key == "deletedFolder":
        return check_path(path.rstrip("/")) + "/", None
    check_path(path)
    if key == "deletedFile":
        return path, None
    if key == "file":
        return path, store.put(repo, _base64(_field(value, "content", str)))
    if key == "lfsFile":
        return path, store.large_file(repo, _field(value, "oid", str))
    raise HubError(400, f"unknown change {key[:80]!r}; known: header, file, lfsFile, deletedFile, deletedFolder")


# --- the application ---


async def _receive(request: Request, write: Callable[[bytes], Awaitable[Any]], limit: int | None = None) -> None:
    """Hand the body over, chunk by chunk. Raises `HubError` (413) where it is, or is announced to be, too long."""
    received, announced = 0, int(request.headers.get("content-length", 0))
    async for chunk in request.stream():
        received += len(chunk)
        if limit is not None and max(received, announced) > limit:
            raise HubError(413, f"the body is longer than the {limit} bytes that are taken here")
        await write(chunk)


def _threaded(endpoint: Callable[[Call], Response]) -> Callable[[Request], Awaitable[Response]]:
    """Read the body, then answer in a thread."""

    async def answer(request: Request) -> Response:
        body = bytearray()

        async def write(chunk: bytes) -> None:
            body.extend(chunk)

        await _receive(request, write, JSON_LIMIT)
        return await run_in_threadpool(lambda: endpoint(Call(request, bytes(body))))

    return answer


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HubError)
    # Headers hold one line of ASCII.
    message = re.sub(r"\s+", " ", error.message).encode("ascii", "backslashreplace").decode()
    headers = {"X-Error-Message": message, **({"X-Error-Code": error.code} if error.code else {}), **error.headers}
    return JSONResponse({"error": error.message}, error.status, headers)


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = f"{request.method} {request.scope['path'][:200]}"
    message = f"this Hub does not know {what!r}; if it is about Xet, set HF_HUB_DISABLE_XET=1 for the client"
    return JSONResponse({"error": message}, error.status_code, error.headers)


async def _disk_trouble(request: Request, error: Exception) -> Response:
    """A full disk has a status of its own: clients would try again after a 500."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT):
        raise error
    return JSONResponse({"error": "the disk of this Hub is full"}, 507)


async def _gone(request: Request, error: Exception) -> Response:
    """The client went away in the middle of its request: nobody reads this."""
    return Response(status_code=400)


_API = "/api/{kind:kind}/{namespace:part}/{name:part}"
_PAGES = ("/{kind:kind}/{namespace:part}/{name:part}", "/{namespace:part}/{name:part}")  # models go without a kind

# Method, path, endpoint.
ROUTES: tuple[tuple[str, str, Callable[[Call], Response]], ...] = (
    ("GET", "/api/whoami-v2", whoami),
    ("POST", "/api/validate-yaml", validate_yaml),
    ("POST", "/api/repos/create", create_repo),
    ("DELETE", "/api/repos/delete", delete_repo),
    ("GET", "/api/{kind:kind}", list_repos),
    ("GET", _API, describe),
    ("GET", _API + "/revision/{revision:part}", describe),
    ("PUT", _API + "/settings", change_settings),
    ("GET", _API + "/auth-check", partial(check_rights, write=False)),
    ("GET", _API + "/auth-check/write", partial(check_rights, write=True)),
    ("GET", _API + "/tree/{revision:part}", list_tree),
    ("GET", _API + "/tree/{revision:part}/{path:rest}", list_tree),
    ("POST", _API + "/paths-info/{revision:part}", paths_info),
    ("GET", _API + "/refs", list_references),
    ("GET", _API + "/commits/{revision:part}", list_commits),
    ("POST", _API + "/branch/{branch:part}", create_branch),
    ("DELETE", _API + "/branch/{branch:part}", delete_branch),
    ("POST", _API + "/tag/{revision:part}", create_tag),
    ("DELETE", _API + "/tag/{revision:part}", delete_tag),
    ("POST", _API + "/preupload/{revision:part}", announce),
    *(("POST", page + ".git/info/lfs/objects/batch", offer_uploads) for page in _PAGES),
    *(("GET", page + "/resolve/{revision:part}/{path:rest}", download) for page in _PAGES),
    ("GET", "/api/{kind:kind}/{name:part}", no_namespace),
    ("GET", "/api/{kind:kind}/{name:part}/revision/{revision:part}", no_namespace),
    ("GET", "/{kind:kind}/{name:part}/resolve/{revision:part}/{path:rest}", no_namespace),
    ("GET", "/{name:part}/resolve/{revision:part}/{path:rest}", no_namespace),
)


def make_app(folder: Path) -> ASGIApp:
    """The Hub of a folder, as an ASGI application."""
    routes = [Route(path, _threaded(endpoint), methods=[method]) for method, path, endpoint in ROUTES]
    routes += [
        Route(_API + "/commit/{revision:part}", commit, methods=["POST"]),
        Route(_API + "/lfs/{oid:part}", upload, methods=["PUT"]),
    ]
    handlers = {HubError: _refuse, HTTPException: _no_route, ClientDisconnect: _gone, OSError: _disk_trouble}
    app = Starlette(routes=routes, exception_handlers=handlers)
    app.router.redirect_slashes = False
    app.state.hub = Hub(folder)
    return _RawPath(app)


def _server(app: ASGIApp) -> uvicorn.Server:
    config = uvicorn.Config(
        app, http="h11", ws="none", lifespan="off", log_config=None, access_log=False, server_header=False,
        timeout_keep_alive=60, timeout_graceful_shutdown=5,
    )  # fmt: skip
    return uvicorn.Server(config)


def serve(
    folder: Path, host: str = "127.0.0.1", port: int = 8090, ready: Callable[[str], None] = lambda url: None
) -> None:
    """Serve the Hub of a folder until Ctrl-C; see `make_token` for its users.

    Args:
        folder: of the Hub, made where it is missing.
        host, port: where to listen.
        ready: is told the address for clients, once it is listened to.

    Raises:
        UserError: where the address cannot be used.
    """
    app = make_app(folder)
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, OverflowError) as error:
        said = getattr(error, "strerror", None) or error
        raise UserError(f"cannot serve on {host}:{port} ({said}): choose another --host or --port") from error
    ready(f"http://{socket.gethostname() if host in ('0.0.0.0', '::') else host}:{port}")
    with listener, suppress(KeyboardInterrupt):
        _server(app).run(sockets=[listener])


@contextmanager
def running(folder: Path, middleware: Callable[[ASGIApp], ASGIApp] | None = None) -> Iterator[str]:
    """A Hub on a free port of the loopback, at the URL that it yields, until the block ends.

    Args:
        folder: of the Hub, made where it is missing.
        middleware: wraps the application; it sees every request first.
    """
    app = make_app(folder)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = _server(middleware(app) if middleware else app)
        thread = Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"  # it is listened to already: early clients wait
        finally:
            server.should_exit = True
            thread.join()
