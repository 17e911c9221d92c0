"""Checkpoint and plans -> bundle folders. Every artifact is made once, checked against torch by
its exporter, copied into each bundle whose plan names it, and each bundle is opened as a device
would open it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feallm.export.job import Job
from feallm.export.matrix import EXPORTERS, missing
from feallm.export.plan import Plan
from feallm.export.profiles import EVERYTHING, PROFILES
from feallm.export.tolerances import CROP_PX, MISSED
from feallm.export.tolerances import of as tolerance_of
from feallm.export.workplace import Workplace, copy, remove, workplace
from feallm.model.checkpoint import Checkpoint, load
from feallm.runtime.bundle.open import SHIPPED, Bundle, measure, open_bundle
from feallm.runtime.contract.aus import AU_KEYS
from feallm.runtime.contract.errors import BackendError, LimitError
from feallm.runtime.contract.expressions import EXPRESSIONS
from feallm.runtime.contract.geometry import CROP
from feallm.runtime.contract.manifest import (
    MANIFEST,
    SCHEMA_VERSION,
    Preprocessing,
    canonical,
    digest,
)
from feallm.runtime.language.wording import QUESTIONS
from feallm.runtime.verify import golden as goldens
from feallm.runtime.verify import golden_file

NOTICE = (
    "Measures movements of a face, not feelings. Not for use at work or in education. "
    "Faces are biometric data: nothing is stored or sent that was not asked for."
)
LICENCE = "Apache-2.0"
MAX_NEW_TOKENS = 180
TOKENIZER, REPORT, DETECTOR = "tokenizer.json", "measured.json", "detector.onnx"
MOST_GOLDEN_BYTES = 2_000_000
_ANSWERS = (None, 10, 3)  # None: about every face
VARIES = {REPORT: "holds times, which this machine takes a little differently every time"}

Thresholds = dict[str, dict[str, float]]
Report = Callable[[Job, dict[str, Path], Thresholds], dict[str, Any]]
"""Measures finished artifacts by name, some with thresholds of their own: what `REPORT` holds."""


@dataclass(frozen=True, slots=True)
class Faces:
    """Crops (N, H, W, 3) uint8 RGB."""

    calibration: NDArray[np.uint8]  # ranges and importance are measured on these
    held_out: NDArray[np.uint8]  # and artifacts checked on these
    name: str  # of the set, or its hash: another set is another export


def committed() -> Faces:
    """The project's own calibration faces."""
    from feallm.calibration import faces

    found = faces.load()
    return Faces(found.crops, found.held_out, found.sha256)


def export(
    path: Path,
    out: Path,
    plan: Plan,
    *,
    faces: Faces | None = None,
    name: str | None = None,
    report: Report | None = None,
    golden: Path | None = None,
    record: bool = True,
    tell: Callable[[str], None] = lambda line: None,
) -> Bundle:
    """The bundle that a plan makes of the checkpoint at `path`, in the new folder `out`.

    faces: to calibrate on, else the committed ones. name: of the bundle, else its size. report:
    what to measure of the artifacts. golden: outputs to travel with it; else the checkpoint's own
    answers about the committed frames, where `record` says so. tell: gets a line as each artifact
    is begun.
    """
    order = _Order(path, out, faces or committed(), name, report, golden, record, tell)
    _build(order, {"": plan})
    return open_bundle(out)


def export_all(
    path: Path,
    out: Path,
    *,
    faces: Faces | None = None,
    name: str | None = None,
    report: Report | None = None,
    golden: Path | None = None,
    record: bool = True,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Bundle]:
    """Every profile's bundle in a folder of its own within the new folder `out`, and one with all
    artifacts in `out/all`."""
    plans = {plan.name: plan for plan in (*PROFILES, EVERYTHING)}
    order = _Order(path, out, faces or committed(), name, report, golden, record, tell)
    _build(order, plans)
    return {folder: open_bundle(out / folder) for folder in plans}


@dataclass(frozen=True, slots=True)
class _Order:
    """What `export` was asked for."""

    path: Path
    out: Path
    faces: Faces
    name: str | None
    report: Report | None
    golden: Path | None
    record: bool
    tell: Callable[[str], None]

    def key(self, source_sha256: str) -> str:
        """What finished files are good for: beside weights and faces, the code decides what a file
        holds, so another version starts afresh."""
        given = checkpoint_sha256(self.golden) if self.golden else None
        return json.dumps([source_sha256, self.faces.name, given, version("feallm-edge")])


def _build(order: _Order, plans: dict[str, Plan]) -> None:
    path, out, tell = order.path, order.out, order.tell
    checkpoint = load(path)
    if checkpoint.language is None or checkpoint.tokenizer is None:
        plans = {folder: plan.without_words() for folder, plan in plans.items()}
    source = checkpoint_sha256(path)
    files = list(dict.fromkeys(file for plan in plans.values() for file in plan.files))
    if order.golden is not None:
        _check_golden(order.golden)
    needed = path.stat().st_size * (4 + 4 * len(files))
    if (reason := missing(files)) is not None:  # before work that would then be for nothing
        raise reason
    with workplace(out, order.key(source), needed) as place:
        remove(place.root / "bundle")
        job = Job(checkpoint, order.faces.calibration, order.faces.held_out, place.scratch)
        made = {}
        for k, file in enumerate(files):
            tell(f"{k + 1} of {len(files)}  {file}")
            made[file] = place.once(file, partial(EXPORTERS[file].make, job))
        thresholds = _refitted(job, made)
        found = None
        if order.report is not None:
            tell("measuring")
            found = order.report(job, made, thresholds)
        golden = _golden(order, job, source, place)
        for folder, plan in plans.items():
            root = place.root / "bundle" / folder
            _assemble(job, source, plan, made, thresholds, found, golden, root, order.name)
        os.rename(place.root / "bundle", out)


def _golden(order: _Order, job: Job, source: str, place: Workplace) -> Path | None:
    """The golden outputs that are to travel, a file of the workplace."""
    if order.golden is not None:
        if golden_file.read(order.golden).facts.checkpoint_sha256 != source:
            order.tell("golden outputs of another checkpoint: the bundle is compared with that one")
        return order.golden
    if not order.record:
        return None
    from feallm.calibration import frames
    from feallm.export import reference

    def make(path: Path) -> None:
        order.tell("golden outputs")
        for answers in _ANSWERS:  # of a network that was hardly trained they are long
            recorded = reference.record(
                job.checkpoint,
                source,
                _shipped(order.name),
                frames=frames.load(),
                answers=answers,
                command="feallm export",
            )
            golden_file.write(recorded, path)
            if path.stat().st_size <= MOST_GOLDEN_BYTES:
                break
        _check_golden(path)

    return place.once(goldens.FILE, make)


def _check_golden(path: Path) -> None:
    golden_file.read(path)
    if (size := path.stat().st_size) > MOST_GOLDEN_BYTES:
        raise LimitError(
            f"{path}: golden outputs of {size / 1e6:.1f} MB; 2 MB may travel with a bundle",
            hint="`feallm verify --reference` takes any",
        )


def _refitted(job: Job, made: dict[str, Path]) -> Thresholds:
    """Thresholds of the artifacts in which so few bits are left that the float ones do not hold."""
    few = {file: path for file, path in made.items() if EXPORTERS[file].precision == "int6"}
    if not few:
        return {}
    from feallm.calibration.thresholds import refit
    from feallm.export.run import answers, float_answers
    from feallm.runtime.backends.base import AU_PROBABILITY

    crops = job.crops
    exact = float_answers(job.checkpoint.vision, crops)[AU_PROBABILITY]
    stated = job.checkpoint.thresholds
    return {
        file: refit(exact, stated, answers(path, crops)[AU_PROBABILITY])
        for file, path in few.items()
    }


def _assemble(
    job: Job,
    source_sha256: str,
    plan: Plan,
    made: dict[str, Path],
    thresholds: Thresholds,
    found: dict[str, Any] | None,
    golden: Path | None,
    root: Path,
    name: str | None,
) -> None:
    """Write one bundle and open it. `LimitError` where it is larger than its plan allows."""
    root.mkdir(parents=True)
    artifacts: dict[str, Any] = {}
    for file in plan.files:
        copy(made[file], root / file)
        artifacts[file] = artifact_of(root, file, EXPORTERS[file].format, EXPORTERS[file].precision)
        if file in plan.only_on:
            artifacts[file]["only_on"] = plan.only_on[file]
        if file in thresholds:
            artifacts[file]["thresholds"] = thresholds[file]
        stated = {part: one.model_dump() for part, one in tolerance_of(file).items()}
        artifacts[file]["tolerance"] = stated
    fields = _fields(job.checkpoint, source_sha256, plan, name)
    if plan.language and job.checkpoint.tokenizer is not None:
        (root / TOKENIZER).write_text(job.checkpoint.tokenizer, encoding="utf-8")
        artifacts[TOKENIZER] = artifact_of(root, TOKENIZER, "json", "text")
        fields["language"]["tokenizer"] = TOKENIZER
    artifacts[DETECTOR], fields["detector"] = _detector(root, name)
    if found is not None:
        rows = [row for row in found["artifacts"] if row["file"] in plan.files]
        text = json.dumps({**found, "artifacts": rows}, indent=1) + "\n"
        (root / REPORT).write_text(text, encoding="utf-8")
        artifacts[REPORT] = artifact_of(root, REPORT, "json", "text")
        fields |= {"report": REPORT, "varies": VARIES}
    if golden is not None:
        copy(golden, root / goldens.FILE)
        artifacts[goldens.FILE] = artifact_of(root, goldens.FILE, "npz", "fp32")
        fields["golden"] = {"artifact": goldens.FILE, "crop_px": CROP_PX, "missed": MISSED}
    write_manifest(root, {**fields, "artifacts": artifacts})
    size = sum(artifact["size_bytes"] for artifact in artifacts.values())
    if size > plan.size_mb * 1e6:
        raise LimitError(
            f"the bundle for {plan.name} takes {size / 1e6:.1f} MB, {plan.size_mb} MB at most"
        )
    open_bundle(root)


def _shipped(name: str | None) -> Bundle:
    """The shipped bundle of this name, or the first."""
    return open_bundle(Path(name) if name in SHIPPED else None)


def _detector(root: Path, name: str | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The face detector of the shipped bundle: a phone has no other to borrow it from."""
    shipped = _shipped(name)
    stated = shipped.manifest.detector
    if stated is None:
        raise BackendError(f"{shipped.root}: no face detector in it")
    copy(shipped.file(stated.artifact), root / DETECTOR)
    artifact = artifact_of(root, DETECTOR, "onnx", "fp16")
    return artifact, {**stated.model_dump(), "artifact": DETECTOR}


def write_manifest(root: Path, fields: dict[str, Any]) -> None:
    """The manifest of these fields, with the digest that belongs to them."""
    # Through JSON once, so that the digest is taken of what the file will hold.
    plain: dict[str, Any] = json.loads(canonical(fields))
    plain["digest"] = digest(plain)
    (root / MANIFEST).write_bytes(canonical(plain))


def checkpoint_sha256(path: Path) -> str:
    """Hash of a checkpoint's tensors."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def artifact_of(folder: Path, file: str, kind: str, precision: str) -> dict[str, Any]:
    """What a manifest says of one file, or folder, of a bundle."""
    size, sha256 = measure(folder / file, absent=f"{folder / file}: was not written")
    return {
        "file": file,
        "format": kind,
        "precision": precision,
        "sha256": sha256,
        "size_bytes": size,
    }


def _calibrated(checkpoint: Checkpoint) -> bool:
    """Whether every trained AU's intensity was fitted."""
    fitted = checkpoint.training.get("calibrated_on", {}).get("intensities", [])
    return bool(checkpoint.aus_trained) and set(checkpoint.aus_trained) <= set(fitted)


def _fields(
    checkpoint: Checkpoint, source_sha256: str, plan: Plan, name: str | None
) -> dict[str, Any]:
    """All that a manifest says but of its files."""
    config, training = checkpoint.config, checkpoint.training
    language = None
    if plan.language:
        language = {
            "artifacts": plan.language,
            "visual_tokens": config.vision.tokens + 1,
            "width": config.language.width,
            "question": QUESTIONS[0],
            "max_new_tokens": MAX_NEW_TOKENS,
            "context": config.language.context,
        }
    return {
        "schema_version": SCHEMA_VERSION,
        "name": f"feallm-{name or config.size}",
        "version": version("feallm-edge"),
        "licence": LICENCE,
        "geometry": {
            "width_px": CROP.width_px,
            "height_px": CROP.height_px,
            "points_px": CROP.points_px,
            "border": CROP.border,
        },
        "preprocessing": Preprocessing().model_dump(),
        "regions": [region.name for region in config.vision.regions],
        "aus": list(AU_KEYS),
        "aus_trained": list(checkpoint.aus_trained),
        "aus_sided": list(checkpoint.aus_sided),
        "expressions": list(EXPRESSIONS),
        "thresholds": checkpoint.thresholds,
        "intensity_calibrated": _calibrated(checkpoint),
        "vision": plan.vision,
        "language": language,
        "profile": plan.profile().model_dump(),
        "training": {
            "size": config.size,
            "command": training.get("command", ""),
            "seed": training.get("seed", 0),
            "checkpoint_sha256": source_sha256,
            "sources": training.get("sources", []),
        },
        "notice": NOTICE,
    }
