"""The optimum by one big linear program of flows: slow, and independent of cuts, trees and fractions.

`rate(cluster, operation, root)`: what is rooted at v has to reach every rank within the links' share for handing out,
and come from every rank within their share for adding up; forwarders neither copy nor add.
"""

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import lil_array


def rate(cluster, operation, root=None):
    ranks, nodes = cluster.ranks, [node.name for node in cluster.nodes]
    links = [(link.source, link.target, link.bandwidth) for link in cluster.links]
    scale = max(width for _, _, width in links)
    layers = {"all_reduce": ["down", "up"], "all_gather": ["down"], "broadcast": ["down"]}.get(operation, ["up"])
    columns = len(ranks) + len(links) * len(layers) * (1 + len(ranks))
    equal, equal_right, upper, upper_right = [], [], [], []

    def used(layer, link):
        return len(ranks) + layers.index(layer) * len(links) + link

    def flow(layer, end, link):
        start = len(ranks) + len(links) * len(layers)
        return start + (layers.index(layer) * len(ranks) + end) * len(links) + link

    if operation != "all_reduce":
        for v, name in enumerate(ranks):
            if operation in ("broadcast", "reduce"):
                if name != root:
                    equal.append({v: 1}), equal_right.append(0)
            elif v:
                equal.append({v: 1, 0: -1}), equal_right.append(0)
    for e, (_, _, width) in enumerate(links):
        upper.append({used(layer, e): 1 for layer in layers}), upper_right.append(width / scale)
    for layer in layers:
        for name in set(nodes) - set(ranks):  # as much in as out
            row = {used(layer, e): 1 for e, (u, _, _) in enumerate(links) if u == name}
            row |= {used(layer, e): -1 for e, (_, v, _) in enumerate(links) if v == name}
            equal.append(row), equal_right.append(0)
        for end, end_name in enumerate(ranks):
            for e in range(len(links)):
                upper.append({flow(layer, end, e): 1, used(layer, e): -1}), upper_right.append(0)
            for name in nodes:
                sign = 1 if layer == "down" else -1
                row = {flow(layer, end, e): sign for e, (u, _, _) in enumerate(links) if u == name}
                row |= {flow(layer, end, e): -sign for e, (_, v, _) in enumerate(links) if v == name}
                if name == end_name:
                    row |= {v: 1 for v in range(len(ranks)) if v != end}
                elif name in ranks:
                    row[ranks.index(name)] = -1
                equal.append(row), equal_right.append(0)
    objective = np.zeros(columns)
    objective[: len(ranks)] = -1
    result = linprog(
        objective,
        A_ub=_matrix(upper, columns),
        b_ub=upper_right,
        A_eq=_matrix(equal, columns),
        b_eq=equal_right,
        method="highs",
    )
    return -result.fun * scale


def _matrix(rows, columns):
    matrix = lil_array((len(rows), columns))
    for index, row in enumerate(rows):
        for column, value in row.items():
            matrix[index, column] = value
    return matrix.tocsr()
