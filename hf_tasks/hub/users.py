"""Who may do what on a Hub: users with a token each, and the signatures of upload links.

- Tokens are kept as hashes; `users.json` and the signing key are readable by their owner alone.
- `users.json` is read again whenever it changed, so that a running server knows of a new token at once.
"""

import hashlib
import hmac
import json
import os
import secrets
import string
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hf_tasks.errors import UserError
from hf_tasks.hub.store import is_namespace, locked


@dataclass(frozen=True)
class User:
    """Somebody with a token; may read and write all that is in the namespaces, of which the own name is one."""

    name: str
    namespaces: frozenset[str]


class Users:
    """Finds users by their tokens, in `users.json`, which is read again whenever it was changed."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "users.json"
        self._seen: tuple[int, ...] = ()
        self._by_hash: dict[str, User] = {}

    def find(self, token: str) -> User | None:
        """It takes as long for a wrong token as for a right one."""
        self._refresh()
        wanted, found = _token_hash(token), None
        for known, user in self._by_hash.items():
            if hmac.compare_digest(known, wanted):
                found = user
        return found

    def _refresh(self) -> None:
        try:
            status = self.path.stat()
        except FileNotFoundError:
            self._seen, self._by_hash = (), {}
            return
        seen = (status.st_mtime_ns, status.st_size, status.st_ino)
        if seen != self._seen:
            users = json.loads(self.path.read_bytes())
            self._by_hash = {
                entry["sha256"]: User(name, frozenset([name, *entry["namespaces"]])) for name, entry in users.items()
            }
            self._seen = seen


def make_token(folder: Path, name: str, namespaces: Iterable[str] = ()) -> str:
    """Make a user, or give an old one a new token and new namespaces; a running server knows at once.

    Args:
        folder: of the Hub, made where it is missing.
        name: of the user, and of the namespace that is the user's own.
        namespaces: others to read and write in.

    Returns:
        the token. It is kept nowhere: users.json holds its hash.

    Raises:
        UserError: for a name that no namespace can have.
    """
    namespaces = list(namespaces)
    for one in (name, *namespaces):
        if not is_namespace(one):
            raise UserError(f"{one!r} cannot name a user or namespace: use letters, digits, '-', '.' and '_'")
    token = "hf_" + "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(34))
    path = folder / "users.json"
    with locked(folder, "users.json"):
        try:
            users = json.loads(path.read_bytes()) if path.exists() else {}
        except ValueError as error:
            raise UserError(f"{str(path)!r} is no JSON ({error}): restore it, or delete it to begin anew") from error
        users[name] = {"sha256": _token_hash(token), "namespaces": namespaces}
        _write_private(path, json.dumps(users, indent=1).encode())
    return token


def _token_hash(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()


def _write_private(path: Path, content: bytes) -> None:
    """As `write_bytes`, and readable by its owner alone from its first byte on."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(part, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


class Signer:
    """Signs upload links, which must work without a token. The key is on disk, so links outlive a restart."""

    def __init__(self, folder: Path) -> None:
        path = folder / "secret"
        with locked(folder, "secret"):
            if not path.exists():
                _write_private(path, secrets.token_bytes(32))
            self._key = path.read_bytes()

    def sign(self, *parts: str) -> str:
        """64 hexadecimal digits; the parts hold no newlines."""
        return hmac.new(self._key, "\n".join(parts).encode(), "sha256").hexdigest()

    def is_signed(self, signature: str, *parts: str) -> bool:
        return hmac.compare_digest(signature.encode(), self.sign(*parts).encode())
