"""Languages of translation models: the codes their vocabularies have, found by what a user calls a language ("de", "deu",
"de_DE", "German model's own code"), and how a model is told of them.

| Model | Token of a language | Told by |
|---|---|---|
| NLLB | `deu_Latn` | source: the tokenizer; target: the first generated token |
| mBART | `de_DE` | the same |
| M2M100 | `__de__` | the same |
| MADLAD-400 | `<2de>` | the target's token before the text |
| Marian, many targets | `>>deu<<` | the target's token before the text |
| T5 | none | "translate English to German: " before the text |
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from deed.utils.optional import need

from .long_text import INSTALL

# Kind by the form of its tokens; the group is the code.
_FORMS = {
    "nllb": re.compile(r"([a-z]{3}_[A-Z][a-z]{3})"),
    "mbart": re.compile(r"([a-z]{2}_[A-Z]{2})"),
    "m2m": re.compile(r"__([a-z]{2,3})__"),
    "madlad": re.compile(r"<2([A-Za-z_-]{2,12})>"),
    "marian": re.compile(r">>([A-Za-z_-]{2,12})<<"),
}
NEAR = 12  # of CLDR's distance between languages: the same language, or one that its speakers read
_PREFIXED = ("madlad", "marian")
_T5 = {"en": "English", "de": "German", "fr": "French", "ro": "Romanian"}


@dataclass(frozen=True)
class Languages:
    """The languages of one model.

    Attributes:
        kind: a key of the table's rows; `"t5"`; or empty: one pair, which the model does not need to be told.
        tokens: token ids by code.
    """

    kind: str
    tokens: dict[str, int]

    def code(self, language: str) -> str:
        """The model's own code of a language.

        Raises:
            ValueError: the model does not have it; says which it has.
        """
        if language in self.tokens:
            return language
        matching = need("langcodes", INSTALL)
        own = {code.removesuffix("_XX").replace("_", "-"): code for code in self.tokens}
        try:  # by CLDR's distances: "ar" finds Standard Arabic, "zh-TW" Chinese in traditional script
            near = matching.closest_supported_match(language.replace("_", "-"), list(own), max_distance=NEAR)
        except matching.LanguageTagError:
            near = None
        if near is not None:
            return own[near]
        known = sorted(self.tokens)
        more = f" and {len(known) - 12} more" if len(known) > 12 else ""
        raise ValueError(f"this model has no language {language!r}; it has {', '.join(known[:12])}{more}")


def languages_of(model: Any, tokenizer: Any) -> Languages:
    """The languages that a model's vocabulary has tokens for."""
    found: dict[str, dict[str, int]] = {kind: {} for kind in _FORMS}
    for token, index in {**tokenizer.get_vocab(), **getattr(tokenizer, "added_tokens_encoder", {})}.items():
        for kind, form in _FORMS.items():
            if match := form.fullmatch(token):
                found[kind][match.group(1)] = index
    kind = max(found, key=lambda name: len(found[name]))
    if len(found[kind]) > 1:
        return Languages(kind, found[kind])
    if model.config.model_type in ("t5", "mt5", "umt5"):
        return Languages("t5", dict.fromkeys(_T5, -1))
    return Languages("", {})


def prompt_of(
    languages: Languages, model: Any, tokenizer: Any, source: str | None, target: str | None
) -> tuple[str, dict[str, Any]]:
    """How the model is told: what stands before the text, and options of `generate()`. Tells the tokenizer the source language
    where it has to know.

    Args:
        languages: of `languages_of`.
        model: whose configuration may hold T5's prefixes.
        tokenizer: of the model.
        source: language of the text; None: the tokenizer's own, or what the model takes for granted.
        target: language wanted; None: what the model takes for granted.

    Raises:
        ValueError: a language that the model does not have, or one that is missing.
    """
    kind = languages.kind
    if not kind:
        pair = (getattr(tokenizer, "source_lang", None), getattr(tokenizer, "target_lang", None))
        for given, own in zip((source, target), pair, strict=True):
            if given is not None and own is not None and not _same(given, own):
                raise ValueError(f"this model translates from {pair[0]} to {pair[1]}, not {source} to {target}")
        return "", {}
    if kind == "t5":
        return _t5_prefix(languages, model, source, target), {}
    if kind in _PREFIXED:
        if target is None:
            raise ValueError(f"this model needs to be told the language wanted, tgt_lang= one of {_some(languages)}")
        code = languages.code(target)
        return (f"<2{code}> " if kind == "madlad" else f">>{code}<< "), {}
    if source is not None:
        tokenizer.src_lang = languages.code(source)
    if target is None:
        if model.generation_config.forced_bos_token_id is None:
            raise ValueError(f"this model needs to be told the language wanted, tgt_lang= one of {_some(languages)}")
        return "", {}
    return "", {"forced_bos_token_id": languages.tokens[languages.code(target)]}


def _same(one: str, other: str) -> bool:
    """Whether two names are of the same language."""
    matching = need("langcodes", INSTALL)
    try:
        return bool(one == other or matching.tag_distance(one.replace("_", "-"), other.replace("_", "-")) <= NEAR)
    except matching.LanguageTagError:
        return False


def _t5_prefix(languages: Languages, model: Any, source: str | None, target: str | None) -> str:
    if target is None:  # a model tuned for one pair, or a text that brings its own prefix
        return ""
    a, b = languages.code(source or "en"), languages.code(target)
    known = getattr(model.config, "task_specific_params", None) or {}
    return known.get(f"translation_{a}_to_{b}", {}).get("prefix") or f"translate {_T5[a]} to {_T5[b]}: "


def _some(languages: Languages) -> str:
    return ", ".join(sorted(languages.tokens)[:8])
