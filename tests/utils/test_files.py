"""Files and folders appear whole or not at all; JSON that cannot be read is one clear error."""

import json
import os
import re
import stat
from pathlib import Path

import pytest

from deed.errors import DataError, DeedLoadError
from deed.utils import files
from deed.utils.files import atomic_write, read_json, swapped_folder, write_json


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_when_it_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old" and temporary.parent == tmp_path
    assert path.read_text() == "new" and names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_file_stays_as_it_was_where_writing_fails(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_two_writers_do_not_share_a_temporary_name(tmp_path):
    with atomic_write(tmp_path / "a") as one, atomic_write(tmp_path / "a") as other:
        one.write_text("1")
        other.write_text("2")
    assert one != other and (tmp_path / "a").read_text() == "1" and names(tmp_path) == ["a"]


def test_files_are_readable_as_usual_whoever_wrote_them(tmp_path):
    (tmp_path / "usual").touch()
    usual = stat.S_IMODE((tmp_path / "usual").stat().st_mode)
    with atomic_write(tmp_path / "a") as temporary:
        temporary.unlink()
        os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))  # as safetensors does
    with swapped_folder(tmp_path / "b") as folder:
        os.close(os.open(folder / "a", os.O_CREAT | os.O_WRONLY, 0o600))
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == usual
    assert stat.S_IMODE((tmp_path / "b" / "a").stat().st_mode) == usual


def test_json_that_cannot_be_written_leaves_the_old(tmp_path):
    write_json(tmp_path / "a.json", {"b": "é", "a": 1})
    assert (tmp_path / "a.json").read_text() == '{\n  "b": "\\u00e9",\n  "a": 1\n}\n'
    write_json(tmp_path / "a.json", {"b": "é", "a": 1}, indent=None, sort_keys=True, ensure_ascii=False)
    for value, options in ((object(), {}), (float("nan"), {"allow_nan": False})):
        with pytest.raises((TypeError, ValueError)):
            write_json(tmp_path / "a.json", value, **options)
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{"a": 1, "b": "é"}\n'
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        (b"", "cannot be read as JSON: Expecting value"),
        (b"{", "cannot be read as JSON: Expecting property name"),
        (b'{"a": "\xff"}', "cannot be read as JSON: .*codec can't decode"),
        (b'{"a": ' + b"1" * 5000 + b"}", "cannot be read as JSON: Exceeds the limit"),
        (b"[" * 200_000, "cannot be read as JSON: maximum recursion depth"),
        (b"[1]", "expected a JSON object, got list"),
        (b"null", "expected a JSON object, got NoneType"),
    ],
)
def test_json_that_cannot_be_read(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    for error in (DataError, DeedLoadError):
        with pytest.raises(error, match=rf"a\.json:? {message}"):
            read_json(tmp_path / "a.json", error)


def test_json_of_another_kind(tmp_path):
    (tmp_path / "a.json").write_text("[1]")
    assert read_json(tmp_path / "a.json", kind=list) == [1] == read_json(tmp_path / "a.json", kind=object)
    with pytest.raises(DataError, match="expected a JSON string, got list"):
        read_json(tmp_path / "a.json", kind=str)


def test_a_folder_is_swapped_in_when_it_is_complete(tmp_path):
    target = tmp_path / "run" / "model"
    with swapped_folder(target) as folder:
        (folder / "weights").write_text("1")
        assert not target.exists()
    with swapped_folder(target) as folder:
        (folder / "config").write_text("2")
        assert names(target) == ["weights"]
    assert names(target) == ["config"] and names(tmp_path / "run") == ["model"]


def test_a_folder_stays_as_it_was_where_writing_fails(tmp_path):
    target = tmp_path / "model"
    target.mkdir()
    (target / "weights").write_text("old")
    with pytest.raises(KeyboardInterrupt), swapped_folder(target) as folder:
        (folder / "weights").write_text("half")
        raise KeyboardInterrupt
    assert (target / "weights").read_text() == "old" and names(tmp_path) == ["model"]


def test_the_old_folder_comes_back_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    target = tmp_path / "model"
    target.mkdir()
    (target / "weights").write_text("old")
    replace = os.replace

    def refused(source, goal):
        if str(goal) == str(target) and (tmp_path / source / "new").exists():
            raise OSError(28, "No space left on device")
        replace(source, goal)

    monkeypatch.setattr(files.os, "replace", refused)
    with pytest.raises(OSError, match="No space left"), swapped_folder(target) as folder:
        (folder / "new").touch()
    assert (target / "weights").read_text() == "old" and names(tmp_path) == ["model"]


def test_what_is_kept_of_the_old_folder(tmp_path):
    target = tmp_path / "model"
    (target / "sub").mkdir(parents=True)
    for name in ("config", "readme", "sub/a", "weights"):
        (target / name).write_text("old")
    (target / "link").symlink_to("readme")
    with swapped_folder(target, keep=lambda path: path.name != "weights") as folder:
        (folder / "config").write_text("new")
    assert names(target) == ["config", "link", "readme", "sub"]
    assert (target / "config").read_text() == "new" and (target / "sub" / "a").read_text() == "old"
    assert (target / "link").is_symlink() and names(tmp_path) == ["model"]


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "model").write_text("a file")
    with pytest.raises(NotADirectoryError, match="model is a file"), swapped_folder(tmp_path / "model"):
        pass
    assert (tmp_path / "model").read_text() == "a file" and names(tmp_path) == ["model"]


def test_an_entry_that_was_written_is_json(tmp_path):
    write_json(tmp_path / "a.json", [1.5, None])
    assert json.loads((tmp_path / "a.json").read_text()) == [1.5, None]


SOURCE = Path(__file__).parents[2] / "src" / "deed"


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_nobody_else_renames_temporary_files(path):
    text = path.read_text(encoding="utf-8")
    copies = re.findall(r"os\.replace|os\.rename|mkstemp|mkdtemp|temporary\.(?:replace|rename)\(", text)
    # A model is saved into a folder that others' files stay in, file by file, the exits last: that is said there.
    # The native library is built where nothing of deed can be imported yet.
    others = ("utils/files.py", "modeling/saving.py", "kernels/native/build.py")
    assert copies == [] or path in [SOURCE / other for other in others]
