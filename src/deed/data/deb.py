"""Debian packages as files: fetched by Debian's own client, read without being installed.

Names and links inside are not trusted: only contents are read.
"""

from __future__ import annotations

import gzip
import io
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from deed.errors import DataError


def download(names: Sequence[str], folder: Path, client: str, file: str = "*.deb") -> str:
    """Put the `.deb` files of packages into a folder; why it failed, empty where it did not.

    Args:
        names: of the packages; where the client does not know one of them, it fetches none.
        folder: where to; it is there.
        client: Debian's package client; `apt-get update` has been run.
        file: pattern of a file that is there then.
    """
    got = subprocess.run([client, "download", "-q", *names], cwd=folder, capture_output=True, text=True)
    if got.returncode == 0 and any(folder.glob(file)):
        return ""
    return (got.stderr.strip().splitlines() or ["nothing was downloaded"])[-1]


def contents(path: Path, wanted: Callable[[str], bool], largest: int) -> Iterator[tuple[str, bytes]]:
    """Files of a package: each name inside, and what is in it, as it lies there.

    Args:
        path: the `.deb` file.
        wanted: of a name, whether it is read.
        largest: bytes; larger files are left out.

    Raises:
        DataError: a damaged package, or this machine has no dpkg-deb.
    """
    if shutil.which("dpkg-deb") is None:
        raise DataError(f"reading {path.name} takes dpkg-deb, which this machine does not have")
    with subprocess.Popen(
        ["dpkg-deb", "--fsys-tarfile", str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                for member in archive:
                    if member.isfile() and member.size <= largest and wanted(member.name):
                        file = archive.extractfile(member)
                        yield member.name, file.read() if file else b""
        except (tarfile.TarError, EOFError, OSError) as error:
            raise DataError(f"{path} is damaged or no Debian package: {error}") from None
        finally:
            process.kill()


def unzipped(content: bytes, name: str, largest: int) -> bytes:
    """A file's contents, gzip undone where its name ends in `.gz`.

    Args:
        content: as it lies in the package.
        name: of the file.
        largest: bytes that it may come to.

    Raises:
        DataError: damaged, or larger.
    """
    if not name.endswith(".gz"):
        return content
    try:
        with gzip.open(io.BytesIO(content)) as file:
            plain = file.read(largest + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{name} is damaged: {error}") from None
    if len(plain) > largest:
        raise DataError(f"{name} is larger than {largest} bytes")
    return plain
