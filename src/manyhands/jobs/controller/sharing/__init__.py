"""Two jobs on the same slots: whether they fit and how they go together, which nobody knows before it was tried.

`sharing.py` keeps what is known of pairs, `trial.py` finds it out, `memory.py` says how much of the machine a job uses,
and `slot_files.py` has the files by which jobs take turns.
"""
