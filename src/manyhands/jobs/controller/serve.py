"""The controller's process: takes the home, serves the API, and says when it is ready or why it is not.

`manyhands up` starts it in the background (`start`) or is it (`serve`).
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from manyhands.engine import HERE
from manyhands.engine.hosts import default_token, make_token, read_token
from manyhands.engine.ray import RayNodes
from manyhands.errors import UsageError, UserError
from manyhands.jobs.controller.home import Home
from manyhands.run.lock import sign, signed_by, take

PORT = 7420
"""Where the page is, if nothing else is there."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of a controller."""

    hosts: dict[str, int]
    """Slots, by host."""
    ray: str = ""
    """The address of a Ray cluster whose nodes are the hosts instead."""
    ray_slots: int | None = None
    """Of each of its nodes at most."""
    cuda: bool = False
    policy: str = "priority+elastic+consolidate"
    shares: dict[str, float] = field(default_factory=dict)
    port: int | None = None
    """None: `PORT`, or any if that is taken."""


def serve(home: Home, settings: Settings, ready: Callable[[dict[str, Any]], None]) -> None:
    """Be the controller of a home until told otherwise.

    Args:
        ready: called with `pid`, `port`, `url` and `hosts` once it answers.

    Raises:
        UserError: another is, a port is taken, or something is not installed.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise UserError("a controller needs starlette and uvicorn: pip install 'manyhands[jobs]'.") from None
    home.path.mkdir(parents=True, exist_ok=True)
    held = take(home.lock)
    if held is None:
        raise UserError(
            f"a controller runs on {home.path} already (process {signed_by(home.lock)}). `manyhands jobs` shows its "
            "jobs, `manyhands down` ends it; MANYHANDS_HOME names another place."
        )
    sign(held)
    home.address.unlink(missing_ok=True)
    with _listen(settings.port) as listener:
        asyncio.run(_serve(home, settings, listener, ready))
    home.address.unlink(missing_ok=True)
    os.close(held)


async def _serve(
    home: Home, settings: Settings, listener: socket.socket, ready: Callable[[dict[str, Any]], None]
) -> None:
    import uvicorn

    from manyhands.jobs.controller.api import application
    from manyhands.jobs.controller.books import Books
    from manyhands.jobs.controller.cluster import Cluster
    from manyhands.jobs.controller.controller import Controller
    from manyhands.jobs.controller.store import Store
    from manyhands.jobs.controller.watchman import Watchman
    from manyhands.jobs.live import live_page

    store, token = Store(home.database), home.make_secret()
    nodes, hosts = None, settings.hosts
    if settings.ray:
        make_token(default_token())
        nodes = RayNodes(settings.ray, home.namespace, settings.ray_slots, read_token(default_token()))
        hosts = await nodes.start()
    cluster = Cluster(store.slots(), settings.cuda)
    cluster.become(hosts)
    for host in hosts:
        cluster.come(host)
    store.set([("slots", cluster.slots)])
    controller = Controller(Books.open(home, store, cluster), settings.policy, settings.shares)
    watchman = Watchman(read_token(default_token()) if set(hosts) - {HERE} else b"", controller.host_changed)
    watchman.watch_only(set(hosts) - {HERE})
    if nodes is not None:

        def changed(hosts: dict[str, int]) -> None:
            controller.hosts_become(hosts)
            watchman.watch_only(set(hosts))

        nodes.follow(changed)
    give_back = False
    ending: list[asyncio.Task[None]] = []

    async def down(leave: bool) -> None:
        async def end() -> None:
            nonlocal give_back
            if not leave:
                await controller.rest()
                give_back = True
            server.should_exit = True

        ending.append(asyncio.create_task(end()))

    server = uvicorn.Server(
        uvicorn.Config(
            application(controller, token, live_page(), down),
            log_level="warning",
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
    )
    port = listener.getsockname()[1]
    address = {"pid": os.getpid(), "port": port, "url": f"http://127.0.0.1:{port}/#token={token}"}
    home.publish({name: address[name] for name in ("pid", "port")})
    ready(address | {"hosts": dict(hosts)})
    working, serving = asyncio.create_task(controller.run()), asyncio.create_task(server.serve(sockets=[listener]))
    await asyncio.wait({working, serving}, return_when=asyncio.FIRST_COMPLETED)
    watchman.close()
    controller.close()
    server.should_exit = True
    await serving
    await working
    if nodes is not None:
        await nodes.close(give_back)
    store.close()


def _listen(port: int | None) -> socket.socket:
    try:
        return socket.create_server(("127.0.0.1", PORT if port is None else port))
    except OSError as error:
        if port is None:
            return socket.create_server(("127.0.0.1", 0))
        raise UserError(f"cannot listen on port {port}: {error.strerror}. Leave out --port to take any.") from None


def start(home: Home, settings: Settings) -> dict[str, Any]:
    """Start a controller in the background. Returns its `pid`, `port`, `url` and `hosts` once it answers.

    Raises:
        UserError: it cannot run; the text says why.
    """
    home.path.mkdir(parents=True, exist_ok=True)
    heard, say = os.pipe()
    with home.log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "manyhands.jobs.controller", str(home.path), json.dumps(asdict(settings)), str(say)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(say,),
            start_new_session=True,
        )
    os.close(say)
    with os.fdopen(heard) as answers:
        try:
            answer = json.loads(answers.read() or "{}")
        except KeyboardInterrupt:
            process.terminate()
            raise
    if "error" in answer:
        process.wait()
        raise (UsageError if answer["usage"] else UserError)(answer["error"])
    if not answer:
        raise UserError(f"the controller ended with code {process.wait()}. What it said is in {home.log}.")
    return answer


def main(arguments: list[str]) -> int:
    """What `start` starts."""
    home, settings, say = Home(Path(arguments[0])), Settings(**json.loads(arguments[1])), int(arguments[2])

    def answer(found: dict[str, Any]) -> None:
        os.write(say, json.dumps(found).encode())
        os.close(say)

    try:
        serve(home, settings, answer)
    except UserError as error:
        sys.stderr.write(f"manyhands: {error}\n")
        try:
            answer({"error": str(error), "usage": isinstance(error, UsageError)})
        except OSError:
            pass  # it has said that it was ready
        return 1
    return 0
