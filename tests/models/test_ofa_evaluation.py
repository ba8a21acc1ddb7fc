"""OFA as its authors evaluate it: beams of `generate()` against a plain search with fairseq's rules, written out here.

The original's own generator gave the same best hypotheses in 256 of 256 rows (random weights; tries of 7 and 40 answers,
captions, boxes; OFA-Sys/OFA a36b91c run on this model's logits), and 77 of 256 with the options that stood here before.
"""

import math
import random

import pytest
import torch
from ofa_models import ofa_batch, ofa_model, plain_ofa

from conftest import VOCAB
from deed.models.ofa import Candidates, original_settings

BOS, PAD, EOS, BEAMS = 0, 1, 2, 5
RULES = {  # tokens before the end token at most and at least, length penalty, size of n-grams that may not repeat
    "vqa": (200, 1, 0.0, None),
    "caption": (16, 1, 1.0, 3),
    "refer": (4, 4, 1.0, 3),
}


def banned(ids, size):
    """Tokens that would repeat an n-gram."""
    if size is None:
        return []
    last = ids[len(ids) - size + 1 :]
    return [ids[i + size - 1] for i in range(len(ids) - size + 1) if ids[i : i + size - 1] == last]


@torch.no_grad()
def fairseq_best(model, row, task, candidates=None):
    """The best hypothesis for one row: ids after the start token."""
    most, least, penalty, ngram = RULES[task]
    encoded = model.encoder(row["input_ids"], row.get("patch_images"), row.get("patch_masks"), row["attention_mask"])
    live, done = [(0.0, [BOS])], []
    for step in range(most + 1):
        found = []
        for score, ids in live:
            logits = model(encoder_outputs=encoded, decoder_input_ids=torch.tensor([ids]), use_cache=False).logits[
                0, -1
            ]
            if candidates is not None:
                open_ids = candidates.trie.children(ids[1:])
                logits = torch.full_like(logits, -math.inf).index_copy(0, torch.tensor(open_ids), logits[open_ids])
            logs = logits.log_softmax(-1)
            logs[[PAD, *banned(ids, ngram)]] = -math.inf
            if step < least:
                logs[EOS] = -math.inf
            if step == most:
                logs[[i for i in range(len(logs)) if i != EOS]] = -math.inf
            found += [(score + x, [*ids, i]) for i, x in enumerate(logs.tolist()) if x > -math.inf]
        found = sorted(found, reverse=True)[: 2 * BEAMS]
        ended = [(score / (step + 1) ** penalty, ids) for score, ids in found[:BEAMS] if ids[-1] == EOS]
        done += ended[: BEAMS - len(done)]
        live = [one for one in found if one[1][-1] != EOS][:BEAMS]
        if len(done) == BEAMS or not live:
            break
    return max(done)[1][1:]


def some_candidates(seed, count):
    rng = random.Random(seed)
    ids = sorted({tuple(rng.choices(range(4, VOCAB), k=rng.randint(1, 5))) for _ in range(count)})
    return Candidates([str(row) for row in ids], [[*row, EOS] for row in ids])


def answers(sequences, start=1):
    return [row[start : row.index(EOS, start) + 1] for row in sequences.tolist()]


def one(batch, i):
    return {name: value[i : i + 1] for name, value in batch.items()}


@pytest.mark.parametrize("task, count", [("vqa", 40), ("vqa", 7), ("vqa", 2), ("caption", 0), ("refer", 0)])
def test_the_best_of_the_beams_is_fairseqs(task, count):
    lengths = set()
    for seed in range(4):
        model, batch = plain_ofa(seed, enc=1, dec=2, max_position_embeddings=256), ofa_batch(rows=3, seed=seed)
        candidates = some_candidates(seed, count) if count else None
        got = answers(model.generate(**batch, **original_settings(task, candidates)))
        assert got == [fairseq_best(model, one(batch, i), task, candidates) for i in range(3)]
        lengths |= {len(row) for row in got}
    assert lengths == {5} if task == "refer" else len(lengths) > 1


def test_prompts_of_the_decoder_of_any_length():
    model, batch, candidates = plain_ofa(enc=1, dec=2), ofa_batch(rows=3), some_candidates(0, 12)
    prompts = [[BOS, 5], [BOS, 9, 7, 7], [BOS]]
    out = model.generate(**batch, **original_settings("vqa", candidates, prompts))
    for i, prompt in enumerate(prompts):
        settings = original_settings("vqa", candidates, start=len(prompt))
        alone = model.generate(**one(batch, i), decoder_input_ids=torch.tensor([prompt]), **settings)
        want = answers(alone, len(prompt))[0]
        assert answers(out[i : i + 1], len(prompt)) == [want] and want in candidates.ids


def test_early_exit_takes_the_same_settings():
    model, batch = ofa_model(enc=1, dec=3), ofa_batch(rows=2)
    for task in RULES:
        settings = original_settings(task, some_candidates(1, 9) if task == "vqa" else None)
        deep = model.generate(**batch, **settings, exit_threshold=2.0)
        assert torch.equal(deep, plain_ofa(enc=1, dec=3).generate(**batch, **settings))
        early = model.generate(**batch, **settings, exit_threshold=0.3, return_dict_in_generate=True)
        assert early.exit_layers.min() >= 0 and early.exit_layers[early.exit_layers > 0].min() < 3


def test_other_tasks_are_refused():
    with pytest.raises(ValueError, match="snli_ve is evaluated by score_candidates"):
        original_settings("snli_ve")
    with pytest.raises(ValueError, match="prompts need candidates"):
        original_settings("vqa", prompts=[[0]])
