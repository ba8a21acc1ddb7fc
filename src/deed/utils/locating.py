"""Where the files of a saved model are: in a folder, in the cache of the Hub, or on the Hub; and a quick no where nowhere."""

from __future__ import annotations

import os
import socket
import threading
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deed.errors import DeedLoadError

#: What of `from_pretrained`'s arguments says where files are.
PLACE = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
SECONDS = 3.0  # to find out whether the Hub answers


def check_place(path: str | os.PathLike[str], place: Mapping[str, Any]) -> None:
    """Refuse at once what is neither a folder nor can be on the Hub; without it, the Hub is asked for half a minute.

    Args:
        path: a folder, or `"name"` or `"owner/name"` on the Hub.
        place: those of `PLACE` that were given.

    Raises:
        DeedLoadError: no such folder or subfolder, no name of the Hub, or not in the cache and the Hub cannot be reached.
    """
    folder, sub = Path(path), place.get("subfolder") or ""
    if folder.is_dir():
        if not (folder / sub).is_dir():
            raise DeedLoadError(f"{folder} has no subfolder {sub!r}")
        return
    if not _may_be_on_the_hub(path):
        raise DeedLoadError(f"{path} is not a folder with a saved model")
    if _in_cache(str(path), place):
        return
    from huggingface_hub.constants import is_offline_mode

    if place.get("local_files_only") or is_offline_mode():
        raise DeedLoadError(f"{path} is not a folder with a saved model, and not in the cache of the Hugging Face Hub")
    if not _hub_answers():
        raise DeedLoadError(f"{path} is not a folder with a saved model, and the Hugging Face Hub cannot be reached")


def file_of(path: str | os.PathLike[str], name: str, place: Mapping[str, Any]) -> Path | None:
    """A file of the saved model at a place that `check_place` let pass; None where it has none of that name.

    Args:
        path: a folder or a Hub id.
        name: of the file.
        place: those of `PLACE` that were given.

    Raises:
        DeedLoadError: the Hub refuses it.
    """
    if Path(path).is_dir():
        found = Path(path) / (place.get("subfolder") or "") / name
        return found if found.is_file() else None
    from transformers.utils.hub import cached_file

    options = {**place, "subfolder": place.get("subfolder") or ""}
    try:
        cached = cached_file(str(path), name, _raise_exceptions_for_missing_entries=False, **options)
    except OSError as error:
        raise DeedLoadError(f"{name} of {path} cannot be had: {error}") from None
    return None if cached is None else Path(cached)


def _may_be_on_the_hub(path: str | os.PathLike[str]) -> bool:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    if not isinstance(path, str) or Path(path).exists() or path.startswith("."):
        return False
    owner, _, name = path.rpartition("/")
    if not name or (owner and Path(owner).is_dir()):  # "runs/modle", where there is a folder runs
        return False
    try:
        validate_repo_id(path)
    except HFValidationError:
        return False
    return True


def _in_cache(repo: str, place: Mapping[str, Any]) -> bool:
    from huggingface_hub import try_to_load_from_cache

    name = "/".join(part for part in (place.get("subfolder") or "", "config.json") if part)
    options = {"cache_dir": place.get("cache_dir"), "revision": place.get("revision")}
    return isinstance(try_to_load_from_cache(repo, name, **options), str)


def _hub_answers() -> bool:
    """Whether a connection to the Hub opens within `SECONDS`; True where a proxy stands between."""
    from huggingface_hub.constants import ENDPOINT

    address = urllib.parse.urlsplit(ENDPOINT)
    if urllib.request.getproxies().get(address.scheme):
        return True
    answers = threading.Event()

    def connect() -> None:
        try:
            port = address.port or (80 if address.scheme == "http" else 443)
            socket.create_connection((address.hostname or "", port), timeout=SECONDS).close()
        except OSError:
            return
        answers.set()

    # In a thread of its own, since looking a name up knows no time limit.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(SECONDS)
    return answers.is_set()
