"""`exact=True`: token by token what full depth gives, whatever is drafted, and how far."""

import math
from weakref import WeakKeyDictionary

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ofa_models import ofa_batch, ofa_model
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

import deed.engine.exact as exact_module
from conftest import KINDS, batch, deed_model, plain_model
from deed import DeedConfig, FixedSchedule, StaircaseCache
from deed.constants import NEVER_EXIT
from deed.engine.exact_tuning import Tuner
from test_decode import Collect

MODES = {
    "greedy": {},
    "sampling": {"do_sample": True},
    "sampling_return_3": {"do_sample": True, "num_return_sequences": 3, "top_k": 10, "temperature": 1.3},
    "processors": {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2, "min_new_tokens": 4, "bad_words_ids": [[5]]},
    "of_the_source": {"encoder_no_repeat_ngram_size": 2, "encoder_repetition_penalty": 1.2},
    "prompt": {"decoder_input_ids": torch.tensor([[0, 7, 9], [0, 8, 3], [0, 4, 4], [0, 9, 5]])},
    "prefix_of_rows": {
        "prefix_allowed_tokens_fn": lambda row, ids: [3 + (row * 7 + len(ids) * k) % 36 for k in range(9)]
    },
}
MODELS = {kind: deed_model(kind) for kind in KINDS}


@pytest.fixture(autouse=True)
def nothing_learned(monkeypatch):
    """Every test begins with what a fresh process knows."""
    monkeypatch.setattr("deed.engine.exact_tuning._learned", WeakKeyDictionary())


@pytest.fixture
def untuned(monkeypatch):
    """The exit policy decides throughout, and runs have up to four drafts: the same work each time."""
    monkeypatch.setattr(Tuner, "warm", False)


def both(model, inputs, seed=3, full=None, **options):
    """The outputs at full depth and of the exact mode; asserts that tokens and the generator's state agree."""
    options = {"max_new_tokens": 12, "return_dict_in_generate": True, **options}
    drafts = {k: options.pop(k) for k in ("exit_threshold", "exit_policy", "past_key_values") if k in options}
    torch.manual_seed(seed)
    expected = model.generate(**inputs, **options, exit_threshold=NEVER_EXIT)
    state = torch.get_rng_state()
    torch.manual_seed(seed)
    got = model.generate(**inputs, **options, **drafts, exact=True)
    assert torch.equal(got.sequences, expected.sequences)
    assert torch.equal(torch.get_rng_state(), state)
    stats = got.past_key_values.stats()
    assert int(got.accepted.sum()) == stats["accepted_tokens"] <= stats["drafted_tokens"]
    assert ((got.exit_layers > 0) == (expected.exit_layers > 0)).all()
    return expected, got


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.usefixtures("packing", "untuned")
def test_equals_full_depth(kind, mode):
    accepted, corrected = 0, 0
    for seed in range(2):
        model = deed_model(kind, seed=seed)
        for threshold in (0.0, 0.4, 0.7):
            _, got = both(model, batch(seed=seed), exit_threshold=threshold, **MODES[mode])
            accepted += int(got.accepted.sum())
            corrected += got.past_key_values.stats()["rolled_back_positions"]
    assert accepted > 3 and corrected > 10, "the case is vacuous: drafts have to stand, and to fall"


def test_equals_the_plain_model(kind):
    plain, model = plain_model(kind), deed_model(kind)
    expected = plain.generate(**batch(), max_new_tokens=12, do_sample=False, use_cache=False)
    assert torch.equal(model.generate(**batch(), max_new_tokens=12, exit_threshold=0.3, exact=True), expected)


@pytest.mark.parametrize("rows", [1, 6])
def test_in_float32(kind, rows):
    for seed in range(3):
        both(deed_model(kind, seed=seed, dtype=torch.float32), batch(rows, seed=seed), exit_threshold=0.4)


def test_near_ties_in_bfloat16_are_counted():
    """Where tokens differ from full depth's in bfloat16, there was a near tie; float64 has none."""
    ties = differ = 0
    for seed in range(6):
        model, inputs = deed_model("t5_tied", seed=seed, dtype=torch.bfloat16), batch(6, seed=seed)
        options = {"max_new_tokens": 20, "min_new_tokens": 20, "return_dict_in_generate": True}
        expected = model.generate(**inputs, **options, exit_threshold=NEVER_EXIT)
        got = model.generate(**inputs, **options, exit_threshold=0.4, exact=True)
        near = got.past_key_values.stats()["near_ties"]
        different = not torch.equal(got.sequences, expected.sequences)
        assert near or not different
        ties, differ = ties + near, differ + different
        _, double = both(deed_model("t5_tied", seed=seed), inputs, exit_threshold=0.4)
        assert double.past_key_values.stats()["near_ties"] == 0
    assert ties > 0


@pytest.mark.parametrize("mode", ["greedy", "sampling", "processors"])
def test_ofa(mode):
    model = ofa_model()
    for threshold in (0.0, 0.5):
        both(model, ofa_batch(), exit_threshold=threshold, **MODES[mode])


def test_layers_that_run_by_themselves(kind, monkeypatch):
    monkeypatch.setattr(type(MODELS[kind].deed_family), "parts", lambda self, model: None)
    both(MODELS[kind], batch(), exit_threshold=0.3)


@pytest.mark.parametrize("policy", [FixedSchedule([3, 1, 5, 2]), FixedSchedule([[1], [2, 4], [5], [1, 3]])])
@pytest.mark.usefixtures("untuned")
def test_a_schedule_drafts_at_its_depths(kind, policy):
    _, got = both(MODELS[kind], batch(), exit_policy=policy, min_new_tokens=8)
    assert len(set(got.exit_layers.flatten().tolist()) - {0, 5}) >= 2 and got.accepted.any()


@pytest.mark.parametrize("confidence", ["margin", "entropy", "state_similarity", {"name": "patience", "patience": 2}])
def test_measures_exit_checks_and_exits(kind, confidence):
    model = deed_model(kind, DeedConfig(confidence=confidence, exit_layers=[1, 3]))
    both(model, batch(), exit_threshold=0.5)
    both(model, batch(), exit_threshold=[0.5, 0.6])
    both(model, batch(), exit_threshold=torch.tensor([0.0, 0.5, 0.9, 2.0]))
    both(model, batch(), exit_threshold=0.3, confidence_over="allowed", no_repeat_ngram_size=2)
    both(model, batch(), exit_threshold=0.6, no_repeat_ngram_size=2, min_new_tokens=4)


def test_where_no_exit_is_asked_every_token_is_the_last_layers(kind):
    _, got = both(MODELS[kind], batch(), exit_threshold=NEVER_EXIT)
    assert set(got.exit_layers.flatten().tolist()) <= {0, 5} and not got.accepted.any()


def test_scores_and_logits_are_the_verified_ones(kind):
    options = {"output_scores": True, "output_logits": True, "repetition_penalty": 1.3}
    expected, got = both(MODELS[kind], batch(), exit_threshold=0.3, **options)
    for t, alive in enumerate((expected.exit_layers > 0).T):
        for name in ("scores", "logits"):
            torch.testing.assert_close(getattr(got, name)[t][alive], getattr(expected, name)[t][alive])
    assert len(got.scores) == got.exit_layers.shape[1]


def test_padded_prompts(kind):
    if kind == "bart":
        pytest.skip("learned positions count from the padding")
    prompt = {"decoder_input_ids": torch.tensor([[0, 7, 9], [0, 0, 3], [0, 4, 4], [0, 0, 5]])}
    mask = torch.tensor([[1, 1, 1], [0, 1, 1], [1, 1, 1], [0, 1, 1]])
    both(MODELS[kind], batch(), exit_threshold=0.3, **prompt, decoder_attention_mask=mask)


class AnySecond(StoppingCriteria):
    """Ends a row at its second token that is divisible by 3, but looks at row numbers, too."""

    def __call__(self, input_ids, scores, **kwargs):
        return torch.tensor([sum(t % 3 == 0 for t in row[1:]) > 1 + r % 2 for r, row in enumerate(input_ids.tolist())])


@pytest.mark.parametrize("eos", [None, 11])
def test_stopping_criteria_see_verified_tokens(kind, eos):
    model = MODELS[kind]
    ends = {"eos_token_id": eos if eos is not None else 10**6}
    if eos is None:
        model = deed_model(kind)
        model.generation_config.eos_token_id = model.config.eos_token_id = None
        ends = {}
    both(model, batch(), exit_threshold=0.2, stopping_criteria=StoppingCriteriaList([AnySecond()]), **ends)


@pytest.mark.parametrize("rows", [1, 4])
def test_streamers_get_verified_tokens(kind, rows):
    heard = []
    for options in ({"exit_threshold": NEVER_EXIT}, {"exit_threshold": 0.2, "exact": True}):
        streamer = Collect()
        MODELS[kind].generate(**batch(rows), max_new_tokens=9, streamer=streamer, **options)
        heard.append(streamer.tokens)
        assert streamer.ended
    assert heard[0] == heard[1]


def test_a_cache_is_continued():
    model, one = MODELS["t5_tied"], batch(1)
    first = model.generate(**one, max_new_tokens=5, exit_threshold=0.2, exact=True, return_dict_in_generate=True)
    options = {"max_new_tokens": 6, "decoder_input_ids": first.sequences}
    again = model.generate(**one, **options, past_key_values=first.past_key_values, exit_threshold=0.2, exact=True)
    assert torch.equal(again, model.generate(**one, **options, exit_threshold=NEVER_EXIT))
    ragged = model.generate(
        **batch(4), max_new_tokens=12, exit_threshold=0.2, exact=True, return_dict_in_generate=True
    )
    ragged.past_key_values.stairs.rollback([0, 1, 0, 2])  # as rows end that accept different numbers
    assert ragged.past_key_values.stairs.ragged
    for exact in (True, False):
        with pytest.raises(ValueError, match="rows of different length"):
            model.generate(**batch(4), past_key_values=ragged.past_key_values, exact=exact, max_new_tokens=20)


# -- nothing but time depends on how far is drafted -------------------------------------------------------------------


class Dice(Tuner):
    """Decides at random."""

    rng = None

    def drafted(self, *measured):
        """Learns nothing: what is decided must not depend on time here."""

    verified = drafted

    @property
    def warm(self):
        return self.rng.random() < 0.9

    def drafts_on(self, chains, rows):
        return bool(chains) and self.rng.random() < 0.8

    def goes_up(self, exit_index, rows, decoding):
        return [self.rng.random() < 0.6 for _ in rows], self.rng.random() < 0.7


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 5),
    rows=st.integers(1, 5),
    threshold=st.sampled_from([0.0, 0.3, 0.6, 0.9]),
    longest=st.integers(1, 6),
    sampled=st.booleans(),
    packed=st.booleans(),
    rng=st.randoms(use_true_random=False),
)
def test_tokens_do_not_depend_on_the_tuning(kind, seed, rows, threshold, longest, sampled, packed, rng):
    model = deed_model(kind, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        Dice.rng = rng
        patch.setattr(exact_module, "borrow", lambda model, key, exits: Dice(exits))
        patch.setattr(exact_module, "LONGEST", longest)
        patch.setattr("deed.engine.state.SPAN", 0.0 if packed else float("inf"))
        cache = StaircaseCache(5, FixedSchedule([1]), capacity=2, audit=True)
        options = {"exit_threshold": threshold, "do_sample": sampled, "past_key_values": cache}
        both(model, batch(rows, seed=seed), **options)
    stairs = cache.stairs
    assert int(stairs.writes.max()) <= 1, "only what was rolled back is computed again"
    # Every position that counts was computed at every layer, once; nothing but rolled-back positions came on top.
    kept = int(stairs.writes.sum())
    assert stairs.computed_cells - kept <= cache.stats()["rolled_back_positions"] * 5


def test_drafting_stops_where_it_does_not_pay(monkeypatch):
    """Drafts that cost as much as full depth: after a few cycles there are none, and `stats` says so, until later."""
    clock = iter(range(10**6))
    monkeypatch.setattr(exact_module.time, "perf_counter", lambda: float(next(clock)))
    model = deed_model("t5_tied")

    def stats(tokens):
        options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "exit_threshold": 0.0}
        return both(model, batch(4), **options)[1].past_key_values.stats()

    first, second, later = stats(20), stats(3), stats(60)
    assert first["drafted_tokens"] > 10 and first["rows_without_drafts"] == 4
    assert second["drafted_tokens"] == 0 and second["rows_without_drafts"] == 4
    assert 0 < later["drafted_tokens"] < 200


def test_long_runs_where_drafts_are_cheap_and_stand(monkeypatch):
    """A model whose exits agree: with passes of a tenth of verification's time, runs get as long as they may."""
    model = deed_model("t5_tied", DeedConfig(adapter="none"))
    with torch.no_grad():  # upper layers change nothing
        for layer in model.decoder.block[1:]:
            for part in (
                layer.layer[0].SelfAttention.o,
                layer.layer[1].EncDecAttention.o,
                layer.layer[2].DenseReluDense.wo,
            ):
                part.weight.zero_()
    now = [0.0]
    monkeypatch.setattr(exact_module.time, "perf_counter", lambda: now[0])
    for name, seconds in (("draft_pass", 1.0), ("verify_pass", 10.0)):
        run = getattr(exact_module, name)

        def timed(*args, run=run, seconds=seconds, **kwargs):
            now[0] += seconds
            return run(*args, **kwargs)

        monkeypatch.setattr(exact_module, name, timed)
    options = {"max_new_tokens": 40, "min_new_tokens": 40, "exit_threshold": 0.0}
    for _ in range(20):
        model.generate(**batch(1), exact=True, **options)
    _, got = both(model, batch(1), **options)
    stats = got.past_key_values.stats()
    assert stats["accepted_tokens"] == stats["drafted_tokens"] and stats["verifying_passes"] <= 5


# -- sampling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["t5_tied", "bart"])
def test_samples_have_the_last_layers_distribution(kind):
    """Chi-square of sequences of three tokens out of three each, against the product of full-depth probabilities."""
    model, one = deed_model(kind), batch(1)
    start = model.config.decoder_start_token_id
    expected = {}

    def spread(ids, p):
        if len(ids) == 4:
            expected[tuple(ids[1:])] = p
            return
        logits = model.exit_logits(**one, decoder_input_ids=torch.tensor([ids]))[-1, 0, -1]
        top = logits.topk(3)
        for token, share in zip(top.indices.tolist(), top.values.softmax(-1).tolist(), strict=True):
            spread([*ids, token], p * share)

    ends = model.generation_config.eos_token_id
    model.generation_config.eos_token_id = None
    with torch.no_grad():
        spread([start], 1.0)
    count, draws, accepted = {}, 0, 0
    for seed in range(8):
        torch.manual_seed(seed)
        got = model.generate(
            **one,
            do_sample=True,
            top_k=3,
            max_new_tokens=3,
            num_return_sequences=250,
            exit_threshold=0.0,
            exact=True,
            return_dict_in_generate=True,
        )
        accepted += int(got.accepted.sum())
        for row in got.sequences[:, 1:].tolist():
            count[tuple(row)] = count.get(tuple(row), 0) + 1
            draws += 1
    model.generation_config.eos_token_id = ends
    assert set(count) <= set(expected) and accepted > draws / 10
    common = [k for k, p in expected.items() if p * draws >= 5]
    rest = 1 - sum(expected[k] for k in common)
    pairs = [(count.get(k, 0), expected[k] * draws) for k in common]
    if rest * draws >= 5:
        pairs.append((draws - sum(n for n, _ in pairs), rest * draws))
    chi = sum((n - e) ** 2 / e for n, e in pairs)
    freedom = len(pairs) - 1
    # Wilson-Hilferty: 3.7 standard deviations, one failure in ten thousand.
    limit = freedom * (1 - 2 / (9 * freedom) + 3.7 * math.sqrt(2 / (9 * freedom))) ** 3
    assert freedom >= 3 and chi < limit, (chi, limit)


# -- what is refused --------------------------------------------------------------------------------------------------


class Counter(LogitsProcessor):
    def __init__(self):
        self.calls = 0

    def __call__(self, input_ids, scores):
        self.calls += 1
        return scores.roll(self.calls, -1)


class Hidden(LogitsProcessor):
    """Remembers where nobody sees it: only its answers tell."""

    def __init__(self):
        steps = iter(range(1000))
        self.next = lambda: next(steps)

    def __call__(self, input_ids, scores):
        return scores + self.next() * torch.arange(scores.shape[-1])


class Pure(LogitsProcessor):
    """A function of its arguments and of the row's number."""

    def __call__(self, input_ids, scores):
        shift = input_ids.sum(-1) + torch.arange(len(input_ids))
        return scores + (torch.arange(scores.shape[-1]) == shift[:, None] % scores.shape[-1]) * 3.0


class Declared(Pure):
    is_stateless = False


@pytest.mark.parametrize("processor", [Counter(), Hidden(), Declared()])
def test_processors_that_remember_are_refused(processor):
    with pytest.raises(ValueError, match=f"{type(processor).__name__} remembers earlier steps"):
        MODELS["bart"].generate(**batch(), exact=True, logits_processor=LogitsProcessorList([processor]))


def test_transformers_stateful_processors_are_refused():
    from transformers import SynthIDTextWatermarkingConfig

    watermark = SynthIDTextWatermarkingConfig(keys=[1, 2, 3], ngram_len=3)
    with pytest.raises(ValueError, match="SynthIDTextWatermarkLogitsProcessor remembers"):
        MODELS["bart"].generate(**batch(), exact=True, watermarking_config=watermark, do_sample=True)


@pytest.mark.usefixtures("untuned")
def test_processors_of_your_own_that_remember_nothing(kind):
    _, got = both(MODELS[kind], batch(), exit_threshold=0.3, logits_processor=LogitsProcessorList([Pure()]))
    assert got.accepted.any()


def test_every_processor_of_transformers_is_known():
    """A new one in a later Transformers is tried like anybody's; this says that there is one to read."""
    import transformers.generation.logits_process as there

    from deed.engine.exact_replay import BY_NUMBER, ROW_ALONE, STATEFUL

    base = there.LogitsProcessor
    classes = {n for n, c in vars(there).items() if isinstance(c, type) and issubclass(c, base) and c is not base}
    assert classes <= ROW_ALONE | BY_NUMBER | STATEFUL


def test_beams_and_hooks_are_refused():
    model = MODELS["bart"]
    with pytest.raises(ValueError, match="num_beams=1"):
        model.generate(**batch(), exact=True, num_beams=2)
    handle = model.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="loop of its own"):
        model.generate(**batch(), exact=True)
    handle.remove()


# -- do the tests bite ------------------------------------------------------------------------------------------------


def verification_skipped(patch):
    judge = exact_module.Decoding.judge

    def mutant(self, r, verdicts, scores, logits):
        row = self.rows[r]
        drafts = row.tokens[row.verified :]
        judge(self, r, [*drafts, *verdicts[len(drafts) :]], scores, logits)

    patch.setattr(exact_module.Decoding, "judge", mutant)


def rows_not_rolled_back(patch):
    patch.setattr("deed.engine.staircase.Staircase.rollback", lambda self, positions: None)


def deeper_cells_kept(patch):
    def mutant(self, positions):
        self._set_lengths([n - gone for n, gone in zip(self.lengths, positions, strict=True)])

    patch.setattr("deed.engine.staircase.Staircase.rollback", mutant)


def all_rows_rolled_back_alike(patch):
    rollback = exact_module.StaircaseCache.__init__.__globals__["Staircase"].rollback
    patch.setattr(
        "deed.engine.staircase.Staircase.rollback", lambda self, gone: rollback(self, [max(gone)] * len(gone))
    )


def a_verdict_late(patch):
    newest = exact_module.verify_pass.__globals__["newest_cells"]
    module = "deed.engine.exact_pass.newest_cells"
    patch.setattr(module, lambda block, output, wanted: newest(block, output, wanted).roll(1, 0))


def numbers_drawn_again(patch):
    def at(self, steps, rows):
        self.states.append(self._state())
        return torch.empty(len(rows), self.shape[1]).exponential_()

    patch.setattr(exact_module.Noise, "at", at)


MUTANTS = (
    verification_skipped,
    rows_not_rolled_back,
    deeper_cells_kept,
    all_rows_rolled_back_alike,
    a_verdict_late,
    numbers_drawn_again,
)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.__name__)
def test_mutations_are_noticed(mutant, monkeypatch):
    mutant(monkeypatch)
    with pytest.raises((AssertionError, ValueError, RuntimeError, IndexError)):
        for seed in range(3):
            for mode in ({}, {"do_sample": True}):
                both(deed_model("t5_tied", seed=seed), batch(seed=seed), exit_threshold=0.2, **mode)
