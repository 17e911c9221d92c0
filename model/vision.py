"""Crop to readings and visual tokens: encoder, LCA, MPP and the two direct heads.

The heads serve every video frame; the language model, which reads `tokens`, explains on demand.
AU first: the expression head reads the AU probabilities beside the features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from feallm.model.config import VisionConfig
from feallm.model.encoder import Encoder, PlainEncoder
from feallm.model.lca import LocalClueAggregator
from feallm.model.pixels import Pixels
from feallm.model.projector import MultiPerspectiveProjector
from feallm.runtime.contract.aus import INTENSITY_MAX, N_AUS
from feallm.runtime.contract.expressions import N_EXPRESSIONS
from feallm.runtime.contract.geometry import CROP
from feallm.runtime.contract.landmarks import GAZE, MIRRORED, N_LANDMARKS, POSE

_PLACE = (2 * N_LANDMARKS, len(POSE), len(GAZE))
_LANDMARK_UNIT, _DEGREES_UNIT = 16.0, 15.0
"""What one unit of the head's raw outputs stands for, pixels and degrees."""


class Place(NamedTuple):
    """Where the face is, for N crops."""

    landmarks: Tensor  # (N, 68, 2) pixels of the crop
    pose_deg: Tensor  # (N, 3) as the head stands in the crop
    gaze_deg: Tensor  # (N, 2)


class Seen(NamedTuple):
    """Outputs for N crops, before the words."""

    au_logits: Tensor  # (N, 20)
    intensity: Tensor  # (N, 20, 2) left and right of the subject, about 0–5, not clipped
    expression_logits: Tensor  # (N, 8), not yet divided by the temperature
    x_3: Tensor  # (N, tokens, width)
    f_attn: Tensor  # (N, 16, width)
    side_logits: Tensor | None = None  # (N, 20, 2); `au_logits` is the larger of the two
    place: Place | None = None


class Mirror(nn.Module):
    """Mirrors pictures and answers by products with constants, which every runtime has."""

    def __init__(self) -> None:
        super().__init__()
        turned = torch.eye(CROP.width_px).flip(0)
        order = torch.eye(N_LANDMARKS)[list(MIRRORED)]
        for name, value in (("turned", turned), ("order", order)):
            self.register_buffer(name, value, persistent=False)
        self.turned: Tensor
        self.order: Tensor
        for name, signs in (("flip", (-1.0, 1.0)), ("pose", (1.0, -1.0, -1.0)), ("gaze", (1, -1))):
            self.register_buffer(f"{name}_signs", torch.tensor(signs).float(), persistent=False)
        self.flip_signs: Tensor
        self.pose_signs: Tensor
        self.gaze_signs: Tensor
        edge = torch.tensor([CROP.width_px - 1.0, 0.0])
        self.register_buffer("edge", edge, persistent=False)
        self.edge: Tensor

    def picture(self, picture: Tensor) -> Tensor:
        """A picture (N, 1, H, W) at full width or shrunk, mirrored."""
        columns = picture.shape[3]
        return torch.matmul(picture, self.turned[-columns:, :columns])

    def mean(self, both: Seen) -> Seen:
        """The answers for N crops out of those for the crops and then their mirror images."""
        au_logits, sides = _mean(both.au_logits), both.side_logits
        if sides is not None:
            sides = _mean(sides, _swapped)
            au_logits = sides.amax(2)
        place = both.place
        if place is not None:
            place = Place(
                _mean(place.landmarks, self._landmarks),
                _mean(place.pose_deg, lambda x: x * self.pose_signs),
                _mean(place.gaze_deg, lambda x: x * self.gaze_signs),
            )
        return Seen(
            au_logits,
            _mean(both.intensity, _swapped),
            _mean(both.expression_logits),
            both.x_3.unflatten(0, (2, -1))[0],
            both.f_attn.unflatten(0, (2, -1))[0],
            sides,
            place,
        )

    def _landmarks(self, x: Tensor) -> Tensor:
        return torch.matmul(self.order, x) * self.flip_signs + self.edge


def _by_strength(logits: Tensor, intensity: Tensor) -> Tensor:
    """Presence (N, 20, 2), the larger one on the side that moves more. Both heads know sides, but
    intensities, learnt from renders alone, know them better: on 614 one-sided movements of renders
    that no training saw, .876 against .844 of them."""
    left = intensity[..., :1] >= intensity[..., 1:]
    most, least = logits.amax(2, keepdim=True), logits.amin(2, keepdim=True)
    return torch.cat([torch.where(left, most, least), torch.where(left, least, most)], 2)


def _swapped(x: Tensor) -> Tensor:
    """The subject's left and right (..., 2) in each other's place."""
    return torch.cat([x[..., 1:], x[..., :1]], -1)


def _mean(x: Tensor, back: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
    """The mean of answers for crops and, brought back, for their mirror images."""
    pair = x.unflatten(0, (2, -1))
    mean: Tensor = (pair[0] + back(pair[1])) / 2
    return mean


class VisionNetwork(nn.Module):
    """Everything but the language model."""

    def __init__(
        self, config: VisionConfig, language_width: int, encoder: Encoder | None = None
    ) -> None:
        super().__init__()
        self.pixels = Pixels(shrink=config.shrink)
        rows, columns = CROP.height_px // config.shrink, CROP.width_px // config.shrink
        self.encoder = encoder or PlainEncoder(
            config.channels, config.blocks, rows=rows, columns=columns, fold=config.fold
        )
        self.mirror = Mirror() if config.mirror else None
        levels, width = self.encoder.levels, config.width
        self.lca = LocalClueAggregator(config.regions, levels[0], levels[1], width, config.heads)
        self.mpp = MultiPerspectiveProjector(
            levels, width, config.heads, config.tokens, skip=config.skip
        )
        clues = len(config.regions) * width
        self.norm_clues, self.norm_x = nn.LayerNorm(width), nn.LayerNorm(width)
        self.dropout = nn.Dropout(0.2)
        deep, features = levels[3].channels, clues + width
        self.sided = config.place > 0
        if self.sided:
            self.place_conv = nn.Conv2d(deep, config.place, 1)
            features += config.place * levels[3].rows * levels[3].columns
            self.near_conv = nn.Conv2d(levels[2].channels, config.near, 1) if config.near else None
            features += config.near * levels[2].rows * levels[2].columns
            self.place_head = nn.Linear(features, sum(_PLACE))
            middle = torch.tensor([CROP.width_px, CROP.height_px]) / 2
            self.register_buffer("middle", middle, persistent=False)
            self.middle: Tensor
        self.au_head = nn.Linear(features, N_AUS * 2 if self.sided else N_AUS)
        self.intensity_head = nn.Linear(features, N_AUS * 2)
        self.expression_head = nn.Linear(features + deep + N_AUS, N_EXPRESSIONS)
        self.register_buffer("temperature", torch.ones(()))
        self.temperature: Tensor
        self.token_mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, language_width)
        )
        self.local_token = nn.Linear(clues, language_width)  # F_attn, flat -> F_local

    def answer(self, crops: Tensor) -> Seen:
        """What the network says of uint8 crops (N, H, W, 3), or gray (N, H, W): `see`, or with
        `config.mirror` the mean of that and what it says of their mirror images, so that a
        mirrored face swaps sides and nothing else. Features for the words are the crops' own."""
        picture = self.pixels(crops)
        if self.mirror is None:
            return self._seen(picture)
        both = self._seen(torch.cat([picture, self.mirror.picture(picture)]))
        return self.mirror.mean(both)

    def see(self, crops: Tensor) -> Seen:
        """Features and head outputs of uint8 crops (N, H, W, 3), or gray (N, H, W): one look."""
        return self._seen(self.pixels(crops))

    def _seen(self, picture: Tensor) -> Seen:
        maps = self.encoder(picture)
        f_attn, f_local = self.lca(maps[0], maps[1])
        x_3 = self.mpp(maps, f_local)
        clues = self.norm_clues(f_attn).flatten(1)
        parts = [clues, self.norm_x(x_3).mean(1)]
        if self.sided:
            parts.append(torch.relu(self.place_conv(maps[3])).flatten(1))
            if self.near_conv is not None:
                parts.append(torch.relu(self.near_conv(maps[2])).flatten(1))
        features = self.dropout(torch.cat(parts, 1))
        au_logits = self.au_head(features)
        side_logits = place = None
        if self.sided:
            side_logits = au_logits.unflatten(1, (N_AUS, 2))
            au_logits = side_logits.amax(2)
            place = self._place(self.place_head(features))
        intensity = self.intensity_head(features).unflatten(1, (N_AUS, 2))
        deep = self.dropout(maps[3].mean((2, 3)))
        # Stopped gradient: the AU head answers to its own labels only.
        with_aus = torch.cat([features, deep, au_logits.detach().sigmoid()], 1)
        expression_logits = self.expression_head(with_aus)
        return Seen(au_logits, intensity, expression_logits, x_3, f_attn, side_logits, place)

    def _place(self, raw: Tensor) -> Place:
        landmarks, pose, gaze = raw.split(_PLACE, 1)
        return Place(
            landmarks.unflatten(1, (N_LANDMARKS, 2)) * _LANDMARK_UNIT + self.middle,
            pose * _DEGREES_UNIT,
            gaze * _DEGREES_UNIT,
        )

    def tokens(self, seen: Seen) -> Tensor:
        """Visual tokens and F_local for the language model: (N, tokens + 1, language width)."""
        local = self.local_token(self.norm_clues(seen.f_attn).flatten(1))
        return torch.cat([self.token_mlp(self.norm_x(seen.x_3)), local.unsqueeze(1)], 1)

    def forward(self, crops: Tensor) -> tuple[Tensor, ...]:
        """What the device gets: AU probabilities (N, 20), intensities (N, 20, 2) in 0–5,
        expression scores (N, 8) that sum to 1, tokens (N, tokens + 1, language width), and, where
        the network has them, the three of `Place` and presence on each side (N, 20, 2)."""
        seen = self.answer(crops)
        sides: tuple[Tensor, ...] = ()
        if seen.side_logits is not None:
            sides = (_by_strength(seen.side_logits, seen.intensity).sigmoid(),)
        return (
            seen.au_logits.sigmoid(),
            seen.intensity.clamp(0.0, INTENSITY_MAX),
            (seen.expression_logits / self.temperature).softmax(1),
            self.tokens(seen),
            *(seen.place or ()),
            *sides,
        )
