"""Throughput-optimal packings of trees for any cluster, with a certificate."""

from manyhands.collective.packing.certificate import Certificate
from manyhands.collective.packing.packed import Packed, packed

__all__ = ["Certificate", "Packed", "packed"]
