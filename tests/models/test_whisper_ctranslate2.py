"""A CTranslate2 Whisper folder: read as its writer wrote it; damaged ones are refused with one sentence."""

import json
import struct

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from deed.errors import DeedLoadError
from deed.models.whisper import is_ctranslate2_whisper, read_ctranslate2_whisper
from deed.models.whisper.binary import read_arrays

TYPES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}
WORDS = 40
SPECIAL = [
    "endoftext",
    "startoftranscript",
    "en",
    "de",
    "translate",
    "transcribe",
    "startofprev",
    "nospeech",
    "notimestamps",
]


def tokens(multilingual=True):
    count = 51865 if multilingual else 51864
    found = [f"w{i}" for i in range(WORDS)] + [f"<|{name}|>" for name in SPECIAL]
    return found + [f"<|{i * 0.02:.2f}|>" for i in range(count - len(found))]


def small(multilingual=True, **changes):
    """A tiny random Whisper; every number differs from its neighbours', so that a mix-up shows."""
    torch.manual_seed(0)
    sizes = {"d_model": 16, "encoder_ffn_dim": 24, "decoder_ffn_dim": 40, "encoder_attention_heads": 2}
    sizes |= {"decoder_attention_heads": 4, "encoder_layers": 2, "decoder_layers": 3, "num_mel_bins": 8}
    sizes |= {"max_source_positions": 20, "max_target_positions": 16}
    config = WhisperConfig(vocab_size=51865 if multilingual else 51864, **{**sizes, **changes})
    model = WhisperForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def arrays_of(model, kind="float32"):
    """The model's weights by CTranslate2's names, written down here from its specification and from no code of ours."""
    state = {k.removeprefix("model."): v.numpy() for k, v in model.state_dict().items()}
    found = {"encoder/num_heads": np.int16(2), "decoder/num_heads": np.int16(4), "decoder/pre_norm": np.int8(1)}
    found["decoder/activation"] = np.int8(3)  # GELU
    found["decoder/scale_embeddings"] = np.int8(0)

    def weight(name, value):
        if kind == "int8" and value.ndim == 2 and "encodings" not in name:
            scale = 127 / np.abs(value).max(1)
            found[name] = np.rint(value * scale[:, None]).astype(np.int8)
            found[f"{name}_scale"] = scale.astype(np.float32)
        else:
            found[name] = value.astype("float16" if kind == "float16" else np.float32)

    def pair(place, ours, names=("weight", "bias")):
        for theirs, own in zip(names, ("weight", "bias"), strict=True):
            weight(f"{place}/{theirs}", state[f"{ours}.{own}"])

    def fused(place, ours, parts):
        weight(f"{place}/weight", np.concatenate([state[f"{ours}.{p}.weight"] for p in parts]))
        zeros = np.zeros(state[f"{ours}.k_proj.weight"].shape[0], np.float32)
        weight(f"{place}/bias", np.concatenate([state.get(f"{ours}.{p}.bias", zeros) for p in parts]))

    for n in (1, 2):
        pair(f"encoder/conv{n}", f"encoder.conv{n}")
    for side in ("encoder", "decoder"):
        weight(f"{side}/position_encodings/encodings", state[f"{side}.embed_positions.weight"])
        pair(f"{side}/layer_norm", f"{side}.layer_norm", ("gamma", "beta"))
        for i in range(getattr(model.config, f"{side}_layers")):
            place, ours = f"{side}/layer_{i}", f"{side}.layers.{i}"
            fused(f"{place}/self_attention/linear_0", f"{ours}.self_attn", ("q_proj", "k_proj", "v_proj"))
            pair(f"{place}/self_attention/linear_1", f"{ours}.self_attn.out_proj")
            pair(f"{place}/self_attention/layer_norm", f"{ours}.self_attn_layer_norm", ("gamma", "beta"))
            if side == "decoder":
                pair(f"{place}/attention/linear_0", f"{ours}.encoder_attn.q_proj")
                fused(f"{place}/attention/linear_1", f"{ours}.encoder_attn", ("k_proj", "v_proj"))
                pair(f"{place}/attention/linear_2", f"{ours}.encoder_attn.out_proj")
                pair(f"{place}/attention/layer_norm", f"{ours}.encoder_attn_layer_norm", ("gamma", "beta"))
            pair(f"{place}/ffn/linear_0", f"{ours}.fc1")
            pair(f"{place}/ffn/linear_1", f"{ours}.fc2")
            pair(f"{place}/ffn/layer_norm", f"{ours}.final_layer_norm", ("gamma", "beta"))
    weight("decoder/embeddings/weight", state["decoder.embed_tokens.weight"])
    return found


def write(folder, arrays, words, name="WhisperSpec", version=6, about=None):
    """A folder in CTranslate2's format."""

    def string(text):
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    content = struct.pack("<I", version) + string(name) + struct.pack("<II", 3, len(arrays))
    for key, value in arrays.items():
        value = np.asarray(value)
        content += string(key) + struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
        content += struct.pack("<BI", TYPES[value.dtype.name], value.nbytes) + value.tobytes()
    aliases = {"decoder/projection/weight": "decoder/embeddings/weight"}
    content += struct.pack("<I", len(aliases)) + b"".join(string(a) + string(b) for a, b in aliases.items())
    (folder / "model.bin").write_bytes(content)
    (folder / "vocabulary.json").write_text(json.dumps(words))
    about = {
        "lang_ids": [42, 43],
        "suppress_ids": [1, 2],
        "suppress_ids_begin": [3],
        "alignment_heads": [[1, 0]],
        **(about or {}),
    }
    (folder / "config.json").write_text(json.dumps(about))
    return folder


def whole(folder, seconds=1, **sizes):
    """A tiny random multilingual Whisper that reads so many seconds, with its tokenizer, as faster-whisper takes it."""
    sizes = {"max_source_positions": 50 * seconds, **sizes}
    words = tokens()
    words[WORDS - 1] = "<|startoflm|>"
    write(folder, arrays_of(small(**sizes)), words)
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.add_special_tokens([AddedToken(word, special=True) for word in words if not word.startswith("w")])
    inner.save(str(folder / "tokenizer.json"))
    mels = sizes.get("num_mel_bins", 8)
    WhisperFeatureExtractor(feature_size=mels, chunk_length=seconds).save_pretrained(folder)
    return folder


def logits(model):
    torch.manual_seed(1)
    features = torch.randn(2, model.config.num_mel_bins, 40)
    with torch.no_grad():
        return model(input_features=features, decoder_input_ids=torch.tensor([[41, 42, 45, 48, 7]] * 2)).logits


def test_float32_gives_the_same_logits(tmp_path):
    model = small()
    read = read_ctranslate2_whisper(write(tmp_path, arrays_of(model), tokens()))
    assert torch.equal(logits(read), logits(model))
    assert read.proj_out.weight.data_ptr() == read.model.decoder.embed_tokens.weight.data_ptr()
    assert not read.training and is_ctranslate2_whisper(tmp_path)


@pytest.mark.parametrize("kind, near", [("float16", 1e-2), ("int8", 0.15)])
def test_smaller_weights_come_back_close(tmp_path, kind, near):
    model = small()
    read = read_ctranslate2_whisper(write(tmp_path, arrays_of(model, kind), tokens()))
    for (name, ours), theirs in zip(read.state_dict().items(), model.state_dict().values(), strict=True):
        assert (ours - theirs).abs().max() <= near * theirs.abs().max() / 10, name
    assert (logits(read) - logits(model)).abs().max() < near * logits(model).abs().max()


def test_what_generation_needs(tmp_path):
    config = read_ctranslate2_whisper(write(tmp_path, arrays_of(small()), tokens())).generation_config
    assert config.task_to_id == {"transcribe": 45, "translate": 44} and config.lang_to_id == {
        "<|en|>": 42,
        "<|de|>": 43,
    }
    assert (config.decoder_start_token_id, config.eos_token_id, config.no_timestamps_token_id) == (41, 40, 48)
    assert config.suppress_tokens == [1, 2] and config.begin_suppress_tokens == [3]
    assert config.is_multilingual and config.prev_sot_token_id == 46 and config.alignment_heads == [[1, 0]]


def test_an_english_model_has_no_languages(tmp_path):
    folder = write(tmp_path, arrays_of(small(multilingual=False)), tokens(multilingual=False))
    config = read_ctranslate2_whisper(folder).generation_config
    assert not config.is_multilingual and not hasattr(config, "lang_to_id")


def test_a_vocabulary_of_lines(tmp_path):
    folder = write(tmp_path, arrays_of(small()), tokens())
    (folder / "vocabulary.json").unlink()
    (folder / "vocabulary.txt").write_text("\n".join(tokens()) + "\n")
    assert read_ctranslate2_whisper(folder).generation_config.eos_token_id == 40


def test_it_transcribes_by_itself(tmp_path):
    read = read_ctranslate2_whisper(write(tmp_path, arrays_of(small()), tokens()))
    found = read.generate(torch.randn(1, 8, 40), language="en", task="transcribe", max_new_tokens=4)
    assert found.shape[0] == 1


def bad(tmp_path, match, arrays=None, words=None, **options):
    folder = write(tmp_path, arrays or arrays_of(small()), words or tokens(), **options)
    with pytest.raises(DeedLoadError, match=match):
        read_ctranslate2_whisper(folder)


def test_other_models_are_refused(tmp_path):
    bad(tmp_path, "holds a TransformerSpec, not a Whisper", name="TransformerSpec")
    bad(tmp_path, "version 99", version=99)
    bad(tmp_path, "is not Whisper", words=[f"w{i}" for i in range(51865)])
    bad(tmp_path, "its vocabulary 7", words=list("abcdefg"))
    bad(tmp_path, "alignment_heads", about={"alignment_heads": [[1]]})
    bad(tmp_path, "lang_ids", about={"lang_ids": ["en"]})
    arrays = arrays_of(small())
    bad(tmp_path, "has no decoder/layer_1/ffn", {k: v for k, v in arrays.items() if "decoder/layer_1/ffn" not in k})
    arrays["decoder/layer_norm/gamma"] = np.zeros(3, np.float32)
    bad(tmp_path, "model.decoder.layer_norm.weight", arrays)


def test_missing_files(tmp_path):
    with pytest.raises(DeedLoadError, match=r"model\.bin cannot be read"):
        read_ctranslate2_whisper(tmp_path)
    folder = write(tmp_path, arrays_of(small()), tokens())
    (folder / "vocabulary.json").unlink()
    with pytest.raises(DeedLoadError, match="has none of vocabulary"):
        read_ctranslate2_whisper(folder)
    assert not is_ctranslate2_whisper(tmp_path / "nowhere")


def test_a_file_cut_short_anywhere_is_one_error(tmp_path):
    content = (write(tmp_path, arrays_of(small()), tokens()) / "model.bin").read_bytes()
    rng = np.random.default_rng(0)
    for end in [*range(0, 60, 3), *rng.integers(60, len(content) - 1, 40).tolist()]:
        (tmp_path / "model.bin").write_bytes(content[:end])
        with pytest.raises(DeedLoadError):
            read_arrays(tmp_path / "model.bin")


def test_sizes_that_do_not_fit_are_refused_before_memory_is_taken(tmp_path):
    head = struct.pack("<I", 6) + struct.pack("<H", 12) + b"WhisperSpec\0" + struct.pack("<II", 3, 1)
    array = struct.pack("<H", 2) + b"a\0" + struct.pack("<BII", 2, 2**31, 2**31) + struct.pack("<BI", 0, 2**32 - 1)
    (tmp_path / "model.bin").write_bytes(head + array)
    with pytest.raises(DeedLoadError, match="cannot have"):
        read_arrays(tmp_path / "model.bin")


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_ctranslate2_itself_gives_these_logits(tmp_path, kind):
    """The folder is run by CTranslate2, where that is installed: the same logits, step by step."""
    ctranslate2 = pytest.importorskip("ctranslate2")
    folder = write(tmp_path, arrays_of(small(num_mel_bins=80), kind), tokens())
    model = read_ctranslate2_whisper(folder)
    features = torch.randn(1, 80, 40)
    prompt = [41, 42, 45, 48]
    other = ctranslate2.models.Whisper(str(folder), compute_type="float32")
    view = ctranslate2.StorageView.from_array(features.numpy())
    options = {"return_logits_vocab": True, "suppress_blank": False, "suppress_tokens": [], "max_length": 12}
    found = other.generate(view, [prompt], beam_size=1, **options)[0]
    theirs = np.array([np.array(step) for step in found.logits[0]]).reshape(-1, 51865)
    ids = torch.tensor([prompt + found.sequences_ids[0]])
    with torch.no_grad():
        ours = model(input_features=features, decoder_input_ids=ids).logits[0, len(prompt) - 1 :].numpy()
    count = min(len(theirs), len(ours))
    assert count >= 3 and np.abs(theirs[:count] - ours[:count]).max() < 1e-3


def test_from_pretrained_reads_such_a_folder(tmp_path):
    import deed

    model = small()
    folder = write(tmp_path, arrays_of(model), tokens())
    with pytest.warns(UserWarning, match="untrained.*exact=True"):
        loaded = deed.from_pretrained(folder)
    assert isinstance(loaded, WhisperForConditionalGeneration) and loaded.deed_config.exit_layers == [1, 2, 3]
    torch.testing.assert_close(logits(loaded), logits(read_ctranslate2_whisper(folder)))
    features = torch.randn(1, model.config.num_mel_bins, 40)
    out = loaded.generate(features, max_new_tokens=4, exit_threshold=0.0, return_dict_in_generate=True)
    assert set(out.exit_layers[0].flatten().tolist()) <= {0, 1}
    with pytest.warns(UserWarning, match="untrained"):
        assert deed.from_pretrained(folder, dtype="bfloat16").dtype == torch.bfloat16
    with pytest.raises(ValueError, match="without revision"):
        deed.from_pretrained(folder, revision="main")
    with pytest.raises(ValueError, match="dtype must be"):
        deed.from_pretrained(folder, dtype="int4")
    loaded.save_pretrained(tmp_path / "deed")
    assert torch.equal(logits(deed.from_pretrained(tmp_path / "deed")), logits(loaded))
