"""A LaTr++ with `cell_bias`: cells that a question asks for are read once more, marked, for that question alone."""

import pytest
import torch

from deed.models.latr.cells import BOTH, FOLLOWS, NAMED, PRECEDES
from deed.models.latr.packing import pack
from latr import latr_model
from test_decode import compare

HEADS, NAMES = (20, 21, 22), (10, 11)
CELLS = ((30,), (31, 32)), ((30,), (33,))  # of the second and third column, row by row
# Row 11, column 22; row 10, column 21; row 11 alone; nothing that is there; what stands before and behind 31, 32.
QUESTIONS = [[4, 22, 5, 11], [21, 6, 10], [7, 11], [8, 9], [4, 31, 32, 9]]
ASKED = [
    ([11], [BOTH]),
    ([6], [BOTH]),
    ([10, 11], [NAMED, NAMED]),
    ([], []),
    ([1, 2, 3, 4, 5, 6, 9, 10, 11], [PRECEDES] * 6 + [FOLLOWS] * 3),
]


def table(first=(12, 13)):
    """Ids and boxes of a line of text and a table below it."""
    ids, boxes = list(first), [(50 + 30 * i, 40, 75 + 30 * i, 56) for i in range(len(first))]

    def line(y, *cells):
        for x, cell in zip((50, 300, 600), cells, strict=True):
            for i, piece in enumerate(cell):
                ids.append(piece)
                boxes.append((x + 20 * i, y, x + 20 * i + 20, y + 16))

    line(100, *((head,) for head in HEADS))
    for i, (name, cells) in enumerate(zip(NAMES, CELLS, strict=True)):
        line(130 + 30 * i, (name,), *cells)
    return ids, boxes


def model(eager=False):
    made = latr_model(seed=3, question="late", box_bias=True, cell_bias=True)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in (*made.encoder.relative_bias.parameters(), made.encoder.cell_marks.weight):
            weight.normal_(generator=generator)
    if eager:
        made.set_attn_implementation("eager")
    return made


def packed(questions, first=(12, 13)):
    ids, boxes = table(first)
    answers = [[5, 6, 1], [7, 1], [8, 9, 4, 1], [3, 1], [6, 1]][: len(questions)]
    return {"words": ids, "boxes": boxes, "questions": questions, "answers": answers}


def rows(questions, first=(12, 13)):
    """As a processor lays them out: a row a question."""
    ids, boxes = table(first)
    longest = len(ids) + max(map(len, questions))
    batch = {name: torch.zeros(len(questions), longest, dtype=torch.long) for name in ("input_ids", "attention_mask")}
    batch["bbox"] = torch.zeros(len(questions), longest, 4, dtype=torch.long)
    for i, question in enumerate(questions):
        whole = [*ids, *question]
        batch["input_ids"][i, : len(whole)], batch["attention_mask"][i, : len(whole)] = torch.tensor(whole), 1
        batch["bbox"][i, : len(ids)] = torch.tensor(boxes)
    return batch


def test_what_is_asked_for_stands_once_more_marked():
    made, n = model(), len(table()[0])
    for question, (places, kinds) in zip(QUESTIONS, ASKED, strict=True):
        out = made.encoder(**rows([question]))
        states, marks = out.last_hidden_state[0], made.encoder.cell_marks.weight[kinds]
        assert out.attention_mask.all() and out.question_ids[0].tolist() == [0] * n + [1] * (
            len(question) + len(places)
        )
        torch.testing.assert_close(states[n + len(question) :], states[places] + marks)


@pytest.mark.parametrize("eager", (True, False), ids=("eager", "sdpa"))
def test_packed_questions_have_their_own_marks(eager):
    made = model(eager)
    pages = [packed(QUESTIONS), packed(QUESTIONS[2:0:-1], (12, 13, 14))]
    together = pack(pages, 0, 0)
    with torch.no_grad():
        whole = made(**together, output_hidden_states=True)
        encoded = made.encoder(**{k: together[k] for k in ("input_ids", "attention_mask", "bbox", "question_ids")})
    for i, page in enumerate(pages):
        for k, (question, answer) in enumerate(zip(page["questions"], page["answers"], strict=True), 1):
            alone = pack([{**page, "questions": [question], "answers": [answer]}], 0, 0)
            for name in ("question_ids", "answer_ids", "labels"):
                alone.pop(name)
            with torch.no_grad():
                one = made(**alone, output_hidden_states=True)
                states = made.encoder(**{k: alone[k] for k in ("input_ids", "attention_mask", "bbox")})
            here = (encoded.attention_mask[i] > 0) & ((encoded.question_ids[i] == 0) | (encoded.question_ids[i] == k))
            torch.testing.assert_close(
                encoded.last_hidden_state[i][here], states.last_hidden_state[0], rtol=0, atol=1e-12
            )
            at = together["answer_ids"][i] == k
            torch.testing.assert_close(whole.logits[i][at], one.logits[0], rtol=0, atol=1e-11)
            for depth in made.deed_config.exit_layers[:-1]:
                exits = [made.exit_head(depth, out.decoder_hidden_states[depth]) for out in (whole, one)]
                torch.testing.assert_close(exits[0][i][at], exits[1][0], rtol=0, atol=1e-11)


@pytest.mark.parametrize("questions", (QUESTIONS, [QUESTIONS[0], QUESTIONS[3], QUESTIONS[0]]), ids=("five", "twice"))
@pytest.mark.parametrize("mode", ({}, {"num_beams": 2}), ids=("greedy", "beams"))
def test_decoding_equals_the_cache_free_reference(questions, mode):
    depths = set()
    for threshold in (0.4, 0.5, 0.6, 0.7):
        got = compare(model(), rows(questions), threshold, min_new_tokens=9, **mode)
        depths |= set(got.exit_layers.flatten().tolist())
    assert len(depths) >= 3


def test_exact_mode_is_full_depth():
    batch = rows(QUESTIONS)
    want = model().generate(**batch, exit_threshold=2.0, max_new_tokens=8)
    assert torch.equal(model().generate(**batch, exact=True, exit_threshold=0.3, max_new_tokens=8), want)


def test_marks_matter_and_without_ids_there_are_none():
    made, batch = model(), rows(QUESTIONS[:1])
    embeds = made.encoder.embed_tokens(batch["input_ids"])
    out = made.encoder(**{**batch, "input_ids": None}, inputs_embeds=embeds)
    assert out.last_hidden_state.shape[1] == batch["input_ids"].shape[1]
    start = torch.zeros(1, 1, dtype=torch.long)
    before = made(**batch, decoder_input_ids=start).logits
    with torch.no_grad():
        made.encoder.cell_marks.weight += 1
    assert (made(**batch, decoder_input_ids=start).logits - before).abs().max() > 1e-3
