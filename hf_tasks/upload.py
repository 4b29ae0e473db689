"""An `Upload` -> the Hub, in one commit, and the truth about what became of it.

- One commit takes all files, so a repository is never half-published. It names the commit it was decided on: if
  somebody else's came between, it is decided anew from what then stands.
- The same upload again finds what is there: large files are not sent twice, and no commit is made for no change.
- After a failure the Hub is asked what it has, file by file, so that the message says what is there and what is not.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypedDict, Unpack

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, HfFileSystem, ModelCard
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash, sha_fileobj
from yaml import YAMLError

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
        replaced: patterns of paths that are deleted there unless they are among `files`; a star stays inside a folder.
        parent: the commit that this was decided on; None: no such commit yet.
    """

    repo_id: str
    kind: str
    files: dict[str, Content]
    replaced: tuple[str, ...]
    parent: str | None = None

    def sizes(self) -> list[tuple[str, int]]:
        """Every file with its size in bytes."""
        return [(path, _size(content)) for path, content in sorted(self.files.items())]

    def card(self) -> str:
        """The card as it will be."""
        content = self.files["README.md"]
        return (content if isinstance(content, bytes) else content.read_bytes()).decode()


@dataclass(frozen=True)
class Published:
    """What became of an upload: the commit that now holds it, None after a dry run, and what that commit deleted."""

    upload: Upload
    commit: str | None = None
    url: str = ""
    deleted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Standing:
    """What a repository holds before a commit; nothing where there is none."""

    parent: str | None = None
    private: bool = True
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
        private: make the repository private if it does not exist yet; a public one is refused.
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
        UserError: no such name, a secret in a file, a card without a licence, a tag or branch whose name is taken, a
            public repository that is to be private, or anything that the Hub refuses or fails at; the message says what
            is on the Hub.
    """
    _check_names(repo_id, where)
    if where.get("dry_run"):
        upload = decide(Standing())
        _check(upload)
        return Published(upload)
    hub = Repository(HfApi(), repo_id, kind, where)
    for _ in range(RACES):
        with hub.explained():
            standing = hub.standing()
            upload = replace(decide(standing), parent=standing.parent)
            _check(upload)
            hub.last = upload
            try:
                return hub.publish(upload)
            except HfHubHTTPError as error:
                if error.response.status_code != 412:
                    raise
    raise UserError(f"{repo_id!r} was changed by others {RACES} times in a row; nothing was published, try again later")


def _check_names(repo_id: str, where: Where) -> None:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise UserError(f"{repo_id!r} is no repository; give USER/NAME, such as me/adder")
    for name in (where.get("branch"), where.get("tag")):
        if name is not None and (not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", name, re.ASCII) or ".." in name):
            raise UserError(f"{name!r} is no name for a branch or tag: use letters, digits and . _ - /")
    if where.get("tag") == "main":
        raise UserError("a tag cannot be called 'main': that is the branch; choose another --tag")


def _check(upload: Upload) -> None:
    """Refuse secrets, and a card without a licence."""
    for path, content in upload.files.items():
        if secret := find_secret(path, content):
            raise UserError(f"{path!r} looks like it holds {secret}: take it out; nothing was uploaded")
    try:
        head = ModelCard(upload.card(), ignore_metadata_errors=True).data.to_dict()
    except (ValueError, YAMLError) as error:
        raise UserError(f"the card of {upload.repo_id!r} cannot be read: {' '.join(str(error).split())}") from error
    if not head.get("license"):
        raise UserError(
            f"the card of {upload.repo_id!r} names no licence: give its YAML head a line such as license: mit, or, of "
            "a model that was trained on another's weights, --license"
        )


@dataclass
class Repository:
    """One branch of a repository on the Hub. `last` is the upload that was tried last."""

    api: HfApi
    repo_id: str
    kind: str
    where: Where
    last: Upload | None = field(default=None)

    @property
    def branch(self) -> str | None:
        """The one to commit to; None: main."""
        return self.where.get("branch")

    def standing(self) -> Standing:
        """What it holds; nothing where it does not exist yet."""
        try:
            info: Any = self.api.repo_info(self.repo_id, repo_type=self.kind, revision=self.branch)
        except RevisionNotFoundError:
            info = self.api.repo_info(self.repo_id, repo_type=self.kind)  # a new branch begins as main
        except RepositoryNotFoundError:
            return Standing()
        files = tuple(sibling.rfilename for sibling in info.siblings or [])
        return Standing(info.sha, info.private, files, partial(self._read, info.sha), partial(self._open, info.sha))

    def publish(self, upload: Upload) -> Published:
        """Make the repository, branch and tag as far as they are missing, and commit the upload."""
        self._make(upload)
        tag, tags = self.where.get("tag"), self._references("tags")
        if tag in tags and self.differing(upload, tag):
            raise UserError(f"tag {tag!r} of {self.repo_id!r} is taken by other files: choose another --tag")
        for name, others, what in ((tag, self._references("branches"), "branch"), (self.branch, tags, "tag")):
            if name in others:
                raise UserError(f"{self.repo_id!r} has a {what} {name!r}: another of that name would hide it")
        if self.branch is not None:
            self.api.create_branch(self.repo_id, branch=self.branch, repo_type=self.kind, exist_ok=True)
        gone = tuple(
            path for path in self._tree(self.branch) if path not in upload.files and _is_replaced(path, upload)
        )
        commit = self._commit(upload, gone)
        if tag is not None and tag not in tags:
            self.api.create_tag(self.repo_id, tag=tag, revision=commit, repo_type=self.kind)
        url = f"{self.api.endpoint}/{'' if self.kind == 'model' else self.kind + 's/'}{self.repo_id}"
        return Published(upload, commit, url, gone)

    def _make(self, upload: Upload) -> None:
        private = self.where.get("private", False)
        if upload.parent is None:
            self.api.create_repo(
                self.repo_id,
                repo_type=self.kind,
                private=private,
                exist_ok=True,
                space_sdk="static" if self.kind == "space" else None,
            )
        if private and not self.standing().private:
            raise UserError(
                f"{self.repo_id!r} is public already: make it private on the Hub first, or choose another name"
            )

    def _commit(self, upload: Upload, gone: tuple[str, ...]) -> str:
        """The id of the commit that holds the upload; an answer that was lost on the way is made up for."""
        operations = [
            *(CommitOperationDelete(path, is_folder=False) for path in gone),
            *(
                CommitOperationAdd(path, content if isinstance(content, bytes) else str(content))
                for path, content in sorted(upload.files.items())
            ),
        ]
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
        except UserError:
            raise
        # huggingface_hub makes a RuntimeError of a large file whose upload broke off, a ConnectionError of what Xet
        # meets, and a ValueError of a name, a token, an address or an answer that is none.
        except (HTTPError, ConnectionError, LocalEntryNotFoundError, LocalTokenNotFoundError, RuntimeError,
                ValueError) as error:  # fmt: skip
            if isinstance(error, HfHubHTTPError) and error.response.status_code == 412:
                raise
            said = " ".join(str(error).split())
            hint = "set HF_HUB_DISABLE_XET=1 if it has no Xet" if "xet" in said.lower() else (
                "check the name, HF_ENDPOINT and the token (hf auth login, or HF_TOKEN)"
            )  # fmt: skip
            raise UserError(
                f"the Hub did not take {self.repo_id!r}: {said}; {self._state()}; {hint}, then give the same command "
                "again"
            ) from error

    def _state(self) -> str:
        """What became of the last upload, as the Hub says it."""
        if self.last is None:
            return "nothing was uploaded"
        try:
            missing = self.differing(self.last, self.branch)
            untagged = self.where.get("tag") not in (None, *self._references("tags"))
        except (RepositoryNotFoundError, RevisionNotFoundError):
            return "nothing of it is there"
        except (HTTPError, RuntimeError, ValueError):
            return "the Hub does not say what it has; it takes all files in one commit or none"
        if not missing:
            return "all its files are there" + (", but not the tag" if untagged else "")
        return (
            f"{len(missing)} files of {len(self.last.files)} are not there or are of an earlier version "
            f"({', '.join(sorted(missing)[:3])}{', ...' if len(missing) > 3 else ''})"
        )

    def _tree(self, revision: str | None) -> dict[str, RepoFile]:
        entries = self.api.list_repo_tree(self.repo_id, recursive=True, repo_type=self.kind, revision=revision)
        return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}

    def _references(self, kind: Literal["tags", "branches"]) -> list[str]:
        return [ref.name for ref in getattr(self.api.list_repo_refs(self.repo_id, repo_type=self.kind), kind)]

    def _read(self, revision: str, path: str) -> bytes:
        with TemporaryDirectory() as scratch:
            file = self.api.hf_hub_download(
                self.repo_id, path, repo_type=self.kind, revision=revision, local_dir=scratch
            )
            return Path(file).read_bytes()

    def _open(self, revision: str, path: str) -> Any:
        prefix = "" if self.kind == "model" else f"{self.kind}s/"
        return HfFileSystem(endpoint=self.api.endpoint).open(f"{prefix}{self.repo_id}@{revision}/{path}", "rb")


def _is_replaced(path: str, upload: Upload) -> bool:
    depth = path.count("/")
    return any(pattern.count("/") == depth and fnmatch(path, pattern) for pattern in upload.replaced)


def _size(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _is_there(entry: RepoFile | None, content: Content) -> bool:
    """Whether a file on the Hub is this one: large ones are known by SHA-256, others by git's hash."""
    if entry is None or entry.size != _size(content):
        return False
    if entry.lfs is None:
        return entry.blob_id == git_hash(content if isinstance(content, bytes) else content.read_bytes())
    if isinstance(content, bytes):
        return entry.lfs.sha256 == hashlib.sha256(content).hexdigest()
    with content.open("rb") as file:
        return entry.lfs.sha256 == sha_fileobj(file).hex()
