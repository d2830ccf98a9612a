"""The secret that opens a controller: in its file whole or not at all, and never shorter than what is made here.

Whoever knows it may run any program as the controller's owner. So an empty or a cut file must never count as a secret:
a machine that loses its power, a full disk or a killed process would otherwise open the controller to everybody.
"""

from __future__ import annotations

import os
import re
import secrets
import tempfile
from pathlib import Path

from manyhands.errors import UserError

_BYTES = 24
_WHOLE = re.compile(r"[A-Za-z0-9_-]{32,}")
"""What a whole secret looks like: 24 bytes are 32 characters of base64."""


def is_secret(text: str) -> bool:
    """Whether a text may be used as a secret: as long as those made here, of the same letters."""
    return _WHOLE.fullmatch(text) is not None


def read_secret(path: Path) -> str:
    """The secret in a file.

    Raises:
        UserError: there is no file, or no secret in it.
    """
    try:
        text = path.read_bytes().decode("ascii", errors="replace").strip()
    except OSError as error:
        raise UserError(f"the controller's token in {path} cannot be read: {error.strerror}.") from None
    if not is_secret(text):
        raise UserError(
            f"{path} holds no token: it is damaged or was cut off ({len(text)} characters, where a token has 32). "
            "Remove that file: the next `manyhands up` makes another token, and prints a new link to the page."
        )
    return text


def make_secret(path: Path) -> str:
    """The secret in a file, which is made, for this user's eyes only, if there is none yet.

    Of several processes that make it at once, all get the same.

    Raises:
        UserError: there is a file, and it holds no secret.
    """
    if not path.exists():
        _write_new(path, secrets.token_urlsafe(_BYTES))
    return read_secret(path)


def _write_new(path: Path, text: str) -> None:
    """Write a file that gets its name once all of it is on disk; nothing happens if another has the name by then."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # 0600
    partial = Path(name)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            path.hardlink_to(partial)
        except FileExistsError:
            pass  # another process was first: its secret counts
    finally:
        partial.unlink()
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
