"""The shipped model for words, in float32: exactly its full-depth answers, by drafts that mostly stand."""

import pytest
import torch

from deed.constants import NEVER_EXIT
from deed.errors import DataError
from deed.tasks.task import get_task
from deed.utils.shipped import CHECKPOINTS


@pytest.mark.parametrize("rows", [1, 8])
def test_exact_answers_are_those_of_full_depth(rows):
    task = get_task("g2p", "t5")
    model, processor = task.load(CHECKPOINTS / "g2p")
    try:
        examples = list(task.examples("test", 24))
    except DataError as error:
        pytest.skip(str(error))
    encoded = [task.encode(processor, example) for example in examples]
    options = {**task.generation_options(model, processor), "return_dict_in_generate": True}
    accepted = tokens = 0
    for i in range(0, len(encoded), rows):
        inputs = task.collate(processor, encoded[i : i + rows])
        for mode in ({}, {"do_sample": True}):
            torch.manual_seed(i)
            expected = model.generate(**inputs, **{**options, **mode}, exit_threshold=NEVER_EXIT)
            torch.manual_seed(i)
            got = model.generate(**inputs, **{**options, **mode}, exact=True)
            assert torch.equal(got.sequences, expected.sequences)
            accepted, tokens = accepted + int(got.accepted.sum()), tokens + int((got.exit_layers > 0).sum())
    assert accepted > tokens / 10
