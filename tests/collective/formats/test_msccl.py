"""Forests go to MSCCL XML and come back as proved programs; files of other tools are read, bad ones refused."""

import re
from fractions import Fraction
from xml.etree import ElementTree

import pytest
from clusters import clusters, star_cluster
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from manyhands.collective.algorithms import ALGORITHMS, helper_hosts, ring, star
from manyhands.collective.forest import Edge, Forest, Tree
from manyhands.collective.formats import read_msccl, to_msccl
from manyhands.collective.formats.msccl import MOST_COUNT, chunk_counts
from manyhands.collective.program import Op, Program
from manyhands.collective.verify_programs import InvalidProgram, verify_programs
from manyhands.errors import UserError

OPERATIONS = ("all_reduce", "reduce_scatter", "all_gather", "broadcast", "reduce")


@settings(max_examples=150)
@given(data=st.data())
def test_round_trip(data):
    cluster = data.draw(clusters(most=6))
    operation = data.draw(st.sampled_from(OPERATIONS))
    try:
        forest = ALGORITHMS[data.draw(st.sampled_from(list(ALGORITHMS)))](cluster, operation)
    except UserError:
        assume(False)
    assume(not forest.helpers)
    channels, most = data.draw(st.integers(1, 3)), data.draw(st.sampled_from([7, 60, 1024]))
    algorithm = read_msccl(to_msccl(forest, channels=channels, most_chunks=most))
    assert (algorithm.operation, len(algorithm.programs)) == (operation, len(forest.members))
    root = forest.rank[forest.trees[0].root]
    verify_programs(algorithm.programs, operation, root=root)
    verify_programs(algorithm.scaled(5 * algorithm.chunks), operation, root=root)


def run(programs: tuple[Program, ...], data: list[list[float]]) -> list[list[float]]:
    """Carry programs out on numbers, in place."""
    buffers = [[list(row), *([0.0] * size for size in p.sizes[1:])] for p, row in zip(programs, data, strict=True)]
    channels: dict = {}
    at = [0] * len(programs)
    while any(i < len(p.instructions) for i, p in zip(at, programs, strict=True)):
        for rank, program in enumerate(programs):
            while at[rank] < len(program.instructions):
                step = program.instructions[at[rank]]

                def get(place, rank=rank, step=step):
                    return buffers[rank][place.buffer][place.start : place.start + step.count]

                if step.op == Op.SEND:
                    channels.setdefault((rank, step.peer, step.rail), []).append(get(step.left))
                else:
                    value = get(step.left) if step.left else None
                    if step.op in (Op.RECEIVE, Op.RECEIVE_ADD):
                        queue = channels.get((step.peer, rank, step.rail))
                        if not queue:
                            break
                        came = queue.pop(0)
                        value = came if step.op == Op.RECEIVE else [a + b for a, b in zip(value, came, strict=True)]
                    elif step.op == Op.ADD:
                        value = [a + b for a, b in zip(value, get(step.right), strict=True)]
                    buffers[rank][step.target.buffer][step.target.start : step.target.start + step.count] = value
                at[rank] += 1
    return [rows[p.output] for p, rows in zip(programs, buffers, strict=True)]


@pytest.mark.parametrize("name", ["ring", "star", "double_binary_tree", "halving_doubling"])
def test_it_adds_up(name):
    algorithm = read_msccl(to_msccl(ALGORITHMS[name](star_cluster(5))))
    data = [[float(100 * rank + i) for i in range(3 * algorithm.chunks)] for rank in range(5)]
    results = run(algorithm.scaled(3 * algorithm.chunks), data)
    assert results == [[sum(column) for column in zip(*data, strict=True)]] * 5


def test_what_is_written():
    root = ElementTree.fromstring(to_msccl(ring(star_cluster(4))))
    assert root.attrib["coll"] == "allreduce" and root.attrib["nchunksperloop"] == "4" and root.attrib["ngpus"] == "4"
    for gpu in root.iter("gpu"):
        assert (gpu.attrib["i_chunks"], gpu.attrib["o_chunks"], gpu.attrib["s_chunks"]) == ("4", "0", "0")
        blocks = list(gpu.iter("tb"))
        assert [int(tb.attrib["id"]) for tb in blocks] == list(range(len(blocks)))
        assert len({(tb.attrib["send"], tb.attrib["recv"], tb.attrib["chan"]) for tb in blocks}) == len(blocks)
        named = {(s.attrib["depid"], s.attrib["deps"]) for s in gpu.iter("step")} - {("-1", "-1")}
        marked = {
            (tb.attrib["id"], s.attrib["s"]) for tb in blocks for s in tb.iter("step") if s.attrib["hasdep"] == "1"
        }
        assert named == marked
    # 4 shares, each sent on 3 times to be added up and 3 times to be handed out.
    assert len(list(root.iter("step"))) == 2 * 4 * (3 + 3)


def test_long_counts_are_split_and_long_blocks_spread():
    share = Fraction(1, 2)
    pair = [Tree(share, root, (Edge(other, root),), (Edge(root, other),)) for root, other in (("a", "b"), ("b", "a"))]
    uneven = (
        Tree(Fraction(1, 1000), "a", pair[0].reduce, pair[0].broadcast),
        Tree(Fraction(999, 1000), "b", pair[1].reduce, pair[1].broadcast),
    )
    text = to_msccl(Forest("uneven", "all_reduce", ("a", "b"), uneven))
    assert max(int(count) for count in re.findall(r'cnt="(\d+)"', text)) == MOST_COUNT
    read_msccl(text).verify()
    many = Forest("many", "all_reduce", ("a", "b"), tuple(Tree(share / 200, *tree[1:]) for tree in _fields(pair * 200)))
    text = to_msccl(many)
    assert int(re.search(r'nchannels="(\d+)"', text)[1]) > 1
    steps = [len(list(tb.iter("step"))) for tb in ElementTree.fromstring(text).iter("tb")]
    assert max(steps) <= 256
    read_msccl(text).verify()


def _fields(trees: list[Tree]) -> list[tuple]:
    return [(tree.share, tree.root, tree.reduce, tree.broadcast) for tree in trees]


@settings(max_examples=100)
@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=9), st.sampled_from([4, 10, 1024]))
def test_rounded_shares(weights, most):
    total = sum(weights)
    trees = tuple(Tree(Fraction(weight, total), "a") for weight in weights)
    counts = chunk_counts(Forest("x", "all_reduce", ("a",), trees), most)
    assert min(counts) >= 0 and (sum(counts) == most or sum(counts) < most)
    for tree, count in zip(trees, counts, strict=True):
        assert abs(count - tree.share * sum(counts)) < 1


def test_helpers_have_no_place():
    with pytest.raises(UserError, match="MSCCL has no helpers, but helper0 take part"):
        to_msccl(helper_hosts(star_cluster(3, helpers=1)))


# Files in the shape of MSCCLang's output: fused steps, several channels, scratch, `re` and `nop`.


def step(number: int, kind: str, source: tuple, target: tuple, depends: tuple = (-1, -1), has: int = 0, count: int = 1):
    return (
        f'<step s="{number}" type="{kind}" srcbuf="{source[0]}" srcoff="{source[1]}" dstbuf="{target[0]}" '
        f'dstoff="{target[1]}" cnt="{count}" depid="{depends[0]}" deps="{depends[1]}" hasdep="{has}"/>'
    )


def fused_ring(n: int, channels: int) -> str:
    """Chunk c of channel h starts at rank c, is added up around the ring and then copied around it."""
    gpus = []
    for rank in range(n):
        blocks = []
        for channel in range(channels):
            steps = []
            for hop in range(2 * n - 1):
                chunk = ("i", channel + channels * ((rank - hop) % n))
                kind = "s" if hop == 0 else "rrs" if hop < n - 1 else "rrcs" if hop == n - 1 else "rcs"
                kind = "r" if hop == 2 * n - 2 else kind
                steps.append(step(hop, kind, chunk, chunk))
            blocks.append(f'<tb id="{channel}" send="{(rank + 1) % n}" recv="{(rank - 1) % n}" chan="{channel}">')
            blocks.append("".join(steps) + "</tb>")
        chunks = n * channels
        gpus.append(f'<gpu id="{rank}" i_chunks="{chunks}" o_chunks="0" s_chunks="0">{"".join(blocks)}</gpu>')
    return algo("allreduce", n, n * channels, channels, "".join(gpus))


def algo(coll: str, n: int, chunks: int, channels: int, content: str, inplace: int = 1) -> str:
    return (
        f'<algo name="sample" proto="LL128" nchannels="{channels}" nchunksperloop="{chunks}" ngpus="{n}" '
        f'coll="{coll}" inplace="{inplace}">{content}</algo>'
    )


def all_pairs(n: int) -> str:
    """Everybody sends chunk c to rank c's scratch, rank c adds up with `re` and sends the sum to all."""
    gpus = []
    for rank in range(n):
        others = [peer for peer in range(n) if peer != rank]
        slot = {peer: peer if peer < rank else peer - 1 for peer in others}
        blocks, adder = [], n - 1
        for number, peer in enumerate(others):
            theirs = rank if rank < peer else rank - 1
            blocks.append(
                f'<tb id="{number}" send="{peer}" recv="{peer}" chan="0">'
                + step(0, "s", ("i", peer), ("s", theirs))
                + step(1, "r", ("i", rank), ("s", slot[peer]), has=1)
                + step(2, "s", ("i", rank), ("i", rank), (adder, 2 * n - 4))
                + step(3, "r", ("i", peer), ("i", peer))
                + "</tb>"
            )
        adds = []
        for number, peer in enumerate(others[1:], start=1):
            adds.append(step(len(adds), "nop", ("i", -1), ("o", -1), (number, 1), count=0))
            adds.append(step(len(adds), "re", ("s", slot[peer]), ("i", rank)))
        adds.append(step(len(adds), "re", ("s", slot[others[0]]), ("i", rank), (0, 1), has=1))
        blocks.append(f'<tb id="{adder}" send="-1" recv="-1" chan="0">{"".join(adds)}</tb>')
        gpus.append(f'<gpu id="{rank}" i_chunks="{n}" o_chunks="0" s_chunks="{n - 1}">{"".join(blocks)}</gpu>')
    return algo("allreduce", n, n, 1, "".join(gpus))


def gather_out_of_place(n: int) -> str:
    gpus = []
    for rank in range(n):
        ring_steps = [step(0, "s", ("i", 0), ("o", rank))]
        ring_steps += [step(hop, "rcs", ("i", 0), ("o", (rank - hop) % n)) for hop in range(1, n - 1)]
        ring_steps.append(step(n - 1, "r", ("i", 0), ("o", (rank + 1) % n)))
        gpus.append(
            f'<gpu id="{rank}" i_chunks="1" o_chunks="{n}" s_chunks="0">'
            f'<tb id="0" send="{(rank + 1) % n}" recv="{(rank - 1) % n}" chan="0">{"".join(ring_steps)}</tb>'
            f'<tb id="1" send="-1" recv="-1" chan="0">{step(0, "cpy", ("i", 0), ("o", rank))}</tb></gpu>'
        )
    return algo("allgather", n, n, 1, "".join(gpus), inplace=0)


@pytest.mark.parametrize(
    "text", [fused_ring(2, 1), fused_ring(5, 3), all_pairs(3), all_pairs(6), gather_out_of_place(4)]
)
def test_files_of_other_tools(text):
    algorithm = read_msccl(text)
    algorithm.verify()
    verify_programs(algorithm.scaled(1000 * algorithm.chunks), algorithm.operation)
    if algorithm.operation == "all_reduce":
        count = len(algorithm.programs)
        data = [[float(10**rank + i) for i in range(algorithm.chunks)] for rank in range(count)]
        assert run(algorithm.programs, data) == [[sum(column) for column in zip(*data, strict=True)]] * count


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('type="rrs"', 'type="rcs"'),
        ('type="rrcs"', 'type="rrs"'),
        ('srcoff="3"', 'srcoff="0"'),
        (
            'type="rcs" srcbuf="i" srcoff="2" dstbuf="i" dstoff="2"',
            'type="rcs" srcbuf="i" srcoff="2" dstbuf="i" dstoff="1"',
        ),
    ],
)
def test_wrong_algorithms_are_found(old, new):
    text = fused_ring(4, 1)
    assert old in text
    with pytest.raises(InvalidProgram):
        read_msccl(text.replace(old, new, 1)).verify()


GOOD = fused_ring(3, 1)
EXTRA = '<tb id="9" send="1" recv="-1" chan="0">' + step(0, "s", ("i", 0), ("i", 0)) + "</tb></gpu>"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "x.xml is not XML"),
        ("<algo", "x.xml is not XML"),
        ("<graph/>", "outermost element is <graph>, not <algo>"),
        ('<!DOCTYPE a [<!ENTITY b "bb">]>' + GOOD, "declares a document type"),
        ('<!doctype a SYSTEM "file:///etc/passwd">' + GOOD, "declares a document type"),
        (GOOD.replace("allreduce", "alltoall"), "collective 'alltoall' is not one of"),
        (GOOD.replace('ngpus="3"', 'ngpus="4"'), r"ngpus is 4, but it describes gpus \[0, 1, 2\]"),
        (GOOD.replace('ngpus="3"', 'ngpus="three"'), "`ngpus` must be a whole number, not 'three'"),
        (GOOD.replace('type="rrs"', 'type="swap"', 1), "gpu 0, block 0, step 1: its type is 'swap'"),
        (GOOD.replace('srcbuf="i"', 'srcbuf="q"', 1), "there is no buffer 'q'"),
        (GOOD.replace('cnt="1"', 'cnt="0"', 1), "its count is 0"),
        (GOOD.replace('srcoff="0"', 'srcoff="-2"', 1), "offset -2 lies before the buffer"),
        (GOOD.replace('send="1"', 'send="7"', 1), "has steps that send, but its peer is 7"),
        (GOOD.replace('depid="-1" deps="-1"', 'depid="4" deps="0"', 1), "depends on step 0 of block 4, which is not"),
        (GOOD.replace('id="1" i_chunks', 'id="0" i_chunks'), "gpu 0 occurs twice"),
        (GOOD.replace('type="s"', 'type="nop"'), "deadlock, these wait for ever: gpu 0, block 0, step 1"),
        (GOOD.replace("</gpu>", EXTRA, 1), "another block has send=1 on channel 0"),
    ],
)
def test_bad_files(text, words):
    with pytest.raises(UserError, match=words):
        read_msccl(text, "x.xml")


def test_sizes_must_fit():
    algorithm = read_msccl(GOOD)
    with pytest.raises(UserError, match="into 3 equal chunks; 10 elements cannot be"):
        algorithm.scaled(10)


def test_star_shares_are_exact():
    cluster = star_cluster(4, speeds=[4, 3, 2, 2])
    forest = star(cluster)
    counts = chunk_counts(forest)
    assert [Fraction(count, sum(counts)) for count in counts] == [tree.share for tree in forest.trees]
