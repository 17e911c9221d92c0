"""The workshop's verbs of this room: `feallm data`, `feallm train`, `feallm evaluate`.

torch is imported inside the verbs, never by this module: `evaluate` works without it.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from feallm.runtime.contract.aus import AU_INDEX
from feallm.runtime.contract.errors import UsageError

data = typer.Typer(help="Make packs of faces and look at them.", no_args_is_help=True)
train = typer.Typer(help="Train a size of the network; resumes where it was stopped.")
evaluate = typer.Typer(help="Score a bundle, one of its files or a checkpoint on labelled faces.")


@data.command("pack")
def pack(
    shared: Annotated[Path, typer.Option("--data", help="folder of the shared data")],
    out: Annotated[Path, typer.Option(help="folder of the new pack")],
) -> None:
    """Write what may be trained on into compact WebP packs of at most 25 MiB a part."""
    from feallm.model.data import pack, sources

    rows = [
        sources.fer_train(shared),
        sources.lfw_train(shared),
        sources.lfw_train(shared, "lfw_more"),
    ]
    for part in pack.write(rows, out):
        typer.echo(f"{part}  {part.stat().st_size / 2**20:.1f} MiB")


@data.command("sheet")
def sheet(
    source: Annotated[Path, typer.Option("--pack", help="folder of a pack")],
    au: Annotated[str, typer.Option(help="action unit, as AU12")],
    out: Annotated[Path, typer.Option(help="PNG or JPEG to write")],
    seed: int = 1,
) -> None:
    """Draw faces in rows of rising pseudo-intensity of one AU."""
    from feallm.model.data import pack, sheet

    if au not in AU_INDEX:
        raise UsageError(f"no action unit named {au!r}", hint=f"there are {', '.join(AU_INDEX)}")
    sheet.write_sheet(out, sheet.scale_sheet(pack.read(source), au, seed=seed))


@train.callback(invoke_without_command=True)
def train_size(
    source: Annotated[Path, typer.Option("--pack", help="folder of a pack")],
    out: Annotated[Path, typer.Option(help="folder of the run: log, states, checkpoint")],
    size: Annotated[str, typer.Option(help="nano, edge or reference")] = "nano",
    stage: Annotated[str, typer.Option(help="all, vision, text or align")] = "all",
    seed: int = 0,
    threads: Annotated[int, typer.Option(help="threads of torch")] = 2,
    steps: Annotated[
        str | None, typer.Option(help="steps of vision,text,align in place of the size's")
    ] = None,
) -> None:
    """Train the eyes, then the words, then what the words see."""
    import torch
    from feallm.model.train import whole

    torch.set_num_threads(threads)
    chosen = None
    if steps is not None:
        try:
            chosen = whole.Steps(*(int(part) for part in steps.split(",")))
        except (TypeError, ValueError) as error:
            raise UsageError(f"--steps: expected three numbers, found {steps!r}") from error
    job = whole.Job(size, source, out, seed, chosen)
    command = shlex.join(["feallm", *sys.argv[1:]])
    path = whole.run(job, stage, command)
    typer.echo(f"checkpoint: {path}" if path else f"stage {stage} is done")
