"""Files of Debian packages: what is inside of one that is whole, damaged, or unpacks to more than is allowed."""

import gzip
import shutil

import pytest

from data.speech.debs import make_deb
from deed.data.deb import contents, download, unzipped
from deed.errors import DataError


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="takes dpkg-deb")
def test_contents(tmp_path):
    make_deb(tmp_path, "some", {"usr/a.txt": b"a", "usr/b.pdf": b"bb", "usr/large.txt": b"c" * 50})
    (package,) = tmp_path.glob("some_*.deb")
    found = {name.removeprefix("./"): data for name, data in contents(package, lambda n: n.endswith(".txt"), 20)}
    assert found == {"usr/a.txt": b"a"}
    package.write_bytes(package.read_bytes()[:200])
    with pytest.raises(DataError, match="damaged or no Debian package"):
        list(contents(package, lambda n: True, 20))


def test_unzipped():
    packed = gzip.compress(b"x" * 100)
    assert unzipped(packed, "a.gz", 100) == b"x" * 100 and unzipped(packed, "a", 1) == packed
    with pytest.raises(DataError, match="larger than 99 bytes"):
        unzipped(packed, "a.gz", 99)
    for broken in (b"no gzip", packed[:-12], packed[:12] + b"\xff" * 20):
        with pytest.raises(DataError, match=r"a\.gz is damaged"):
            unzipped(broken, "a.gz", 100)


def test_a_client_that_fails(tmp_path):
    client = tmp_path / "client"
    client.write_text("#!/bin/sh\necho first >&2\necho no such package >&2\nexit 1\n")
    client.chmod(0o755)
    assert download(["some"], tmp_path, str(client)) == "no such package"
    client.write_text("#!/bin/sh\nexit 0\n")
    assert download(["some"], tmp_path, str(client)) == "nothing was downloaded"
