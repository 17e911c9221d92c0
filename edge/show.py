"""`feallm bundle show`: what a bundle holds, after it was checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from feallm.edge.terminal import results
from feallm.runtime.backends.choose import choose
from feallm.runtime.bundle.open import open_bundle
from feallm.runtime.contract.errors import BackendError
from feallm.runtime.contract.manifest import Manifest


def _choice(manifest: Manifest, names: Sequence[str]) -> str:
    """Which of these artifacts this machine would run, and why."""
    try:
        choice = choose(manifest.artifacts, names)
    except BackendError as error:
        return f"none: {error.message}"
    return f"{choice.artifact} with {choice.engine}: {choice.why}"


def show_bundle(folder: Path | None, *, as_json: bool) -> None:
    """Print a bundle's contents. Raises BundleError where it is not whole."""
    bundle = open_bundle(folder)
    manifest = bundle.manifest
    if as_json:
        print(manifest.model_dump_json())
        return
    missing = [key for key in manifest.aus if key not in manifest.aus_trained]
    geometry = manifest.geometry
    lines = [
        ("folder", str(bundle.root)),
        ("name", f"{manifest.name} {manifest.version}"),
        ("digest", bundle.digest),
        ("signed by", bundle.signer or "nobody"),
        ("licence", manifest.licence),
        ("crop", f"{geometry.width_px} x {geometry.height_px} px"),
        ("action units", " ".join(manifest.aus_trained)),
        ("not measured", " ".join(missing) or "none"),
        ("intensities", "calibrated" if manifest.intensity_calibrated else "uncalibrated"),
        ("expressions", " ".join(manifest.expressions)),
    ]
    for name, part in manifest.artifacts.items():
        size = f"{part.size_bytes / 1e6:.1f} MB"
        lines.append((name, f"{part.file}, {part.format} {part.precision}, {size}, as stated"))
    if manifest.profile is not None:
        lines.append(("made for", manifest.profile.name))
    lines += [("eyes here", _choice(manifest, manifest.vision))]
    if manifest.language is not None:
        lines.append(("words here", _choice(manifest, manifest.language.artifacts)))
        lines.append(("words", f"{manifest.language.visual_tokens} visual tokens"))
    training = manifest.training
    lines.append(("trained by", f"{training.command} (seed {training.seed})"))
    for source in training.sources:
        lines.append(("trained on", f"{source.name}: {source.rows} rows, {source.licence}"))
    lines.append(("notice", " ".join(manifest.notice.split())))
    console = results()
    for name, value in lines:
        console.print(f"{name:<14}{value}", soft_wrap=True)
