"""The controller's process: takes the home, serves the API, and says when it is ready or why it is not.

`manyhands up` starts it in the background (`start.py`) or is it (`serve`).
"""

from __future__ import annotations

import asyncio
import http.client
import os
import socket
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from manyhands.engine import HERE
from manyhands.engine.hosts import default_token, make_token, read_token
from manyhands.engine.ray import RayNodes
from manyhands.errors import UserError
from manyhands.jobs.controller.storage.home import Home
from manyhands.run.lock import sign, signed_by, take

if TYPE_CHECKING:
    import uvicorn

    from manyhands.jobs.controller.core.books import Books
    from manyhands.jobs.controller.core.controller import Controller
    from manyhands.jobs.controller.processes.watchman import Watchman
    from manyhands.jobs.controller.storage.store import Store

PORT = 7420
"""The port of the page, if nothing else listens there."""
_ANSWER_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a controller is to do."""

    hosts: dict[str, int]
    """How many slots each host has."""
    ray: str = ""
    """The address of a Ray cluster whose nodes are the hosts instead."""
    ray_slots: int | None = None
    """The most slots of each node of the Ray cluster; None: as many as it has GPUs, else CPUs."""
    cuda: bool = False
    policy: str = "priority+elastic+consolidate"
    shares: dict[str, float] = field(default_factory=dict)
    port: int | None = None
    """The port of the page and the API; None: `PORT`, or any if that is taken."""


def serve(home: Home, settings: Settings, ready: Callable[[dict[str, Any]], None]) -> None:
    """Be the controller of a home until told otherwise.

    Args:
        ready: called with `pid`, `port`, `url` and `hosts` once it answers.

    Raises:
        UserError: the home has a controller already, the port is taken, or something is damaged or not installed.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise UserError("a controller needs starlette and uvicorn: pip install 'manyhands[jobs]'.") from None
    umask = os.umask(0o077)  # what the controller writes is for its owner's eyes; jobs are launched with the user's own
    try:
        home.make()
        held = take(home.lock)
        if held is None:
            raise UserError(
                f"a controller runs on {home.path} already (process {signed_by(home.lock)}). `manyhands jobs` shows "
                "its jobs, `manyhands down` ends it; MANYHANDS_HOME names another place."
            )
        sign(held)
        home.address.unlink(missing_ok=True)
        try:
            with _listen(settings.port) as listener:
                asyncio.run(_serve(home, settings, listener, ready, umask))
        finally:
            home.address.unlink(missing_ok=True)
            os.close(held)
    finally:
        os.umask(umask)


async def _serve(
    home: Home, settings: Settings, listener: socket.socket, ready: Callable[[dict[str, Any]], None], umask: int
) -> None:
    import uvicorn

    from manyhands.jobs.controller.core.controller import Controller
    from manyhands.jobs.controller.storage.store import Store
    from manyhands.jobs.controller.web.api import application
    from manyhands.jobs.live import live_page

    store, token = Store(home.database), home.make_secret()
    nodes = _nodes(home, settings)
    hosts = settings.hosts if nodes is None else await nodes.start()
    books = _books(home, store, hosts, settings.cuda)
    controller = Controller(books, settings.policy, settings.shares, umask=umask)
    watchman = _watch(controller, nodes, hosts)
    ending = _Ending(controller)
    app = application(controller, token, live_page(), ending.down)
    options = uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=1)
    server = ending.server = uvicorn.Server(options)
    port = listener.getsockname()[1]
    working, serving = asyncio.create_task(controller.run()), asyncio.create_task(server.serve(sockets=[listener]))
    answers = asyncio.create_task(_answers(controller, port))
    await asyncio.wait({working, serving, answers}, return_when=asyncio.FIRST_COMPLETED)
    if answers.done() and not answers.exception():
        home.publish({"pid": os.getpid(), "port": port})
        url = f"http://127.0.0.1:{port}/#token={token}"
        ready({"pid": os.getpid(), "port": port, "url": url, "hosts": dict(hosts)})
        await asyncio.wait({working, serving}, return_when=asyncio.FIRST_COMPLETED)
    watchman.close()
    controller.close()
    server.should_exit = True
    await asyncio.wait({serving})
    listener.close()  # who waits for an answer, as we may ourselves, need not wait any longer
    answers.cancel()
    for found in await asyncio.gather(serving, working, answers, return_exceptions=True):
        if isinstance(found, Exception):
            raise found
    if nodes is not None:
        await nodes.close(ending.give_back)
    store.close()


def _nodes(home: Home, settings: Settings) -> RayNodes | None:
    """The nodes of a Ray cluster, if they are to be the hosts."""
    if not settings.ray:
        return None
    make_token(default_token())
    return RayNodes(settings.ray, home.namespace, settings.ray_slots, read_token(default_token()))


def _books(home: Home, store: Store, hosts: Mapping[str, int], cuda: bool) -> Books:
    """What is known at the start: the jobs of former controllers, and these hosts.

    Raises:
        UserError: the database cannot be read.
    """
    from manyhands.jobs.controller.core.books import Books
    from manyhands.jobs.controller.core.cluster import Cluster

    try:
        cluster = Cluster(store.slots(), cuda)
        cluster.become(hosts)
        for host in hosts:
            cluster.come(host)
        store.set([("slots", cluster.slots)])
        return Books.open(home, store, cluster)
    except sqlite3.Error as error:
        raise UserError(
            f"{home.database} cannot be used: {error}. Move it away to begin anew; no run is in it."
        ) from None


def _watch(controller: Controller, nodes: RayNodes | None, hosts: Mapping[str, int]) -> Watchman:
    """Watch the hosts, so that the controller knows which are there."""
    from manyhands.jobs.controller.processes.watchman import Watchman

    others = set(hosts) - {HERE}
    watchman = Watchman(read_token(default_token()) if others else b"", controller.host_changed)
    watchman.watch_only(others)
    if nodes is not None:

        def changed(hosts: dict[str, int]) -> None:
            controller.hosts_become(hosts)
            watchman.watch_only(set(hosts))

        nodes.follow(changed)
    return watchman


class _Ending:
    """Ends the server when a client asks for it.

    Attributes:
        give_back: whether nothing runs any more, so that what was lent is not needed.
    """

    server: uvicorn.Server

    def __init__(self, controller: Controller) -> None:
        self._controller, self.give_back = controller, False
        self._tasks: list[asyncio.Task[None]] = []

    async def down(self, leave: bool) -> None:
        """Begin to end; the answer to who asked for it comes first."""
        self._tasks.append(asyncio.create_task(self._end(leave)))

    async def _end(self, leave: bool) -> None:
        if not leave:
            await self._controller.rest()
            self.give_back = True
        self.server.should_exit = True


async def _answers(controller: Controller, port: int) -> None:
    """Wait until the controller has been around once, and answers: `up` says that it runs only if it does.

    Raises:
        UserError: the controller does not answer.
    """

    def ask() -> int:
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_SECONDS)
        try:
            link.request("GET", "/")
            return link.getresponse().status
        finally:
            link.close()

    await controller.begun.wait()
    try:
        status = await asyncio.to_thread(ask)
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"the controller does not answer on its own port {port}: {error}.") from None
    if status != http.HTTPStatus.OK:
        raise UserError(f"the controller answers on its own port {port} with {status}.")


def _listen(port: int | None) -> socket.socket:
    try:
        return socket.create_server(("127.0.0.1", PORT if port is None else port))
    except OSError as error:
        if port is None:
            return socket.create_server(("127.0.0.1", 0))
        raise UserError(f"cannot listen on port {port}: {error.strerror}. Leave out --port to take any.") from None
