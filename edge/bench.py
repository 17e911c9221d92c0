"""`feallm bench`: how long each stage takes on this machine, with this bundle.

Warm-up runs are left out; each stage reports the median and the 95th percentile. Start-up is timed
in a process of its own, from its beginning to the first reading.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from rich.table import Table

from feallm.edge.engines import Engines
from feallm.edge.terminal import Bar, results
from feallm.runtime.capture.source import Source, kind, read_picture
from feallm.runtime.contract.errors import BackendError, InputError, UsageError
from feallm.runtime.contract.frame import Face, Frame

if TYPE_CHECKING:
    from feallm.runtime.analyze import Analyzer

WARM_UP = 5
WORDS_RUNS = 5  # sentences are slow, and each is many tokens
PACKAGES = ("feallm-edge", "numpy", "opencv-python-headless", "onnxruntime", "llama-cpp-python")

_START = """
import sys
from pathlib import Path
from feallm.runtime.analyze import Analyzer
from feallm.runtime.capture.source import Source, read_picture
picture, bundle, detector = (Path(a) if a else None for a in sys.argv[1:4])
with Analyzer(bundle, detector=detector, words=False) as analyzer:
    analyzer.read(read_picture(Source(picture, picture.name)))
"""


@dataclass(frozen=True, slots=True)
class Request:
    """One call of the command."""

    picture: Path | None
    runs: int = 200
    bundle: Path | None = None
    detector: Path | None = None
    as_json: bool = False
    engines: Engines = Engines()


Timings = dict[str, list[float]]  # stage -> milliseconds of each run


def open_analyzer(request: Request) -> Analyzer:
    """The analyzer that is timed."""
    from feallm.runtime.analyze import Analyzer

    return Analyzer(request.bundle, detector=request.detector, **request.engines.options())


def bench(request: Request) -> None:
    """Time every stage and print. Raises InputError for a picture without a face."""
    source = Source(path := picture_path(request.picture), path.name)
    if kind(source) != "picture":
        raise InputError(f"{path.name}: a video; bench takes one picture")
    frame = Frame(read_picture(source), source.name)
    with open_analyzer(request) as analyzer, Bar() as bar:
        faces = analyzer.find(frame)
        if not faces:
            raise InputError(f"{path.name}: no face found in it", hint="bench needs a face")
        timings = time_stages(analyzer, frame, faces, request.runs, bar)
        first_word_ms, tokens_per_s = time_words(analyzer, frame, faces, timings, bar)
        words_missing, digest = analyzer.words_missing, analyzer.bundle.digest
        running = analyzer.running()
    summary = {
        **{f"{stage}_ms": _median(timings.get(stage)) for stage in ("vision", "detect", "frame")},
        "first_word_ms": first_word_ms,
        "tokens_per_s": tokens_per_s,
        "rss_mb": peak_memory_mb(),
        "startup_s": startup_s(request, path),
        "crop_ms": _median(timings.get("crop")),
        "words_ms": _median(timings.get("words")),
        "runs": request.runs,
        "faces": len(faces),
        "picture_px": [frame.pixels.shape[1], frame.pixels.shape[0]],
        "bundle": digest,
        "running": running,
        "machine": machine(),
    }
    if not request.as_json:
        _print_table(summary, timings, words_missing)
    print(json.dumps(summary))


def picture_path(given: Path | None) -> Path:
    """The picture to time: the given one, or the portrait that scikit-image carries."""
    if given is not None:
        return given
    try:
        import skimage
    except ImportError:
        raise UsageError(
            "no picture to time",
            hint="name one: feallm bench PICTURE; or pip install 'feallm-edge[demo]'",
        ) from None
    return Path(skimage.__file__).parent / "data" / "astronaut.png"


def time_stages(
    analyzer: Analyzer, frame: Frame, faces: list[Face], runs: int, bar: Bar
) -> Timings:
    """Milliseconds of detect, crop, vision and the whole frame (without words), run by run."""
    timings: Timings = {stage: [] for stage in ("detect", "crop", "vision", "frame")}
    task = bar.begin("stages", runs)
    for run in range(-min(WARM_UP, runs), runs):
        detect_ms = _ms(lambda: analyzer.find(frame))
        start = perf_counter()
        analyzer.read(frame)
        frame_ms = (perf_counter() - start) * 1000
        stages = analyzer.read(frame, faces=faces).timings_ms
        if run >= 0:
            timings["detect"].append(detect_ms)
            timings["frame"].append(frame_ms)
            for stage in ("crop", "vision"):
                if stage in stages:
                    timings[stage].append(stages[stage])
            bar.step(task)
    bar.end(task)
    return timings


def time_words(
    analyzer: Analyzer, frame: Frame, faces: list[Face], timings: Timings, bar: Bar
) -> tuple[float | None, float | None]:
    """First word in ms and tokens a second, medians; (None, None) without the model's words."""
    if analyzer.words_missing is not None:
        return None, None
    first: list[float] = []
    speed: list[float] = []
    timings["words"] = []
    task = bar.begin("words", WORDS_RUNS)
    for run in range(-1, WORDS_RUNS):
        report = analyzer.read(frame, faces=faces[:1], explain={faces[0].track})
        if analyzer.language is None:  # it is loaded by the first sentence, or fails to
            break
        if run < 0:
            continue
        bar.step(task)
        timings["words"].append(report.timings_ms["words"])
        if (value := analyzer.language.last_first_word_ms) is not None:
            first.append(value)
        if (value := analyzer.language.last_tokens_per_s) is not None:
            speed.append(value)
    bar.end(task)
    return _median(first), _median(speed)


def startup_s(request: Request, picture: Path) -> float:
    """Seconds from the start of a fresh process to the end of its first reading and its exit."""
    options = [str(picture), str(request.bundle or ""), str(request.detector or "")]
    start = perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _START, *options], capture_output=True, text=True, check=False
    )
    seconds = perf_counter() - start
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise BackendError(f"the start-up process failed: {last}")
    return round(seconds, 3)


def peak_memory_mb() -> float | None:
    """The most memory that this process has held, in MB; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e6 / 1024), 1)


def machine() -> dict[str, Any]:
    """What the figures depend on: processor, threads, versions."""
    try:
        allowed = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        allowed = os.cpu_count() or 1
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": allowed,
        "opencv_threads": cv2.getNumThreads(),
        "python": platform.python_version(),
        **{name: found for name in PACKAGES if (found := _version(name)) is not None},
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _ms(work: Callable[[], object]) -> float:
    start = perf_counter()
    work()
    return (perf_counter() - start) * 1000


def _median(values: list[float] | None) -> float | None:
    return round(float(np.median(values)), 3) if values else None


def _print_table(summary: dict[str, Any], timings: Timings, words_missing: str | None) -> None:
    console = results()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("stage")
    for name in ("median ms", "p95 ms", "runs"):
        table.add_column(name, justify="right")
    for stage, values in timings.items():
        if values:
            high = f"{np.percentile(values, 95):.2f}"
            table.add_row(stage, f"{np.median(values):.2f}", high, str(len(values)))
    console.print(table)
    if words_missing is not None:
        console.print(f"words: not timed, because {words_missing}")
    else:
        console.print(
            f"words: first after {summary['first_word_ms']} ms, "
            f"{summary['tokens_per_s']} tokens a second"
        )
    console.print(f"memory: {summary['rss_mb']} MB at most; start-up: {summary['startup_s']} s")
    facts = ", ".join(f"{name} {value}" for name, value in summary["machine"].items())
    console.print(facts, soft_wrap=True)
