"""Figures as a person reads them in a terminal: one line each, columns aligned."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from feallm.model.coded.codes import Agreement

WIDTH = 100  # of the widest table: in a narrower window its lines wrap, but nothing is cut off
NONE = "–"


def figures(of: Mapping[str, Any]) -> None:
    """Print what `evaluate` writes as JSON, in short."""
    console = _console()
    console.print(f"{of['split']}: {of['n']} faces, {of['artifact']}")
    if of.get("points_missing"):
        console.print(f"{of['points_missing']} of them without points of their own")
    if expression := of.get("expression"):
        _expression(console, expression)
    _aus(console, of)
    for way, how in (("through", "laid on gray"), ("through_as_stored", "as stored")):
        if through := of.get(way):
            _through(console, through, how)
    _at_rest(console, of.get("at_rest"))
    _clear(console, of.get("clear"))
    _places(console, of)
    _slices(console, of["slices"])
    if words := of.get("words"):
        console.print(
            f"words       accuracy {words['accuracy']:.4f}  unparsed {words['unparsed']:.4f}"
            f"  replaced {words['replaced']:.4f}"
            f"  with another face's tokens {words['accuracy_swapped_tokens']:.4f}"
        )


def agreement(of: Sequence[Agreement]) -> None:
    """Print two readers' agreement, one AU a line."""
    console = _console()
    columns = ("AU", "n", "kappa", "alike", "present A", "B", "unsure A", "B", "both 1", "both 0")
    table = _table(*columns)
    for one in of:
        counts = (*one.present, *one.unsure, one.both_present, one.both_absent)
        kappa = None if one.kappa != one.kappa else one.kappa
        table.add_row(one.au, str(one.n), _number(kappa), _number(one.agreed), *map(str, counts))
    console.print()
    console.print(table)
    known = [one.kappa for one in of if one.kappa == one.kappa]
    if known:
        console.print(f"mean kappa {sum(known) / len(known):.3f} over {len(known)} AUs")


def _expression(console: Console, of: Mapping[str, Any]) -> None:
    if of["n"]:
        low, high = of["accuracy_95"]
        console.print(
            f"expression  accuracy {of['accuracy']:.4f} (95 % {low:.4f}–{high:.4f})"
            f"  macro F1 {of['macro_f1']:.4f}"
        )
    table = _table("class", "n", "recall", "F1")
    for word, line in of["classes"].items():
        table.add_row(word, str(line["n"]), _number(line["recall"]), _number(line["f1"]))
    console.print()
    console.print(table)


def _aus(console: Console, of: Mapping[str, Any]) -> None:
    if not of["aus"] and not of["not_trained"]:
        return
    graded = any(line["icc31"] is not None for line in of["aus"].values())
    intensity = ("ICC", "95 %", "MAE", "95 %") if graded else ()
    table = _table("AU", "n", "present", "AUC", "95 %", "F1", "95 %", *intensity)
    for key, line in of["aus"].items():
        names = ("auc", "f1", "icc31", "mean_absolute_error")[: 4 if graded else 2]
        cells = [cell for name in names for cell in _with_interval(line, name)]
        table.add_row(key, str(line["n"]), str(line["positives"]), *cells)
    for key, line in of["not_trained"].items():
        table.add_row(key, str(line["n"]), str(line["positives"]), "", "not trained")
    if of["mean_auc"] is not None:
        count = f"{len(of['mean_auc_aus'])} AUs"
        cells = [cell for name in ("mean_auc", "mean_f1") for cell in _with_interval(of, name)]
        of_all = [_number(of[name]) for name in ("mean_icc31", "mean_absolute_error")]
        table.add_row("mean", count, "", *cells, *([of_all[0], "", of_all[1]] if graded else []))
    console.print()
    console.print(table)


def _at_rest(console: Console, of: Mapping[str, Any] | None) -> None:
    if not of:
        return
    beyond = of.get("beyond_readers")
    console.print(
        f"at rest     {of['n']} neutral faces: {of['declared']:.2f} AUs declared on each"
        + (f", {beyond:.2f} beyond what readers saw" if beyond is not None else "")
        + f"; neutral first on {100 * of['neutral_first']:.1f} %"
    )


def _clear(console: Console, of: Mapping[str, Any] | None) -> None:
    if not of:
        return
    table = _table("clear AU", "n", "present", "AUC", "95 %", "F1", "95 %", "false alarms")
    for key, line in of["aus"].items():
        cells = [cell for name in ("auc", "f1") for cell in _with_interval(line, name)]
        alarms = _number(line["false_alarms"])
        table.add_row(key, str(line["n"]), str(line["positives"]), *cells, alarms)
    if of["mean_auc"] is not None:
        cells = [cell for name in ("mean_auc", "mean_f1") for cell in _with_interval(of, name)]
        table.add_row("mean", f"{len(of['mean_auc_aus'])} AUs", "", *cells)
    console.print()
    console.print(table)
    if of["pairs"]:
        table = _table("one of a pair", "n", "", "which it is", "first's own", "second's own")
        for pair, line in of["pairs"].items():
            first, second = pair.split("/")
            own = [_number(line[f"auc_{key}"]) for key in (first, second)]
            table.add_row(pair, *map(str, line["n"]), _number(line["auc"]), *own)
        console.print()
        console.print(table)
    table = _table("clear slice", "", "n", "mean AUC", "mean F1", "false alarms", "AUs", left=2)
    for name, values in of["slices"].items():
        for value, line in values.items():
            cells = [_number(line[one]) for one in ("mean_auc", "mean_f1", "false_alarms")]
            table.add_row(name, value, str(line["n"]), *cells, str(len(line["mean_auc_aus"])))
    console.print()
    console.print(table)


def _places(console: Console, of: Mapping[str, Any]) -> None:
    if sides := of.get("sides"):
        console.print(f"one side    {sides['right']:.3f} right of {sides['n']}")
    for name, word in (("pose_deg", "head pose"), ("gaze_deg", "gaze")):
        if angles := of.get(name):
            axes = ", ".join(
                f"{axis} {value:.1f}"
                for axis, value in angles.items()
                if axis not in ("n", "mean_absolute_error") and value is not None
            )
            if angles["mean_absolute_error"] is not None:
                mean = angles["mean_absolute_error"]
                console.print(f"{word:10}  mean absolute error {mean:.2f}° ({axes})")
    if (marks := of.get("landmarks")) and marks["mean"] is not None:
        console.print(
            f"landmarks   {100 * marks['mean']:.2f} % of the outer eye corners' distance,"
            f" {100 * marks['mean_without_jaw']:.2f} % without the jaw line"
        )


def _slices(console: Console, of: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    if not of:
        return
    judged = any("accuracy" in line for values in of.values() for line in values.values())
    table = _table("slice", "", "n", "mean AUC", "mean F1", "AUs", *["accuracy"] * judged, left=2)
    for name, values in of.items():
        for value, line in values.items():
            cells = [_number(line["mean_auc"]), _number(line["mean_f1"])]
            cells.append(str(len(line["mean_auc_aus"])))
            cells += [_number(line["accuracy"])] if judged else []
            table.add_row(name, value, str(line["n"]), *cells)
    console.print()
    console.print(table)


def _through(console: Console, through: Mapping[str, Any], how: str) -> None:
    low, high = through["accuracy_95"]
    console.print(
        f"analyze     {through['found']} of {through['n']} faces found, pictures {how}:"
        f" accuracy {through['accuracy']:.4f} (95 % {low:.4f}–{high:.4f})"
        + (f", {a:.4f} on those found" if (a := through["accuracy_found"]) is not None else "")
    )


def _console() -> Console:
    # As typer's echo: text as it stands, on the stdout of this moment.
    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    console.width = max(console.width, WIDTH)
    return console


def _table(*columns: str, left: int = 1) -> Table:
    """A table without lines; the first `left` columns hold words, the others numbers."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for k, column in enumerate(columns):
        table.add_column(column, justify="left" if k < left else "right", no_wrap=True)
    return table


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.3f}".removeprefix("0")


def _with_interval(line: Mapping[str, Any], name: str) -> tuple[str, str]:
    low, high = line[f"{name}_95"]
    return _number(line[name]), "" if low is None else f"{_number(low)}–{_number(high)}"
