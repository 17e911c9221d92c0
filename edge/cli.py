"""The command `feallm`: the device's verbs, and the workshop's where they are installed.

Each verb loads its own modules when it is called: `feallm --help` must answer at once. The
workshop's verbs (`train`, `export`, …) join through the entry points `feallm.commands`.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from feallm.edge.engines import Engines
from feallm.runtime.contract.errors import INTERRUPTED, BackendError, FeallmError

if TYPE_CHECKING:
    from feallm.edge.analyze import Explain

GROUP = "feallm.commands"
WORKSHOP = {
    "data": ("Make and pack training data.", "train"),
    "train": ("Train a network from packed data.", "train"),
    "calibrate": ("Fit a checkpoint's thresholds and intensities.", "train"),
    "evaluate": ("Measure a bundle or a checkpoint on labelled faces.", "train"),
    "reference": ("Record what a float checkpoint answers; compare.", "export"),
    "export": ("Turn a checkpoint into a bundle.", "export"),
    "mobile": ("Pack a bundle for phones.", "export"),
}
"""What the help says of a workshop verb without loading it, and the extra that it needs."""


class WorkshopVerb(TyperCommand):
    """Stands in for a verb of the workshop until it is called."""

    def __init__(self, entry: EntryPoint) -> None:
        text, self.extra = WORKSHOP.get(entry.name, (f"From {entry.value}.", "export"))
        super().__init__(entry.name, help=text, rich_markup_mode=None)
        self.entry = entry

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> Any:
        """The context of the real command, which is loaded here."""
        loaded = self.entry.load()
        command = typer.main.get_command(loaded) if isinstance(loaded, typer.Typer) else loaded
        return command.make_context(info_name, args, *rest, **extra)


class Verbs(TyperGroup):
    """The device's verbs in the order of this file, then the workshop's."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All names."""
        return [*self.commands, *(name for name in workshop() if name not in self.commands)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The verb, or None. A verb of the workshop is not loaded yet."""
        entry = None if cmd_name in self.commands else workshop().get(cmd_name)
        return super().get_command(ctx, cmd_name) if entry is None else WorkshopVerb(entry)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of verbs for the help, in two parts."""
        device = list(self.commands)
        others = [name for name in self.list_commands(ctx) if name not in device]
        for title, names in (("On the device", device), ("In the workshop", others)):
            room = formatter.width - 16
            lines = [(n, self.get_command(ctx, n).get_short_help_str(room)) for n in names]
            if lines:
                with formatter.section(title):
                    formatter.write_dl(lines)

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; a missing library becomes one line that says what to install."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # typer's own answer differs between its versions
            sys.exit(INTERRUPTED)
        except ModuleNotFoundError as error:
            library = (error.name or "").partition(".")[0]
            if library in ("", "feallm"):
                raise
            verb = ctx.invoked_subcommand or "feallm"
            extra = f"[{WORKSHOP[verb][1]}]" if verb in WORKSHOP else ""
            raise BackendError(
                f"`feallm {verb}` needs {library}, which is not installed",
                hint=f"pip install 'feallm-edge{extra}'",
            ) from error


@cache
def workshop() -> dict[str, EntryPoint]:
    """The verbs that the workshop's rooms offer, by name."""
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    known = [name for name in WORKSHOP if name in found]
    return {name: found[name] for name in [*known, *sorted(set(found) - set(known))]}


app = typer.Typer(
    cls=Verbs,
    help="Read a face: action units, expression, and why. Everything stays on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its panels would double the time that --help takes
    context_settings={"help_option_names": ["-h", "--help"]},
)
bundle_app = typer.Typer(
    help="Look at a bundle of trained files.", no_args_is_help=True, rich_markup_mode=None
)

# readable=False: click's own check of a path would answer with a usage text and exit code 2.
BundleOption = Annotated[
    Path | None,
    typer.Option(
        "--bundle",
        metavar="DIR",
        help="A bundle's folder, or clean, which ships too; else edge.",
        readable=False,
    ),
]
RequireOption = Annotated[
    Path | None,
    typer.Option(
        "--require-signature", metavar="PUBLIC.pem", envvar="FEALLM_REQUIRE_SIGNATURE",
        help="Refuse a bundle that this key did not sign.", readable=False,
    ),
]  # fmt: skip
DetectorOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE.onnx", help="Face detector of YuNet's kind.", readable=False),
]
EveryOption = Annotated[
    int,
    typer.Option(min=1, help="Search every Nth frame of a video, and wherever a face is lost."),
]
SearchOption = Annotated[
    int | None,
    typer.Option(
        "--search", metavar="PX", min=32, max=4096,
        help="Longer side at which faces are searched; else the bundle's: 640, in videos 320.",
    ),
]  # fmt: skip
SmoothOption = Annotated[
    bool, typer.Option("--smooth", help="Steady values in videos (One-Euro); off for evaluation.")
]
ExpressionOption = Annotated[
    bool,
    typer.Option(
        "--expression/--no-expression",
        help="--no-expression: action units alone; no emotion word is computed into a row.",
    ),
]
VisionOption = Annotated[
    str | None,
    typer.Option(
        "--vision", metavar="ENGINE",
        help="onnx, executorch, coreml, or a file of the bundle; else its best that runs here.",
    ),
]  # fmt: skip
LanguageOption = Annotated[
    str | None,
    typer.Option(
        "--language", metavar="ENGINE",
        help="llama, executorch, coreml, or a file of the bundle; else its best that runs here.",
    ),
]  # fmt: skip
ThreadsOption = Annotated[
    int | None,
    typer.Option(min=1, max=64, help="Of one inference; else the bundle's profile's, mostly 1."),
]
ExplainOption = Annotated[
    str, typer.Option(metavar="never|once|always", help="once: each face at its first frame.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object, nothing else.")]


@app.command()
def analyze(
    paths: Annotated[
        list[str],  # an address with a password must not become a path that an error shows
        typer.Argument(metavar="PATH", help="Photos, videos, folders."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where the rows go; else a folder named after the input."),
    ] = None,
    bundle: BundleOption = None,
    require_signature: RequireOption = None,
    detector: DetectorOption = None,
    detect: Annotated[
        bool, typer.Option("--detect/--no-detect", help="--no-detect: pictures are face crops.")
    ] = True,
    explain: ExplainOption = "once",
    expression: ExpressionOption = True,
    every: EveryOption = 5,
    search: SearchOption = None,
    smooth: SmoothOption = False,
    vision: VisionOption = None,
    language: LanguageOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read the faces of photos, folders and videos."""
    from feallm.edge import analyze as verb

    request = verb.Request(
        verb.files(paths),
        out,
        _trusted(bundle, require_signature),
        detector,
        detect=detect,
        explain=_explain(explain),
        as_json=as_json,
        expression=expression,
        every=every,
        search_px=search,
        smooth=smooth,
        engines=Engines(vision, language, threads),
    )
    raise typer.Exit(verb.analyze(request))


def _explain(text: str) -> Explain:
    from feallm.edge.analyze import Explain

    try:
        return Explain(text)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not never, once or always", param_hint="--explain"
        ) from None


def _trusted(bundle: Path | None, signed_by: Path | None) -> Path | None:
    """The bundle as it was given; where a signature is required, the folder that bears it, which
    no link leads elsewhere any more."""
    if signed_by is None:
        return bundle
    from feallm.runtime.bundle.open import open_bundle

    return open_bundle(bundle, signed_by=signed_by).root


@app.command()
def live(
    address: Annotated[
        str,
        typer.Argument(
            metavar="ADDRESS",
            help="camera:0, rtsp://…, http://…, gst:PIPELINE, or - for frames on stdin.",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Keep the rows here; else nothing is stored."),
    ] = None,
    bundle: BundleOption = None,
    require_signature: RequireOption = None,
    detector: DetectorOption = None,
    explain: ExplainOption = "never",
    expression: ExpressionOption = True,
    every: EveryOption = 5,
    search: SearchOption = None,
    smooth: SmoothOption = False,
    vision: VisionOption = None,
    language: LanguageOption = None,
    threads: ThreadsOption = None,
    seconds: Annotated[
        float | None, typer.Option(metavar="S", min=0, help="Stop after so long; else at Ctrl-C.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for a camera that is not there yet.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a row a face and frame, as JSON lines.")
    ] = False,
) -> None:
    """Read the faces before a camera, of a stream, or of piped frames, as they come."""
    from feallm.edge import live as verb

    request = verb.Request(
        address,
        out,
        _trusted(bundle, require_signature),
        detector,
        explain=_explain(explain),
        expression=expression,
        every=every,
        search_px=search,
        smooth=smooth,
        engines=Engines(vision, language, threads),
        seconds=seconds,
        wait=wait,
        as_json=as_json,
    )
    verb.live(request)


@app.command()
def bench(
    picture: Annotated[
        Path | None,
        typer.Argument(help="A photo with a face; else scikit-image's portrait.", readable=False),
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Repetitions of each stage.")] = 200,
    bundle: BundleOption = None,
    require_signature: RequireOption = None,
    detector: DetectorOption = None,
    vision: VisionOption = None,
    language: LanguageOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time each stage on this machine. The last line is one JSON object."""
    from feallm.edge import bench as verb

    engines = Engines(vision, language, threads)
    bundle = _trusted(bundle, require_signature)
    verb.bench(verb.Request(picture, runs, bundle, detector, as_json=as_json, engines=engines))


@app.command()
def verify(
    bundle: Annotated[
        Path | None,
        typer.Argument(help="A bundle's folder, or clean; else edge.", readable=False),
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.npz", help="Golden outputs; else those in the bundle.", readable=False
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            metavar="ENGINE",
            help="onnx, llama, executorch, coreml, or a file of the bundle; else all of them.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write verify.md, .json and .html, which shows the worst faces."
        ),
    ] = None,
    frames: Annotated[
        bool, typer.Option("--frames/--no-frames", help="--no-frames: crops alone, no detector.")
    ] = True,
    trace: Annotated[
        bool, typer.Option("--trace", help="Tell how far each layer is off, where it is shown.")
    ] = False,
    require_signature: RequireOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare a bundle, on this machine, with the model that it was made of."""
    from feallm.edge import verify as verb

    request = verb.Request(
        _trusted(bundle, require_signature),
        reference,
        backend,
        threads,
        out,
        frames=frames,
        trace=trace,
        as_json=as_json,
    )
    verb.verify(request)


@app.command()
def sign(
    bundle: Annotated[Path, typer.Argument(help="A bundle's folder.", readable=False)],
    key: Annotated[
        Path,
        typer.Option(
            metavar="PRIVATE.pem", help="An Ed25519 key without passphrase.", readable=False
        ),
    ],
    public: Annotated[
        Path | None,
        typer.Option(metavar="PUBLIC.pem", help="Write the public key here.", readable=False),
    ] = None,
) -> None:
    """Sign a bundle with a key of one's own."""
    from feallm.edge.sign import sign_bundle

    sign_bundle(bundle, key, public)


@app.command()
def version() -> None:
    """Print the version."""
    import feallm

    print(feallm.__version__)


def _version(asked: bool) -> None:
    if asked:
        version()
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What stands before a verb."""


@bundle_app.command("path")
def bundle_path() -> None:
    """Print where the shipped bundle lies."""
    from feallm.runtime.bundle.open import shipped_path

    print(shipped_path())


@bundle_app.command("show")
def bundle_show(
    folder: Annotated[
        Path | None, typer.Argument(help="A bundle; else the shipped one.", readable=False)
    ] = None,
    require_signature: RequireOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a bundle and print what it holds."""
    from feallm.edge.show import show_bundle

    show_bundle(_trusted(folder, require_signature), as_json=as_json)


app.add_typer(bundle_app, name="bundle")


def main() -> NoReturn:
    """Run the command; the one place that prints errors and chooses the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that knows no “ still gets the rest
            stream.reconfigure(errors="replace")
    # What stops a service ends like Ctrl-C: finished rows are kept, the table is written.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except FeallmError as error:
        print(f"feallm: {error.line()}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:  # whatever it is, a person gets one line
        if os.environ.get("FEALLM_DEBUG") == "1":
            raise
        told = " ".join(f"{type(error).__name__}: {error}".split())
        hint = "FEALLM_DEBUG=1 shows where"
        print(f"feallm: unexpected {told} ({hint})", file=sys.stderr)
        code = 1
    else:
        code = 0
    sys.exit(code)


if __name__ == "__main__":
    main()
