"""Measuring: whose turn it is, what is summed, what the hooks leave behind. Never how long anything took."""

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

import deed
from deed import DeedConfig, get_deed_model
from deed.bench.compare import Comparison, Run, Runs, compare, depth_by_position, depth_histogram, latency_curve
from deed.models import small_g2p
from deed.utils.timing import interleave, machine, spread, timed_encoder, versions

WORDS = ["cat", "tomato", "o'hara", "deed"]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    torch.manual_seed(0)
    tokenizer = small_g2p.build_tokenizer()
    model = get_deed_model(
        small_g2p.build_model(tokenizer, n_layers=2, d_model=32, d_ff=32), DeedConfig(threshold=2.0)
    )
    path = tmp_path_factory.mktemp("compare")
    model.save_pretrained(path)
    inputs = [dict(tokenizer(word, return_tensors="pt")) for word in WORDS]
    return AutoModelForSeq2SeqLM.from_pretrained(path), deed.from_pretrained(path), inputs, tokenizer


def by_hand(overall, encoder, depths=None):
    work = {"computed_cells": 3, "padding_cells": 1, "full_depth_cells": 4, "asked_rows": 2} if depths else {}
    return Run("K AE T", [5, 6, 1], depths, overall, encoder, work)


def test_subjects_take_turns_at_going_first():
    calls = []

    def subject(name):
        def answer(values):
            calls.append(f"{name}{values}")
            return by_hand(1.0, 0.5)

        return answer

    ticks = []
    runs = interleave({n: subject(n) for n in "abc"}, [0, 1, 2, 3], warmup=1, tick=ticks.append)
    assert calls[:3] == ["a0", "b0", "c0"], "warm-up, untimed"
    assert calls[3:] == ["a0", "b0", "c0", "b1", "c1", "a1", "c2", "a2", "b2", "a3", "b3", "c3"]
    assert {name: len(r) for name, r in runs.items()} == {"a": 4, "b": 4, "c": 4}
    assert ticks == [1] * 12
    with pytest.raises(ValueError, match="no inputs"):
        interleave({"a": subject("a")}, [])


def test_sums_medians_and_savings_by_hand():
    full = Runs(None, [by_hand(10.0, 2.0), by_hand(20.0, 4.0), by_hand(30.0, 6.0)])
    early = Runs(0.9, [by_hand(6.0, 2.0, [1, 2, 1]), by_hand(8.0, 4.0, [2, 2, 2]), by_hand(30.0, 6.0, [1, 1, 1])])
    early.runs[2].tokens = [5, 7, 1]
    row = full.summary()
    assert (row["inputs"], row["tokens"]) == (3, 9)
    assert (row["overall_ms"], row["encoder_ms"], row["decoder_ms"]) == (60.0, 12.0, 48.0)
    assert row["decoder_ms_per_input"] == {"median": 16.0, "p25": 12.0, "p75": 20.0}
    assert full.mean_depth is None and "mean_depth" not in row and "work" not in row
    row = early.summary()
    assert row["mean_depth"] == pytest.approx(13 / 9)
    assert row["work"] == {"computed_cells": 9, "padding_cells": 3, "full_depth_cells": 12, "asked_rows": 6}
    saving = Comparison(full, early).saving()
    assert saving["decoder"] == pytest.approx(1 - 32 / 48) and saving["overall"] == pytest.approx(1 - 44 / 60)
    assert saving["decoder_per_input"]["median"] == pytest.approx(0.5)
    assert saving["same_tokens"] == pytest.approx(2 / 3)
    assert spread([3.0]) == {"median": 3.0, "p25": 3.0, "p75": 3.0}


def test_never_leaving_gives_the_base_tokens(models):
    base, model, inputs, tokenizer = models
    ticks = []
    result = compare(base, model, inputs, 2.0, tokenizer.decode, warmup=1, tick=ticks.append, do_sample=False)
    assert type(base).__name__ == type(model).__name__ and not isinstance(base, type(model))
    assert result.full.threshold is None and result.deed.threshold == 2.0
    assert sum(ticks) == 2 * len(WORDS)
    for full, early in zip(result.full.runs, result.deed.runs, strict=True):
        assert full.tokens == early.tokens and full.prediction == early.prediction == tokenizer.decode(full.tokens)
        assert full.depths is None and early.depths == [2] * len(early.tokens)
        assert full.work == {} and early.work["computed_cells"] == early.work["full_depth_cells"] == 2 * len(
            full.tokens
        )
        for run in (full, early):
            assert 0 < run.encoder_ms < run.overall_ms and run.decoder_ms == run.overall_ms - run.encoder_ms
    assert result.saving()["same_tokens"] == 1.0
    alone = base.generate(**inputs[1], do_sample=False)[0, 1:].tolist()
    assert result.full.runs[1].tokens == alone


def test_threshold_zero_leaves_at_the_first_exit(models):
    base, model, inputs, tokenizer = models
    result = compare(base, model, inputs[:2], 0.0, tokenizer.decode)
    assert all(set(run.depths) == {1} for run in result.deed.runs) and result.deed.mean_depth == 1.0


def test_curve_answers_every_input_at_every_threshold(models):
    base, model, inputs, tokenizer = models
    ticks = []
    full, subjects = latency_curve(base, model, inputs[:3], [0.0, 0.5, 2.0], tokenizer.decode, tick=ticks.append)
    assert [s.threshold for s in subjects] == [0.0, 0.5, 2.0] and sum(ticks) == 12
    assert subjects[0].mean_depth == 1.0 and subjects[2].mean_depth == 2.0
    assert [run.tokens for run in full.runs] == [run.tokens for run in subjects[2].runs]


def test_hooks_go_even_after_an_error(models):
    base, model, inputs, _ = models

    def fail(tokens):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        compare(base, model, inputs, 0.5, fail)
    for m in (base, model):
        assert not m.get_encoder()._forward_hooks and not m.get_encoder()._forward_pre_hooks


def test_the_encoder_clock_counts_the_encoder_only(models):
    base, _, inputs, _ = models
    with timed_encoder(base) as clock:
        base.generate(**inputs[0])
        first = clock.take()
        assert first > 0 and clock.take() == 0.0, "taking starts over"
        base.decoder(input_ids=torch.tensor([[0]]), encoder_hidden_states=torch.zeros(1, 2, 32))
        assert clock.take() == 0.0


def test_depths_by_hand():
    runs = [by_hand(1, 0, [1, 3, 3]), by_hand(1, 0, [2, 3]), by_hand(1, 0)]
    assert depth_histogram(runs, 4) == [1, 1, 3, 0]
    assert depth_by_position(runs) == [
        {"position": 1, "mean_depth": 1.5, "tokens": 2},
        {"position": 2, "mean_depth": 3.0, "tokens": 2},
        {"position": 3, "mean_depth": 3.0, "tokens": 1},
    ]
    assert depth_by_position([by_hand(1, 0)]) == []


def test_what_it_ran_on():
    assert machine()["torch_threads"] >= 1 and machine()["processor"]
    assert versions()["torch"] == torch.__version__ and set(versions()) == {"deed", "torch", "transformers", "python"}
