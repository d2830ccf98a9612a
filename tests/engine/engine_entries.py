"""Entries for the tests of the local engine: loaded in the template, and what its workers do."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace

from manyhands.engine import Loaded
from manyhands.errors import UsageError, UserError


def obedient(spec, place):
    """Workers that do what they are told by messages until told to end."""
    return Loaded(facts={"spec": spec, "template": os.getpid()}), lambda channel, worker: _obey(channel, worker, spec)


def _obey(channel, worker, spec):
    channel.send({"say": "hello", "worker": worker, "pid": os.getpid(), "parent": os.getppid()})
    links = []
    while (received := channel.receive()) is not None:
        message, descriptors = received
        match message.get("do"):
            case "print":
                print(message["text"] * message.get("times", 1), end="", flush=True)
            case "error":
                print(message["text"], file=sys.stderr)
            case "say":
                for index in range(message["times"]):
                    channel.send({"say": index})
            case "raise":
                raise RuntimeError(message["text"])
            case "exit":
                sys.exit(message["code"])
            case "return":
                return
            case "signal":
                signal.signal(message["number"], signal.SIG_DFL)
                os.kill(os.getpid(), message["number"])
            case "link":
                links = [socket.socket(fileno=descriptor) for descriptor in descriptors]
                for link in links:
                    link.send(json.dumps([worker, message["rank"]]).encode())
                heard = [json.loads(link.recv(100)) for link in links]
                channel.send({"say": "heard", "heard": heard})
            case "inherited":
                os.write(spec["pipe"], f"from {worker}".encode())
            case "traced":
                import faulthandler

                faulthandler.register(signal.SIGUSR1, all_threads=True)
                channel.send({"say": "ready for stacks"})
            case "leave":
                channel.send({"say": "left", "pids": _leave(message["how"])})
            case "babble":
                subprocess.Popen(["yes"])
            case "close":
                channel.close()
                time.sleep(600)


def _leave(how):
    """Start a process that nobody ends."""
    if how == "program":
        return [subprocess.Popen(["sleep", "600"]).pid]
    if how == "session":
        return [subprocess.Popen(["sleep", "600"], start_new_session=True).pid]
    read, write = os.pipe()
    if os.fork() == 0:
        if how == "daemon":
            os.setsid()
            if os.fork():
                os._exit(0)
        os.write(write, str(os.getpid()).encode())
        time.sleep(600)
    return [int(os.read(read, 100))]


def orders(spec, place):
    return Loaded(facts={"order": list({"a", "b", "c", "d", "e", "f", "g"})}), lambda channel, worker: None


def refuses(spec, place):
    raise (UsageError if spec["usage"] else UserError)("this entry refuses: use another")


def breaks(spec, place):
    raise ZeroDivisionError("an entry with a fault")


def exits(spec, place):
    print("usage: an entry [-h]", flush=True)
    sys.exit(spec["code"])


def loads_for_ever(spec, place):
    print("loading", os.getpid(), flush=True)
    time.sleep(600)


def vanishes(spec, place):
    os._exit(7)


def refuses_elsewhere(spec, place):
    if place.slots is None:
        raise UserError("this entry refuses: use another")
    return obedient(spec, place)


def unlike_elsewhere(spec, place):
    loaded, main = obedient(spec, place)
    return replace(loaded, alike={"torch's version": "1.0" if place.slots else "2.0"}), main
