"""The report of a run, as one self-contained page. No torch here."""

from manyhands.report.write import write_report

__all__ = ["write_report"]
