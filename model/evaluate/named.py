"""Sets by name. The names here are frozen: what is read under one is checked against its hash."""

from __future__ import annotations

from pathlib import Path

from feallm.model.coded.faces import Part
from feallm.model.data import pack
from feallm.model.evaluate import coded, frozen, photos, renders, sets
from feallm.runtime.contract.errors import InputError, UsageError

LONDON, LFW, RENDERS = "london-even", "lfw-test", "renders-frozen"
CODED: dict[str, Part] = {
    "coded-test": "test",
    "coded-train": "train",
    "coded-more": "more",
    "coded-neutral": "neutral",
}
NAMES = (LONDON, LFW, *CODED, RENDERS)


def read(data: Path, name: str) -> sets.Labelled:
    """The set of that name: a frozen one, or a pack of renders, or a data file.

    `data` is the folder of the shared data, a pack's folder for renders, else a data file or a
    folder that holds NAME.npz. `InputError` where a frozen set is not what it was.
    """
    if not name:
        raise UsageError("--split: empty", hint=f"frozen sets are {', '.join(NAMES)}")
    if name not in NAMES:
        if (data / pack.INDEX).is_file() and not (data / f"{name}.npz").is_file():
            return renders.read(data)[0]
        if data.is_dir() and not (data / f"{name}.npz").is_file():
            raise InputError(
                f"{data / name}.npz: no such file",
                hint=f"{name!r} is no frozen set either: those are {', '.join(NAMES)}",
            )
        return sets.read(data, name)
    if not data.is_dir():
        wanted = "a pack of renders" if name == RENDERS else "the folder of the shared data"
        if data.exists():
            raise UsageError(f"{name} is a frozen set: --data is {wanted}, not a file")
        raise InputError(f"{data}: no such folder", hint=f"for {name}, --data is {wanted}")
    if name != RENDERS and (data / pack.INDEX).is_file():
        raise UsageError(f"{data}: is a pack; for {name}, --data is the folder of the shared data")
    if name == RENDERS:
        labelled, entry = renders.read(data)
        frozen.check(name, entry)
        return labelled
    if name in CODED:
        frozen.check(name, coded.entry(CODED[name]))
        return coded.labelled(data, CODED[name])
    chosen = photos.london_even(data) if name == LONDON else photos.lfw_test(data)
    frozen.check(name, chosen.entry())  # before the detector runs over its pictures
    return chosen.located()


def entries(data: Path, pack_of_renders: Path | None) -> tuple[dict[str, frozen.Entry], list[str]]:
    """What can be frozen as it lies here; and a line on each set that cannot, and why."""
    found = {
        LONDON: photos.london_even(data).entry(),
        LFW: photos.lfw_test(data).entry(),
    }
    left_out = []
    for name, part in CODED.items():
        missing = [path.name for path in coded.code_files(part) if not path.is_file()]
        if missing:
            left_out.append(f"{name}  left out: no {' and no '.join(missing)} yet")
        else:
            found[name] = coded.entry(part)
    if pack_of_renders is None:
        left_out.append(f"{RENDERS}  left out: no --renders")
    else:
        found[RENDERS] = renders.read(pack_of_renders)[1]
    return found, left_out
