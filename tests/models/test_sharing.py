"""Several questions about one page in a batch: the page is encoded once, and nothing else changes."""

import pytest
import torch

from conftest import VOCAB
from latr import latr_model, plain_latr
from test_decode import compare

PICTURE = (3, 16, 16)


def model(eager=False):
    made = latr_model(question="late", box_bias=True)
    with torch.no_grad():
        for table in made.encoder.relative_bias.children():
            table.weight.normal_()
    if eager:
        made.set_attn_implementation("eager")
    return made


def rows(pages=(0, 1, 0, 0, 2), pictures=None, words=(7, 5, 9)):
    """Of each row its page (by number), a question of its own, and padding."""
    generator = torch.Generator().manual_seed(0)

    def some(count):
        return torch.randint(3, VOCAB, (count,), generator=generator)

    texts = [some(count) for count in words]
    boxes = [torch.randint(1, 900, (count, 4), generator=generator) for count in words]
    seen = torch.randn(len(words), *PICTURE, generator=generator, dtype=torch.float64)
    asked = [some(2 + i % 3) for i in range(len(pages))]
    longest = max(len(texts[page]) + len(question) for page, question in zip(pages, asked, strict=True))
    batch = {
        "input_ids": torch.zeros(len(pages), longest, dtype=torch.long),
        "attention_mask": torch.zeros(len(pages), longest, dtype=torch.long),
        "bbox": torch.zeros(len(pages), longest, 4, dtype=torch.long),
    }
    for i, (page, question) in enumerate(zip(pages, asked, strict=True)):
        ids = torch.cat([texts[page], question])
        batch["input_ids"][i, : len(ids)], batch["attention_mask"][i, : len(ids)] = ids, 1
        batch["bbox"][i, : len(boxes[page])] = boxes[page]
    if pictures is not None:
        batch["pixel_values"] = seen[list(pages)]
        batch["pixel_mask"] = torch.tensor([pictures[page] for page in pages])
    return batch


def encoded_rows(made):
    """Number of rows of each call of the encoder."""
    counts = []
    made.encoder.register_forward_pre_hook(
        lambda module, args, kwargs: counts.append(len(kwargs["attention_mask"])), with_kwargs=True
    )
    return counts


@pytest.mark.parametrize("eager", (True, False), ids=("eager", "sdpa"))
@pytest.mark.parametrize("pictures", (None, (1, 1, 1), (1, 0, 1)), ids=("words", "pictures", "some pictures"))
@pytest.mark.parametrize("mode", ({}, {"num_beams": 2}), ids=("greedy", "beams"))
def test_a_page_asked_several_questions_is_encoded_once_and_answers_stay(pictures, mode, eager):
    made, batch = model(eager), rows(pictures=pictures)
    counts = encoded_rows(made)
    options = {
        **mode,
        "max_new_tokens": 7,
        "min_new_tokens": 7,
        "exit_threshold": 0.5,
        "return_dict_in_generate": True,
    }
    together = made.generate(**batch, **options, output_logits=True)
    assert counts == [3]
    for i in range(5):
        alone = made.generate(**{k: v[i : i + 1] for k, v in batch.items()}, **options, output_logits=True)
        assert torch.equal(together.sequences[i], alone.sequences[0])
        assert torch.equal(together.exit_layers[i], alone.exit_layers[0])
        if not mode:
            for mine, its in zip(together.logits, alone.logits, strict=True):
                torch.testing.assert_close(mine[i], its[0], rtol=0, atol=1e-10)


def test_decoding_a_shared_page_equals_the_cache_free_reference():
    depths = set()
    for threshold in (0.3, 0.6, 0.9):
        depths |= set(compare(model(), rows(), threshold, min_new_tokens=9).exit_layers.flatten().tolist())
    assert len(depths) >= 3


def test_pages_that_differ_in_a_box_or_a_picture_are_not_shared():
    made = model()
    counts = encoded_rows(made)
    batch = rows((0, 0, 0), (1, 1, 1))
    batch["bbox"][1, 3, 0] += 1
    batch["pixel_values"][2, 0, 0, 0] += 1
    made.generate(**batch, max_new_tokens=2)
    assert counts == [3]


@pytest.mark.parametrize("change", ("output_hidden_states", "left padding", "an early question", "one row"))
def test_what_cannot_be_shared_is_encoded_row_by_row(change):
    made, batch, options = model(), rows((0, 0)), {}
    if change == "output_hidden_states":
        made = plain_latr(question="late")  # early exit refuses it
        options = {change: True, "return_dict_in_generate": True}
    elif change == "left padding":
        batch = {k: v.roll(1, 1) for k, v in batch.items()}
        batch["attention_mask"][:, 0] = 0
    elif change == "one row":
        batch = {k: v[:1] for k, v in batch.items()}
    else:
        made = latr_model()
    counts = encoded_rows(made)
    out = made.generate(**batch, max_new_tokens=2, **options)
    assert counts == [len(batch["input_ids"])]
    if change == "output_hidden_states":
        assert len(out.encoder_hidden_states) == 3
