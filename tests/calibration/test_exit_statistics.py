"""What is recorded of every exit: against `exit_logits` and against what `generate()` does; files; refusals."""

import numpy as np
import pytest
import torch

import oracle as ref
from conftest import VOCAB, deed_model
from deed import DeedConfig
from deed.calibration import exit_statistics
from deed.calibration.exit_statistics import ExitStatistics, record_exits

MEASURES = {"max_prob": ref.max_prob, "margin": ref.margin, "entropy": ref.entropy}
LONGEST = 8


def examples(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 9, (n,), generator=generator).tolist()
    return [{"input_ids": torch.randint(3, VOCAB, (k,), generator=generator).tolist()} for k in lengths]


def full_depth(model, example, **options):
    """Decoder ids of the answer, start token first, and how many tokens were generated."""
    ids = torch.tensor([example["input_ids"]])
    out = model.generate(ids, exit_threshold=2.0, max_new_tokens=LONGEST, return_dict_in_generate=True, **options)
    return ids, out.sequences, int((out.exit_layers > 0).sum())


@pytest.mark.parametrize("measure", MEASURES)
def test_equals_exit_logits_on_the_answers(kind, measure):
    """One example at a time, without padding, in the examples' own order."""
    model, data = deed_model(kind, DeedConfig(confidence=measure)), examples(7)
    found = record_exits(model, data, batch_size=3, max_new_tokens=LONGEST)
    assert found.exit_layers == [1, 2, 3, 4, 5] and found.measure == measure
    for i, example in enumerate(data):
        ids, answer, length = full_depth(model, example)
        assert found.lengths[i] == length
        z = model.exit_logits(input_ids=ids, decoder_input_ids=answer[:, :-1])[:, 0]
        here = found.example == i
        expected = MEASURES[measure](z, None)[:-1, :length]
        assert np.allclose(found.confidence[:, here], expected.detach().numpy(), rtol=0, atol=1e-10)
        agrees = z.argmax(-1)[:-1, :length] == answer[0, 1 : length + 1]
        assert np.array_equal(found.agrees[:, here], agrees.numpy())
    assert 0 < found.agrees.mean() < 1


def test_state_similarity_looks_at_the_layer_below_whatever_the_exits(kind):
    model = deed_model(kind, DeedConfig(confidence="state_similarity", exit_layers=[1, 3, 4]))
    data = examples(3)
    found = record_exits(model, data, max_new_tokens=LONGEST)
    for i, example in enumerate(data):
        ids, answer, length = full_depth(model, example)
        hidden = model.deed_base.forward(
            model, input_ids=ids, decoder_input_ids=answer[:, :-1], output_hidden_states=True, use_cache=False
        ).decoder_hidden_states
        states = torch.stack([h[0, :length] for h in hidden])
        expected = ref.state_similarity(None, states)[[0, 2, 3]].detach()
        assert np.allclose(found.confidence[:, found.example == i], expected.numpy(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, [0.9, 0.3, 2.0, 0.6]])
def test_tells_what_generate_does(kind, threshold):
    """Depths and tokens of `generate()` at thresholds, up to and with the first token that differs from full depth's."""
    model, data = deed_model(kind), examples(12)
    found, compared = record_exits(model, data, max_new_tokens=LONGEST), 0
    limits = np.array(threshold if isinstance(threshold, list) else [threshold] * 4)[:, None]
    for i, example in enumerate(data):
        here = found.example == i
        sure = np.vstack([found.confidence[:, here] >= limits, np.ones(here.sum(), dtype=bool)])
        index = sure.argmax(0)
        right = np.vstack([found.agrees[:, here], np.ones(here.sum(), dtype=bool)])[index, np.arange(here.sum())]
        ids, answer, length = full_depth(model, example)
        out = model.generate(ids, exit_threshold=threshold, max_new_tokens=LONGEST, return_dict_in_generate=True)
        same = length if right.all() else int(right.argmin())
        depths, tokens = out.exit_layers[0].tolist(), out.sequences[0, 1:].tolist()
        until = min(same + 1, length)
        assert depths[:until] == (index + 1)[:until].tolist()
        assert tokens[:same] == answer[0, 1 : same + 1].tolist()
        assert same == length or tokens[same] != answer[0, same + 1]
        compared += until
    assert compared >= len(data)


def test_labels_instead_of_answers(kind):
    model, data = deed_model(kind), examples(4)
    for i, example in enumerate(data):
        example["labels"] = [7, 9, 11, 5, 6][: 2 + i] + [-100] * i
    found = record_exits(model, data, tokens="labels")
    assert found.lengths.tolist() == [2, 3, 4, 5]
    for i, example in enumerate(data):
        labels = torch.tensor([[t for t in example["labels"] if t >= 0]])
        z = model.exit_logits(
            input_ids=torch.tensor([example["input_ids"]]),
            decoder_input_ids=model.prepare_decoder_input_ids_from_labels(labels),
        )[:, 0]
        here = found.example == i
        assert np.allclose(found.confidence[:, here], ref.max_prob(z, None)[:-1].detach(), rtol=0, atol=1e-10)
        assert np.array_equal(found.agrees[:, here], (z.argmax(-1)[:-1] == z.argmax(-1)[-1]).numpy())


def test_few_logits_are_held_at_a_time(monkeypatch):
    model, data, sizes = deed_model("t5_tied"), examples(6), []
    whole = record_exits(model, data, max_new_tokens=LONGEST)
    head = exit_statistics.exit_logits_of
    monkeypatch.setattr(
        exit_statistics, "exit_logits_of", lambda m, depth, h: (sizes.append(h.shape), head(m, depth, h))[1]
    )
    monkeypatch.setattr(exit_statistics, "LOGITS_AT_ONCE", 4 * VOCAB)
    pieces = record_exits(model, data, max_new_tokens=LONGEST)
    assert whole.tokens > 12 and {len(s) for s in sizes} == {2}
    assert max(s[0] for s in sizes) <= 4
    assert np.allclose(whole.confidence, pieces.confidence, rtol=0, atol=1e-12)
    assert np.array_equal(whole.agrees, pieces.agrees)


def test_dropout_is_off_and_the_mode_stays():
    for training in (True, False):
        model = deed_model("t5_tied").train(training)
        first, second = (record_exits(model, examples(3), max_new_tokens=4) for _ in range(2))
        assert np.array_equal(first.confidence, second.confidence) and model.training == training


def test_progress_counts_examples():
    seen = []
    record_exits(deed_model("bart"), examples(5), batch_size=2, progress=seen.append, max_new_tokens=2)
    assert seen == [2, 4, 5]


def test_of_several_sequences_the_first_counts():
    model, data = deed_model("t5_tied"), examples(3)
    best = record_exits(model, data, num_beams=3, max_new_tokens=5)
    more = record_exits(model, data, num_beams=3, num_return_sequences=2, max_new_tokens=5)
    assert np.array_equal(best.lengths, more.lengths)
    assert np.allclose(best.confidence, more.confidence, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"confidence": {"name": "patience", "patience": 2}}, "'patience' depends on which exits were checked before"),
        ({"threshold_decay": {"temperature": 1.0, "length": 5}}, "threshold_decay moves thresholds"),
        ({"confidence_over": "allowed"}, 'confidence_over="allowed" needs the constraints'),
    ],
)
def test_what_cannot_be_chosen_exit_by_exit_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        record_exits(deed_model("t5_tied", DeedConfig(**config)), examples(2))


def test_other_refusals():
    model = deed_model("t5_tied")
    with pytest.raises(ValueError, match="there are no examples"):
        record_exits(model, [])
    with pytest.raises(ValueError, match="needs labels in every example"):
        record_exits(model, examples(2), tokens="labels")
    with pytest.raises(ValueError, match="tokens must be"):
        record_exits(model, examples(2), tokens="words")
    model.deed_config.exit_check = {"name": "gate"}
    with pytest.raises(ValueError, match="exit_check='gate' has a confidence of its own"):
        record_exits(model, examples(2))
    model.deed_config.exit_check = {"name": "screen", "reuse": True}  # a shortlist
    with pytest.raises(ValueError, match="has a confidence of its own"):
        record_exits(model, examples(2))
    assert record_exits(model, examples(2), confidence="margin", max_new_tokens=2).measure == "margin"


def test_saved_and_loaded(tmp_path):
    found = record_exits(deed_model("bart"), examples(5), max_new_tokens=5)
    found.measure = {"name": "max_prob"}
    found.save(tmp_path / "exits.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["exits.npz"]
    again = ExitStatistics.load(tmp_path / "exits.npz")
    for name in ("confidence", "agrees", "lengths"):
        assert np.array_equal(getattr(found, name), getattr(again, name))
        assert getattr(found, name).dtype == getattr(again, name).dtype
    assert (again.exit_layers, again.measure) == ([1, 2, 3, 4, 5], {"name": "max_prob"})
    data = (tmp_path / "exits.npz").read_bytes()
    for broken in (data[: len(data) // 2], b"not an archive", b""):
        (tmp_path / "broken.npz").write_bytes(broken)
        with pytest.raises(ValueError, match="does not hold exit statistics"):
            ExitStatistics.load(tmp_path / "broken.npz")
    with pytest.raises(FileNotFoundError):
        ExitStatistics.load(tmp_path / "none.npz")


def test_halves_and_shapes():
    s = ExitStatistics(np.arange(12.0).reshape(2, 6) / 12, np.ones((2, 6), dtype=bool), np.array([1, 3, 2]), [1, 2, 5])
    assert s.starts.tolist() == [0, 1, 4]
    assert s.example.tolist() == [0, 1, 1, 1, 2, 2] and s.position.tolist() == [0, 0, 1, 2, 0, 1]
    even, odd = s.halves()
    assert even.lengths.tolist() == [1, 2] and odd.lengths.tolist() == [3]
    assert (even.confidence[0] * 12).round().tolist() == [0, 4, 5]
    assert (odd.confidence[1] * 12).round().tolist() == [7, 8, 9]
    with pytest.raises(ValueError, match="takes two or more"):
        odd.halves()
    with pytest.raises(ValueError, match="confidence must be"):
        ExitStatistics(s.confidence[:1], s.agrees, s.lengths, [1, 2, 5])
    with pytest.raises(ValueError, match="lengths must be 1 or more"):
        ExitStatistics(s.confidence, s.agrees, np.array([6, 0]), [1, 2, 5])
