"""The light of a shot: where it comes from, how strong and how warm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from feallm.model.synth.draw import HEIGHT, WIDTH, Light, around
from feallm.model.synth.sample import LIGHTS, Shot


def of(shot: Shot, rng: np.random.Generator) -> Light:
    """The light of a shot, in camera space; `rng` gives what the shot does not say."""
    kind = LIGHTS[shot.light]
    side = 1.0 if rng.random() < 0.5 else -1.0
    way = {
        "even": (0.2 * side, 0.4, 1.0),
        "window": (0.8 * side, 0.35, 0.7),
        "overhead": (0.1 * side, 1.0, 0.45),
        "side": (1.0 * side, 0.15, 0.2),
        "flash": (0.05 * side, 0.12, 1.0),
        "below": (0.15 * side, -0.7, 0.7),
        "backlit": (0.7 * side, 0.5, -0.6),
    }[kind]
    strength = {"even": 0.55, "flash": 1.0, "side": 0.95, "backlit": 1.1}.get(kind, 0.85)
    spread = {"even": 0.5, "flash": 0.14, "side": 0.24, "backlit": 0.65}.get(kind, 0.32)
    a, b = np.deg2rad(shot.light_turn)
    direction = around(1, a) @ around(0, b) @ np.array(way)
    fill_way = np.array([-np.sign(direction[0]) * 0.8, rng.uniform(-0.2, 0.4), 0.8])
    warm = np.array([1 + shot.warmth, 1.0, 1 - shot.warmth])
    cool = np.array([1 - 0.5 * shot.warmth, 1.0, 1 + 0.5 * shot.warmth])
    e = shot.exposure
    key = strength * (0.45 + 0.6 * shot.contrast) * warm * e
    ambient = spread * (1.35 - 0.8 * shot.contrast) * cool * e
    return Light(
        (direction / np.linalg.norm(direction)).astype(np.float32),
        key.astype(np.float32),
        (fill_way / np.linalg.norm(fill_way)).astype(np.float32),
        (rng.uniform(0.05, 0.3) * cool * e).astype(np.float32),
        (ambient * 1.15).astype(np.float32),
        (ambient * rng.uniform(0.35, 0.8)).astype(np.float32),
        float(rng.uniform(0.08, 0.3)),
    )


def as_in(ground: NDArray[np.uint8], light: Light) -> Light:
    """The same light, as bright as the middle of a photo is."""
    middle = ground[HEIGHT // 3 : 2 * HEIGHT // 3, WIDTH // 3 : 2 * WIDTH // 3]
    wanted = float((middle.mean() / 255) ** 2) / 0.4
    factor = wanted / max(float((light.key + light.sky).mean()), 0.05)
    return replace(
        light,
        key=light.key * factor,
        fill=light.fill * factor,
        sky=light.sky * factor,
        ground=light.ground * factor,
    )
