"""Tokens and depths against the cache-free reference, in every mode of `generate()`."""

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

import oracle as ref
from conftest import VOCAB, batch, deed_model, plain_model
from deed import DeedConfig, FixedSchedule

pytestmark = pytest.mark.usefixtures("packing")

MODES = {
    "greedy": {},
    "sampling": {"do_sample": True, "top_k": 10, "temperature": 1.3},
    "sampling_return_3": {"do_sample": True, "num_return_sequences": 3},
    "beam": {"num_beams": 3},
    "beam_return_2": {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.5, "early_stopping": True},
    "beam_sampling": {"num_beams": 3, "do_sample": True},
    "processors": {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2, "min_new_tokens": 4, "bad_words_ids": [[5]]},
    "beam_processors": {"num_beams": 3, "no_repeat_ngram_size": 2, "min_new_tokens": 4},
}


def compare(
    model,
    inputs,
    threshold=None,
    measure=ref.max_prob,
    depths=None,
    policy=None,
    seed=3,
    prompt=1,
    allowed=None,
    **mode,
):
    """Runs both, asserts that tokens and depths agree, returns the engine's output; with `allowed` (of the oracle) confidences
    are those among the tokens allowed."""
    eos = model.generation_config.eos_token_id
    mode = {"max_new_tokens": 9, **mode}
    torch.manual_seed(seed)
    expected, trace = ref.Oracle(model, threshold, measure, depths, allowed).generate(inputs, **mode)
    torch.manual_seed(seed)
    got = model.generate(**inputs, **mode, exit_threshold=threshold, exit_policy=policy, return_dict_in_generate=True)
    assert torch.equal(got.sequences, expected.sequences)
    assert torch.equal(got.exit_layers, ref.expected_exit_layers(expected, trace, prompt, eos))
    return got


@pytest.mark.parametrize("mode", MODES)
def test_equals_the_cache_free_reference(kind, mode):
    model, inputs = deed_model(kind), batch()
    seen = set()
    for threshold in (0.0, 0.3, 0.45, 0.6, 0.75, 0.9, 1.01):
        got = compare(model, inputs, threshold, **MODES[mode])
        seen |= {d for step in got.past_key_values.state.depths for d in step}
    assert len(seen - {0}) >= 4, "the case is vacuous: too few depths were taken"


def test_rows_of_a_batch_leave_at_different_depths(kind, packing):
    model, spread, padding = deed_model(kind), 0, 0
    for threshold in (0.6, 0.75, 0.85, 0.92, 0.97):
        got = compare(model, batch(), threshold, min_new_tokens=9)
        spread += sum(len(set(step.tolist())) > 1 for step in got.exit_layers.T)
        padding += got.past_key_values.stats()["padding_cells"]
    assert spread > 3 and (padding > 0) == (packing == "padded")


@pytest.mark.parametrize("exits", [[1, 3], [2], [4, 5]])
def test_subsets_of_exits(kind, exits):
    model = deed_model(kind, DeedConfig(exit_layers=exits))
    for threshold in (0.3, 0.6):
        got = compare(model, batch(), threshold)
        assert set(got.exit_layers.flatten().tolist()) <= {0, *exits, 5}
        compare(model, batch(), threshold, num_beams=3)


@pytest.mark.parametrize("adapter", ["linear", "bottleneck", "none"])
def test_other_adapters(kind, adapter):
    compare(deed_model(kind, DeedConfig(adapter=adapter)), batch(), 0.5)


@pytest.mark.parametrize(
    ("confidence", "measure", "threshold"),
    [
        ("margin", ref.margin, (0.4,)),
        ("entropy", ref.entropy, (0.5,)),
        ("state_similarity", ref.state_similarity, (0.55, 0.75, 0.85)),
        ({"name": "patience", "patience": 2}, ref.patience(2), (1.0,)),
        ({"name": "patience", "patience": 1}, ref.patience(1), (1.0,)),
        ({"name": "ordered_prob", "first": 5, "count": 30, "within": 3}, ref.ordered(5, 30, 3), (0.5, 0.8)),
    ],
)
def test_every_measure(kind, confidence, measure, threshold):
    model, seen = deed_model(kind, DeedConfig(confidence=confidence)), set()
    for value in threshold:
        seen |= set(compare(model, batch(), value, measure).exit_layers.flatten().tolist())
        compare(model, batch(), value, measure, num_beams=3)
    assert len(seen - {0}) > 1


def test_threshold_per_exit_and_per_request(kind):
    model, inputs = deed_model(kind), batch()
    compare(model, inputs, [0.9, 0.5, 0.7, 0.2])
    compare(model, inputs, torch.tensor([0.0, 0.5, 0.8, 2.0]))
    per_row = torch.tensor([0.0, 0.5, 0.8, 2.0])
    torch.manual_seed(0)
    expected, trace = ref.Oracle(model, per_row.repeat_interleave(3)).generate(inputs, num_beams=3, max_new_tokens=6)
    got = model.generate(**inputs, num_beams=3, max_new_tokens=6, exit_threshold=per_row, return_dict_in_generate=True)
    assert torch.equal(got.sequences, expected.sequences)
    assert torch.equal(got.exit_layers, ref.expected_exit_layers(expected, trace, 1, None))


def test_threshold_decays_with_position(kind):
    decay = {"temperature": 4.0, "length": 9}
    model = deed_model(kind, DeedConfig(threshold_decay=decay))
    reference = ref.Oracle(model, 0.7)
    choose = reference.choose

    def decayed(inputs, ids):
        import math

        reference.threshold = 0.9 * 0.7 + 0.1 * math.exp(-4.0 * len(reference.trace) / 9)
        return choose(inputs, ids)

    reference.choose = decayed
    expected, trace = reference.generate(batch(), max_new_tokens=9)
    got = model.generate(**batch(), max_new_tokens=9, exit_threshold=0.7, return_dict_in_generate=True)
    assert torch.equal(got.sequences, expected.sequences)
    assert torch.equal(
        got.exit_layers, ref.expected_exit_layers(expected, trace, 1, model.generation_config.eos_token_id)
    )


@pytest.mark.parametrize("mode", ["greedy", "beam", "sampling"])
def test_fixed_schedules(kind, mode, packing):
    model, inputs = deed_model(kind), batch()
    flat = [3, 1, 6 - 1, 2]
    compare(model, inputs, depths=lambda t, n: [flat[t % 4]] * n, policy=FixedSchedule(flat), **MODES[mode])
    rows = 12 if mode == "beam" else 4
    table = [[1 + (r * 3 + t * 2) % 5 for t in range(7)] for r in range(rows)]
    got = compare(
        model,
        inputs,
        depths=lambda t, n: [table[r][t % 7] for r in range(n)],
        policy=FixedSchedule(table),
        min_new_tokens=9,
        **MODES[mode],
    )
    assert (got.past_key_values.stats()["padding_cells"] > 0) == (packing == "padded")


def test_schedule_rounds_up_to_the_next_exit(kind):
    model = deed_model(kind, DeedConfig(exit_layers=[2, 4]))
    g = model.generate(
        **batch(),
        max_new_tokens=4,
        min_new_tokens=4,
        exit_policy=FixedSchedule([1, 3, 5, 2]),
        return_dict_in_generate=True,
    )
    assert g.exit_layers.tolist() == [[2, 4, 5, 2]] * 4


def test_forced_prefix_of_several_tokens(kind):
    model, inputs = deed_model(kind), batch()
    start = model.config.decoder_start_token_id
    prefix = torch.tensor([[start, 7, 8, 9], [start, 10, 11, 12], [start, 5, 5, 6], [start, 30, 20, 9]])
    for mode in ({}, {"num_beams": 3}):
        compare(model, inputs, 0.5, prompt=4, decoder_input_ids=prefix, **mode)
    got = model.generate(
        **inputs, decoder_input_ids=prefix, max_new_tokens=5, exit_threshold=0.5, return_dict_in_generate=True
    )
    assert got.exit_layers.shape == (4, got.sequences.shape[1] - 4)


def test_left_padded_prefix(kind):
    model, inputs = deed_model(kind), batch()
    start = model.config.decoder_start_token_id
    prefix = torch.tensor([[1, 1, start, 7], [start, 10, 11, 12], [1, start, 5, 6], [1, 1, 1, start]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1]])
    compare(model, inputs, 0.5, prompt=4, decoder_input_ids=prefix, decoder_attention_mask=mask)


@pytest.mark.parametrize("mode", ["greedy", "sampling_return_3", "beam_return_2", "beam_sampling", "beam_processors"])
def test_never_exiting_equals_the_base_model(kind, mode):
    inputs = batch()
    base = plain_model(kind, enc=5)  # plain T5 needs an encoder as deep as its decoder for its own cache
    model = deed_model(kind, enc=5)
    torch.manual_seed(0)
    expected = base.generate(**inputs, max_new_tokens=9, **MODES[mode])
    torch.manual_seed(0)
    got = model.generate(**inputs, max_new_tokens=9, exit_threshold=1.5, return_dict_in_generate=True, **MODES[mode])
    assert torch.equal(got.sequences, expected)
    assert set(got.exit_layers.flatten().tolist()) <= {0, 5}


def test_unequal_depth_which_plain_t5_gets_wrong():
    inputs = batch()
    with pytest.raises(IndexError):
        plain_model("t5_tied", enc=2, dec=5).generate(**inputs, max_new_tokens=4)
    model = deed_model("t5_tied", enc=2, dec=5)
    uncached = plain_model("t5_tied", enc=2, dec=5).generate(**inputs, max_new_tokens=9, use_cache=False)
    assert torch.equal(model.generate(**inputs, max_new_tokens=9, exit_threshold=2.0), uncached)


def test_threshold_zero_never_runs_a_module_above_the_first_exit(kind):
    for exits in (None, [2, 4]):
        model = deed_model(kind, DeedConfig(exit_layers=exits))
        called = []
        for depth, layer in enumerate(model.deed_family.layers(model), 1):
            for module in layer.modules():
                module.register_forward_hook(lambda *_, d=depth, to=called: to.append(d))
        for depth, adapter in model.deed_exits.items():
            adapter.register_forward_hook(lambda *_, d=int(depth), to=called: to.append(d))
        for mode in ({}, {"num_beams": 3}):
            model.generate(**batch(), max_new_tokens=6, exit_threshold=0.0, **mode)
        assert set(called) == set(range(1, (exits or [1])[0] + 1))


def test_full_depth_asks_no_exit(kind):
    model = deed_model(kind)
    calls = []
    model.deed_exits["1"].register_forward_hook(lambda *_: calls.append(1))
    model.generate(**batch(), max_new_tokens=4, exit_threshold=1.5)
    assert not calls


class Odd(StoppingCriteria):
    """Ends a row by its own rule, which no token shows."""

    def __call__(self, input_ids, scores, **kwargs):
        return torch.tensor([input_ids.shape[1] > 3 + r for r in range(input_ids.shape[0])])


@pytest.mark.parametrize("eos", [True, False])
def test_depth_is_zero_after_any_stopping_criterion(kind, eos):
    model = deed_model(kind)
    if not eos:
        model.generation_config.eos_token_id = None
    g = model.generate(
        **batch(),
        max_new_tokens=9,
        stopping_criteria=StoppingCriteriaList([Odd()]),
        exit_threshold=0.5,
        return_dict_in_generate=True,
        min_new_tokens=9 if eos else None,
    )
    for r in range(4):
        depths = g.exit_layers[r].tolist()
        assert all(depths[: 3 + r]) and not any(depths[3 + r :])
    expected, _ = ref.Oracle(model, 0.5).generate(
        batch(), max_new_tokens=9, stopping_criteria=StoppingCriteriaList([Odd()]), min_new_tokens=9 if eos else None
    )
    assert torch.equal(g.sequences, expected.sequences)


def test_finished_rows_are_not_run(kind):
    model = deed_model(kind)
    g = model.generate(
        **batch(),
        max_new_tokens=9,
        min_new_tokens=9,
        stopping_criteria=StoppingCriteriaList([Odd()]),
        exit_threshold=1.5,
        return_dict_in_generate=True,
    )
    stats = g.past_key_values.stats()
    assert stats["computed_cells"] == stats["full_depth_cells"] == 5 * int((g.exit_layers > 0).sum())


class Collect(BaseStreamer):
    def __init__(self):
        self.tokens, self.ended = [], False

    def put(self, value):
        self.tokens += value.flatten().tolist()

    def end(self):
        self.ended = True


def test_streamer(kind):
    model, streamer = deed_model(kind), Collect()
    inputs = {k: v[:1] for k, v in batch().items()}
    out = model.generate(**inputs, max_new_tokens=9, exit_threshold=0.5, streamer=streamer)
    assert streamer.tokens == out[0].tolist() and streamer.ended


class Ban(LogitsProcessor):
    """Depends on scores: bans each row's best token, so the choice must come from the processed logits."""

    def __call__(self, input_ids, scores):
        return scores.scatter(1, scores.argmax(-1, keepdim=True), -float("inf"))


def test_own_logits_processor(kind):
    compare(deed_model(kind), batch(), 0.5, logits_processor=LogitsProcessorList([Ban()]))


def test_confidence_over_allowed_tokens(kind):
    model, inputs = deed_model(kind), batch()

    def allow(batch_id, prefix):
        return [2, *range(10 + int(prefix[-1]) % 7, 14 + int(prefix[-1]) % 7)]

    def allowed(ids):
        mask = torch.zeros(len(ids), VOCAB, dtype=torch.bool)
        for r, prefix in enumerate(ids):
            mask[r, allow(0, prefix)] = True
        return mask

    outs = {}
    for over, mode in (("all", {}), ("allowed", {"num_beams": 3}), ("allowed", {})):
        reference = ref.Oracle(model, 0.8, allowed=allowed if over == "allowed" else None)
        expected, trace = reference.generate(inputs, max_new_tokens=9, prefix_allowed_tokens_fn=allow, **mode)
        got = model.generate(
            **inputs,
            max_new_tokens=9,
            prefix_allowed_tokens_fn=allow,
            exit_threshold=0.8,
            confidence_over=over,
            return_dict_in_generate=True,
            **mode,
        )
        assert torch.equal(got.sequences, expected.sequences)
        eos = model.generation_config.eos_token_id
        assert torch.equal(got.exit_layers, ref.expected_exit_layers(expected, trace, 1, eos))
        outs[over] = got.exit_layers.float().sum()
    assert outs["allowed"] < outs["all"], "a constraint makes exits surer"


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_row_with_nothing_to_read(kind, implementation):
    """Degenerate, but eager and sdpa treat it differently and so must we."""
    model, inputs = deed_model(kind), batch()
    model.set_attn_implementation(implementation)
    inputs["attention_mask"][2] = 0
    compare(model, inputs, 0.5)
    compare(model, inputs, 0.5, num_beams=2)


def test_a_dead_end_is_measured_over_everything(kind):
    """Where constraints leave nothing open, confidence is that over all tokens: not that over none, which is no number."""

    class DeadEnd(LogitsProcessor):
        is_constraint = True

        def __call__(self, input_ids, scores):
            if input_ids.shape[1] == 3:
                return torch.full_like(scores, -float("inf"))
            return scores.masked_fill(torch.arange(VOCAB) % 2 == 1, -float("inf"))

    model, inputs, seen = deed_model(kind), batch(), set()

    def allowed(ids):
        # The end token is not open before min_new_tokens.
        numbers = torch.arange(VOCAB)
        open_tokens = ((numbers % 2 == 0) & (numbers != model.generation_config.eos_token_id)).expand(len(ids), VOCAB)
        return torch.ones_like(open_tokens) if ids.shape[1] == 3 else open_tokens

    for threshold in (0.5, 0.7, 0.9):
        processors = LogitsProcessorList([DeadEnd()])
        options = {"max_new_tokens": 6, "min_new_tokens": 6, "logits_processor": processors}
        expected, trace = ref.Oracle(model, threshold, allowed=allowed).generate(inputs, **options)
        got = model.generate(
            **inputs,
            **options,
            exit_threshold=threshold,
            confidence_over="allowed",
            return_dict_in_generate=True,
        )
        assert torch.equal(got.sequences, expected.sequences)
        assert torch.equal(got.exit_layers, trace.T)
        seen |= set(got.exit_layers[:, 2].tolist())
    assert len(seen) > 1 and min(seen) < 5


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_decoder_row_that_is_fully_masked(kind, implementation):
    """Degenerate as well: a prompt of which a row's mask keeps nothing."""
    model, inputs = deed_model(kind), batch()
    model.set_attn_implementation(implementation)
    start = model.config.decoder_start_token_id
    prefix = torch.tensor([[start, 7], [start, 10], [1, 1], [1, start]])
    mask = torch.tensor([[1, 1], [1, 1], [0, 0], [0, 1]])
    for threshold in (0.6, 0.85):
        compare(
            model, inputs, threshold, prompt=2, decoder_input_ids=prefix, decoder_attention_mask=mask, min_new_tokens=5
        )


def test_rows_ended_by_a_criterion_without_an_end_token_go_on_being_run(kind):
    """Nothing pads them then: Transformers appends their tokens until all have ended, and so the rows are decoded."""
    model = deed_model(kind)
    model.generation_config.eos_token_id = None
    g = model.generate(
        **batch(),
        max_new_tokens=9,
        stopping_criteria=StoppingCriteriaList([Odd()]),
        exit_threshold=1.5,
        return_dict_in_generate=True,
    )
    stats, new = g.past_key_values.stats(), g.sequences.shape[1] - 1
    assert stats["computed_cells"] == 5 * 4 * new and stats["full_depth_cells"] == 5 * int((g.exit_layers > 0).sum())
    assert int((g.exit_layers > 0).sum()) < 4 * new


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_implementations(kind, implementation):
    model = deed_model(kind)
    model.set_attn_implementation(implementation)
    compare(model, batch(), 0.6)


def test_long_answers_outgrow_the_first_buffers(kind):
    model = deed_model(kind)
    table = FixedSchedule([2, 1, 1, 1, 5, 1, 3])
    flat = [2, 1, 1, 1, 5, 1, 3]
    compare(
        model,
        batch(),
        depths=lambda t, n: [flat[t % 7]] * n,
        policy=table,
        max_new_tokens=45,
        min_new_tokens=45,
    )


def test_batch_of_one_equals_its_row_in_a_batch(kind):
    model = deed_model(kind, dtype=torch.float32)
    inputs = batch()
    whole = model.generate(**inputs, max_new_tokens=8, exit_threshold=0.6, return_dict_in_generate=True)
    for r in range(4):
        n = int(inputs["attention_mask"][r].sum())
        one = {k: v[r : r + 1, :n] for k, v in inputs.items()}
        alone = model.generate(**one, max_new_tokens=8, exit_threshold=0.6, return_dict_in_generate=True)
        width = alone.sequences.shape[1]
        assert torch.equal(whole.sequences[r, :width], alone.sequences[0])
        assert torch.equal(whole.exit_layers[r, : width - 1], alone.exit_layers[0])
