"""`feallm bundle show`: what a bundle holds, after it was checked."""

from __future__ import annotations

from pathlib import Path

from feallm.edge.terminal import results
from feallm.runtime.bundle.open import open_bundle


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
    if manifest.language is not None:
        lines.append(("words", f"{manifest.language.visual_tokens} visual tokens"))
    training = manifest.training
    lines.append(("trained by", f"{training.command} (seed {training.seed})"))
    for source in training.sources:
        lines.append(("trained on", f"{source.name}: {source.rows} rows, {source.licence}"))
    lines.append(("notice", " ".join(manifest.notice.split())))
    console = results()
    for name, value in lines:
        console.print(f"{name:<14}{value}", soft_wrap=True)
