"""Training of the detector: seeded, resumable, one line of log every so many steps.

    python -m feallm.model.detector.train --data ../shared/data --material packs/detector \\
        --out runs/detector [--clean]
    … --out runs/detector-2 --start runs/detector/detector.safetensors --gentle --rate 5e-4 \\
        --steps 1300

The same call goes on where an interrupted one stopped. `--gentle` is for the end: half of the
pictures are whole photographs in good light, so that points become precise. `--clean` learns from
renders, London's odd ids and the CC0 portraits alone.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import pickle
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from feallm.model.detector.checkpoint import load_weights, read_page, save_weights
from feallm.model.detector.compose import compose, gentle
from feallm.model.detector.loss import Faces, decode, loss
from feallm.model.detector.network import Detector
from feallm.model.detector.scene import Composition, Picture, mirrored
from feallm.model.detector.sources import Material
from feallm.runtime.contract.errors import InputError, UsageError

STATE, WEIGHTS, LOG = "state.pt", "detector.safetensors", "log.jsonl"
_SIDES = (192, 256, 320, 448)  # one for each step
_MOST_PIXELS = 16 * 320 * 320  # of a step: fewer pictures where they are larger
# All that torch says of a file that is none of its own, or of another network.
_UNREADABLE = (
    AttributeError,
    EOFError,
    KeyError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    pickle.UnpicklingError,
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a training is made of."""

    steps: int = 16000
    batch: int = 16
    rate: float = 2e-3
    decay: float = 0.02
    warm_up: int = 300
    average: float = 0.999
    seed: int = 0
    gentle: bool = False  # compositions for the end of a training

    def rate_at(self, step: int) -> float:
        """The learning rate: up in a line, down as a cosine."""
        if step < self.warm_up:
            return self.rate * (step + 1) / self.warm_up
        share = (step - self.warm_up) / max(1, self.steps - self.warm_up)
        return self.rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))


def batch_of(scenes: list[Composition]) -> tuple[Tensor, Faces]:
    """Pictures [B, 3, H, W] and their faces."""
    pictures = torch.from_numpy(np.stack([scene.picture for scene in scenes]))
    most = max(1, max(len(scene.boxes) for scene in scenes))
    boxes = np.zeros((len(scenes), most, 4), np.float32)
    points = np.zeros((len(scenes), most, 5, 2), np.float32)
    sure = np.zeros((len(scenes), most), bool)
    alone = np.zeros((len(scenes), most), bool)
    for k, scene in enumerate(scenes):
        n = len(scene.boxes)
        boxes[k, :n], points[k, :n] = scene.boxes, scene.points
        sure[k, :n], alone[k, :n] = scene.sure, ~scene.sure
    faces = Faces(*(torch.from_numpy(part) for part in (boxes, points, sure, alone)))
    return pictures.permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last), faces


class Training:
    """Network, optimizer, average of the weights, and the step that comes next."""

    def __init__(self, recipe: Recipe) -> None:
        torch.manual_seed(recipe.seed)
        self.recipe = recipe
        self.network = Detector()
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's own gap
        decayed = [p for p in self.network.parameters() if p.ndim > 1]
        plain = [p for p in self.network.parameters() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.rate, weight_decay=recipe.decay)
        self.average = {k: v.clone() for k, v in self.network.state_dict().items()}
        self.step = 0

    def scenes(self, material: Material) -> list[Composition]:
        """The compositions of the step that comes next."""
        rng = np.random.default_rng((self.recipe.seed, self.step))
        side = int(rng.choice(_SIDES))
        count = min(self.recipe.batch, _MOST_PIXELS // side**2)
        draw = gentle if self.recipe.gentle else compose
        drawn = [draw(material, side, rng) for _ in range(count // 2)]
        return [*drawn, *(mirrored(scene) for scene in drawn)]  # drawing costs more than learning

    def learn(self, scenes: list[Composition]) -> dict[str, float]:
        """One step."""
        recipe = self.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.rate_at(self.step)
        pictures, faces = batch_of(scenes)
        self.network.train()
        with torch.autocast("cpu", torch.bfloat16):
            levels = self.network(pictures)
        parts = loss(decode(levels), faces)
        total = torch.stack(list(parts.values())).sum()
        self.optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 10.0)
        self.optimizer.step()
        self.step += 1
        keep = min(recipe.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, value in self.network.state_dict().items():
                if value.is_floating_point():
                    self.average[name].lerp_(value, 1 - keep)
                else:
                    self.average[name].copy_(value)
        return {name: float(part.detach()) for name, part in parts.items()}

    def begin_with(self, network: Detector) -> None:
        """Take over another training's weights."""
        self.network.load_state_dict(network.state_dict())
        self.average = {k: v.clone() for k, v in self.network.state_dict().items()}

    def averaged(self) -> Detector:
        """The network with its averaged weights."""
        network = Detector(self.network.config)
        network.load_state_dict(self.average)
        return network.eval()

    def save(self, path: Path, sources: list[dict[str, Any]]) -> None:
        """Write all that a later call goes on from; `sources`: what was learnt from so far."""
        partial = path.with_suffix(".partial")
        state = {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "step": self.step,
            "seed": self.recipe.seed,
            "sources": sources,
        }
        torch.save(state, partial)
        os.replace(partial, path)

    def load(self, path: Path, sources: list[dict[str, Any]]) -> None:
        """Go on from there. Raises InputError, and UsageError where something else was learnt."""
        try:
            state = torch.load(path, weights_only=True)
            self.network.load_state_dict(state["network"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average, self.step = state["average"], int(state["step"])
            learnt = state.get("seed", self.recipe.seed), state.get("sources", sources)
        except _UNREADABLE as error:
            raise InputError(
                f"{path}: no state of a training of this network", hint="remove it to begin anew"
            ) from error
        # A licence-clean file must not go on from one that saw the news photographs.
        if learnt != (self.recipe.seed, sources):
            raise UsageError(
                f"{path}: made with another seed or other sources", hint="choose another --out"
            )


def run(
    material: Material,
    out: Path,
    recipe: Recipe,
    command: str,
    *,
    start_from: Path | None = None,
    every: int = 100,
) -> Detector:
    """The trained network, from where `out` stands to the end; log, state and weights lie there.
    `start_from`: weights to begin with."""
    cv2.setNumThreads(1)
    out.mkdir(parents=True, exist_ok=True)
    training = Training(recipe)
    if start_from is not None:
        training.begin_with(load_weights(start_from))
    if (out / STATE).is_file():
        training.load(out / STATE, material.sources)
    sums: dict[str, float] = {}
    start, first = time.perf_counter(), training.step
    while training.step < recipe.steps:
        for name, value in training.learn(training.scenes(material)).items():
            sums[name] = sums.get(name, 0.0) + value
        if training.step % every == 0 or training.step == recipe.steps:
            seconds = time.perf_counter() - start
            steps = training.step - first  # fewer than `every` at the end, and after going on
            line = {name: round(value / steps, 4) for name, value in sums.items()}
            with (out / LOG).open("a") as log:
                log.write(json.dumps({"step": training.step, **line, "s": round(seconds, 1)}))
                log.write("\n")
            sums, start, first = {}, time.perf_counter(), training.step
        if training.step % (5 * every) == 0:
            training.save(out / STATE, material.sources)
    training.save(out / STATE, material.sources)
    page = {"command": command, "seed": recipe.seed, "sources": material.sources}
    network = training.averaged()
    save_weights(network, page, out / WEIGHTS)
    return network


def sheet(material: Material, count: int, side: int) -> Picture:
    """Compositions to look at, with what is taught of them: green sure, red left alone."""
    rows = []
    for k in range(count):
        scene = compose(material, side, np.random.default_rng((99, k)))
        picture = scene.picture.copy()
        for box, points, sure in zip(scene.boxes, scene.points, scene.sure, strict=True):
            tone = (0, 220, 0) if sure else (0, 0, 220)
            x0, y0, x1, y1 = (round(v) for v in box)
            cv2.rectangle(picture, (x0, y0), (x1, y1), tone, 1)
            for x, y in points:
                cv2.circle(picture, (round(x), round(y)), 1, tone, -1)
        rows.append(picture)
    wide = 8
    rows += [np.zeros_like(rows[0])] * (-len(rows) % wide)
    lines = [np.hstack(rows[k : k + wide]) for k in range(0, len(rows), wide)]
    return np.asarray(np.vstack(lines), np.uint8)


def main() -> None:
    """Train, or draw a sheet of compositions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--material", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--clean", action="store_true")
    parser.add_argument("--steps", type=int, default=Recipe().steps)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=Recipe().rate)
    parser.add_argument("--gentle", action="store_true", help="for the end of a training")
    parser.add_argument("--start", type=Path, help="weights to begin with")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sheet", type=Path, help="draw compositions instead")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    material = Material.read(asked.material, asked.data, clean=asked.clean)
    if asked.sheet is not None:
        cv2.imwrite(str(asked.sheet), sheet(material, 32, 256))
        return
    recipe = Recipe(asked.steps, rate=asked.rate, seed=asked.seed, gentle=asked.gentle)
    words = ["python -m feallm.model.detector.train", f"--steps {asked.steps}"]
    words += [f"--rate {asked.rate:g}", f"--seed {asked.seed}"]
    words += ["--clean"] * asked.clean + ["--gentle"] * asked.gentle
    if asked.start is not None:
        page = read_page(asked.start)
        words = [page["command"], "and then", *words, "--start"]
    run(material, asked.out, recipe, " ".join(words), start_from=asked.start)


if __name__ == "__main__":
    main()
