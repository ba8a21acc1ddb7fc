"""Closed lists of answers: scores against brute force, constrained generation against the cache-free reference."""

import math
import os
import pickle

import pytest
import torch
from ofa_files import small_tokenizer
from ofa_models import ofa_batch, ofa_model, plain_ofa

import oracle as ref
from conftest import VOCAB, batch, deed_model, plain_model
from deed.errors import DataError
from deed.models.ofa.candidates import Candidates, Trie, build_candidates, read_ans2label, score_candidates
from deed.models.ofa.processing_ofa import OFAProcessor, build_image_processor

ANSWERS = ["a", "ab", "abc", "b", "bc", "bd", "cde"]
TOKENS = {"a": 7, "b": 11, "c": 12, "d": 20, "e": 33}
KINDS = ["t5_untied_gated", "bart", "ofa"]


def eos_of(kind):
    return 1 if kind.startswith("t5") else 2


def candidates_for(kind):
    return Candidates(ANSWERS, [[*(TOKENS[c] for c in answer), eos_of(kind)] for answer in ANSWERS])


def plain(kind, **options):
    model = plain_ofa(**options) if kind == "ofa" else plain_model(kind, **options)
    return (model, ofa_batch()) if kind == "ofa" else (model, batch())


def deeds(kind):
    return (ofa_model(), ofa_batch()) if kind == "ofa" else (deed_model(kind), batch())


def start_of(model):
    return model.config.decoder_start_token_id


# -- the trie ---------------------------------------------------------------------------------------------------------


def test_trie():
    trie = Trie([[5, 6, 2], [5, 2], [7, 2]])
    assert trie.children([]) == [5, 7] and trie.children([5]) == [6, 2] and trie.children([5, 6]) == [2]
    assert trie.children([5, 2]) == [] and trie.children([9]) == [] and Trie().children([]) == []


def test_what_may_follow():
    candidates = candidates_for("bart")
    allowed = candidates.prefix_allowed_tokens_fn(start=3)
    told = [2, 30, 31]
    assert set(allowed(0, torch.tensor(told))) == {7, 11, 12}
    assert set(allowed(0, torch.tensor([*told, 11]))) == {2, 12, 20}
    assert allowed(5, torch.tensor([*told, 12, 20])) == [33]
    for ended in ([12, 20, 33, 2], [12, 20, 33, 2, 1], [30]):
        assert allowed(0, torch.tensor([*told, *ended])) == [2]
    forced = candidates.prefix_allowed_tokens_fn(prompts=[[0, 30, 31], [0]])
    assert [forced(0, torch.tensor([0, 30, 31][:n])) for n in (1, 2)] == [[30], [31]]
    assert set(forced(0, torch.tensor([0, 30, 31]))) == set(forced(1, torch.tensor([0]))) == {7, 11, 12}
    with pytest.raises(ValueError, match="prompts for 2 rows"):
        forced(2, torch.tensor([0]))
    for prompts in ([[0, 2, 5]], [[]]):
        with pytest.raises(ValueError, match="a prompt must have one token"):
            candidates.prefix_allowed_tokens_fn(prompts=prompts)


@pytest.mark.parametrize(
    ("answers", "ids"),
    [([], []), (["a"], []), (["a"], [[]]), (["a", "b"], [[5, 2], [5, 3]]), (["a"], [[2, 5, 2]])],
)
def test_candidates_that_do_not_fit(answers, ids):
    with pytest.raises(ValueError, match="candidate"):
        Candidates(answers, ids)


def test_candidates_from_texts():
    processor = OFAProcessor(build_image_processor(32), small_tokenizer(), max_target_length=2)
    candidates = build_candidates(["two dogs", "red", "two dogs", "maybe not today"], processor)
    assert candidates.answers == ["two dogs", "red", "maybe not today"] and len(candidates) == 3
    assert [processor.tokenizer.decode(ids) for ids in candidates.ids] == [f" {a}</s>" for a in candidates.answers]


# -- ans2label --------------------------------------------------------------------------------------------------------


class Evil:
    def __reduce__(self):
        return os.mkdir, ("owned",)


def test_ans2label(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "trainval_ans2label.pkl"
    path.write_bytes(pickle.dumps({"net": 0, "pitcher": 1, "orange": 2}))
    assert read_ans2label(path) == ["net", "pitcher", "orange"]
    for content, message in [
        (pickle.dumps({"net": Evil()}), "mkdir"),
        (pickle.dumps(["net"]), "expected a dict of answers"),
        (pickle.dumps({}), "expected a dict of answers"),
        (pickle.dumps({3: 0}), "expected a dict of answers"),
        (b"hello", "cannot be read as a pickled dict"),
    ]:
        path.write_bytes(content)
        with pytest.raises(DataError, match=message) as caught:
            read_ans2label(path)
        assert str(path) in str(caught.value)
    with pytest.raises(DataError, match="No such file"):
        read_ans2label(tmp_path / "none.pkl")
    assert os.listdir(tmp_path) == ["trainval_ans2label.pkl"]


# -- scores -----------------------------------------------------------------------------------------------------------


def brute_force(logits_of, rows, candidates, told):
    """One candidate of one row at a time, the whole vocabulary masked, as the original does."""
    scores = torch.zeros(rows, len(candidates), dtype=torch.float64)
    for r in range(rows):
        for c, ids in enumerate(candidates.ids):
            logits = logits_of(r, torch.tensor([[*told[r], *ids[:-1]]]))
            for i, token in enumerate(ids):
                following = [other[i] for other in candidates.ids if other[:i] == ids[:i] and len(other) > i]
                mask = torch.full((logits.shape[-1],), -math.inf, dtype=logits.dtype)
                mask[following] = 0
                scores[r, c] += (logits[0, len(told[r]) - 1 + i] + mask).log_softmax(-1)[token]
    return scores


def one_row(inputs, r):
    return {name: value[r : r + 1] for name, value in inputs.items()}


@pytest.mark.parametrize("prompted", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_scores(kind, prompted):
    model, inputs = plain(kind)
    candidates, start = candidates_for(kind), start_of(model)
    told = [[start, *range(3, 3 + r)] for r in range(4)] if prompted else [[start]] * 4

    def logits_of(r, ids):
        return model(**one_row(inputs, r), decoder_input_ids=ids, use_cache=False).logits

    wanted = brute_force(logits_of, 4, candidates, told)
    # A row's answers are a distribution: what no candidate begins with was masked.
    torch.testing.assert_close(wanted.exp().sum(1), torch.ones(4, dtype=torch.float64))
    for size in (3, 20):
        got = score_candidates(model, inputs, candidates, batch=size, prompts=told if prompted else None)
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)
    assert candidates.best(got) == [ANSWERS[i] for i in wanted.argmax(1)]
    assert wanted.argmax(1).unique().numel() > 1 or wanted.std(0).max() > 0.1, "rows differ"


@pytest.mark.parametrize("kind", KINDS)
def test_scores_at_an_exit(kind):
    model, inputs = deeds(kind)
    candidates, told = candidates_for(kind), [[start_of(model)]] * 4
    found = []
    for i, exit in enumerate(model.deed_config.exit_layers):

        def logits_of(r, ids, i=i):
            return model.exit_logits(**one_row(inputs, r), decoder_input_ids=ids)[i]

        with torch.no_grad():
            wanted = brute_force(logits_of, 4, candidates, told)
        got = score_candidates(model, inputs, candidates, exit=exit)
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-10)
        found.append(got)
    assert torch.equal(found[-1], score_candidates(model, inputs, candidates))
    assert not torch.allclose(found[0], found[-1], atol=1e-2)
    with pytest.raises(ValueError, match="exit must be one of the model's exits"):
        score_candidates(model, inputs, candidates, exit=9)
    with pytest.raises(ValueError, match="no deed model"):
        score_candidates(plain(kind)[0], inputs, candidates, exit=1)
    with pytest.raises(ValueError, match="4 rows, but prompts for 1"):
        score_candidates(model, inputs, candidates, prompts=told[:1])


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_an_encoder_that_has_run_runs_no_more(kind):
    model, inputs = plain(kind)
    candidates = candidates_for(kind)
    encoded = model.get_encoder()(**inputs)
    mask = getattr(encoded, "attention_mask", inputs["attention_mask"])
    wanted = score_candidates(model, inputs, candidates)
    model.get_encoder().forward = None
    got = score_candidates(model, {"encoder_outputs": encoded, "attention_mask": mask}, candidates)
    assert torch.equal(got, wanted)


# -- constrained generation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_best_of_all_beams_is_the_best_score(kind):
    """With as many beams as candidates, unnormalised beam search is exhaustive. Its own log-probabilities are over the
    whole vocabulary, so they are compared after masking, by renormalising."""
    model, inputs = plain(kind, enc=3, dec=3)  # Transformers' own generate() fails on a T5 of unequal depths
    candidates = candidates_for(kind)
    out = model.generate(
        **inputs,
        max_new_tokens=6,
        num_beams=len(candidates),
        length_penalty=0.0,
        renormalize_logits=True,
        prefix_allowed_tokens_fn=candidates.prefix_allowed_tokens_fn(),
        return_dict_in_generate=True,
        output_scores=True,
    )
    scores = score_candidates(model, inputs, candidates)
    torch.testing.assert_close(out.sequences_scores.double(), scores.amax(1), rtol=0, atol=1e-5)
    for row, answer in zip(out.sequences, candidates.best(scores), strict=True):
        ids = candidates.ids[ANSWERS.index(answer)]
        assert row[1 : 1 + len(ids)].tolist() == ids


def allowed_mask(allowed):
    """The constraint as the oracle takes it."""

    def mask(ids):
        keep = torch.zeros(len(ids), VOCAB, dtype=torch.bool)
        for r, prefix in enumerate(ids):
            keep[r, allowed(r, prefix)] = True
        return keep

    return mask


@pytest.mark.parametrize("prompted", [False, True])
@pytest.mark.parametrize("mode", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
@pytest.mark.parametrize("kind", KINDS)
def test_early_exit_within_the_trie(kind, mode, prompted):
    model, inputs = deeds(kind)
    candidates, eos = candidates_for(kind), eos_of(kind)
    told = [[start_of(model), *range(3, 3 + r)] for r in range(4)]
    if eos == start_of(model):  # BART begins with its end token
        told = [[start_of(model)]] * 4
        if prompted:
            with pytest.raises(ValueError, match="not the end token"):
                candidates.prefix_allowed_tokens_fn(prompts=told)
            return
    allowed = candidates.prefix_allowed_tokens_fn(prompts=told) if prompted else candidates.prefix_allowed_tokens_fn()
    beams = mode.get("num_beams", 1)
    depths = {}
    for over in ("all", "allowed"):
        seen = allowed_mask(lambda r, ids: allowed(r // beams, ids)) if over == "allowed" else None
        reference = ref.Oracle(model, 0.8, allowed=seen)
        kwargs = {"max_new_tokens": 10, "prefix_allowed_tokens_fn": allowed, **mode}
        expected, trace = reference.generate(inputs, **kwargs)
        got = model.generate(
            **inputs, **kwargs, exit_threshold=0.8, confidence_over=over, return_dict_in_generate=True
        )
        assert torch.equal(got.sequences, expected.sequences)
        assert torch.equal(got.exit_layers, ref.expected_exit_layers(expected, trace, 1, eos))
        depths[over] = got.exit_layers.float().sum()
    assert depths["allowed"] < depths["all"], "surer, and so sooner"
    if over == "allowed":
        for row, prompt in zip(got.sequences.tolist(), told, strict=True):
            skip = len(prompt) if prompted else 1
            assert row[:skip] == (prompt if prompted else [start_of(model)])
            answer = row[skip : row.index(eos, skip) + 1]
            assert answer in candidates.ids


@torch.no_grad()
def test_a_choice_of_one_leaves_at_the_first_exit():
    model, inputs = deeds("ofa")
    candidates = Candidates(["cde"], [[12, 20, 33, 2]])
    allowed = candidates.prefix_allowed_tokens_fn(prompts=[[0, 5, 6]] * 4)
    out = model.generate(
        **inputs,
        max_new_tokens=9,
        prefix_allowed_tokens_fn=allowed,
        exit_threshold=1.0,
        confidence_over="allowed",
        return_dict_in_generate=True,
    )
    assert out.sequences.tolist() == [[0, 5, 6, 12, 20, 33, 2]] * 4
    assert (out.exit_layers == 1).all()


@torch.no_grad()
def test_forced_prompts_answer_as_a_prefix_does():
    """OFA's prev_output prompts of one length, both ways."""
    model, inputs = deeds("ofa")
    candidates, told = candidates_for("ofa"), [[0, 5, 6 + r, 9] for r in range(4)]
    options = {"max_new_tokens": 9, "exit_threshold": 2.0}
    forced = model.generate(
        **inputs, **options, prefix_allowed_tokens_fn=candidates.prefix_allowed_tokens_fn(prompts=told)
    )
    given = model.generate(
        **inputs,
        **options,
        decoder_input_ids=torch.tensor(told),
        prefix_allowed_tokens_fn=candidates.prefix_allowed_tokens_fn(start=4),
    )
    assert torch.equal(forced, given)
