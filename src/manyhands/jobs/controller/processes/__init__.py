"""Other processes, as the controller sees them: jobs' supervisors here, and agents on other hosts.

`gang.py` is a supervisor that lives, `command.py` what it is told, and `remains.py` what it leaves; `watchman.py` knows
which hosts have an agent that answers.
"""
