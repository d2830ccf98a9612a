"""The nodes of the Ray cluster that this process has joined, and what is ours on them."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from manyhands.engine.ray.lender import Lender

_AGAIN_SECONDS = 10.0
"""Seconds between lenders of a node that do not live."""


class _Node:
    """What is ours on a node: a placement group that holds its slots, and the lender in it.

    Both are named after the node and live on without us, so that whoever comes next finds them.
    """

    def __init__(self, number: str, resources: Mapping[str, float], slots: int, token: str) -> None:
        self.slots = slots
        name = f"manyhands-{number}"
        self._group = _found(ray.util.get_placement_group, name) or _hold(name, resources, number)
        self._lender = _found(ray.get_actor, name) or _lend(name, resources, self._group, token)
        self._name, self._over = self._lender.name.remote(), self._lender.serve.remote()
        self.host = ""
        """The address of the node's agent; empty: nowhere yet."""

    def look(self) -> str:
        """See how the node's lender is. Returns why the lender is gone; empty if it lives, or may yet."""
        if ray.wait([self._over], timeout=0)[0]:
            try:
                ray.get(self._over)
            except ray.exceptions.ActorUnavailableError:  # nobody knows, yet
                self._over = self._lender.serve.remote()
            except ray.exceptions.RayError as error:
                return str(error).strip().splitlines()[-1]
            else:
                return "it has ended"
        elif not self.host and ray.wait([self._name], timeout=0)[0]:
            with contextlib.suppress(ray.exceptions.RayError):
                self.host = ray.get(self._name)
        return ""

    def remove(self) -> None:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(self._lender)
        ray.util.remove_placement_group(self._group)


def _found(find: Callable[[str], Any], name: str) -> Any:
    """What Ray knows by that name; None if there is no such thing."""
    try:
        return find(name)
    except ValueError:
        return None


def _hold(name: str, resources: Mapping[str, float], number: str) -> Any:
    """A placement group for these resources, on that node."""
    selector = [{"ray.io/node-id": number}]
    return placement_group([dict(resources)], name=name, lifetime="detached", bundle_label_selector=selector)


def _lend(name: str, resources: Mapping[str, float], group: Any, token: str) -> Any:
    """A lender that uses all of a placement group."""
    actor: Any = ray.remote(Lender).options(
        name=name,
        lifetime="detached",
        max_concurrency=4,
        num_cpus=resources.get("CPU", 0),
        num_gpus=resources.get("GPU", 0),
        scheduling_strategy=PlacementGroupSchedulingStrategy(group, 0),
    )
    return actor.remote(token)


class Nodes:
    """All nodes of the Ray cluster. `look` starts lenders on those that came, and forgets those that went."""

    def __init__(self, slots: int | None, token: str) -> None:
        self._most, self._token = slots, token
        self._nodes: dict[str, _Node] = {}
        self._lost: dict[str, str] = {}
        """Why the last lender of a node was lost."""
        self._again: dict[str, float] = {}
        """The time from which on a node may have another lender."""

    def look(self) -> bool:
        """Whether all nodes' agents are there."""
        there = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
        for number in set(self._nodes) - set(there):
            self._nodes.pop(number).remove()
        for number, node in list(self._nodes.items()):
            if reason := node.look():
                self._say(number, f"its agent is gone: {reason}")
                node.remove()
                del self._nodes[number]
                self._again[number] = time.monotonic() + _AGAIN_SECONDS
        for number, resources in there.items():
            if number in self._nodes or time.monotonic() < self._again.get(number, 0.0):
                continue
            if bundle := self._bundle(resources):
                self._nodes[number] = _Node(number, bundle, int(bundle.get("GPU") or bundle["CPU"]), self._token)
        return all(node.host for node in self._nodes.values())

    @property
    def hosts(self) -> dict[str, int]:
        return {node.host: node.slots for node in self._nodes.values() if node.host}

    def why_none(self) -> str:
        """Why there are no hosts."""
        if self._lost:
            return "; ".join(f"node {number[:8]}: {text}" for number, text in self._lost.items())
        if self._nodes:
            return f"{len(self._nodes)} node(s), whose slots others have"
        return "no node has CPUs or GPUs"

    def remove(self) -> None:
        for node in self._nodes.values():
            node.remove()

    def _bundle(self, resources: Mapping[str, float]) -> dict[str, float]:
        """What to hold of a node that has this: its GPUs, else its CPUs."""
        kind = "GPU" if resources.get("GPU", 0) >= 1 else "CPU"
        count = int(min(resources.get(kind, 0), self._most or resources.get(kind, 0)))
        return {kind: count} if count else {}

    def _say(self, number: str, text: str) -> None:
        if self._lost.get(number) != text:
            sys.stderr.write(f"manyhands: Ray node {number[:8]}: {text}\n")
        self._lost[number] = text
