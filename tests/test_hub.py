"""The Hub of one's own: the real huggingface_hub client works against it, and hostile requests do not.

- Clients get the address explicitly; `ask` makes requests that no client would make.
- One Hub serves all tests that do not need a folder of their own; each makes a repository of its own name.
"""

import base64
import errno
import fcntl
import hashlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2
import huggingface_hub
import pytest
from faults import Faults
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi, HfFileSystem
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from hypothesis import given
from hypothesis import strategies as st

from hf_tasks.errors import UserError
from hf_tasks.hub import server
from hf_tasks.hub.server import running, serve
from hf_tasks.hub.store import HubError, RepoId, Store, check_path
from hf_tasks.hub.users import make_token

# huggingface_hub 2.4 hands a file to httpx2 in a way that httpx2 advises against.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

BINARY = bytes(range(256)) * 40  # comes by LFS, as it is no text
BAD_PATHS = [
    "", ".", "..", "../x", "a/../x", "a/..", "/etc/passwd", "a//b", "a/", "./a", "a/./b", ".git/config", "a/.GIT/hooks",
    "a\\b", "..\\x", "a\0b", "a\nb", "\ud800", "x" * 256, "/".join(["x" * 200] * 6),
]  # fmt: skip
BAD_NAMES = ["", ".", "..", "../x", "a/b", ".git", "x.git", "-a", "a.", "a..b", "a--b", "a\\b", "a b", "a\0", "x" * 97]


@dataclass
class Site:
    """A running Hub with the users `me` (who also writes for `team`) and `you`."""

    folder: Path
    url: str
    mine: str
    yours: str

    def api(self, token: str | bool | None = None) -> HfApi:
        """A client; it is mine unless another token, or False for none, is given."""
        return HfApi(endpoint=self.url, token=self.mine if token is None else token)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """A raw request, mine unless `authorization` is given; a body that is not bytes goes as JSON."""
        headers.setdefault("authorization", f"Bearer {self.mine}")
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=30)
        try:
            content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            connection.request(method, path, content, {name: text for name, text in headers.items() if text})
            answer = connection.getresponse()
            return answer.status, {name.lower(): text for name, text in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def commit(self, repo: str, *changes: dict[str, Any], branch: str = "main", **header: str) -> int:
        """The status of a raw commit."""
        lines = [{"key": "header", "value": {"summary": "raw", **header}}, *changes]
        body = b"\n".join(json.dumps(line).encode() for line in lines)
        return self.ask("POST", f"/api/models/{repo}/commit/{branch}", body)[0]

    def link(self, repo: str, content: bytes, size: int | None = None) -> str:
        """An upload link for a content, announced with its own size or another, without the address."""
        wanted = [{"oid": hashlib.sha256(content).hexdigest(), "size": len(content) if size is None else size}]
        body = self.ask("POST", f"/{repo}.git/info/lfs/objects/batch", {"operation": "upload", "objects": wanted})[2]
        return json.loads(body)["objects"][0]["actions"]["upload"]["href"].removeprefix(self.url)


def added(path: str, content: bytes = b"x") -> dict[str, Any]:
    return {"key": "file", "value": {"path": path, "content": base64.b64encode(content).decode()}}


def by_lfs(path: str, content: bytes) -> dict[str, Any]:
    return {"key": "lfsFile", "value": {"path": path, "oid": hashlib.sha256(content).hexdigest(), "algo": "sha256"}}


@pytest.fixture(autouse=True)
def no_xet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("hub")
    mine, yours = make_token(folder, "me", ["team"]), make_token(folder, "you")
    with running(folder) as url:
        yield Site(folder, url, mine, yours)


@pytest.fixture
def repo(site: Site, request: pytest.FixtureRequest) -> str:
    """A fresh repository of mine."""
    name = hashlib.sha256(request.node.name.encode(errors="replace")).hexdigest()[:12]
    assert site.ask("POST", "/api/repos/create", {"name": name})[0] == 200
    return f"me/{name}"


# --- the road of a user ---


def test_files_come_back_as_they_went(site: Site, repo: str, tmp_path: Path) -> None:
    api = site.api()
    source = tmp_path / "source"
    contents = {"README.md": b"# card\n", "a/b/deep.txt": "Grüße".encode(), "weights.bin": BINARY, "empty": b""}
    for path, content in contents.items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(content)
    done = api.upload_folder(repo_id=repo, folder_path=source)
    assert done.commit_url == f"{site.url}/{repo}/commit/{done.oid}"

    copy = Path(api.snapshot_download(repo, cache_dir=tmp_path / "cache"))
    assert copy.name == done.oid
    assert {str(path.relative_to(copy)): path.read_bytes() for path in copy.rglob("*") if path.is_file()} == contents
    info = api.repo_info(repo, files_metadata=True)
    assert (info.sha, info.author, info.private) == (done.oid, "me", False)
    found = {one.rfilename: one for one in info.siblings}
    assert {path: one.size for path, one in found.items()} == {path: len(one) for path, one in contents.items()}
    assert found["weights.bin"].lfs.sha256 == hashlib.sha256(BINARY).hexdigest() and found["README.md"].lfs is None
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{found['weights.bin'].lfs.sha256}\nsize 10240\n"
    assert found["weights.bin"].lfs.pointer_size == len(pointer)
    assert found["empty"].blob_id == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"  # git hash-object /dev/null
    assert api.verify_repo_checksums(repo, local_dir=source).mismatches == []


def test_listings(site: Site, repo: str) -> None:
    api = site.api()
    files = {"a.txt": b"1", "b/c.txt": b"2", "b/d/e.txt": b"3", "f.bin": BINARY}
    for path, content in files.items():
        api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id=repo, commit_message=f"add {path}")
    assert [one.path for one in api.list_repo_tree(repo)] == ["a.txt", "b", "f.bin"]
    everything = {one.path: one for one in api.list_repo_tree(repo, recursive=True, expand=True)}
    assert list(everything) == ["a.txt", "b", "b/c.txt", "b/d", "b/d/e.txt", "f.bin"]
    assert everything["b/c.txt"].last_commit.title == "add b/c.txt"
    assert everything["b"].last_commit.title == everything["b/d"].last_commit.title == "add b/d/e.txt"
    assert everything["f.bin"].lfs.size == len(BINARY)
    assert [one.path for one in api.list_repo_tree(repo, "b/d")] == ["b/d/e.txt"]
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(repo, "nowhere"))
    assert [one.path for one in api.get_paths_info(repo, ["b", "f.bin", "nowhere"], expand=True)] == ["b", "f.bin"]
    status, _, body = site.ask(
        "POST", f"/api/models/{repo}/paths-info/main", {"paths": ["a.txt"]}, **{"content-type": "application/json"}
    )
    assert status == 200 and [one["path"] for one in json.loads(body)] == ["a.txt"]
    assert api.list_repo_files(repo) == list(files)
    assert [api.file_exists(repo, path) for path in ("b/c.txt", "b", "nowhere")] == [True, False, False]
    commits = api.list_repo_commits(repo)
    assert [one.title for one in commits] == [f"add {path}" for path in reversed(files)] + ["initial commit"]
    assert {one.authors[0] for one in commits} == {"me"} and commits[0].created_at >= commits[-1].created_at


def test_repositories_are_listed(site: Site) -> None:
    api = site.api()
    for name, private in {"team/list-a": False, "team/list-b": True, "me/list-a": False}.items():
        api.create_repo(name, private=private, repo_type="dataset")
    assert [one.id for one in api.list_datasets(search="LIST-")] == ["me/list-a", "team/list-a", "team/list-b"]
    assert [one.id for one in site.api(False).list_datasets(author="team", search="list-")] == ["team/list-a"]
    assert len(list(api.list_datasets(limit=1))) == 1 and "me/list-a" not in [one.id for one in api.list_models()]


def test_listings_come_in_pages(site: Site, repo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "PAGE", 7)
    monkeypatch.setattr(server, "EXPANDED_PAGE", 3)
    for number in range(8):
        assert site.commit(repo, added(f"folder/ä {number}&?.txt")) == 200
    api = site.api()
    paths = [f"folder/ä {number}&?.txt" for number in range(8)]
    assert [one.path for one in api.list_repo_tree(repo, "folder")] == paths
    assert [one.path for one in api.list_repo_tree(repo, recursive=True, expand=True)] == ["folder", *paths]
    assert len({one.commit_id for one in api.list_repo_commits(repo)}) == 9
    _, headers, _ = site.ask("GET", f"/api/models/{repo}/tree/main?recursive=true")
    assert f"/tree/{api.repo_info(repo).sha}" in headers["link"]  # the second page is of the same commit as the first


def test_commits_that_change_nothing_make_none(site: Site, repo: str) -> None:
    assert site.commit(repo, added("a.txt")) == 200
    before = site.api().list_repo_commits(repo)
    assert site.commit(repo, added("a.txt")) == 200
    assert [one.commit_id for one in site.api().list_repo_commits(repo)] == [one.commit_id for one in before]


def test_deletions_and_copies(site: Site, repo: str, tmp_path: Path) -> None:
    api = site.api()
    for path in ("a.txt", "b/c.txt", "b/d.bin", "bb/e.txt"):
        api.upload_file(path_or_fileobj=BINARY if path.endswith("bin") else b"text", path_in_repo=path, repo_id=repo)
    api.create_commit(
        repo,
        [
            CommitOperationCopy("b/d.bin", "copy.bin"),
            CommitOperationDelete("b/"),
            CommitOperationAdd("b/new.txt", b"new"),
            CommitOperationDelete("a.txt"),
        ],
        commit_message="all at once",
    )
    assert api.list_repo_files(repo) == ["b/new.txt", "bb/e.txt", "copy.bin"]
    assert Path(api.hf_hub_download(repo, "copy.bin", cache_dir=tmp_path)).read_bytes() == BINARY
    (tmp_path / "up").mkdir()
    (tmp_path / "up" / "one.txt").write_text("1")
    api.upload_folder(repo_id=repo, folder_path=tmp_path / "up", delete_patterns="*.bin", path_in_repo="")
    assert api.list_repo_files(repo) == ["b/new.txt", "bb/e.txt", "one.txt"]
    for missing in ("nowhere.txt", "nowhere/"):
        with pytest.raises(EntryNotFoundError):
            api.create_commit(repo, [CommitOperationDelete(missing)], commit_message="none")
    api.delete_folder("bb", repo)
    assert api.list_repo_files(repo) == ["b/new.txt", "one.txt"]


def test_branches_and_tags(site: Site, repo: str, tmp_path: Path) -> None:
    api = site.api()

    def read(revision: str) -> bytes:
        return Path(api.hf_hub_download(repo, "a.txt", revision=revision, cache_dir=tmp_path)).read_bytes()

    first = api.upload_file(path_or_fileobj=b"1", path_in_repo="a.txt", repo_id=repo).oid
    api.create_tag(repo, tag="v1.0")
    api.create_branch(repo, branch="feature/x", revision="v1.0")
    second = api.upload_file(path_or_fileobj=b"2", path_in_repo="a.txt", repo_id=repo, revision="feature/x").oid
    assert [read(one) for one in ("main", "v1.0", "feature/x", "refs/heads/feature/x", "refs/tags/v1.0")] == [
        b"1", b"1", b"2", b"2", b"1",
    ]  # fmt: skip
    assert [read(one) for one in (first, second)] == [b"1", b"2"]
    refs = api.list_repo_refs(repo)
    assert {one.ref: one.target_commit for one in refs.branches + refs.tags} == {
        "refs/heads/main": first, "refs/heads/feature/x": second, "refs/tags/v1.0": first,
    }  # fmt: skip
    for make in (api.create_tag, api.create_branch):
        name = {"tag": "v1.0"} if make == api.create_tag else {"branch": "feature/x"}
        with pytest.raises(HfHubHTTPError, match="409"):
            make(repo, **name)
        make(repo, **name, exist_ok=True)
    with pytest.raises(RevisionNotFoundError):
        api.create_branch(repo, branch="other", revision="nowhere")
    with pytest.raises(RevisionNotFoundError):
        api.upload_file(path_or_fileobj=b"3", path_in_repo="a.txt", repo_id=repo, revision="v1.0")
    with pytest.raises(HfHubHTTPError, match="403"):
        api.delete_branch(repo, branch="main")
    api.delete_branch(repo, branch="feature/x")
    api.delete_tag(repo, tag="v1.0")
    for gone in ("feature/x", "v1.0", "0" * 40):
        with pytest.raises(RevisionNotFoundError):
            api.repo_info(repo, revision=gone)
    with pytest.raises(RevisionNotFoundError):
        api.delete_tag(repo, tag="v1.0")
    assert read(second) == b"2"  # a commit stays


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_repositories_of_each_kind(site: Site, tmp_path: Path, kind: str) -> None:
    api, name = site.api(), "team/same-name"
    sdk = {"space_sdk": "static"} if kind == "space" else {}
    url = api.create_repo(name, repo_type=kind, **sdk)
    assert (url.repo_type, url.repo_id) == (kind, name) and url.startswith(site.url)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(name, repo_type=kind, **sdk)
    assert api.create_repo(name, repo_type=kind, exist_ok=True, **sdk) == url
    for content in (kind.encode(), BINARY):
        api.upload_file(path_or_fileobj=content, path_in_repo="a", repo_id=name, repo_type=kind)
        found = api.hf_hub_download(name, "a", repo_type=kind, cache_dir=tmp_path)
        assert Path(found).read_bytes() == content
    api.delete_repo(name, repo_type=kind)
    assert not api.repo_exists(name, repo_type=kind)
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo(name, repo_type=kind)
    assert not (site.folder / f"{kind}s" / name).exists() and not list((site.folder / "trash").iterdir())
    api.create_repo(name, repo_type=kind, **sdk)
    assert api.list_repo_files(name, repo_type=kind) == []
    api.delete_repo(name, repo_type=kind)


def test_file_system_reads_ranges(site: Site, repo: str) -> None:
    files = HfFileSystem(endpoint=site.url, token=site.mine, skip_instance_cache=True)
    with files.open(f"{repo}/big.bin", "wb") as file:
        file.write(BINARY)
    with files.open(f"{repo}/big.bin", block_size=1000) as file:
        file.seek(5000)
        assert file.read(10) == BINARY[5000:5010]
    assert files.ls(repo, detail=False) == [f"{repo}/big.bin"]
    assert files.cat_file(f"{repo}/big.bin", start=-20) == BINARY[-20:]


SCRIPT = """
import datasets
import evaluate
from .louder import loud


class Shout(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return {"shout": loud(predictions[0])}
"""
LIBRARIES = """
import datasets
import evaluate

assert evaluate.load("me/shout").compute(predictions=["a"], references=["a"]) == {"shout": "A!"}
for config in ("one", "two"):
    rows = datasets.Dataset.from_dict({"x": [1, 2], "name": [config] * 2})
    datasets.DatasetDict(train=rows, test=rows.select([0])).push_to_hub("me/rows", config)
assert datasets.load_dataset("me/rows", "two", split="train").to_dict() == {"x": [1, 2], "name": ["two"] * 2}
assert [row["x"] for row in datasets.load_dataset("me/rows", "one", split="test", streaming=True)] == [1]
"""


def test_evaluate_and_datasets_load_from_it(site: Site, tmp_path: Path) -> None:
    api = site.api()
    api.create_repo("me/shout", repo_type="space", space_sdk="static")
    for name, text in {"shout.py": SCRIPT, "louder.py": "def loud(text):\n    return text.upper() + '!'\n"}.items():
        api.upload_file(path_or_fileobj=text.encode(), path_in_repo=name, repo_id="me/shout", repo_type="space")
    settings = {
        "HF_ENDPOINT": site.url, "HF_TOKEN": site.mine, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_UPDATE_CHECK": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", LIBRARIES], cwd=tmp_path, env={**os.environ, **settings}, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


# --- who may do what ---


def test_tokens_look_real_and_are_kept_as_hashes(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    first, second = make_token(folder, "me", ["team"]), make_token(folder, "me")
    assert first != second and all(
        one.startswith("hf_") and one[3:].isalnum() and len(one) == 37 for one in (first, second)
    )
    text = (folder / "users.json").read_text()
    assert json.loads(text) == {"me": {"sha256": hashlib.sha256(second.encode()).hexdigest(), "namespaces": []}}
    with running(folder):
        assert [(folder / name).stat().st_mode & 0o777 for name in ("users.json", "secret")] == [0o600, 0o600]
    with pytest.raises(UserError, match=r"'\.\./me' cannot name a user"):
        make_token(folder, "../me")
    with pytest.raises(UserError, match="'api' cannot name a user"):
        make_token(folder, "me", ["api"])


def test_whoami(site: Site) -> None:
    me = site.api().whoami()
    assert me["name"] == "me" and [one["name"] for one in me["orgs"]] == ["team"]
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        site.api("hf_wrong").whoami()
    assert site.ask("GET", "/api/whoami-v2", authorization="")[0] == 401


def test_users_may_come_while_it_serves(site: Site) -> None:
    token = make_token(site.folder, "late")
    assert site.api(token).whoami()["name"] == "late"
    site.api(token).create_repo("late/model")
    make_token(site.folder, "late")
    with pytest.raises(HfHubHTTPError, match="401"):
        site.api(token).create_repo("late/other")


def test_a_wrong_token_is_said_to_be_wrong(site: Site, repo: str) -> None:
    """And not that the repository were missing, which is what huggingface_hub makes of other 401s over https."""
    _, headers, _ = site.ask("GET", f"/api/models/{repo}", authorization="Bearer hf_wrong")
    assert headers["x-error-message"] == "Invalid credentials in Authorization header"
    assert "x-error-code" not in headers
    for act in (
        lambda api: api.create_repo("me/x"),
        lambda api: api.repo_info(repo),
        lambda api: api.upload_file(path_or_fileobj=b"", path_in_repo="a", repo_id=repo),
    ):
        with pytest.raises(HfHubHTTPError, match=r"401(.|\n)*Invalid username or password") as caught:
            act(site.api("hf_wrong"))
        assert not isinstance(caught.value, RepositoryNotFoundError)
    assert site.ask("GET", f"/api/models/{repo}", authorization=f"Basic {site.mine}")[0] == 401


def test_private_repositories_are_hidden(site: Site, repo: str) -> None:
    site.api().upload_file(path_or_fileobj=b"secret", path_in_repo="a", repo_id=repo)
    reads: list[Callable[[HfApi], Any]] = [
        lambda api: api.repo_info(repo),
        lambda api: api.list_repo_files(repo),
        lambda api: api.list_repo_refs(repo),
        lambda api: api.list_repo_commits(repo),
        lambda api: api.get_paths_info(repo, "a"),
        lambda api: api.get_hf_file_metadata(url=f"{site.url}/{repo}/resolve/main/a"),
        lambda api: api.auth_check(repo),
    ]
    for read in reads:
        read(site.api(False))  # it is public
    site.api().update_repo_settings(repo, private=True)
    for token in (False, site.yours):
        missing = site.ask("GET", "/api/models/me/none", authorization=f"Bearer {token}" if token else "")
        hidden = site.ask("GET", f"/api/models/{repo}", authorization=f"Bearer {token}" if token else "")
        assert (missing[0], missing[2]) == (hidden[0], hidden[2]) and hidden[0] == (404 if token else 401)
        for read in reads:
            with pytest.raises(RepositoryNotFoundError):
                read(site.api(token))
    for read in reads:
        read(site.api())
    assert site.api().repo_info(repo).private
    with pytest.raises(HfHubHTTPError, match="visibility"):
        site.api().update_repo_settings(repo, gated="auto")
    assert site.api().repo_info(repo).private
    site.api().create_repo("me/born-private", private=True)
    assert site.ask("POST", "/api/repos/create", {"name": "old-style", "private": True})[0] == 200
    assert not any(site.api(False).repo_exists(name) for name in ("me/born-private", "me/old-style"))


@pytest.mark.parametrize(("token", "status"), [("yours", 403), ("", 401)])
def test_only_owners_write(site: Site, repo: str, token: str, status: int) -> None:
    site.api().upload_file(path_or_fileobj=b"x", path_in_repo="a", repo_id=repo)
    before = site.api().repo_info(repo).sha
    who = f"Bearer {site.yours}" if token else ""
    place = f"/api/models/{repo}"
    for method, path, body in [
        ("POST", "/api/repos/create", {"name": "x", "organization": "me"}),
        ("POST", "/api/repos/create", {"name": "x", "organization": "team"}),
        ("DELETE", "/api/repos/delete", {"name": repo.split("/")[1], "organization": "me"}),
        ("PUT", f"{place}/settings", {"visibility": "private"}),
        ("POST", f"{place}/preupload/main", {"files": []}),
        ("POST", f"/{repo}.git/info/lfs/objects/batch", {"operation": "upload", "objects": []}),
        ("POST", f"{place}/commit/main", {"key": "header", "value": {"summary": "x"}}),
        ("POST", f"{place}/branch/x", {}),
        ("POST", f"{place}/tag/main", {"tag": "x"}),
        ("DELETE", f"{place}/branch/main", None),
        ("DELETE", f"{place}/tag/x", None),
        ("GET", f"{place}/auth-check/write", None),
    ]:
        assert site.ask(method, path, body, authorization=who)[0] == status, (method, path)
    assert site.api().repo_info(repo).sha == before
    assert site.ask("GET", f"{place}/auth-check/write")[0] == 200


# --- hostile requests ---


def snapshot(folder: Path) -> set[str]:
    """All that a folder holds, less the lock files, which refused requests may leave."""
    return {str(path) for path in folder.rglob("*") if "locks" not in path.parts}


def test_bad_paths_are_in_no_commit(site: Site, repo: str) -> None:
    assert site.ask("PUT", site.link(repo, BINARY), BINARY, authorization="")[0] == 200
    before, kept = site.api().repo_info(repo).sha, snapshot(site.folder)
    for path in BAD_PATHS:
        for change in (added(path), by_lfs(path, BINARY), {"key": "deletedFile", "value": {"path": path}}):
            assert site.commit(repo, change) == 400, path
        asked = {"files": [{"path": path, "size": 1, "sample": ""}]}
        assert site.ask("POST", f"/api/models/{repo}/preupload/main", asked)[0] == 400, path
    assert site.api().repo_info(repo).sha == before and snapshot(site.folder) == kept


@pytest.mark.parametrize("name", BAD_NAMES)
def test_bad_names_name_nothing(site: Site, repo: str, name: str) -> None:
    before = snapshot(site.folder)
    for body in ({"name": name, "organization": "me"}, {"name": "x", "organization": name or ".."}):
        assert site.ask("POST", "/api/repos/create", body)[0] == 400
        assert site.ask("DELETE", "/api/repos/delete", body)[0] in (400, 404)
    for quoted in {quote(name, safe=""), name.replace(".", "%2e").replace("/", "%2f").replace("\\", "%5c")} - {""}:
        if quoted.isprintable() and " " not in quoted:
            assert site.ask("GET", f"/api/models/me/{quoted}")[0] in (400, 404)
            assert site.ask("GET", f"/{quoted}/x/resolve/main/a")[0] in (400, 404)
            assert site.ask("PUT", f"/api/models/me/{quoted}/lfs/{'0' * 64}", b"")[0] in (400, 403, 404)
    assert snapshot(site.folder) == before


@pytest.mark.parametrize(
    "name", ["", "..", "a..b", "a/", "/a", "a//b", ".a", "a.lock", "refs/heads/x", "a b", "a~1", "0" * 40]
)
def test_bad_references_are_not_made(site: Site, repo: str, name: str) -> None:
    assert site.ask("POST", f"/api/models/{repo}/tag/main", {"tag": name})[0] == 400
    assert site.ask("POST", f"/api/models/{repo}/branch/{quote(name, safe='')}", {})[0] in (400, 404)


@pytest.mark.parametrize(
    "way", ["..", "%2e%2e", "..%2f..", "%2e%2e%2f%2e%2e", "%252e%252e", "..%5c..", "%2fetc", "%00"]
)
def test_nothing_leads_out_of_a_repository(site: Site, repo: str, way: str) -> None:
    assert site.commit(repo, added("a/b.txt", b"inside")) == 200
    secrets = [(site.folder / "users.json").read_bytes(), (site.folder / "secret").read_bytes()]
    for path in [
        f"/{repo}/resolve/main/{way}/users.json",
        f"/{repo}/resolve/main/{way}%2f{way}%2f{way}%2fusers.json",
        f"/{repo}/resolve/main/a/{way}/b.txt",
        f"/{repo}/resolve/{way}/a/b.txt",
        f"/{repo}/resolve/{way}%2f{way}%2fusers.json/a",
        f"/{way}/{repo}/resolve/main/a/b.txt",
        f"/me/{way}/resolve/main/secret",
        f"/datasets/{way}/models/resolve/main/secret",
        f"/api/models/{repo}/tree/main/{way}",
        f"/api/models/{repo}/tree/{way}",
        f"/api/models/{repo}/revision/{way}",
        f"/api/models/{repo}/commits/{way}%2fcommits",
        f"/api/models/{way}/{way}",
        f"/api/{way}/me/x",
        f"/{way}/users.json",
    ]:
        status, _, body = site.ask("GET", path)
        assert status in (400, 404), (path, status)
        assert not any(secret in body for secret in secrets)


def test_uploads_are_what_was_announced(site: Site, repo: str) -> None:
    link, before = site.link(repo, BINARY), snapshot(site.folder)
    for body, status in [(BINARY[:-1], 400), (BINARY[:-1] + b"x", 400), (BINARY + b"x", 400), (b"", 400)]:
        assert site.ask("PUT", link, body, authorization="")[0] == status
        assert snapshot(site.folder) == before
    for size in (len(BINARY) - 1, len(BINARY) + 1):
        assert site.ask("PUT", site.link(repo, BINARY, size), BINARY, authorization="")[0] == 400
    assert site.commit(repo, by_lfs("a", BINARY)) == 400  # it is not here
    assert site.ask("PUT", link, BINARY, authorization="")[0] == 200
    assert site.commit(repo, by_lfs("a", BINARY)) == 200
    assert site.ask("GET", f"/{repo}/resolve/main/a")[2] == BINARY


def test_chunked_uploads_are_counted(site: Site, repo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    link = site.link(repo, BINARY)
    chunks = [BINARY[start : start + 1000] for start in range(0, len(BINARY), 1000)]
    for body, status in [([*chunks, b"x"], 400), (chunks[:-1], 400), (chunks, 200)]:
        connection = http.client.HTTPConnection(urlsplit(site.url).netloc, timeout=30)
        connection.request("PUT", link, iter(body), encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
        assert connection.getresponse().status == status
        connection.close()


def test_upload_links_are_good_for_what_they_say(site: Site, repo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    link = site.link(repo, BINARY)
    oid = hashlib.sha256(BINARY).hexdigest()
    site.api().create_repo("me/another", exist_ok=True)
    for changed in [
        link.replace("size=10240", "size=10241"),
        link.replace("expires=", "expires=9"),
        link[:-1] + ("0" if link[-1] != "0" else "1"),
        link.split("signature=")[0] + "signature=" + quote("é"),
        link.split("?")[0],
        link.replace(repo, "me/another"),
        link.replace(oid, hashlib.sha256(b"x").hexdigest()),
        link.replace(oid, "..%2f..%2fusers.json"),
    ]:
        assert site.ask("PUT", changed, BINARY)[0] == 403
    monkeypatch.setattr(server, "LINK_SECONDS", -1)
    status, _, body = site.ask("PUT", site.link(repo, BINARY), BINARY)
    assert status == 403 and b"expired" in body


def test_links_and_contents_end_with_their_repository(site: Site, repo: str) -> None:
    link, store, target = site.link(repo, BINARY), Store(site.folder), RepoId("model", *repo.split("/"))
    file = store.put(target, b"x")
    site.api().delete_repo(repo)
    assert site.ask("PUT", link, BINARY)[0] == 404 and not (site.folder / "models" / repo).exists()
    site.api().create_repo(repo)
    with pytest.raises(HubError, match="was not uploaded"):
        store.commit(target, "main", [("a", file)], title="x", message="", author="me")


def test_contents_of_other_repositories_are_out_of_reach(site: Site, repo: str) -> None:
    """Else who knows the hash of a private file could commit it to a repository of their own, and read it."""
    assert site.ask("PUT", site.link(repo, BINARY), BINARY)[0] == 200
    site.api().create_repo("me/stranger")
    assert site.commit("me/stranger", by_lfs("a", BINARY)) == 400


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"1", b'"x"', b"[" * 100_000, b"\xff", b'{"key": "header"}',
        b'{"key": "header", "value": {}}',
        b'{"key": "header", "value": {"summary": "\\ud800"}}', b'{"key": "header", "value": {"summary": 1}}',
    ],
)  # fmt: skip
def test_broken_commits_are_refused(site: Site, repo: str, body: bytes) -> None:
    assert site.ask("POST", f"/api/models/{repo}/commit/main", body)[0] == 400


def test_broken_requests_are_refused(site: Site, repo: str) -> None:
    place = f"/api/models/{repo}"
    for method, path, body in [
        ("POST", "/api/repos/create", b"no"),
        ("POST", "/api/repos/create", {"name": 1}),
        ("POST", "/api/repos/create", {"name": "x", "type": "kernel"}),
        ("POST", "/api/repos/create", {"name": "x", "visibility": "protected"}),
        ("POST", f"{place}/preupload/main", {"files": ["x"]}),
        ("POST", f"{place}/preupload/main", {"files": [{"path": "x", "size": 1, "sample": "?"}]}),
        ("POST", f"{place}/preupload/main?create_pr=1", {"files": []}),
        ("POST", f"/{repo}.git/info/lfs/objects/batch", {"operation": "download", "objects": []}),
        ("POST", f"/{repo}.git/info/lfs/objects/batch", {"operation": "upload", "objects": [{"oid": "..", "size": 1}]}),
        ("POST", f"{place}/branch/x", {"startingPoint": 1}),
    ]:
        assert site.ask(method, path, body)[0] == 400, (path, body)
    assert (
        site.commit(repo, {"key": "header", "value": {"summary": "x"}}, {"key": "boom", "value": {"path": "x"}}) == 400
    )
    assert site.commit(repo, {"key": "file", "value": {"path": "x", "content": "?"}}) == 400
    assert site.commit(repo, added("a"), added("a/b")) == 400  # a file and a folder at once


def test_too_much_is_refused(site: Site, repo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "JSON_LIMIT", 1000)
    monkeypatch.setattr(server, "COMMIT_LIMIT", 5000)
    before = snapshot(site.folder)
    assert site.ask("POST", "/api/validate-yaml", b"x" * 1001)[0] == 413
    assert site.commit(repo, added("a", b"x" * 1000)) == 413  # one line
    assert site.commit(repo, *[added(f"a{number}", b"x" * 500) for number in range(10)]) == 413  # all lines
    assert snapshot(site.folder) - before == set()
    assert site.commit(repo, *[added(f"a{number}", b"x" * 100) for number in range(10)]) == 200


def test_unknown_requests_are_404(site: Site, repo: str) -> None:
    assert site.ask("GET", "/api/agent-harnesses")[0] == 404
    status, headers, body = site.ask("GET", f"/api/models/{repo}/xet-write-token/main")
    assert status == 404 and b"HF_HUB_DISABLE_XET=1" in body and "x-error-code" not in headers
    assert site.ask("PATCH", f"/api/models/{repo}")[0] == 405
    with pytest.raises(RepositoryNotFoundError):
        site.api().repo_info("gpt2")
    with pytest.raises(RepositoryNotFoundError):
        site.api().hf_hub_download("gpt2", "config.json")


def test_errors_name_strange_files(site: Site, repo: str) -> None:
    status, headers, body = site.ask("GET", f"/{repo}/resolve/main/Gr%C3%BC%C3%9Fe%0A")
    assert status == 404 and "Grüße\\n" in json.loads(body)["error"]
    assert headers["x-error-message"] == r"Entry not found: 'Gr\xfc\xdfe\n'"  # one line of ASCII


@given(st.text())
def test_a_path_is_safe_or_refused(path: str) -> None:
    try:
        check_path(path)
    except HubError as error:
        assert error.status == 400 and "\n" not in error.message
        return
    # PurePosixPath drops '.' and empty parts, so equality says that there were none.
    assert str(PurePosixPath(path)) == path and not PurePosixPath(path).is_absolute()
    assert os.path.normpath(os.path.join("/repo", path)) == f"/repo/{path}"
    assert not {"..", ".git"} & set(path.lower().split("/"))


@given(st.lists(st.text("abcXYZ019 äß.-_+#%&~", min_size=1, max_size=20), min_size=1, max_size=5))
def test_usual_paths_are_taken(parts: list[str]) -> None:
    plain = [part for part in parts if part not in (".", "..", ".git")]
    if plain:
        assert check_path("/".join(plain)) == "/".join(plain)


# --- downloads ---


@pytest.mark.parametrize(
    ("wanted", "status", "content"),
    [
        ("bytes=0-9", 206, BINARY[:10]),
        ("bytes=5000-5009", 206, BINARY[5000:5010]),
        ("bytes=10200-", 206, BINARY[10200:]),
        ("bytes=-7", 206, BINARY[-7:]),
        ("bytes=10230-99999", 206, BINARY[10230:]),
        ("bytes=10240-", 416, b""),
        ("bytes=99999-", 416, b""),
    ],
)
def test_ranges(site: Site, repo: str, wanted: str, status: int, content: bytes) -> None:
    site.api().upload_file(path_or_fileobj=BINARY, path_in_repo="a.bin", repo_id=repo)
    path, oid = f"/{repo}/resolve/main/a.bin", hashlib.sha256(BINARY).hexdigest()
    got, headers, body = site.ask("GET", path, range=wanted)
    assert (got, body) == (status, content)
    if status == 206:
        start = (
            BINARY.index(content) if wanted == "bytes=0-9" else int(headers["content-range"].split()[1].split("-")[0])
        )
        assert headers["content-range"] == f"bytes {start}-{start + len(content) - 1}/{len(BINARY)}"
        assert BINARY[start : start + len(content)] == content
        same = site.ask("GET", path, range=wanted, **{"if-range": f'"{oid}"'})
        assert (same[0], same[2]) == (206, content)
        other = site.ask("GET", path, range=wanted, **{"if-range": '"other"'})
        assert (other[0], other[2]) == (200, BINARY)


def test_headers_of_downloads(site: Site, repo: str) -> None:
    api = site.api()
    api.upload_file(path_or_fileobj=BINARY, path_in_repo="a.bin", repo_id=repo)
    sha = api.upload_file(path_or_fileobj=b"text", path_in_repo="a.txt", repo_id=repo).oid
    oid = hashlib.sha256(BINARY).hexdigest()
    status, headers, body = site.ask("HEAD", f"/{repo}/resolve/main/a.bin")
    assert (status, body) == (200, b"")
    assert headers.items() >= {
        "etag": f'"{oid}"', "x-linked-etag": f'"{oid}"', "x-linked-size": "10240", "content-length": "10240",
        "x-repo-commit": sha, "accept-ranges": "bytes", "content-type": "application/octet-stream",
    }.items()  # fmt: skip
    _, headers, body = site.ask("GET", f"/{repo}/resolve/main/a.txt")
    git = hashlib.sha1(b"blob 4\0text").hexdigest()
    assert (headers["etag"], body) == (f'"{git}"', b"text") and "x-linked-etag" not in headers
    _, headers, _ = site.ask("HEAD", f"/{repo}/resolve/main/none")
    assert (headers["x-error-code"], headers["x-repo-commit"]) == ("EntryNotFound", sha)


# --- what must not be lost ---


def test_two_hundred_racing_commits_all_arrive(site: Site, repo: str) -> None:
    with ThreadPoolExecutor(16) as pool:
        done = list(pool.map(lambda number: site.commit(repo, added(f"{number}.txt", b"%d" % number)), range(200)))
    assert done == [200] * 200
    assert set(site.api().list_repo_files(repo)) == {f"{number}.txt" for number in range(200)}
    assert len(site.api().list_repo_commits(repo)) == 201


def test_of_racing_commits_on_one_parent_one_wins(site: Site, repo: str) -> None:
    parent = site.api().repo_info(repo).sha
    with ThreadPoolExecutor(16) as pool:
        done = list(pool.map(lambda number: site.commit(repo, added(f"{number}"), parentCommit=parent), range(32)))
    assert sorted(done) == [200] + [412] * 31
    assert len(site.api().list_repo_commits(repo)) == 2
    with pytest.raises(HfHubHTTPError, match=r"412(.|\n)*A commit has happened since"):
        site.api().create_commit(repo, [CommitOperationAdd("x", b"")], commit_message="late", parent_commit=parent)


def test_of_racing_creations_one_wins(site: Site) -> None:
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda _: site.ask("POST", "/api/repos/create", {"name": "race"})[0], range(16)))
    assert sorted(done) == [200] + [409] * 15


def test_a_restarted_server_goes_on(tmp_path: Path) -> None:
    token = make_token(tmp_path, "me")
    with running(tmp_path) as url:
        site = Site(tmp_path, url, token, "")
        site.api().create_repo("me/x", private=True)
        oid = site.api().upload_file(path_or_fileobj=BINARY, path_in_repo="a", repo_id="me/x").oid
        site.api().create_tag("me/x", tag="v1")
        link = site.link("me/x", b"later")
    with running(tmp_path) as url:
        site = Site(tmp_path, url, token, "")
        assert site.api().repo_info("me/x", revision="v1").sha == oid and site.api().repo_info("me/x").private
        assert site.ask("GET", "/me/x/resolve/v1/a")[2] == BINARY
        assert site.ask("PUT", link, b"later", authorization="")[0] == 200


class CrashError(Exception):
    """Stands for the end of the process."""


def crash_at(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Let the rename with this number, from 0, be the one that never happens."""
    rename, left = os.replace, [call]

    def replace(source: Any, target: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise CrashError
        rename(source, target)

    monkeypatch.setattr(os, "replace", replace)


@pytest.mark.parametrize("call", range(5))  # two contents, the commit, the reference; the fifth is never made
def test_a_crash_at_any_write_leaves_old_or_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    repo = RepoId("model", "me", "x")

    def change(**files: bytes) -> None:
        store = Store(tmp_path)
        changes = [(path, store.put(repo, content)) for path, content in files.items()]
        store.commit(repo, "main", changes, title="change", message="", author="me")

    def seen() -> dict[str, bytes]:
        store = Store(tmp_path)
        files = store.read_commit(repo, store.resolve(repo, "main")).files
        return {path: store.blob(repo, file.sha256).read_bytes() for path, file in files.items()}

    Store(tmp_path).create(repo, private=False, author="me")
    change(a=b"old")
    with monkeypatch.context() as patch:
        crash_at(patch, call)
        if call < 4:
            with pytest.raises(CrashError):
                change(a=b"new", b=b"more")
        else:
            change(a=b"new", b=b"more")
    assert seen() == ({"a": b"old"} if call < 4 else {"a": b"new", "b": b"more"})
    change(a=b"new", b=b"more")
    assert seen() == {"a": b"new", "b": b"more"}
    assert not list(tmp_path.rglob("*.part")) and not list((tmp_path / "incoming").iterdir())


COMMITTER = """
import sys
from pathlib import Path
from hf_tasks.hub.store import RepoId, Store

store, repo, number = Store(Path.cwd()), RepoId("model", "me", "x"), 0
while True:
    changes = [(f"{sys.argv[1]}-{number}", store.put(repo, f"{sys.argv[1]}-{number}".encode()))]
    store.commit(repo, "main", changes, title="x", message="", author="me")
    print(number, flush=True)
    number += 1
"""


def test_processes_that_commit_and_are_killed_lose_nothing(tmp_path: Path) -> None:
    """What was acknowledged is there, of several processes on one folder that were killed at any moment."""
    store, repo = Store(tmp_path), RepoId("model", "me", "x")
    store.create(repo, private=False, author="me")
    processes = {
        name: subprocess.Popen([sys.executable, "-c", COMMITTER, name], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        for name in ("a", "b")
    }
    for process in processes.values():
        assert process.stdout is not None and process.stdout.readline() == "0\n"
    time.sleep(0.3)
    for process in processes.values():
        process.kill()
    done = {f"{name}-0" for name in processes}
    for name, process in processes.items():
        done |= {f"{name}-{number}" for number in process.communicate()[0].split()}
    head = store.resolve(repo, "main")
    files = store.read_commit(repo, head).files
    assert len(done) > 10 and done <= files.keys()
    assert all(store.blob(repo, file.sha256).read_bytes() == path.encode() for path, file in files.items())
    assert len(list(store.history(repo, head))) == len(files) + 1


def test_a_crash_while_making_or_deleting_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = RepoId("model", "me", "x")
    for call in (0, 1):
        with monkeypatch.context() as patch:
            crash_at(patch, call)
            with pytest.raises(CrashError):
                Store(tmp_path).create(repo, private=False, author="me")
        assert Store(tmp_path).find(repo) is None
    assert Store(tmp_path).create(repo, private=False, author="me")
    with monkeypatch.context() as patch:
        crash_at(patch, 0)
        with pytest.raises(CrashError):
            Store(tmp_path).delete(repo)
    assert Store(tmp_path).find(repo) is not None
    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *arguments, **options: None)
        Store(tmp_path).delete(repo)
    assert list((tmp_path / "trash").iterdir())
    assert Store(tmp_path).find(repo) is None and not list((tmp_path / "trash").iterdir())


def test_abandoned_uploads_are_swept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    old, young = store.incoming / "old", store.incoming / "young"
    old.touch()
    young.touch()
    os.utime(old, (0, 0))
    Store(tmp_path)
    assert not old.exists() and young.exists()


SERVE = """
import sys
from pathlib import Path
from hf_tasks.hub.server import running

assert not {"torch", "transformers", "datasets"} & set(sys.modules)
with running(Path(sys.argv[1])) as url:
    print(url, flush=True)
    sys.stdin.read()
"""


def peak(pid: int) -> int:
    """Bytes of memory that a process has held at most."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_memory_does_not_grow_with_files_and_a_kill_loses_nothing(tmp_path: Path) -> None:
    token, size = make_token(tmp_path / "hub", "me"), 200 * 2**20
    big = tmp_path / "big.bin"
    with big.open("wb") as file:
        for number in range(200):
            file.write(number.to_bytes(2, "big") * 2**19)
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, str(tmp_path / "hub")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        site = Site(tmp_path / "hub", process.stdout.readline().strip(), token, "")
        site.api().create_repo("me/x")
        site.api().upload_file(path_or_fileobj=b"small", path_in_repo="a", repo_id="me/x")
        before = peak(process.pid)
        site.api().upload_file(path_or_fileobj=big, path_in_repo="big.bin", repo_id="me/x")
        copy = site.api().hf_hub_download("me/x", "big.bin", local_dir=tmp_path / "copy")
        grown = peak(process.pid) - before
        process.send_signal(signal.SIGKILL)
    assert grown < 64 * 2**20
    with open(copy, "rb") as one, big.open("rb") as other:
        assert os.path.getsize(copy) == size
        assert hashlib.file_digest(one, "sha256").digest() == hashlib.file_digest(other, "sha256").digest()
    store, repo = Store(tmp_path / "hub"), RepoId("model", "me", "x")
    assert store.read_commit(repo, store.resolve(repo, "main")).files["big.bin"].size == size


def test_a_full_disk_is_said(site: Site, repo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "no space")

    before = snapshot(site.folder)
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        assert site.commit(repo, added("a")) == 507
    assert snapshot(site.folder) - before <= {str(site.folder / "models" / repo / "blobs")} | {
        str(path) for path in (site.folder / "models" / repo / "blobs").iterdir()
    }
    assert site.commit(repo, added("a")) == 200


def test_a_busy_repository_holds_up_no_other(site: Site, repo: str) -> None:
    """Its lock is a file's, so another process may hold it, and what waits for it waits in a thread."""
    with (site.folder / "locks" / "models" / repo).open("ab") as lock, ThreadPoolExecutor(1) as pool:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = pool.submit(site.commit, repo, added("a"))
        assert site.ask("GET", f"/api/models/{repo}")[0] == 200
        assert site.ask("POST", "/api/repos/create", {"name": "meanwhile"})[0] == 200
        assert not waiting.done()
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert waiting.result() == 200


# --- running, and faults ---


def test_nothing_is_left_running(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    with running(tmp_path) as url:
        assert Site(tmp_path, url, "", "").ask("GET", "/api/whoami-v2", authorization="")[0] == 401
    for thread in set(threading.enumerate()) - before:
        thread.join(5)  # the pool's threads have been told to end, not waited for
        assert not thread.is_alive()
    with pytest.raises(ConnectionRefusedError):
        Site(tmp_path, url, "", "").ask("GET", "/")


def test_it_serves_until_interrupted(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    code = f"from pathlib import Path; from hf_tasks.hub.server import serve; serve(Path.cwd(), port={port})"
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        site = Site(tmp_path, f"http://127.0.0.1:{port}", make_token(tmp_path, "me"), "")
        for _ in range(300):
            try:
                assert site.api().whoami()["name"] == "me"
                break
            except httpx2.ConnectError:
                time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30)[1] == "" and process.returncode == 0


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with (
        running(tmp_path) as url,
        pytest.raises(UserError, match=r"cannot serve on 127.0.0.1:\d+ \(.*in use.*\): choose"),
    ):
        serve(tmp_path, port=urlsplit(url).port or 0)


@pytest.fixture
def faulty(tmp_path: Path) -> Iterator[tuple[Site, Faults]]:
    faults, folder = Faults(), tmp_path / "hub"
    token = make_token(folder, "me")
    with running(folder, faults.wrap) as url:
        site = Site(folder, url, token, "")
        site.api().create_repo("me/x")
        yield site, faults


def test_clients_get_over_faults(faulty: tuple[Site, Faults], tmp_path: Path) -> None:
    site, faults = faulty
    big = os.urandom(3_000_000)
    faults.add("PUT", "/lfs/", status=500)
    faults.add("PUT", "/lfs/", cut_upload=1_000_000)
    faults.add("GET", "/resolve/", cut_download=1_000_000, delay=0.05)
    site.api().upload_file(path_or_fileobj=big, path_in_repo="big.bin", repo_id="me/x")
    assert faults.count("PUT", "/lfs/") == 3 and not list(site.folder.joinpath("incoming").iterdir())
    assert Path(site.api().hf_hub_download("me/x", "big.bin", local_dir=tmp_path / "copy")).read_bytes() == big
    assert faults.count("GET", "/resolve/main/big.bin|/resolve/[0-9a-f]{40}/big.bin") == 2
    assert not any(fault.times for fault in faults.pending)


def test_a_fault_may_be_any_status(faulty: tuple[Site, Faults]) -> None:
    site, faults = faulty
    faults.add("POST", "/commit/", status=412, times=2)
    for _ in range(2):
        with pytest.raises(HfHubHTTPError, match="412"):
            site.api().upload_file(path_or_fileobj=io.BytesIO(b"x"), path_in_repo="a", repo_id="me/x")
    site.api().upload_file(path_or_fileobj=io.BytesIO(b"x"), path_in_repo="a", repo_id="me/x")
    assert faults.count("POST", "/commit/") == 3


# --- the command line ---


def hub_command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "import sys; from hf_tasks.cli import main; main(sys.argv[1:])", "hub", *arguments]


def test_a_hub_is_served_from_the_command_line_until_ctrl_c(tmp_path: Path) -> None:
    made = subprocess.run(hub_command("token", str(tmp_path), "me"), capture_output=True, text=True, check=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = hub_command("serve", str(tmp_path), "--port", str(port))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as served:
        assert served.stdout is not None
        said = served.stdout.readline()
        assert f"export HF_ENDPOINT=http://127.0.0.1:{port} HF_HUB_DISABLE_XET=1" in said
        api = HfApi(endpoint=f"http://127.0.0.1:{port}", token=made.stdout.strip())
        for _ in range(100):
            try:
                assert api.whoami()["name"] == "me"
                break
            except huggingface_hub.errors.HTTPError:
                time.sleep(0.1)
        else:
            pytest.fail("it does not answer")
        served.send_signal(signal.SIGINT)
        assert served.wait(30) == 0


def test_mistakes_at_the_command_line_are_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for command, says in (
            (hub_command("serve", str(tmp_path), "--port", port), f"cannot serve on 127.0.0.1:{port}"),
            (hub_command("token", str(tmp_path), "a/b"), "'a/b' cannot name a user or namespace"),
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and says in done.stderr
