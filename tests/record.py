"""Golden outputs recorded from the toy bundle's own answers, and bundles that carry them.

Not a test module: `conftest.py` loads it. numpy, OpenCV and the bundle's own engines only.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from feallm.runtime.analyze import Analyzer
from feallm.runtime.backends import base
from feallm.runtime.bundle.open import Bundle, open_bundle
from feallm.runtime.contract.aus import N_AUS
from feallm.runtime.contract.expressions import N_EXPRESSIONS
from feallm.runtime.contract.geometry import CROP
from feallm.runtime.contract.manifest import MANIFEST, TensorLimit, Tolerance
from feallm.runtime.language.grammar import answer_grammar
from feallm.runtime.verify import ask, golden, golden_file, way
from feallm.runtime.verify.check import Doors
from feallm.runtime.verify.golden import Facts, Golden, Words
from feallm.runtime.verify.verdict import Result

EYES = Tolerance(
    tensors={name: TensorLimit(sqnr_db=60, max=1e-3) for name in base.VISION_OUTPUTS},
    au_same=0.999,
    expression_same=0.999,
    expression_kl=1e-5,
    intensity_icc=0.999,
    no_worse=0.995,
)
SPOKEN = Tolerance(
    tensors={"logits": TensorLimit(sqnr_db=50)},
    kl_mean=1e-5,
    kl_tail=1e-3,
    same_top=0.999,
    no_worse=0.99,
)
LIMIT = 12
"""Tokens of an answer: enough to compare, few enough to be quick."""


def crops(count: int = 12, seed: int = 1) -> np.ndarray:
    """Crops (N, H, W, 3) bright, red, blue and dark in turn, no two alike, each half of another
    brightness: every answer of the toy is among them."""
    rng = np.random.default_rng(seed)
    kinds = np.array([(220, 220, 220), (230, 40, 40), (40, 40, 230), (60, 60, 60)])
    made = np.zeros((count, CROP.height_px, CROP.width_px, 3))
    half = CROP.width_px // 2
    shade = np.linspace(0.9, 1, CROP.height_px)[:, None, None]
    for k, one in enumerate(made):
        for part in (one[:, :half], one[:, half:]):
            part[:] = (kinds[k % 4] + rng.uniform(-30, 30, 3)) * shade
    made[0] = made[0].mean(2, keepdims=True)
    return made.round().astype(np.uint8)


def facts(bundle: Bundle, crops: np.ndarray, frames: Sequence[bytes] = ()) -> Facts:
    """What answered, for pictures whose hash holds."""
    manifest = bundle.manifest
    return Facts(
        model="toy",
        checkpoint_sha256=manifest.training.checkpoint_sha256,
        device="cpu",
        dtype="float32",
        settings={"threads": "1"},
        versions={"numpy": np.__version__},
        seed=0,
        pictures=("painted",),
        sha256=golden.hash_of(frames, crops),
        command="",
        aus_trained=manifest.aus_trained,
        thresholds=manifest.thresholds,
        question=manifest.language.question if manifest.language else "",
    )


def of(
    folder: Path, crops: np.ndarray, *, frames: Sequence[np.ndarray] = (), answers: int = 0
) -> Golden:
    """What a bundle answers, as if it were the float model. The faces of `frames` are put first;
    `answers`: how many of the faces are spoken of."""
    bundle = open_bundle(folder)
    doors = Doors(bundle)
    eyes = doors.eyes(bundle.manifest.vision[0])
    encoded = [cv2.imencode(".png", one[..., ::-1])[1].tobytes() for one in frames]
    matrix, au = np.zeros((0, 2, 3)), np.zeros((0, N_AUS), np.float32)
    expression = np.zeros((0, N_EXPRESSIONS), np.float32)
    if frames:
        seen = way.look(Analyzer(bundle, vision=eyes, words=False), frames)
        assert seen.found.all(), "a face must be found in each frame"
        matrix, au, expression = seen.matrix, seen.au, seen.expression
        crops = np.concatenate([np.stack(seen.crops), crops])
    outputs = ask.outputs(eyes, crops)
    known = {"bgr": crops[..., ::-1], "mirrored": crops[:, :, ::-1], "inverted": 255 - crops}
    faults = {
        name: golden.fingerprint(ask.outputs(eyes, np.ascontiguousarray(wrong[:4])))
        for name, wrong in known.items()
    }
    eyes.close()
    labels = np.full((len(crops), N_AUS), np.nan, np.float32)
    classes = np.full(len(crops), -1, np.int64)
    classes[::2] = outputs[base.EXPRESSION][::2].argmax(1)
    words = _words(doors, outputs[base.TOKENS], answers) if answers else None
    return Golden(
        facts(bundle, crops, encoded), tuple(encoded), matrix, au, expression,
        crops, outputs, labels, classes, words, faults,
    )  # fmt: skip


def _words(doors: Doors, tokens: np.ndarray, count: int) -> Words:
    manifest = doors.bundle.manifest
    session = doors.words(manifest.language.artifacts[0])
    question = session.tokenize(f"{manifest.language.question}\n")
    grammar = answer_grammar(manifest.aus_trained)
    most = manifest.language.max_new_tokens
    answered, said, top, logit, total = [], [], [], [], []
    for row in range(count):
        said.append(ask.say(session, tokens[row], question, grammar, most))
        answer = session.tokenize(said[-1])
        text = b"".join(session.piece(token) for token in answer).decode("utf-8", "replace")
        said[-1] = text
        found = ask.logits(session, tokens[row], question, answer).astype(np.float64)
        kept = np.argsort(-found, 1, kind="stable")[:, : golden.LIKELIEST]
        answered.append(tuple(answer))
        top.append(kept)
        logit.append(np.take_along_axis(found, kept, 1).astype(np.float32))
        total.append(np.log(np.exp(found).sum(1)).astype(np.float32))
    session.close()
    return Words(
        np.arange(count), tuple(question), tuple(answered), tuple(said),
        np.concatenate(top), np.concatenate(logit), np.concatenate(total),
    )  # fmt: skip


def bundle(
    source: Path,
    folder: Path,
    toy: Any,
    reference: Golden | None,
    change: Callable[[dict[str, Any]], None] = lambda fields: None,
    *,
    tolerances: bool = True,
) -> Path:
    """A copy of a toy bundle that carries golden outputs, and tolerances for what it holds."""
    shutil.copytree(source, folder)
    fields = json.loads((folder / MANIFEST).read_bytes())
    if reference is not None:
        golden_file.write(reference, folder / golden.FILE)
        add(folder, fields, golden.FILE, "npz")
        fields["golden"] = {"artifact": golden.FILE, "crop_px": 1.5, "missed": 0}
    if tolerances:
        for name in fields["vision"]:
            fields["artifacts"][name]["tolerance"] = {"eyes": EYES.model_dump()}
        for name in (fields["language"] or {"artifacts": []})["artifacts"]:
            fields["artifacts"][name]["tolerance"] = {"words": SPOKEN.model_dump()}
    change(fields)
    toy.sign(folder, fields)
    return folder


def add(folder: Path, fields: dict[str, Any], file: str, kind: str) -> None:
    """Name a file of the folder in the manifest's fields."""
    data = (folder / file).read_bytes()
    precision = "text" if kind in ("npz", "json") else "fp32"
    fields["artifacts"][file] = {
        "file": file, "format": kind, "precision": precision,
        "sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data),
    }  # fmt: skip


class Altered:
    """An engine that is asked, or answers, otherwise."""

    def __init__(self, eyes: Any, before: Any = None, after: Any = None) -> None:
        self.eyes, self.before, self.after = eyes, before, after
        self.provider, self.closed = eyes.provider, False

    def run(self, inputs: Any) -> dict[str, np.ndarray]:
        image = inputs[base.IMAGE]
        if self.before is not None:
            image = np.ascontiguousarray(self.before(image))
        found = self.eyes.run({base.IMAGE: image})
        return found if self.after is None else self.after(dict(found))

    def close(self) -> None:
        self.closed = True
        self.eyes.close()


class Otherwise(Doors):
    """Doors behind which eyes are `Altered`."""

    def __init__(self, bundle: Bundle, *, before: Any = None, after: Any = None) -> None:
        super().__init__(bundle)
        self.before, self.after = before, after
        self.opened: list[Altered] = []

    def eyes(self, name: str) -> Altered:
        self.opened.append(Altered(super().eyes(name), self.before, self.after))
        return self.opened[-1]


def value(result: Result, what: str, tier: str | None = None) -> float:
    """The figure of the one line that is called so."""
    (found,) = [
        line.value for line in result.lines if line.what == what and tier in (None, line.tier)
    ]
    return found
