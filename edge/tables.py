"""Rows as tables that a person can read: one a photo's face, one a video's track."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table
from rich.text import Text

from feallm.runtime.capture.whole import Kind
from feallm.runtime.contract.aus import AU_BY_KEY, AU_KEYS
from feallm.runtime.contract.expressions import EXPRESSIONS
from feallm.runtime.contract.jsonl import Row

SIDES_DIFFER = 0.5  # steps of intensity between left and right that are worth a word
LEAST_SHARE = 0.01  # AUs in fewer of a track's frames are left out of its table
CARE = "Read with care: too little of such a face can be seen for its values to be sure."
NOT_FEELINGS = "feallm measures movements of a face, not feelings."


def _plain_table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for i, name in enumerate(columns):
        table.add_column(name, justify="left" if i < 2 else "right", no_wrap=i != 1)
    return table


def _level(intensity: float) -> str:
    """`3.2`. No letter of FACS: no bundle's intensities are fitted to FACS codes yet."""
    return f"{intensity:.1f}"


def _say(console: Console, text: str, indent: int = 2) -> None:
    console.print(Text(" " * indent + " ".join(text.split())), soft_wrap=True)


class PhotoFaces:
    """Prints the faces of one photo."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._rows: list[Row] = []

    def add(self, row: Row) -> None:
        """One more of the photo's rows."""
        self._rows.append(row)

    @property
    def count(self) -> int:
        """Rows so far."""
        return len(self._rows)

    def show(self, console: Console) -> None:
        """Print them."""
        faces = [row for row in self._rows if row["box"] is not None]
        found = {0: "no face found", 1: "1 face"}.get(len(faces), f"{len(faces)} faces")
        console.print(Text(f"{self.source}: {found}", "bold"), soft_wrap=True)
        for row in faces:
            self._face(console, row)
        if any(_below(row) for row in faces):
            _close_with_care(console)
        console.print()

    def _face(self, console: Console, row: Row) -> None:
        x0, y0, x1, y1 = (round(v) for v in row["box"])
        console.print()
        box = f"box {x0},{y0} to {x1},{y1} px"
        mark = f"; read with care: {', '.join(below)}" if (below := _below(row)) else ""
        _say(console, f"face {row['track']}: {box}, score {row['score']:.2f}{mark}")
        present = {k: au for k, au in row["aus"].items() if au is not None and au["present"]}
        if present:
            unit = "intensity" if row["intensity_calibrated"] else "intensity (uncalibrated)"
            table = _plain_table("  AU", "movement", unit, "left", "right", "probability")
            for key, au in present.items():
                left, right = au["left"], au["right"]
                sides = ("", "")
                if left is not None and right is not None and abs(left - right) >= SIDES_DIFFER:
                    sides = (_level(left), _level(right))
                name = AU_BY_KEY[key].name
                probability = f"{au['probability']:.2f}"
                table.add_row(f"  {key}", name, _level(au["intensity"]), *sides, probability)
            console.print(table)
        else:
            _say(console, "no action unit present")
        if row["expression"] is not None:
            _say(console, _expression(row["expression"]["scores"]))
        if row["explanation"] is not None:
            _explanation(console, row)


def _below(row: Row) -> list[str]:
    """Why a row's face is below the gate; rows of before there was one have no quality."""
    quality = row.get("quality")
    return [] if quality is None else quality["below"]


def _close_with_care(console: Console) -> None:
    console.print()
    _say(console, CARE)


def _expression(scores: dict[str, float]) -> str:
    first, second = sorted(EXPRESSIONS, key=scores.__getitem__, reverse=True)[:2]
    return f"expression: {first} {scores[first]:.2f}, then {second} {scores[second]:.2f}"


def _explanation(console: Console, row: Row) -> None:
    words = row["explanation"]
    for line in f"“{words['text'].strip()}”".splitlines():
        _say(console, line)
    if words["source"] == "model":
        _say(console, "(the model's own words)", 4)
    else:
        why = words["why_template"] or "the model's own words were not to be had"
        _say(console, f"(from a template: {why})", 4)


@dataclass(slots=True)
class _Track:
    """What one face did over a video. Counts are frames."""

    first: Row
    last: Row
    frames: int = 0
    measured: Counter[str] = field(default_factory=Counter)
    present: Counter[str] = field(default_factory=Counter)
    intensity: Counter[str] = field(default_factory=Counter)  # sums over all measured frames
    expressions: Counter[str] = field(default_factory=Counter)
    marked: int = 0
    below: Counter[str] = field(default_factory=Counter)
    explained: Row | None = None

    def add(self, row: Row) -> None:
        self.last, self.frames = row, self.frames + 1
        if row["expression"] is not None:
            self.expressions[row["expression"]["top"]] += 1
        for key, au in row["aus"].items():
            if au is not None:
                self.measured[key] += 1
                self.present[key] += au["present"]
                self.intensity[key] += au["intensity"]
        below = _below(row)
        self.marked += bool(below)
        self.below.update(below)
        if row["explanation"] is not None and self.explained is None:
            self.explained = row


class VideoTracks:
    """Prints a summary of one video, a table a track. Holds no rows, so length does not matter."""

    def __init__(self, source: str) -> None:
        self.source = source
        self._frames = 0
        self._frame: int | None = None  # the last one; rows come in the order of frames
        self._without = 0
        self._end_s = 0.0
        self._tracks: dict[int, _Track] = {}

    def add(self, row: Row) -> None:
        """One more of the video's rows."""
        self._frames += row["frame"] != self._frame
        self._frame = row["frame"]
        self._end_s = row["time_s"]
        if row["track"] is None:
            self._without += 1
        else:
            self._tracks.setdefault(row["track"], _Track(row, row)).add(row)

    @property
    def count(self) -> int:
        """Frames so far."""
        return self._frames

    def show(self, console: Console) -> None:
        """Print it."""
        frames, tracks = self._frames, len(self._tracks)
        found = {0: "no face found", 1: "1 face"}.get(tracks, f"{tracks} faces")
        head = f"{self.source}: {frames} frames up to {self._end_s:.2f} s, {found}"
        if self._without and tracks:
            head += f", {self._without} frames without a face"
        console.print(Text(head, "bold"), soft_wrap=True)
        for number, track in sorted(self._tracks.items()):
            self._track(console, number, track)
        if any(track.marked for track in self._tracks.values()):
            _close_with_care(console)
        console.print()

    def _track(self, console: Console, number: int, track: _Track) -> None:
        first, last = track.first, track.last
        console.print()
        _say(
            console,
            f"face {number}: in {track.frames} frames, {first['frame']} to {last['frame']} "
            f"({first['time_s']:.2f} to {last['time_s']:.2f} s)",
        )
        if track.marked:
            why = ", ".join(f"{reason} {n}" for reason, n in track.below.most_common())
            _say(console, f"read with care: {track.marked} of its frames ({why})")
        shares = {k: track.present[k] / n for k in AU_KEYS if (n := track.measured[k])}
        shown = [key for key, share in shares.items() if share >= LEAST_SHARE]
        if shown:
            unsure = "" if first["intensity_calibrated"] else " (uncalibrated)"
            mean = f"mean intensity{unsure}"
            table = _plain_table("  AU", "movement", "present in", mean)
            for key in sorted(shown, key=lambda k: -shares[k]):
                level = _level(track.intensity[key] / track.measured[key])
                table.add_row(f"  {key}", AU_BY_KEY[key].name, f"{shares[key]:.0%}", level)
            console.print(table)
        else:
            _say(console, "no action unit present")
        top = [f"{name} {n / track.frames:.0%}" for name, n in track.expressions.most_common(3)]
        if top:
            _say(console, f"expression: {', '.join(top)} of its frames")
        if track.explained is not None:
            _say(console, f"at {track.explained['time_s']:.2f} s:")
            _explanation(console, track.explained)


Summary = PhotoFaces | VideoTracks


def summary(source: str, kind: Kind) -> Summary:
    """The table that fits a source."""
    return PhotoFaces(source) if kind == "picture" else VideoTracks(source)


def show_rows(console: Console, source: str, kind: Kind, rows: Iterable[Row]) -> None:
    """Print a finished source from its rows."""
    table = summary(source, kind)
    for row in rows:
        table.add(row)
    table.show(console)
