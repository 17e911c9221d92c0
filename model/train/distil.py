"""A student learns from a teacher's answers to the very crops that it sees, beside the labels.

G. Hinton, O. Vinyals, J. Dean, "Distilling the Knowledge in a Neural Network" (2015), for the
expression; the same for each AU of each side, and their intensities by distance, where no label
says better; and the clues F_attn through a projection to the teacher's width (A. Romero et al.,
"FitNets", 2015).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from feallm.model.vision import Seen, VisionNetwork
from feallm.runtime.contract.aus import INTENSITY_MAX

TEMPERATURE = 2.0


class Teacher(nn.Module):
    """A frozen network, and the projection by which a student's clues are held against its own."""

    def __init__(self, network: VisionNetwork, student: VisionNetwork) -> None:
        super().__init__()
        # Not a child: its weights are no part of the student's training state.
        self._network = [network.eval().requires_grad_(False)]
        mine, theirs = (n.norm_clues.normalized_shape[0] for n in (student, network))
        self.project = nn.Linear(mine, theirs)

    @torch.no_grad()
    def see(self, crops: Tensor) -> Seen:
        """What the teacher says of crops."""
        return self._network[0].see(crops)

    def losses(self, mine: Seen, theirs: Seen, au_sides: Tensor) -> dict[str, Tensor]:
        """How far the student's answers lie from the teacher's, where the labels `au_sides`
        (N, 20, 2) are unknown as far as AUs go."""
        unknown = torch.isnan(au_sides)
        soft = (theirs.expression_logits / TEMPERATURE).softmax(1)
        log = (mine.expression_logits / TEMPERATURE).log_softmax(1)
        expression = TEMPERATURE**2 * nn.functional.kl_div(log, soft, reduction="batchmean")
        both = mine.side_logits is not None and theirs.side_logits is not None
        logits, target = (
            (mine.side_logits, theirs.side_logits) if both else (mine.au_logits, theirs.au_logits)
        )
        assert logits is not None and target is not None
        presence = nn.functional.binary_cross_entropy_with_logits(
            logits, target.sigmoid(), weight=(unknown if both else unknown.all(2)).float()
        )
        intensity = nn.functional.smooth_l1_loss(
            mine.intensity, theirs.intensity.clamp(0, INTENSITY_MAX), reduction="none"
        )
        intensity = (intensity * unknown).mean()
        clues = nn.functional.mse_loss(self.project(mine.f_attn.float()), theirs.f_attn.float())
        return {
            "taught_expression": 0.5 * expression,
            "taught_presence": 2.0 * presence,
            "taught_intensity": 0.5 * intensity,
            "taught_clues": 0.5 * clues,
        }
