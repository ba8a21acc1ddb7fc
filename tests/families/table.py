"""Prints docs/families_table.md: the classes of the matrix, those that are refused, and Transformers' that have no family.

python tests/families/table.py > docs/families_table.md
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # pytest has them on its path
    tests = Path(__file__).parents[1]
    sys.path[:0] = [str(tests), *(str(tests / name) for name in ("engine", "families", "models"))]

import transformers as hf
from cases import CASES
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from deed.families import registered
from deed.families.refused import REFUSED

# What people know the classes by.
KNOWN_AS = {
    "BartForConditionalGeneration": "BART, BARThez, DistilBART",
    "BigBirdPegasusForConditionalGeneration": "BigBird-Pegasus, full attention in the decoder",
    "CanaryForConditionalGeneration": "NVIDIA Canary",
    "CohereAsrForConditionalGeneration": "Cohere Transcribe",
    "EncoderDecoderModel": "bert2bert, roberta2roberta, bert2gpt2",
    "Florence2ForConditionalGeneration": "Florence-2",
    "LatrForConditionalGeneration": "LaTr++ (deed's own)",
    "M2M100ForConditionalGeneration": "M2M-100, NLLB, SMaLL-100",
    "MBartForConditionalGeneration": "mBART, mBART-50",
    "MT5ForConditionalGeneration": "mT5, mT0",
    "MarianMTModel": "opus-mt",
    "OFAForConditionalGeneration": "OFA (deed's own)",
    "SpeechEncoderDecoderModel": "wav2vec2 with mBART, BERT, GPT-2 …",
    "T5ForConditionalGeneration": "T5, Flan-T5, ByT5, MADLAD-400",
    "VisionEncoderDecoderModel": "Donut, Nougat, TrOCR, ViT-GPT2, manga-ocr",
    "WhisperForConditionalGeneration": "Whisper, Distil-Whisper",
}


def encoder_decoders() -> dict[str, str]:
    """Classes of Transformers' auto classes for text, speech and pictures to text that are encoder-decoders with a
    `generate()`, and the type of each."""
    mappings = (
        modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_TEXT_TO_WAVEFORM_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_TEXT_TO_SPECTROGRAM_MAPPING_NAMES,
    )
    found = {}
    for kind, names in (pair for mapping in mappings for pair in mapping.items()):
        for name in [names] if isinstance(names, str) else names:
            composite = kind in ("encoder-decoder", "vision-encoder-decoder", "speech-encoder-decoder")
            if (composite or _is_encoder_decoder(kind)) and hasattr(getattr(hf, name, None), "generate"):
                found[name] = kind
    return found


def _is_encoder_decoder(kind: str) -> bool:
    try:
        return bool(CONFIG_MAPPING[kind]().is_encoder_decoder)
    except Exception:  # configurations that cannot be made without arguments are of other kinds
        return False


def without_family() -> list[str]:
    """Those that are neither supported nor refused."""
    return sorted(set(encoder_decoders()) - set(registered()) - set(REFUSED))


def table() -> str:
    """The page."""
    classes: dict[str, list] = {}
    for case in CASES.values():
        classes.setdefault(case.class_name, []).append(case)
    lines = [
        "# Supported classes",
        "",
        "Made by `python tests/families/table.py`. Every class here agrees, on tiny random models in float64 with ragged "
        "sources (`tests/families/test_matrix.py`):",
        "",
        "- its exits are the plain model cut off after that layer;",
        "- a threshold of 2 gives the tokens of the plain model's `generate()`, and any threshold or schedule the tokens,",
        "  depths and logits of the reference without a cache: greedy, beams, sampling, beam sampling;",
        "- a row alone is as in its batch; the last exit's loss is the plain model's; training lowers the loss of every exit;",
        "- saved and loaded it is the same, and `deed.unwrap` gives the plain model back (but for TrOCR with sinusoidal",
        "  positions, which Transformers 5.23 itself cannot load).",
        "",
        f"{len(classes)} classes, {len(CASES)} configurations. *Lean*: layers are run as their modules "
        "([families.md](families.md)), otherwise by their own `forward`.",
        "",
        "| Class | Known as | Configurations | Lean |",
        "|---|---|---|---|",
    ]
    for name, cases in sorted(classes.items()):
        variants = [case.name.partition(" (")[2].removesuffix(")") or "as it is" for case in cases]
        lean = {case.shared.deed_family.parts(case.shared) is not None for case in cases}
        known = KNOWN_AS.get(name, name.removesuffix("ForConditionalGeneration"))
        lines.append(f"| `{name}` | {known} | {' · '.join(variants)} | {'yes' if lean == {True} else 'no'} |")
    lines += ["", "## Refused", "", "| Class | Why, and what to do |", "|---|---|"]
    lines += [f"| `{name}` | {reason} |" for name, reason in sorted(REFUSED.items())]
    lines += [
        "",
        "## Without a family",
        "",
        "Encoder-decoder classes of Transformers 5.23 with a `generate()` that nobody has written a family for yet "
        "([how to](families.md#writing-one)): "
        + (", ".join(f"`{name}`" for name in without_family()) or "none")
        + ".",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table())
