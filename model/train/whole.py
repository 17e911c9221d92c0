"""The whole training of a size: eyes, words, and the words' sight; one folder, resumable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file

from feallm.model.checkpoint import Checkpoint, load, restore, save, write_atomically
from feallm.model.config import Config, size
from feallm.model.data import pack
from feallm.model.data.augment import GENTLE
from feallm.model.data.pack import Faces
from feallm.model.train import vision as seeing
from feallm.model.train.batches import Mix
from feallm.model.train.run import Average, Plan, saved
from feallm.model.train.team import Team
from feallm.model.vision import VisionNetwork
from feallm.runtime.contract.aus import AU_KEYS
from feallm.runtime.contract.errors import InputError, UsageError
from feallm.runtime.contract.expressions import N_EXPRESSIONS

if TYPE_CHECKING:
    from tokenizers import Tokenizer

EYES, RUN = "eyes.safetensors", "run.json"
STAGES = ("vision", "text", "align")


@dataclass(frozen=True, slots=True)
class Steps:
    """Steps of each stage."""

    vision: int
    text: int
    align: int


STEPS = {
    "nano": Steps(6500, 900, 1500),
    "teacher": Steps(10000, 900, 1500),
    "edge": Steps(7500, 700, 800),
    "reference": Steps(60000, 12000, 16000),
}
"""Under an hour on two cores for `nano` and `teacher`, two for `edge`; `reference` is for a GPU and
was not run yet."""


@dataclass(frozen=True, slots=True)
class Pack:
    """A pack and the share of the crops that come from it."""

    folder: Path
    share: float = 1.0
    limit: int | None = None  # of its faces

    @staticmethod
    def parse(text: str) -> Pack:
        """FOLDER, FOLDER:SHARE or FOLDER:SHARE:LIMIT; `UsageError` where it is none of these."""
        folder, *rest = text.split(":")
        try:
            share = float(rest[0]) if rest else 1.0
            limit = int(rest[1]) if len(rest) > 1 else None
        except ValueError:
            share, limit = 0.0, None
        if share <= 0 or len(rest) > 2 or (limit is not None and limit < 1):
            raise UsageError(f"--pack: expected FOLDER[:SHARE[:LIMIT]], found {text!r}")
        return Pack(Path(folder), share, limit)


def read_all(packs: Sequence[Pack]) -> Faces:
    """The faces of several packs, each up to its limit, as one."""
    return pack.join([pack.read(one.folder, one.limit) for one in packs])


@dataclass(frozen=True, slots=True)
class Job:
    """One training."""

    size: str
    packs: tuple[Pack, ...]
    out: Path
    seed: int = 0
    steps: Steps | None = None

    device: str = "cpu"
    workers: int = 0  # processes that draw crops ahead
    batch: int = 64
    teacher: Path | None = None  # a checkpoint whose answers are learnt beside the labels
    start: Path | None = None  # a checkpoint, or a training's folder, whose weights are the first
    eyes: Path | None = None  # a checkpoint whose eyes the words are for, instead of training some
    patterns: bool = False  # rendered patterns teach the expression as well
    rate: float = 2e-3  # of learning, at its highest

    @property
    def recipe(self) -> seeing.VisionRecipe:
        """How the eyes are trained: from one pack as `nano` always was, from several with points
        from several sources, pictures cut close, and intensities of rendered movements."""
        mix, several = Mix(), len(self.packs) > 1
        if several:
            shares = tuple(one.share for one in self.packs)
            mix = Mix(shares, rare=0.4, mean_share=0.25, loose=0.8, framed=0.25, drawn=GENTLE)
        return seeing.VisionRecipe(
            self.batch, mix, device=self.device, workers=self.workers, rendered=several
        )

    @property
    def plans(self) -> dict[str, Plan]:
        """Steps and rate of each stage."""
        steps = self.steps or STEPS[self.size]
        return {
            "vision": Plan(steps.vision, self.rate, min(200, steps.vision // 4 + 1), self.seed),
            "text": Plan(steps.text, 2e-3, min(100, steps.text // 4 + 1), self.seed),
            "align": Plan(steps.align, 2e-3, min(100, steps.align // 4 + 1), self.seed),
        }


def run(job: Job, stage: str = "all", command: str = "") -> Path | None:
    """Train the stage, or all of them; returns the checkpoint when all are done.

    Stages that are done already are only loaded. `text` needs no other stage, so it may run beside
    `vision` in a process of its own.
    """
    if stage not in (*STAGES, "all"):
        raise UsageError(f"no stage named {stage!r}", hint=f"there are all, {', '.join(STAGES)}")
    config, plans = size(job.size), job.plans
    faces = read_all(job.packs)
    if job.patterns:
        faces = expressed(faces)
    trained = labelled_aus(faces)
    team = Team.join(job.device)
    if team.size > 1 and stage != "vision":
        raise UsageError("several processes train the eyes alone", hint="--stage vision")
    if team.first:
        _same_job(job)
    vision = language = None
    thresholds: dict[str, float] = {}
    if stage == "vision":  # needs no library of the words
        return _eyes(job, config, faces, command)
    from feallm.model.train import words

    tokenizer = _tokenizer(config, faces, trained, job)
    given = None if job.eyes is None else load(job.eyes)
    if given is not None:
        if given.config.vision != config.vision:
            raise UsageError(f"{job.eyes}: is not of the size {job.size}")
        vision, thresholds = given.vision, given.thresholds
    elif stage in ("align", "all"):
        vision, thresholds = _train_eyes(job, config, faces)
    if stage in ("text", "align", "all"):
        language = words.train_text(
            config,
            tokenizer,
            words.au_chances(faces),
            trained,
            job.out,
            plans["text"],
            words.WordsRecipe(),
        )
    if vision is None or language is None:
        return None
    words.train_align(
        config,
        vision,
        language,
        tokenizer,
        thresholds,
        faces,
        job.out,
        plans["align"],
        words.WordsRecipe(),
    )
    found = given or _checkpoint(job, config, vision, thresholds, faces, command)
    found.config, found.language, found.tokenizer = config, language, tokenizer.to_str()
    if given is not None:
        found.training["words"] = {"command": command, **_identity(job), "eyes": _sha(job.eyes)}
    path = job.out / f"{job.size}.safetensors"
    save(found, path)
    return path


def _train_eyes(job: Job, config: Config, faces: Faces) -> tuple[VisionNetwork, dict[str, float]]:
    teacher = None if job.teacher is None else load(job.teacher).vision
    start = None if job.start is None else _first_weights(job.start)
    return seeing.train(config, faces, job.out, job.plans["vision"], job.recipe, teacher, start)


def _first_weights(path: Path) -> VisionNetwork:
    """The eyes of a checkpoint, or the average that a training's folder holds so far."""
    if not path.is_dir():
        return load(path).vision
    tensors = load_file(saved(path, "vision"))
    try:
        facts = json.loads((path / RUN).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: no readable {RUN}") from error
    config = Config.from_dict(facts["config"]) if "config" in facts else size(facts["size"])
    network = VisionNetwork(config.vision, config.language.width)
    average = Average(network, 0.0)
    try:
        restore({"average": average}, tensors)
    except RuntimeError as error:  # torch's word for tensors of other names and shapes
        raise InputError(f"{path}: its state is of another network than its {RUN} says") from error
    average.copy_to(network)
    return network


def _eyes(job: Job, config: Config, faces: Faces, command: str) -> Path:
    """Train the eyes; their checkpoint has no words, so it can teach and be scored at once."""
    vision, thresholds = _train_eyes(job, config, faces)
    path = job.out / EYES
    if Team.join(job.device).first:
        save(_checkpoint(job, config, vision, thresholds, faces, command), path)
    return path


def _checkpoint(
    job: Job,
    config: Config,
    vision: VisionNetwork,
    thresholds: dict[str, float],
    faces: Faces,
    command: str,
) -> Checkpoint:
    facts = {
        "command": command,
        **_identity(job),
        "torch": torch.__version__.split("+")[0],
        "sources": [asdict(origin) for origin in faces.origins],
    }
    trained = tuple(key for key in labelled_aus(faces) if key in thresholds)
    sided = tuple(key for key in sided_aus(faces) if key in thresholds)
    return Checkpoint(config, vision, None, None, trained, sided, thresholds, facts)


def _sha(path: Path | None) -> str | None:
    if path is None:
        return None
    return pack.sha256(saved(path, "vision") if path.is_dir() else path)


def _identity(job: Job) -> dict[str, Any]:
    """What makes a training what it is."""
    return {
        "size": job.size,
        "seed": job.seed,
        "steps": asdict(job.steps or STEPS[job.size]),
        "batch": job.batch,
        "rate": job.rate,
        "start": _sha(job.start),
        "patterns": job.patterns,
        "teacher": _sha(job.teacher),
        "packs": [
            {
                "sha256": hashlib.sha256((one.folder / pack.INDEX).read_bytes()).hexdigest(),
                "share": one.share,
                "limit": one.limit,
            }
            for one in job.packs
        ],
    }


_BEFORE = {"rate": 2e-3}
"""What older folders do not say, since there was no other."""


def _same_job(job: Job) -> None:
    """Refuse to go on with another training's states: its schedule, seed or faces would change."""
    path, mine = job.out / RUN, _identity(job)
    mine["config"] = json.loads(json.dumps(size(job.size).to_dict()))
    if path.is_file():
        found = _BEFORE | json.loads(path.read_text())
        if changed := [name for name in mine if found.get(name, mine[name]) != mine[name]]:
            raise UsageError(
                f"{job.out}: holds a training with another {', '.join(changed)}",
                hint="choose another --out",
            )
        return
    job.out.mkdir(parents=True, exist_ok=True)
    write_atomically(path, (json.dumps(mine) + "\n").encode())


PATTERN_SURE = 0.9
"""Weight of a rendered pattern's own expression; the rest goes to the others."""


def expressed(faces: Faces) -> Faces:
    """The same faces, renders with the expression that they were drawn from; one whose AUs all
    stay below A is neutral, whatever it was drawn from."""
    strongest = np.nan_to_num(faces.au_sides).max((1, 2))
    known = np.isfinite(faces.au_sides).any((1, 2))
    pattern = faces.pattern.astype(np.int64)
    rendered = np.isfinite(faces.place["pose_deg"]).all(1)  # of photographs it is not known
    pattern[rendered & known & (strongest < 1)] = 0
    chosen = np.flatnonzero(rendered & (pattern >= 0))
    expression = faces.expression.copy()
    expression[chosen] = (1 - PATTERN_SURE) / (N_EXPRESSIONS - 1)
    expression[chosen, pattern[chosen]] = PATTERN_SURE
    return replace(faces, expression=expression)


def labelled_aus(faces: Faces) -> tuple[str, ...]:
    """AUs that at least one face of the pack has a label for."""
    known = ~torch.from_numpy(faces.au_sides).isnan().all(2).all(0)
    return tuple(key for key, there in zip(AU_KEYS, known.tolist(), strict=True) if there)


def sided_aus(faces: Faces) -> tuple[str, ...]:
    """AUs whose labels tell left from right: those whose two sides differ on some face."""
    gap = np.nan_to_num(np.abs(faces.au_sides[..., 0] - faces.au_sides[..., 1]))
    return tuple(key for key, there in zip(AU_KEYS, (gap > 0.05).any(0), strict=True) if there)


def _tokenizer(config: Config, faces: Faces, trained: tuple[str, ...], job: Job) -> Tokenizer:
    from tokenizers import Tokenizer

    from feallm.model.train import words

    path = job.out / "tokenizer.json"
    if path.is_file():
        return Tokenizer.from_str(path.read_text())
    tokenizer = words.make_tokenizer(config, faces, trained, job.seed)
    job.out.mkdir(parents=True, exist_ok=True)
    write_atomically(path, tokenizer.to_str().encode())
    return tokenizer
