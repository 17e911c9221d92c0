"""Identities over generated clips through the whole path: detector, follower, tracker.

    python -m feallm.model.studies.clips --heads packs/detector/test-heads.npz [--people 12]

Prints IDF1, switches, lost tracks and searches for several paces of searching, over several clips
of moving, crossing heads (`feallm.model.detector.moving`). A face of which nearer people leave
less than two fifths to be seen is neither asked for nor counted against anybody.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from feallm.model.detector.moving import Seen, Take, film
from feallm.model.evaluate.tracks import Labelled, Tracking, measure, together
from feallm.runtime.analyze import Analyzer
from feallm.runtime.capture.track import overlap
from feallm.runtime.contract.frame import Frame
from feallm.runtime.follow import Follower

LEAST_SEEN = 0.4
PACES = (1, 3, 5)


def labelled(
    seen: Seen, ids: Sequence[int], boxes: Sequence[Sequence[float]]
) -> tuple[Labelled, Labelled]:
    """Truth and answer of one frame, without hidden faces."""
    clear = seen.share >= LEAST_SEEN
    found_ids = np.array(ids, np.int64)
    found = np.array(boxes, np.float64).reshape(-1, 4)
    if len(found) and len(seen.boxes):
        shares = overlap(seen.boxes, found)
        best = shares.argmax(0)
        hidden = ~clear[best] & (shares.max(0) > 0.3)
        found, found_ids = found[~hidden], found_ids[~hidden]
    return (seen.people[clear], seen.boxes[clear]), (found_ids, found)


def run(analyzer: Analyzer, heads: Path, take: Take, every: int) -> tuple[Tracking, int, float]:
    """One clip: what its tracks are worth, searches, CPU ms a frame (drawing left out)."""
    follower = Follower(analyzer, every=every)
    truth, found = [], []
    spent, count = 0.0, 0
    for k, seen in enumerate(film(heads, take)):
        rgb = np.asarray(cv2.cvtColor(seen.picture, cv2.COLOR_BGR2RGB), np.uint8)
        start = time.process_time()
        report = follower.read(Frame(rgb, "clip", k, seen.time_s))
        spent, count = spent + time.process_time() - start, count + 1
        ids = [reading.track for reading in report.readings]
        true, answer = labelled(seen, ids, [reading.box for reading in report.readings])
        truth.append(true)
        found.append(answer)
    return measure(truth, found), follower.searches, spent / count * 1e3


def main() -> None:
    """Print the table; the last line is one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--heads", type=Path, required=True)
    parser.add_argument("--people", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--clips", type=int, default=3)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--search", type=int, help="longer side that is searched")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--detector", type=Path)
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    take = Take(asked.people, asked.seconds)
    table = {}
    with Analyzer(
        asked.bundle, detector=asked.detector, search_px=asked.search, words=False
    ) as analyzer:
        for every in PACES:
            runs = [
                run(analyzer, asked.heads, replace(take, seed=asked.seed + k), every)
                for k in range(asked.clips)
            ]
            whole = together(one for one, _, _ in runs)
            searches = sum(searches for _, searches, _ in runs)
            ms = float(np.mean([spent for _, _, spent in runs]))
            lowest = min(one.idf1 for one, _, _ in runs)
            print(
                f"every {every}: IDF1 {whole.idf1:.4f} (lowest {lowest:.4f}), {whole.switches} "
                f"switches, {whole.lost} of {whole.trajectories} lost, {whole.fragments} gaps, "
                f"searched {searches} of {whole.frames} frames, {ms:.1f} ms a frame"
            )
            table[every] = {
                "idf1": round(whole.idf1, 4),
                "lowest": round(lowest, 4),
                "switches": whole.switches,
                "lost": whole.lost,
                "searches": searches,
                "frames": whole.frames,
                "ms": round(ms, 2),
            }
    print(json.dumps(table))


if __name__ == "__main__":
    main()
