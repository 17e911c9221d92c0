"""Train the eyes of a size where nothing but torch, numpy, OpenCV, safetensors and tqdm is there.

    python tools/train_eyes.py --size reference --pack packs/fer:0.4 --pack packs/renders:0.6 \\
        --out runs/reference --steps 60000 --device cuda --workers 14 --batch 256

or, as two processes that train one network together on a processor of two cores:

    torchrun --nproc-per-node 2 -- tools/train_eyes.py --size edge ...

The same as `feallm train --stage vision`, from a checkout that was not installed. It stops after
--minutes and goes on from there when called again; the rest (`feallm train` without --stage, on
any machine) then makes the checkpoint.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import threading
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Read the arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", required=True)
    parser.add_argument("--pack", action="append", required=True, help="FOLDER[:SHARE[:LIMIT]]")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--teacher", type=Path, help="checkpoint to learn from beside the labels")
    parser.add_argument("--start", type=Path, help="checkpoint or folder of a run to begin from")
    parser.add_argument("--rate", type=float, default=2e-3, help="of learning, at its highest")
    parser.add_argument("--patterns", action="store_true", help="as `feallm train --patterns`")
    parser.add_argument("--minutes", type=float, help="stop after so long; the state is kept")
    chosen = parser.parse_args()
    try:
        import feallm.model
    except ModuleNotFoundError:  # the rooms lie beside the front door
        sys.path.insert(0, str(ROOT))
        import feallm

        feallm.__path__.append(str(ROOT))
    from feallm.model.train import whole

    packs = tuple(whole.Pack.parse(text) for text in chosen.pack)
    steps = replace(whole.STEPS[chosen.size], vision=chosen.steps)
    job = whole.Job(
        chosen.size,
        packs,
        chosen.out,
        chosen.seed,
        steps,
        device=chosen.device,
        workers=chosen.workers,
        batch=chosen.batch,
        teacher=chosen.teacher,
        start=chosen.start,
        patterns=chosen.patterns,
        rate=chosen.rate,
    )
    if chosen.minutes:
        import _thread

        timer = threading.Timer(60 * chosen.minutes, _thread.interrupt_main)
        timer.daemon = True
        timer.start()
    try:
        whole.run(job, "vision", shlex.join(["python", *sys.argv]))
    except KeyboardInterrupt:
        print(f"stopped; {chosen.out} goes on from its last saved state")


if __name__ == "__main__":
    main()
