"""`feallm verify`: does a bundle answer on this device as the model that it was made of?"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from feallm.edge import verify_page
from feallm.edge.terminal import note, results
from feallm.runtime.bundle.open import Bundle, open_bundle
from feallm.runtime.contract.errors import (
    BundleError,
    InputError,
    LimitError,
    UsageError,
    VerificationError,
)
from feallm.runtime.contract.manifest import MANIFEST
from feallm.runtime.verify import golden, golden_file
from feallm.runtime.verify.check import verify as compare
from feallm.runtime.verify.verdict import TIERS, Line, Report, Result, beside


@dataclass(frozen=True, slots=True)
class Request:
    """One call of the command."""

    bundle: Path | None | Bundle = None
    reference: Path | None = None
    backend: str | None = None
    threads: int | None = None
    out: Path | None = None
    frames: bool = True
    trace: bool = False
    as_json: bool = False


def verify(request: Request) -> None:
    """Compare, print, and write what was asked for. Raises VerificationError where it fails."""
    given = request.bundle
    bundle = given if isinstance(given, Bundle) else open_bundle(given)
    reference = read_reference(bundle, request.reference)
    if (out := request.out) is not None:
        _make(out, bundle)
    own, other = bundle.manifest.training.checkpoint_sha256, reference.facts.checkpoint_sha256
    if own != other:
        note(
            f"the golden outputs are of another checkpoint ({other[:12]}…) than this bundle"
            f" ({own[:12]}…): what differs may be what these two differ in"
        )
    report = compare(
        bundle,
        reference,
        only=request.backend,
        threads=request.threads,
        frames=request.frames,
        tell=note,
    )
    if request.as_json:
        print(json.dumps(report.as_dict()))
    else:
        show(report, trace=request.trace)
    if out is not None:
        write(report, reference, out)
        note(f"written: {out / 'verify.md'}, verify.json, verify.html (it shows faces)")
    if not report.passed:
        raise VerificationError(verdict(report))


def read_reference(bundle: Bundle, file: Path | None) -> golden.Golden:
    """The golden outputs in a file, else those that travel with the bundle."""
    if file is not None:
        return golden_file.read(file)
    stated = bundle.manifest.golden
    if stated is None:
        raise BundleError(
            f"{bundle.root}: no golden outputs in this bundle",
            hint="name some with --reference; `feallm reference record` makes them",
        )
    try:
        return golden_file.read(bundle.file(stated.artifact))
    except InputError as error:
        raise BundleError(error.message, hint=error.hint) from error


def verdict(report: Report) -> str:
    """Why a report does not pass, in one line."""
    failed = [result for result in report.results if not result.passed]
    if not failed:
        return f"{report.bundle} states no tolerances for what ran: nothing could be judged"
    told = "; ".join(f"{one.artifact} ({one.part}): {one.faults[0]}" for one in failed)
    causes = list(dict.fromkeys(cause for one in failed for cause in one.causes[:1]))
    likely = f". Likely: {'; '.join(causes)}" if causes else ""
    return f"{report.bundle} does not agree: {told}{likely}"


def show(report: Report, *, trace: bool) -> None:
    """A table a result; what does not hold is marked."""
    console = results()
    console.print(f"{report.bundle}, digest {report.digest[:16]}…", soft_wrap=True)
    console.print(verify_page.compared(report), soft_wrap=True)
    for result in report.results:
        console.print()
        console.print(verify_page.headline(result), soft_wrap=True)
        if result.failure is not None:
            console.print(f"  {result.failure}", soft_wrap=True)
        if result.lines:
            console.print(_table(result))
        for cause in result.causes:
            console.print(f"  likely: {cause}", soft_wrap=True)
        if trace:
            shown = [f"layer {line}" for line in result.layers]
            for line in shown or ["no layers: its engine, or the golden outputs, show none"]:
                console.print(f"  {line}", soft_wrap=True)
    for name, reason in report.skipped.items():
        console.print(f"not run here: {name}: {reason}", soft_wrap=True)
    console.print()
    console.print(f"{verify_page.word(report)}: {_sum(report)}", soft_wrap=True)


def _sum(report: Report) -> str:
    judged = [result for result in report.results if result.judged]
    good = sum(result.passed for result in judged)
    told = [f"{good} of {len(judged)} compared parts are within the manifest's tolerances"]
    if others := len(report.results) - len(judged):
        told.append(f"{others} without tolerance")
    if report.skipped:
        told.append(f"{len(report.skipped)} not run here")
    return ", ".join(told)


def _table(result: Result) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 2), show_header=False)
    table.add_column("what")
    table.add_column("value", justify="right")
    table.add_column("limit")
    for tier, title in TIERS.items():
        rows = [line for line in result.lines if line.tier == tier]
        if not rows:
            continue
        table.add_row(title, "", "", style="dim")
        for line in rows:
            table.add_row(f"  {line.what}", beside(line)[0], _held(line))
    return table


def _held(line: Line) -> str:
    if line.limit is None:
        return ""
    told = f"{'≥' if line.least else '≤'} {beside(line)[1]}"
    if not line.passed:
        return f"{told}  DOES NOT HOLD"
    return f"{told} ({line.excused})" if line.excused else told


def write(report: Report, reference: golden.Golden, out: Path) -> None:
    """Markdown, JSON and a page with the worst faces, each whole or not there."""
    texts = {
        "verify.md": verify_page.markdown(report),
        "verify.json": json.dumps(report.as_dict(), indent=1) + "\n",
        "verify.html": verify_page.page(report, reference),
    }
    with _told(out):
        for name, text in texts.items():
            half = out / f".{name}.partial"
            try:
                half.write_text(text, encoding="utf-8", errors="replace")
                os.replace(half, out / name)
            finally:
                half.unlink(missing_ok=True)


def _make(out: Path, bundle: Bundle) -> None:
    with _told(out):
        place = out.resolve()
        if bundle.root in (place, *place.parents):
            hint = "a bundle holds nothing but what its manifest names"
            raise UsageError(f"--out {out} lies in the bundle", hint=hint)
        if (place / MANIFEST).exists():
            raise UsageError(f"--out {out} is a bundle", hint="name another folder")
        out.mkdir(parents=True, exist_ok=True)


@contextmanager
def _told(out: Path) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"{out}: not a folder") from error
    except OSError as error:
        raise LimitError(f"{out}: cannot be written: {error.strerror}") from error
