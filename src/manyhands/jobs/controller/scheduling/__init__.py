"""What the controller decides, without clock, process or file.

`moment.py` shows jobs to a policy and takes its decisions as targets, `orders.py` says what is to be done about targets
now, and `ending.py` what becomes of a job whose supervisor is gone.
"""
