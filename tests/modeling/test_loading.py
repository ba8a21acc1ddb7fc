"""Loading: what the arguments do, what is refused, and that a file from anywhere gives a model or one clear error."""

import json
import math
import shutil
import socket
import time
import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig, T5Config, T5ForConditionalGeneration

import deed
from conftest import batch, deed_model, plain_model
from deed import DeedConfig, DeedLoadError

EXITS, WEIGHTS = "deed_exits.safetensors", "model.safetensors"


def built():
    return deed_model("t5_tied", DeedConfig(exit_layers=[1, 3], threshold=[0.4, 0.7]), enc=5, dtype=torch.float32)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "m"
    built().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "m")


def change(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def change_deed(folder, **fields):
    saved = json.loads((folder / "config.json").read_text())["deed_config"]
    if "asking" in fields:  # the former name
        del saved["exit_check"]
    change(folder, deed_config={**saved, **fields})


# -- arguments --------------------------------------------------------------------------------------------------------


def test_a_subfolder_is_read_as_a_whole(folder, tmp_path):
    loaded = deed.from_pretrained(tmp_path, subfolder="m")
    assert loaded.deed_config == deed.from_pretrained(folder).deed_config
    for (name, a), (_, b) in zip(loaded.state_dict().items(), built().state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    with pytest.raises(DeedLoadError, match="no subfolder 'other'"):
        deed.from_pretrained(tmp_path, subfolder="other")


def test_loading_info_comes_with_the_model(folder):
    model, info = deed.from_pretrained(folder, output_loading_info=True)
    assert type(model).__name__ == "T5ForConditionalGeneration" and hasattr(model, "deed_exits")
    assert info.keys() >= {"missing_keys", "unexpected_keys", "mismatched_keys"} and not any(info.values())


WORKS = {
    "dtype": ({"dtype": torch.bfloat16}, lambda m: {p.dtype for p in m.parameters()} == {torch.bfloat16}),
    "torch_dtype": ({"torch_dtype": "float64"}, lambda m: m.deed_exits["1"].linear.weight.dtype == torch.float64),
    "device_map": ({"device_map": "cpu"}, lambda m: m.device.type == "cpu"),
    "attn_implementation": (
        {"attn_implementation": "eager"},
        lambda m: m.config._attn_implementation == "eager",
    ),
    "config": ({"config": T5Config(**{"num_heads": 4})}, None),
    "generation_config": (
        {"generation_config": GenerationConfig(max_length=7, decoder_start_token_id=0, pad_token_id=0)},
        lambda m: m.generation_config.max_length == 7,
    ),
    "use_safetensors": ({"use_safetensors": True}, lambda m: True),
    "disable_mmap": ({"disable_mmap": True}, lambda m: True),
    "weights_only": ({"weights_only": True}, lambda m: True),
    "local_files_only": ({"local_files_only": True}, lambda m: True),
    "force_download": ({"force_download": True}, lambda m: True),
    "cache_dir, revision, token, proxies": (
        {"cache_dir": "cache", "revision": "main", "token": "x", "proxies": {}},
        lambda m: True,
    ),
    "what the base ignores": (
        dict.fromkeys(
            ("mirror", "from_flax", "from_tf", "offload_state_dict", "offload_buffers", "allow_all_kernels"), True
        )
        | {"max_memory": {}, "offload_folder": "x", "adapter_name": "x", "tqdm_class": None, "fusion_config": None},
        lambda m: True,
    ),
    "low_cpu_mem_usage": ({"low_cpu_mem_usage": True}, lambda m: True),
    "a field of the configuration": ({"dropout_rate": 0.25}, lambda m: m.config.dropout_rate == 0.25),
    "trust_remote_code": ({"trust_remote_code": True}, lambda m: True),
    "key_mapping": ({"key_mapping": {"^nothing": "x"}}, lambda m: True),
    "experts_implementation": ({"experts_implementation": "eager"}, lambda m: True),
}


@pytest.mark.parametrize("name", WORKS)
def test_arguments_that_work(folder, name, tmp_path):
    options, holds = WORKS[name]
    if name == "config":
        options = {"config": T5Config.from_pretrained(folder, dropout_rate=0.5)}
        holds = lambda m: m.config.dropout_rate == 0.5 and m.deed_config.exit_layers == [1, 3, 5]  # noqa: E731
    model = deed.from_pretrained(folder, **options)
    assert holds(model) and model.generate(**batch(), max_new_tokens=2).shape == (4, 3)


def test_a_variant(tmp_path):
    model = built()
    model.save_pretrained(tmp_path, variant="fp16")
    assert (tmp_path / "model.fp16.safetensors").is_file()
    again = deed.from_pretrained(tmp_path, variant="fp16")
    assert torch.equal(again.shared.weight, model.shared.weight)
    with pytest.raises(DeedLoadError, match="cannot be loaded"):
        deed.from_pretrained(tmp_path)


REFUSED = [
    {"gguf_file": "x.gguf"},
    {"state_dict": {"x": torch.zeros(1)}},
    {"ignore_mismatched_sizes": True},
    {"quantization_config": {"load_in_8bit": True}},
    {"adapter_kwargs": {"revision": "x"}},
    {"distributed_config": object()},
    {"device_mesh": object()},
    {"tp_plan": "auto"},
    {"tp_size": 2},
    {"use_kernels": True},
    {"kernel_config": object()},
    {"weights_only": False},
]


@pytest.mark.parametrize("options", REFUSED, ids=lambda o: next(iter(o)))
def test_arguments_that_are_refused(folder, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        deed.from_pretrained(folder, **options)


def test_a_model_over_several_devices_is_refused(folder):
    with pytest.raises(DeedLoadError, match="device_map"):
        deed.from_pretrained(
            folder, device_map={"shared": "cpu", "encoder": "cpu", "decoder": "disk", "lm_head": "cpu"}
        )


# -- places -----------------------------------------------------------------------------------------------------------


def no_network(*args, **kwargs):
    raise OSError("no network in this test")


@pytest.mark.parametrize("name", ["nosuch", "owner/nosuch", "./nosuch", "a/b/c", "runs/modle", "no such", "~/x", ""])
def test_a_folder_that_is_not_there_is_refused_at_once(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket, "create_connection", no_network)
    (tmp_path / "runs").mkdir()
    for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(proxy, raising=False)
    began = time.perf_counter()
    with pytest.raises(DeedLoadError, match=r"not a folder with a saved model|no config\.json"):
        deed.from_pretrained(name)
    assert time.perf_counter() - began < 5
    if name not in ("nosuch", "owner/nosuch", ""):
        monkeypatch.setattr("deed.utils.locating._hub_answers", lambda: pytest.fail("asked the Hub"))
        with pytest.raises(DeedLoadError, match="not a folder with a saved model"):
            deed.from_pretrained(name)


def test_a_path_object_is_never_a_name_on_the_hub(tmp_path, monkeypatch):
    from pathlib import Path

    monkeypatch.setattr("deed.utils.locating._hub_answers", lambda: pytest.fail("asked the Hub"))
    with pytest.raises(DeedLoadError, match="not a folder with a saved model"):
        deed.from_pretrained(Path("nosuch"))


def test_the_hub_may_hang(monkeypatch):
    from deed.utils import locating

    monkeypatch.setattr(socket, "create_connection", lambda *a, **k: time.sleep(60))
    monkeypatch.setattr(locating, "SECONDS", 0.2)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: False)
    with pytest.raises(DeedLoadError, match="cannot be reached"):
        deed.from_pretrained("owner/model")


def test_a_model_in_the_cache_of_the_hub(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "create_connection", no_network)
    repo = tmp_path / "models--owner--model"
    shutil.copytree(saved, repo / "snapshots" / ("0" * 40))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    loaded = deed.from_pretrained("owner/model", cache_dir=tmp_path, local_files_only=True)
    assert loaded.deed_config.exit_layers == [1, 3, 5]
    with pytest.raises(DeedLoadError, match="not in the cache"):
        deed.from_pretrained("owner/other", cache_dir=tmp_path, local_files_only=True)


# -- plain checkpoints ------------------------------------------------------------------------------------------------


def test_a_plain_checkpoint_gets_untrained_exits_and_a_warning(kind, tmp_path):
    plain = plain_model(kind, dtype=torch.float32, enc=5)
    plain.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="plain model: its exits are untrained.*deed tune.*exact=True"):
        model = deed.from_pretrained(tmp_path)
    assert model.deed_config == DeedConfig().resolve(len(model.deed_family.layers(model)))
    expected = plain.generate(**batch(), max_new_tokens=6)
    assert torch.equal(model.generate(**batch(), max_new_tokens=6, exit_threshold=2.0), expected)
    model.save_pretrained(tmp_path / "deed")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        deed.from_pretrained(tmp_path / "deed")


def test_a_plain_checkpoint_without_architectures_is_known_by_its_type(tmp_path):
    plain_model("t5_tied").save_pretrained(tmp_path)
    change(tmp_path, architectures=None)
    with pytest.warns(UserWarning, match="untrained"):
        assert isinstance(deed.from_pretrained(tmp_path), T5ForConditionalGeneration)
    change(tmp_path, architectures=None, model_type="bert")
    with pytest.raises(DeedLoadError, match="model_type 'bert' is no encoder-decoder"):
        deed.from_pretrained(tmp_path)


def test_exits_without_a_configuration_are_not_taken_for_a_plain_model(folder):
    values = json.loads((folder / "config.json").read_text())
    del values["deed_config"]
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(DeedLoadError, match=f"has no deed_config, though {EXITS} is beside it"):
        deed.from_pretrained(folder)


# -- weights ----------------------------------------------------------------------------------------------------------


def test_a_base_tensor_that_is_missing_is_named(folder):
    tensors = load_file(folder / WEIGHTS)
    del tensors["decoder.block.2.layer.0.SelfAttention.q.weight"]
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(DeedLoadError, match=r"misses tensors .*decoder\.block\.2\.layer\.0\.SelfAttention\.q\.weight"):
        deed.from_pretrained(folder)


@pytest.mark.parametrize("plain", [False, True])
def test_layers_that_the_file_does_not_have(folder, plain):
    layers = json.loads((folder / "config.json").read_text())["num_layers"]
    change(folder, num_layers=layers + 2)
    if plain:
        (folder / EXITS).unlink()
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({k: v for k, v in values.items() if k != "deed_config"}))
    with pytest.raises(DeedLoadError, match="misses tensors of the model that config"):
        deed.from_pretrained(folder)


def test_layers_that_the_configuration_does_not_have(folder):
    change(folder, num_layers=1)
    with pytest.raises(DeedLoadError, match="has tensors that are not of the model"):
        deed.from_pretrained(folder)


def test_more_layers_than_tensors_are_not_even_built(folder):
    change(folder, num_layers=10**9)
    began = time.perf_counter()
    with pytest.raises(DeedLoadError, match="num_layers is 1000000000, but the weights have"):
        deed.from_pretrained(folder)
    assert time.perf_counter() - began < 5


# -- every field, from anywhere ---------------------------------------------------------------------------------------

NEVER = [
    {"threshold": -1},
    {"threshold": [-0.1, 0.5]},
    {"threshold": math.nan},
    {"threshold": [math.nan, 0.5]},
    {"threshold": -math.inf},
    {"threshold": 10**400},
    {"threshold": True},
    {"threshold": "0.9"},
    {"threshold": []},
    {"threshold": None},
    {"threshold": {"a": 1}},
    {"exit_layers": [True, 3]},
    {"exit_layers": [1.0, 3]},
    {"exit_layers": 10**400},
    {"exit_layers": [10**9]},
    {"exit_layers": []},
    {"exit_layers": "13"},
    {"adapter": ["residual_linear"]},
    {"adapter": {}},
    {"adapter": "linear"},
    {"adapter_dim": True},
    {"adapter_dim": 0},
    {"adapter_dim": 10**400},
    {"adapter": "bottleneck", "adapter_dim": 10**9},
    {"confidence": {"name": "patience", "patience": True}},
    {"confidence": {"name": "patience", "patience": 2.5}},
    {"confidence": {"name": "patience", "patience": 10**400}},
    {"confidence": {"name": ["patience"]}},
    {"confidence": ["max_prob"]},
    {"confidence": 3},
    {"confidence_over": []},
    {"confidence_over": "some"},
    {"threshold_decay": {"temperature": True, "length": 3}},
    {"threshold_decay": {"temperature": math.nan, "length": 3}},
    {"threshold_decay": [1, 2]},
    {"exit_check": {"name": "screen", "rank": 10**400}},
    {"exit_check": {"name": {}}},
    {"exit_check": 7},
    {"asking": 7},
    {"asking": "plain", "exit_check": "plain"},
    {"loss": ["deed"]},
    {"loss": {}},
    {"calibration": 5},
    {"calibration": [1]},
    {"curve": "x"},
    {"unheard_of": 1},
]


@pytest.mark.parametrize("fields", NEVER, ids=lambda f: str(f)[:40])
def test_fields_that_no_model_can_have(folder, fields):
    change_deed(folder, **fields)
    with pytest.raises(DeedLoadError, match="|".join([*fields, EXITS])):
        deed.from_pretrained(folder)


ARCHITECTURES = [
    [5],
    ["T5Config"],
    [],
    "T5ForConditionalGeneration",
    {},
    [None],
    [["x"]],
    ["__doc__"],
    ["utils"],
    ["x y"],
]
ARCHITECTURES += [
    ["T5Model"],
    ["BertModel"],
    ["AutoModelForSeq2SeqLM"],
    10**400,
    True,
    ["T5ForConditionalGeneration.x"],
]


@pytest.mark.parametrize("names", ARCHITECTURES, ids=str)
def test_architectures_that_are_none(folder, names):
    change(folder, architectures=names)
    with pytest.raises(DeedLoadError, match=r"architecture|cannot be loaded|no decoder family"):
        deed.from_pretrained(folder)


@pytest.mark.parametrize(
    "text", ["", "[]", "5", "null", "{", '{"a": ' * 5000 + "1" + "}" * 5000, "\ud800", "[" * 100_000]
)
def test_a_configuration_that_is_no_object(folder, text):
    (folder / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(DeedLoadError, match=r"config\.json"):
        deed.from_pretrained(folder)


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 70)
    | st.sampled_from([10**400, -(10**400), 2**31, 2**63, 10**9])
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(
        ["max_prob", "patience", "screen", "gate", "deed", "linear", "none", "allowed", "gelu", "float16"]
    )
)
KEYS = st.text(max_size=4) | st.sampled_from(
    ["name", "patience", "rank", "temperature", "length", "first", "count", "0"]
)
JUNK = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)
FIELDS = [
    "exit_layers",
    "adapter",
    "adapter_dim",
    "confidence",
    "confidence_over",
    "threshold",
    "asking",
    "exit_check",
]
FIELDS += ["threshold_decay", "loss", "calibration", "curve", "other"]
FUZZ = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@FUZZ
@given(field=st.sampled_from(FIELDS), value=JUNK)
def test_deed_config_gives_a_model_that_works_or_the_fields_name(saved, tmp_path, field, value):
    folder = shutil.copytree(saved, tmp_path / "m", dirs_exist_ok=True)
    change_deed(folder, **{field: value})
    try:
        model = deed.from_pretrained(folder)
    except DeedLoadError as error:
        assert any(name in str(error) for name in (field, EXITS, "threshold" if field == "exit_layers" else field))
        return
    kept = getattr(model.deed_config, field)
    assert kept == value or (field == "exit_layers" and kept == [1, 3, 5]) or value is None or value != value
    try:
        model.generate(**batch(), max_new_tokens=2)
    except deed.DeedConfigError as error:  # a gate that was never trained, a rank beyond the head's
        assert "exit_check" in str(error)


GENERATION = "generation_config.json"
GENERATION_FIELDS = {
    "eos_token_id": "x",
    "max_length": -1,
    "max_new_tokens": 2.5,
    "num_beams": 0,
    "pad_token_id": [1, 2],
    "decoder_start_token_id": True,
    "forced_eos_token_id": [],
    "temperature": "hot",
    "do_sample": "yes",
    "top_k": -3,
}


def change_generation(folder, **fields):
    path = folder / GENERATION
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize("field", GENERATION_FIELDS)
def test_a_field_of_the_generation_config_is_named(folder, field):
    change_generation(folder, **{field: GENERATION_FIELDS[field]})
    with pytest.raises(DeedLoadError, match=rf"{GENERATION}: {field} must be .*delete the file"):
        deed.from_pretrained(folder)


@pytest.mark.parametrize("text", ["", "[]", "null", "3", '{"eos_token_id": 1', "\xff"])
def test_a_generation_config_that_is_no_object_is_refused(folder, text):
    (folder / GENERATION).write_text(text, encoding="latin-1")
    with pytest.raises(DeedLoadError, match=GENERATION):
        deed.from_pretrained(folder)


def test_a_generation_config_may_be_missing_or_replaced(folder):
    (folder / GENERATION).write_text("[]")
    given = GenerationConfig(max_length=7, decoder_start_token_id=0, pad_token_id=0)
    assert deed.from_pretrained(folder, generation_config=given).generation_config.max_length == 7
    (folder / GENERATION).unlink()
    deed.from_pretrained(folder)


@FUZZ
@given(field=st.sampled_from(sorted({*GenerationConfig().to_dict(), *GENERATION_FIELDS})), value=JUNK)
def test_a_generation_config_from_anywhere_loads_or_is_named(saved, tmp_path, field, value):
    folder = shutil.copytree(saved, tmp_path / "m", dirs_exist_ok=True)
    change_generation(folder, **{field: value})
    try:
        deed.from_pretrained(folder)
    except DeedLoadError as error:
        assert GENERATION in str(error)
        return
    if field in GENERATION_FIELDS and value is not None:
        assert isinstance(value, bool if field == "do_sample" else (int, list, float))


POINT = {"threshold": 2.0, "exit_check": "plain", "score_drop": 0.0, "speedup": {"median": 1.0}}
CURVE = {"points": [POINT], "exit_layers": [1, 3, 5], "confidence": "max_prob"}
BAD_POINTS = {
    "no list": {"a": 1},
    "no objects": [1],
    "no threshold": [{k: v for k, v in POINT.items() if k != "threshold"}],
    "thresholds of another decoder": [{**POINT, "threshold": [0.5] * 7}],
    "a threshold below 0": [{**POINT, "threshold": -1}],
    "no score_drop": [{**POINT, "score_drop": "none"}],
    "score_drop not a number": [{**POINT, "score_drop": math.nan}],
    "speedup a number": [{**POINT, "speedup": 2.0}],
    "no median": [{**POINT, "speedup": {}}],
    "an unknown check": [{**POINT, "exit_check": "guess"}],
    "no full depth": [{**POINT, "score_drop": 0.1}],
}


@pytest.mark.parametrize("name", BAD_POINTS)
def test_a_curve_that_no_target_can_be_set_by_is_refused(folder, name):
    change_deed(folder, curve={**CURVE, "points": BAD_POINTS[name]})
    with pytest.raises(DeedLoadError, match=r"config.json: deed_config: curve: points.*record it again"):
        deed.from_pretrained(folder)


def test_a_curve_that_is_whole_sets_a_target(folder):
    quick = {**POINT, "threshold": [0.5, 0.6], "score_drop": 0.01, "speedup": {"median": 1.5}}
    change_deed(folder, curve={**CURVE, "points": [POINT, quick]})
    model = deed.from_pretrained(folder)
    assert deed.set_target(model, speedup=1.2) == quick and model.deed_config.threshold == [0.5, 0.6]


@FUZZ
@given(field=st.sampled_from([*POINT, "asking", "points"]), value=JUNK)
def test_a_curve_from_anywhere_sets_a_target_or_is_named(saved, tmp_path, field, value):
    folder = shutil.copytree(saved, tmp_path / "m", dirs_exist_ok=True)
    points = value if field == "points" else [POINT, {**POINT, field: value}]
    change_deed(folder, curve={**CURVE, "points": points})
    try:
        model = deed.from_pretrained(folder)
    except DeedLoadError as error:
        assert "curve" in str(error)
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if points:
            deed.set_target(model, score_drop=0.5)


@FUZZ
@given(field=st.sampled_from(["task", "steps", "output", "lr", "d_model", "note", "data", "frozen", "x"]), value=JUNK)
def test_a_recorded_recipe_is_followed_or_named(tmp_path, field, value):
    from deed.recipes.g2p import G2pRecipe
    from deed.recipes.recipe import checked
    from deed.utils.files import read_json

    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({field: value}))
    try:
        assert isinstance(checked(G2pRecipe, read_json(path, ValueError), str(path)), G2pRecipe)
    except ValueError as error:
        assert str(path) in str(error)


BASE_FIELDS = sorted(
    {*T5Config().to_dict(), "architectures", "model_type", "quantization_config", "text_config", "auto_map", "dtype"}
)


@FUZZ
@given(field=st.sampled_from(BASE_FIELDS), value=JUNK)
def test_the_bases_fields_give_a_model_or_one_kind_of_error(saved, tmp_path, field, value):
    folder = shutil.copytree(saved, tmp_path / "m", dirs_exist_ok=True)
    change(folder, **{field: value})
    try:
        deed.from_pretrained(folder)
    except DeedLoadError as error:
        assert str(folder) in str(error)


@FUZZ
@given(data=st.data())
def test_exits_are_whole_or_refused(saved, tmp_path, data):
    folder = shutil.copytree(saved, tmp_path / "m", dirs_exist_ok=True)
    kind = data.draw(st.sampled_from(["bytes", "cut", "number", "dtype", "shape", "name", "extra", "gone"]))
    path = folder / EXITS
    raw, tensors = path.read_bytes(), load_file(path)
    name = data.draw(st.sampled_from(sorted(tensors)))
    if kind == "bytes":
        path.write_bytes(data.draw(st.binary(max_size=200)))
    elif kind == "cut":
        path.write_bytes(raw[: data.draw(st.integers(0, len(raw) - 1))])
    elif kind == "gone":
        path.unlink()
    else:
        tensor = tensors.pop(name)
        if kind == "number":
            tensor.view(-1)[data.draw(st.integers(0, tensor.numel() - 1))] = data.draw(
                st.sampled_from([math.nan, math.inf, -math.inf])
            )
            tensors[name] = tensor
        elif kind == "dtype":
            tensors[name] = tensor.to(data.draw(st.sampled_from([torch.int8, torch.int64, torch.bool])))
        elif kind == "shape":
            tensors[name] = torch.zeros(data.draw(st.lists(st.integers(0, 5), max_size=3)))
        elif kind == "name":
            tensors[data.draw(st.text(max_size=5)) + "x"] = tensor
        else:
            tensors |= {
                name: tensor,
                f"{data.draw(st.sampled_from(['5', '2', 'other']))}.linear.weight": torch.zeros(2),
            }
        save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(DeedLoadError, match=EXITS):
        deed.from_pretrained(folder)


def test_the_untouched_folder_loads(folder):
    assert torch.equal(deed.from_pretrained(folder).shared.weight, built().shared.weight)
