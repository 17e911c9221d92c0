"""The check at the first start of a bundle on a device, as commands do it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from feallm.edge.engines import Engines
from feallm.edge.terminal import note

if TYPE_CHECKING:
    from feallm.runtime.analyze import Analyzer


def check(analyzer: Analyzer, engines: Engines) -> None:
    """Check what the analyzer will use, once a device and bundle, and say so. Raises
    VerificationError where it does not answer as it should."""
    from feallm.runtime.verify import first_start

    found = first_start.check(
        analyzer.bundle,
        vision=engines.vision,
        language=engines.language,
        words=analyzer.words_missing is None,
        threads=engines.threads,
    )
    if found is not None and found.now:
        kept = (
            f"kept in {found.file}" if found.file else "cannot be kept here: it is done each time"
        )
        note(
            f"first start of this bundle on this device: {first_start.FACES} golden faces are"
            f" answered as they should be ({found.seconds:.1f} s; {kept})"
        )
