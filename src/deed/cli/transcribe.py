"""`deed transcribe`: recordings to text or subtitles, by Whisper; what leaves the decoder early is told by word."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from deed.utils.shipped import CHECKPOINTS

from .options import Exact
from .transcribe_files import STDIN, batched, check_names, found, one_of, write
from .transcribe_model import Wanted, decode, load

EXAMPLE = "Example: deed transcribe talk.mp3 interview.mp4 --format srt --output subtitles/"
TIMES = ("none", "segment", "word")
SILENCE = 1e-4  # of full scale, some -80 dB: nothing in it is louder


def transcribe(
    files: Annotated[
        list[str],
        typer.Argument(help="Sound or video files of any kind, folders of them, or - for a file on standard input."),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="A size (base, tiny.en …), a folder (Transformers' or faster-whisper's), or a name on the Hub."
        ),
    ] = "base",
    language: Annotated[
        str | None, typer.Option(help="Code of the language spoken: en, de …", show_default="found out by file")
    ] = None,
    task: Annotated[str, typer.Option(help="transcribe, or translate: to English.")] = "transcribe",
    timestamps: Annotated[str, typer.Option(help="none, segment or word, in --format json.")] = "segment",
    form: Annotated[
        str,
        typer.Option("--format", help="txt; json: with depths by word; srt or vtt: subtitles."),
    ] = "txt",
    output: Annotated[
        Path | None,
        typer.Option(help="Folder for one file each, talk.srt of talk.mp3.", show_default="standard output"),
    ] = None,
    exits: Annotated[
        str | None,
        typer.Option(
            help="Folder with exits alone (model.save_exits), or none: full depth.",
            show_default="the model's own, or those that came with deed for it",
        ),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(help="Exit threshold.", show_default="the model's own; full depth without exits")
    ] = None,
    exact: Exact = False,
    int8: Annotated[bool, typer.Option("--int8", help="Encoder, decoder and head in int8.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Recordings of up to 30 seconds decoded at once.")] = 8,
) -> None:
    """Registered with the module's docstring as its help.

    Args:
        files, model, exits: what is read, and by whom.
        language, task: as Whisper has them.
        timestamps, form, output: what is written, and where.
        threshold, exact, int8, batch_size: how it is decoded.
    """
    from deed.pipelines.subtitles import FORMATS

    from .shared import check_output, check_threshold

    one_of("--format", form, FORMATS)
    one_of("--timestamps", timestamps, TIMES)
    one_of("--task", task, ("transcribe", "translate"))
    check_threshold(threshold)
    recordings = list(found(files))
    if output is not None:
        check_output(output)
        check_names(recordings)
    wanted = Wanted(model, exits, language, task, threshold, exact, int8)
    problems = run(recordings, wanted, timestamps, form, output, batch_size)
    if problems:
        raise typer.Exit(1 if problems < len(recordings) else 2)


def run(
    recordings: list[str], wanted: Wanted, timestamps: str, form: str, output: Path | None, batch_size: int
) -> int:
    """Read, decode and write one batch after the other.

    Args:
        recordings: files, or `-`.
        wanted: the model, and how it decodes.
        timestamps, form, output, batch_size: as for `transcribe`.

    Returns:
        How many recordings could not be transcribed; each has had its line on standard error.

    Raises:
        ValueError: no such model, or one that does not transcribe; an unknown language.
        DeedLoadError: exits that are missing, damaged, or of another model.
    """
    from deed.utils.progress import RichProgress
    from deed.utils.timing import timed_encoder

    with RichProgress(not sys.stderr.isatty(), transient=True) as progress:
        with progress.bar("loading the model"):
            pipe = load(wanted, batch_size)
        kept = list(read(recordings, pipe.rate, progress))
        seconds = [len(samples) / pipe.rate for _, samples in kept]
        depths: list[float] = []
        taken = encoding = 0.0
        longest = pipe.extractor.n_samples if pipe.is_whisper else pipe.chunk
        with (
            progress.bar(f"transcribing {sum(seconds):,.0f} s", total=sum(seconds)) as bar,
            timed_encoder(pipe.model) as clock,
        ):
            for batch in batched(kept, longest, batch_size):
                start = time.perf_counter()
                results = decode(pipe, batch, timestamps, form, bar)
                spent, encoder = time.perf_counter() - start, clock.take()
                taken, encoding = taken + spent, encoding + encoder
                cost = {
                    "recordings": len(batch),
                    "seconds": round(spent, 3),
                    "encoder_share": round(encoder / spent, 3),
                }
                for (file, samples), result in zip(batch, results, strict=True):
                    told = {"file": file, "seconds": round(len(samples) / pipe.rate, 2), **result, "batch": cost}
                    depths += [told["depth"]] if "depth" in told else []
                    write(told, form, output, many=len(recordings) > 1)
    if kept:
        print(summary(pipe, sum(seconds), taken, encoding, depths), file=sys.stderr)
    return len(recordings) - len(kept)


def read(recordings: list[str], rate: int, progress: Any) -> Iterator[tuple[str, Any]]:
    """Recordings with their samples; those that cannot be read, or are silent, get a line on standard error.

    Args:
        recordings: files, or `-`.
        rate: samples a second.
        progress: shows how far it is.
    """
    from deed.errors import DataError
    from deed.utils.audio import load_audio

    with progress.bar(f"reading {len(recordings)} files", total=len(recordings)) as bar:
        for file in recordings:
            try:
                samples = load_audio(sys.stdin.buffer.read() if file == STDIN else file, rate)
                if abs(samples).max() < SILENCE:
                    raise DataError(f"{file} is silent")
                yield file, samples
            except DataError as error:
                line = f"deed: {error}"
                progress.note(line) if sys.stderr.isatty() else print(line, file=sys.stderr)
            bar.advance()


def summary(pipe: Any, seconds: float, taken: float, encoding: float, depths: list[float]) -> str:
    """One line: how long it took, what of that the encoder had, and how deep tokens went.

    Args:
        pipe: the pipeline.
        seconds: of sound.
        taken: seconds for all of it, without loading and reading.
        encoding: of them in the encoder.
        depths: mean exit depth by recording.
    """
    layers = len(pipe.model.deed_family.layers(pipe.model))
    line = f"{seconds:,.0f} s of sound in {taken:.1f} s, {encoding / taken:.0%} of that in the encoder"
    if depths:
        line += f", mean depth {sum(depths) / len(depths):.1f} of {layers}"
    exits = pipe.model.deed_exits_from
    shipped = exits is not None and Path(exits).parent == CHECKPOINTS
    return f"{line} (exits that came with deed)" if shipped else line


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog=EXAMPLE, help=__doc__)(transcribe)
