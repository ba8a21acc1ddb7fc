"""Released weights to a folder that loads: nothing lost, nothing taken on trust, nothing half-written."""

import argparse
import json
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from ofa_files import original_state, small_config, small_tokenizer, write_bpe, write_checkpoint
from ofa_reference import REFERENCE, case, needs_reference
from safetensors.torch import load_file, save_file

from deed.models.ofa import OFAConfig, OFAForConditionalGeneration
from deed.models.ofa.convert_ofa import OFAConversionError, convert
from deed.models.ofa.names import BUFFERS, TIED, to_original, to_original_name, to_port
from deed.models.ofa.original import load_pickle, read_source
from deed.models.ofa.processing_ofa import OFAProcessor

RENAMED = {
    "encoder.layers.0.attn_ln.weight": "encoder.layers.0.self_attn_mid_layer_norm.weight",
    "encoder.layers.11.ffn_layernorm.bias": "encoder.layers.11.ffn_layer_norm.bias",
    "decoder.layers.3.self_attn_ln.weight": "decoder.layers.3.self_attn_mid_layer_norm.weight",
    "decoder.layers.3.cross_attn_ln.bias": "decoder.layers.3.cross_attn_mid_layer_norm.bias",
    "decoder.layers.3.encoder_attn.c_attn": "decoder.layers.3.cross_attn.c_attn",
    "decoder.layers.3.encoder_attn.q_proj.weight": "decoder.layers.3.cross_attn.q_proj.weight",
    "decoder.layers.3.encoder_attn_layer_norm.weight": "decoder.layers.3.cross_attn_layer_norm.weight",
    "decoder.layers.3.ffn_layernorm.weight": "decoder.layers.3.ffn_layer_norm.weight",
    "decoder.layers.3.self_attn_layer_norm.weight": "decoder.layers.3.self_attn_layer_norm.weight",
    "decoder.layers.3.self_attn.out_proj.bias": "decoder.layers.3.self_attn.out_proj.bias",
    "encoder.embed_images.layer1.0.downsample.0.weight": "encoder.embed_images.layer1.0.downsample.0.weight",
}


@pytest.fixture(scope="module")
def config():
    return small_config()


@pytest.fixture(scope="module")
def state(config):
    return original_state(config)


def equal(a, b):
    return a.dtype == b.dtype and torch.equal(a, b)


def load(folder):
    model, info = OFAForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model


def test_names_there_and_back():
    for original, port in RENAMED.items():
        assert to_port(original) == port == to_port(port) and to_original_name(port) == original


@pytest.mark.parametrize("form", ["cfg", "dict", "args"])
def test_both_forms_and_the_way_back(tmp_path, config, state, form):
    report = convert(write_checkpoint(tmp_path / "c.pt", config, state, form), tmp_path / "out")
    assert report["form"] == ("args" if form == "args" else "cfg")
    assert report["tensors"] == len(state) and report["image_size"] == 96 and report["dtypes"] == ["float16"]
    saved, built = load_file(tmp_path / "out" / "model.safetensors"), OFAConfig.from_pretrained(tmp_path / "out")
    back = to_original(saved, built)
    assert back.keys() == state.keys() and set(BUFFERS) < back.keys()
    assert all(equal(back[name], state[name]) for name in state)
    assert not set(TIED) & saved.keys(), "one tensor is kept once"
    model = load(tmp_path / "out")
    assert model.dtype == torch.float32 and model.decoder.output_projection.weight is model.encoder.embed_tokens.weight
    assert torch.equal(
        model.decoder.layers[1].cross_attn.q_proj.weight, state["decoder.layers.1.encoder_attn.q_proj.weight"]
    )
    assert (built.encoder_layers, built.decoder_layers, built.d_model, built.vocab_size) == (1, 2, 16, 425)
    assert built.encoder_drop_path_rate == 0.2 and built.dropout == 0.1
    assert model.generation_config.decoder_start_token_id == 0 and model.generation_config.eos_token_id == 2
    assert oct((tmp_path / "out").stat().st_mode)[-3:] == "755"


@pytest.mark.parametrize(
    "fields",
    [
        {"scale_heads": False},
        {"scale_attn": False, "scale_fc": True},
        {"scale_resids": True},
        {"resnet_type": "resnet50"},
        {"code_layernorm_embedding": False, "add_type_embedding": False},
    ],
)
def test_other_architectures(tmp_path, fields):
    config = small_config(**fields)
    flags = {name: value for name, value in fields.items() if name.endswith("embedding")}
    path = write_checkpoint(tmp_path / "c.pt", config, original_state(config), **flags)
    convert(path, tmp_path / "out")
    built = load(tmp_path / "out").config
    assert {name: getattr(built, name) for name in fields} == fields


def test_what_the_arguments_leave_open_the_tensors_say(tmp_path, config, state):
    """But for what no tensor shows: without disable_entangle the original adds positions in the decoder."""
    sizes = ("embed_dim", "ffn_embed_dim", "layers", "attention_heads")
    left_out = [f"{side}_{size}" for side in ("encoder", "decoder") for size in sizes]
    left_out += ["scale_attn", "scale_fc", "scale_heads", "token_bucket_size", "image_bucket_size", "resnet_type"]
    left_out += ["max_source_positions", "disable_entangle", "arch", "_name", "dropout", "attn_scale_factor"]
    path = write_checkpoint(tmp_path / "c.pt", config, state, **dict.fromkeys(left_out, ...))
    convert(path, tmp_path / "out")
    built = OFAConfig.from_pretrained(tmp_path / "out")
    for name in ("d_model", "decoder_layers", "encoder_ffn_dim", "image_bucket_size", "scale_heads", "resnet_type"):
        assert getattr(built, name) == getattr(config, name)
    assert not built.disable_entangle and built.attn_scale_factor == 2 and built.dropout == 0


def test_an_architectures_name_stands_for_its_sizes(tmp_path, config, state):
    """Then what the file lacks is missed, though no tensor tells of it."""
    path = write_checkpoint(tmp_path / "c.pt", config, state, encoder_layers=..., arch="ofa_tiny")
    with pytest.raises(OFAConversionError, match=r"missing: encoder.image_rel_pos_table_list.1.weight.*and \d+ more"):
        convert(path, tmp_path / "out")


def test_disable_entangle_and_the_ports_silence(tmp_path, config, state):
    convert(write_checkpoint(tmp_path / "c.pt", config, state), tmp_path / "first")
    assert OFAConfig.from_pretrained(tmp_path / "first").disable_entangle
    for entangle in (False, True):
        folder = write_port(tmp_path / f"port{entangle}", config, state, entangle_position_embedding=entangle)
        convert(folder, tmp_path / f"out{entangle}")
        assert OFAConfig.from_pretrained(tmp_path / f"out{entangle}").disable_entangle is not entangle


def write_port(folder, config, state, kind="bin", **changes):
    folder.mkdir()
    values = {**config.to_dict(), "architectures": ["OFAModel"], "forced_eos_token_id": 2, "resnet_model_path": None}
    for name in ("disable_entangle", "stem_widths", "stem_depths", "scale_attn", "scale_fc", "dtype"):
        values.pop(name, None)
    (folder / "config.json").write_text(json.dumps({**values, **changes}))
    tensors = {to_port(name): tensor for name, tensor in state.items() if not name.endswith("version")}
    tensors["decoder.image_position_idx"] = tensors["decoder.image_position_idx"][:-1]  # as the port has it
    if kind == "bin":
        torch.save(tensors, folder / "pytorch_model.bin")
        return folder
    tensors = {name: tensor.clone().contiguous() for name, tensor in tensors.items() if name not in TIED}
    if kind == "safetensors":
        save_file(tensors, folder / "model.safetensors")
        return folder
    halves = {f"model-0000{i}-of-2.safetensors": dict(list(tensors.items())[i::2]) for i in (0, 1)}
    for name, half in halves.items():
        save_file(half, folder / name)
    places = {tensor: name for name, half in halves.items() for tensor in half}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder


@pytest.mark.parametrize("kind", ["bin", "safetensors", "parts"])
def test_port_folders(tmp_path, config, state, kind):
    report = convert(write_port(tmp_path / "port", config, state, kind), tmp_path / "out")
    assert report["form"] == "port" and report["image_size"] == 256
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert all(equal(saved[to_port(n)], t) for n, t in state.items() if n not in (*BUFFERS, *TIED))
    load(tmp_path / "out")
    again = convert(tmp_path / "out", tmp_path / "again")  # a folder of ours is one too
    assert again["parameters"] == report["parameters"]


def broken(state, **changes):
    return {name: t for name, t in {**state, **changes}.items() if t is not None}


BROKEN = {
    "missing": (
        {"decoder.layers.1.encoder_attn.c_attn": None, "encoder.pos_ln.bias": None},
        "missing: decoder.layers.1.cross_attn.c_attn, encoder.pos_ln.bias$",
    ),
    "missing embedding": ({"encoder.embed_tokens.weight": None}, "missing: encoder.embed_tokens.weight$"),
    "missing head": ({"decoder.output_projection.weight": None}, "missing: decoder.output_projection.weight$"),
    "missing counter": (
        {"encoder.embed_images.bn1.num_batches_tracked": None},
        "missing: encoder.embed_images.bn1.num_batches_tracked$",
    ),
    "extra": ({"classification_heads.x.bias": torch.zeros(2)}, "not of this model: classification_heads.x.bias$"),
    "misshapen": (
        {"encoder.layers.0.fc2.weight": torch.zeros(24, 16)},
        "of another shape: encoder.layers.0.fc2.weight is 24 x 16, not 16 x 24$",
    ),
    "misshapen embedding": (
        {"encoder.embed_tokens.weight": torch.zeros(424, 16)},
        "of another shape: encoder.embed_tokens.weight is 424 x 16, not 425 x 16$",
    ),
    "all at once": (
        {"encoder.pos_ln.bias": None, "x": torch.zeros(1), "decoder.layer_norm.bias": torch.zeros(3)},
        "missing: encoder.pos_ln.bias; not of this model: x; of another shape: decoder.layer_norm.bias is 3, not 16$",
    ),
    "untied": (
        {"decoder.output_projection.weight": torch.zeros(425, 16)},
        "different from encoder.embed_tokens.weight.*: decoder.output_projection.weight$",
    ),
    "whole numbers": (
        {"encoder.pos_ln.bias": torch.zeros(16).int()},
        "no plain floating-point numbers: encoder.pos_ln.bias$",
    ),
    "sparse": (
        {"encoder.pos_ln.bias": torch.zeros(16).to_sparse()},
        "no plain floating-point numbers: encoder.pos_ln.bias$",
    ),
    "another table": (
        {"encoder.image_rp_bucket": torch.zeros(37, 37).long()},
        "index tables that this model computes otherwise: encoder.image_rp_bucket$",
    ),
    "no tensor": ({"encoder.pos_ln.bias": [0.0]}, "encoder.pos_ln.bias should be tensors"),
}


@pytest.mark.parametrize("which", BROKEN)
def test_every_tensor_is_accounted_for(tmp_path, config, state, which):
    changes, message = BROKEN[which]
    path = write_checkpoint(tmp_path / "c.pt", config, broken(state, **changes))
    with pytest.raises(ValueError, match=message):
        convert(path, tmp_path / "out")
    assert os.listdir(tmp_path) == ["c.pt"], "nothing is left behind"


@pytest.mark.parametrize("freeze", [False, True])
def test_buffers_may_be_absent(tmp_path, config, state, freeze):
    """Index tables are computed; frozen batch norms have no counters, and others need none."""
    bare = {n: t for n, t in state.items() if n not in BUFFERS and not n.endswith("num_batches_tracked")}
    convert(write_checkpoint(tmp_path / "c.pt", config, bare, freeze_resnet=freeze), tmp_path / "out")
    model = load(tmp_path / "out")
    assert model.config.freeze_resnet is freeze
    back = to_original(load_file(tmp_path / "out" / "model.safetensors"))
    assert all(equal(back[name], bare[name]) for name in bare)
    assert any(name.endswith("num_batches_tracked") for name in back) is not freeze


def test_synchronised_batch_norms(tmp_path, config, state):
    convert(write_checkpoint(tmp_path / "c.pt", config, state, sync_bn=True, freeze_resnet=True), tmp_path / "out")
    stem = load(tmp_path / "out").encoder.embed_images
    assert type(stem.bn1) is torch.nn.BatchNorm2d and stem.bn1.eps == stem.layer3[0].bn2.eps == 1e-3


def test_averaged_weights(tmp_path, config, state):
    averaged = {n: (t.float() + 1 if t.is_floating_point() else t) for n, t in state.items() if n not in TIED}
    averaged |= dict.fromkeys(TIED, averaged["encoder.embed_tokens.weight"])
    path = write_checkpoint(tmp_path / "c.pt", config, state, ema=averaged)
    plain = convert(path, tmp_path / "plain")
    assert "--ema" in plain["notes"][0]
    assert convert(path, tmp_path / "ema", ema=True)["averaged"]
    for folder, source in (("plain", state), ("ema", averaged)):
        saved = load_file(tmp_path / folder / "model.safetensors")
        assert equal(saved["encoder.layers.0.fc1.weight"], source["encoder.layers.0.fc1.weight"])
    with pytest.raises(ValueError, match="no averaged weights"):
        convert(write_checkpoint(tmp_path / "d.pt", config, state), tmp_path / "out", ema=True)


def test_a_larger_vocabulary(tmp_path, config, state):
    path = write_checkpoint(tmp_path / "c.pt", config, state)
    report = convert(path, tmp_path / "out", vocab_size=430)
    assert report["vocab_size"] == 430 and "grown from 425 to 430" in report["notes"][-1]
    rows = load_file(tmp_path / "out" / "model.safetensors")["encoder.embed_tokens.weight"]
    assert rows.shape == (430, 16) and equal(rows[:425], state["encoder.embed_tokens.weight"])
    assert 0.1 < rows[425:].float().std() < 0.4, "about width^-0.5"
    assert load(tmp_path / "out").decoder.output_projection.out_features == 430
    with pytest.raises(ValueError, match="has 425 ids and can only grow, got 400"):
        convert(path, tmp_path / "small", vocab_size=400)


def test_a_tokenizer_beside_the_model(tmp_path, config, state):
    (tmp_path / "bpe").mkdir()
    encode = write_bpe(tmp_path / "bpe")
    path = write_checkpoint(tmp_path / "c.pt", config, state)
    assert convert(path, tmp_path / "out", bpe=tmp_path / "bpe")["tokenizer"]
    processor = OFAProcessor.from_pretrained(tmp_path / "out")
    assert processor.image_size == 96 and processor.max_image_size == 512
    assert (processor.first_bin, processor.n_bins) == (405, 20)
    assert processor(text="a dog")["input_ids"].tolist() == [[0, *encode(" a dog"), 2]]
    small_tokenizer(n_bins=19).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"the tokenizer has \d+ ids, the model 425"):
        convert(path, tmp_path / "out2", bpe=tmp_path / "other")


class Evil:
    def __reduce__(self):
        return os.mkdir, ("owned",)


@pytest.mark.parametrize("where", ["model", "args", "port", "plain pickle"])
def test_a_malicious_pickle_is_refused(tmp_path, monkeypatch, config, state, where):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "c.pt"
    if where == "model":
        write_checkpoint(path, config, {**state, "x": Evil()})
    elif where == "args":
        torch.save({"model": state, "args": argparse.Namespace(arch=Evil())}, path)
    elif where == "port":
        path = write_port(tmp_path / "port", config, state)
        torch.save({"x": Evil()}, path / "pytorch_model.bin")
    else:
        path.write_bytes(pickle.dumps({"model": Evil()}, protocol=2))
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(ValueError, match=r"refers to (posix|nt).mkdir, which weights have no need of; refused$"):
        convert(path, tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_logged_numbers_of_numpy_are_harmless(tmp_path, config, state, module):
    path = write_checkpoint(tmp_path / "c.pt", config, state, lr=np.float64(0.5), seed=np.int64(7))
    if module == "numpy.core.multiarray":  # older numpy; the archive's checksum is then another
        with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "old.pt", "w") as new:
            for item in old.infolist():
                data = old.read(item)
                new.writestr(item, data.replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n"))
        path = tmp_path / "old.pt"
    assert module.encode() + b"\n" in path.read_bytes()
    values = read_source(path).values
    assert values["lr"] == 0.5 and values["seed"] == 7 and type(values["lr"]) is float


def test_bad_files(tmp_path, config, state):
    whole = write_checkpoint(tmp_path / "c.pt", config, state).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "new.pt").write_bytes(pickle.dumps(Evil(), protocol=5))
    torch.save({"encoder.x": torch.zeros(1)}, tmp_path / "flat.pt")
    torch.save({"model": state}, tmp_path / "bare.pt")
    torch.save({"model": state, "args": 3}, tmp_path / "number.pt")
    (tmp_path / "empty").mkdir()
    (tmp_path / "bart").mkdir()
    (tmp_path / "bart" / "config.json").write_text('{"model_type": "bart"}')
    (tmp_path / "weightless").mkdir()
    (tmp_path / "weightless" / "config.json").write_text('{"model_type": "ofa"}')
    for name, message in {
        "none.pt": "no such file or folder",
        "cut.pt": "damaged, cut short, or",
        "text.pt": "damaged, cut short, or",
        "new.pt": "holds more than tensors and plain values",
        "flat.pt": "expected a fairseq checkpoint.*give the folder",
        "bare.pt": "neither 'args' nor 'cfg'",
        "number.pt": "'args' should be a Namespace or a dict, got int",
        "empty": "config.json cannot be read",
        "bart": "model_type 'ofa'",
        "weightless": "no weights; expected model.safetensors or pytorch_model.bin",
    }.items():
        with pytest.raises(ValueError, match=message) as caught:
            convert(tmp_path / name, tmp_path / "out")
        assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").touch()
    with pytest.raises(ValueError, match="is there already"):
        convert(tmp_path / "c.pt", tmp_path / "taken")
    assert os.listdir(tmp_path / "taken") == ["mine"] and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resnet_type": "ViT-B/16"}, "resnet_type must be one of"),
        ({"encoder_prompt": True}, "encoder_prompt is set"),
        ({"max_target_positions": 32}, "must be equal"),
        ({"decoder_normalize_before": False}, "decoder_normalize_before must be True"),
        ({"encoder_layers": 10**9}, "encoder_layers must be from 1 to 1000"),
        ({"dropout": "none"}, "dropout must be of type float"),
        ({"encoder_attention_heads": 3}, "must divide d_model"),
    ],
)
def test_other_models_are_refused(tmp_path, config, state, changes, message):
    with pytest.raises(ValueError, match=message):
        convert(write_checkpoint(tmp_path / "c.pt", config, state, **changes), tmp_path / "out")


def test_nothing_half_written_where_writing_fails(tmp_path, monkeypatch, config, state):
    path = write_checkpoint(tmp_path / "c.pt", config, state)
    monkeypatch.setattr(OFAConfig, "save_pretrained", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        convert(path, tmp_path / "out")
    assert os.listdir(tmp_path) == ["c.pt"]


@needs_reference
def test_the_recorded_checkpoint(tmp_path):
    convert(REFERENCE / "checkpoint.pt", tmp_path / "a")
    convert(REFERENCE / "port", tmp_path / "b")
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)
    configs = [OFAConfig.from_pretrained(tmp_path / name).to_dict() for name in "ab"]
    assert configs[0] == configs[1], "the port says the same as the arguments"
    with torch.serialization.safe_globals([argparse.Namespace]):
        original = torch.load(REFERENCE / "checkpoint.pt", weights_only=True)["model"]
    back = to_original(a, OFAConfig.from_pretrained(tmp_path / "a"))
    for line in (REFERENCE / "state_dict_names.txt").read_text().splitlines():
        name, shape, dtype = line.split("\t")
        assert str(tuple(back[name].shape)) == shape and equal(back[name], original[name])
        assert str(back[name].dtype) == f"torch.{dtype}"
    model = load(tmp_path / "a").eval()
    inputs, recorded = case("text_pad")
    with torch.no_grad():
        logits = model(input_ids=inputs["src_tokens"], decoder_input_ids=inputs["prev_output_tokens"]).logits
    valid = recorded["tgt_valid"]
    torch.testing.assert_close(logits[valid], recorded["logits"][valid], rtol=0, atol=1e-4)


def test_positions_of_codes_end_as_the_originals_whatever_the_size(config):
    grid = 1 + (config.code_image_size // 8) ** 2
    table = to_original({}, config)["decoder.image_position_idx"]
    assert config.image_bucket_size**2 < 1024 and table[grid:].tolist() == [1024] * 769 and table[:grid].max() < 1024


def test_tensors_under_both_names_are_named(tmp_path, config, state):
    twice = {**state, "decoder.layers.0.cross_attn_mid_layer_norm.bias": state["decoder.layers.0.cross_attn_ln.bias"]}
    path = write_checkpoint(tmp_path / "c.pt", config, twice)
    with pytest.raises(OFAConversionError, match=r"twice.*port's: decoder\.layers\.0\.cross_attn_ln\.bias; leave one"):
        convert(path, tmp_path / "out")


def test_averaged_weights_in_a_place_of_their_own_are_noted(tmp_path, config, state):
    whole = load_pickle(write_checkpoint(tmp_path / "c.pt", config, state))
    path = tmp_path / "d.pt"
    torch.save({**whole, "ema": whole["model"]}, path)
    assert any("top-level entry 'ema'" in note for note in convert(path, tmp_path / "out")["notes"])
    with pytest.raises(ValueError, match=r"no averaged weights .*top-level entry 'ema'"):
        convert(path, tmp_path / "other", ema=True)


@needs_reference
def test_the_recorded_index_tables():
    tables = torch.load(REFERENCE / "buckets.pt", weights_only=True)
    config = OFAConfig.from_pretrained(REFERENCE / "port")
    back = to_original({}, config)
    token, image = back["encoder.token_rp_bucket"], back["decoder.image_rp_bucket"]
    assert torch.equal(back["decoder.image_position_idx"], tables["decoder_image_position_idx"])
    assert torch.equal(token[0], tables["token_row0"]) and torch.equal(token[:, 0], tables["token_col0"])
    assert torch.equal(token[500], tables["token_row500"]) and token.sum() == tables["token_sum"]
    assert torch.equal(image[0], tables["image_row0"]) and torch.equal(image[:, 0], tables["image_col0"])
    assert torch.equal(image[-1], tables["image_last"]) and image.sum() == tables["image_sum"]
