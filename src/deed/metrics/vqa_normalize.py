"""Answers as the official VQA evaluation compares them: no case, articles, punctuation; digits for number words.

After GT-Vision-Lab/VQA, `vqaEval.py`, as it was from 2016 to 2021; quirks of its patterns included, as scores depend on
them: comments say which they are.
"""

from __future__ import annotations

import re

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'  # no period, colon or apostrophe
ARTICLES = {"a", "an", "the"}
NUMBERS = {word: str(i) for i, word in enumerate("zero one two three four five six seven eight nine ten".split())} | {
    "none": "0"
}

# Each of these is also recognised with exactly one of its apostrophes left out ("wont", "hadnt've", "hadn'tve", but
# not "hadntve"). The pronouns' short forms that read as words of their own ("were", "shell", "ill") are not among them.
CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
CONTRACTIONS = {
    word[: mark.start()] + word[mark.end() :]: word for word in CONTRACTED.split() for mark in re.finditer("'", word)
} | {"somebody'd": "somebodyd"}  # the wrong way round in the original


def normalize_punctuation(text: str) -> str:
    """Without punctuation; a period stays before a digit.

    A mark that somewhere stands next to a space goes wherever it is, any other becomes a space ("on/off" -> "on off").
    A comma between digits makes all marks go ("1,000" -> "1000", but also "1,000-ton" -> "1000ton").
    """
    has_number = re.search(r"\d,\d", text) is not None
    result = text
    for mark in PUNCTUATION:
        goes = has_number or f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if goes else " ")
    # What is before the period was meant to count too, but the pattern's look-behind is mistyped. And at most 32 are
    # dropped: re.UNICODE is passed where the count belongs.
    return re.sub(r"\.(?!\d)", "", result, count=32)


def normalize_words(text: str) -> str:
    """Lower case, digits for zero to ten and none, no articles, apostrophes where they belong."""
    words = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def normalize_answer(text: str) -> str:
    """All of it, as for a prediction."""
    return normalize_words(normalize_punctuation(text.replace("\n", " ").replace("\t", " ").strip()))
