"""What is kept: the controller's files, and the jobs in its database.

`home.py` says where everything is, and `secret.py` keeps the token. A job is a `record.py`, made of a `submission.py`;
`store.py` is the database, `rows.py` a job as a row of it, `holdings.py` who has which slots.
"""
