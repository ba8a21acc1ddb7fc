"""How Transformers' generation tests fail on deed models by design, and why. Any other failure is one.

Each entry: folders of `tests/models` ("*": all), name of the test, a pattern of what is raised (its type, its message, and the
statements it came through), the reason.
"""

from __future__ import annotations

from typing import NamedTuple


class Expected(NamedTuple):
    """A failure that is expected."""

    folders: str
    test: str
    raised: str
    reason: str


EXPECTED = (
    Expected(
        "*",
        "*_dict_output*",
        "ValueError: output_(attentions|hidden_states)=True has no meaning",
        "tokens leave at different depths, so there is no attention or hidden state of every layer: forward() gives them",
    ),
    Expected(
        "*",
        "test_assisted_decoding_matches_greedy_search_*",
        "ValueError: output_(attentions|hidden_states)=True has no meaning",
        "as above; the test compares the attentions of assisted and greedy decoding",
    ),
    Expected(
        "*",
        "test_assisted_decoding_*",
        "ValueError: assisted decoding and early exit cannot be combined",
        "another decoding loop; exact=True drafts with the model's own exits",
    ),
    Expected(
        "*",
        "*",
        "ValueError: cache_implementation='(static|quantized|offloaded)' cannot hold rows of different depth",
        "keys and values of a row end at its own depth, which these caches have no room for",
    ),
    Expected(
        "*",
        "test_generate_compile_model_forward_fullgraph",
        r"isinstance\(decoder_cache, DynamicCache\)",
        "the test expects the default cache to be Transformers' own before it compares it with a static one",
    ),
    Expected(
        "whisper",
        "test_generate_continue_from_past_key_values",
        "ValueError: The cache is not standard!",
        "Whisper's generate() splits its output by row, which a cache of rows of different depth does not allow: it has none",
    ),
)
