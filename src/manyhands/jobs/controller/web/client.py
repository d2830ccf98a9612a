"""Talks to this machine's controller. Standard library only, so that commands are quick."""

from __future__ import annotations

import http.client
import json
import time
from typing import Any

from manyhands.errors import UsageError, UserError
from manyhands.jobs.controller.storage.home import Home
from manyhands.run.lock import is_taken

_AGAIN_SECONDS = 10.0
"""Seconds for which a request is repeated while a controller that lives does not answer: it starts or ends."""
_PAUSE_SECONDS = 0.1


class Client:
    """Asks the controller of a home; a method's path is one of the API's (`api.py`).

    Raises:
        UserError: by every method, if no controller runs or it refuses; the text says why.
    """

    def __init__(self, home: Home | None = None) -> None:
        self._home = home or Home()

    def get(self, path: str) -> Any:
        """The answer to a GET request."""
        return self._ask("GET", path, None)

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The answer to a POST request. It may be sent twice, and does no harm then."""
        return self._ask("POST", path, body or {})

    def _ask(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        deadline = time.monotonic() + _AGAIN_SECONDS
        while True:
            if not is_taken(self._home.lock):
                raise UserError(
                    f"no controller runs on {self._home.path}. Start one: manyhands up (jobs that it knew are kept)."
                )
            try:
                return self._ask_once(method, path, body)
            except (OSError, http.client.HTTPException) as error:
                if time.monotonic() > deadline:
                    raise UserError(f"the controller of {self._home.path} does not answer: {error}.") from None
                time.sleep(_PAUSE_SECONDS)

    def _ask_once(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        address = self._home.published()
        if not address:
            raise ConnectionRefusedError("it starts")
        link = http.client.HTTPConnection("127.0.0.1", address["port"], timeout=60.0)
        try:
            headers = {"Authorization": f"Bearer {self._home.read_secret()}", "Content-Type": "application/json"}
            link.request(method, path, None if body is None else json.dumps(body), headers)
            response = link.getresponse()
            answer = json.loads(response.read())
            if not isinstance(answer, dict):
                raise ValueError
        except ValueError:
            raise ConnectionError("something else listens on its port") from None
        finally:
            link.close()
        if response.status >= 400:
            raise (UsageError if answer.get("usage") else UserError)(answer.get("error", response.reason))
        return answer
