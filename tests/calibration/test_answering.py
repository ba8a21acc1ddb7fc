"""Batches of examples: every row is answered as it would be alone, and what cannot be answered is refused."""

import pytest
import torch

from conftest import deed_model
from deed.calibration.answering import batches, collate, generate_all, label_tokens, strip_padding
from deed.calibration.exit_features import collect
from deed.calibration.exit_statistics import record_exits
from deed.errors import CalibrationError

PROMPTS = [[0, 7, 9, 5], [0, 8], [0, 7, 9], [0, 6], [0, 11, 4, 30]]


def alone(model, example, **options):
    """Tokens and depths of `generate()` for one example."""
    inputs = {k: torch.as_tensor(v)[None] for k, v in example.items()}
    out = model.generate(**inputs, **options, return_dict_in_generate=True)
    kept = int((out.exit_layers > 0).sum())
    prompt = out.sequences.shape[1] - out.exit_layers.shape[1]
    return out.sequences[0, prompt : prompt + kept].tolist(), out.exit_layers[0, :kept].tolist()


def with_prompts(kind):
    start = 2 if kind == "bart" else 0
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "input_ids": torch.randint(3, 40, (3 + 2 * (i % 3),), generator=generator).tolist(),
            "decoder_input_ids": [start, *prompt[1:]],
        }
        for i, prompt in enumerate(PROMPTS)
    ]


@pytest.mark.parametrize("threshold", [2.0, 0.5])
def test_prompts_of_different_lengths_answer_as_if_alone(kind, threshold):
    model, examples = deed_model(kind), with_prompts(kind)
    answers, depth = generate_all(model, examples, threshold, 32, {"max_new_tokens": 6})
    expected = [alone(model, x, max_new_tokens=6, exit_threshold=threshold) for x in examples]
    assert answers == [tokens for tokens, _ in expected]
    depths = [d for _, row in expected for d in row]
    assert depth == pytest.approx(sum(depths) / len(depths))
    assert len({len(x["decoder_input_ids"]) for x in examples}) > 1


def test_statistics_of_prompts_are_those_of_each_alone(kind):
    model, examples = deed_model(kind), with_prompts(kind)
    together = record_exits(model, examples, max_new_tokens=5)
    for i, example in enumerate(examples):
        single = record_exits(model, [example], max_new_tokens=5)
        here = together.example == i
        assert torch.allclose(torch.tensor(together.confidence[:, here]), torch.tensor(single.confidence), atol=1e-9)
        assert (together.agrees[:, here] == single.agrees).all()
    with pytest.raises(ValueError, match="labels after decoder_input_ids cannot be read"):
        record_exits(model, [{**x, "labels": [5, 6]} for x in examples], tokens="labels")


def test_features_of_prompts_are_those_of_each_alone(kind):
    model, examples = deed_model(kind, dtype=torch.float32), with_prompts(kind)
    found = collect(model, examples, 10**6, 5)
    for i, example in enumerate(examples):
        single = collect(model, [example], 10**6, 1)
        assert torch.allclose(found.hidden[1][found.example == i], single.hidden[1], atol=1e-4)


def test_batches_hold_one_length_of_prompt_and_every_example_once():
    examples = [
        {"input_ids": [1] * n, "decoder_input_ids": [0] * p} for n, p in ((5, 1), (2, 2), (9, 1), (3, 2), (1, 1))
    ]
    assert list(batches(examples, 2)) == [[4, 0], [2], [1, 3]]
    assert list(batches(examples, 9)) == [[4, 0, 2], [1, 3]]
    for wrong in (0, -1, 2.0, True, None):
        with pytest.raises(ValueError, match="batch_size must be an integer of at least 1"):
            list(batches(examples, wrong))


def test_pad_tokens_of_an_example_are_masked_as_generate_does(kind):
    """Examples that are filled up with the pad token already (a tokenizer's `padding="max_length"`), without a mask."""
    model = deed_model(kind)
    pad = model.config.pad_token_id
    plain = [{"input_ids": [5, 6, 7]}, {"input_ids": [9, 8, 7, 6, 5]}]
    filled = [{"input_ids": [*x["input_ids"], pad, pad]} for x in plain]
    options = {"max_new_tokens": 6}
    assert generate_all(model, filled, 0.5, 2, options) == generate_all(model, plain, 0.5, 2, options)
    assert collate(model, filled)["attention_mask"].tolist() == [[1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0, 0]]


def test_embeddings_of_different_lengths_are_masked(kind):
    model = deed_model(kind)
    embed = model.get_input_embeddings()
    scale = getattr(model.model.encoder.embed_tokens, "embed_scale", 1.0) if kind == "bart" else 1.0
    plain = [{"input_ids": [5, 6, 7]}, {"input_ids": [9, 8, 7, 6, 5]}]
    embedded = [{"inputs_embeds": embed(torch.tensor(x["input_ids"])).detach() * scale} for x in plain]
    assert generate_all(model, embedded, 0.5, 2, {"max_new_tokens": 6})[0] == [
        alone(model, x, max_new_tokens=6, exit_threshold=0.5)[0] for x in embedded
    ]


def test_what_makes_no_batch_is_refused():
    model = deed_model("t5_tied")
    with pytest.raises(ValueError, match="need the same inputs"):
        collate(model, [{"input_ids": [3, 4], "attention_mask": [1, 1]}, {"input_ids": [3]}])
    with pytest.raises(ValueError, match="decoder_input_ids has the shapes"):
        collate(model, [{"input_ids": [3], "decoder_input_ids": [0]}, {"input_ids": [3], "decoder_input_ids": [0, 4]}])
    with pytest.raises(ValueError, match=r"decoder_attention_mask has the shapes \[\(2,\), \(3,\)\]"):
        collate(model, [{"input_ids": [3], "decoder_attention_mask": [1] * n} for n in (2, 3)])


def test_logits_that_are_not_numbers_and_examples_without_answers_are_refused(kind, monkeypatch):
    model = deed_model(kind)
    with pytest.raises(CalibrationError, match="0 of 0 examples were not answered"):
        generate_all(model, [], 0.5, 2, {})
    real = type(model).generate

    def nothing(self, *args, **kwargs):
        out = real(self, *args, **kwargs)
        out["exit_layers"][-1] = 0
        return out

    monkeypatch.setattr(type(model), "generate", nothing)
    with pytest.raises(CalibrationError, match="1 of 2 examples were not answered"):
        generate_all(model, [{"input_ids": [5]}, {"input_ids": [6]}], 0.5, 2, {"max_new_tokens": 2})
    monkeypatch.undo()
    with torch.no_grad():
        model.get_encoder().get_parameter(next(n for n, _ in model.get_encoder().named_parameters())).fill_(
            float("nan")
        )
    with pytest.raises(CalibrationError, match="logits are not a number"):
        generate_all(model, [{"input_ids": [5]}], 0.5, 2, {"max_new_tokens": 2})
    with pytest.raises(ValueError, match="not numbers"):
        record_exits(model, [{"input_ids": [5]}], max_new_tokens=2)


def test_processors_of_the_callers_still_hold(kind):
    from transformers import LogitsProcessorList, SuppressTokensLogitsProcessor

    model = deed_model(kind)
    example = {"input_ids": [5, 6, 7]}
    first = alone(model, example, max_new_tokens=1, exit_threshold=2.0)[0]
    given = LogitsProcessorList([SuppressTokensLogitsProcessor(first)])
    answers, _ = generate_all(model, [example], 2.0, 1, {"max_new_tokens": 1, "logits_processor": given})
    assert answers[0] != first and len(given) == 1


def test_padding_of_labels():
    model = deed_model("bart")  # pad 1, end 2
    assert label_tokens(model, [5, 6, 2, 1, 1]) == label_tokens(model, torch.tensor([5, 6, 2, -100])) == [5, 6, 2]
    assert label_tokens(model, [5, 1, 6, 2]) == [5, 1, 6, 2], "only at the end"
    assert label_tokens(model, [1, 1]) == []
    model.config.pad_token_id = 2  # as Whisper has it
    assert label_tokens(model, [5, 6, 2, 2, 2]) == [5, 6, 2] and label_tokens(model, [5, 6]) == [5, 6]
    assert strip_padding(model, [2]) == [2]
    model.config.pad_token_id = None
    assert label_tokens(model, [5, 1]) == [5, 1]
