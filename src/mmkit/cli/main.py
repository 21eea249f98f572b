"""The entry point: puts the commands together, and is the one place where errors become exit codes.

A command's module is imported, and its options are put together, when it is asked for: `--help` of one command does
not pay for those of the others.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from mmkit import __version__, console
from mmkit.cli import config
from mmkit.cli.options import expand
from mmkit.errors import MmkitError, missing_module

COMMANDS = (
    "convert",
    "validate",
    "split",
    "synthesize",
    "filter",
    "instruct",
    "compose",
    "mix",
    "stats",
    "render",
    "score-interaction",
    "group",
    "measure-contribution",
    "weights",
    "finetune",
    "predict",
    "eval",
    "compare",
    "tiny-model",
    "doctor",
)
"""In the order of a pipeline. `mmkit.cli.<name>` holds each, as a function named `command`."""

_PLAIN: Any = {"add_completion": False, "rich_markup_mode": None, "pretty_exceptions_enable": False}


def guarded(name: str, function: Callable[..., None]) -> Callable[..., None]:
    """The function with what goes wrong in it turned into a line on stderr and an exit code."""

    @functools.wraps(function)
    def guard(*args: object, **kwargs: object) -> None:
        try:
            function(*args, **kwargs)
            if sys.stdout is not None:
                sys.stdout.flush()
        except MmkitError as error:
            raise _told(name, error) from None
        except ModuleNotFoundError as error:
            missing = missing_module(error)
            if missing is None:
                raise
            raise _told(name, missing) from None
        except BrokenPipeError:
            # Whoever read our output has seen enough (`| head`). Nothing more may be written, not even at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except KeyboardInterrupt:
            console.say(f"{name}: interrupted")
            raise typer.Exit(130) from None

    return guard


def _told(name: str, error: MmkitError) -> typer.Exit:
    """Tell the user; the way out with the error's code."""
    first, *rest = str(error).split("\n")
    console.say(f"{name}: {first}")
    for line in rest:
        console.say(line)
    return typer.Exit(error.exit_code)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mmkit {__version__}")
        raise typer.Exit


def _configure(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    asks_for_help = not {"-h", "--help"}.isdisjoint(sys.argv[1:])  # which a mistake in the file should not deny
    path = None if asks_for_help else config.find(Path.cwd())
    if path is not None:
        context.default_map = dict(config.load(path, _options_by_command()))


def _options_by_command() -> dict[str, dict[str, config.Option]]:
    return {
        name: {
            option.lstrip("-").replace("-", "_"): config.Option(
                parameter.name or "", getattr(parameter, "multiple", False)
            )
            for parameter in _command(name).params
            for option in (*parameter.opts, *parameter.secondary_opts)
            if option.startswith("--")
        }
        for name in COMMANDS
    }


class _Commands(TyperGroup):
    """The group of all commands, each made when it is asked for."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "commands": dict.fromkeys(COMMANDS)})

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return _command(cmd_name) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _doc(_function(name)).split("\n", 1)[0]) for name in COMMANDS])


@functools.cache
def _command(name: str) -> Any:
    """The command as typer runs it."""
    function = _function(name)
    alone = typer.Typer(**_PLAIN)
    # The example stands on a line of its own, which is not to be wrapped.
    text = _doc(function).replace("Example: ", "\b\nExample:\n  ")
    alone.command(name, help=text)(guarded(f"mmkit {name}", expand(function)))
    return typer.main.get_command(alone)


def _function(name: str) -> Callable[..., None]:
    function: Callable[..., None] = importlib.import_module(f"mmkit.cli.{name.replace('-', '_')}").command
    return function


def _doc(function: Callable[..., None]) -> str:
    return inspect.getdoc(function) or ""


app = typer.Typer(
    name="mmkit",
    cls=_Commands,
    callback=guarded("mmkit", _configure),
    help="Composable commands for multimodal instruction tuning. Each reads records, does one thing, writes records.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    **_PLAIN,
)


def main() -> None:
    """Run the command line."""
    _occupy_standard_streams()
    app()


def _occupy_standard_streams() -> None:
    """Have something behind 0, 1 and 2 where a caller closed them (`<&-`): no file of ours may get these numbers."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)


if __name__ == "__main__":
    main()
