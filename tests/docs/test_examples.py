"""Examples in the docstrings of public names run as they stand, on a tiny random T5; every entry point has one."""

import inspect
import re
import textwrap

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import deed
from deed.modeling.model import DeedMixin
from deed.tasks import task as task_module

ENTRY_POINTS = [
    "get_deed_model",
    "unwrap",
    "DeedMixin.generate",
    "DeedMixin.exit_logits",
    "from_pretrained",
    "load_exits",
    "calibrate",
    "calibrate_answers",
    "quantize",
    "set_target",
    "record_curve",
    "record_exits",
    "measure_costs",
    "estimate",
    "fit_gate",
    "fit_screen",
    "register_family",
    "use_cuda_graphs",
    "DeedConfig",
    "FixedSchedule",
    "ThresholdPolicy",
    "register_task",
    "Task",
    "DeedTrainer",
    "pipeline",
    "data_job",
]
NEEDS_GPU = {"use_cuda_graphs"}


def documented():
    """Public names and the public methods of public classes, each with its docstring."""
    objects = {name: getattr(deed, name) for name in deed.__all__ if name not in ("__version__", "families")}
    for name, value in {**objects, "DeedMixin": DeedMixin}.items():
        yield name, inspect.getdoc(value) or ""
        if inspect.isclass(value):
            for method, function in inspect.getmembers(value, callable):
                if not method.startswith("_") and (getattr(function, "__module__", "") or "").startswith("deed"):
                    yield f"{name}.{method}", inspect.getdoc(function) or ""


def examples(docstring):
    """The fenced Python blocks of a docstring."""
    return [
        textwrap.dedent(block)
        for block in re.findall(r"^ *```python\n(.*?)^ *```$", docstring, re.DOTALL | re.MULTILINE)
    ]


EXAMPLES = {name: found for name, docstring in documented() if (found := examples(docstring))}


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_every_entry_point_has_an_example(name):
    assert name in EXAMPLES


@pytest.mark.filterwarnings("ignore::UserWarning")  # a random model gains nothing from early exit, and deed says so
@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name, hub, own_families, monkeypatch, tmp_path):
    if name in NEEDS_GPU and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(task_module, "_OWN", {})
    tokenizer = AutoTokenizer.from_pretrained("google-t5/t5-small")
    model = deed.get_deed_model(AutoModelForSeq2SeqLM.from_pretrained("google-t5/t5-small"))
    words = ["cat", "dogs", "a", "thing"] * 16
    names = {
        "deed": deed,
        "torch": torch,
        "tokenizer": tokenizer,
        "model": model,
        "inputs": tokenizer(["cat", "dogs"], return_tensors="pt", padding=True),
        "labels": torch.tensor([[3, 4, 5], [5, 4, 3]]),
        "held_out": [{"input_ids": tokenizer(word).input_ids} for word in words],
    }
    for block in EXAMPLES[name]:
        exec(compile(block, f"the example of {name}", "exec"), names)
