"""Milliseconds a face and tokens a second of finished artifacts on this machine.

    python -m feallm.export.timing THREADS FILE… < JSON of the language model's shape

Runs in a process of its own that is pinned to as many cores as it has threads: ExecuTorch asks the
machine, not its caller, how many it may have. Vision files take turns face by face, so that what
else the machine does falls on all of them alike; the median of `RUNS` counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from feallm.runtime.backends.base import IMAGE
from feallm.runtime.contract.geometry import CROP

RUNS, WARM_UP, SENTENCES = 60, 8, 5


def measure(
    files: dict[str, Path], threads: int, language: dict[str, Any] | None
) -> dict[str, float]:
    """Median milliseconds a face of vision artifacts, tokens a second of language artifacts, by
    name; what this machine cannot run is left out. `language`: question, width, context, visual
    tokens, and the tokenizer's path."""
    cores = sorted(os.sched_getaffinity(0))[:threads]
    if len(cores) < threads:
        return {}
    done = subprocess.run(
        [sys.executable, "-m", __name__, str(threads), *map(str, files.values())],
        input=json.dumps(language),
        capture_output=True,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )
    if done.returncode:
        raise RuntimeError(f"timing failed: {done.stderr[-500:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {name: found[str(path)] for name, path in files.items() if str(path) in found}


def _vision(files: list[Path], threads: int) -> dict[str, float]:
    from feallm.export.run import open_vision

    rng = np.random.default_rng(0)
    levels = rng.integers(0, 256, (1, 16, 14, 3), dtype=np.uint8)
    crop = levels.repeat(CROP.height_px // 16, 1).repeat(CROP.width_px // 14, 2)
    engines = {path: open_vision(path, threads) for path in files}
    spent: dict[Path, list[float]] = {path: [] for path in files}
    for run in range(-WARM_UP, RUNS):
        for path, engine in engines.items():
            start = time.perf_counter()
            engine.run({IMAGE: crop})
            if run >= 0:
                spent[path].append((time.perf_counter() - start) * 1e3)
    return {str(path): float(np.median(values)) for path, values in spent.items()}


def _language(path: Path, threads: int, facts: dict[str, Any]) -> float:
    from feallm.runtime.backends.executorch import ExecutorchSession
    from feallm.runtime.backends.llama import LlamaSession

    width, context = facts["width"], facts["context"]
    session: Any
    if path.suffix == ".gguf":
        session = LlamaSession(path, width=width, context=context, threads=threads)
    else:
        tokenizer = Path(facts["tokenizer"])
        session = ExecutorchSession(path, tokenizer=tokenizer, width=width, context=context)
    rng = np.random.default_rng(0)
    visual = rng.normal(0, 0.3, (facts["visual_tokens"], width)).astype(np.float32)
    rates = []
    for _ in range(SENTENCES + 1):
        session.restart()
        session.see(visual)
        session.feed(session.tokenize(facts["question"] + "\n"))
        start = time.perf_counter()
        for step in range(64):  # the same tokens for every file, whatever it would have said
            session.logits().argmax()
            session.feed([100 + step])
        rates.append(64 / (time.perf_counter() - start))
    session.close()
    return float(np.median(rates[1:]))


def main() -> None:
    """Print one line of JSON: by path, milliseconds or tokens a second."""
    threads, files = int(sys.argv[1]), [Path(name) for name in sys.argv[2:]]
    facts = json.load(sys.stdin)
    here = [path for path in files if path.suffix != ".mlpackage"]
    eyes = [path for path in here if path.name.startswith("vision")]
    found = _vision(eyes, threads)
    if facts is not None:
        for path in here:
            if path not in eyes:
                found[str(path)] = _language(path, threads, facts)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
