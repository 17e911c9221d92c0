"""The verb of this room: `feallm export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from feallm.runtime.contract.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from feallm.export.bundle import Faces
    from feallm.export.plan import Plan

export = typer.Typer(help="Turn a checkpoint into bundles: ONNX, GGUF, ExecuTorch, Core ML.")

DEFAULT = "laptop"


@export.callback(invoke_without_command=True)
def export_checkpoint(
    checkpoint: Annotated[Path, typer.Option(help="NAME.safetensors with its JSON beside it")],
    out: Annotated[Path, typer.Option(help="folder of the new bundle; must not exist")],
    profile: Annotated[
        str | None,
        typer.Option(help=f"{DEFAULT} (unasked), jetson-orin, jetson-nano, android or ios"),
    ] = None,
    plan: Annotated[
        Path | None, typer.Option(help="a profile of your own, in JSON", readable=False)
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="every artifact, and every profile's bundle")
    ] = False,
    packs: Annotated[
        list[str] | None,
        typer.Option("--pack", help="calibrate on this pack's faces, not on the project's renders"),
    ] = None,
    name: Annotated[str | None, typer.Option(help="of the bundle; else the network's size")] = None,
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="time and compare what was made")
    ] = True,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="compare on faces of this data file NAME.npz, or pack, too"),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            help="golden outputs to travel in the bundle; else the checkpoint's own", readable=False
        ),
    ] = None,
    golden: Annotated[
        bool, typer.Option("--golden/--no-golden", help="let golden outputs travel in the bundle")
    ] = True,
    faces: Annotated[int, typer.Option(min=20, help="at most so many of each --data")] = 1000,
) -> None:
    """Make a checkpoint's artifacts, check each against torch, and write what a profile names.

    An export that was killed goes on where it stopped, with the same command.
    """
    if sum(bool(one) for one in (profile, plan, everything)) > 1:
        raise UsageError("--profile, --plan and --all exclude one another")
    if reference is not None and not golden:
        raise UsageError("--reference and --no-golden exclude one another")
    import torch

    from feallm.export import bundle, table
    from feallm.export.report import report

    torch.set_num_threads(1)  # two that wait for each other on busy cores are ten times slower

    asked = None if everything else _plan(profile, plan)
    calibration = _calibration(packs) if packs else None
    sets = {path.stem: _judging(path, faces) for path in data or ()}
    measured = report(sets, _tell) if measure else None
    if asked is None:
        bundles = bundle.export_all(
            checkpoint,
            out,
            faces=calibration,
            name=name,
            report=measured,
            golden=reference,
            record=golden,
            tell=_tell,
        )
    else:
        made = bundle.export(
            checkpoint,
            out,
            asked,
            faces=calibration,
            name=name,
            report=measured,
            golden=reference,
            record=golden,
            tell=_tell,
        )
        bundles = {asked.name: made}
    whole = max(bundles.values(), key=lambda one: len(one.manifest.artifacts))
    if whole.manifest.report is not None:
        typer.echo(table.markdown(table.read(whole.file(whole.manifest.report))))
    for kind, made in bundles.items():
        size = sum(artifact.size_bytes for artifact in made.manifest.artifacts.values()) / 1e6
        typer.echo(f"{kind:12} {size:6.2f} MB  {made.root}  digest {made.digest}")


def _plan(profile: str | None, path: Path | None) -> Plan:
    from feallm.export import plan

    return plan.read(path) if path is not None else plan.named(profile or DEFAULT)


def _calibration(packs: list[str]) -> Faces:
    from feallm.calibration import crops
    from feallm.export.bundle import Faces
    from feallm.model.train.whole import Pack, read_all

    found = read_all([Pack.parse(text) for text in packs])
    return Faces(crops.chosen(found), crops.held_out(found), " ".join(packs))


def _judging(path: Path, count: int) -> NDArray[np.uint8]:
    """Crops (N, H, W, 3) spread over a data file, or a pack of renders."""
    import numpy as np

    from feallm.export.labelled import spread
    from feallm.model.data import pack
    from feallm.model.evaluate import sets
    from feallm.model.train.batches import still
    from feallm.runtime.contract.geometry import CROP

    if (path / pack.INDEX).is_file():
        faces = pack.read(path)
        rows = spread(np.arange(len(faces.pictures)), count)
        gray = still(faces, rows, at_points=True).numpy()
        return np.repeat(gray[..., None], 3, 3)
    labelled = sets.read(path, path.stem)
    return np.concatenate(list(sets.crops(labelled, spread(labelled.rows, count), CROP)))


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
