"""The command `deed`: one file per verb, gathered here. Bad input ends with exit code 2 and one clear line."""

from __future__ import annotations

import os
import sys

import typer

app = typer.Typer(
    help="Early exit for encoder-decoder transformers (DEED).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Entry point of the `deed` script."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if len(sys.argv) > 1 and not {"-h", "--help"} & set(sys.argv):
        from transformers.utils import logging

        logging.disable_progress_bar()  # of reading weights: the verbs have bars of their own
    from . import ask, bench, calibrate, convert, demo, evaluate, train, tune

    for verb in (demo, ask, train, tune, calibrate, evaluate, bench, convert):
        verb.register(app)
    try:
        app()
    except (ValueError, TypeError, OSError) as error:  # DeedConfigError, DeedLoadError and DataError are ValueErrors
        if os.environ.get("DEED_TRACEBACK"):
            raise
        print(f"deed: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
