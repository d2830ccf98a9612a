"""The controller over HTTP: what clients ask and order, and the page. Whoever knows the token may do anything.

    GET  /api/cluster?after=VERSION   how things stand; waits until they are newer than that version
    GET  /api/history                 who held which slot when
    POST /api/jobs                    submit (`Submission`)
    POST /api/jobs/ID/pause|resume|cancel|move
    POST /api/down                    end the controller

The token is in the header `Authorization: Bearer TOKEN`; what is sent is `application/json`. An error is
`{"error": text}` with status 400, 401, 403 (`door.py`), 404, 415, or 500 for a fault of ours.
"""

from __future__ import annotations

import json
import math
import re
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

import manyhands.jobs.controller.checks as checks
from manyhands.errors import UsageError, UserError
from manyhands.jobs.controller.core.controller import Controller
from manyhands.jobs.controller.storage.record import Wish
from manyhands.jobs.controller.storage.secret import is_secret
from manyhands.jobs.controller.storage.submission import TITLE, Submission
from manyhands.jobs.controller.web.door import Refusal, refusal, wrong_host

_WAIT_SECONDS = 20.0
_LARGEST = 1 << 20
"""The most bytes of a request's body."""
_FIELDS, _HOSTS = 100, 1000
_VERSION = re.compile(r"[0-9]{1,15}")
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""The page's headers: no other page may show it within itself, or keep a hand on its window."""
_WISHES = {"pause": Wish.PAUSE, "resume": Wish.RUN, "cancel": Wish.CANCEL}

Handler = Callable[[Request], Awaitable[Response]]


def application(controller: Controller, token: str, page: str, down: Callable[[bool], Awaitable[None]]) -> Starlette:
    """The ASGI application: the API and the page.

    Args:
        token: the secret that requests to the API have to show.
        page: the HTML that a browser gets.
        down: ends the controller; is told whether jobs are left running.

    Raises:
        ValueError: the token is no secret: it would open the API to everybody.
    """
    if not is_secret(token):
        raise ValueError("the API needs a token as `make_secret` makes it.")

    async def show_page(request: Request) -> Response:
        """The page, the same for everybody: it takes the token from what follows `#`, which browsers do not send."""
        wrong = wrong_host(request.headers)
        return _refused(wrong) if wrong else HTMLResponse(page, headers=_HEADERS)

    async def cluster(request: Request) -> Response:
        after = request.query_params.get("after", "")
        if _VERSION.fullmatch(after):
            return Json(await controller.after(int(after), _WAIT_SECONDS))
        return Json(controller.show())

    async def history(request: Request) -> Response:
        return Json(controller.history())

    async def submit(request: Request) -> Response:
        job = controller.submit(Submission.read(await _body(request)))
        return Json({"id": job.number, "status": job.status.value})

    async def order(request: Request) -> Response:
        number, what = request.path_params["number"], request.path_params["what"]
        if _VERSION.fullmatch(number) is None:
            raise UsageError(f"there is no job {number[:TITLE]}. `manyhands jobs` lists those there are.")
        if what == "move":
            hosts = checks.sequence("to", (await _body(request)).get("to", []), _HOSTS)
            job = controller.move(int(number), [checks.text("a host", host, TITLE) for host in hosts])
        elif what in _WISHES:
            job = controller.wish(int(number), _WISHES[what])
        else:
            return Json({"error": f"there is no {what!r} for jobs."}, 404)
        return Json({"id": job.number, "status": job.status.value})

    async def end(request: Request) -> Response:
        await down(checks.truth("leave", (await _body(request)).get("leave", False)))
        return Json({"ok": True})

    def guarded(handler: Handler) -> Handler:
        async def answer(request: Request) -> Response:
            if refused := refusal(request.method, request.headers, token):
                return _refused(refused)
            try:
                return await handler(request)
            except UserError as error:
                return Json({"error": str(error), "usage": isinstance(error, UsageError)}, 400)
            except Exception as error:  # one request must not look as if the controller were gone
                traceback.print_exc()
                text = f"the controller has failed at this ({type(error).__name__}); its log says more."
                return Json({"error": text}, 500)

        return answer

    return Starlette(
        routes=[
            Route("/", show_page),
            Route("/api/cluster", guarded(cluster)),
            Route("/api/history", guarded(history)),
            Route("/api/jobs", guarded(submit), methods=["POST"]),
            Route("/api/jobs/{number}/{what}", guarded(order), methods=["POST"]),
            Route("/api/down", guarded(end), methods=["POST"]),
        ]
    )


def _refused(why: Refusal) -> Response:
    return Json({"error": why.text}, why.status)


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object that a request's body holds.

    Raises:
        UsageError: the body is too large, or no JSON object.
    """
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > _LARGEST:
            raise UsageError(f"the body is larger than {_LARGEST >> 10} KiB.")
    try:
        body = json.loads(data or b"{}", parse_constant=_no_number)
    except ValueError:
        raise UsageError("the body is not JSON.") from None
    except RecursionError:
        raise UsageError("the body is nested too deeply.") from None
    return checks.table("the body", body, _FIELDS)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


class Json(JSONResponse):
    """An answer in JSON, whatever it holds.

    Names of files that are not UTF-8 are escaped, and numbers that JSON does not have are null.
    """

    def render(self, content: Any) -> bytes:
        try:
            return json.dumps(content, allow_nan=False).encode()
        except ValueError:
            return json.dumps(_finite(content), allow_nan=False).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
