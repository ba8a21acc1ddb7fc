"""Forms: what is asked stands on the page, where the words' boxes say; layouts of the test set are seen by no training."""

import random

import pytest

try:
    import weasyprint  # noqa: F401
except (ImportError, OSError) as error:  # OSError: Pango, a system library, is missing
    pytest.skip(f"takes WeasyPrint and Pango: {error}", allow_module_level=True)

from deed.data.synthetic.forms import KINDS, LAYOUTS, UNSEEN_LAYOUTS, make_content, make_form
from deed.data.synthetic.forms.making import UNANSWERABLE


@pytest.mark.parametrize("kind", KINDS)
def test_every_answer_can_be_read_off_the_page(kind):
    rng = random.Random(kind)
    form = make_form(rng, kinds=[kind])
    assert form.content.kind == kind and form.layout in LAYOUTS and form.layer.covers
    text = " ".join(word.text for word in form.layer.words)
    examples = form.examples(rng)
    for example in examples:
        if example.kind == "unanswerable":
            assert example.answers == [UNANSWERABLE]
        else:
            assert " ".join(example.answers[0].split()) in text, example
    assert {"field", "title", "unanswerable"} <= {example.kind for example in examples}
    assert all(
        0 <= word.box[0] <= word.box[2] <= 1000 and 0 <= word.box[1] <= word.box[3] <= 1000
        for word in form.layer.words
    )


def test_more_look_ups_and_more_that_is_missing_can_be_asked():
    form = next(f for i in range(99) if len((f := make_form(random.Random(i), kinds=["invoice"])).content.rows) > 4)
    few, many = (form.examples(random.Random(0), *counts) for counts in ((3, 1), (9, 4)))
    count = lambda examples, kind: sum(example.kind == kind for example in examples)  # noqa: E731
    assert (count(few, "table"), count(many, "table")) == (3, len(form.content.rows))
    assert (count(few, "unanswerable"), count(many, "unanswerable")) == (1, 4)
    assert form.examples(random.Random(0)) == few


def test_the_same_seed_gives_the_same_page_and_another_one_another():
    one, two, other = (make_form(random.Random(seed), kinds=["invoice"]) for seed in (3, 3, 4))
    assert one.content == two.content and one.layer == two.layer and one.layout == two.layout
    assert one.content != other.content


def test_layouts_that_are_held_out_are_never_drawn():
    assert not set(LAYOUTS) & set(UNSEEN_LAYOUTS) and len(LAYOUTS) + len(UNSEEN_LAYOUTS) == 35
    seen = {make_form(random.Random(i), unseen=True, kinds=["card"]).layout for i in range(6)}
    assert seen <= set(UNSEEN_LAYOUTS) and len(seen) > 1


def test_a_field_is_printed_under_one_label_only():
    for i in range(200):
        rng = random.Random(i)
        content = make_content(rng.choice(KINDS), rng)
        labels = [label for label, _ in content.fields.values()]
        assert len(set(labels)) == len(labels) and len({row[0] for row in content.rows}) == len(content.rows)


def test_half_of_the_codes_are_no_words():
    values = [v for i in range(60) for _, v in make_content("label", random.Random(i)).fields.values()]
    assert len(set(values)) > 0.7 * len(values)  # nothing to learn by heart
