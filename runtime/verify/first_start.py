"""Ten golden faces before a bundle is used for the first time on a device, or after an update.

What was found is kept beside the bundle's digest, outside of the bundle, whose files never change;
it says nothing of anybody's face. Another bundle, engine, library or processor is checked anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from feallm.runtime.backends.choose import choose
from feallm.runtime.bundle.open import Bundle
from feallm.runtime.contract.errors import BundleError, InputError, VerificationError
from feallm.runtime.contract.manifest import Part
from feallm.runtime.verify import golden, golden_file
from feallm.runtime.verify.check import machine, verify
from feallm.runtime.verify.verdict import Report

FACES = 10


@dataclass(frozen=True, slots=True)
class Checked:
    """What is known of a bundle on this device."""

    file: Path | None  # where it is kept; None where it cannot be
    now: bool  # whether it was found out just now
    seconds: float


def check(
    bundle: Bundle,
    *,
    vision: str | None = None,
    language: str | None = None,
    words: bool = False,
    threads: int | None = None,
    folder: Path | None = None,
) -> Checked | None:
    """Make sure that what will read here answers as the golden model does; None where the bundle
    holds no golden outputs. `vision`, `language`: as `Analyzer` takes them; `words`: whether any
    will be asked for. `folder`: where results are kept, else `state_folder()`.

    Raises VerificationError, at every start, where it does not.
    """
    manifest = bundle.manifest
    if manifest.golden is None:
        return None
    used: list[tuple[Part, str]]
    used = [("eyes", choose(manifest.artifacts, manifest.vision, vision).artifact)]
    if words and manifest.language is not None:
        speaks = choose(manifest.artifacts, manifest.language.artifacts, language).artifact
        used.append(("words", speaks))
    used = [(part, name) for part, name in used if part in manifest.artifacts[name].tolerance]
    if not used:
        return None
    about = {
        "bundle": bundle.digest,
        "used": [list(one) for one in used],
        "threads": threads,
        "machine": machine(),
    }
    folder = folder or state_folder()
    file = _file(folder, about) if folder is not None else None
    if file is not None and _kept(file, about):
        return Checked(file, False, 0.0)
    few = _golden(bundle).few(FACES)
    reports = [
        verify(bundle, few, only=name, parts=(part,), threads=threads)
        for part, name in used
        if part == "eyes" or few.words is not None
    ]
    if not reports:
        return None
    if faults := [fault for report in reports for fault in _faults(report)]:
        raise VerificationError(
            f"{manifest.name} does not answer on this device as it should: {'; '.join(faults)}",
            hint=f"`feallm verify {bundle.root}` tells more",
        )
    seconds = sum(result.seconds for report in reports for result in report.results)
    kept = file is not None and _keep(file, about, reports)
    return Checked(file if kept else None, True, seconds)


def _golden(bundle: Bundle) -> golden.Golden:
    stated = bundle.manifest.golden
    assert stated is not None  # `check` looked
    try:
        return golden_file.read(bundle.file(stated.artifact))
    except InputError as error:
        raise BundleError(error.message, hint=error.hint) from error


def _faults(report: Report) -> list[str]:
    return [
        f"{result.artifact}: {', '.join([*result.faults[:2], *result.causes[:1]])}"
        for result in report.results
        if not result.passed
    ]


def state_folder() -> Path | None:
    """Where a program keeps what it found out: systemd's StateDirectory=, else the user's own; None
    for a user without a home."""
    if service := os.environ.get("STATE_DIRECTORY"):
        return Path(service.split(":")[0])
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "feallm"
    state = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(state):  # others are to be ignored, as its specification has it
        return Path(state) / "feallm"
    try:
        return Path.home() / ".local" / "state" / "feallm"
    except RuntimeError:
        return None


def _file(folder: Path, about: Mapping[str, Any]) -> Path:
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    return folder / "checked" / f"{about['bundle'][:16]}-{key[:16]}.json"


def _kept(file: Path, about: Mapping[str, Any]) -> bool:
    """Whether a good result of the very same is there. Whatever else lies there counts for none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("about") == about and found.get("passed") is True


def _keep(file: Path, about: Mapping[str, Any], reports: list[Report]) -> bool:
    """Write the result; False where this device keeps nothing, and so checks at each start."""
    figures = [_without_faces(report).as_dict() for report in reports]
    text = json.dumps({"passed": True, "about": about, "reports": figures}, indent=1)
    half = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        half.write_text(text + "\n", encoding="utf-8")
        os.replace(half, file)
    except OSError:
        with contextlib.suppress(OSError):
            half.unlink()
        return False
    return True


def _without_faces(report: Report) -> Report:
    return replace(report, results=tuple(replace(one, worst=()) for one in report.results))
