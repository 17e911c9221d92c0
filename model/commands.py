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
calibrate = typer.Typer(help="Fit a checkpoint's thresholds and intensities.")
evaluate = typer.Typer(help="Score a bundle, one of its files or a checkpoint on labelled faces.")


SharedData = Annotated[Path, typer.Option("--data", help="folder of the shared data")]


@data.command("pack")
def pack(
    shared: SharedData,
    out: Annotated[Path, typer.Option(help="folder of the new pack")],
    clean: Annotated[
        bool, typer.Option("--clean", help="only what is openly licensed: London's odd ids, CC0")
    ] = False,
    coded: Annotated[
        bool, typer.Option("--coded", help="only the photographs whose AUs a reader coded")
    ] = False,
) -> None:
    """Write what may be trained on into compact WebP packs of at most 25 MiB a part."""
    from feallm.model.data import pack, sources

    if clean and coded:
        raise UsageError("--clean and --coded are two packs")
    if coded:
        rows = [sources.coded_learn(shared)]
    elif clean:
        rows = [sources.london_train(shared), sources.cc0_train(shared)]
    else:
        rows = [
            sources.fer_train(shared),
            sources.lfw_train(shared),
            sources.lfw_train(shared, "lfw_more"),
        ]
    for part in pack.write(rows, out):
        typer.echo(f"{part}  {part.stat().st_size / 2**20:.1f} MiB")


@data.command("teacher")
def teacher(
    shared: SharedData,
    out: Annotated[Path, typer.Option(help="data file .npz to write")],
) -> None:
    """Write FER+ `valid` with its pseudo-AUs: `evaluate` then says how far the AU heads agree with
    their teacher, which is not how right they are."""
    import numpy as np

    from feallm.model.data import archive, pseudo

    arrays = archive.read(shared / "fer" / "valid.npz", "images", "offsets", "votes")
    marks = pseudo.read(shared / "fer" / "mediapipe_valid.npz")
    au = marks.intensity.max(2).clip(0, 5)  # NaN stays NaN: not known
    np.savez(out, images=arrays["images"], offsets=arrays["offsets"], votes=arrays["votes"], au=au)
    typer.echo(f"{out}  {int(marks.found.sum())} of {len(au)} faces with pseudo-AUs")


@data.command("render")
def render(
    n: Annotated[int, typer.Option(min=1, help="number of faces")],
    seed: Annotated[int, typer.Option(min=0, help="other seeds give other people")],
    out: Annotated[Path, typer.Option(help="folder of the pack")],
    shared: SharedData = Path("../shared/data"),
    head: Annotated[
        Path | None, typer.Option(help="ICT-FaceKit's folder, or an .npz, in place of the shared")
    ] = None,
    frozen: Annotated[
        bool, typer.Option("--frozen", help="people and mix of the frozen test set")
    ] = False,
    photos: Annotated[
        Path | None, typer.Option(help="bank of neutral photographs to move instead")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="processes; else one a core")] = None,
) -> None:
    """Draw faces with action units known from the head's geometry; resumes where it was stopped."""
    import os

    from rich.progress import Progress

    from feallm.model.synth import pack

    grounds = shared / "backgrounds" / "backgrounds.npz"
    job = pack.Job(
        head or shared / "head" / "ict_head.npz",
        grounds if grounds.is_file() else None,
        n,
        seed,
        frozen,
        photos,
    )
    done = 0
    with Progress(transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("faces", total=n)

        def step(count: int) -> None:
            nonlocal done
            done += count
            bar.advance(task, count)

        try:
            parts = pack.make(job, out, workers=workers or os.cpu_count() or 1, step=step)
        except KeyboardInterrupt:
            bar.stop()
            typer.echo(
                f"interrupted: {done} of {n} faces are drawn; the same call goes on", err=True
            )
            raise
    if job.backgrounds is None:
        typer.echo(f"{grounds}: not there, so every ground is plain", err=True)
    size = sum(part.stat().st_size for part in parts) / 2**20
    typer.echo(f"{out}  {n} faces in {len(parts)} parts, {size:.1f} MiB")


@data.command("bank")
def bank(
    out: Annotated[Path, typer.Option(help="data file .npz to write")],
    shared: SharedData = Path("../shared/data"),
    points: Annotated[
        Path | None, typer.Option(help="points of LFW, London and CC0 (synth/landmarks.py)")
    ] = None,
) -> None:
    """Collect neutral photographs whose faces `render --photos` may move."""
    from feallm.model.synth import bank

    found = bank.collect(shared, points)
    bank.write(found, out)
    typer.echo(f"{out}  {len(found.names)} neutral faces")


@data.command("sheet")
def sheet(
    source: Annotated[Path, typer.Option("--pack", help="folder of a pack")],
    out: Annotated[Path, typer.Option(help="PNG or JPEG to write")],
    au: Annotated[str | None, typer.Option(help="rows of rising intensity of one AU")] = None,
    seed: Annotated[int, typer.Option(min=0, help="other seeds show other faces")] = 1,
) -> None:
    """Draw a contact sheet of a pack, to look at: 64 random faces, or one AU's scale."""
    from feallm.model.data import pack, sheet

    if au is not None and au not in AU_INDEX:
        raise UsageError(f"no action unit named {au!r}", hint=f"there are {', '.join(AU_INDEX)}")
    faces = pack.read(source)
    drawn = (
        sheet.random_sheet(faces, seed=seed)
        if au is None
        else sheet.scale_sheet(faces, au, seed=seed)
    )
    sheet.write_sheet(out, drawn)


@data.command("agreement")
def agreement(
    first: Annotated[Path | None, typer.Option("--a", help="codes; else the committed A")] = None,
    second: Annotated[Path | None, typer.Option("--b", help="codes; else the committed B")] = None,
    common: Annotated[
        bool, typer.Option("--common", help="leave out faces that only one of them coded")
    ] = False,
) -> None:
    """Print how far two readers agree, AU by AU (Cohen's kappa): those of the coded test faces,
    where no others are named."""
    from feallm.model.coded import codes
    from feallm.model.evaluate import coded, show

    default = coded.code_files("test")
    a, b = (codes.read(chosen or own) for chosen, own in zip((first, second), default, strict=True))
    if common:
        a, b = a.within(b.ids), b.within(a.ids)
    show.agreement(codes.agreement(a, b))


@data.command("freeze")
def freeze(
    shared: SharedData,
    renders: Annotated[Path | None, typer.Option(help="folder of a pack of renders")] = None,
    again: Annotated[bool, typer.Option("--again", help="change what is frozen already")] = False,
) -> None:
    """Freeze the sets that `evaluate` knows by name: size and hash of each, to be committed."""
    from feallm.model.evaluate import frozen, named

    found, left_out = named.entries(shared, renders)
    changed = frozen.freeze(found, again=again)
    for name, entry in found.items():
        word = "frozen" if name in changed else "as it was frozen"
        typer.echo(f"{name}  {entry.n} faces, sha256 {entry.sha256[:12]}…, {word}")
    for line in left_out:
        typer.echo(line)


@train.callback(invoke_without_command=True)
def train_size(
    packs: Annotated[
        list[str],
        typer.Option("--pack", help="folder of a pack, may be repeated: FOLDER[:SHARE[:LIMIT]]"),
    ],
    out: Annotated[Path, typer.Option(help="folder of the run: log, states, checkpoint")],
    size: Annotated[str, typer.Option(help="nano, teacher, edge or reference")] = "nano",
    stage: Annotated[str, typer.Option(help="all, vision, text or align")] = "all",
    seed: int = 0,
    threads: Annotated[int, typer.Option(min=1, help="threads of torch")] = 2,
    steps: Annotated[
        str | None, typer.Option(help="steps of vision,text,align in place of the size's")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda; of the eyes alone")] = "cpu",
    workers: Annotated[
        int, typer.Option(min=0, help="processes that draw crops ahead of the eyes")
    ] = 0,
    batch: Annotated[int, typer.Option(min=1, help="crops of a step of the eyes")] = 64,
    teacher: Annotated[
        Path | None, typer.Option(help="checkpoint whose answers are learnt beside the labels")
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(help="checkpoint, or folder of a run, of this size or a smaller one to start"),
    ] = None,
    eyes: Annotated[
        Path | None, typer.Option(help="checkpoint whose eyes the words are for; none are trained")
    ] = None,
    patterns: Annotated[
        bool, typer.Option("--patterns", help="rendered patterns teach the expression as well")
    ] = False,
    rate: Annotated[
        float, typer.Option(min=0, help="of the eyes' learning, at its highest")
    ] = 2e-3,
) -> None:
    """Train the eyes, then the words, then what the words see."""
    import torch

    from feallm.model.train import whole

    torch.set_num_threads(threads)
    chosen = None
    if steps is not None:
        try:
            vision, text, align = (int(part) for part in steps.split(","))
        except ValueError:
            vision = text = align = 0
        if min(vision, text, align) < 1:
            raise UsageError(f"--steps: expected three numbers from 1, found {steps!r}")
        chosen = whole.Steps(vision, text, align)
    job = whole.Job(
        size,
        tuple(whole.Pack.parse(text) for text in packs),
        out,
        seed,
        chosen,
        device=device,
        workers=workers,
        batch=batch,
        teacher=teacher,
        start=start,
        eyes=eyes,
        patterns=patterns,
        rate=rate,
    )
    command = shlex.join(["feallm", *sys.argv[1:]])
    path = whole.run(job, stage, command)
    typer.echo(f"checkpoint: {path}" if path else f"stage {stage} is done")


@calibrate.callback(invoke_without_command=True)
def calibrate_checkpoint(
    checkpoint: Annotated[Path, typer.Option(help="checkpoint to start from")],
    packs: Annotated[
        list[str],
        typer.Option("--pack", help="the packs that it was trained on: FOLDER[:…[:LIMIT]]"),
    ],
    out: Annotated[Path, typer.Option(help="checkpoint to write, .safetensors")],
    shared: SharedData = Path("../shared/data"),
    source: Annotated[
        list[str] | None,
        typer.Option(help="sources of the coded faces that are looked at; else all of them"),
    ] = None,
) -> None:
    """Fit thresholds and intensities on held-out renders and real faces of `train`."""
    from feallm.model.checkpoint import load, save
    from feallm.model.train import whole
    from feallm.model.train.calibrate import calibrated

    faces = whole.read_all([whole.Pack.parse(text) for text in packs])
    sources = tuple(source or ("fer", "lfw", "london"))
    found = calibrated(load(checkpoint), faces, shared, sources)
    save(found, out)
    for key, value in found.thresholds.items():
        typer.echo(f"{key:5} {value:.2f}")


@evaluate.callback(invoke_without_command=True)
def evaluate_split(
    source: Annotated[
        Path,
        typer.Option(
            "--data",
            help="data file .npz, or a folder of them; shared data; a pack of renders",
            readable=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--json", help="figures to write")],
    split: Annotated[
        str,
        typer.Option(
            help="london-even, lfw-test, coded-test, coded-train, coded-more, coded-neutral or "
            "renders-frozen, which are frozen; else a name of yours: in a folder, NAME.npz"
        ),
    ],
    bundle: Annotated[Path | None, typer.Option(help="bundle; without it, the shipped one")] = None,
    artifact: Annotated[
        str | None, typer.Option(help="one of the bundle's files; a GGUF reads the texts too")
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="torch checkpoint instead")] = None,
    predictions: Annotated[Path | None, typer.Option(help="CSV of the answers")] = None,
    words: Annotated[bool, typer.Option("--words", help="read the raw texts too (slow)")] = False,
    detector: Annotated[
        Path | None,
        typer.Option(
            help="find the faces first, as `analyze` does, with this file, or with the bundle's "
            "by the word own (expressions)"
        ),
    ] = None,
    looks: Annotated[
        int,
        typer.Option(min=1, max=2, help="2 as photographs are read, 1 as frames of a video are"),
    ] = 2,
) -> None:
    """Print and write accuracy, macro F1 and figures per AU; --words adds the texts' figures."""
    import json

    from rich.progress import Progress

    from feallm.model.evaluate import named, run, show, through

    if checkpoint is not None and (artifact is not None or words):
        raise UsageError(
            "--checkpoint scores the eyes of a checkpoint",
            hint="--artifact and --words ask for a bundle; export the checkpoint first",
        )
    if looks == 1 and detector is not None:
        raise UsageError("--detector reads photographs as `analyze` does, which takes two looks")
    labelled = named.read(source, split)
    scoring, of_words = run.analyzer_for(bundle, artifact, checkpoint, detector)
    words = words or of_words
    with scoring as analyzer:
        total = len(labelled.rows) * (looks + words + 2 * (detector is not None))
        with Progress(transient=True, disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task(split, total=total)
            scored = run.run(
                analyzer,
                labelled,
                split,
                words=words,
                looks=looks,
                step=lambda count: bar.advance(task, count),
            )
            if detector is not None:
                ways = {"through": through.framed, "through_as_stored": through.as_stored}
                for way, laid in ways.items():
                    scored.figures[way] = through.score(
                        analyzer, labelled, lambda count: bar.advance(task, count), laid
                    )
        if checkpoint is not None:
            scored.figures["bundle"] = None  # none was scored: it only lent its crop
        scored.figures["artifact"] = artifact or (
            "vision" if checkpoint is None else checkpoint.name
        )
        if predictions is not None:
            trained = analyzer.bundle.manifest.aus_trained
            _write(predictions, run.predictions(scored, trained))
    _write(out, json.dumps(scored.figures, indent=1) + "\n")
    show.figures(scored.figures)


def _write(path: Path, text: str) -> None:
    """A text file, whole or not at all."""
    import os

    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written: {error.strerror}") from error
