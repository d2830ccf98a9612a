"""What a `transformers` model itself says about how it is split (`tp_plan`).

It names the projections that its authors split. How many heads belong together, in which order fused weights lie and
what happens to outputs is derived all the same, because a name does not say it.
"""

from __future__ import annotations

import re

from torch import nn

_STYLES = {
    "colwise": "column",
    "colwise_rep": "column",
    "colwise_gather_output": "column",
    "rowwise": "row",
    "rowwise_rep": "row",
    "rowwise_split_input": "row",
    "embedding_rowwise": "vocabulary",
    "vocab_parallel": "vocabulary",
}
_WHOLE = frozenset(["replicate", "replicated", "gather", "sequence_parallel", "replicated_with_grad_allreduce"])


def model_plan(model: nn.Module) -> dict[str, str]:
    """Module -> our style, or the model's own word where we have none. Empty if the model says nothing."""
    patterns = _patterns(model)
    found = {}
    for name, _ in model.named_modules():
        general = re.sub(r"\.\d+(?=\.|$)", ".*", name)
        word = patterns.get(name) or patterns.get(general)
        if word is not None and word not in _WHOLE:
            found[name] = _STYLES.get(word, word)
    return found


def _patterns(model: nn.Module) -> dict[str, str]:
    """The plans of the model and of its parts, with whole names."""
    patterns: dict[str, str] = {}
    for name, module in model.named_modules():
        plan = getattr(module, "_tp_plan", None) or getattr(type(module), "_tp_plan", None)
        base = getattr(getattr(module, "config", None), "base_model_tp_plan", None)
        prefix = f"{name}." if name else ""
        for source in (plan, base if getattr(module, "base_model", None) is module else None):
            if isinstance(source, dict):
                patterns.update({prefix + key: word for key, word in source.items() if isinstance(word, str)})
    return patterns
