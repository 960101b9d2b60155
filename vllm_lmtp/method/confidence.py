"""How likely each place of a draft is to be accepted, if those before it are: pure maths.

The head's own opinion is the softmax of its scores at the token drafted. It is read as log-odds,
which a line fitted on held-out text for each place turns into the log-odds of being right (Platt's
calibration). Static shapes, nothing read back.

Shapes: R requests, m places.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

# Log-probabilities are held within these, so that log-odds are finite in float32.
LEAST, MOST = -60.0, -1e-6


def log_odds(log_probability: torch.Tensor) -> torch.Tensor:
    """log p - log(1 - p), of log p, any shape, float32 or float64; finite for any input."""
    held = log_probability.clamp(LEAST, MOST)
    return held - torch.log(-torch.expm1(held))


class Confidence(nn.Module):
    """Calibrated confidence of each place.

    Args:
        lines: (slope, intercept) of each place; none for the head's own opinion as it is.
        places: m, used where there are no lines.
    """

    slopes: torch.Tensor
    intercepts: torch.Tensor

    def __init__(self, lines: Sequence[tuple[float, float]], places: int) -> None:
        super().__init__()
        pairs = torch.tensor(lines or [(1.0, 0.0)] * places, dtype=torch.float32)
        self.register_buffer("slopes", pairs[:, 0].clone(), persistent=False)
        self.register_buffer("intercepts", pairs[:, 1].clone(), persistent=False)

    def at(self, places: slice, log_probability: torch.Tensor) -> torch.Tensor:
        """The confidence of some places.

        Args:
            log_probability: [R, p] float32, of the tokens drafted there under the scored
                distribution.

        Returns:
            [R, p] float32, in 0..1.
        """
        line = self.slopes[places] * log_odds(log_probability) + self.intercepts[places]
        return torch.sigmoid(line)

    def of_drafts(self, odds: torch.Tensor) -> torch.Tensor:
        """As `at` for all places of whole drafts, from log-odds [R, m]: [R, m]."""
        return torch.sigmoid(self.slopes * odds + self.intercepts)


def most_worth(confidence: Sequence[float], costs: Sequence[float], least: float) -> int:
    """How many places of one draft to verify: as many as leave most tokens after their cost.

    Args:
        confidence: of each place. costs: of verifying 0, 1, ... places, in tokens; they need not
            grow. least: of the running product, below which a place is not asked about.
    """
    best, most, expected, chance = 0, -costs[0], 0.0, 1.0
    for rows, sure in enumerate(confidence, 1):
        chance *= sure
        if chance < least:
            break
        expected += chance
        if expected - costs[rows] > most:
            best, most = rows, expected - costs[rows]
    return best


def worth_verifying(confidence: torch.Tensor, least: float) -> torch.Tensor:
    """Which places the whole draft up to them is likely enough to be right for.

    Args:
        confidence: [R, m]. least: of the running product; 0 keeps all.

    Returns:
        [R, m] bool, True up to some place of each row and False after it.
    """
    return confidence.cumprod(dim=1) >= least
