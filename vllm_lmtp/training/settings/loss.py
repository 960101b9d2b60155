"""What a place of a draft is to learn: `loss` of a training file, one loss or a weighted mix."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LossConfig:
    """Weights of the losses, under the names that speculators gives them.

    q is the draft's distribution over the draft vocabulary, p the target's, alpha the sum of
    min(p, q), which is the share accepted where drafts are drawn. ce: cross-entropy of the token
    that came. kl_div: KL(p || q). tv: total variation, 1 - alpha. lk_hybrid: kl_div and tv, blended
    by alpha (arXiv 2602.23881).
    """

    ce: float = 0.0
    kl_div: float = 0.0
    tv: float = 0.0
    lk_hybrid: float = 0.0

    @property
    def soft(self) -> bool:
        """Whether the target's distribution is needed."""
        return bool(self.kl_div or self.tv or self.lk_hybrid)

    def faults(self) -> dict[str, str]:
        """Fields out of range and what they expect."""
        wrong = {name: "0 or above" for name, weight in vars(self).items() if weight < 0}
        if not any(vars(self).values()):
            wrong["ce"] = "above 0, or another loss that is"
        return wrong


CROSS_ENTROPY = LossConfig(ce=1.0)
