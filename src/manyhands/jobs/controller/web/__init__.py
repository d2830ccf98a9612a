"""The controller as a server: its process, the API that it serves over HTTP, and the client of that.

`start.py` starts the process in the background, which is `serve.py`; `api.py` is what it answers, `door.py` says who is
let in, and `client.py` is how commands ask.
"""
