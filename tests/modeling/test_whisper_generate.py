"""Whisper's own `generate()` with early exit: what never exits equals the base, short forms equal the cache-free reference."""

import copy
import threading

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList, WhisperConfig, WhisperForConditionalGeneration

import oracle as ref
from deed import DeedConfig, FixedSchedule, get_deed_model

END, START, TASK, PREVIOUS, PLAIN_TEXT, VOCAB = 50, 51, 55, 58, 59, 120  # ids from PLAIN_TEXT + 1 on are timestamps
PROMPT = torch.tensor([PREVIOUS, 3, 4, 5])


def plain_whisper(seed=0):
    torch.manual_seed(seed)
    config = WhisperConfig(
        vocab_size=VOCAB,
        d_model=32,
        encoder_layers=2,
        decoder_layers=5,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_mel_bins=8,
        max_source_positions=30,
        max_target_positions=48,
        pad_token_id=END,
        bos_token_id=END,
        eos_token_id=END,
        decoder_start_token_id=START,
        begin_suppress_tokens=None,
        suppress_tokens=None,
        median_filter_width=3,
        tie_word_embeddings=False,  # else it says one token over and over
    )
    model = WhisperForConditionalGeneration(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim > 1:
                p.normal_(0, 0.25)
            elif "norm" in name and name.endswith("weight"):
                p.uniform_(0.5, 1.5)
            else:
                p.normal_(0, 0.1)
        model.proj_out.weight.mul_(2)  # surer of itself
    for name, value in {
        "is_multilingual": True,
        "lang_to_id": {"<|en|>": 52, "<|de|>": 53, "<|fr|>": 54},
        "task_to_id": {"translate": TASK, "transcribe": TASK + 1},
        "no_timestamps_token_id": PLAIN_TEXT,
        "prev_sot_token_id": PREVIOUS,
        "max_initial_timestamp_index": 10,
        "return_timestamps": False,
        "alignment_heads": [[2, 1], [3, 0], [4, 3]],
        "suppress_tokens": list(range(START, PLAIN_TEXT)),
        "begin_suppress_tokens": [END],
    }.items():
        setattr(model.generation_config, name, value)
    return model.double().eval()


def deed_whisper(seed=0):
    model = get_deed_model(plain_whisper(seed), DeedConfig())
    with torch.no_grad():
        for p in model.deed_exits.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return model


def sound(frames=60, rows=3, seed=0):
    return torch.randn(rows, 8, frames, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def ragged(frames=170):
    mask = torch.ones(3, frames, dtype=torch.long)
    mask[1, 100:] = mask[2, 60:] = 0
    return {"input_features": sound(frames), "attention_mask": mask}


SHORT = {
    "language and task": {"language": "en", "task": "translate"},
    "detected language": {},
    "timestamps": {"return_timestamps": True, "language": "de"},
    "beams": {"num_beams": 3, "language": "en"},
    "sampling": {"temperature": 0.7, "language": "en"},
    "dict": {"language": "en", "return_dict_in_generate": True, "output_scores": True, "output_logits": True},
    "beams, dict": {"language": "en", "num_beams": 3, "num_return_sequences": 2, "return_dict_in_generate": True},
    "prompt": {"language": "fr", "prompt_ids": PROMPT},
    "segments": {"language": "fr", "return_timestamps": True, "return_segments": True},
    "fallback": {"language": "en", "temperature": (0.0, 0.4, 0.8), "logprob_threshold": -0.3},
    "token timestamps": {"language": "en", "return_token_timestamps": True},
    "token timestamps, beams": {
        "language": "en",
        "num_beams": 3,
        "num_return_sequences": 2,
        "return_token_timestamps": True,
    },
    "token timestamps, prompt": {
        "language": "en",
        "return_timestamps": True,
        "prompt_ids": PROMPT,
        "return_token_timestamps": True,
    },
}
LONG = {
    "plain": {},
    "beams": {"num_beams": 2},
    "segments": {"return_segments": True},
    "dict": {"return_segments": True, "return_dict_in_generate": True},
    "fallback": {
        "temperature": (0.0, 0.4, 0.8),
        "logprob_threshold": -0.3,
        "compression_ratio_threshold": 1.2,
        "no_speech_threshold": 0.6,
    },
    "condition on previous": {"condition_on_prev_tokens": True},
    "prompt for all": {
        "condition_on_prev_tokens": True,
        "prompt_ids": PROMPT,
        "prompt_condition_type": "all-segments",
    },
    "token timestamps": {"return_token_timestamps": True, "return_segments": True},
}


def assert_same(theirs, ours):
    """Whatever `generate()` returned, save early exit's own fields."""
    if isinstance(theirs, torch.Tensor):
        assert torch.equal(theirs, ours)
    elif isinstance(theirs, dict):
        added = {"exit_layers", "past_key_values", "cross_attentions", "decoder_attentions", "encoder_attentions"}
        assert set(theirs) - added == set(ours) - added
        for name in set(theirs) - added:
            assert_same(theirs[name], ours[name])
    elif isinstance(theirs, (list, tuple)):
        assert len(theirs) == len(ours)
        for a, b in zip(theirs, ours, strict=True):
            assert_same(a, b)
    elif isinstance(theirs, float):
        assert theirs == pytest.approx(ours, abs=1e-9)
    else:
        assert theirs == ours


def both(base, options, inputs, **more):
    model = get_deed_model(copy.deepcopy(base))
    torch.manual_seed(7)
    theirs = base.generate(**inputs, **options)
    torch.manual_seed(7)
    return theirs, model.generate(**inputs, **options, exit_threshold=2.0, **more)


def close(theirs, ours):
    """Scores differ in their last bits; tokens do not."""
    scores = [name for name in ("scores", "logits", "sequences_scores") if name in (theirs or {})]
    for name in scores:
        for a, b in zip(theirs[name], ours[name], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    return [{k: v for k, v in out.items() if k not in scores} for out in (theirs, ours)]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("case", SHORT)
def test_short_form_never_exiting_equals_the_base(case, seed):
    theirs, ours = both(plain_whisper(seed), {"max_new_tokens": 10, **SHORT[case]}, {"input_features": sound()})
    if isinstance(theirs, dict):
        theirs, ours = close(theirs, ours)
    assert_same(theirs, ours)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("case", LONG)
def test_long_form_never_exiting_equals_the_base(case, seed):
    options = {"return_timestamps": True, "language": "en", "max_new_tokens": 10, **LONG[case]}
    theirs, ours = both(plain_whisper(seed), options, ragged())
    if isinstance(theirs, dict):
        for out in (theirs, ours):
            for segment in (s for row in out["segments"] for s in row):
                segment.pop("result", None)
    assert_same(theirs, ours)


def test_long_form_in_several_pieces_and_with_fallback_is_what_these_cases_are():
    """Else they would compare little: more pieces than one, and pieces decoded again at a higher temperature."""
    options = {"return_timestamps": True, "language": "en", "max_new_tokens": 10, "return_dict_in_generate": True}
    depths = deed_whisper().generate(**ragged(), **options, exit_threshold=2.0)["exit_layers"]
    assert len(depths) > 1 and depths[0].shape[0] == 3
    depths = deed_whisper().generate(**ragged(), **options, **LONG["fallback"], exit_threshold=2.0)["exit_layers"]
    assert len(depths) > 4 and len({len(d) for d in depths}) > 1


class Oracle(ref.Oracle):
    """The reference, over the several generations that Whisper's `generate()` runs."""

    def __init__(self, *args):
        super().__init__(*args)
        self.source, self.earlier = None, []

    def choose(self, inputs, ids):
        if self.source is not None and inputs["encoder_outputs"] is not self.source:
            self.earlier.append(torch.stack(self.trace))
            self.trace = []
        self.source = inputs["encoder_outputs"]
        return super().choose(inputs, ids)


@pytest.mark.parametrize("threshold", [0.1, 0.35, 0.6, 0.9])
@pytest.mark.parametrize(
    "case",
    [f"short: {name}" for name in ("language and task", "timestamps", "sampling", "prompt", "segments", "fallback")]
    + [f"long: {name}" for name in ("plain", "condition on previous", "prompt for all")],
)
def test_equals_the_cache_free_reference(case, threshold):
    form, name = case.split(": ")
    options = {"max_new_tokens": 10, **(SHORT if form == "short" else LONG)[name]}
    inputs = {"input_features": sound()}
    if form == "long":
        options, inputs = {"return_timestamps": True, "language": "en", **options}, ragged()
    model = deed_whisper()
    reference = Oracle(model, threshold)
    torch.manual_seed(7)
    expected, trace = reference.generate(inputs, **options)
    torch.manual_seed(7)
    got = model.generate(**inputs, **options, exit_threshold=threshold, return_dict_in_generate=True)
    assert torch.equal(got["sequences"], expected["sequences"])
    traces = [*reference.earlier, trace]
    assert len(got["exit_layers"]) == len(traces)
    seen = set()
    for depths, steps in zip(got["exit_layers"], traces, strict=True):
        assert torch.equal(torch.where(depths > 0, steps.T, 0), depths)
        seen |= set(depths.flatten().tolist()) - {0}
    assert len(seen) > 1 or threshold in (0.1, 0.9)


@pytest.mark.parametrize("threshold", [0.35, 0.6])
def test_beams_equal_the_cache_free_reference(threshold):
    options = {"max_new_tokens": 10, "language": "en", "num_beams": 3, "suppress_tokens": list(range(START, VOCAB))}
    model = deed_whisper()
    expected, trace = ref.Oracle(model, threshold).generate({"input_features": sound()}, **options)
    got = model.generate(sound(), **options, exit_threshold=threshold, return_dict_in_generate=True)
    assert torch.equal(got.sequences, expected.sequences)
    assert torch.equal(got.exit_layers[0], ref.expected_exit_layers(expected, trace, 4, END))
    assert len(set(got.exit_layers[0].flatten().tolist())) > 1


class Forced(LogitsProcessor):
    """Makes the base say what was said."""

    def __init__(self, tokens):
        self.tokens = tokens

    def __call__(self, input_ids, scores):
        return torch.full_like(scores, -torch.inf).scatter(1, self.tokens[:, input_ids.shape[1] - 4, None], 0.0)


@pytest.mark.parametrize("threshold", [0.35, 0.6])
def test_token_timestamps_are_those_of_full_depth_whatever_the_depth_of_the_tokens(threshold):
    base, model = plain_whisper(), deed_whisper()
    options = {"max_new_tokens": 10, "language": "en", "return_token_timestamps": True}
    options["suppress_tokens"] = list(range(END, VOCAB))
    ours = model.generate(sound(), **options, exit_threshold=threshold)
    assert len(set(ours["exit_layers"][0].flatten().tolist())) > 1
    forced = LogitsProcessorList([Forced(ours["sequences"])])
    theirs = base.generate(sound(), **options, logits_processor=forced)
    assert torch.equal(theirs["sequences"], ours["sequences"])
    torch.testing.assert_close(theirs["token_timestamps"], ours["token_timestamps"])
    assert model.config._attn_implementation == "sdpa", "Transformers' own leaves the model in eager attention"


@pytest.mark.parametrize(
    "case",
    [f"short: {name}" for name in ("language and task", "timestamps", "prompt", "token timestamps")]
    + [f"long: {name}" for name in ("dict", "condition on previous", "prompt for all")],
)
def test_exact_equals_the_base_piece_by_piece(case):
    form, name = case.split(": ")
    options = {"max_new_tokens": 10, "language": "en", **(SHORT if form == "short" else LONG)[name]}
    inputs = {"input_features": sound()}
    if form == "long":
        options, inputs = {"return_timestamps": True, **options}, ragged()
    base, model = plain_whisper(), get_deed_model(plain_whisper())
    theirs = base.generate(**inputs, **options)
    ours = model.generate(**inputs, **options, exit_threshold=0.15, exact=True)
    tokens, found = (out if isinstance(out, torch.Tensor) else out["sequences"] for out in (theirs, ours))
    assert torch.equal(tokens, found)
    options["return_dict_in_generate"] = True
    model = get_deed_model(plain_whisper())  # one that has not found yet that drafts do not pay
    out = model.generate(**inputs, **options, exit_threshold=0.15, exact=True)
    depths = torch.cat([d.flatten() for d in out["exit_layers"]])
    assert int(depths[depths > 0].min()) < 5, "nothing was drafted"


def test_exit_layers_of_a_segment_are_those_of_its_row():
    model = deed_whisper()
    options = {"max_new_tokens": 10, "language": "en", "return_timestamps": True, "return_dict_in_generate": True}
    out = model.generate(**ragged(), **options, exit_threshold=0.3)
    first = [row[0]["result"]["exit_layers"] for row in out["segments"]]
    assert torch.equal(torch.stack(first), out["exit_layers"][0])
    assert "past_key_values" not in out["segments"][0][0]["result"]


def test_no_cache_is_kept_where_none_is_wanted():
    model = deed_whisper()
    for more in ({}, {"num_beams": 2}):
        options = {
            "max_new_tokens": 6,
            "language": "en",
            "exit_threshold": 0.4,
            "return_dict_in_generate": True,
            **more,
        }
        kept, anew = model.generate(sound(), **options), model.generate(sound(), **options, use_cache=False)
        assert torch.equal(kept.sequences, anew.sequences)
        assert torch.equal(kept.exit_layers[0], anew.exit_layers[0])


class Another(LogitsProcessor):
    """Generates with the same model, at another depth, between two steps."""

    def __init__(self, model):
        self.model, self.found = model, []

    def __call__(self, input_ids, scores):
        out = self.model.generate(
            sound(rows=2, seed=9),
            language="fr",
            max_new_tokens=3,
            exit_policy=FixedSchedule([2]),
            return_dict_in_generate=True,
        )
        self.found.append(out.exit_layers[0])
        return scores


def test_a_generation_within_another_has_its_own_request():
    model = deed_whisper()
    options = {"max_new_tokens": 4, "language": "en", "exit_policy": FixedSchedule([3, 1, 5])}
    options["return_dict_in_generate"] = True
    inner = Another(model)
    alone = model.generate(sound(), **options)
    nested = model.generate(sound(), **options, logits_processor=LogitsProcessorList([inner]))
    assert torch.equal(alone.sequences, nested.sequences) and torch.equal(alone.exit_layers[0], nested.exit_layers[0])
    assert len(inner.found) == 4 and all(set(d.flatten().tolist()) <= {0, 2} for d in inner.found)


def test_threads_have_requests_of_their_own():
    model, found = deed_whisper(), {}
    policies = {n: FixedSchedule([n, 5, n]) for n in (1, 2, 3)}

    def run(n):
        found[n] = model.generate(
            **ragged(),
            language="en",
            return_timestamps=True,
            max_new_tokens=8,
            exit_policy=policies[n],
            return_dict_in_generate=True,
        )

    threads = [threading.Thread(target=run, args=(n,)) for n in policies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for n in policies:
        together = found[n]
        run(n)
        assert torch.equal(together["sequences"], found[n]["sequences"])
        for depths in together["exit_layers"]:
            assert depths[0, :3].tolist() == [n, 5, n]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_attentions": True}, "use forward"),
        ({"cache_implementation": "static"}, "rows of different depth"),
        ({"exit_threshold": torch.tensor([0.5, 0.9])}, "2 values, but 3 rows"),
    ],
)
def test_what_cannot_work_says_so(options, message):
    with pytest.raises(ValueError, match=message):
        deed_whisper().generate(sound(), language="en", **options)


def test_a_cache_cannot_go_from_piece_to_piece():
    from deed import StaircaseCache, ThresholdPolicy
    from deed.policies.measures import MaxProb

    cache = StaircaseCache(5, ThresholdPolicy(MaxProb(), 0.5))
    with pytest.raises(ValueError, match="a cache of its own"):
        deed_whisper().generate(sound(), language="en", past_key_values=cache)
