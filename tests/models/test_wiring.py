"""A fresh LaTr++ that is wired: each link of the chain from a question's words to the answer, in float64, and what stays."""

import random

import pytest
import torch

from deed import DeedConfig, get_deed_model
from deed.models.latr import small
from deed.models.latr.packing import pack
from deed.models.latr.pieces import learn_tokenizer
from deed.models.latr.wiring import wire_look_up
from test_decode import compare

SPELLED = random.Random(0)
TEXTS = [" ".join("".join(SPELLED.choices("abcdefghij", k=4)) for _ in range(40)) for _ in range(250)]
WORDS, SHORT = 300, 60  # on a page
ASKED = (17, 18)  # places of the two that a question names


@pytest.fixture(scope="module")
def tokenizer():
    learnt = learn_tokenizer(TEXTS, 1000)
    assert len(learnt) == 1000
    return learnt


def fresh(tokenizer, wired=True, width=256, layers=3, seed=0):
    torch.manual_seed(seed)
    model = small.build_model(tokenizer, layers, 2, width, 64, 1, d_vision=32, question="late", box_bias=True)
    if wired:
        wire_look_up(model)
    model.set_attn_implementation("eager")
    return model.double().eval()


def page_and_question(seed=0, words=WORDS):
    """A page of tokens, each of which stands on it twice, behind another one each time; a question that names two of them."""
    rng = random.Random(seed)
    half = rng.sample(range(300, 900), words // 2)
    ids = half + rng.sample(half, len(half))
    boxes = [(20 * (i % 45), 30 * (i // 45), 20 * (i % 45) + 15, 30 * (i // 45) + 20) for i in range(words)]
    first, second = ASKED
    return {"words": ids, "boxes": boxes, "questions": [[5, 6, ids[first], ids[second], 7, 1]], "answers": [[1]]}


def attentions(stack, hidden, layer, name, bias=None, states=None):
    """`[heads, asking, looked at]` of one sublayer, whose input `hidden` is."""
    part = stack.block[layer].layer[{"SelfAttention": 0, "EncDecAttention": 1}[name]]
    attention, x = getattr(part, name), part.layer_norm(hidden)
    keys = x if states is None else states
    q, k = (
        m(v)[0].view(-1, attention.n_heads, attention.key_value_proj_dim).transpose(0, 1)
        for m, v in ((attention.q, x), (attention.k, keys))
    )
    return (q @ k.transpose(1, 2) + (0 if bias is None else bias[0])).softmax(-1)


@torch.no_grad()
def encoded(model, page):
    """The encoder's states after each layer, and its bias."""
    batch = pack([page], 0, 0)
    seen = {}
    hook = model.encoder.block[0].register_forward_pre_hook(lambda module, args: seen.update(bias=args[2]))
    keep = ("input_ids", "attention_mask", "bbox", "question_ids")
    out = model.encoder(**{name: batch[name] for name in keep}, output_hidden_states=True)
    hook.remove()
    return out.hidden_states, seen["bias"]


@torch.no_grad()
def test_the_first_heads_look_one_to_the_left_and_one_to_the_right_on_a_long_page(tokenizer):
    model = fresh(tokenizer)
    states, bias = encoded(model, page_and_question())
    found = attentions(model.encoder, states[0], 0, "SelfAttention", bias)
    at = torch.arange(1, WORDS)
    assert found[0, at, at - 1].mean() > 0.9 and found[1, at - 1, at].mean() > 0.9
    plain = fresh(tokenizer, wired=False)
    states, bias = encoded(plain, page_and_question())
    before = attentions(plain.encoder, states[0], 0, "SelfAttention", bias)
    assert before[0, at, at - 1].mean() < 0.1, "which look_beside alone leaves to chance on a page of this length"


@torch.no_grad()
@pytest.mark.parametrize("layer", (1, 2))
def test_a_questions_token_finds_the_one_of_its_likes_that_stands_behind_the_same(tokenizer, layer):
    hits, others = [], []
    for seed in range(6):
        model, page = fresh(tokenizer, seed=seed), page_and_question(seed, SHORT)
        states, bias = encoded(model, page)
        found = attentions(model.encoder, states[layer], layer, "SelfAttention", bias)[-2:].mean(0)
        asked, right = SHORT + 3, ASKED[1]
        twin = next(i for i, token in enumerate(page["words"]) if token == page["words"][right] and i != right)
        hits.append(float(found[asked, right]))
        others.append(float(found[asked, twin]) + float(found[asked, asked]))
    assert sum(hits) / 6 > 0.7 and sum(others) / 6 < 0.15, (hits, others)


@torch.no_grad()
def test_what_the_question_has_looked_up_can_be_read_off_by_the_decoder(tokenizer):
    """With its attention put on the question's last word, a picking head alone makes the right token the likeliest."""
    right = 0
    for seed in range(8):
        model, page = fresh(tokenizer, seed=seed), page_and_question(seed, SHORT)
        states, _ = encoded(model, page)
        attention = model.decoder.block[0].layer[1].EncDecAttention
        head, size = 4, model.config.d_kv
        values = attention.v(states[-1][0, SHORT + 3])
        values[: head * size] = values[(head + 1) * size :] = 0
        logits = model.lm_head(model.decoder.final_layer_norm(attention.o(values)))
        right += int(logits[300:900].argmax()) + 300 == page["words"][ASKED[1] + 1]
    assert right >= 6


@torch.no_grad()
def test_the_decoder_looks_at_the_token_behind_the_two_that_it_was_given(tokenizer):
    shares = []
    for seed in range(6):
        model, page = fresh(tokenizer, seed=seed), page_and_question(seed)
        states, _ = encoded(model, page)
        hidden = model.decoder.embed_tokens(torch.tensor([page["words"][100:103]]))
        layer = model.decoder.block[0].layer
        hidden = layer[0](hidden)[0]
        found = attentions(model.decoder, hidden, 0, "EncDecAttention", states=states[-1])
        shares.append(found[:4, 2, 103].mean())
    assert sum(shares) / 6 > 0.35, "of 300 tokens"


def test_a_model_too_narrow_or_without_words_behind_it_stays_as_it_was(tokenizer):
    plain, wired = fresh(tokenizer, False, 128), fresh(tokenizer, True, 128)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), wired.parameters(), strict=True))
    one = fresh(tokenizer, True, 160, layers=1)
    assert torch.isfinite(one.encoder.block[0].layer[0].SelfAttention.v.weight).all()


def test_a_wired_model_decodes_as_the_cache_free_reference_does(tokenizer):
    model = get_deed_model(fresh(tokenizer, width=160), DeedConfig())
    with torch.no_grad():
        for parameter in model.deed_exits.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    pages = [page_and_question(seed, 40 + 10 * seed) for seed in range(3)]
    for page in pages:
        page["questions"] = [page["questions"][0][:2] + page["words"][7:9]]
    batch = pack(pages, 0, 0)
    batch = {name: batch[name] for name in ("input_ids", "attention_mask", "bbox")}
    depths = {
        depth
        for threshold in (0.002, 0.01, 0.1)
        for depth in compare(model, batch, threshold, min_new_tokens=8).exit_layers.flatten().tolist()
    }
    assert len(depths) == 2
