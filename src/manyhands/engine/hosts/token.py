"""The secret that the machines of one user share: who knows it may run jobs on them."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from manyhands.errors import UserError

_LEAST = 16
"""Characters that a token has at least."""


def default_token() -> Path:
    """`token` in `MANYHANDS_HOME`, which is `~/.manyhands` by default."""
    return Path(os.environ.get("MANYHANDS_HOME") or Path.home() / ".manyhands") / "token"


def read_token(path: Path) -> bytes:
    """
    Raises:
        UserError: there is none, or one that is too short.
    """
    try:
        token = path.read_text().strip()
    except FileNotFoundError:
        raise UserError(
            f"there is no token in {path}. `manyhands agent` makes one where it runs first: copy that file to "
            f"{path} on every machine that is to take part."
        ) from None
    if len(token) < _LEAST:
        raise UserError(f"the token in {path} is too short: it has to have {_LEAST} characters or more.")
    return token.encode()


def make_token(path: Path) -> bool:
    """Make a token, for this user's eyes only, unless there is one; returns whether there was none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32) + "\n")
    return True
