"""The shipped models in float64, everyone at once: tokens and depths of each request are those of `generate()` alone."""

import pytest
import torch
from transformers import AutoTokenizer

import deed
from deed.bench.shapes import real_pages
from deed.serving.request import GenerationRequest
from deed.serving.scheduler import Scheduler
from deed.tasks import pictures
from deed.tasks.pictures import PictureTask
from deed.utils.shipped import CHECKPOINTS


def words():
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINTS / "g2p")
    said = "deed staircase a transformers exit encoder early".split()
    return [dict(tokenizer([word], return_tensors="pt")) for word in said]


def pages():
    whole = real_pages(None, 3, torch.Generator())
    return [{k: v[i : i + 1] for k, v in whole.items()} for i in range(3)]


def scenes():
    found = []
    for name in ("scenes-caption", "scenes-vqa"):
        task = PictureTask(name)
        _, processor = task.load(CHECKPOINTS / "ofa")
        for example in map(task.opened, task.examples("test", 3)):
            found.append(pictures.inputs_of([task.encode(processor, example)]))
    return found


@pytest.mark.parametrize(("name", "make"), [("g2p", words), ("latr", pages), ("ofa", scenes)])
def test_shipped_models_answer_as_alone(name, make):
    model = deed.from_pretrained(CHECKPOINTS / name).double().eval()
    sources = [{k: v.double() if v.is_floating_point() else v for k, v in row.items()} for row in make()]
    options = [
        {"max_new_tokens": 10 + i, **({"exit_threshold": 0.9999} if i % 3 == 1 else {})} for i in range(len(sources))
    ]
    with Scheduler(model) as scheduler:
        tickets = [
            scheduler.submit(GenerationRequest(row, o, exact=i % 3 == 2))
            for i, (row, o) in enumerate(zip(sources, options, strict=True))
        ]
        ends = [ticket.result(120) for ticket in tickets]
        assert scheduler.stats().batch_rows > scheduler.stats().step_s.count
    depths = set()
    for i, (row, o, end) in enumerate(zip(sources, options, ends, strict=True)):
        out = model.generate(**row, **o, exact=i % 3 == 2, return_dict_in_generate=True)
        new = out.exit_layers.shape[1]
        assert end.tokens == out.sequences[0].tolist()[-new:]
        if i % 3 != 2:
            assert end.depths == out.exit_layers[0].tolist()
            depths |= set(end.depths)
    assert len(depths) > 1
