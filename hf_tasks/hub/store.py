"""What a Hub keeps, as files in one folder.

- Nothing lives in memory only: a server that is killed and started again on the same folder goes on, and two servers
  on one folder agree, because every change is made under a file lock (`locks/`).
- A file becomes visible by one rename, and a reference moves only after all that it points to is on disk. A crash at
  any moment leaves the old state or the new one, and at worst a few bytes that nothing points to.
- Contents are kept by their SHA-256, once per repository: deleting a repository frees its disk, and knowing the hash
  of somebody's private file gives no access to it.
- A commit holds the whole listing of its files, a repository one small file of its references:

      users.json  secret                                who may do what; the key that signs upload links
      models/<namespace>/<name>/repo.json               visibility, branches and tags
                               /commits/<id>.json       title, author, parent, and path -> file
                               /blobs/ab/<sha256>       contents
      datasets/...  spaces/...                          the same
      incoming/  trash/  locks/                         half-finished uploads and deletions, locks
- Whatever it refuses is a `HubError`, in the Hub's own terms: HTTP status and X-Error-Code.
"""

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from hf_tasks.files import write_bytes

KINDS = ("model", "dataset", "space")
LINK_SECONDS = 24 * 3600  # how long an upload link is good for; what is older in incoming/ belongs to nobody

_NAME = re.compile(r"(?![-.])(?!.*(?:--|\.\.))[A-Za-z0-9._-]{1,96}(?<![-.])(?<!\.git)(?<!\.ipynb)")
_RESERVED = {"api", "models", "datasets", "spaces"}  # they would shadow paths of the server
_COMMIT_ID = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PATH_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\]")
_REFERENCE_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\\~^:?*\[]|@\{")


class HubError(Exception):
    """A request that is refused: the status and X-Error-Code that the Hub answers with, and one line of reason."""

    def __init__(self, status: int, message: str, code: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, dict(headers or {})


# --- names ---


def is_name(text: str) -> bool:
    """Whether it can name a repository. Names become folders, so nothing else may pass."""
    return bool(_NAME.fullmatch(text))


def is_namespace(text: str) -> bool:
    """Whether it can name a user or a namespace."""
    return is_name(text) and text.lower() not in _RESERVED


def _is_plain(parts: list[str]) -> bool:
    """No part that a file system, git or a URL would take for something else."""
    return all(part not in ("", ".", "..") and part.lower() != ".git" for part in parts)


def check_path(path: str) -> str:
    """The path of a file in a repository, if every client can write it below its own folder.

    Raises:
        HubError: 400, for '..', absolute paths, empty parts, '.git', backslashes, control characters, broken Unicode,
            and parts over 255 or paths over 1024 bytes.
    """
    parts = path.split("/")
    try:
        short = len(path.encode()) <= 1024 and all(len(part.encode()) <= 255 for part in parts)
    except UnicodeEncodeError:
        short = False
    if not short or not _is_plain(parts) or _PATH_FORBIDDEN.search(path):
        raise HubError(400, f"{path[:200]!r} is no path of a file in a repository: write it like 'folder/file.txt'")
    return path


def check_reference(name: str) -> str:
    """The name of a branch or tag, by git's rules.

    Raises:
        HubError: 400, also for names that would hide a commit id or a full reference ('refs/...').
    """
    parts = name.split("/")
    plain = _is_plain(parts) and not any(part.startswith(".") or part.endswith((".", ".lock")) for part in parts)
    hides = parts[0] == "refs" or name == "HEAD" or _COMMIT_ID.fullmatch(name)
    if not plain or hides or ".." in name or len(name) > 200 or _REFERENCE_FORBIDDEN.search(name):
        raise HubError(400, f"{name[:200]!r} cannot name a branch or tag: use letters, digits, '-', '.', '_' and '/'")
    return name


@dataclass(frozen=True)
class RepoId:
    """A repository by its full name.

    Raises:
        HubError: 400, for a kind or a name that there cannot be.
    """

    kind: str
    namespace: str
    name: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise HubError(400, f"unknown kind of repository {self.kind[:200]!r}; known: {', '.join(KINDS)}")
        if not (is_namespace(self.namespace) and is_name(self.name)):
            raise HubError(400, f"{str(self)[:200]!r} cannot name a repository: use letters, digits, '-', '.' and '_'")

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"

    @property
    def path(self) -> str:
        """Its folder below that of the store, and its place in the URLs of the API."""
        return f"{self.kind}s/{self}"


# --- what is kept ---


@dataclass(frozen=True)
class File:
    """One version of a file. `git` is the id of the blob that git would keep: of the content, or of an LFS pointer."""

    sha256: str
    size: int  # bytes
    git: str
    lfs: bool

    @property
    def etag(self) -> str:
        """What clients compare and name their caches by."""
        return self.sha256 if self.lfs else self.git

    @property
    def pointer_size(self) -> int:
        """Bytes of the LFS pointer."""
        return len(_pointer(self.sha256, self.size))


@dataclass(frozen=True)
class Commit:
    """A state of a repository, all its files included, and where it came from.

    Its id is the SHA-1 of its file: 40 hexadecimal digits, as git's.
    """

    parent: str | None
    title: str
    message: str
    author: str
    date: str  # ISO 8601, UTC
    files: Mapping[str, File]


@dataclass(frozen=True)
class Repo:
    """What can change about a repository; branches and tags are name -> id of a commit."""

    private: bool
    created: str
    branches: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


Change = tuple[str, File | None]
"""A path and its new file, or None where it goes; 'folder/' and None is all that is below it."""


def entries(files: Mapping[str, File]) -> dict[str, File | str]:
    """Paths, sorted -> a file, or of a folder its id (40 digits; equal ids, equal content)."""
    folders: dict[str, Any] = {}
    for path, file in sorted(files.items()):
        for parent in _parents(path):
            seen = folders.setdefault(parent, hashlib.sha1(usedforsecurity=False))
            seen.update(f"{file.git} {path.removeprefix(parent)}\n".encode())
    return dict(sorted({**{path: seen.hexdigest() for path, seen in folders.items()}, **files}.items()))


def _parents(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def _apply(files: Mapping[str, File], changes: Iterable[Change]) -> dict[str, File]:
    """The files after the changes, made in their order."""
    after = dict(files)
    for path, file in changes:
        if file is not None:
            after[path] = file
            continue
        gone = [known for known in after if known == path or (path.endswith("/") and known.startswith(path))]
        if not gone:
            what = "folder" if path.endswith("/") else "file"
            raise HubError(404, f"A {what} with this name doesn't exist: {path!r}", "EntryNotFound")
        for known in gone:
            del after[known]
    both = {parent for path in after for parent in _parents(path)} & after.keys()
    if both:
        raise HubError(400, f"{min(both)!r} would be a file and a folder at once: delete one of them first")
    return after


def _git_blob(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _pointer(sha256: str, size: int) -> bytes:
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@lru_cache(maxsize=16)  # commits never change, and clients ask for one file after the other of the same one
def _read_commit(path: Path) -> Commit:
    fields = json.loads(path.read_bytes())
    return Commit(**{**fields, "files": {name: File(**file) for name, file in fields["files"].items()}})


class Upload:
    """A file that is coming in: `write` its chunks, in order. It is hashed on the way and never whole in memory."""

    def __init__(self, path: Path, sha256: str, size: int) -> None:
        self.path, self.sha256, self.size = path, sha256, size
        self._file = path.open("xb")
        self._hash, self._received = hashlib.sha256(), 0

    def write(self, chunk: bytes) -> None:
        """Raises `HubError` (400) as soon as more comes than was announced."""
        self._received += len(chunk)
        if self._received > self.size:
            raise HubError(400, f"more than the announced {self.size} bytes came for {self.sha256}")
        self._file.write(chunk)
        self._hash.update(chunk)

    def finish(self) -> None:
        """Raises `HubError` (400) unless exactly what was announced has come."""
        self._file.close()
        if self._received != self.size:
            raise HubError(400, f"{self._received} of the announced {self.size} bytes came for {self.sha256}")
        if self._hash.hexdigest() != self.sha256:
            raise HubError(400, f"sha256 is {self._hash.hexdigest()}, not the announced {self.sha256}")

    def discard(self) -> None:
        """Leave nothing of it."""
        self._file.close()
        self.path.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Alone, among all threads and processes that lock the same name below the folder."""
    path = folder / "locks" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # closing the file unlocks it, and so does the death of the process
        yield


class Store:
    """The repositories of one folder, which is made where it is missing.

    Methods block on the disk; all may be called from any thread. They raise `HubError` with status 404 and
    RepoNotFound, RevisionNotFound or EntryNotFound for what is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.incoming, self.trash = folder / "incoming", folder / "trash"
        for part in (self.incoming, self.trash):
            part.mkdir(parents=True, exist_ok=True)
        self._sweep()

    def _sweep(self) -> None:
        """Finish deletions that were interrupted, and drop uploads that nobody can continue."""
        for path in self.trash.iterdir():
            shutil.rmtree(path, ignore_errors=True)
        for path in self.incoming.iterdir():
            with suppress(FileNotFoundError):  # another server on this folder may have finished it
                if time.time() - path.stat().st_mtime > LINK_SECONDS:
                    path.unlink()

    def _state(self, repo: RepoId) -> Path:
        return self.folder / repo.path / "repo.json"

    def _save(self, repo: RepoId, state: Repo) -> None:
        write_bytes(self._state(repo), json.dumps(asdict(state), indent=1).encode())

    # --- repositories ---

    def find(self, repo: RepoId) -> Repo | None:
        """What is kept of a repository; None where there is none."""
        try:
            return Repo(**json.loads(self._state(repo).read_bytes()))
        except FileNotFoundError:
            return None

    def read(self, repo: RepoId) -> Repo:
        """As `find`, for one that must be there."""
        if (state := self.find(repo)) is None:
            raise HubError(404, "Repository not found", "RepoNotFound")
        return state

    def repos(self, kind: str) -> Iterator[tuple[RepoId, Repo]]:
        """All repositories of a kind, by name."""
        for path in sorted(self.folder.glob(f"{kind}s/*/*/repo.json")):
            repo = RepoId(kind, path.parts[-3], path.parts[-2])
            if (state := self.find(repo)) is not None:  # it may just have been deleted
                yield repo, state

    def create(self, repo: RepoId, *, private: bool, author: str) -> bool:
        """Make it, with one empty commit on `main`; False, and nothing happens, where it is already there."""
        with locked(self.folder, repo.path):
            if self._state(repo).exists():
                return False
            first = Commit(None, "initial commit", "", author, _now(), {})
            self._save(repo, Repo(private, first.date, {"main": self._write_commit(repo, first)}))
            return True

    def delete(self, repo: RepoId) -> None:
        """Take it away with all its files; raises `HubError` (404) where there is none."""
        with locked(self.folder, repo.path):
            self.read(repo)
            gone = self.trash / secrets.token_hex(8)
            os.replace(self.folder / repo.path, gone)
        shutil.rmtree(gone, ignore_errors=True)  # a download may still hold a file on a network disk; see _sweep

    def set_private(self, repo: RepoId, private: bool) -> None:
        """Who may see it; raises `HubError` (404) where there is none."""
        with locked(self.folder, repo.path):
            self._save(repo, replace(self.read(repo), private=private))

    # --- references ---

    def resolve(self, repo: RepoId, revision: str) -> str:
        """A branch, a tag, refs/heads/..., refs/tags/... or the id of a commit -> the id of a commit."""
        state = self.read(repo)
        known = {
            **{f"refs/tags/{name}": commit for name, commit in state.tags.items()},
            **{f"refs/heads/{name}": commit for name, commit in state.branches.items()},
            **state.tags,
            **state.branches,
        }
        if found := known.get(revision):
            return found
        if _COMMIT_ID.fullmatch(revision) and self._commit_path(repo, revision).exists():
            return revision
        raise _no_revision(revision)

    def add_reference(self, repo: RepoId, table: str, name: str, revision: str) -> None:
        """Make a branch or tag (`table` is "branches" or "tags") that points where the revision does.

        Raises:
            HubError: 409 where there is one of this name.
        """
        check_reference(name)
        with locked(self.folder, repo.path):
            state = self.read(repo)
            references = getattr(state, table)
            if name in references:
                raise HubError(409, f"Reference already exists: {name!r} is one of the {table} of {repo}")
            self._save(repo, replace(state, **{table: {**references, name: self.resolve(repo, revision)}}))

    def delete_reference(self, repo: RepoId, table: str, name: str) -> None:
        """Raises `HubError` (403) for the branch `main`, which a repository cannot be without."""
        if (table, name) == ("branches", "main"):
            raise HubError(403, "the branch 'main' cannot be deleted")
        with locked(self.folder, repo.path):
            state = self.read(repo)
            left = dict(getattr(state, table))
            if left.pop(name, None) is None:
                raise _no_revision(name)
            self._save(repo, replace(state, **{table: left}))

    # --- commits ---

    def _commit_path(self, repo: RepoId, commit: str) -> Path:
        return self.folder / repo.path / "commits" / f"{commit}.json"

    def _write_commit(self, repo: RepoId, commit: Commit) -> str:
        content = json.dumps(asdict(commit), sort_keys=True).encode()
        name = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        path = self._commit_path(repo, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
        return name

    def read_commit(self, repo: RepoId, commit: str) -> Commit:
        """By its id, which must be one that `resolve` or another commit named."""
        try:
            return _read_commit(self._commit_path(repo, commit))
        except FileNotFoundError:  # the repository went away since then
            raise _no_revision(commit) from None

    def history(self, repo: RepoId, commit: str | None) -> Iterator[tuple[str, Commit]]:
        """A commit and those before it with their ids, newest first."""
        while commit is not None:
            found = self.read_commit(repo, commit)
            yield commit, found
            commit = found.parent

    def last_commits(self, repo: RepoId, commit: str, paths: Iterable[str]) -> dict[str, tuple[str, Commit]]:
        """Paths of files and folders -> the commit that last changed each; it goes back as far as it must."""
        wanted, found = set(paths), {}
        for name, newer in self.history(repo, commit):
            if not wanted:
                break
            before = self.read_commit(repo, newer.parent).files if newer.parent else {}
            changed = [path for path in newer.files.keys() | before if newer.files.get(path) != before.get(path)]
            touched = wanted & {one for path in changed for one in (path, *_parents(path))}
            found.update(dict.fromkeys(touched, (name, newer)))
            wanted -= touched
        return found

    def commit(
        self, repo: RepoId, branch: str, changes: Iterable[Change], *,
        title: str, message: str, author: str, parent: str = "",
    ) -> str:  # fmt: skip
        """Put the changes on a branch; their contents must be in the store already.

        Args:
            parent: what the id that the branch points to must still begin with.

        Returns:
            the id of the new commit, or of the old one where the changes change nothing.

        Raises:
            HubError: 404 for a branch, file or folder that is not there; 412 where the branch has moved on.
        """
        branch, changes = branch.removeprefix("refs/heads/"), list(changes)
        with locked(self.folder, repo.path):
            state = self.read(repo)
            head = state.branches.get(branch)
            if head is None:
                raise _no_revision(branch)
            if not head.startswith(parent):
                raise HubError(412, f"A commit has happened since. The branch {branch!r} is at {head}, not {parent!r}")
            old = self.read_commit(repo, head).files
            new = _apply(old, changes)
            if new == old:
                return head
            self._check_contents(repo, changes)
            commit = self._write_commit(repo, Commit(head, title, message, author, _now(), new))
            self._save(repo, replace(state, branches={**state.branches, branch: commit}))
            return commit

    def _check_contents(self, repo: RepoId, changes: list[Change]) -> None:
        """They were there before the lock was taken; the repository may have been deleted and made anew since."""
        for _, file in changes:
            if file is not None and not self.blob(repo, file.sha256).exists():
                raise _no_content(repo, file.sha256)

    # --- contents ---

    def blob(self, repo: RepoId, sha256: str) -> Path:
        """Where the content lies, if it does."""
        if not _SHA256.fullmatch(sha256):
            raise HubError(400, f"{sha256[:200]!r} is no SHA-256: give 64 hexadecimal digits, small letters")
        return self.folder / repo.path / "blobs" / sha256[:2] / sha256

    def put(self, repo: RepoId, content: bytes) -> File:
        """Keep a small file."""
        sha256 = hashlib.sha256(content).hexdigest()
        if not self.blob(repo, sha256).exists():
            with self.upload(repo, sha256, len(content)) as upload:
                upload.write(content)
        return File(sha256, len(content), _git_blob(content), lfs=False)

    def large_file(self, repo: RepoId, sha256: str) -> File:
        """A file whose content was uploaded before.

        Raises:
            HubError: 400 where it was not, to this repository.
        """
        try:
            size = self.blob(repo, sha256).stat().st_size
        except FileNotFoundError:
            raise _no_content(repo, sha256) from None
        return File(sha256, size, _git_blob(_pointer(sha256, size)), lfs=True)

    @contextmanager
    def upload(self, repo: RepoId, sha256: str, size: int) -> Iterator[Upload]:
        """Take in a content: kept when the block ends and all of it came, dropped without a trace otherwise."""
        target = self.blob(repo, sha256)
        upload = Upload(self.incoming / secrets.token_hex(16), sha256, size)
        try:
            yield upload
            upload.finish()
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(upload.path, target)
        finally:
            upload.discard()

    def scratch(self) -> IO[bytes]:
        """A nameless file on the store's disk, gone when it is closed."""
        return tempfile.TemporaryFile(dir=self.incoming)


def _no_revision(revision: str) -> HubError:
    return HubError(404, f"Invalid rev id: {revision[:200]!r}", "RevisionNotFound")


def _no_content(repo: RepoId, sha256: str) -> HubError:
    return HubError(400, f"the content {sha256} was not uploaded to {repo}: upload it before the commit")
