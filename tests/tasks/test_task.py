"""Which tasks there are, which of them a saved model is asked to do, and how one registers a task of one's own."""

import json
import pickle
import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

import deed
from data.picture_formats import coco_refs, write_refcoco
from deed.cli.calibrate import strictest
from deed.data.registry import READERS
from deed.errors import DataError, DeedLoadError
from deed.tasks import task as tasks
from deed.tasks.documents import DocumentTask
from deed.tasks.image_task import MADE
from deed.tasks.pictures import ASKS, PictureTask
from deed.tasks.task import Task, get_task, register_task, task_for, task_names, tasks_of

SCENES = ["scenes-refer", "scenes-caption", "scenes-vqa"]


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setattr(tasks, "_OWN", {})


def folder_of(path, kind):
    (path / "config.json").write_text(json.dumps({"model_type": kind}))
    return path


@pytest.mark.parametrize(
    ("kind", "given", "split", "wanted"),
    [
        ("ofa", None, None, [*SCENES, "easyvqa"]),
        ("ofa", ["scenes"], "unseen", SCENES),
        ("ofa", ["easyvqa", "scenes", "refcoco"], "test", ["easyvqa", *SCENES, "refcoco"]),
        ("latr", None, "test", ["pages"]),
        ("latr", ["easyvqa", "pages"], None, ["easyvqa", "pages"]),
        ("t5", None, None, ["g2p"]),
    ],
)
def test_tasks_of_a_folder(tmp_path, kind, given, split, wanted):
    found = tasks_of(folder_of(tmp_path, kind), given, split)
    assert [task.name for task in found] == wanted
    assert all(task.model_types == (kind,) for task in found)


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("ofa", ["textvqa"], "--task textvqa needs a LaTr"),
        ("latr", ["pages", "scenes-vqa"], "--task scenes-vqa needs an OFA; .* holds a LaTr"),
        ("latr", ["g2p"], "needs a small T5"),
        ("t5", ["g2p", "scenes"], "--task scenes needs an OFA; .* holds a t5 model"),
        ("bart", None, "--task g2p needs a small T5 for words; .* holds a bart model"),
        ("t5", ["answers"], "--task must be one of g2p, pages, docvqa"),
        ("t5", ["nowhere:Task"], "the task nowhere:Task cannot be imported: No module named 'nowhere'"),
        ("t5", ["json:Task"], "the task json:Task cannot be imported: .* has no attribute 'Task'"),
    ],
)
def test_what_is_refused(tmp_path, kind, given, message):
    with pytest.raises(DataError, match=message):
        tasks_of(folder_of(tmp_path, kind), given)


def test_a_folder_without_a_model_is_refused_at_once(tmp_path):
    for folder, message in (
        (tmp_path / "nowhere", "is not a folder"),
        ("nosuch", "is not a folder"),
        (tmp_path, "no config"),
    ):
        with pytest.raises(DeedLoadError, match=message):
            tasks_of(folder)
        with pytest.raises(DeedLoadError, match=message):
            get_task("g2p").load(folder)
    for text, message in (
        ("[]", "must be a JSON object, got list"),
        ("{", "cannot be read as JSON"),
        ("[" * 9**5, "JSON"),
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(DeedLoadError, match=message):
            tasks_of(tmp_path)


def test_one_task_of_a_folder(tmp_path):
    assert task_for(folder_of(tmp_path, "latr")).name == "pages"
    folder = folder_of(tmp_path, "ofa")
    assert task_for(folder, "easyvqa").metric == "accuracy"
    with pytest.raises(DataError, match="name one of the tasks scenes-refer, scenes-caption"):
        task_for(folder)


def test_every_data_set_is_a_task_with_a_metric():
    for name, reader in READERS.items():
        for kind in reader.models:
            task = get_task(name, kind)
            assert isinstance(task, {"latr": DocumentTask, "ofa": PictureTask}[kind]) and task.name == name
            assert task.calibration_split == ("val" if reader.on_disk else "calibration")
            if kind == "ofa":
                assert task.asks in ASKS and task.best == (10 if task.asks == "caption" else 1)


def test_scenes_are_a_thousand_unless_said():
    task = PictureTask("scenes-refer")
    assert (
        task.metric == "acc_at_0.5" and next(iter(task.examples("calibration"))).id == "scenes/0/calibration/0/refer"
    )
    found = PictureTask("scenes-vqa").examples("unseen", 3)
    assert [example.id for example in found] == [f"scenes/0/unseen/{i}/vqa" for i in range(3)]
    assert MADE == 1000
    with pytest.raises(DataError, match="scenes are made, not read"):
        task.examples("test", data="somewhere")
    with pytest.raises(DataError, match="split must be one of"):
        task.examples("dev")


def test_boxes_count_as_answers(tmp_path):
    folder = write_refcoco(tmp_path, pickle.dumps(coco_refs()))
    found = PictureTask("refcoco").examples("val", data=folder)
    assert [example.question for example in found] == ["left box 2", "the box 2"]


def test_the_strictest_threshold_is_kept():
    reports = [{"task": name, "threshold": value} for name, value in (("a", 0.9), ("b", 0.99), ("c", 0.5))]
    assert strictest(reports) == {**reports[1], "others": [reports[0], reports[2]]}
    assert strictest(reports[:1]) == reports[0]


def test_a_task_is_registered_by_call_decorator_and_entry_point(tmp_path, monkeypatch):
    class Mine(Task):
        def examples(self, split, count=None, data=None):
            return []

    assert deed.register_task("mine", Mine) is Mine
    assert deed.register_task("decorated")(Mine) is Mine
    folder = folder_of(tmp_path, "bart")
    assert [task.name for task in tasks_of(folder, ["mine", "decorated"])] == ["mine", "decorated"]
    assert all(isinstance(task, Mine) for task in tasks_of(folder, ["mine", "decorated"]))
    point = EntryPoint("packaged", "my_own_tasks:Packaged", tasks.GROUP)
    monkeypatch.setattr(tasks, "entry_points", lambda group: [point] if group == tasks.GROUP else [])
    (tmp_path / "my_own_tasks.py").write_text(
        "import deed\nclass Packaged(deed.Task):\n    metric = 'anls'\n    def examples(self, *a, **k):\n        return []\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert get_task("my_own_tasks:Packaged").metric == "anls", "the current folder counts"
    assert get_task("packaged").name == "packaged" and {"mine", "packaged", "g2p"} <= set(task_names())


def test_a_class_of_its_own_gets_what_it_lacks():
    class Bare:
        def examples(self, split, count=None, data=None):
            return ["a"]

    assert register_task("bare", Bare) is Bare
    task = get_task("bare")
    assert (
        isinstance(task, Bare)
        and isinstance(task, Task)
        and task.unit == "question"
        and task.examples("test") == ["a"]
    )


@pytest.mark.parametrize(
    ("name", "cls", "error", "message"),
    [
        ("", Task, ValueError, "a task needs a name"),
        ("pages", Task, ValueError, "'pages' is a task of deed itself"),
        ("mine", Task, TypeError, "task 'mine' has no examples"),
        ("mine", type("Empty", (), {}), TypeError, "task 'mine' has no examples"),
        ("mine", "Task", TypeError, "must be a class, got 'Task'"),
    ],
)
def test_what_cannot_be_registered(name, cls, error, message):
    with pytest.raises(error, match=message):
        register_task(name, cls)


def test_the_registry_needs_no_torch():
    code = (
        "import sys, types; package = types.ModuleType('deed'); package.__path__ = [sys.argv[1]];"
        "sys.modules['deed'] = package;"  # without what `import deed` itself does
        "from deed.tasks.task import get_task, task_names; task_names();"
        "bad = {'torch', 'transformers'} & set(sys.modules); assert not bad, bad"
    )
    done = subprocess.run([sys.executable, "-c", code, deed.__path__[0]], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
