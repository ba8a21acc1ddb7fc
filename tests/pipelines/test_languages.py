"""Languages of translation models, with Transformers' own tokenizers: codes found by ISO 639, and how the model is told."""

from types import SimpleNamespace as N

import pytest
from transformers import MBart50Tokenizer, NllbTokenizer

from deed.pipelines.languages import languages_of, prompt_of


class Words:
    """A tokenizer with nothing but a vocabulary."""

    def __init__(self, *tokens, **more):
        self.tokens = {token: i for i, token in enumerate(tokens)}
        vars(self).update(more)

    def get_vocab(self):
        return self.tokens


def model_of(kind, **config):
    return N(config=N(model_type=kind, **config), generation_config=N(forced_bos_token_id=None))


def test_nllb_by_its_own_code_or_iso():
    tok, model = NllbTokenizer(), model_of("m2m_100")
    languages = languages_of(model, tok)
    assert languages.kind == "nllb"
    for given, code in (
        ("de", "deu_Latn"),
        ("deu_Latn", "deu_Latn"),
        ("zh", "zho_Hans"),
        ("sr", "srp_Cyrl"),
        ("ar", "arb_Arab"),
        ("zh-TW", "zho_Hant"),
    ):
        assert languages.code(given) == code, given
    prefix, options = prompt_of(languages, model, tok, "fr", "de")
    assert (prefix, tok.src_lang) == ("", "fra_Latn")
    assert options == {"forced_bos_token_id": tok.convert_tokens_to_ids("deu_Latn")}
    for unknown in ("tlh", "no language at all"):
        with pytest.raises(ValueError, match=f"'{unknown}'.*and 1"):
            languages.code(unknown)
    with pytest.raises(ValueError, match="tgt_lang= one of"):
        prompt_of(languages, model, tok, "fr", None)


def test_mbart():
    tok, model = MBart50Tokenizer(), model_of("mbart")
    languages = languages_of(model, tok)
    assert languages.kind == "mbart"
    assert [languages.code(x) for x in ("de", "en", "de_DE", "zh", "pt")] == [
        "de_DE",
        "en_XX",
        "de_DE",
        "zh_CN",
        "pt_XX",
    ]
    _, options = prompt_of(languages, model, tok, "en", "de")
    assert tok.src_lang == "en_XX"
    assert options["forced_bos_token_id"] == tok.convert_tokens_to_ids("de_DE")


def test_a_model_that_forces_its_target_need_not_be_told():
    tok, model = MBart50Tokenizer(), model_of("mbart")
    model.generation_config.forced_bos_token_id = 7
    assert prompt_of(languages_of(model, tok), model, tok, None, None) == ("", {})


def test_m2m100():
    tok = Words("a", "__en__", "__de__", "__zh__", src_lang=None)
    languages = languages_of(model_of("m2m_100"), tok)
    assert prompt_of(languages, model_of("m2m_100"), tok, "en", "zh-Hans") == ("", {"forced_bos_token_id": 3})
    assert tok.src_lang == "en"


def test_a_token_before_the_text():
    madlad = Words("<2de>", "<2zh>", "<2zh_Hant>")
    model = model_of("t5")
    languages = languages_of(model, madlad)
    assert prompt_of(languages, model, madlad, None, "de") == ("<2de> ", {})
    assert prompt_of(languages, model, madlad, None, "zh-Hant")[0] == "<2zh_Hant> "
    marian = Words(">>deu<<", ">>fra<<")
    languages = languages_of(model_of("marian"), marian)
    assert prompt_of(languages, model_of("marian"), marian, None, "de") == (">>deu<< ", {})
    with pytest.raises(ValueError, match="tgt_lang="):
        prompt_of(languages, model_of("marian"), marian, None, None)


def test_one_pair():
    marian, model = Words("a", source_lang="en", target_lang="de"), model_of("marian")
    languages = languages_of(model, marian)
    assert (
        prompt_of(languages, model, marian, "en", "de")
        == prompt_of(languages, model, marian, "eng", "deu")
        == ("", {})
    )
    with pytest.raises(ValueError, match="from en to de"):
        prompt_of(languages, model, marian, "en", "fr")


def test_t5_takes_its_configured_prefix():
    model = model_of("t5", task_specific_params={"translation_en_to_fr": {"prefix": "to french: "}})
    languages = languages_of(model, Words("a"))
    assert prompt_of(languages, model, None, "en", "fr")[0] == "to french: "
    assert prompt_of(languages, model, None, None, "de")[0] == "translate English to German: "
    assert prompt_of(languages, model, None, None, None)[0] == ""
