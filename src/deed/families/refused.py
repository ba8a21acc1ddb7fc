"""Encoder-decoder classes of Transformers that early exit does not support, each with the reason and what to do instead.

Classes that are neither here nor registered have no family yet (docs/families.md says how to add one).
"""

from __future__ import annotations

import inspect

_STREAMS = (
    "its layers compute a main stream and one for each of the next n tokens, while an exit needs one state per position; use "
    "BART, Pegasus or LED for summaries"
)
_CAPACITY = (
    "an expert takes only so many of the tokens that are computed together, so a token's output depends on which others run "
    "beside it, and no output is there to be equal to; use {}"
)
_CODEBOOKS = (
    "a step gives one token for each of several codebooks, while an exit decides on one distribution; use it plainly"
)
_SPEAKS = "it generates sound, not tokens that an exit could decide on; use it plainly"

#: By class name, why a class is refused and what to do. Subclasses are refused with it.
REFUSED: dict[str, str] = {
    "ProphetNetForConditionalGeneration": _STREAMS,
    "ProphetNetForCausalLM": _STREAMS,
    "SwitchTransformersForConditionalGeneration": _CAPACITY.format("T5, Flan-T5 or UMT5"),
    "NllbMoeForConditionalGeneration": _CAPACITY.format("a dense NLLB (M2M100ForConditionalGeneration)"),
    "FSMTForConditionalGeneration": (
        "its layers run time-first and keep a cache of their own, which cannot hold rows of different depth; use Marian "
        "(Helsinki-NLP/opus-mt-…) or NLLB"
    ),
    "DiaForConditionalGeneration": _CODEBOOKS,
    "MusicgenForConditionalGeneration": _CODEBOOKS,
    "MusicgenMelodyForConditionalGeneration": _CODEBOOKS,
    "SpeechT5ForTextToSpeech": _SPEAKS,
    "SeamlessM4TForTextToSpeech": _SPEAKS,
    "SeamlessM4TForSpeechToSpeech": _SPEAKS,
    "SeamlessM4Tv2ForTextToSpeech": _SPEAKS,
    "SeamlessM4Tv2ForSpeechToSpeech": _SPEAKS,
    "SeamlessM4TModel": "it holds several models; put early exit on SeamlessM4TForTextToText or SeamlessM4TForSpeechToText",
    "SeamlessM4Tv2Model": (
        "it holds several models; put early exit on SeamlessM4Tv2ForTextToText or SeamlessM4Tv2ForSpeechToText"
    ),
    "RagTokenForGeneration": (
        "each of its tokens is a mixture over the decoder rows of several retrieved documents, while an exit decides row by "
        "row; put early exit on a plain generator, and retrieve before"
    ),
    "RagSequenceForGeneration": (
        "it scores each answer once more under every retrieved document, which needs full depth; put early exit on a plain "
        "generator, and retrieve before"
    ),
}


def reason_of(cls: type) -> str | None:
    """Why models of this class are refused, or None where they are not."""
    return next((REFUSED[c.__name__] for c in inspect.getmro(cls) if c.__name__ in REFUSED), None)
