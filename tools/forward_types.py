"""Write typings/feallm/**.pyi: one line each, so that type checkers see feallm.<room>.

Type checkers follow folders, not the mapping in setup.py. Run by `make types`; again after a new
file. A forwarder passes on public names only.
"""

import shutil
from pathlib import Path

ROOT = Path(__file__).parent.parent
OUT = ROOT / "typings" / "feallm"
ROOMS = ("runtime", "model", "calibration", "export", "edge")


def main() -> None:
    """Write every forwarder anew."""
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    front = (ROOT / "feallm" / "__init__.py").read_text(encoding="utf-8")
    (OUT / "__init__.pyi").write_text(front.split("\n\n\ndef ")[0] + "\n", encoding="utf-8")
    for room in ROOMS:
        for source in (ROOT / room).rglob("*.py"):
            inner = source.relative_to(ROOT).with_suffix("")
            stub = OUT / inner.with_suffix(".pyi")
            stub.parent.mkdir(parents=True, exist_ok=True)
            module = ".".join(inner.parts).removesuffix(".__init__")
            stub.write_text(f"from {module} import *\n", encoding="utf-8")


if __name__ == "__main__":
    main()
