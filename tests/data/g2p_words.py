"""The shipped CMUdict model's answers to words, as tests of several rooms ask for them."""

from deed.data.base import Example
from deed.tasks.answering import answer_examples
from deed.tasks.g2p import G2pTask


def answer(model, tokenizer, words, threshold):
    """Pronunciations and mean depth."""
    examples = [Example(word, []) for word in words]
    _, [found] = answer_examples(G2pTask(), model, tokenizer, examples, [{"exit_threshold": threshold}])
    return found
