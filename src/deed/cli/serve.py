"""`deed serve`: models behind HTTP, with a page to look at; a worker that hangs or dies is started again."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from deed.utils.shipped import DOCUMENTS, NAMES, PAPERWORK, shipped

from .shared import whisper_or_folder

EXAMPLE = (
    "Example: deed serve answers questions about documents at http://127.0.0.1:8000; deed serve documents pictures "
    "whisper=/models/whisper-small --port 9000 --api-key-file keys.txt --host 0.0.0.0"
)
CACHE_SHARE = 8  # of --memory: keys and values of one model, where --limit cache_bytes does not say
SPEECH = "speech"


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folders of saved models, or NAME=FOLDER; documents, paperwork, pictures and pronunciation are shipped, "
            "speech is Whisper base from its packages.",
            show_default="documents paperwork",
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    api_key: Annotated[
        str | None,
        typer.Option(
            help="Key that requests must bring. Other users see it in the list of processes: better a file, or the variable "
            "DEED_API_KEY."
        ),
    ] = None,
    api_key_file: Annotated[Path | None, typer.Option(help="File of keys, one a line, readable by you alone.")] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="Let anybody who reaches the address use the server.")
    ] = False,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(help="Origin of web pages elsewhere that may call, such as https://example.org."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="Where models run, such as cuda.", show_default="cpu")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Of PyTorch.", show_default="its own choice")] = None,
    int8: Annotated[bool, typer.Option("--int8", help="Linear layers in int8.")] = False,
    exits: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=FOLDER of exits saved alone (model.save_exits), or NAME=none, repeatable.",
            show_default="those that came with deed for the model",
        ),
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            help="Of all models together, such as 4GiB: what does not fit is loaded when asked for, and the longest idle "
            "model makes room.",
            show_default="all are loaded",
        ),
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(help="NAME=NUMBER, repeatable: body_bytes, pixels, pages, audio_seconds, new_tokens, queue …"),
    ] = None,
    drain: Annotated[float, typer.Option(help="Seconds that running requests get once told to end.")] = 30.0,
    hang_after: Annotated[
        float, typer.Option(help="Seconds without progress after which the worker is started again.")
    ] = 120.0,
    ocr: Annotated[str, typer.Option(help="Engine for pages without text of their own.")] = "rapidocr",
    drift: Annotated[
        int,
        typer.Option(
            min=0,
            help="Decode one request of so many once more at full depth, and tell when answers differ more often than "
            "calibration found; 0: none.",
        ),
    ] = 0,
    drift_rise: Annotated[
        bool, typer.Option("--drift-rise", help="And raise the threshold to the next calibrated one then.")
    ] = False,
    ray: Annotated[bool, typer.Option("--ray", help="Serve on a Ray cluster: $RAY_ADDRESS, or this machine.")] = False,
    replicas: Annotated[str, typer.Option(help="With --ray: MIN:MAX replicas, by the load.")] = "1:4",
    num_cpus: Annotated[float, typer.Option(min=0, help="With --ray: processors of a replica, also a share.")] = 1,
    num_gpus: Annotated[float, typer.Option(min=0, help="With --ray: GPUs of a replica, also a share of one.")] = 0,
    models_each: Annotated[int, typer.Option(min=1, help="With --ray: models that a replica holds at once.")] = 1,
) -> None:
    """Registered with the module's docstring as its help.

    Args:
        models: what is served.
        port, host, allow_origin: to whom.
        api_key, api_key_file, no_auth: with which keys.
        device, threads, int8, memory, ocr: how it runs.
        exits: with which exits.
        limit: of `Limits`.
        drain, hang_after: how it ends, and when it is started again.
        drift, drift_rise: whether sampled requests are compared with full depth.
        ray, replicas, num_cpus, num_gpus, models_each: as for `deed.serving.ray`.
    """
    from deed.utils.optional import need

    for module in ("fastapi", "uvicorn", "prometheus_client", "python_multipart"):
        need(module, 'pip install "deed-transformers[serve]"')
    from deed.ocr import ENGINES
    from deed.serving.security import read_keys
    from deed.serving.settings import Limits, ServeSettings, check_exposure

    if ocr not in ENGINES:
        raise ValueError(f"--ocr must be one of {', '.join(ENGINES)}, got {ocr!r}")
    budget = None if memory is None else bytes_of(memory)
    limits = limits_of(limit or [])
    if budget is not None:
        limits.setdefault("cache_bytes", max(1, min(Limits.cache_bytes, budget // CACHE_SHARE)))
    if ray and budget is not None:
        raise ValueError("--memory is for a server without --ray; with --ray say --models-each")
    keys = read_keys(api_key, api_key_file)
    check_exposure(host, bool(keys), no_auth)
    settings = ServeSettings(
        models=tuple(named(text) for text in models or [DOCUMENTS, PAPERWORK]),
        host=host,
        port=port,
        keys=keys,
        origins=tuple(allow_origin or ()),
        device=device,
        threads=threads,
        int8=int8,
        memory=budget,
        exits=tuple(exits_of(text) for text in exits or ()),
        limits=Limits(**limits),
        drain_s=drain,
        hang_s=hang_after,
        ocr=ocr,
        drift=drift,
        drift_rise=drift_rise,
    )
    if ray:
        from deed.serving.ray import RayOptions, run

        least, _, most = replicas.partition(":")
        if not least.isdigit() or not (most or least).isdigit():
            raise ValueError(f"--replicas must be MIN:MAX, such as 1:8, got {replicas!r}")
        run(settings, RayOptions(int(least), int(most or least), num_cpus, num_gpus, models_each))
        return
    from deed.serving.watchdog import Watchdog

    sys.exit(Watchdog(settings).run())


def named(text: str) -> tuple[str, str]:
    """Name and folder of a model as it was given: a shipped one, NAME=FOLDER, or a folder, whose own name it gets.

    Raises:
        DeedLoadError: there is no model.
    """
    from deed.models.whisper import find_whisper
    from deed.utils.files import user_cache
    from deed.utils.saved_model import read_saved_model

    if text == SPEECH and not Path(text).is_dir():
        return text, str(read_saved_model(find_whisper("base", user_cache())).folder)
    if text in NAMES and not Path(text).is_dir():
        return text, str(shipped(text))
    name, equals, place = text.partition("=")
    if not equals or Path(text).is_dir():
        name, place = "", text
    folder = whisper_or_folder(Path(place)).absolute()
    read_saved_model(folder)
    return name or Path(place).absolute().name, str(folder)


def exits_of(text: str) -> tuple[str, str]:
    """`--exits` as a model's name and a folder or `"none"`.

    Raises:
        ValueError: not NAME=FOLDER, or no folder.
    """
    name, equals, place = text.partition("=")
    if not equals or (place != "none" and not Path(place).is_dir()):
        raise ValueError(f"--exits must be NAME=FOLDER or NAME=none, and the folder must be there, got {text!r}")
    return name, place if place == "none" else str(Path(place).absolute())


def bytes_of(text: str) -> int:
    """Bytes of a text such as 4GiB, 500MB or 1.5G (as 1.5GiB).

    Raises:
        ValueError: no number, or an unknown unit.
    """
    match = re.fullmatch(r"([0-9.]+)\s*([kmgt]?)(i?b?)", text.strip().lower())
    try:
        number = float(match[1]) if match else 0.0
    except ValueError:
        number = 0.0
    if match is None or not number:
        raise ValueError(f"--memory must be a number with a unit, such as 4GiB or 500MB, got {text!r}")
    base = 1000 if match[3] == "b" else 1024
    return int(number * base ** " kmgt".index(match[2] or " "))


def limits_of(texts: list[str]) -> dict[str, Any]:
    """`--limit` as arguments of `Limits`.

    Raises:
        ValueError: an unknown name, or no number.
    """
    from dataclasses import fields

    from deed.serving.settings import Limits

    known = {item.name for item in fields(Limits)}
    found: dict[str, Any] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in known:
            raise ValueError(f"--limit must be NAME=NUMBER with a name of {', '.join(sorted(known))}, got {text!r}")
        try:
            number = float(value)
        except ValueError:
            raise ValueError(f"--limit {name} must be a number, got {value!r}") from None
        found[name] = number if name.endswith(("_s", "_seconds")) or not number.is_integer() else int(number)
    return found


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(epilog=EXAMPLE, help=__doc__)(serve)
