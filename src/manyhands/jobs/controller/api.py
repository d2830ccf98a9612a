"""The controller over HTTP: what clients ask and order, and the page. Whoever knows the token may do anything.

    GET  /api/cluster?after=VERSION   how things stand; waits until they are newer than that version
    GET  /api/history                 who held which slot when
    POST /api/jobs                    submit (`Submission`)
    POST /api/jobs/ID/pause|resume|cancel|move
    POST /api/down                    end the controller

The token is in the header `Authorization: Bearer TOKEN`; what is sent is `application/json`. An error is
`{"error": text}` with status 400, 401, 403 (`door.py`), 404 or 415.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from manyhands.errors import UsageError, UserError
from manyhands.jobs.controller.controller import Controller
from manyhands.jobs.controller.door import Refusal, refusal, wrong_host
from manyhands.jobs.controller.record import Submission, Wish
from manyhands.jobs.controller.secret import is_secret

_WAIT_SECONDS = 20.0
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
"""Of the page: no other may show it within itself, or keep a hand on its window."""
_WISHES = {"pause": Wish.PAUSE, "resume": Wish.RUN, "cancel": Wish.CANCEL}

Handler = Callable[[Request], Awaitable[Response]]


def application(controller: Controller, token: str, page: str, down: Callable[[bool], Awaitable[None]]) -> Starlette:
    """The ASGI application.

    Args:
        page: what a browser gets.
        down: ends the controller; whether jobs are left running.

    Raises:
        ValueError: the token is none: it would open the API to everybody.
    """
    if not is_secret(token):
        raise ValueError("the API needs a token as `make_secret` makes it.")

    async def show_page(request: Request) -> Response:
        """The page, the same for everybody: it takes the token from what follows `#`, which browsers do not send."""
        wrong = wrong_host(request.headers)
        return _refused(wrong) if wrong else HTMLResponse(page, headers=_HEADERS)

    async def cluster(request: Request) -> Response:
        after = request.query_params.get("after")
        if after is not None and after.isdecimal():
            return JSONResponse(await controller.after(int(after), _WAIT_SECONDS))
        return JSONResponse(controller.show())

    async def history(request: Request) -> Response:
        return JSONResponse(controller.history())

    async def submit(request: Request) -> Response:
        job = controller.submit(Submission.read(await _body(request)))
        return JSONResponse({"id": job.number, "status": job.status.value})

    async def order(request: Request) -> Response:
        number, what = request.path_params["number"], request.path_params["what"]
        if what == "move":
            hosts = (await _body(request)).get("to", [])
            job = controller.move(number, [str(host) for host in hosts])
        elif what in _WISHES:
            job = controller.wish(number, _WISHES[what])
        else:
            return JSONResponse({"error": f"there is no {what!r} for jobs."}, 404)
        return JSONResponse({"id": job.number, "status": job.status.value})

    async def end(request: Request) -> Response:
        await down(bool((await _body(request)).get("leave")))
        return JSONResponse({"ok": True})

    def guarded(handler: Handler) -> Handler:
        async def answer(request: Request) -> Response:
            if refused := refusal(request.method, request.headers, token):
                return _refused(refused)
            try:
                return await handler(request)
            except UserError as error:
                return JSONResponse({"error": str(error), "usage": isinstance(error, UsageError)}, 400)

        return answer

    return Starlette(
        routes=[
            Route("/", show_page),
            Route("/api/cluster", guarded(cluster)),
            Route("/api/history", guarded(history)),
            Route("/api/jobs", guarded(submit), methods=["POST"]),
            Route("/api/jobs/{number:int}/{what}", guarded(order), methods=["POST"]),
            Route("/api/down", guarded(end), methods=["POST"]),
        ]
    )


def _refused(why: Refusal) -> Response:
    return JSONResponse({"error": why.text}, why.status)


async def _body(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body() or b"{}")
    except ValueError:
        raise UsageError("the body is not JSON.") from None
    if not isinstance(body, dict):
        raise UsageError("the body is not a JSON object.")
    return body
