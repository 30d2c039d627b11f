"""Rewards that one's own file gives and should not."""

from __future__ import annotations

import random
from pathlib import Path

from drilling.scene import FEW
from drilling.sources.given import Given

BODIES = (
    "raise ValueError('no')", "raise SystemExit(0)", "raise SystemExit('gone')", "raise KeyboardInterrupt",
    "raise MemoryError", "raise RuntimeError('two\\nlines')", "return calm(plans, cond)", "return None", "return ''",
    "return []", "return {}", "return 3", "return torch.nan", "return torch.full((len(plans),), torch.nan)",
    "return torch.full((len(plans),), torch.inf)", "return torch.zeros(len(plans))",
    "return torch.ones(len(plans) + 1)",
    "return torch.ones(1)", "return torch.ones(len(plans), 3).cumsum(0)", "return torch.ones(0)", "return plans",
    "return plans.sum((1, 2)).bool()", "return plans.sum((1, 2)).long()", "return torch.ones(len(plans)) * 1j",
    "return plans.sum((1, 2)).double() * 1e300", "return plans.sum((1, 2)) * 1e38", "return plans.sum((1, 2)).tolist()",
    "return ['a'] * len(plans)", "return [None] * len(plans)", "return plans.sum((1, 2)).numpy()", "return plans",
    "plans.zero_(); return plans.sum((1, 2))", "cond.clear(); return plans.sum((1, 2))", "return cond['nothing']",
    "return torch.where(torch.arange(len(plans)) % 2 == 0, torch.nan, plans.sum((1, 2)))", "return object()",
    "return plans.requires_grad_().sum((1, 2))", "return lambda: 0", "yield 1",
    "print('said'); return plans.sum((1, 2))", "import os; os.chdir('/'); return plans.sum((1, 2))", "assert False",
    "return torch.sparse_coo_tensor(size=(len(plans),))",
)  # fmt: skip
HEADS = (
    *("import torch\n",) * 30, "",
    "import nothing_at_all\n",
    "raise SystemExit(3)\n", "def (\n", "import torch\n1 / 0\n", "import torch\n\x00", "ü = 1\nimport torch\n",
    "import torch\nraise KeyboardInterrupt\n",
)  # fmt: skip
NAMES = (*("calm",) * 20, "other", "", "torch", "calm.x", "__name__", "ü", "1")
SIGNATURES = (*("plans, cond",) * 20, "plans", "", "plans, cond, more", "*, plans")


def draw(rng: random.Random, place: Path) -> Given:
    """A file, and an alignment that asks it."""
    body, head = rng.choice(BODIES), rng.choice(HEADS)
    name, signature = rng.choice(NAMES), rng.choice(SIGNATURES)
    text = f"{head}\n\ndef calm({signature}):\n    {body}\n"
    file = place / "reward.py"
    if rng.random() < 0.05:
        file.mkdir()
    elif rng.random() < 0.95:
        file.write_bytes(text.encode("latin-1" if rng.random() < 0.05 else "utf-8"))
    method = rng.choice(("vmpo", "ddpo", "awm"))
    args = ["align", method, "runs/fv", "--reward", f"reward.py:{name}", *FEW, "--out", "runs/new"]
    return Given(args, f"{name}: {head.strip()[:30]!r}, calm({signature}): {body}")
