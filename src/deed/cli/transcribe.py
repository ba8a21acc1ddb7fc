"""`deed transcribe`: recordings to text or subtitles, by Whisper; what leaves the decoder early is told by word."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from .options import Exact

EXAMPLE = "Example: deed transcribe talk.mp3 interview.mp4 --format srt --output subtitles/"
STDIN = "-"
TIMES = ("none", "segment", "word")
SILENCE = 1e-4  # of full scale, some -80 dB: nothing in it is louder
# Whisper's own rules for what came out badly (whisper/transcribe.py; the ratio is that of tokens, as Transformers takes it).
# What looks out for silence remembers its first step, which exact decoding does not take alone: it goes without.
RULES = {
    "temperature": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0),
    "compression_ratio_threshold": 1.35,
    "logprob_threshold": -1.0,
    "no_speech_threshold": 0.6,
    "condition_on_prev_tokens": False,
}


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
    threshold: Annotated[
        float | None, typer.Option(help="Exit threshold.", show_default="the model's own; full depth without exits")
    ] = None,
    exact: Exact = False,
    int8: Annotated[bool, typer.Option("--int8", help="Encoder, decoder and head in int8.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Recordings of up to 30 seconds decoded at once.")] = 8,
) -> None:
    """Registered with the module's docstring as its help.

    Args:
        files, model: what is read, and by whom.
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
    problems = run(recordings, model, language, task, timestamps, form, output, threshold, exact, int8, batch_size)
    if problems:
        raise typer.Exit(1 if problems < len(recordings) else 2)


def one_of(option: str, value: str, choices: tuple[str, ...]) -> None:
    """Check a choice.

    Args:
        option: its name.
        value: as given.
        choices: what it may be.

    Raises:
        ValueError: it is none of them.
    """
    if value not in choices:
        raise ValueError(f"{option} must be one of {', '.join(choices)}, got {value!r}")


def found(files: list[str]) -> Iterator[str]:
    """Files as given, those of folders (by their names' endings) in order, each once.

    Raises:
        ValueError: a folder without a recording.
    """
    from deed.utils.audio import SUFFIXES

    seen = set()
    for name in files:
        inside = [name]
        if name != STDIN and Path(name).is_dir():
            inside = [str(p) for p in sorted(Path(name).rglob("*")) if p.suffix.lower() in SUFFIXES and p.is_file()]
            if not inside:
                raise ValueError(f"{name} is a folder without a sound or video file")
        for file in inside:
            if file not in seen:
                seen.add(file)
                yield file


def check_names(recordings: list[str]) -> None:
    """Raises:
    ValueError: two recordings would be written to one file.
    """
    stems: dict[str, str] = {}
    for file in recordings:
        stem = stem_of(file)
        if stem in stems:
            raise ValueError(f"{stems[stem]} and {file} would both be written to {stem}; give them in two calls")
        stems[stem] = file


def stem_of(file: str) -> str:
    """The name of the written file, without its ending."""
    return "stdin" if file == STDIN else Path(file).stem


def run(
    recordings: list[str],
    name: str,
    language: str | None,
    task: str,
    timestamps: str,
    form: str,
    output: Path | None,
    threshold: float | None,
    exact: bool,
    int8: bool,
    batch_size: int,
) -> int:
    """Read, decode and write one batch after the other.

    Args:
        recordings: files, or `-`.
        name: of the model.
        language, task, timestamps, form, output, threshold, exact, int8, batch_size: as for `transcribe`.

    Returns:
        How many recordings could not be transcribed; each has had its line on standard error.

    Raises:
        ValueError: no such model, or one that does not transcribe; an unknown language.
    """
    from deed.errors import DataError
    from deed.utils.audio import load_audio
    from deed.utils.progress import RichProgress

    with RichProgress(not sys.stderr.isatty(), transient=True) as progress:
        with progress.bar("loading the model"):
            pipe = load(name, language, task, threshold, exact, int8, batch_size)
        problems, kept = 0, []
        with progress.bar(f"reading {len(recordings)} files", total=len(recordings)) as bar:
            for file in recordings:
                try:
                    samples = load_audio(sys.stdin.buffer.read() if file == STDIN else file, pipe.rate)
                    if abs(samples).max() < SILENCE:
                        raise DataError(f"{file} is silent")
                    kept.append((file, samples))
                except DataError as error:
                    problems += 1
                    progress.note(f"deed: {error}") if sys.stderr.isatty() else print(
                        f"deed: {error}", file=sys.stderr
                    )
                bar.advance()
        seconds = [len(samples) / pipe.rate for _, samples in kept]
        start = time.perf_counter()
        depths: list[float] = []
        with progress.bar(f"transcribing {sum(seconds):,.0f} s", total=sum(seconds)) as bar:
            for batch in batched(kept, pipe.extractor.n_samples if pipe.is_whisper else pipe.chunk, batch_size):
                results = decode(pipe, batch, timestamps, form, bar)
                for (file, samples), result in zip(batch, results, strict=True):
                    told = {"file": file, "seconds": round(len(samples) / pipe.rate, 2), **result}
                    depths += [told["depth"]] if "depth" in told else []
                    write(told, form, output, many=len(recordings) > 1)
        taken = time.perf_counter() - start
    if kept and sys.stderr.isatty():
        layers = len(pipe.model.deed_family.layers(pipe.model))
        depth = f", mean depth {sum(depths) / len(depths):.1f} of {layers}" if depths else ""
        print(f"{sum(seconds):,.0f} s of sound in {taken:.1f} s{depth}", file=sys.stderr)
    return problems


def load(
    name: str, language: str | None, task: str, threshold: float | None, exact: bool, int8: bool, batch_size: int
) -> Any:
    """The pipeline.

    Args:
        name, language, task, threshold, exact, int8, batch_size: as for `transcribe`.

    Raises:
        ValueError: no such model, or one that does not transcribe; a language or task that it does not have.
    """
    import torch
    from transformers.utils import logging

    import deed
    from deed.models.whisper import find_whisper, is_ctranslate2_whisper
    from deed.models.whisper.installed import install_hint
    from deed.utils.files import user_cache
    from deed.utils.saved_model import read_saved_model

    from .shared import quiet_libraries

    quiet_libraries()
    torch.manual_seed(0)  # what came out badly is sampled anew
    logging.set_verbosity_error()  # Whisper's generate() warns of what it itself does
    place = find_whisper(name, user_cache())
    folder = Path(place)
    has_exits = folder.is_dir() and not is_ctranslate2_whisper(folder) and read_saved_model(folder).has_exits
    if threshold is None and not has_exits and not exact:
        threshold = 2.0  # exits that nobody has trained are right by chance
    if not folder.is_dir() and not on_hub(place):
        hint = install_hint(name) or "give a folder with --model"
        raise ValueError(f"the model {name!r} is not on this machine, and the Hub cannot be reached: {hint}")
    pipe: Any = deed.pipeline("transcribe", place, threshold=threshold, exact=exact, batch_size=batch_size)
    if int8:
        deed.quantize(pipe.model, "int8", parts=("encoder", "decoder", "head"))
    if pipe.is_whisper:
        rules = {name: value for name, value in RULES.items() if not (exact and name == "no_speech_threshold")}
        pipe.options |= rules | spoken(pipe.model.generation_config, language, task)
    elif language or task != "transcribe":
        raise ValueError("--language and --task are Whisper's; this model has none")
    return pipe


def on_hub(place: str) -> bool:
    """Whether a model is in the Hub's cache, or the Hub can be asked: found out at once, where its own client tries for
    minutes."""
    from huggingface_hub import constants, try_to_load_from_cache

    if isinstance(try_to_load_from_cache(place, "config.json"), str):
        return True
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True


def spoken(config: Any, language: str | None, task: str) -> dict[str, Any]:
    """Language and task as Whisper's `generate()` takes them.

    Args:
        config: its generation configuration.
        language, task: as given.

    Raises:
        ValueError: it does not have them.
    """
    if not getattr(config, "is_multilingual", False):
        if task == "translate" or language not in (None, "en", "english"):
            raise ValueError("this Whisper knows English only; take one without .en for other languages")
        return {}
    known = {code.strip("<|>") for code in config.lang_to_id}
    if language is not None:
        from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

        language = TO_LANGUAGE_CODE.get(language.lower(), language.lower())
        if language not in known:
            raise ValueError(f"--language {language!r} is none of {', '.join(sorted(known))}")
    return {"language": language, "task": task}


def batched(kept: list[Any], longest: int, size: int) -> Iterator[list[Any]]:
    """Recordings in their order, `(file, samples)`: short ones together, long ones alone.

    Args:
        kept: all of them.
        longest: samples of a short one.
        size: of a batch.
    """
    part: list[Any] = []
    for one in kept:
        if len(one[1]) > longest:
            if part:
                yield part
                part = []
            yield [one]
            continue
        part.append(one)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def decode(pipe: Any, batch: list[Any], timestamps: str, form: str, bar: Any) -> list[dict[str, Any]]:
    """What the pipeline makes of a batch; the bar counts seconds, of a long recording piece by piece.

    Args:
        pipe: of `load`.
        batch: of `batched`.
        timestamps, form: as for `transcribe`.
        bar: advanced by the seconds of the batch.
    """
    options: dict[str, Any] = {}
    total, told = sum(len(samples) for _, samples in batch) / pipe.rate, [0.0]
    if pipe.is_whisper:
        timed = form in ("srt", "vtt") or timestamps != "none"
        options["return_timestamps"] = "word" if form == "json" and timestamps == "word" else timed
        frames = pipe.extractor.hop_length / pipe.rate

        def monitor(places: Any) -> None:
            at = min(total, float(places[:, 0].sum()) * frames) if len(batch) == 1 else told[0]
            bar.advance(max(0.0, at - told[0]))
            told[0] = max(told[0], at)

        options["monitor_progress"] = monitor
    results = pipe([samples for _, samples in batch], **options)
    bar.advance(total - told[0])
    if not pipe.is_whisper and form in ("srt", "vtt"):
        raise ValueError("subtitles need timestamps, which only Whisper gives; take --format txt or json")
    return results


def write(told: dict[str, Any], form: str, output: Path | None, many: bool) -> None:
    """One recording's result, to a file of its own or to standard output.

    Args:
        told: the result, with its `"file"`.
        form, output: as for `transcribe`.
        many: whether there are other recordings: then text says whose it is.
    """
    from deed.pipelines.subtitles import to_srt, to_vtt
    from deed.utils.files import atomic_write

    if form == "json":
        text = json.dumps(told, ensure_ascii=False, default=float) + "\n"
    elif form == "txt":
        text = told["text"] + "\n"
        if many and output is None:
            text = f"{told['file']}: {text}"
    else:
        text = (to_srt if form == "srt" else to_vtt)(told["chunks"])
    if output is None:
        sys.stdout.write(text)
        sys.stdout.flush()
        return
    output.mkdir(parents=True, exist_ok=True)
    with atomic_write(output / f"{stem_of(told['file'])}.{form}") as temporary:
        temporary.write_text(text, encoding="utf-8")


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog=EXAMPLE, help=__doc__)(transcribe)
