"""A Whisper that CTranslate2 converted (what faster-whisper downloads) as `WhisperForConditionalGeneration`.

`model.bin` has the weights, query, key and value as one matrix each (python/ctranslate2/specs/{whisper,transformer}_spec.py);
`config.json` what generation has to suppress and which heads align; `vocabulary.json` or `.txt` the tokens by id. Token ids of
tasks, languages and timestamps differ between models (51,864 tokens: English only; 51,865 and 51,866: multilingual), so they
are read from the vocabulary.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from deed.errors import DeedLoadError
from deed.utils.files import read_json

from .binary import Arrays, read_arrays

if TYPE_CHECKING:
    from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration

VOCABULARIES = ("vocabulary.json", "vocabulary.txt")
STEP = 0.02  # seconds between two timestamps


def read_ctranslate2_whisper(folder: Path, dtype: torch.dtype = torch.float32) -> WhisperForConditionalGeneration:
    """Read a folder with `model.bin`, `config.json` and a vocabulary; float32, float16, bfloat16, int8 and int16 weights.

    Args:
        folder: as `ct2-transformers-converter` writes it.
        dtype: of the model's weights.

    Returns:
        The model in evaluation mode, its generation configuration as Whisper's own: suppressed tokens, languages, tasks,
        timestamps, alignment heads.

    Raises:
        DeedLoadError: a file is missing or damaged, or holds another model.
    """
    from transformers import WhisperForConditionalGeneration

    path = folder / "model.bin"
    name, found = read_arrays(path)
    if name != "WhisperSpec":
        raise DeedLoadError(f"{path} holds a {name}, not a Whisper")
    arrays = Arrays(found, path)
    tokens = _vocabulary(folder)
    config = _config(arrays, tokens)
    with torch.device("meta"):
        model = WhisperForConditionalGeneration(config)
    state = _state(arrays, config)
    expected = model.state_dict()
    wrong = [key for key, value in state.items() if key not in expected or expected[key].shape != value.shape]
    missing = sorted(set(expected) - set(state))
    if wrong or missing:
        raise DeedLoadError(f"{path} does not fit a Whisper: {[*wrong, *missing][:4]} are missing or of another size")
    model.load_state_dict({key: value.to(dtype) for key, value in state.items()}, assign=True)
    model.tie_weights()
    model.generation_config = _generation_config(folder, config, tokens)
    return model.eval()


def _config(arrays: Arrays, tokens: list[str]) -> WhisperConfig:
    from transformers import WhisperConfig

    embedding = arrays.take("decoder/embeddings/weight")
    encoder, decoder = arrays.count("encoder/layer_{}/"), arrays.count("decoder/layer_{}/")
    if embedding.ndim != 2 or not encoder or not decoder:
        raise DeedLoadError(f"{arrays.path} has no encoder or decoder layers")
    if len(tokens) < embedding.shape[0]:
        raise DeedLoadError(f"{arrays.path} knows {embedding.shape[0]} tokens, its vocabulary {len(tokens)}")
    ids = {token: i for i, token in enumerate(tokens)}
    end, start = _id(ids, "<|endoftext|>", arrays.path), _id(ids, "<|startoftranscript|>", arrays.path)
    return WhisperConfig(
        vocab_size=embedding.shape[0],
        num_mel_bins=arrays.take("encoder/conv1/weight").shape[1],
        d_model=embedding.shape[1],
        encoder_layers=encoder,
        decoder_layers=decoder,
        encoder_attention_heads=arrays.number("encoder/num_heads"),
        decoder_attention_heads=arrays.number("decoder/num_heads"),
        encoder_ffn_dim=arrays.take("encoder/layer_0/ffn/linear_0/weight").shape[0],
        decoder_ffn_dim=arrays.take("decoder/layer_0/ffn/linear_0/weight").shape[0],
        max_source_positions=arrays.take("encoder/position_encodings/encodings").shape[0],
        max_target_positions=arrays.take("decoder/position_encodings/encodings").shape[0],
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=start,
    )


def _id(ids: dict[str, int], token: str, path: Path) -> int:
    if token not in ids:
        raise DeedLoadError(f"the vocabulary beside {path} has no {token}, so it is not Whisper's")
    return ids[token]


def _state(arrays: Arrays, config: WhisperConfig) -> dict[str, torch.Tensor]:
    """The state dict by Transformers' names."""
    state: dict[str, torch.Tensor] = {}
    for side, layers in (("encoder", config.encoder_layers), ("decoder", config.decoder_layers)):
        root = f"model.{side}"
        state[f"{root}.embed_positions.weight"] = arrays.take(f"{side}/position_encodings/encodings")
        _norm(arrays, state, f"{side}/layer_norm", f"{root}.layer_norm")
        for i in range(layers):
            ours, theirs = f"{root}.layers.{i}", f"{side}/layer_{i}"
            _attention(arrays, state, f"{theirs}/self_attention", f"{ours}.self_attn", fused=3)
            _norm(arrays, state, f"{theirs}/self_attention/layer_norm", f"{ours}.self_attn_layer_norm")
            if side == "decoder":
                _attention(arrays, state, f"{theirs}/attention", f"{ours}.encoder_attn", fused=2)
                _norm(arrays, state, f"{theirs}/attention/layer_norm", f"{ours}.encoder_attn_layer_norm")
            for n in (0, 1):
                _linear(arrays, state, f"{theirs}/ffn/linear_{n}", f"{ours}.fc{n + 1}")
            _norm(arrays, state, f"{theirs}/ffn/layer_norm", f"{ours}.final_layer_norm")
    for n in (1, 2):
        _linear(arrays, state, f"encoder/conv{n}", f"model.encoder.conv{n}")
    state["model.decoder.embed_tokens.weight"] = arrays.take("decoder/embeddings/weight")
    state["proj_out.weight"] = state["model.decoder.embed_tokens.weight"]
    return state


def _linear(arrays: Arrays, state: dict[str, torch.Tensor], theirs: str, ours: str) -> None:
    state[f"{ours}.weight"], state[f"{ours}.bias"] = arrays.take(f"{theirs}/weight"), arrays.take(f"{theirs}/bias")


def _norm(arrays: Arrays, state: dict[str, torch.Tensor], theirs: str, ours: str) -> None:
    state[f"{ours}.weight"], state[f"{ours}.bias"] = arrays.take(f"{theirs}/gamma"), arrays.take(f"{theirs}/beta")


def _attention(arrays: Arrays, state: dict[str, torch.Tensor], theirs: str, ours: str, fused: int) -> None:
    """Self-attention has query, key and value in one linear and the output in the next; attention to the source has the
    query alone first, then key and value in one. Keys have no bias in Whisper; a fused bias holds zeros for them."""
    names = ["q_proj", "k_proj", "v_proj"]
    if fused == 2:
        _linear(arrays, state, f"{theirs}/linear_0", f"{ours}.q_proj")
        names = names[1:]
    place = f"{theirs}/linear_{3 - fused}"
    weights, biases = arrays.take(f"{place}/weight").chunk(fused), arrays.take(f"{place}/bias").chunk(fused)
    for name, weight, bias in zip(names, weights, biases, strict=True):
        state[f"{ours}.{name}.weight"] = weight.contiguous()
        if name != "k_proj":
            state[f"{ours}.{name}.bias"] = bias.contiguous()
    _linear(arrays, state, f"{theirs}/linear_{4 - fused}", f"{ours}.out_proj")


def _vocabulary(folder: Path) -> list[str]:
    """Tokens by id."""
    for name in VOCABULARIES:
        path = folder / name
        if not path.is_file():
            continue
        try:
            found = (
                read_json(path, DeedLoadError, list) if path.suffix == ".json" else path.read_text("utf-8").split("\n")
            )
        except (OSError, UnicodeDecodeError) as error:
            raise DeedLoadError(f"{path} cannot be read: {error}") from None
        if not all(isinstance(token, str) for token in found):
            raise DeedLoadError(f"{path} must be a list of tokens")
        return found[:-1] if found and found[-1] == "" else found
    raise DeedLoadError(f"{folder} has none of {', '.join(VOCABULARIES)}")


def _generation_config(folder: Path, config: WhisperConfig, tokens: list[str]) -> GenerationConfig:
    from transformers import GenerationConfig

    about = _about(folder)
    ids = {token: i for i, token in enumerate(tokens)}
    wanted = ("transcribe", "translate", "startofprev", "notimestamps")
    marks = {name: ids[f"<|{name}|>"] for name in wanted if f"<|{name}|>" in ids}
    if "notimestamps" not in marks:
        raise DeedLoadError(f"the vocabulary in {folder} has no <|notimestamps|>, so it is not Whisper's")
    languages = {tokens[i]: i for i in about.get("lang_ids", []) if i < len(tokens)}
    multilingual = config.vocab_size >= 51865
    values: dict[str, Any] = {
        "max_length": config.max_target_positions,
        "suppress_tokens": about.get("suppress_ids"),
        "begin_suppress_tokens": about.get("suppress_ids_begin"),
        "alignment_heads": about.get("alignment_heads"),
        "no_timestamps_token_id": marks["notimestamps"],
        "max_initial_timestamp_index": round(1 / STEP),
        "prev_sot_token_id": marks.get("startofprev"),
        "is_multilingual": multilingual,
        "return_timestamps": False,
        **{f"{name}_token_id": getattr(config, f"{name}_token_id") for name in ("pad", "bos", "eos", "decoder_start")},
    }
    if multilingual:
        values["lang_to_id"] = languages
        values["task_to_id"] = {name: _id(ids, f"<|{name}|>", folder) for name in ("transcribe", "translate")}
    return GenerationConfig(**{key: value for key, value in values.items() if value is not None})


def _about(folder: Path) -> dict[str, Any]:
    """`config.json`: ids of languages, suppressed ids, alignment heads."""
    path = folder / "config.json"
    about: dict[str, Any] = read_json(path, DeedLoadError)
    for key in ("lang_ids", "suppress_ids", "suppress_ids_begin"):
        if not all(isinstance(i, int) and not isinstance(i, bool) and i >= -1 for i in _list(about, key, path)):
            raise DeedLoadError(f"{path}: {key} must be a list of token ids")
    for pair in _list(about, "alignment_heads", path):
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(i, int) for i in pair):
            raise DeedLoadError(f"{path}: alignment_heads must be a list of [layer, head], got {pair!r} in it")
    return about


def _list(about: dict[str, Any], key: str, path: Path) -> list[Any]:
    value = about.get(key) or []
    if not isinstance(value, list):
        raise DeedLoadError(f"{path}: {key} must be a list, got {value!r}")
    return value
