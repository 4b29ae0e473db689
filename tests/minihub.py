"""A Hub on the loopback, in memory: what huggingface_hub 2.4 and transformers 5.23 ask of one for publishing a model.

- Xet must be off in the client (HF_HUB_DISABLE_XET=1): large files then come by the classic LFS batch route.
- One token is right, `TOKEN`; a write with any other is answered as the real Hub does, with 401.
- Models only, branch `main` only; a revision is `main` or the id of a commit.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_right"
LARGE = (".safetensors",)


@dataclass(frozen=True)
class File:
    """One version of a file. `large`: it came by LFS and is known by its SHA-256, others by git's SHA-1."""

    content: bytes
    large: bool

    @property
    def oid(self) -> str:
        if self.large:
            return hashlib.sha256(self.content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()


@dataclass
class Repo:
    """Commits in order, each a title and all files; the id of a commit is its number, written as 40 digits."""

    commits: list[tuple[str, dict[str, File]]] = field(default_factory=lambda: [("initial commit", {})])

    def number(self, revision: str) -> int:
        return len(self.commits) - 1 if revision == "main" else int(revision)

    def files(self, revision: str = "main") -> dict[str, File]:
        return self.commits[self.number(revision)][1]


@dataclass
class Hub:
    """All that a running server knows."""

    url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)  # by SHA-256
    lock: Lock = field(default_factory=Lock)


class Handler(BaseHTTPRequestHandler):
    """Finds the route of a request by its method and path; see `ROUTES`."""

    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *arguments: Any) -> None:
        """Stay silent: the base class writes to stderr."""

    def reply(self, code: int, content: Any = None, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content or {}).encode()
        self.send_response(code)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, code: int, kind: str, message: str) -> None:
        self.reply(code, {"error": message}, {"X-Error-Code": kind, "X-Error-Message": message})

    def read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self) -> None:
        body, path = self.read(), unquote(urlsplit(self.path).path)
        if self.command in ("POST", "PUT") and self.headers.get("Authorization") not in (f"Bearer {TOKEN}", None):
            return self.refuse(401, "", "Invalid username or password.")
        for methods, pattern, name in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in methods:
                groups = found.groupdict()
                if "repo" in groups and groups["repo"] not in self.hub.repos:
                    return self.refuse(404, "RepoNotFound", "Repository not found")
                with self.hub.lock:
                    return getattr(self, name)(body, **groups)
        self.refuse(404, "EntryNotFound", f"no route {self.command} {path}")

    do_GET = do_HEAD = do_POST = do_PUT = answer  # noqa: N815 - the base class calls them so

    def create(self, body: bytes) -> None:
        wanted = json.loads(body)
        name = f"{wanted['organization']}/{wanted['name']}"
        fresh = name not in self.hub.repos
        self.hub.repos.setdefault(name, Repo())
        self.reply(200 if fresh else 409, {"url": f"{self.hub.url}/{name}", "name": name, "id": name})

    def validate_card(self, body: bytes) -> None:
        self.reply(200, {"errors": [], "warnings": []})

    def announce(self, body: bytes, repo: str, revision: str) -> None:
        """Tell the client which of its files are large, and what is here already."""
        here = self.hub.repos[repo].files(revision)
        self.reply(200, {"files": [
            {
                "path": path,
                "uploadMode": "lfs" if path.endswith(LARGE) else "regular",
                "shouldIgnore": False,
                "oid": here[path].oid if path in here else None,
            }
            for path in (file["path"] for file in json.loads(body)["files"])
        ]})  # fmt: skip

    def offer_upload(self, body: bytes, repo: str) -> None:
        objects = [
            {**wanted, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}"}}}
            for wanted in json.loads(body)["objects"]
        ]
        self.reply(200, {"transfer": "basic", "objects": objects})

    def upload(self, body: bytes, oid: str) -> None:
        if hashlib.sha256(body).hexdigest() != oid:
            return self.refuse(400, "BadOid", "sha256 mismatch")
        self.hub.uploads[oid] = body
        self.reply(200)

    def commit(self, body: bytes, repo: str, revision: str) -> None:
        title, files = "", dict(self.hub.repos[repo].files(revision))
        for line in map(json.loads, filter(None, body.split(b"\n"))):
            value = line["value"]
            if line["key"] == "header":
                title = value["summary"]
            elif line["key"] == "file":
                files[value["path"]] = File(base64.b64decode(value["content"]), large=False)
            elif line["key"] == "lfsFile":
                files[value["path"]] = File(self.hub.uploads[value["oid"]], large=True)
        commits = self.hub.repos[repo].commits
        commits.append((title, files))
        sha = f"{len(commits) - 1:040}"
        self.reply(200, {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{repo}/commit/{sha}"})

    def describe(self, body: bytes, repo: str, revision: str | None) -> None:
        here = self.hub.repos[repo]
        files = [{"rfilename": path} for path in sorted(here.files(revision or "main"))]
        sha = f"{here.number(revision or 'main'):040}"
        self.reply(200, {"_id": "0", "id": repo, "modelId": repo, "sha": sha, "private": False, "gated": False,
                         "disabled": False, "downloads": 0, "likes": 0, "tags": [], "siblings": files})  # fmt: skip

    def download(self, body: bytes, repo: str, revision: str, path: str) -> None:
        sha = f"{self.hub.repos[repo].number(revision):040}"
        file = self.hub.repos[repo].files(revision).get(path)
        if file is None:
            return self.reply(404, None, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": sha})
        headers = {"X-Repo-Commit": sha, "ETag": f'"{file.oid}"'}
        if file.large:
            headers |= {"X-Linked-Etag": f'"{file.oid}"', "X-Linked-Size": str(len(file.content))}
        self.reply(200, file.content, headers)


_REPO, _REVISION = r"(?P<repo>[^/]+/[^/]+)", r"(?P<revision>[^/]+)"

# Methods, path, and the method of `Handler` that gets the body and the named groups.
ROUTES = (
    (("POST",), r"/api/repos/create", "create"),
    (("POST",), r"/api/validate-yaml", "validate_card"),
    (("POST",), rf"/api/models/{_REPO}/preupload/{_REVISION}", "announce"),
    (("POST",), rf"/{_REPO}\.git/info/lfs/objects/batch", "offer_upload"),
    (("PUT",), r"/lfs/(?P<oid>[0-9a-f]{64})", "upload"),
    (("POST",), rf"/api/models/{_REPO}/commit/{_REVISION}", "commit"),
    (("GET",), rf"/api/models/{_REPO}(?:/revision/{_REVISION})?", "describe"),
    (("GET", "HEAD"), rf"/{_REPO}/resolve/{_REVISION}/(?P<path>.+)", "download"),
)


@contextmanager
def serve() -> Iterator[Hub]:
    """A running hub at `hub.url`, until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
