"""`manyhands collective draw`: the trees over the links, a ring beside them, as a page or a drawing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from manyhands.cli.collective_options import Where, make_plan, write_text
from manyhands.errors import UsageError

_MOST_RANKS = 64


@dataclass(frozen=True)
class Draw:
    """Draw how a collective travels: manyhands collective draw --cluster dgx1v --devices 0,1,2,4,5"""

    where: Annotated[Where, tyro.conf.arg(name="")]
    algorithm: str = "packed"
    """As for `plan`."""
    canonical: bool = False
    """As for `plan`."""
    max_trees: int | None = 8
    """Pack at most so many trees: eight can be told apart."""
    beside: str = "ring"
    """The algorithm to compare with; empty for none."""
    out: Path = Path("collective.html")
    """Where to write it. .svg gives the drawing alone, .html a page with every tree by itself."""

    def run(self, job_arguments: list[str]) -> int:
        from manyhands.collective.choose import build
        from manyhands.report.forest import SIZE, forest_page, forest_svg

        if self.out.suffix not in (".html", ".svg"):
            raise UsageError(f"--out {self.out}: the name must end in .html or .svg.")
        cluster = self.where.select()
        if not 2 <= len(cluster.ranks) <= _MOST_RANKS:
            raise UsageError(f"{len(cluster.ranks)} ranks cannot be drawn, 2 to {_MOST_RANKS} can: give --devices.")
        operation, root = self.where.operation, self.where.rooted(cluster)
        planned = make_plan(
            cluster, operation, root, self.algorithm, canonical=self.canonical, max_trees=self.max_trees, size=SIZE
        )
        forests = [planned.forest]
        if self.beside:
            forests.append(build(self.beside, cluster, operation, root=root))
        if self.out.suffix == ".svg":
            text = forest_svg(cluster, forests)
        else:
            proof = planned.certificate
            text = forest_page(cluster, forests, bound=proof.bound if proof else None, cut=proof.cut if proof else "")
        write_text(self.out, text)
        print(self.out)
        return 0
