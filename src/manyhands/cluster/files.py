"""Clusters as TOML files.

    name = "office"
    nodes = [
      { name = "h0", kind = "host" },
      { name = "switch", kind = "switch" },
    ]
    links = [
      { between = ["h0", "switch"], bandwidth = "25 MB/s", latency = "50 us", kind = "ethernet" },
    ]

`between` stands for a link in each direction, `from` and `to` for one. Bandwidths are bytes/s or text with a unit,
latencies seconds or text with a unit. The other keys are those of `Node` and `Link`. What is written is read back as
the same cluster, and writing it again gives the same text.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any, NamedTuple, get_args

from manyhands.cluster.cluster import Cluster, Kind, Link, Node
from manyhands.cluster.units import format_bandwidth, format_latency, parse_bandwidth, parse_latency
from manyhands.errors import UserError

_NODE_KEYS = {"name": str, "kind": str, "host": str, "adds": bool, "copies": bool}
_LINK_KEYS = {"between": list, "from": str, "to": str, "bandwidth": object, "latency": object, "kind": str, "rail": str}


class _Entry(NamedTuple):
    """A table of the file, and how to name it in an error."""

    where: str
    table: dict[str, Any]

    def fail(self, what: str) -> UserError:
        return UserError(f"{self.where}: {what}")

    def need(self, key: str, remedy: str) -> Any:
        if key not in self.table:
            raise self.fail(f"{key} is missing. {remedy}")
        return self.table[key]


def read_toml(path: str | Path) -> Cluster:
    """The cluster that a file describes.

    Raises:
        UserError: the file cannot be read, or says something that is not a cluster.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the cluster file {path}: {error}") from None
    return parse_toml(text, source=str(path))


def parse_toml(text: str, *, source: str = "cluster") -> Cluster:
    """The cluster that a text describes; `source` is what errors call it.

    Raises:
        UserError: the text is not TOML or not a cluster.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{source} is not TOML: {error}.") from None
    top = _Entry(source, document)
    _check_keys(top, {"name": str, "nodes": list, "links": list})
    top.need("nodes", 'Add nodes = [ { name = "h0", kind = "host" }, ... ].')
    nodes = [_node(entry) for entry in _entries(top, "nodes")]
    links = [link for entry in _entries(top, "links") for link in _links(entry)]
    try:
        return Cluster(name=document.get("name", Path(source).stem), nodes=tuple(nodes), links=tuple(links))
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def _entries(top: _Entry, key: str) -> list[_Entry]:
    entries = []
    for index, table in enumerate(top.table.get(key, [])):
        where = f"{top.where}: {key}[{index}]"
        if not isinstance(table, dict):
            raise UserError(f"{where} is {table!r}. It must be a table, {{ key = value, ... }}.")
        entries.append(_Entry(where, table))
    return entries


def _check_keys(entry: _Entry, known: dict[str, type]) -> None:
    for key, value in entry.table.items():
        if key not in known:
            raise entry.fail(f"there is no key {key}. Keys: {', '.join(known)}.")
        if not isinstance(value, known[key]):
            raise entry.fail(f"{key} = {value!r} must be of type {_TYPE_NAMES[known[key]]}.")


_TYPE_NAMES = {str: "text", bool: "true or false", list: "array", object: "anything"}


def _node(entry: _Entry) -> Node:
    _check_keys(entry, _NODE_KEYS)
    entry.need("name", "Every node has a name.")
    kind = entry.need("kind", f"Kinds: {', '.join(get_args(Kind))}.")
    if kind not in get_args(Kind):
        raise entry.fail(f"there is no kind {kind!r}. Kinds: {', '.join(get_args(Kind))}.")
    return Node(**entry.table)


def _links(entry: _Entry) -> list[Link]:
    """One link, or the two of a `between`."""
    _check_keys(entry, _LINK_KEYS)
    ends = entry.table.get("between")
    if ends is not None:
        if "from" in entry.table or "to" in entry.table:
            raise entry.fail("between excludes from and to. Keep one of the two.")
        if len(ends) != 2 or not all(isinstance(end, str) for end in ends):
            raise entry.fail(f"between = {ends!r} must be two names of nodes.")
    else:
        remedy = 'Give from = "A", to = "B", or between = ["A", "B"] for both directions.'
        ends = [entry.need("from", remedy), entry.need("to", remedy)]
    properties = {key: entry.table[key] for key in ("kind", "rail") if key in entry.table}
    try:
        properties["bandwidth"] = parse_bandwidth(entry.need("bandwidth", 'For example bandwidth = "25 MB/s".'))
        properties["latency"] = parse_latency(entry.table.get("latency", 0))
    except UserError as error:
        raise error if str(error).startswith(entry.where) else entry.fail(str(error)) from None
    directions = [ends, ends[::-1]] if "between" in entry.table else [ends]
    return [Link(source=source, target=target, **properties) for source, target in directions]


def write_toml(cluster: Cluster, path: str | Path) -> None:
    """Write the cluster as a file that `read_toml` reads back."""
    Path(path).write_text(format_toml(cluster), encoding="utf-8")


def format_toml(cluster: Cluster) -> str:
    """The cluster as TOML, stable and exact."""
    nodes = [_table(_node_fields(node)) for node in cluster.nodes]
    links = [_table(fields) for fields in _link_tables(cluster.links)]
    return f"name = {_string(cluster.name)}\n{_array('nodes', nodes)}{_array('links', links)}"


def _node_fields(node: Node) -> dict[str, str]:
    fields = {"name": _string(node.name), "kind": _string(node.kind)}
    if node.host:
        fields["host"] = _string(node.host)
    for key, value in (("adds", node.adds), ("copies", node.copies)):
        if value is not None:
            fields[key] = str(value).lower()
    return fields


def _link_tables(links: tuple[Link, ...]) -> list[dict[str, str]]:
    """A link and its mirror image, where it follows at once, become one `between`."""
    tables, index = [], 0
    while index < len(links):
        link = links[index]
        mirror = links[index + 1] if index + 1 < len(links) else None
        both = mirror is not None and _mirrored(link, mirror)
        ends = (
            {"between": f"[{_string(link.source)}, {_string(link.target)}]"}
            if both
            else {"from": _string(link.source), "to": _string(link.target)}
        )
        tables.append(ends | _link_fields(link))
        index += 2 if both else 1
    return tables


def _mirrored(a: Link, b: Link) -> bool:
    return (a.source, a.target) == (b.target, b.source) and _link_fields(a) == _link_fields(b)


def _link_fields(link: Link) -> dict[str, str]:
    fields = {"bandwidth": _string(format_bandwidth(link.bandwidth))}
    if link.latency:
        fields["latency"] = _string(format_latency(link.latency))
    if link.kind:
        fields["kind"] = _string(link.kind)
    if link.rail:
        fields["rail"] = _string(link.rail)
    return fields


def _string(text: str) -> str:
    """A basic string; TOML shares JSON's escapes, but also wants DEL escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _table(fields: dict[str, str]) -> str:
    return "{ " + ", ".join(f"{key} = {value}" for key, value in fields.items()) + " }"


def _array(key: str, rows: list[str]) -> str:
    return f"{key} = [\n" + "".join(f"  {row},\n" for row in rows) + "]\n" if rows else f"{key} = []\n"
