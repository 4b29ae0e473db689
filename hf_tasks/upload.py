"""An `Upload` -> the Hub, in one commit, and the truth about what became of it.

- One commit takes all files, so a repository is never half-published. It names the commit it was decided on: if
  somebody else's came between, it is decided anew from what then stands.
- The same upload again finds what is there: large files are not sent twice, and no commit is made for no change.
- After a failure the Hub is asked what it has, file by file, so that the message says what is there and what is not.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from json import JSONDecodeError
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypedDict, Unpack

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, HfFileSystem, ModelCard
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash, sha_fileobj

from hf_tasks.errors import UserError
from hf_tasks.leaks import find_secret

RACES = 5  # how many commits of others in a row may come before ours

Content = Path | bytes


@dataclass(frozen=True)
class Upload:
    """What a repository is to hold.

    Attributes:
        repo_id: "user/name".
        kind: "model", "dataset" or "space".
        files: path in the repository -> a file on this machine, or its bytes.
        replaced: patterns of paths that are deleted there unless they are among `files`.
        parent: the commit that this was decided on; None: no such commit yet.
    """

    repo_id: str
    kind: str
    files: dict[str, Content]
    replaced: tuple[str, ...]
    parent: str | None = None

    def sizes(self) -> list[tuple[str, int]]:
        """Every file with its size in bytes."""
        return [(path, len(c) if isinstance(c, bytes) else c.stat().st_size) for path, c in sorted(self.files.items())]

    def card(self) -> str:
        """The card as it will be."""
        return _text(self.files["README.md"])


@dataclass(frozen=True)
class Published:
    """What became of an upload: `commit` is the one that now holds it, or None after a dry run."""

    upload: Upload
    commit: str | None = None
    url: str = ""


@dataclass(frozen=True)
class Standing:
    """What a repository holds before a commit; nothing where there is none."""

    parent: str | None = None
    files: tuple[str, ...] = ()
    read: Callable[[str], bytes] = lambda path: b""
    opened: Callable[[str], Any] = open

    def parquet(self, patterns: str | list[str]) -> list[Callable[[], Any]]:
        """How to open each of its parquet files that fit a pattern, or one of several."""
        wanted = [patterns] if isinstance(patterns, str) else patterns
        fitting = [path for path in self.files if any(fnmatch(path, pattern) for pattern in wanted)]
        return [partial(self.opened, path) for path in fitting if path.endswith(".parquet")]


class Where(TypedDict, total=False):
    """How an upload goes to its repository.

    Attributes:
        private: make the repository private if it does not exist yet.
        branch: commit to this branch, made if it does not exist, and not to main.
        tag: name the commit, such as "v1.0.0".
        dry_run: only decide and check; nothing is asked of the Hub.
    """

    private: bool
    branch: str | None
    tag: str | None
    dry_run: bool


def send(decide: Callable[[Standing], Upload], repo_id: str, kind: str, **where: Unpack[Where]) -> Published:
    """Decide, check and commit, again as long as somebody else's commit comes between.

    Args:
        decide: what to upload, given what the repository holds.
        repo_id: "user/name".
        kind: "model", "dataset" or "space".

    Raises:
        UserError: no such name, a secret in a file, a card without a licence, a tag that is taken, or anything that the
            Hub refuses or fails at; the message says what is on the Hub.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise UserError(f"{repo_id!r} is no repository; give USER/NAME, such as me/adder")
    if where.get("dry_run"):
        upload = decide(Standing())
        _check(upload)
        return Published(upload)
    hub = Repository(HfApi(), repo_id, kind, where.get("branch"))
    for _ in range(RACES):
        with hub.explained():
            upload = decide(hub.standing())
            _check(upload)
            hub.last = upload
            try:
                return Published(upload, *hub.commit(upload, where.get("private", False), where.get("tag")))
            except HfHubHTTPError as error:
                if error.response.status_code != 412:
                    raise
    raise UserError(f"{repo_id!r} was changed by others {RACES} times in a row; nothing was published, try again later")


def _check(upload: Upload) -> None:
    """Refuse secrets, and a card without a licence."""
    for path, content in upload.files.items():
        if secret := find_secret(path, content):
            raise UserError(f"{path!r} looks like it holds {secret}: take it out; nothing was uploaded")
    head = re.match(r"---\n(.*?)\n---\n", upload.card(), re.S)
    if head is None or not ModelCard(upload.card(), ignore_metadata_errors=True).data.to_dict().get("license"):
        raise UserError(
            f"the card of {upload.repo_id!r} names no licence: give its YAML head a line such as license: mit"
        )


@dataclass
class Repository:
    """One branch of a repository on the Hub. `last` is the upload that was tried last."""

    api: HfApi
    repo_id: str
    kind: str
    branch: str | None
    last: Upload | None = field(default=None)

    def standing(self) -> Standing:
        """What it holds; nothing where it does not exist yet."""
        try:
            info: Any = self.api.repo_info(self.repo_id, repo_type=self.kind, revision=self.branch)
        except RevisionNotFoundError:
            info = self.api.repo_info(self.repo_id, repo_type=self.kind)  # a new branch begins as main
        except RepositoryNotFoundError:
            return Standing()
        files = tuple(sibling.rfilename for sibling in info.siblings or [])
        return Standing(info.sha, files, partial(self._read, info.sha), partial(self._open, info.sha))

    def commit(self, upload: Upload, private: bool, tag: str | None) -> tuple[str, str]:
        """Commit an upload and name the commit; its id and address."""
        if upload.parent is None:
            self.api.create_repo(
                self.repo_id,
                repo_type=self.kind,
                private=private,
                exist_ok=True,
                space_sdk="static" if self.kind == "space" else None,
            )
        if tag is not None and tag in self._tags():
            if self.differing(upload, tag):
                raise UserError(f"tag {tag!r} of {self.repo_id!r} is taken by other files: choose another --tag")
            return self._tags()[tag], self._url()
        if self.branch is not None:
            self.api.create_branch(self.repo_id, branch=self.branch, repo_type=self.kind, exist_ok=True)
        there = self._tree(self.branch)
        gone = [p for p in there if p not in upload.files and any(fnmatch(p, pattern) for pattern in upload.replaced)]
        operations = [
            *(CommitOperationDelete(path, is_folder=False) for path in gone),
            *(CommitOperationAdd(path, _as_given(content)) for path, content in sorted(upload.files.items())),
        ]
        commit = self._commit(upload, operations)
        if tag is not None:
            self.api.create_tag(self.repo_id, tag=tag, revision=commit, repo_type=self.kind)
        return commit, self._url()

    def _commit(self, upload: Upload, operations: list[CommitOperationAdd | CommitOperationDelete]) -> str:
        """The id of the commit that holds the operations; an answer that was lost on the way is made up for."""
        try:
            return self.api.create_commit(
                self.repo_id,
                operations,
                commit_message="Publish with hf_tasks",
                repo_type=self.kind,
                revision=self.branch,
                parent_commit=upload.parent,
            ).oid
        except HTTPError as error:
            if isinstance(error, HfHubHTTPError) or self.differing(upload, self.branch):
                raise
            return self.api.repo_info(self.repo_id, repo_type=self.kind, revision=self.branch).sha or ""

    def differing(self, upload: Upload, revision: str | None) -> list[str]:
        """The files of an upload that are not there, or otherwise."""
        there = self._tree(revision)
        return [path for path, content in upload.files.items() if not _is_there(there.get(path), content)]

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what huggingface_hub raises into one line that says what is on the Hub and what is not."""
        try:
            yield
        # The last two are what it makes of a large file whose upload broke off, and of an answer that is no JSON.
        except (HTTPError, HFValidationError, LocalTokenNotFoundError, RuntimeError, JSONDecodeError) as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code == 412:
                raise
            raise UserError(
                f"the Hub did not take {self.repo_id!r}: {' '.join(str(error).split())}; {self._state()}; check "
                "the name, HF_ENDPOINT and the token (hf auth login, or HF_TOKEN), then give the same command again"
            ) from error

    def _state(self) -> str:
        """What became of the last upload, as the Hub says it."""
        if self.last is None:
            return "nothing was uploaded"
        try:
            missing = self.differing(self.last, self.branch)
        except (RepositoryNotFoundError, RevisionNotFoundError):
            return "nothing of it is there"
        except (HTTPError, RuntimeError):
            return "the Hub does not say what it has; it takes all files in one commit or none"
        if not missing:
            return "all its files are there, but not the tag"
        same = len(self.last.files) - len(missing)
        return (
            f"{len(missing)} files of {len(self.last.files)} are not there or are of an earlier version "
            f"({', '.join(sorted(missing)[:3])}{', ...' if len(missing) > 3 else ''}), {same} are"
        )

    def _tree(self, revision: str | None) -> dict[str, RepoFile]:
        entries = self.api.list_repo_tree(self.repo_id, recursive=True, repo_type=self.kind, revision=revision)
        return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}

    def _tags(self) -> dict[str, str]:
        refs = self.api.list_repo_refs(self.repo_id, repo_type=self.kind)
        return {ref.name: ref.target_commit for ref in refs.tags}

    def _url(self) -> str:
        return f"{self.api.endpoint}/{'' if self.kind == 'model' else self.kind + 's/'}{self.repo_id}"

    def _read(self, revision: str, path: str) -> bytes:
        with TemporaryDirectory() as scratch:
            file = self.api.hf_hub_download(
                self.repo_id, path, repo_type=self.kind, revision=revision, local_dir=scratch
            )
            return Path(file).read_bytes()

    def _open(self, revision: str, path: str) -> Any:
        prefix = "" if self.kind == "model" else f"{self.kind}s/"
        return HfFileSystem(endpoint=self.api.endpoint).open(f"{prefix}{self.repo_id}@{revision}/{path}", "rb")


def _as_given(content: Content) -> bytes | str:
    return content if isinstance(content, bytes) else str(content)


def _text(content: Content) -> str:
    return content.decode() if isinstance(content, bytes) else content.read_text("utf-8")


def _is_there(entry: RepoFile | None, content: Content) -> bool:
    """Whether a file on the Hub is this one: large ones are known by SHA-256, others by git's hash."""
    if entry is None or entry.size != (len(content) if isinstance(content, bytes) else content.stat().st_size):
        return False
    if entry.lfs is None:
        return entry.blob_id == git_hash(content if isinstance(content, bytes) else content.read_bytes())
    if isinstance(content, bytes):
        return False
    with content.open("rb") as file:
        return entry.lfs.sha256 == sha_fileobj(file).hex()
