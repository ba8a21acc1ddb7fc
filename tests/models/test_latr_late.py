"""LaTr++ with a late question: packed questions give what each gives alone, decoding is exact, windows, tokenizer."""

import itertools
import random

import pytest
import torch

from deed.constants import IGNORE_INDEX
from deed.data.base import UNANSWERABLE
from deed.models.latr import LatrConfig, small
from deed.models.latr.cells import cells_of
from deed.models.latr.packing import follows, may_see, pack
from deed.models.latr.pieces import learn_tokenizer
from deed.models.latr.relative import OFFSETS, PATCH, QUESTION, WORD, LatrRelativeBias, buckets
from deed.models.latr.windows import best_window, windows
from latr import latr_model, page_batch
from test_decode import compare

LATE = {"question": "late", "box_bias": True, "cell_bias": True}
TEXTS = [
    *["the quick brown fox jumps over the lazy dog 12345, Smith's total: 12.50 EUR"] * 20,
    *['{"total":"12","date":"2020-01-01"}', "what is the title?"] * 10,
]


@pytest.fixture(scope="module")
def tokenizer():
    return learn_tokenizer(TEXTS, 420)


def late_model(eager=True, **options):
    model = latr_model(**{**LATE, **options})
    with torch.no_grad():
        for table in model.encoder.relative_bias.children():
            table.weight.normal_()
    if eager:
        model.set_attn_implementation("eager")
    return model


def some_page(rng, words, questions):
    def ids(low, high):
        return [rng.randint(3, 30) for _ in range(rng.randint(low, high))]

    corners = [(rng.randint(0, 900), rng.randint(1, 900)) for _ in range(words)]
    return {
        "words": [rng.randint(3, 30) for _ in range(words)],
        "boxes": [(x, y, x + rng.randint(0, 100), y + rng.randint(0, 100)) for x, y in corners],
        "questions": [ids(1, 6) for _ in range(questions)],
        "answers": [ids(1, 5) for _ in range(questions)],
    }


@pytest.mark.parametrize("box_bias", (True, False))
@pytest.mark.parametrize("eager", (True, False), ids=("eager", "sdpa"))
def test_packed_questions_give_what_each_gives_alone(box_bias, eager):
    model, rng = late_model(eager, box_bias=box_bias, cell_bias=box_bias), random.Random(0)
    pages = [some_page(rng, 12, 4), some_page(rng, 5, 2), some_page(rng, 0, 3)]
    pictures = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    seen = torch.tensor([1, 0, 1])
    together = pack(pages, 0, 0)
    labels = together.pop("labels")
    with torch.no_grad():
        whole = model(**together, pixel_values=pictures, pixel_mask=seen, output_hidden_states=True)
        encoded = model.encoder(
            **{k: together[k] for k in ("input_ids", "attention_mask", "bbox", "question_ids")},
            pixel_values=pictures,
            pixel_mask=seen,
        )
    for i, page in enumerate(pages):
        for k, (question, answer) in enumerate(zip(page["questions"], page["answers"], strict=True), 1):
            alone = pack([{**page, "questions": [question], "answers": [answer]}], 0, 0)
            for name in ("question_ids", "answer_ids", "labels"):  # as whoever asks one question passes none of them
                alone.pop(name)
            picture = {"pixel_values": pictures[i : i + 1], "pixel_mask": seen[i : i + 1]}
            with torch.no_grad():
                one = model(**alone, **picture, output_hidden_states=True)
                states = model.encoder(**{k: alone[k] for k in ("input_ids", "attention_mask", "bbox")}, **picture)
            here = (encoded.question_ids[i] == 0) | (encoded.question_ids[i] == k)
            here &= encoded.attention_mask[i] > 0
            mine = states.attention_mask[0] > 0
            torch.testing.assert_close(
                encoded.last_hidden_state[i][here], states.last_hidden_state[0][mine], rtol=0, atol=1e-12
            )
            at = together["answer_ids"][i] == k
            assert labels[i][at].tolist() == answer
            for depth in (*model.deed_config.exit_layers[:-1],):
                exits = [model.exit_head(depth, out.decoder_hidden_states[depth]) for out in (whole, one)]
                torch.testing.assert_close(exits[0][i][at], exits[1][0], rtol=0, atol=1e-11)
            torch.testing.assert_close(whole.logits[i][at], one.logits[0], rtol=0, atol=1e-11)


def test_the_packed_loss_is_the_mean_over_the_answers_tokens():
    model, rng = late_model(), random.Random(1)
    pages = [some_page(rng, 7, 3), some_page(rng, 3, 1)]
    batch = pack(pages, 0, 0)
    got = model(**batch).exit_losses
    sums, count = torch.zeros_like(got), 0
    for page in pages:
        for question, answer in zip(page["questions"], page["answers"], strict=True):
            one = pack([{**page, "questions": [question], "answers": [answer]}], 0, 0)
            sums = sums + model(**one).exit_losses * len(answer)
            count += len(answer)
    assert count == int((batch["labels"] != IGNORE_INDEX).sum())
    torch.testing.assert_close(got, sums / count)


def test_what_packed_tokens_see():
    owners, mask = torch.tensor([[0, 0, 1, 2, 2, 0]]), torch.tensor([[1, 1, 1, 1, 1, 0]])
    seen = may_see(owners, owners, mask)[0].int().tolist()
    assert seen[0] == [1, 1, 0, 0, 0, 0] and seen[2] == [1, 1, 1, 0, 0, 0] and seen[4] == [1, 1, 0, 1, 1, 0]
    assert follows(torch.tensor([[1, 1, 2]]))[0].int().tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]


def one_question_batch():
    """`page_batch` as the processor of a late question lays it out: the last two tokens of a row have no place."""
    batch = page_batch()
    for row, mask in zip(batch["bbox"], batch["attention_mask"], strict=True):
        row[int(mask.sum()) - 2 :] = 0
        row[: int(mask.sum()) - 2, 3].clamp_(min=1)
    return batch


@pytest.mark.parametrize("mode", ({}, {"num_beams": 3}), ids=("greedy", "beams"))
def test_decoding_equals_the_cache_free_reference(mode):
    depths = set()
    for threshold in (0.3, 0.6, 0.9):
        got = compare(late_model(eager=False), one_question_batch(), threshold, min_new_tokens=9, **mode)
        depths |= set(got.exit_layers.flatten().tolist())
    assert len(depths) >= 3


def test_the_page_does_not_see_the_question_and_the_question_sees_the_page():
    model, batch = late_model(), one_question_batch()
    keep = ("input_ids", "attention_mask", "bbox", "pixel_values", "pixel_mask")
    before = model.encoder(**{k: batch[k] for k in keep})
    batch["input_ids"][0, -1] += 1
    after = model.encoder(**{k: batch[k] for k in keep})
    changed = (before.last_hidden_state[0] - after.last_hidden_state[0]).abs().amax(-1) > 1e-9
    assert changed[-2:].all() and not changed[:-2].any()
    batch["input_ids"][0, 0] += 1
    moved = (model.encoder(**{k: batch[k] for k in keep}).last_hidden_state[0] - after.last_hidden_state[0]).abs()
    assert (moved.amax(-1) > 1e-9).all()


def test_saved_and_loaded_it_is_the_same(tmp_path):
    import deed

    model, batch = late_model(eager=False), one_question_batch()
    model.save_pretrained(tmp_path)
    again = deed.from_pretrained(tmp_path, dtype=torch.float64)
    assert again.config.question == "late" and again.config.box_bias and again.config.cell_bias
    start = torch.zeros(4, 1, dtype=torch.long)
    torch.testing.assert_close(
        again(**batch, decoder_input_ids=start).logits, model(**batch, decoder_input_ids=start).logits
    )


def test_settings_that_do_not_fit():
    with pytest.raises(ValueError, match="question must be one of early, late"):
        LatrConfig(question="soon")
    with pytest.raises(ValueError, match="box_bias takes"):
        LatrConfig(box_bias=True)
    with pytest.raises(ValueError, match="cell_bias takes"):
        LatrConfig(question="late", cell_bias=True)
    rng = random.Random(0)
    with pytest.raises(ValueError, match="answer_ids take a model"):
        latr_model()(**pack([some_page(rng, 3, 1)], 0, 0))


def some_cells(sorts, bbox, ids, numbers):
    return cells_of(torch.tensor([bbox]), torch.tensor([sorts]) == WORD, torch.tensor([ids]), torch.tensor([numbers]))


def naive_bias(module, order, sorts, bbox, ids, numbers):
    """Pair by pair."""
    n = len(sorts)
    out = torch.zeros(order.shape[1], n, n, dtype=order.dtype)
    cells = some_cells(sorts, bbox, ids, numbers)
    relations, asked = cells.relations, [[*row[1:], 0] for row in cells.asked[0].tolist()]
    pairs = {(0, 0): 0, (0, 1): 1, (1, 0): 2, (2, 0): 3, (2, 1): 4, (0, 2): 0, (1, 2): 0}
    near, offsets = buckets(n, order.shape[0], 128), buckets(OFFSETS, 32, OFFSETS // 4, 4)
    for i in range(n):
        for j in range(n):
            pair = pairs.get((sorts[i], sorts[j]))
            out[:, i, j] = order[near[j - i + n]] if pair is None else module.pairs.weight[pair]
            if sorts[i] == sorts[j] == WORD:
                (ax, ay, ar, ab), (bx, by, br, bb) = bbox[i], bbox[j]
                for table, off in (
                    (module.rows, (by + bb) // 2 - (ay + ab) // 2),
                    (module.lefts, bx - ax),
                    (module.rights, br - ar),
                ):
                    out[:, i, j] += table.weight[offsets[off + OFFSETS]]
            else:
                for table in (module.rows, module.lefts, module.rights):
                    out[:, i, j] += table.weight[-1]
            out[:, i, j] += module.relations.weight[relations[0, i, j]] + module.asked.weight[asked[numbers[i]][j]]
    return out


def test_the_bias_and_its_gradient_equal_those_pair_by_pair():
    torch.manual_seed(0)
    module = LatrRelativeBias(3, boxes=True, cells=True).double()
    order = torch.randn(32, 3, dtype=torch.float64, requires_grad=True)
    for table in module.children():
        torch.nn.init.normal_(table.weight)
    sorts = [PATCH, WORD, WORD, WORD, QUESTION, QUESTION]
    corners = torch.randint(0, 500, (6, 2))
    bbox = torch.cat([corners, corners + torch.randint(0, 500, (6, 2))], -1)
    bbox[1:4] = torch.tensor([(100, 300, 200, 320), (400, 305, 480, 322), (410, 350, 500, 370)])
    ids, numbers = [0, 5, 6, 7, 5, 5], [0, 0, 0, 0, 1, 1]
    want = naive_bias(module, order, sorts, bbox.tolist(), ids, numbers)
    cells = some_cells(sorts, bbox.tolist(), ids, numbers)
    got = module(order, torch.tensor([sorts]), bbox[None], cells, torch.tensor([numbers]))[0]
    torch.testing.assert_close(got, want)
    weights = torch.randn_like(want)
    parameters = [order, *module.parameters()]
    for a, b in zip(
        torch.autograd.grad((got * weights).sum(), parameters),
        torch.autograd.grad((want * weights).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_buckets_are_signed_exact_near_and_coarse_far():
    found = buckets(OFFSETS, 32, OFFSETS // 4, 4)
    at = {offset: int(found[offset + OFFSETS]) for offset in (-1000, -500, -8, -4, 0, 1, 4, 8, 500, 1000)}
    assert at[0] == at[1] == 0 and len({at[x] for x in (-8, -4, 0, 4, 8)}) == 5
    assert at[500] != at[-500] and at[1000] == 31 and at[-1000] == 15


def test_a_trained_model_is_given_the_tables_of_cells():
    model = latr_model(question="late", box_bias=True)
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    model.add_cells()
    after = model.encoder.state_dict()
    fresh = LatrRelativeBias(model.config.num_heads, boxes=True, cells=True)
    fresh.reset()
    for name in ("relations.weight", "asked.weight"):
        torch.testing.assert_close(after.pop(f"relative_bias.{name}"), fresh.state_dict()[name].double())
    assert fresh.asked.weight.max().item() > 10, "questions look at the cells that they ask for"
    assert not after.pop("cell_marks.weight").any() and model.config.cell_bias and model.encoder.config.cell_bias
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def test_half_of_the_steps_teach_the_bias():
    model, rng = late_model(), random.Random(3)
    model.train()
    model.encoder.bias_share = 0.5
    batch, learned = pack([some_page(rng, 5, 2)], 0, 0), []
    torch.manual_seed(0)
    for _ in range(20):
        model.zero_grad()
        model(**batch).loss.backward()
        learned.append(model.encoder.relative_bias.rows.weight.grad is not None)
    assert 3 < sum(learned) < 17


@pytest.mark.parametrize(
    "text",
    (
        "Smith, 12.5 €",
        "a  b",
        "日本語 \n x\ttab",
        "“quotes” é ñ",
        "",
        "🙂<0x41></s",
        '{"total":"12.50 EUR"}',
        "a_b-c…",
    ),
)
def test_the_tokenizer_writes_whatever_it_reads(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.unk_token is None


def test_pieces_of_a_word_do_not_depend_on_marks_around_it(tokenizer):
    def pieces(text):
        return tokenizer.convert_ids_to_tokens(tokenizer(text, add_special_tokens=False).input_ids)

    assert pieces("fox,") == [*pieces("fox"), ","]
    assert pieces("123") == ["▁1", "2", "3"], "digits one by one"
    assert pieces('{"total":"1"}') == ['▁{"', *[p.removeprefix("▁") for p in pieces("total")], '":"', "1", '"}']
    with pytest.raises(ValueError, match="size must be above"):
        learn_tokenizer(TEXTS, 200)


def test_a_saved_processor_keeps_where_the_question_stands(tokenizer, tmp_path):
    processor = small.build_processor(tokenizer, 64, "late")
    processor.save_pretrained(tmp_path)
    again = type(processor).from_pretrained(tmp_path)
    words = [("fox", (0, 0, 0, 0)), ("dog", (10, 10, 40, 20))]
    ids, boxes = again.encode("what is the title?", words)
    assert again.question == "late" and (ids, boxes) == processor.encode("what is the title?", words)
    asked = again.encode_question("what is the title?")
    assert ids[-len(asked) :] == asked and all(box == (0, 0, 0, 0) for box in boxes[-len(asked) :])
    assert all(any(box) for box in boxes[: -len(asked)]), "a word without a size is still a word of the page"
    with pytest.raises(ValueError, match="question must be one of"):
        small.build_processor(tokenizer, 64, "never")


@pytest.mark.parametrize("mark", ('"{}"', "“{}”"))
@pytest.mark.parametrize("word", ("fox", "12.5", "(dog", "Smith's"))
def test_a_quoted_word_has_the_pieces_that_it_has_on_the_page(tokenizer, word, mark):
    processor = small.build_processor(tokenizer, 64, "late")
    on_page = processor.encode_page([(word, (0, 0, 9, 9))], 64)[0]
    asked = processor.encode_question(f"is the word {mark.format(word)} there?")
    assert any(asked[i : i + len(on_page)] == on_page for i in range(len(asked)))
    assert processor.encode_question('3" or "" or x"y"') == [
        *tokenizer('3" or "" or x"y"', add_special_tokens=False).input_ids,
        tokenizer.eos_token_id,
    ], "marks that open nothing stay"


def test_windows_cover_the_page_and_fit(tokenizer):
    processor, question = small.build_processor(tokenizer, 40, "late"), "what is the title?"
    words = [(f"fox{i}", (0, 1, 10, 2)) for i in range(50)]
    found = [words[part.start : part.stop] for part in windows(processor, question, words)]
    assert len(found) > 2 and found[0][0] == words[0] and found[-1][-1] == words[-1]
    for window, following in itertools.pairwise(found):
        assert following[0] in window[1:] and following[-1] not in window, "they overlap, and go on"
        assert len(processor.encode(question, window)[0]) <= 40
        one_more = words[: words.index(window[-1]) + 2][-len(window) - 1 :]
        assert len(processor.encode_page(one_more, 40)[0]) + len(processor.encode_question(question)) > 40
    assert {word for window in found for word in window} == set(words)
    assert windows(processor, question, words[:2]) == [range(2)] and windows(processor, question, []) == [range(0)]


def test_the_best_window_is_the_surest_that_found_something():
    assert best_window(["a", UNANSWERABLE, "b"], [-2.0, 0.0, -1.0], UNANSWERABLE) == 2
    assert best_window([UNANSWERABLE, UNANSWERABLE], [-2.0, -1.0], UNANSWERABLE) == 1
