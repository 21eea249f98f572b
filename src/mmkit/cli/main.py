"""The entry point: puts the commands together, and is the one place where errors become exit codes."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from mmkit import __version__, console
from mmkit.cli import config
from mmkit.cli.options import expand
from mmkit.errors import MmkitError

COMMANDS = (
    "convert",
    "validate",
    "split",
    "synthesize",
    "filter",
    "compose",
    "finetune",
    "predict",
    "eval",
    "compare",
    "tiny-model",
    "doctor",
)
"""In the order of a pipeline. `mmkit.cli.<name>` holds each, as a function named `command`."""

app = typer.Typer(
    name="mmkit",
    help="Composable commands for multimodal instruction tuning. Each reads records, does one thing, writes records.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def guarded(name: str, function: Callable[..., None]) -> Callable[..., None]:
    """The function with what goes wrong in it turned into a line on stderr and an exit code."""

    @functools.wraps(function)
    def guard(*args: object, **kwargs: object) -> None:
        try:
            function(*args, **kwargs)
            sys.stdout.flush()
        except MmkitError as error:
            first, *rest = str(error).split("\n")
            console.say(f"{name}: {first}")
            for line in rest:
                console.say(line)
            raise typer.Exit(error.exit_code) from None
        except BrokenPipeError:
            # Whoever read our output has seen enough (`| head`). Nothing more may be written, not even at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except KeyboardInterrupt:
            console.say(f"{name}: interrupted")
            raise typer.Exit(130) from None

    return guard


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
    path = config.find(Path.cwd())
    if path is not None:
        context.default_map = dict(config.load(path, _options_by_command(context)))


def _options_by_command(context: typer.Context) -> dict[str, dict[str, str]]:
    commands = context.command.commands  # type: ignore[attr-defined]
    return {
        name: {
            option.lstrip("-").replace("-", "_"): parameter.name
            for parameter in command.params
            for option in (*parameter.opts, *parameter.secondary_opts)
            if option.startswith("--")
        }
        for name, command in commands.items()
    }


def build() -> typer.Typer:
    """The app with all its commands."""
    app.callback()(guarded("mmkit", _configure))
    for name in COMMANDS:
        function = importlib.import_module(f"mmkit.cli.{name.replace('-', '_')}").command
        summary, text = _help(function)
        app.command(name, short_help=summary, help=text)(guarded(f"mmkit {name}", expand(function)))
    return app


def _help(function: Callable[..., None]) -> tuple[str, str]:
    """A command's first line, and its whole docstring with the example on a line of its own, not to be wrapped."""
    text = inspect.getdoc(function) or ""
    return text.split("\n", 1)[0], text.replace("Example: ", "\b\nExample:\n  ")


def main() -> None:
    """Run the command line."""
    build()()


if __name__ == "__main__":
    main()
