"""Exits with a decoder layer of their own (`adapter="layer"`): tokens and depths against the cache-free reference."""

import pytest
import torch
from cases import CASES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_matrix import agrees

import oracle as ref
from conftest import VOCAB, batch, deed_model
from deed import DeedConfig, FixedSchedule, StaircaseCache, get_deed_model
from deed.engine.step import decode_step
from test_decode import MODES, compare

LAYER = DeedConfig(adapter="layer")
KINDS = ("t5_tied", "bart")


def randomized(model, seed=1):
    """Exits' layers that are no copies of the last any more, and no two alike."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in model.deed_exits.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    return model


@pytest.fixture(scope="module")
def models():
    return {kind: deed_model(kind, LAYER) for kind in KINDS}


@pytest.mark.usefixtures("packing")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["greedy", "sampling", "beam", "beam_sampling", "processors"])
def test_equals_the_cache_free_reference(models, kind, mode):
    seen = set()
    for threshold in (0.3, 0.55, 0.8):
        got = compare(models[kind], batch(), threshold, **MODES[mode])
        seen |= {d for step in got.past_key_values.state.depths for d in step}
    assert len(seen - {0}) >= 3, "the case is vacuous: too few depths were taken"


@pytest.mark.parametrize("exits", [[1, 3], [2], [4]])
def test_subsets_of_exits(exits):
    model = deed_model("t5_tied", DeedConfig(adapter="layer", exit_layers=exits))
    assert set(model.deed_exits) == set(map(str, exits))
    for mode in ({}, {"num_beams": 3}):
        got = compare(model, batch(), 0.5, **mode)
        assert set(got.exit_layers.flatten().tolist()) <= {0, *exits, 5}


@pytest.mark.parametrize("kind", KINDS)
def test_thresholds_that_refuse_in_the_middle(models, kind):
    """Exits asked in vain, exits never asked, and rows of one batch that leave at different depths."""
    for threshold in ([2.0, 0.7, 2.0, 0.4], [0.8, 2.0, 0.6, 2.0], torch.tensor([0.0, 0.5, 0.8, 2.0])):
        compare(models[kind], batch(), threshold, min_new_tokens=9)


@pytest.mark.usefixtures("packing")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["greedy", "beam"])
def test_schedules_of_rows(models, kind, mode):
    rows = 12 if mode == "beam" else 4
    table = [[1 + (r * 3 + t * 2) % 5 for t in range(7)] for r in range(rows)]
    policy = FixedSchedule(table)
    got = compare(
        models[kind], batch(), depths=lambda t, n: [table[r][t % 7] for r in range(n)], policy=policy, **MODES[mode]
    )
    assert len(set(got.exit_layers.flatten().tolist())) > 3


def test_left_padded_prompts(models):
    start = models["bart"].config.decoder_start_token_id
    prefix = torch.tensor([[1, 1, start, 7], [start, 10, 11, 12], [1, start, 5, 6], [1, 1, 1, start]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1], [0, 0, 0, 1]])
    given = {"decoder_input_ids": prefix, "decoder_attention_mask": mask}
    compare(models["bart"], batch(), 0.5, prompt=4, **given)


@pytest.mark.parametrize("confidence", ["margin", "state_similarity", "patience"])
def test_other_measures(confidence):
    """State similarity compares the decoder's layers, whatever the exits' own make of them."""
    spec = {"name": "patience", "patience": 1} if confidence == "patience" else confidence
    measure = {"margin": ref.margin, "state_similarity": ref.state_similarity, "patience": ref.patience(1)}[confidence]
    model = deed_model("bart", DeedConfig(adapter="layer", confidence=spec))
    for threshold in (0.5, 0.8):
        compare(model, batch(), threshold, measure)


@pytest.mark.parametrize("name", ["WhisperForConditionalGeneration", "OFAForConditionalGeneration"])
@pytest.mark.parametrize("mode", ["greedy", "beam", "sampling"])
@torch.no_grad()
def test_whisper_and_ofa(name, mode):
    case = CASES[name]
    model = randomized(get_deed_model(case.plain(), LAYER))
    depths = set()
    for threshold in (0.25, 0.5):
        options = {k: v for k, v in MODES[mode].items() if k != "top_k"}
        depths |= agrees(model, case, ref.Oracle(model, threshold), exit_threshold=threshold, **options)
    assert len(depths) >= 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["greedy", "sampling", "processors"])
def test_exact_is_full_depth(models, kind, mode, monkeypatch):
    monkeypatch.setattr("deed.engine.exact_tuning.Tuner.warm", False)
    drafted = 0
    for threshold in (0.0, 0.4):
        options = {"max_new_tokens": 12, "return_dict_in_generate": True, **MODES[mode]}
        torch.manual_seed(0)
        expected = models[kind].generate(**batch(), exit_threshold=2.0, **options)
        torch.manual_seed(0)
        got = models[kind].generate(**batch(), exit_threshold=threshold, exact=True, **options)
        assert torch.equal(got.sequences, expected.sequences)
        drafted += got.past_key_values.stats()["drafted_tokens"]
        assert got.past_key_values.stats()["branch_cells"] > 0
    assert drafted > 10


def test_full_depth_runs_no_layer_of_an_exit(models):
    calls = []
    handle = models["bart"].deed_exits["2"].fc1.register_forward_hook(lambda *_: calls.append(1))
    got = models["bart"].generate(**batch(), max_new_tokens=4, exit_threshold=1.5, return_dict_in_generate=True)
    assert not calls and got.past_key_values.stats()["branch_cells"] == 0
    models["bart"].generate(**batch(), max_new_tokens=4, exit_policy=FixedSchedule([2]))
    assert calls
    handle.remove()


def test_a_cache_goes_on_with_another_policy(models):
    """What an exit's layer has not seen in one generation, it makes up for in the next."""
    model, inputs = models["bart"], {k: v[:1] for k, v in batch().items()}
    model.generation_config.eos_token_id = None
    first = model.generate(**inputs, max_new_tokens=4, exit_threshold=2.0, return_dict_in_generate=True)
    policy = FixedSchedule([3, 1, 2])
    more = model.generate(
        **inputs,
        decoder_input_ids=first.sequences,
        past_key_values=first.past_key_values,
        exit_policy=policy,
        max_new_tokens=3,
        return_dict_in_generate=True,
        output_logits=True,
    )
    model.generation_config.eos_token_id = 2
    z = model.exit_logits(**inputs, decoder_input_ids=more.sequences[:, :-1])
    for t, depth in enumerate([3, 1, 2]):
        # generate() gives logits in float32
        torch.testing.assert_close(more.logits[t], z[depth - 1, :, 4 + t].float(), rtol=0, atol=1e-6)


PROGRAM = st.lists(
    st.one_of(
        st.tuples(st.just("step"), st.integers(1, 3), st.lists(st.integers(1, 4), min_size=3, max_size=3)),
        st.tuples(st.just("step"), st.integers(1, 1), st.lists(st.integers(1, 4), min_size=3, max_size=3)),
        st.tuples(st.just("order"), st.lists(st.integers(0, 2), min_size=3, max_size=3)),
        st.tuples(st.just("rollback"), st.lists(st.integers(0, 2), min_size=3, max_size=3)),
    ),
    min_size=2,
    max_size=8,
)
SMALL = {kind: deed_model(kind, LAYER, dec=4) for kind in KINDS}


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(program=PROGRAM, kind=st.sampled_from(KINDS), packed=st.booleans(), lean=st.booleans())
@torch.no_grad()
def test_logits_after_any_history_equal_the_exit_logits(program, kind, packed, lean):
    """Rows step, leave, change places (beams) and are rolled back by numbers of their own, as exact decoding does."""
    model = SMALL[kind]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deed.engine.state.SPAN", 0.0 if packed else float("inf"))
        if not lean:
            patch.setattr(type(model.deed_family), "parts", lambda self, model: None)
        generator = torch.Generator().manual_seed(0)
        source, mask = torch.randint(3, VOCAB, (3, 6), generator=generator), torch.ones(3, 6, dtype=torch.long)
        mask[1, 4:] = 0
        encoded = model.get_encoder()(input_ids=source, attention_mask=mask)
        cache = StaircaseCache(4, FixedSchedule([1]), audit=True)
        cache.begin(model, encoded, encoder_mask=mask)
        ids, of = [[], [], []], [0, 1, 2]
        for name, *values in program:
            if name == "step":
                q, depths = values
                new = torch.randint(3, VOCAB, (3, q), generator=generator)
                cache.policy = FixedSchedule([[d] for d in depths])
                logits = decode_step(cache, new, rows=[0, 1, 2])
                for r in range(3):
                    ids[r] = ids[r] + new[r].tolist()
                    one = {"encoder_outputs": (encoded[0][of[r]][None],), "attention_mask": mask[of[r]][None]}
                    z = model.exit_logits(**one, decoder_input_ids=torch.tensor([ids[r]]))
                    torch.testing.assert_close(logits[r, 0], z[depths[r] - 1, 0, -1], rtol=0, atol=1e-10)
            elif name == "order" and cache.stairs.n_rows:
                cache.reorder_cache(torch.tensor(values[0]))
                ids, of = [list(ids[i]) for i in values[0]], [of[i] for i in values[0]]
            elif name == "rollback" and cache.stairs.n_rows:
                gone = [min(n, len(x)) for n, x in zip(values[0], ids, strict=True)]
                cache.stairs.rollback(gone)
                ids = [x[: len(x) - n] for n, x in zip(gone, ids, strict=True)]
        stairs = cache.stairs
        assert stairs.writes is None or stairs.writes.numel() == 0 or int(stairs.writes.max()) <= 1
