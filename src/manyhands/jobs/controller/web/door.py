"""Who is let in to the API: who shows the token, and is no page of somebody else.

A browser on this machine opens pages of many others, and any of them may send requests to 127.0.0.1. So the token is
never where a browser sends it by itself, as it does a cookie: it comes in a header that only our own page and commands
set. What a browser says of where a request is from is looked at besides: `Host`, because a stranger's name may be made
to lead to this machine; `Origin` and `Sec-Fetch-Site`, because other ports of this machine may be other users'.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

_OURS = ("127.0.0.1", "localhost", "::1")
"""Names of this machine; the port may be that of a tunnel."""


class Refusal(NamedTuple):
    """Why a request is not answered, and the HTTP status that says so."""

    status: int
    text: str


def wrong_host(headers: Mapping[str, str]) -> Refusal | None:
    """Why a request is refused that was meant for another name than this machine's; None if it was not."""
    host = headers.get("host", "")
    if _name(host) in _OURS:
        return None
    return Refusal(403, f"this is no {host[:100]!r}: use http://127.0.0.1 or http://localhost, with the port.")


def refusal(method: str, headers: Mapping[str, str], token: str) -> Refusal | None:
    """Why a request to the API is refused; None if it is let in.

    Args:
        headers: the request's headers, by their names in lower case.
        token: the token that it has to show.
    """
    if wrong := wrong_host(headers):
        return wrong
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
    if site not in ("same-origin", "none") or (origin is not None and urlsplit(origin).netloc != headers["host"]):
        return Refusal(403, "this request is from a page of another site or port, and those are not answered.")
    scheme, _, shown = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(shown.encode(), token.encode()):
        return Refusal(401, "the token is missing or wrong.")
    if method == "POST" and headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return Refusal(415, "the body has to be JSON, and to say so: Content-Type: application/json.")
    return None


def _name(host: str) -> str | None:
    """The name in a `Host` header, without the port."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
