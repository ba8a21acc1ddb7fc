"""Progress: what works says nothing unless the caller passes something that shows it."""

import io

import pytest

from deed.utils import progress
from deed.utils.progress import SILENT, SILENT_BAR, RichProgress, shown, track


class Recording:
    """What a caller of ours could pass."""

    def __init__(self):
        self.told = []

    def bar(self, description, total=None):
        from contextlib import nullcontext

        self.told.append((description, total))
        return nullcontext(self)

    def advance(self, count=1):
        self.told.append(count)

    def update(self, description=None, completed=None, total=None):
        self.told.append({"description": description, "completed": completed, "total": total})

    def note(self, line):
        self.told.append(line)


def work(progress: progress.Progress = SILENT, bar: progress.Bar = SILENT_BAR) -> int:
    with progress.bar("counting", total=3) as own:
        found = sum(1 for _ in track(range(3), own))
        own.update("summing")
        bar.advance(2)
    progress.note("done")
    return found


def test_silence_is_the_default(capsys):
    assert work() == 3
    assert capsys.readouterr() == ("", "")


def test_whatever_follows_the_protocol_is_told():
    recording = Recording()
    work(recording, recording)
    summing = {"description": "summing", "completed": None, "total": None}
    assert recording.told == [("counting", 3), 1, 1, 1, summing, 2, "done"]


def test_bars_on_the_terminal(capsys):
    with RichProgress() as bars:
        work(bars)
        with bars.bar("of unknown length") as bar:
            bar.advance(5)
        tasks = bars._bars.tasks
        assert [(task.description, task.completed, task.total) for task in tasks] == [
            ("summing", 3, 3),
            ("of unknown length", 5, 5),
        ]
    out, err = capsys.readouterr()
    assert out == "" and "done" in err and "summing" in err


def test_a_failure_leaves_the_bar_where_it_was():
    with RichProgress(quiet=True) as bars:
        with pytest.raises(ValueError, match="broken"), bars.bar("reading", total=3) as bar:
            bar.advance()
            raise ValueError("broken")
        assert bars._bars.tasks[0].completed == 1


def test_quiet_bars_say_nothing(capsys):
    with RichProgress(quiet=True) as bars:
        work(bars)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("terminal", [True, False])
def test_what_a_user_calls_shows_bars_on_a_terminal(monkeypatch, terminal):
    stream = io.StringIO()
    stream.isatty = lambda: terminal
    monkeypatch.setattr("sys.stderr", stream)
    with shown() as found:
        assert isinstance(found, RichProgress if terminal else progress.SilentProgress)
        work(found)
    assert ("summing" in stream.getvalue()) == terminal
    with shown(own := Recording()) as found:
        assert found is own
