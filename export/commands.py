"""The verb of this room: `feallm export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

export = typer.Typer(help="Turn a checkpoint into a bundle: ONNX, GGUF, manifest.")


@export.callback(invoke_without_command=True)
def export_checkpoint(
    checkpoint: Annotated[Path, typer.Option(help="NAME.safetensors with its JSON beside it")],
    out: Annotated[Path, typer.Option(help="folder of the new bundle; must not exist")],
    packs: Annotated[
        list[str] | None,
        typer.Option("--pack", help="make the vision file int8, with ranges of this pack's faces"),
    ] = None,
    name: Annotated[str | None, typer.Option(help="of the bundle; else the network's size")] = None,
) -> None:
    """Export the vision network to ONNX and the language model to GGUF, hashed and checked."""
    from feallm.export import bundle

    ranges = None
    if packs:
        from feallm.calibration import crops
        from feallm.model.train.whole import Pack, read_all

        faces = read_all([Pack.parse(text) for text in packs])
        ranges = bundle.Ranges(crops.chosen(faces), crops.held_out(faces))
    made = bundle.export(checkpoint, out, ranges=ranges, name=name)
    for name, artifact in made.manifest.artifacts.items():
        size = artifact.size_bytes / 1e6
        typer.echo(f"{name:9} {artifact.file:14} {artifact.precision:5} {size:6.2f} MB")
    typer.echo(f"{made.root}  digest {made.digest}")
