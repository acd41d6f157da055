"""The `detr-sentry` command: one entry, thin subcommands.

Exit status: 0 well, 1 failed while running, 2 wrong usage or settings, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detr_sentry import __version__
from detr_sentry.errors import SentryError, SettingsError
from detr_sentry.settings import FLAGS_VARIABLE, LogSettings, describe, load_settings, merge

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from detr_sentry.settings import Settings

DEFAULT_FILES = (Path("sentry.yaml"), Path("/etc/detr-sentry/sentry.yaml"))
DEMO_SOURCE = "demo:?period=40&seed=1"
SERVICES = ("capture", "inference", "controller", "gateway")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    try:
        return int(arguments.handler(arguments))
    except SettingsError as error:
        print(f"detr-sentry: {error}", file=sys.stderr)
        return 2
    except SentryError as error:
        print(f"detr-sentry: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def build_parser() -> argparse.ArgumentParser:
    """The whole command line, without running anything."""
    parser = argparse.ArgumentParser(
        prog="detr-sentry",
        description="A sentry camera: finds people with a DETR detector, idles when nobody is there.",
        epilog="Settings come from sentry.yaml, DETR_SENTRY_* variables and flags; `detr-sentry settings` shows them.",
    )
    parser.add_argument("--version", action="version", version=f"detr-sentry {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    run = _command(commands, "run", run_all, "start everything on this machine; without settings, on the demo scene")
    run.add_argument("--source", action="append", default=[], metavar="URL", help="a camera or file; may be repeated")
    run.add_argument("--model", metavar="NAME", help="embedded, a catalogue name, or a path to an ONNX file")
    run.add_argument("--host", help="address to listen on (127.0.0.1)")
    run.add_argument("--port", type=int, help="port of the page and the API (8099)")
    run.add_argument("--instance", help="name of this engine, for several on one machine (main)")
    run.add_argument("--open", action="store_true", help="open the page in a browser")

    for kind in SERVICES:
        service = _command(commands, kind, _service(kind), f"run only the {kind} service")
        service.add_argument("--parent", type=int, help=argparse.SUPPRESS)
        if kind == "capture":
            service.add_argument("camera", help="id of the camera in the settings")
        if kind == "inference":
            service.add_argument("--check", action="store_true", help="only see whether the model can be used")

    settings = _command(commands, "settings", show_settings, "show every setting and where its value comes from")
    settings.add_argument("--json", action="store_true", help="print JSON")

    doctor = _command(commands, "doctor", run_doctor, "say what is missing on this machine, and how to mend it")
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.add_argument("--clean", action="store_true", help="remove what a killed engine left in shared memory")

    models = _command(
        commands, "models", _lazy("detr_sentry.model_commands.commands", "run"), "pull, import, check models"
    )
    _add_lazily(models, "detr_sentry.model_commands.commands")
    evaluate = _command(commands, "eval", _lazy("detr_sentry.evaluation.commands", "run"), "measure a model's accuracy")
    _add_lazily(evaluate, "detr_sentry.evaluation.commands")
    bench = _command(commands, "bench", _lazy("detr_sentry.bench.commands", "run"), "measure speed against the budgets")
    _add_lazily(bench, "detr_sentry.bench.commands")
    return parser


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    handler: Callable[[argparse.Namespace], int],
    text: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="settings file (sentry.yaml here or in /etc/detr-sentry)"
    )
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="how much to log")
    parser.set_defaults(handler=handler)
    return parser


def _lazy(module: str, function: str) -> Callable[[argparse.Namespace], int]:
    def call(arguments: argparse.Namespace) -> int:
        from importlib import import_module

        return int(getattr(import_module(module), function)(arguments, settings_of(arguments)))

    return call


def _add_lazily(parser: argparse.ArgumentParser, module: str) -> None:
    """Let `module` add its arguments, but only if its command is the one called: start time counts on small boards."""
    if parser.prog.split()[-1] in sys.argv[1:2] or not sys.argv[1:]:
        from importlib import import_module

        import_module(module).add_arguments(parser)


def settings_file(arguments: argparse.Namespace) -> tuple[Path, bool]:
    """The settings file that applies, and whether it may be absent.

    It is the flag, DETR_SENTRY_CONFIG, the first default that exists, or else where the page will store settings.
    """
    named = arguments.config or os.environ.get("DETR_SENTRY_CONFIG")
    if named:
        return Path(named).absolute(), False
    root = os.environ.get("XDG_CONFIG_HOME")
    own = (Path(root) if root else Path.home() / ".config") / "detr-sentry" / "sentry.yaml"
    return next((path.absolute() for path in DEFAULT_FILES if path.is_file()), own), True


def settings_of(arguments: argparse.Namespace, flags: dict[str, Any] | None = None) -> Settings:
    """Settings for a subcommand, with the common flags applied. Raises SettingsError."""
    inherited: dict[str, Any] = json.loads(os.environ.get(FLAGS_VARIABLE, "{}"))
    common = {"log": {"level": arguments.log_level}} if arguments.log_level else {}
    file, may_be_absent = settings_file(arguments)
    return load_settings(file, flags=merge(merge(inherited, flags or {}), common), may_be_absent=may_be_absent)


def run_flags(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `run`'s own flags say, as a nested mapping of settings."""
    flags: dict[str, Any] = {}
    if arguments.log_level:
        flags["log"] = {"level": arguments.log_level}
    if arguments.model:
        flags["model"] = {"name": arguments.model}
    if arguments.instance:
        flags["instance"] = arguments.instance
    gateway = {key: getattr(arguments, key) for key in ("host", "port") if getattr(arguments, key) is not None}
    if gateway:
        flags["gateway"] = gateway
    if arguments.source:
        sources = arguments.source
        names = ["camera"] if len(sources) == 1 else [f"camera_{number}" for number in range(1, len(sources) + 1)]
        flags["cameras"] = {name: {"source": source} for name, source in zip(names, sources, strict=True)}
    return flags


def run_all(arguments: argparse.Namespace) -> int:
    """`run`: the supervisor on all services. Without any camera in the settings, the demo scene is the camera."""
    from detr_sentry.doctor import Verdict, check_port
    from detr_sentry.supervisor import Supervisor
    from detr_sentry.telemetry import configure_logging

    flags = run_flags(arguments)
    settings = settings_of(arguments, flags)
    demo = not settings.cameras
    if demo:
        flags = merge(flags, {"cameras": {"demo": {"source": DEMO_SOURCE, "name": "Demo scene"}}})
        settings = settings_of(arguments, flags)
    for finding in check_port(settings):
        if finding.verdict is Verdict.FAIL:
            raise SettingsError(
                "gateway.port", f"{finding.seen}; {finding.mend}", settings.origins.get("gateway.port", "")
            )
    configure_logging(settings.log, "supervisor")
    if demo:
        print("No camera in the settings: showing the demo scene. Use your own with --source.", file=sys.stderr)
    supervisor = Supervisor(
        settings, flags=flags, reload=lambda: settings_of(arguments, flags), open_page=arguments.open
    )
    return supervisor.run()


def _service(kind: str) -> Callable[[argparse.Namespace], int]:
    def call(arguments: argparse.Namespace) -> int:
        from importlib import import_module

        from detr_sentry._process import become_service
        from detr_sentry.telemetry import configure_logging

        if getattr(arguments, "check", False):
            import_module("detr_sentry.inference.service").check(settings_of(arguments))
            return 0
        camera = getattr(arguments, "camera", None)
        name = f"{kind}.{camera}" if camera else kind
        become_service(name, parent=arguments.parent)
        settings = settings_of(arguments)
        configure_logging(settings.log, name)
        run = import_module(f"detr_sentry.{kind}.service").run
        return int(run(settings, camera) if camera else run(settings))

    return call


def show_settings(arguments: argparse.Namespace) -> int:
    """`settings`: a table of key, value and origin."""
    described = describe(settings_of(arguments))
    if arguments.json:
        print(json.dumps(described, indent=2))
        return 0
    width = max(len(key) for key in described)
    for key, entry in described.items():
        value = "" if entry["value"] is None else entry["value"]
        origin = "" if entry["origin"] == "default" else f"   ({entry['origin']})"
        print(f"{key:<{width}}  {value}{origin}")
    return 0


def run_doctor(arguments: argparse.Namespace) -> int:
    """`doctor`: checks of this machine; status 1 if the engine cannot run."""
    from detr_sentry import doctor
    from detr_sentry.telemetry import configure_logging

    configure_logging(LogSettings(level="warning"), "doctor")
    settings = settings_of(arguments)
    return doctor.run(settings, as_json=arguments.json, remove=arguments.clean)
