"""A rank's side of a fleet: does what it is told until the fleet lets it go."""

from __future__ import annotations

import json
import socket
import traceback
from collections.abc import Callable, Mapping
from typing import Any


def serve(address: str, rank: int, about: Mapping[str, Any], handlers: Mapping[str, Callable[..., Any]]) -> None:
    """Answer requests until the other side hangs up; a handler gets the request's arguments by name."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(address)
        stream = connection.makefile("rw")
        print(json.dumps({"rank": rank, **about}), file=stream, flush=True)
        for line in stream:
            request = json.loads(line)
            try:
                answer = {"answer": handlers[request.pop("what")](**request)}
            except Exception as error:
                traceback.print_exc()
                answer = {"error": str(error)}
            print(json.dumps(answer), file=stream, flush=True)
