"""One execution of a job, as a directory from which everything can be resumed or explained. No torch here."""

from manyhands.run.checkpoint import Checkpoint, forget_after, newest_checkpoint, prune, verify, write_checkpoint
from manyhands.run.commands import (
    ANSWERS,
    COMMANDS,
    Answer,
    Command,
    Done,
    Process,
    Refused,
    Resize,
    ShareSlots,
    Show,
    Status,
    Stop,
    Watch,
)
from manyhands.run.directory import RunDirectory, new_directory, read_json, write_json
from manyhands.run.journal import Journal, read_journal
from manyhands.run.tracker import JsonLines, TensorBoard, Tracker

__all__ = [
    "ANSWERS",
    "COMMANDS",
    "Answer",
    "Checkpoint",
    "Command",
    "Done",
    "Journal",
    "JsonLines",
    "Process",
    "Refused",
    "Resize",
    "RunDirectory",
    "ShareSlots",
    "Show",
    "Status",
    "Stop",
    "TensorBoard",
    "Tracker",
    "Watch",
    "new_directory",
    "forget_after",
    "newest_checkpoint",
    "prune",
    "read_journal",
    "read_json",
    "verify",
    "write_checkpoint",
    "write_json",
]
