"""Summaries, translations and text to text on tiny models with tokenizers made here: equal to `generate()` by hand."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import M2M100Config, M2M100ForConditionalGeneration, NllbTokenizer, PreTrainedTokenizerFast

import deed
from conftest import plain_model
from deed import DeedConfig, get_deed_model

WORDS = ["translate", "English", "to", "German:", "summarize:", *(f"w{i}" for i in range(31))]


def tokenizer(special=("<s>", "<pad>", "</s>", "<unk>"), length=64):
    names = dict(zip(("bos", "pad", "eos", "unk"), special, strict=True))
    vocab = {token: i for i, token in enumerate([*special, *WORDS])}
    inner = Tokenizer(models.WordLevel(vocab, unk_token=names["unk"]))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single=f"$A {names['eos']}", special_tokens=[(names["eos"], vocab[names["eos"]])]
    )
    tokens = {f"{name}_token": token for name, token in names.items()}
    return PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=length, **tokens)


@pytest.fixture(scope="module")
def bart():
    model = get_deed_model(plain_model("bart").eval(), DeedConfig(threshold=0.5))
    model.generation_config.min_new_tokens = 4  # this one would end at once
    model.generation_config.suppress_tokens = [0, 1, 3]
    return model


@pytest.fixture(scope="module")
def words():
    return tokenizer()


def by_hand(model, tok, text, **options):
    inputs = {k: v for k, v in tok(text, return_tensors="pt").items() if k != "token_type_ids"}
    out = model.generate(**inputs, **options, return_dict_in_generate=True)
    return tok.decode(out.sequences[0], skip_special_tokens=True).strip(), out.exit_layers


def test_a_batch_equals_each_text_alone(bart, words):
    texts = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w1 w2", "w3 w3"]
    pipe = deed.pipeline("text2text", bart, processor=words, batch_size=2, max_new_tokens=7)
    results = pipe(texts)
    for text, result in zip(texts, results, strict=True):
        expected, depths = by_hand(bart, words, text, max_new_tokens=7)
        kept = depths[depths > 0]
        assert result == {"generated_text": expected, "depth": pytest.approx(kept.float().mean().item())}
    assert pipe(texts[0]) == results[0]
    assert len({result["depth"] for result in results}) > 1


def test_threshold_of_the_pipeline_and_of_a_call(bart, words):
    pipe = deed.pipeline("text2text", bart, processor=words, threshold=2.0, max_new_tokens=5)
    assert pipe("w1 w2")["depth"] == 5.0
    assert pipe("w1 w2", threshold=0.0)["depth"] == 1.0


def test_streaming_gives_the_same_text(bart, words):
    pipe = deed.pipeline("text2text", bart, processor=words, max_new_tokens=7)
    pieces = list(pipe.stream("w1 w2 w3"))
    assert "".join(pieces).strip() == pipe("w1 w2 w3")["generated_text"]
    assert len(pieces) > 1


def test_beams_of_the_models_own_settings_give_way(bart, words):
    model = get_deed_model(plain_model("bart").eval(), DeedConfig(threshold=0.5))
    model.generation_config.num_beams = 4
    vars(model.generation_config).update(min_new_tokens=4, suppress_tokens=[0, 1, 3])
    greedy, _ = by_hand(model, words, "w1 w2 w3", max_new_tokens=7, num_beams=1, exit_threshold=2.0)
    pipe = deed.pipeline("text2text", model, processor=words, max_new_tokens=7, exact=True)
    assert pipe("w1 w2 w3")["generated_text"] == greedy
    assert "".join(pipe.stream("w1 w2 w3")).strip() == greedy
    with pytest.raises(ValueError, match="beams are known at their end"):
        list(pipe.stream("w1", num_beams=2))
    with pytest.raises(ValueError, match="reduce=True needs"):
        list(deed.pipeline("summarize", model, processor=words).stream("w1", reduce=True))


def test_paragraphs_stay_in_a_stream(bart, words):
    pipe = deed.pipeline("translate", bart, processor=words, max_new_tokens=5)
    text = "w1 w2\n\nw3 w4"
    streamed = [line.strip() for line in "".join(pipe.stream(text)).split("\n")]
    assert streamed == pipe(text)["translation_text"].split("\n")


def test_leaving_a_stream_stops_generation(bart, words):
    pipe = deed.pipeline("text2text", bart, processor=words, max_new_tokens=60)
    stream = pipe.stream("w1 w2 w3")
    next(stream)
    stream.close()  # joins the worker: hangs or leaks if generation does not stop


def test_errors_of_a_stream_reach_the_caller(bart, words):
    pipe = deed.pipeline("text2text", bart, processor=words, max_new_tokens=3)
    with pytest.raises(ValueError, match="no_such_option"):
        list(pipe.stream("w1", no_such_option=1))


def test_long_texts_are_summarized_in_pieces(bart):
    short = tokenizer(length=8)
    pipe = deed.pipeline("summarize", bart, processor=short, max_new_tokens=4)
    text = "w1 w2 w3 w4 w5. w6 w7 w8 w9 w10 w11 w12. w13 w14 w15"
    parts = [by_hand(bart, short, part, max_new_tokens=4)[0] for part in pipe.parts(text, "")]
    assert len(parts) > 1
    assert pipe(text)["summary_text"] == " ".join(parts)
    reduced = pipe([text, "w1"], reduce=True)[0]["summary_text"]
    assert len(reduced.split()) <= len(" ".join(parts).split())


def test_a_long_text_is_refused_where_pieces_make_no_sense(bart):
    pipe = deed.pipeline("text2text", bart, processor=tokenizer(length=4))
    with pytest.raises(ValueError, match="reads 3"):
        pipe("w1 w2 w3 w4 w5")


def test_task_specific_settings_of_t5(words):
    model = plain_model("t5_tied").eval()
    model.config.task_specific_params = {"summarization": {"prefix": "summarize: ", "min_length": 3, "max_length": 6}}
    tok = tokenizer(("<bos>", "<pad>", "</s>", "<unk>"))
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 1, 2
    model = get_deed_model(model, DeedConfig(threshold=2.0))
    pipe = deed.pipeline("summarize", model, processor=tok)
    expected, _ = by_hand(model, tok, "summarize: w1 w2", min_length=3, max_length=6)
    assert pipe("w1 w2")["summary_text"] == expected


def test_t5_is_told_the_pair_in_words(words):
    model = get_deed_model(plain_model("t5_tied").eval(), DeedConfig(threshold=2.0))
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 1, 2
    pipe = deed.pipeline("translation_en_to_de", model, processor=words, max_new_tokens=5)
    expected, _ = by_hand(model, words, "translate English to German: w1 w2", max_new_tokens=5)
    assert pipe("w1 w2\n\nw3")["translation_text"].split("\n")[0] == expected
    assert pipe("w1 w2\n\nw3")["translation_text"].count("\n") == 2
    with pytest.raises(ValueError, match="'ja'"):
        pipe("w1", tgt_lang="ja")


def test_nllb_is_told_both_languages():
    tok = NllbTokenizer(
        {token: i for i, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "▁", *"abcdefghij"])}, []
    )
    config = M2M100Config(
        vocab_size=len(tok),
        d_model=16,
        encoder_layers=1,
        decoder_layers=3,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        max_position_embeddings=64,
        decoder_start_token_id=2,
    )
    torch.manual_seed(0)
    model = get_deed_model(M2M100ForConditionalGeneration(config).eval(), DeedConfig(threshold=2.0))
    pipe = deed.pipeline("translate", model, processor=tok, tgt_lang="de", max_new_tokens=6)
    german, french = (tok.convert_tokens_to_ids(code) for code in ("deu_Latn", "fra_Latn"))
    seen = []
    generate = model.generate
    pipe.model.generate = lambda **kwargs: seen.append(kwargs) or generate(**kwargs)
    pipe("ab c", src_lang="fr")
    pipe("ab c", src_lang="en", tgt_lang="fr")
    pipe("ab c", src_lang="fr")
    pipe("ab c")  # a call's language does not stay
    del pipe.model.generate
    english = tok.convert_tokens_to_ids("eng_Latn")
    assert [k["forced_bos_token_id"] for k in seen] == [german, french, german, german]
    assert [k["input_ids"][0, 0].item() for k in seen] == [french, english, french, english]
    with pytest.raises(ValueError, match="'tlh'"):
        deed.pipeline("translate", model, processor=tok, tgt_lang="tlh")


def test_nothing_to_translate(words):
    model = get_deed_model(plain_model("bart").eval())
    assert deed.pipeline("translate", model, processor=words)("\n \n")["translation_text"] == "\n\n"


def test_a_plain_model_is_wrapped_and_warned_of(words):
    with pytest.warns(UserWarning, match="exact=True"):
        pipe = deed.pipeline("text2text", plain_model("bart"), processor=words, max_new_tokens=4)
    assert hasattr(pipe.model, "deed_config")
    assert not pipe.model.training


def test_bad_calls(bart, words, tmp_path):
    with pytest.raises(ValueError, match="must be one of"):
        deed.pipeline("poetry", bart, processor=words)
    with pytest.raises(ValueError, match="needs a model"):
        deed.pipeline("summarize")
    with pytest.raises(TypeError, match="processor="):
        deed.pipeline("summarize", bart)
    with pytest.raises(ValueError, match="model_kwargs"):
        deed.pipeline("summarize", bart, processor=words, model_kwargs={"dtype": torch.float32})
    with pytest.raises(ValueError, match="batch_size"):
        deed.pipeline("summarize", bart, processor=words, batch_size=0)
    with pytest.raises(deed.DeedLoadError):
        deed.pipeline("summarize", tmp_path)
    pipe = deed.pipeline("text2text", bart, processor=words)
    with pytest.raises(TypeError, match="text is expected, got int"):
        pipe(3)
    with pytest.raises(ValueError, match="one result per input"):
        pipe("w1", num_return_sequences=2)


def test_from_a_folder(bart, words, tmp_path):
    bart.save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    pipe = deed.pipeline("text2text", tmp_path, max_new_tokens=4, model_kwargs={"dtype": torch.float64})
    expected = deed.pipeline("text2text", bart, processor=words, max_new_tokens=4)("w1 w2")
    assert pipe("w1 w2") == expected
    below = {"dtype": torch.float64, "subfolder": tmp_path.name}
    assert deed.pipeline("text2text", tmp_path.parent, max_new_tokens=4, model_kwargs=below)("w1 w2") == expected
    assert deed.pipeline("text2text", bart, processor=str(tmp_path), max_new_tokens=4)("w1 w2") == expected
