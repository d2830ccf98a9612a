"""`manyhands collective draw`: the trees over the links, a ring beside them, as a page or a drawing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from manyhands.cli.collective_options import How, Where, make_plan, write_text
from manyhands.cli.command import Command
from manyhands.errors import UsageError
from manyhands.plan import Option

_MOST_RANKS = 64


@dataclass(frozen=True, kw_only=True)
class Draw(Command):
    """Draw how a collective travels.

    manyhands collective draw --cluster dgx1v --devices 0,1,2,4,5
    """

    where: Where
    """Which machines, links and operation."""
    how: How = field(default_factory=How)
    """Which algorithm."""
    max_trees: Annotated[int, Option("N", "8: so many can be told apart")] = 8
    """Pack at most so many trees."""
    beside: Annotated[str, Option("ALGORITHM|none")] = "ring"
    """The algorithm to compare with."""
    output: Annotated[Path, Option("FILE", short="-o")] = Path("collective.html")
    """Where to write it. .svg gives the drawing alone, .html a page with every tree by itself."""

    def run(self, job_arguments: list[str]) -> int:
        from manyhands.collective.choose import build
        from manyhands.report.forest import SIZE, forest_page, forest_svg

        if self.output.suffix not in (".html", ".svg"):
            raise UsageError(f"--output {self.output}: the name must end in .html or .svg.")
        cluster = self.where.select()
        if not 2 <= len(cluster.ranks) <= _MOST_RANKS:
            raise UsageError(f"{len(cluster.ranks)} ranks cannot be drawn, 2 to {_MOST_RANKS} can: give --devices.")
        operation, root = self.where.operation, self.where.rooted(cluster)
        planned = make_plan(cluster, operation, root, self.how, max_trees=self.max_trees, size=SIZE)
        forests = [planned.forest]
        if self.beside not in ("", "none"):
            forests.append(build(self.beside, cluster, operation, root=root))
        if self.output.suffix == ".svg":
            text = forest_svg(cluster, forests)
        else:
            proof = planned.certificate
            text = forest_page(cluster, forests, bound=proof.bound if proof else None, cut=proof.cut if proof else "")
        write_text(self.output, text)
        print(self.output)
        return 0
