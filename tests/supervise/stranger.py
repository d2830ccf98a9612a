"""Somebody without the token who tries every door: as a client of torch's store, and as a worker with a secret of its
own. Prints what it got, one line of JSON.

    stranger.py ADDRESS:PORT...
"""

import contextlib
import datetime
import json
import sys

import torch.distributed as dist

from manyhands.engine.hosts.line import LineLostError, dial

SECONDS = datetime.timedelta(seconds=3)


def as_store(address: str, port: int) -> list[str]:
    """The keys that a store there hands out."""
    try:
        store = dist.TCPStore(address, port, None, False, SECONDS, wait_for_workers=False)
        return store.list_keys()
    except Exception:  # torch's own classes differ between versions
        return []


def as_worker(address: str, port: int) -> bool:
    """Whether it is let in."""
    with contextlib.suppress(LineLostError):
        dial((address, port), b"a token of a stranger's own", 3.0).close()
        return True
    return False


got = []
for door in sys.argv[1:]:
    address, port = door.rsplit(":", 1)
    got.append([door, as_store(address, int(port)), as_worker(address, int(port))])
print(json.dumps(got), flush=True)
