"""Debian's packages of recorded prompts: which ones, whose voice, under which licence, and their files.

`.deb` files are fetched where they are missing (`deed.data.deb`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from deed.data.deb import contents, download, unzipped
from deed.errors import DataError

SOUNDS = "/sounds/"  # below it, prompts have their names
LARGEST = 20_000_000  # bytes of one recording


@dataclass(frozen=True)
class Prompts:
    """A set of prompts that one voice recorded.

    Attributes:
        speaker: short name of the voice.
        language: its code, as Whisper has it.
        recordings: the package with the recordings.
        transcripts: the package with their texts; empty: nobody wrote them down, and clips are of use without labels only.
        licence: of the recordings, from the package's own copyright file.
        held_out: never trained on, whatever the sentence: a voice to see what exits do on one that is new to them.
    """

    speaker: str
    language: str
    recordings: str
    transcripts: str
    licence: str
    held_out: bool = False


PROMPTS = (
    Prompts("allison-en", "en", "asterisk-core-sounds-en-g722", "asterisk-core-sounds-en", "CC-BY-SA-3.0"),
    Prompts("allison-es", "es", "asterisk-core-sounds-es-g722", "asterisk-core-sounds-es", "CC-BY-SA-3.0"),
    Prompts("june-fr", "fr", "asterisk-core-sounds-fr-g722", "asterisk-core-sounds-fr", "CC-BY-SA-3.0"),
    Prompts("carlo-it", "it", "asterisk-core-sounds-it-g722", "asterisk-core-sounds-it", "CC-BY-SA-3.0"),
    Prompts("maxim-ru", "ru", "asterisk-core-sounds-ru-g722", "asterisk-core-sounds-ru", "CC-BY-3.0"),
    Prompts("armelle-fr", "fr", "asterisk-prompt-fr-armelle", "", "BSD-3-clause"),
    Prompts("menardi-it", "it", "asterisk-prompt-it-menardi-wav", "", "CC-BY-SA-3.0-IT"),
    Prompts("july-es", "es", "asterisk-prompt-es-co", "", "GPL-2", held_out=True),
)


def package_names() -> list[str]:
    """All packages of the prompts, those with texts only among them."""
    return [name for prompts in PROMPTS for name in (prompts.recordings, prompts.transcripts) if name]


def find_package(name: str, folder: Path) -> Path | None:
    """The `.deb` file of a package in a folder; the last by name where there are several; None where there is none.

    Args:
        name: of the package.
        folder: with `NAME_VERSION_ARCHITECTURE.deb` files.
    """
    found = sorted(folder.glob(f"{name}_*.deb"))
    return found[-1] if found else None


def fetch(
    names: Iterable[str], folder: Path, tick: Callable[[str], None] | None = None, client: str = "apt-get"
) -> dict[str, str]:
    """Put the `.deb` files of packages into `folder`; those that are there already are not fetched again.

    Args:
        names: packages.
        folder: where to; made if need be.
        tick: called with each name when it is done.
        client: Debian's package client; `apt-get update` has been run.

    Returns:
        The packages that could not be had, each with the reason.

    Raises:
        DataError: one has to be fetched, and there is no such client on this machine.
    """
    failed = {}
    for name in names:
        if find_package(name, folder) is None:
            if shutil.which(client) is None:
                raise DataError(
                    f"fetching {name} takes {client}, which this machine does not have; put its .deb there"
                )
            folder.mkdir(parents=True, exist_ok=True)
            problem = download([name], folder, client, f"{name}_*.deb")
            if problem:
                failed[name] = problem
        if tick is not None:
            tick(name)
    return failed


def read_package(path: Path, suffixes: tuple[str, ...] = ("",), inside: str = "") -> Iterator[tuple[str, bytes]]:
    """Files of a package: each name, below `sounds/VOICE/` where it lies there, and its contents, gzip undone.

    Args:
        path: the `.deb` file.
        suffixes: names that end otherwise are left out; `.gz` is not counted.
        inside: only files below such a folder, as `"/games/fortunes/"`.

    Raises:
        DataError: no such file, or a damaged one; or this machine has no dpkg-deb.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file")

    def wanted(name: str) -> bool:
        return inside in name and name.removesuffix(".gz").endswith(suffixes)

    for name, content in contents(path, wanted, LARGEST):
        try:
            plain = unzipped(content, name, LARGEST)
        except DataError as error:
            raise DataError(f"{path} is damaged or no Debian package: {error}") from None
        yield _below_voice(name.removesuffix(".gz")), plain


def _below_voice(name: str) -> str:
    """`usr/share/asterisk/sounds/it_IT/digits/1.wav` is `digits/1.wav`; of what lies elsewhere, the name alone."""
    _, found, below = name.partition(SOUNDS)
    return below.partition("/")[2] if found else PurePosixPath(name).name
