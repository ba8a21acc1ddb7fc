"""The command `deed`: one file per verb, gathered here. Bad input ends with exit code 2 and one clear line.

Nothing here imports PyTorch or Transformers, nor do the verbs' files at module level, so that `deed --help` starts at once.
"""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from deed.constants import __version__

from . import ask, batch, bench, calibrate, convert, demo, estimate, evaluate, serve, train, transcribe, tune
from .help_text import flow, markup

VERBS = (demo, ask, transcribe, serve, batch, estimate, train, tune, calibrate, evaluate, bench, convert)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=markup(),
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in VERBS:
    verb.register(app)
flow(app)


def show_version(wanted: bool) -> None:
    """Print deed's version and end the command, where `--version` was given."""
    if wanted:
        typer.echo(f"deed {__version__}")
        raise typer.Exit()


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Early exit for encoder-decoder transformers (DEED)."""


def leave_group() -> None:
    """End the group of processes that a training under `torchrun` was in.

    Threads of one that is left behind at exit now and then abort the process ("terminate called without an active exception"),
    and with it a run that was done.
    """
    if "torch" in sys.modules:  # else no verb has had any use for it
        from torch import distributed

        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()


def main() -> None:
    """Entry point of the `deed` script."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # of reading weights: the verbs have bars of their own
    try:
        app()
    except (ValueError, TypeError, OSError) as error:  # DeedConfigError, DeedLoadError and DataError are ValueErrors
        if os.environ.get("DEED_TRACEBACK"):
            raise
        print(f"deed: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    finally:
        leave_group()
