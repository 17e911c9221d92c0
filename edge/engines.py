"""Which engines a command was asked to use, and what it says of those that it did use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Engines:
    """Options of every command that reads faces; None leaves the choice to the bundle."""

    vision: str | None = None
    language: str | None = None
    threads: int | None = None

    def options(self) -> dict[str, Any]:
        """Arguments of `Analyzer`."""
        return {
            "vision_engine": self.vision,
            "language_engine": self.language,
            "threads": self.threads,
        }


def line(running: dict[str, dict[str, str]]) -> str:
    """What read and what spoke, in one line: `Analyzer.running`."""
    parts = [
        f"{part} by {one.get('artifact', 'a backend of its own')} ({one['provider']})"
        for part, one in running.items()
    ]
    passed = [one["why"] for one in running.values() if one.get("why", "").startswith("not ")]
    return "; ".join([*parts, *passed])
