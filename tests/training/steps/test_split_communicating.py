"""A job that uses `torch.distributed` itself: the default process group is the job's, whatever the layout."""

EXACT = ("pp=2", "pp=2,dp=2,shard=1", "dp=2,shard=2", "dp=2,shard=3")
ROUNDED = "tp=2"


def test_the_default_process_group_is_the_jobs(gangs):
    found = gangs.splits([("communicating", layout, 5, None) for layout in (*EXACT, ROUNDED)])
    ended = {case[1]: outcome for case, outcome in found.items()}
    assert not {layout: ended[layout] for layout in EXACT if ended[layout].get("worst") != {}}
    assert ended[ROUNDED].get("weights", ended[ROUNDED]) < 1e-5
