"""Schedules in the formats of others: MSCCL XML in and out, Chakra execution traces out."""

from manyhands.collective.formats.chakra import chakra_traces
from manyhands.collective.formats.msccl import to_msccl
from manyhands.collective.formats.msccl_read import MscclAlgorithm, read_msccl

__all__ = ["MscclAlgorithm", "chakra_traces", "read_msccl", "to_msccl"]
