"""The verb `feallm reference`: golden outputs of a float checkpoint, and how far two of them lie
apart."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from feallm.runtime.contract.errors import LimitError, UsageError

BYTES, BYTES_OF_FACE = 1_000_000, 60_000
"""Of disk that a recording takes at least: of 30 frames 1.9 MB, of 1,000 faces 37 MB."""

reference = typer.Typer(
    help="Record what a float checkpoint answers; compare two recordings.", no_args_is_help=True
)


@reference.command("record")
def record(
    out: Annotated[Path, typer.Option(help="file of golden outputs (.npz) to write")],
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="NAME.safetensors with its JSON beside it; else the shipped edge"),
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="faces of this data file NAME.npz, or pack of renders, too"),
    ] = None,
    faces: Annotated[int | None, typer.Option(min=1, help="at most so many of each --data")] = None,
    frames: Annotated[
        bool, typer.Option("--frames/--no-frames", help="the project's own whole frames")
    ] = True,
    answers: Annotated[
        int | None, typer.Option(min=0, help="faces that are spoken of; else all")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32 or float64")] = "float32",
    threads: Annotated[int, typer.Option(min=1, help="threads of torch")] = 1,
    onednn: Annotated[bool, typer.Option("--onednn/--no-onednn", help="torch's oneDNN")] = True,
    bundle: Annotated[
        Path | None, typer.Option(help="whose detector looks at the frames; else the shipped one's")
    ] = None,
) -> None:
    """Record golden outputs: AUs, expressions, visual tokens, answers, the logits that chose them.

    The file holds the pictures too. Do not pass on one that was made of faces which must stay.
    """
    if device not in ("cpu", "cuda"):
        raise UsageError(f"no device {device!r}", hint="cpu or cuda")
    if dtype not in ("float32", "float64"):
        raise UsageError(f"no dtype {dtype!r}", hint="float32 or float64")
    if not frames and not data:
        raise UsageError("no pictures: --no-frames needs --data")
    with _partial(out) as half:  # before torch and the pictures are loaded
        _reserve(half, BYTES)
    from feallm.calibration import frames as own
    from feallm.export import labelled
    from feallm.export import reference as room
    from feallm.export.bundle import checkpoint_sha256
    from feallm.model.checkpoint import load
    from feallm.runtime.bundle.open import open_bundle
    from feallm.runtime.verify import golden_file

    pictures = [labelled.read(one, faces) for one in data or ()]
    with _partial(out) as half:
        _reserve(half, BYTES + BYTES_OF_FACE * sum(len(one.crops) for one in pictures))
    path = checkpoint or Path(__file__).parents[1] / "model" / "checkpoints" / "edge.safetensors"
    found = room.record(
        load(path),
        checkpoint_sha256(path),
        open_bundle(bundle),
        frames=own.load() if frames else None,
        faces=pictures,
        answers=answers,
        settings=room.Settings(device, dtype, threads, onednn),
        command=" ".join(["feallm", *sys.argv[1:]]),
        tell=_tell,
    )
    with _partial(out) as half:
        golden_file.write(found, half)
        os.replace(half, out)
    spoken = len(found.words.spoken) if found.words else 0
    size = out.stat().st_size / 1e6
    typer.echo(f"{out}  {len(found)} faces, {spoken} answers, {size:.2f} MB")
    typer.echo(f"model {found.facts.model}, pictures {found.facts.sha256[:16]}…, "
               f"{found.facts.device}, {found.facts.dtype}")  # fmt: skip


@reference.command("compare")
def compare(
    first: Annotated[Path, typer.Argument(help="golden outputs", readable=False)],
    second: Annotated[Path, typer.Argument(help="others, of the same pictures", readable=False)],
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """How far two recordings of the same pictures lie apart. Exit code 6 where they do not agree.

    For the same checkpoint on two devices, or computed in two ways. Of two checkpoints the figures
    are told, and nothing is judged.
    """
    import json

    from feallm.export import recordings
    from feallm.runtime.contract.errors import VerificationError
    from feallm.runtime.verify import golden_file

    found = recordings.compare(golden_file.read(first), golden_file.read(second))
    if as_json:
        typer.echo(json.dumps(recordings.as_dict(found)))
    else:
        typer.echo(recordings.markdown(found))
    if faults := [line.what for line in found.lines if not line.passed]:
        raise VerificationError(f"the recordings do not agree: {', '.join(faults)}")


@contextlib.contextmanager
def _partial(out: Path) -> Iterator[Path]:
    """A new, empty file beside `out`, gone at the end unless it was renamed, whatever happened.

    Raises UsageError where none can be written, LimitError without space.
    """
    half = out.with_name(f".{out.name}.partial") if out.name else out
    try:
        if not out.name or out.is_dir() or (out.exists() and not out.is_file()):
            raise UsageError(f"{out}: not a file that can be written here")
        half.unlink(missing_ok=True)  # of a run that was killed; or a link to something else
        half.open("xb").close()
        try:
            yield half
        finally:
            half.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            hint = "free some disk space; nothing was written"
            raise LimitError(f"{out}: {reason}", hint=hint) from error
        raise UsageError(f"{out}: cannot be written: {reason}") from error


def _reserve(path: Path, count: int) -> None:
    """Find out whether there is room for so many bytes: a file with holes would not tell."""
    with path.open("wb") as file:
        for _ in range(0, count, BYTES):
            file.write(bytes(BYTES))


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
