"""feallm-edge: read a face on the device it stands in front of, and say why.

    from feallm import Analyzer

Nothing heavy is loaded until a name is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from feallm.runtime.analyze import Analyzer
    from feallm.runtime.bundle.open import Bundle, open_bundle
    from feallm.runtime.capture.track import Tracker
    from feallm.runtime.contract.errors import FeallmError
    from feallm.runtime.contract.frame import Face, Frame
    from feallm.runtime.contract.reading import FrameReport, Reading
    from feallm.runtime.follow import Follower

    __version__: str

__all__ = [
    "Analyzer",
    "Bundle",
    "Face",
    "FeallmError",
    "Follower",
    "Frame",
    "FrameReport",
    "Reading",
    "Tracker",
    "__version__",
    "open_bundle",
]

_HOMES = {
    "Analyzer": "feallm.runtime.analyze",
    "Bundle": "feallm.runtime.bundle.open",
    "Face": "feallm.runtime.contract.frame",
    "FeallmError": "feallm.runtime.contract.errors",
    "Follower": "feallm.runtime.follow",
    "Frame": "feallm.runtime.contract.frame",
    "FrameReport": "feallm.runtime.contract.reading",
    "Reading": "feallm.runtime.contract.reading",
    "Tracker": "feallm.runtime.capture.track",
    "open_bundle": "feallm.runtime.bundle.open",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("feallm-edge")
    elif name in _HOMES:
        from importlib import import_module

        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'feallm' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
