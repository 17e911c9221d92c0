"""Every figure of the model card, from the files that ship: JSON of each set, and one table.

    python tools/figures.py --data ../shared/data --renders packs/frozen --out runs/figures

Sets are read as `feallm evaluate` reads them; a JSON that is there already is not made again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINTS = ROOT / "model" / "checkpoints"
SUBJECTS: dict[str, list[str]] = {
    "teacher": ["--checkpoint", str(CHECKPOINTS / "teacher.safetensors")],
    "edge": ["--checkpoint", str(CHECKPOINTS / "edge.safetensors")],
    "edge int8": ["--bundle", "edge"],
    "edge int8, one look": ["--bundle", "edge", "--looks", "1"],
    "clean int8": ["--bundle", "clean"],
}
SETS = ("valid", "london-even", "lfw-test", "coded-test", "coded-neutral", "renders-frozen")


def evaluate(subject: str, split: str, data: Path, renders: Path, out: Path) -> dict[str, Any]:
    """Figures of one file on one set."""
    path = out / f"{subject.replace(',', '').replace(' ', '-')}.{split}.json"
    if not path.is_file():
        where = {"valid": data / "fer", "renders-frozen": renders}.get(split, data)
        command = ["feallm", "evaluate", "--data", str(where), "--split", split]
        command += ["--json", str(path), *SUBJECTS[subject]]
        if split == "valid" and "--looks" not in command:  # `analyze` takes two at a photograph
            command += ["--detector", "own"]
        print(" ".join(command), file=sys.stderr)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def number(value: float | None, interval: list[float] | None = None) -> str:
    """As the card writes it."""
    if value is None:
        return "–"
    low_high = "" if interval is None else f" ({interval[0]:.3f}–{interval[1]:.3f})"
    return f"{value:.3f}{low_high}"


def lines(of: dict[str, dict[str, Any]]) -> dict[str, str]:
    """One column of the table: what each figure is, and the figure."""
    valid, frozen = of["valid"], of["renders-frozen"]
    expression, through, clear = valid["expression"], valid.get("through"), frozen["clear"]
    coded, rest, london = of["coded-test"], of["coded-neutral"]["at_rest"], of["london-even"]
    au12 = london["aus"]["AU12"]
    found = {
        "FER+ `valid`: accuracy (95 %)": number(expression["accuracy"], expression["accuracy_95"]),
        "the 2,556 without a near copy in `train`": number(
            valid["slices"]["near copy in train"]["no"]["accuracy"]
        ),
        "macro F1": number(expression["macro_f1"]),
        "through `analyze` (YuNet 0.6, second pass 0.4): accuracy, misses wrong": number(
            through and through["accuracy"]
        ),
        "of the faces found": number(through and through["accuracy_found"])
        + (f" of {through['found']}" if through else ""),
        "renders, clear AUs: mean AUC (95 %)": number(clear["mean_auc"], clear["mean_auc_95"]),
        "mean F1": number(clear["mean_f1"], clear["mean_f1_95"]),
        "mean ICC(3,1)": number(frozen["mean_icc31"]),
        "mean absolute error of intensity": number(frozen["mean_absolute_error"]),
        "right side of a one-sided AU": number((frozen.get("sides") or {}).get("right")),
        "head pose, mean absolute error, degrees": number(
            (frozen.get("pose_deg") or {}).get("mean_absolute_error")
        ),
        "gaze": number((frozen.get("gaze_deg") or {}).get("mean_absolute_error")),
        "landmarks, share of the outer eye corners' distance": number(
            (frozen.get("landmarks") or {}).get("mean")
        ),
        "faces coded by eye: mean AUC (95 %)": number(coded["mean_auc"], coded["mean_auc_95"]),
        "coded: mean F1": number(coded["mean_f1"], coded["mean_f1_95"]),
        "London, AU12: AUC (95 %)": number(au12["auc"], au12["auc_95"]),
        "London, AU12: decisions right": number(au12["accuracy"]),
        "100 faces at rest: AUs declared beyond the readers' on each": number(
            rest["beyond_readers"]
        ),
        "neutral first on them": number(rest["neutral_first"]),
        "neutral first, London": number(london["at_rest"]["neutral_first"]),
        "neutral first, LFW test": number(of["lfw-test"]["at_rest"]["neutral_first"]),
    }
    for pair, line in clear["pairs"].items():
        found[f"pair {pair}: which it is, AUC"] = number(line["auc"])
    return found


def main() -> None:
    """Evaluate what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--renders", type=Path, required=True, help="the frozen pack")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--of", action="append", choices=list(SUBJECTS))
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    subjects = chosen.of or list(SUBJECTS)
    columns = []
    for subject in subjects:
        sets = {
            split: evaluate(subject, split, chosen.data, chosen.renders, chosen.out)
            for split in SETS
        }
        columns.append(lines(sets))
    print("| figure | " + " | ".join(subjects) + " |")
    print("|---|" + "---|" * len(subjects))
    for name in columns[0]:
        print(f"| {name} | " + " | ".join(column.get(name, "–") for column in columns) + " |")


if __name__ == "__main__":
    main()
