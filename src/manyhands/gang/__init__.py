"""What a supervisor and the members of its gang say to each other, and what a gang is. No torch."""

from manyhands.gang.facts import SPEC, Facts, Probing, Spec
from manyhands.gang.kind import Kind
from manyhands.gang.member import Member, Phase
from manyhands.gang.orders import ORDERS, Kept, Order, Turn
from manyhands.gang.reports import REPORTS, PartRow, Report, StepRow, read_rows, write_rows

__all__ = [
    "ORDERS",
    "REPORTS",
    "SPEC",
    "Facts",
    "Kept",
    "Kind",
    "Member",
    "Order",
    "PartRow",
    "Phase",
    "Probing",
    "Report",
    "Spec",
    "StepRow",
    "Turn",
    "read_rows",
    "write_rows",
]
