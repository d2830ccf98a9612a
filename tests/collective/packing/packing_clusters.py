"""Clusters to pack trees into: well-known ones, written out here, and random ones."""

from hypothesis import strategies as st

from manyhands.cluster import Cluster, Link, Node

DOUBLE = [(0, 3), (0, 4), (1, 2), (1, 5), (2, 3), (4, 7), (5, 6), (6, 7)]
SINGLE = [(0, 1), (0, 2), (1, 3), (2, 6), (3, 7), (4, 5), (4, 6), (5, 7)]
NVLINK = 23 * 10**9


def both(u, v, bandwidth, rail=""):
    """A link in each direction."""
    return [Link(source=a, target=b, bandwidth=bandwidth, rail=rail) for a, b in ((u, v), (v, u))]


def undirected(count, edges, kind="device"):
    """Ranks 0 ... count - 1 and links (u, v, bandwidth) both ways."""
    nodes = tuple(Node(name=str(i), kind=kind) for i in range(count))
    return Cluster(name="test", nodes=nodes, links=tuple(link for u, v, w in edges for link in both(str(u), str(v), w)))


def dgx1v(ranks=range(8)):
    """The NVLinks of a DGX-1 with V100 GPUs: a hybrid cube mesh, six links a GPU."""
    edges = [(u, v, 2 * NVLINK) for u, v in DOUBLE] + [(u, v, NVLINK) for u, v in SINGLE]
    return undirected(8, edges).subset([str(rank) for rank in ranks])


def a100_boxes(boxes):
    """Boxes of 8 GPUs behind one NVSwitch (300 GB/s each), a 25 GB/s card each, one switch between the boxes."""
    nodes, links = [Node(name="ib", kind="switch")], []
    for box in range(boxes):
        host, switch = f"box{box}", f"nvswitch{box}"
        nodes.append(Node(name=switch, kind="switch", host=host))
        for i in range(8):
            gpu, card = f"gpu{box}.{i}", f"nic{box}.{i}"
            nodes += [Node(name=gpu, kind="device", host=host), Node(name=card, kind="switch", host=host)]
            links += both(gpu, switch, 300 * 10**9) + both(gpu, card, 25 * 10**9) + both(card, "ib", 25 * 10**9)
    return Cluster(name=f"{boxes} boxes", nodes=tuple(nodes), links=tuple(links))


# Small ones with many ties, round ones, and measured ones: large, without common divisor, some six digits apart.
BANDWIDTHS = [
    st.integers(1, 6),
    st.sampled_from([100, 250, 1000]),
    st.integers(10**4, 10**6).map(lambda x: 9973 * x + x % 7),
]


@st.composite
def clusters(draw, most_ranks=5, most_switches=2, duplex=None):
    """Connected clusters of hosts and switches; some with links of unequal directions, some with rails."""
    ranks, switches = draw(st.integers(2, most_ranks)), draw(st.integers(0, most_switches))
    duplex = draw(st.booleans()) if duplex is None else duplex
    bandwidths = draw(st.sampled_from(BANDWIDTHS))
    names = [f"h{i}" for i in range(ranks)] + [f"s{i}" for i in range(switches)]
    order = draw(st.permutations(names))
    pairs = [(order[i], order[draw(st.integers(0, i - 1))]) for i in range(1, len(order))]
    everything = [(u, v) for i, u in enumerate(names) for v in names[:i]]
    pairs = dict.fromkeys(
        tuple(sorted(pair)) for pair in pairs + draw(st.lists(st.sampled_from(everything), max_size=6))
    )
    links = []
    for u, v in pairs:
        for rail in ["", "1"] if draw(st.integers(0, 5)) == 0 and not (u[0] == v[0] == "s") else [""]:
            forward = draw(bandwidths)
            backward = forward if duplex else draw(bandwidths)
            links.append(Link(source=u, target=v, bandwidth=forward, rail=rail))
            links.append(Link(source=v, target=u, bandwidth=backward, rail=rail))
    nodes = tuple(Node(name=name, kind="host" if name[0] == "h" else "switch") for name in names)
    return Cluster(name="random", nodes=nodes, links=tuple(links))
