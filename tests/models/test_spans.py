"""`copy_answers`: what a LaTr++ generates stands on the page, whatever decodes it."""

import pytest
import torch
from test_sharing import rows

from conftest import VOCAB
from deed.models.latr import LatrConfig
from deed.models.latr.pieces import learn_tokenizer
from deed.models.latr.small import build_processor
from deed.models.latr.spans import allowed_labels, allowed_pieces, page_ids, rules_of
from deed.serving.request import GenerationRequest
from deed.serving.scheduler import Scheduler
from latr import latr_model
from test_decode import compare

END, OPEN, FREE = 1, 39, [[5, 6, 1]]
BEGINS = [[10, 37], [11, 38]]  # pieces of the same letters, within a word and at its beginning
RULES = {"copy_answers": True, "free_answers": FREE, "open_pieces": [OPEN], "word_begins": BEGINS}
MODES = ({}, {"num_beams": 2}, {"do_sample": True, "num_return_sequences": 3}, {"exact": True})


def model(**config):
    made = latr_model(question="late", box_bias=True, **RULES)
    made.generation_config.eos_token_id = END
    return made


def stands(page, answer):
    """Whether an answer, its end left out, is a run of the page, free, or opens an object."""
    begins = dict(BEGINS) | {b: a for a, b in BEGINS}
    runs = [page[at : at + len(answer)] for at in range(len(page))]
    free = any(one[: len(answer)] == answer for one in (f[:-1] for f in FREE))
    return answer[0] == OPEN or free or answer in runs or [begins.get(answer[0]), *answer[1:]] in runs


@pytest.mark.parametrize("mode", MODES, ids=("greedy", "beams", "samples", "exact"))
@pytest.mark.parametrize("threshold", (0.4, 2.0))
def test_answers_stand_on_the_page(mode, threshold):
    made, batch = model(), rows(words=(17, 12, 14))
    torch.manual_seed(0)
    out = made.generate(**batch, **mode, exit_threshold=threshold, max_new_tokens=6)
    pages = page_ids(batch["input_ids"], batch["bbox"])
    each = len(out) // len(pages)
    seen = set()
    for i, row in enumerate(out.tolist()):
        answer = row[1:]
        answer = answer[: answer.index(END)] if END in answer else answer
        assert answer and stands(pages[i // each], answer), (pages[i // each], answer)
        seen.add(tuple(answer))
    assert len(seen) > 2


def test_they_are_those_of_the_cache_free_reference():
    for mode in ({}, {"num_beams": 2}):
        compare(model(), rows(words=(17, 12, 14)), 0.4, max_new_tokens=6, **mode)


def test_they_are_served_alike():
    made, batch = model(), rows(words=(17, 12, 14))
    alone = [
        made.generate(**{k: v[i : i + 1] for k, v in batch.items()}, exit_threshold=0.4, max_new_tokens=6)[
            0, 1:
        ].tolist()
        for i in range(5)
    ]
    with Scheduler(made) as scheduler:
        asked = [
            GenerationRequest(
                {k: v[i : i + 1] for k, v in batch.items()}, {"exit_threshold": 0.4, "max_new_tokens": 6}
            )
            for i in range(5)
        ]
        served = [ticket.result(60).tokens for ticket in [scheduler.submit(one) for one in asked]]
    assert [list(one) for one in served] == alone


def test_what_may_come_next():
    config = LatrConfig(vocab_size=VOCAB, question="late", pad_token_id=0, eos_token_id=END, **RULES)
    allowed = allowed_pieces(config, [[10, 20, 21, 11, 20, 22]], 1)

    def after(*answer):
        return allowed(0, torch.tensor([0, *answer]))

    assert after() == sorted({5, OPEN, 10, 37, 20, 21, 11, 38, 22})
    assert after(20) == [END, 21, 22] and after(20, 22) == [END] and after(37, 20) == [END, 21]
    assert after(5) == [6] and after(5, 6) == [END], "a free answer is given whole"
    assert after(20, END) == [0, END] and after(OPEN, 3) == list(range(VOCAB))
    assert after(30) == list(range(VOCAB)), "told by the caller, and not there"
    assert allowed_pieces(config, [[]], 1)(0, torch.tensor([0])) == list(range(VOCAB)), "a picture without words"
    both = allowed_pieces(config, [[20], [21]], 1, copies=2)
    assert [20 in both(row, torch.tensor([0])) for row in range(4)] == [True, True, False, False]


def test_labels_are_chosen_from_what_generation_would_let_come_next():
    config = LatrConfig(vocab_size=VOCAB, question="late", pad_token_id=0, eos_token_id=END, **RULES)
    pages = [[10, 20, 21, 11, 20, 22], [30, 31, 30, 32], []]
    answers = [[[10, 20, END], [37, 20, 21, 11, END], [5, 6, END]], [[30, 32, END], [30, 33, 31, END]], [[7, 8, END]]]
    mask = allowed_labels(config, pages, answers, VOCAB)
    assert mask.shape == (3, 11, VOCAB) and mask.dtype == torch.bool
    allowed = allowed_pieces(config, pages, 0)
    for row, of_page in enumerate(answers):
        at = 0
        for answer in of_page:
            left = False
            for known, label in enumerate(answer):
                may = allowed(row, torch.tensor(answer[:known], dtype=torch.long))
                left = left or label not in may  # from there on everything
                assert mask[row, at + known].nonzero()[:, 0].tolist() == (list(range(VOCAB)) if left else may)
                assert mask[row, at + known, label]
            at += len(answer)
        assert mask[row, at:].all(), "padding is labelled nowhere"
    # Within the second page's last answer 33 stands nowhere; its first piece was chosen from the page.
    assert not mask[1, 3].all() and mask[1, 4:].all() and mask[2].all()


def test_a_models_loss_is_of_what_it_may_say():
    made, batch = model().float().eval(), rows(words=(17, 12, 14))
    ids = made.generate(**batch, exit_threshold=2.0, max_new_tokens=6)
    labels = ids[:, 1:].masked_fill(ids[:, 1:] == 0, -100)
    config, pages = made.config, page_ids(batch["input_ids"], batch["bbox"])
    answers = [[[piece for piece in row if piece >= 0]] for row in labels.tolist()]
    mask = allowed_labels(config, pages, answers, config.vocab_size)
    out = made(**batch, labels=labels, allowed_tokens=mask)
    at = labels != -100
    among = torch.where(mask, out.logits, -torch.inf)[at]
    wanted = torch.nn.functional.cross_entropy(among, labels[at])
    torch.testing.assert_close(out.exit_losses[-1], wanted)
    assert bool(out.exit_losses[-1] < made(**batch, labels=labels).exit_losses[-1])


def test_rules_of_a_processor():
    tokenizer = learn_tokenizer(['the total of 12.50 is not on the page, (total) yes no {"total":"12"}'] * 30, 420)
    rules = rules_of(build_processor(tokenizer, question="late"), ["yes", "not on the page"])
    pieces = tokenizer.convert_ids_to_tokens
    assert rules["copy_answers"] and len(rules["free_answers"]) == 2
    assert rules["free_answers"][0][-1] == tokenizer.eos_token_id
    assert {pieces(i).lstrip("▁") for i in rules["open_pieces"]} >= {'{"'}
    assert rules["word_begins"] and all(pieces(b) == f"▁{pieces(a)}" for a, b in rules["word_begins"])


def test_bad_fields():
    with pytest.raises(ValueError, match='copy_answers takes question="late"'):
        LatrConfig(**RULES)
    with pytest.raises(ValueError, match="copy_answers takes free_answers"):
        LatrConfig(question="late", copy_answers=True)
