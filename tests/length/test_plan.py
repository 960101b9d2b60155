"""How drafts are cut for what rows cost."""

from __future__ import annotations

import torch

from vllm_lmtp.length.plan import Plan
from vllm_lmtp.method.confidence import most_worth, worth_verifying


def test_a_price_that_is_not_known_yet_keeps_all() -> None:
    assert Plan(2, 2, None).cut(drawn=False) == (0.0, None)
    assert Plan(2, 2, 0.25, (0.0, 0.3)).cut(drawn=False) == (0.25, (0.0, 0.3))


def test_whether_a_drawn_token_is_verified_hangs_on_those_before_it_alone() -> None:
    """By the costs of all rows a first token would be verified for what was drawn there."""
    copied, other = [0.66, 0.7, 0.75], [0.66, 0.25, 0.25]  # behind one token, and behind another
    plan = Plan(3, 3, 0.5, (0.0, 0.9, 0.95, 1.0))
    least, costs = plan.cut(drawn=True)
    assert costs is None
    kept = worth_verifying(torch.tensor([copied, other]), least)
    assert kept[:, 0].tolist() == [True, True]
    _, costs = plan.cut(drawn=False)
    assert costs is not None
    assert [most_worth(chances, costs, 0.0) for chances in (copied, other)] == [3, 0]
