"""What `feallm verify` found, to be passed on: Markdown, and one page of HTML with the worst faces.

The page holds everything in itself and loads nothing.
"""

from __future__ import annotations

import base64
from html import escape

import cv2
import numpy as np
from numpy.typing import NDArray

from feallm.runtime.verify.golden import Golden
from feallm.runtime.verify.verdict import TIERS, Line, Report, Result, beside, number

NOTICE = "Movements of a face are compared, not feelings. Faces are biometric data."

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --bad: #b3261e; --good: #1a7f37; --soft: #8888 }
@media (prefers-color-scheme: dark) { :root { --bad: #ff8a80; --good: #6fcf97 } }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2.2rem }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .2rem .6rem; border-bottom: 1px solid var(--line) }
td.n { text-align: right; white-space: nowrap } th[scope=colgroup] { padding-top: .9rem }
.bad { color: var(--bad); font-weight: 600 } .good { color: var(--good); font-weight: 600 }
ul.faces { list-style: none; padding: 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr)) }
ul.faces li { display: flex; gap: .7rem; align-items: flex-start }
ul.faces img { width: 112px; height: 128px; border: 1px solid var(--line) }
ul.faces p { margin: 0 0 .4rem; overflow-wrap: anywhere; white-space: pre-line }
small { color: inherit; opacity: .75 }
"""


def word(report: Report) -> str:
    """How it went as a whole."""
    if report.passed:
        return "agrees"
    failed = any(not result.passed for result in report.results)
    return "DOES NOT AGREE" if failed else "NOT JUDGED"


def compared(report: Report) -> str:
    """What was compared with what."""
    made = report.golden
    return (
        f"{report.faces} golden faces; right is what the checkpoint {made['model']}"
        f" ({made['checkpoint_sha256'][:12]}…) answered in {made['dtype']} on {made['device']}"
    )


def headline(result: Result) -> str:
    """What ran, by what, and how it went."""
    told = "agrees" if result.passed else "DOES NOT AGREE"
    if not result.judged and result.passed:
        told = "not judged: its manifest states no tolerance"
    threads = f"{result.threads} thread{'s' if result.threads > 1 else ''}"
    ran = f"{result.provider or result.engine}, {threads}; {result.faces} faces"
    return f"{result.artifact}, {result.part} ({ran}, {result.seconds} s): {told}"


def markdown(report: Report) -> str:
    """A table a result."""
    lines = [
        f"# {_plain(report.bundle)}: {word(report)}",
        "",
        f"Digest `{report.digest}`. {_plain(compared(report))}.",
        _plain(_machine(report)),
        "",
    ]
    for result in report.results:
        lines += [f"## {_plain(headline(result))}", ""]
        if result.failure is not None:
            lines += [f"{_plain(result.failure)}.", ""]
        lines += [f"- Likely: {_plain(cause)}." for cause in result.causes]
        if result.lines:
            lines += ["", "| | figure | found | limit | |", "|---|---|---|---|---|"]
            lines += [_row(line) for line in result.lines]
        lines.append("")
    lines += [
        f"- Not run here: {_plain(name)}: {_plain(reason)}."
        for name, reason in report.skipped.items()
    ]
    return "\n".join([*lines, "", NOTICE, ""])


def _plain(text: str) -> str:
    """What a stranger may have named, as Markdown in one line that says no more than it does."""
    return escape(" ".join(text.split()), quote=False).replace("|", "\\|").replace("`", "'")


def _row(line: Line) -> str:
    found, limit = _figures(line)
    state = _state(line) if line.limit is None or line.passed else f"**{_state(line)}**"
    return f"| {TIERS[line.tier]} | {_plain(line.what)} | {found} | {limit} | {state} |"


def _figures(line: Line) -> tuple[str, str]:
    found, limit = beside(line)
    if line.limit is None:
        return found, ""
    return found, f"{'at least' if line.least else 'at most'} {limit}"


def _state(line: Line) -> str:
    if line.limit is None:
        return ""
    if line.excused:
        return f"holds: {line.excused}"
    return "holds" if line.passed else "does not hold"


def _machine(report: Report) -> str:
    machine = report.machine
    packages = ", ".join(f"{name} {number}" for name, number in machine["packages"].items())
    where = ", ".join(filter(None, [machine["system"], machine["processor"]]))
    return f"{where}, {machine['cores']} cores, Python {machine['python']}; {packages}."


def page(report: Report, golden: Golden) -> str:
    """HTML with pictures of the faces that are answered most unlike the golden answer."""
    kind = "good" if report.passed else "bad"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(report.bundle)}: verify</title><style>{_STYLE}</style></head><body>",
        f'<h1>{escape(report.bundle)}: <span class="{kind}">{word(report)}</span></h1>',
        f"<p>{escape(compared(report))}.<br><small>Digest {report.digest}.<br>"
        f"{escape(_machine(report))}</small></p>",
    ]
    for result in report.results:
        parts += _section(result, golden)
    if report.skipped:
        rows = [
            f"<li>{escape(name)}: {escape(reason)}</li>" for name, reason in report.skipped.items()
        ]
        parts += ["<h2>Not run here</h2><ul>", *rows, "</ul>"]
    return "\n".join([*parts, f"<p><small>{NOTICE}</small></p>", "</body></html>", ""])


def _section(result: Result, golden: Golden) -> list[str]:
    kind = "bad" if not result.passed else "good" if result.judged else ""
    parts = [f'<h2 class="{kind}">{escape(headline(result))}</h2>']
    if result.failure is not None:
        parts.append(f"<p>{escape(result.failure)}.</p>")
    if result.causes:
        causes = "".join(f"<li>{escape(cause)}</li>" for cause in result.causes)
        parts.append(f"<p>Likely:</p><ul>{causes}</ul>")
    if result.lines:
        parts.append("<table><thead><tr><th>figure<th>found<th>limit<th></tr></thead>")
        for tier, title in TIERS.items():
            rows = [line for line in result.lines if line.tier == tier]
            if rows:
                parts.append(f'<tbody><tr><th colspan="4" scope="colgroup">{title}</th></tr>')
                parts += [_html_row(line) for line in rows]
                parts.append("</tbody>")
        parts.append("</table>")
    if result.worst:
        parts.append("<p>Answered most unlike the golden answer:</p><ul class='faces'>")
        for worst in result.worst:
            unit = "largest difference" if result.part == "eyes" else "mean KL"
            parts.append(
                f"<li><img alt='golden face {worst.row}' src='{_picture(golden.crops[worst.row])}'>"
                f"<div><p><b>golden</b> {escape(worst.golden)}</p>"
                f"<p><b>found</b> {escape(worst.found)}</p>"
                f"<p><small>{unit} {number(worst.apart)}</small></p></div></li>"
            )
        parts.append("</ul>")
    return parts


def _html_row(line: Line) -> str:
    found, limit = _figures(line)
    state = escape(_state(line))
    if not line.passed:
        state = f'<span class="bad">{state}</span>'
    return (
        f"<tr><td>{escape(line.what)}<td class='n'>{escape(found)}"
        f"<td>{escape(limit)}<td>{state}</tr>"
    )


def _picture(crop: NDArray[np.uint8]) -> str:
    done, data = cv2.imencode(".jpg", cv2.cvtColor(crop, cv2.COLOR_RGB2BGR))
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}" if done else ""
