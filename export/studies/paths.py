"""Whether a bundle reads the same through ExecuTorch alone as through ONNX Runtime and llama.cpp.

    python -m feallm.export.studies.paths --bundle OUT/all --clips ../shared/data/clips

Every frame of each clip goes the whole way, face found, crop, readings, and the first face of each
clip into words, twice. Faces are found once more for each way: nothing is handed over. Each frame
is read for itself. With `--follow` faces are followed as `analyze` does: a crop then stands at the
points that the last answer gave, and the least difference of two engines grows from frame to frame.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path

from feallm.runtime.analyze import Analyzer
from feallm.runtime.capture.source import Source, frames
from feallm.runtime.contract.reading import Reading
from feallm.runtime.follow import Follower

WAYS = {
    "onnx and llama": ("vision.int8.onnx", "language.q8_0.gguf"),
    "executorch alone": ("feallm.8da8w.pte", "feallm.8da8w.pte"),
    "float: onnx and llama": ("vision.fp32.onnx", "language.fp16.gguf"),
    "float: executorch alone": ("feallm.fp32.pte", "feallm.fp32.pte"),
}
PAIRS = (
    ("onnx and llama", "executorch alone"),
    ("float: onnx and llama", "float: executorch alone"),
)


@dataclass(slots=True)
class Read:
    """What one way said of one clip."""

    faces: dict[tuple[int, int], Reading] = field(default_factory=dict)  # by frame and track
    text: str = ""


def read(bundle: Path, way: str, clip: Path, *, follow: bool = False) -> Read:
    """All faces of a clip in order, and the words for the first."""
    vision, language = WAYS[way]
    found = Read()
    with Analyzer(bundle, vision_engine=vision, language_engine=language) as analyzer:
        explained: set[int] = set()

        def wanted(faces: object) -> frozenset[int]:
            return frozenset() if explained else frozenset({0})

        follower = Follower(analyzer, wanted=wanted) if follow else None
        for frame in frames(Source(clip, clip.name)):
            if follower is not None:
                report = follower.read(frame)
            else:
                report = analyzer.read(frame, explain=wanted(()))
            for face in report.readings:
                found.faces[frame.index, face.track] = face
                if face.explanation is not None and not found.text:
                    explained.add(face.track)
                    found.text = f"[{face.explanation.source}] {face.explanation.text}"
    return found


def same(one: Read, other: Read) -> tuple[int, int, int, int]:
    """Faces that either read, AU decisions alike, of how many, and expressions alike. A face that
    only one of them found counts against both."""
    places = one.faces.keys() | other.faces.keys()
    pairs = [(one.faces[p], other.faces[p]) for p in places if p in one.faces and p in other.faces]
    aus = [(a.aus[key], b.aus[key]) for a, b in pairs for key in a.aus if a.aus[key] and b.aus[key]]
    alike = sum(x.present == y.present for x, y in aus if x is not None and y is not None)
    tops = [[r.expression.top if r.expression else None for r in pair] for pair in pairs]
    words = sum(first == second for first, second in tops)
    trained = len(aus) // max(len(pairs), 1)
    return len(places), alike, len(places) * trained, words


def main() -> None:
    """Print a line a clip and pair, and the words of each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, required=True, help="of --all: it holds both ways")
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--follow", action="store_true", help="as `analyze` reads a video")
    asked = parser.parse_args()
    totals = {pair: [0, 0, 0, 0] for pair in PAIRS}
    for clip in sorted(asked.clips.glob("*.mp4")):
        ways = {way: read(asked.bundle, way, clip, follow=asked.follow) for way in WAYS}
        for pair in PAIRS:
            counts = same(ways[pair[0]], ways[pair[1]])
            totals[pair] = [a + b for a, b in zip(totals[pair], counts, strict=True)]
            faces, alike, of, words = counts
            print(f"{clip.name}: {' / '.join(pair)}: {faces} faces, AUs {alike}/{of},"
                  f" expressions {words}/{faces}", flush=True)  # fmt: skip
        for way, found in ways.items():
            print(f"    {way}: {' '.join(found.text.split())}")
    for pair, (faces, alike, of, words) in totals.items():
        print(f"all: {' / '.join(pair)}: AUs {alike / max(of, 1):.4f}, expressions"
              f" {words / max(faces, 1):.4f} of {faces} faces")  # fmt: skip


if __name__ == "__main__":
    main()
