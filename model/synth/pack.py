"""Packs of renders: many faces to disk, the same bytes for the same seed, and safe to interrupt.

Faces are drawn in blocks; each block is one part, written whole or not at all, and `pack.json`
comes last, so a half-made pack is never read. Started again, a run goes on after the parts that
are there. Beside the arrays of every pack (`feallm.model.data.pack`) a part holds, for N faces:
`points68` float32 [N,68,2] pixels, `pose_deg` float32 [N,3] pitch (up), yaw (to the head's own
left) and roll, `gaze_deg` float32 [N,2] up and to the left in the head, `skin` uint8 [N] 0
lightest to 5 darkest, `light` uint8 [N] (`light_names` of the index), `occluded` float32 [N] share
of the inner landmarks that are covered, `glasses` uint8 [N] 0 none, 1 clear, 2 dark, `face_px`
float32 [N] width of the face, `pattern` int8 [N] expression pattern or -1, `seed` int64 [N].
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.model.data import archive
from feallm.model.data.pack import INDEX, PLAN, sha256
from feallm.model.data.pseudo import five_points
from feallm.model.synth import head as head_file
from feallm.model.synth import photo
from feallm.model.synth.draw import open_gl
from feallm.model.synth.render import Rendered, Studio
from feallm.model.synth.sample import (
    LIGHTS,
    SHOTS,
    TEST_STREAM,
    TRAIN_STREAM,
    Person,
    Shot,
    glasses_for,
    occluder_for,
    person,
    rng_for,
    shot,
)
from feallm.runtime.contract.errors import BackendError, InputError, UsageError

VERSION = "1"
"""Of the renderer: raised whenever the same seed gives other bytes."""

BLOCK = 400  # faces of a part
FROZEN_SEED, FROZEN_N = 20251121, 5000

_ONE_THREAD = {"LP_NUM_THREADS": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""For Mesa's software renderer and numpy in the processes that draw; what is set already stays."""

_FIT_PX = 2.6  # root mean square of the points; beyond it the points were wrong

Table = dict[str, NDArray[Any]]
Row = tuple[Rendered, Person, Shot]


@dataclass(frozen=True, slots=True)
class Job:
    """What a pack of renders is made of."""

    head: Path
    backgrounds: Path | None  # .npz as the shared data holds it, or none: plain grounds
    n: int
    seed: int
    frozen: bool = False
    photos: Path | None = None  # a bank of neutral photographs to move instead

    @property
    def stream(self) -> int:
        """People of the frozen set are never drawn for training."""
        return TEST_STREAM if self.frozen else TRAIN_STREAM


def make(job: Job, out: Path, *, workers: int, step: Callable[[int], None]) -> list[Path]:
    """Draw the pack into the folder `out`; `step` hears how many faces are done.

    Raises `UsageError` where the folder holds another pack, `InputError` where the head cannot be
    read, `BackendError` where there is no OpenGL.
    """
    if job.n < 1:
        raise UsageError(f"--n: expected at least 1, found {job.n}")
    head = head_file.read(job.head)  # a bad head is one line here, not one from every worker
    plan = {
        "version": VERSION,
        "head": head.digest,
        "backgrounds": sha256(job.backgrounds) if job.backgrounds else None,
        "n": job.n,
        "seed": job.seed,
        "stream": job.stream,
        "frozen": job.frozen,
    }
    if job.photos:
        photo.read(job.photos)  # so is a bad bank
        plan["photos"] = sha256(job.photos)
    _claim(out, plan)
    open_gl().release()  # and so is a missing OpenGL
    starts = range(0, job.n, BLOCK)
    parts = [out / f"renders-{k:04d}.npz" for k in range(len(starts))]
    todo = []
    listed = _listed(out)
    for path, start in zip(parts, starts, strict=True):
        number = min(BLOCK, job.n - start)
        if _whole(path, number, listed.get(path.name)):
            step(number)
        else:
            todo.append((path, start))
    if todo:
        (out / INDEX).unlink(missing_ok=True)  # what it lists is not all there
    if todo:
        _draw_all(job, todo, max(1, min(workers, len(todo))), step)
    _finish(out, job, parts)
    return parts


def _draw_all(
    job: Job, todo: list[tuple[Path, int]], workers: int, step: Callable[[int], None]
) -> None:
    """Draw the parts in processes of their own. Where anything stops it, nobody is waited for: a
    part is there as a whole or not at all."""
    for name, value in _ONE_THREAD.items():  # a process a core is faster, and draws as one alone
        os.environ.setdefault(name, value)
    context = get_context("spawn")  # an OpenGL context does not survive a fork
    pool = ProcessPoolExecutor(workers, context)
    try:
        # Ctrl-C goes to every process of the terminal. Processes begin without it, as this one
        # holds it back while they are started, and so this one alone answers.
        held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            jobs = [pool.submit(_block, job, path, start) for path, start in todo]
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        for done in as_completed(jobs):
            step(done.result())
    except BaseException as error:
        drawing = list((getattr(pool, "_processes", None) or {}).values())  # no public way there
        pool.shutdown(wait=False, cancel_futures=True)
        for process in drawing:
            process.terminate()
        if isinstance(error, BrokenProcessPool):
            raise BackendError(
                "a process that draws ended before its time",
                hint="perhaps memory ran out: fewer --workers; the same call goes on",
            ) from error
        raise
    pool.shutdown()


def _listed(out: Path) -> dict[str, str]:
    """Hashes of the parts of a finished pack; {} where there is none."""
    try:
        index = json.loads((out / INDEX).read_text())
        return {str(part["file"]): str(part["sha256"]) for part in index["parts"]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _whole(path: Path, number: int, expected: str | None) -> bool:
    """Whether a part is there with so many faces and undamaged: as the index has it, or, before
    there is an index, by the check sums within the file."""
    if not path.is_file() or (expected is not None and sha256(path) != expected):
        return False
    try:
        return len(archive.read(path, "group")["group"]) == number
    except InputError:
        return False


def _claim(out: Path, plan: dict[str, Any]) -> None:
    """Begin a pack, or go on with the same one."""
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out}: is a file, not a folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
        path = out / PLAN
        if path.is_file():
            if json.loads(path.read_text()) != plan:
                raise UsageError(
                    f"{out}: holds another pack of renders",
                    hint="choose a new folder, or the same --n, --seed, head and backgrounds",
                )
            return
        if (out / INDEX).exists() or any(out.glob("renders-*.npz")):
            finished = (out / INDEX).exists()
            what = "a pack that is not of renders" if finished else "parts that nobody knows"
            raise UsageError(f"{out}: holds {what}", hint="choose a new folder")
        _write(path, json.dumps(plan, indent=1) + "\n")
    except ValueError as error:
        raise UsageError(f"{out / PLAN}: not a plan of renders") from error
    except OSError as error:
        raise UsageError(f"{out}: cannot be written: {error.strerror}") from error


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)


def _finish(out: Path, job: Job, parts: list[Path]) -> None:
    index = {
        "origins": [
            {
                "name": "renders-frozen" if job.frozen else "renders",
                "licence": "own renders; head: ICT-FaceKit, MIT, (c) 2020 USC Institute for "
                "Creative Technologies; backgrounds: as listed with them",
                "rows": job.n,
                "sha256": sha256(out / PLAN),
            }
        ],
        "light_names": list(LIGHTS),
        "parts": [{"file": path.name, "sha256": sha256(path)} for path in parts],
    }
    try:
        _write(out / INDEX, json.dumps(index, indent=1) + "\n")
    except OSError as error:
        raise UsageError(f"{out}: cannot be written: {error.strerror}") from error


@lru_cache(maxsize=1)
def _studio(head: Path) -> Studio:
    cv2.setNumThreads(1)
    return Studio(head_file.read(head))


@lru_cache(maxsize=1)
def backgrounds(path: Path | None, frozen: bool) -> list[NDArray[np.uint8]]:
    """Backgrounds (256, 256, 3) RGB: every fourth by name is for the frozen set alone."""
    if path is None:
        return []
    arrays = archive.read(path, "data", "offsets", "names", "licence_clear")
    images = archive.encoded(path, {"images": arrays["data"], "offsets": arrays["offsets"]})
    order = np.argsort([str(name) for name in arrays["names"]], kind="stable")
    chosen = [
        i
        for k, i in enumerate(order.tolist())
        if (k % 4 == 0) == frozen and arrays["licence_clear"][i]
    ]
    decoded = []
    for i in chosen:
        picture = archive.picture(path, i, images[i], cv2.IMREAD_COLOR)
        decoded.append(np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8))
    return decoded


def cast(job: Job, count: int, first: int, number: int) -> Iterator[tuple[Person, list[Shot]]]:
    """People and shots of a block: faces `first` to `first + number`; `count` backgrounds."""
    for k in range(first // SHOTS, -(-(first + number) // SHOTS)):
        rng = rng_for(job.seed, k, job.stream)
        someone = person(rng)
        if job.frozen:
            someone = replace(someone, glasses=glasses_for(rng) if k % 5 == 0 else None)
        shots = []
        for j in range(SHOTS):
            taken = shot(rng, int(rng.integers(2**62)), count)
            m = k * SHOTS + j
            if job.frozen:
                taken = _fixed_mix(taken, m, rng)
            if first <= m < first + number:
                shots.append(taken)
        yield someone, shots


def _fixed_mix(taken: Shot, m: int, rng: np.random.Generator) -> Shot:
    """Strata of the frozen set by the face's number: 40 % with an occluder (some miss the face),
    32 % turned beyond 20 degrees, 30 % small. Turned faces have fewer occluders than the others."""
    occluder = occluder_for(rng) if m % 5 in (1, 3) else "none"
    pitch, _, roll = taken.pose_deg
    far = (m * 7 + m // 5) % 10 < 3
    yaw = float(rng.uniform(22, 50) * rng.choice([-1, 1]) if far else rng.uniform(-19, 19))
    small = (m * 3 + m // 10) % 10 < 3
    eyes = float(rng.uniform(14, 25) if small else rng.uniform(28, 46))
    return replace(taken, occluder=occluder, pose_deg=(pitch, yaw, roll), eye_px=eyes)


def _block(job: Job, path: Path, first: int) -> int:
    """Draw one part; returns its number of faces."""
    studio = _studio(job.head)
    grounds = backgrounds(job.backgrounds, job.frozen)
    number = min(BLOCK, job.n - first)
    if job.photos is not None:
        save(path, table(_moved_photos(studio, job, first, number), job.stream))
        return number
    rows: list[Row] = []
    for someone, shots in cast(job, len(grounds), first, number):
        ready = studio.prepare(someone)
        rows += [(studio.take(ready, taken, grounds), someone, taken) for taken in shots]
    save(path, table(rows, job.stream))
    return number


@lru_cache(maxsize=1)
def _bank(path: Path) -> photo.Bank:
    return photo.read(path)


def _moved_photos(studio: Studio, job: Job, first: int, number: int) -> list[Row]:
    """Shots of photographs, `SHOTS` of each before the next; those that no head fits are left to
    the next one."""
    assert job.photos is not None
    bank = _bank(job.photos)
    order = np.random.default_rng((job.seed, 9)).permutation(len(bank.images))
    rows: list[Row] = []
    for k in range(first // SHOTS, -(-(first + number) // SHOTS)):
        rng = rng_for(job.seed, k, 2)
        fitted, i = None, 0
        for again in range(20):
            i = int(order[(k + again * 7919) % len(order)])
            picture = archive.picture(job.photos, i, bank.images[i], cv2.IMREAD_COLOR)
            fitted = photo.fit(
                studio.mesh,
                np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8),
                bank.points68[i],
            )
            if fitted.error_px < _FIT_PX:
                break
        assert fitted is not None
        someone = replace(person(rng), glasses=None)
        for j in range(SHOTS):
            taken = photo.steady(shot(rng, int(rng.integers(2**62)), 0), fitted, rng)
            if first <= k * SHOTS + j < first + number:
                rows.append((studio.retake(fitted, someone, taken), someone, taken))
    return rows


def table(rows: list[Row], stream: int) -> Table:
    """The arrays of a part; `stream` keeps people of the two streams in groups of their own."""
    n = len(rows)
    sizes = [len(face.encoded) for face, _, _ in rows]
    points68 = np.stack([face.points68 for face, _, _ in rows])
    points5 = five_points(points68).astype(np.float32)
    dark = [0 if p.glasses is None else 1 + (p.glasses.dark > 0.5) for _, p, _ in rows]
    return {
        "images": np.frombuffer(b"".join(face.encoded for face, _, _ in rows), np.uint8),
        "offsets": np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        "votes": np.zeros((n, 10), np.float32),
        "expression": np.zeros((n, 8), np.float32),
        "au_sides": np.stack([face.au_sides for face, _, _ in rows]),
        "points5": points5,
        "mean5": points5,
        "group": np.array([p.paint.seed * 2 + stream for _, p, _ in rows], np.int64),
        "points68": points68,
        "pose_deg": np.array([face.pose_deg for face, _, _ in rows], np.float32),
        "gaze_deg": np.array([face.gaze_deg for face, _, _ in rows], np.float32),
        "skin": np.array([round(p.paint.tone) for _, p, _ in rows], np.uint8),
        "light": np.array([s.light for _, _, s in rows], np.uint8),
        "occluded": np.array([face.occluded for face, _, _ in rows], np.float32),
        "glasses": np.array(dark, np.uint8),
        "face_px": np.array([face.face_px for face, _, _ in rows], np.float32),
        "pattern": np.array([s.pattern for _, _, s in rows], np.int8),
        "seed": np.array([s.seed for _, _, s in rows], np.int64),
    }


def save(path: Path, arrays: Table) -> None:
    """A part, whole or not at all. Raises `InputError` where it cannot be written."""
    partial = path.with_name(f".{path.stem}.partial.npz")
    try:
        write: Any = np.savez  # its annotations take one of the arrays for another option
        write(partial, **arrays)
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
