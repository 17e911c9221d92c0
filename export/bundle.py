"""Checkpoint -> bundle folder: written beside, checked by opening it, then renamed into place."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feallm.model.checkpoint import Checkpoint, load
from feallm.runtime.backends import llama
from feallm.runtime.bundle.open import Bundle, open_bundle
from feallm.runtime.contract.aus import AU_KEYS
from feallm.runtime.contract.errors import LimitError, UsageError
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

NOTICE = (
    "Measures movements of a face, not feelings. Not for use at work or in education. "
    "Faces are biometric data: nothing is stored or sent that was not asked for."
)
LICENCE = "Apache-2.0"
MAX_NEW_TOKENS = 180
VISION_FILE, INT8_FILE, LANGUAGE_FILE = "vision.onnx", "vision.int8.onnx", "language.gguf"


@dataclass(frozen=True, slots=True)
class Ranges:
    """Crops (N, H, W, 3) for an int8 vision file: to measure ranges on, and to check it with."""

    measured: NDArray[np.uint8]
    checked: NDArray[np.uint8]


def export(
    path: Path, out: Path, *, ranges: Ranges | None = None, name: str | None = None
) -> Bundle:
    """The bundle of the checkpoint at `path`, in the new folder `out`."""
    if out.exists():
        raise UsageError(f"{out}: exists already", hint="choose another folder, or remove it")
    return build(load(path), checkpoint_sha256(path), out, ranges=ranges, name=name)


def checkpoint_sha256(path: Path) -> str:
    """Hash of a checkpoint's tensors."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def build(
    checkpoint: Checkpoint,
    source_sha256: str,
    out: Path,
    *,
    ranges: Ranges | None = None,
    name: str | None = None,
) -> Bundle:
    """Write a bundle beside `out`, check it, and rename it; nothing is half there.

    Checked: hashes, ONNX against torch, and llama.cpp against torch where it is installed. With
    `ranges` the vision file is int8, made from the float file that was checked. `name`: of the
    bundle, else its size.
    """
    from feallm.export import int8, parity
    from feallm.export.gguf import export_language
    from feallm.export.onnx import agree, export_vision

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise UsageError(f"{out}: cannot be written: {error.strerror or error}") from error
    try:
        export_vision(checkpoint.vision, work / VISION_FILE)
        agree(checkpoint.vision, work / VISION_FILE)
        files = {"vision": (VISION_FILE, "onnx", "fp32")}
        if ranges is not None:
            int8.quantize(work / VISION_FILE, ranges.measured, work / INT8_FILE)
            (work / VISION_FILE).unlink()
            int8.agree(checkpoint.vision, work / INT8_FILE, ranges.checked)
            files = {"vision": (INT8_FILE, "onnx", "int8")}
        if checkpoint.language is not None and checkpoint.tokenizer is not None:
            export_language(checkpoint.language, checkpoint.tokenizer, work / LANGUAGE_FILE)
            files["language"] = (LANGUAGE_FILE, "gguf", "fp16")
        artifacts = {name: artifact_of(work, *facts) for name, facts in files.items()}
        fields = _fields(checkpoint, source_sha256, artifacts, name)
        fields["digest"] = digest(fields)
        (work / MANIFEST).write_text(json.dumps(fields, indent=1, sort_keys=True) + "\n")
        bundle = open_bundle(work)
        if bundle.manifest.language is not None and llama.available() is None:
            parity.agree(checkpoint, bundle)
        work.chmod(0o755)
        os.rename(work, out)
    except OSError as error:
        raise LimitError(f"{out}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return open_bundle(out)


def artifact_of(folder: Path, file: str, kind: str, precision: str) -> dict[str, Any]:
    """What a manifest says of one file of the folder."""
    data = (folder / file).read_bytes()
    return {
        "file": file,
        "format": kind,
        "precision": precision,
        "sha256": hashlib.sha256(data).hexdigest(),
        "size_bytes": len(data),
    }


def _calibrated(checkpoint: Checkpoint) -> bool:
    """Whether every trained AU's intensity was fitted."""
    fitted = checkpoint.training.get("calibrated_on", {}).get("intensities", [])
    return bool(checkpoint.aus_trained) and set(checkpoint.aus_trained) <= set(fitted)


def _fields(
    checkpoint: Checkpoint, source_sha256: str, artifacts: dict[str, Any], name: str | None
) -> dict[str, Any]:
    config, training = checkpoint.config, checkpoint.training
    language = None
    if "language" in artifacts:
        language = {
            "artifact": "language",
            "visual_tokens": config.vision.tokens + 1,
            "width": config.language.width,
            "question": QUESTIONS[0],
            "max_new_tokens": MAX_NEW_TOKENS,
            "context": config.language.context,
        }
    fields = {
        "schema_version": SCHEMA_VERSION,
        "name": f"feallm-{name or config.size}",
        "version": version("feallm-edge"),
        "digest": "0" * 64,
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
        "artifacts": artifacts,
        "vision": "vision",
        "language": language,
        "training": {
            "size": config.size,
            "command": training.get("command", ""),
            "seed": training.get("seed", 0),
            "checkpoint_sha256": source_sha256,
            "sources": training.get("sources", []),
        },
        "notice": NOTICE,
    }
    # Through JSON once, so that the digest is taken of what the file will hold.
    plain: dict[str, Any] = json.loads(canonical(fields))
    return plain
