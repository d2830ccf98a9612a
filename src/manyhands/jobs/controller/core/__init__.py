"""The state machine that runs the jobs: one loop, which whatever happens wakes.

`controller.py` is the loop and `bell.py` wakes it. `books.py` is all that is known, of hosts in `cluster.py`;
`requests.py` writes down what clients ask for, `gangs.py` does what was decided, and `show.py` says how things stand.
"""
