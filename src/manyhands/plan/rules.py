"""Which layouts train rightly, as a table of rules: what each combination needs, or why it is refused.

Every rule is one fact about a combination of layout and job, with its reason. A rule refuses, or names a setting
that we make ourselves so that the result is right, or says that sums are taken in another order, or only remarks.
`legality.judge` applies all of them; `docs/layouts.md` prints them. What torch 2.13 does without the settings is
in `tests/plan/test_silently_wrong.py`, wrong gradient by wrong gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from manyhands.plan.layout import ZERO_BUBBLE, Layout

Coupling = Literal["element", "parameter", "model"]


@dataclass(frozen=True, kw_only=True)
class Traits:
    """Facts about a job and its model that decide which layouts are right. None: not known (yet)."""

    micro_batches: int
    batch_size: int | None = None
    units: int | None = None
    """Modules between which the model can be cut."""
    uncut: str = ""
    """Why the model cannot be cut, where it cannot."""
    tied: int = 0
    """Weights that several modules share."""
    frozen: Literal["none", "front", "elsewhere"] = "none"
    """Where parameters do not train: `front`, the first units have none that does."""
    heads: int | None = None
    """Attention heads."""
    kv_heads: int | None = None
    """Heads of keys and values; None: as many as heads."""
    dropout: bool = False
    batch_norm: bool = False
    """Whether the model keeps running statistics of batches."""
    shapes: Literal["same", "vary"] = "same"
    """Whether all micro-batches have the same shapes."""
    hooked: tuple[str, ...] = ()
    """Weights that have hooks on their gradients."""
    coupling: Coupling = "element"
    """What the optimizer's update of one element looks at: that element's own gradient and state (SGD, Adam), the
    whole parameter (Adafactor, Muon, LAMB), or the whole model (L-BFGS)."""
    clip: bool = False
    compile: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"
    reproducible: bool = True

    @property
    def hooks(self) -> str:
        more = f" and {len(self.hooked) - 1} more" if len(self.hooked) > 1 else ""
        return self.hooked[0] + more if self.hooked else ""

    @property
    def fewest_heads(self) -> int | None:
        known = [heads for heads in (self.heads, self.kv_heads) if heads is not None]
        return min(known, default=None)


class Effect(StrEnum):
    REFUSE = "refused"
    SET = "set"
    """Right under a setting that we make."""
    ORDER = "order"
    """Right, but sums inside a gradient are added in another order: equal within a tolerance."""
    NOTE = "note"


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One fact about a combination."""

    name: str
    """The rule's name: of a setting, the setting."""
    on: str
    """The combination in a few words, for the table."""
    effect: Effect
    when: Callable[[Layout, Traits], bool]
    """Whether the rule applies."""
    because: str
    """The reason. `{layout.x}` and `{traits.x}` stand for their values."""

    def reason(self, layout: Layout, traits: Traits) -> str:
        return self.because.format(layout=layout, traits=traits)


def _zero_bubble(layout: Layout) -> bool:
    return layout.pp > 1 and layout.schedule in ZERO_BUBBLE


def _divides(whole: int | None, parts: int) -> bool:
    return whole is None or whole % parts == 0


REFUSALS = (
    Rule(
        name="too many stages",
        on="more stages than units",
        effect=Effect.REFUSE,
        when=lambda layout, traits: traits.units is not None and layout.stages > traits.units,
        because="{layout.stages} stages cannot be made of {traits.units} unit(s): the model is cut between its blocks, "
        "and every stage needs one.",
    ),
    Rule(
        name="model cannot be cut",
        on="pp of a model that cannot be cut",
        effect=Effect.REFUSE,
        when=lambda layout, traits: layout.pp > 1 and bool(traits.uncut),
        because="the model cannot be cut into stages: {traits.uncut}",
    ),
    Rule(
        name="too many replicas",
        on="dp above the micro-batches",
        effect=Effect.REFUSE,
        when=lambda layout, traits: layout.dp > traits.micro_batches,
        because="{layout.dp} replicas cannot share {traits.micro_batches} micro-batches: every replica needs at least "
        "one.",
    ),
    Rule(
        name="uneven shards",
        on="shard, micro-batches not divisible by dp",
        effect=Effect.REFUSE,
        when=lambda layout, traits: layout.shard > 0 and traits.micro_batches % layout.dp > 0,
        because="shard={layout.shard} exchanges weights or gradients in every micro-batch, so all replicas need "
        "equally many, and {layout.dp} do not divide {traits.micro_batches}: some would wait for ever.",
    ),
    Rule(
        name="frozen front",
        on="zero-bubble, frozen parameters in front",
        effect=Effect.REFUSE,
        when=lambda layout, traits: _zero_bubble(layout) and traits.frozen == "front",
        because="schedule={layout.schedule} takes weight gradients from a graph that begins at a stage's inputs. "
        "Behind frozen layers inputs have no gradient, and the first layers that should train never would.",
    ),
    Rule(
        name="hooks on weights",
        on="tp, shard or zero-bubble, hooks on weights",
        effect=Effect.REFUSE,
        when=lambda layout, traits: bool(traits.hooked) and (layout.tp > 1 or layout.shard > 0 or _zero_bubble(layout)),
        because="{traits.hooks} has a hook on its gradient. Where a worker holds a part of a weight it is not "
        "called, and where gradients of inputs and of weights are taken apart it is called twice.",
    ),
    Rule(
        name="compiled zero-bubble",
        on="zero-bubble, compile",
        effect=Effect.REFUSE,
        when=lambda layout, traits: _zero_bubble(layout) and traits.compile,
        because="schedule={layout.schedule} takes gradients of inputs and of weights apart, and a compiled backward "
        "pass is one piece.",
    ),
    Rule(
        name="compiled tensor parallelism",
        on="tp, compile",
        effect=Effect.REFUSE,
        when=lambda layout, traits: layout.tp > 1 and traits.compile,
        because="dropout masks and attention heads are cut to a shard's part while the model runs, operation by "
        "operation, and a compiled model does not run so.",
    ),
    Rule(
        name="shapes vary",
        on="pp, micro-batches of different shapes",
        effect=Effect.REFUSE,
        when=lambda layout, traits: layout.pp > 1 and traits.shapes == "vary",
        because="a stage knows what it receives before it arrives, so all micro-batches need the same shapes. Pad "
        "sequences to one length in the dataset.",
    ),
    Rule(
        name="coupled elements",
        on="tp or shard, an optimizer that looks at whole parameters",
        effect=Effect.REFUSE,
        when=lambda layout, traits: (layout.tp > 1 or layout.shard > 0) and traits.coupling == "parameter",
        because="the optimizer's update looks at a whole parameter, and with tp or shard a worker holds a part of it: "
        "each part would be updated as if it were a parameter of its own.",
    ),
    Rule(
        name="coupled parameters",
        on="pp, tp or shard, an optimizer that looks at the whole model",
        effect=Effect.REFUSE,
        when=lambda layout, traits: layout.split and traits.coupling == "model",
        because="the optimizer's update looks at all parameters at once, and no worker would hold them all.",
    ),
)

SETTINGS = (
    Rule(
        name="reshard_after_forward=False",
        on="zero-bubble, shard=2 or 3",
        effect=Effect.SET,
        when=lambda layout, _: _zero_bubble(layout) and layout.shard >= 2,
        because="weights stay gathered and gradients whole until the step's last action (the memory of shard=1): torch "
        "frees weights after the input part of the backward pass, and weight gradients become wrong or None.",
    ),
    Rule(
        name="exchange after the step",
        on="zero-bubble, dp",
        effect=Effect.SET,
        when=lambda layout, _: _zero_bubble(layout) and layout.dp > 1 and layout.shard == 0,
        because="replicas exchange gradients after the step's last action, micro-batch by micro-batch in the order of "
        "the tree. torch's DDP exchanges them in the last whole backward pass, and zero-bubble has none.",
    ),
    Rule(
        name="tied weights have one owner",
        on="tied weights, pp",
        effect=Effect.SET,
        when=lambda layout, traits: layout.pp > 1 and traits.tied > 0,
        because="gradients of a shared weight travel to the stage that owns it, micro-batch by micro-batch, and count "
        "once in the norm. Cut by hand or by torch's tracer, the copies drift apart.",
    ),
    Rule(
        name="tied again after splitting",
        on="tied weights, tp",
        effect=Effect.SET,
        when=lambda layout, traits: layout.tp > 1 and traits.tied > 0,
        because="modules that shared a weight share its part: torch's parallelize_module makes two weights of it.",
    ),
    Rule(
        name="tied weights in one group",
        on="tied weights, shard",
        effect=Effect.SET,
        when=lambda layout, traits: layout.shard > 0 and traits.tied > 0,
        because="modules that share a weight are gathered and freed together; one that ties pipeline stages stays "
        "whole.",
    ),
    Rule(
        name="norm over the mesh",
        on="clip_grad_norm, pp, tp or shard",
        effect=Effect.SET,
        when=lambda layout, traits: layout.split and traits.clip,
        because="the gradient's norm is that of the whole model, tied weights once: each worker's own would clip parts "
        "differently.",
    ),
    Rule(
        name="masks of the whole tensor",
        on="dropout, tp",
        effect=Effect.SET,
        when=lambda layout, traits: layout.tp > 1 and traits.dropout,
        because="a shard draws the mask of the whole tensor and takes its part, so that it is one worker's.",
    ),
)

ORDERS = (
    Rule(
        name="split sums",
        on="tp",
        effect=Effect.ORDER,
        when=lambda layout, _: layout.tp > 1,
        because="tensor parallelism splits a sum inside an operator.",
    ),
    Rule(
        name="compiled in parts",
        on="pp or shard, compile",
        effect=Effect.ORDER,
        when=lambda layout, traits: (layout.pp > 1 or layout.shard > 0) and traits.compile,
        because="units are compiled one by one, and other operations are fused than in the whole model.",
    ),
    Rule(
        name="uses gathered one by one",
        on="tied weights, shard 2 or 3",
        effect=Effect.ORDER,
        when=lambda layout, traits: layout.shard > 1 and traits.tied > 0,
        because="a weight that is gathered anew for each of its uses has their gradients added in another order.",
    ),
)

NOTES = (
    Rule(
        name="heads do not divide",
        on="tp that does not divide the heads",
        effect=Effect.NOTE,
        when=lambda layout, traits: layout.tp > 1 and not _divides(traits.heads, layout.tp),
        because="{traits.heads} attention heads are dealt to {layout.tp} shards unevenly: the one with the most sets "
        "the pace. With fewer heads than shards every shard computes all of attention.",
    ),
    Rule(
        name="key and value heads do not divide",
        on="tp that does not divide the heads of keys and values",
        effect=Effect.NOTE,
        when=lambda layout, traits: (
            layout.tp > 1 and _divides(traits.heads, layout.tp) and not _divides(traits.kv_heads, layout.tp)
        ),
        because="{traits.kv_heads} heads of keys and values, with their queries, are dealt to {layout.tp} shards "
        "unevenly. With fewer of them than shards every shard computes all of attention.",
    ),
    Rule(
        name="sums in bf16",
        on="bf16, tp",
        effect=Effect.NOTE,
        when=lambda layout, traits: layout.tp > 1 and traits.precision == "bf16",
        because="partial sums are rounded to bf16 before they are added: expect differences of bf16's size (0.4 %), "
        "not of fp32's.",
    ),
    Rule(
        name="uneven replicas",
        on="dp that does not divide the micro-batches",
        effect=Effect.NOTE,
        when=lambda layout, traits: layout.dp <= traits.micro_batches and traits.micro_batches % layout.dp > 0,
        because="{layout.dp} replicas share {traits.micro_batches} micro-batches unevenly: the one with the most sets "
        "the pace.",
    ),
    Rule(
        name="few micro-batches",
        on="fewer micro-batches per replica than pipeline ranks",
        effect=Effect.NOTE,
        when=lambda layout, traits: layout.schedule != "vanilla" and traits.micro_batches // layout.dp < layout.pp,
        because="a replica has fewer micro-batches than the pipeline has ranks ({layout.pp}), so it never fills.",
    ),
)

RULES: tuple[Rule, ...] = (*REFUSALS, *SETTINGS, *ORDERS, *NOTES)
