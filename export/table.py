"""The table of artifacts, as people read it: Markdown of what `report` measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from feallm.export.profiles import PROFILES


def read(path: Path) -> dict[str, Any]:
    """What `report` measured, from the file in a bundle."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def markdown(found: dict[str, Any]) -> str:
    """Two tables, of the eyes and of the words, and the machine that the times are of."""
    rows = found["artifacts"]
    parts = [_vision(rows), _language(rows), _machine(found["machine"])]
    return "\n\n".join(part for part in parts if part)


def _vision(rows: list[dict[str, Any]]) -> str:
    eyes = [row for row in rows if "on" in row]
    if not eyes:
        return ""
    sets = list(dict.fromkeys(name for row in eyes for name in row["on"]))
    head = ["eyes", "MB", "ms, 1 thread", "2", "AU prob.", "intensity", "tokens"]
    for name in sets:
        head += [f"{name}: mean F1", "worst AU", "expression", "faces"]
    lines = [head]
    for row in eyes:
        first = row["on"][sets[0]]["error"]
        line = [
            f"{row['file']}{_shipped(row['file'])}",
            f"{row['mb']:.2f}",
            _number(row.get("ms", {}).get("1"), 2),
            _number(row.get("ms", {}).get("2"), 2),
            f"{first['au_probability']['max']:.1e}",
            f"{first['au_intensity']['max']:.1e}",
            f"{first['tokens']['relative']:.1e}",
        ]
        for name in sets:
            one = row["on"][name]
            worst = f"{_number(one['worst_au_f1'], 3)} {one['worst_au'] or ''}"
            line += [
                _number(one["au_f1"], 3),
                worst.strip(),
                f"{one['expression_same']:.3f}",
                str(one["faces"]),
            ]
        lines.append(line)
    note = (
        f"Errors are against float torch, on {sets[0]}: largest of probabilities and intensities,"
        " relative root mean square of tokens. F1 takes the float network's decisions as the truth."
    )
    return f"{_table(lines)}\n\n{note}"


def _language(rows: list[dict[str, Any]]) -> str:
    words = [row for row in rows if "words" in row]
    if not words:
        return ""
    lines = [["words", "MB", "tokens/s, 1 thread", "2", "KL", "99.9 %", "same token", "tokens"]]
    for row in words:
        one, speed = row["words"], row.get("tokens_per_s", {})
        lines.append(
            [
                f"{row['file']}{_shipped(row['file'])}",
                f"{row['mb']:.2f}",
                _number(speed.get("1"), 0),
                _number(speed.get("2"), 0),
                f"{one['mean']:.1e}",
                f"{one['tail']:.1e}",
                f"{one['share']:.4f}",
                str(one["tokens"]),
            ]
        )
    return _table(lines)


def _machine(machine: dict[str, Any]) -> str:
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    return f"{machine['processor']}, {machine['cores']} cores; {packages}."


def _shipped(file: str) -> str:
    profiles = [plan.name for plan in PROFILES if file in plan.files]
    return f" ({', '.join(profiles)})" if profiles else ""


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _table(lines: list[list[str]]) -> str:
    head, *body = ["| " + " | ".join(line) + " |" for line in lines]
    rule = "|" + "---|" * len(lines[0])
    return "\n".join([head, rule, *body])
