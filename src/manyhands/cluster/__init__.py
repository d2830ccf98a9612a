"""What there is to compute on: nodes and links, as presets, files, or measured."""

from manyhands.cluster.cluster import Cluster, Kind, Link, Node

__all__ = ["Cluster", "Kind", "Link", "Node"]
