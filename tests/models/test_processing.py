"""The processor: what the text looks like, whose box a token has, and what it refuses."""

import pytest
import torch
from PIL import Image

from deed.models.latr import LatrProcessor
from deed.models.latr import small as small_latr

WORDS = [("Invoice", (10, 20, 90, 40)), ("No:", (100, 20, 130, 40)), ("INV-2039", (140, 20, 260, 40))]


@pytest.fixture(scope="module")
def processor():
    known = ["Invoice", "No", "question", "context", "what", "is", "the", "total"]
    return small_latr.build_processor(small_latr.build_tokenizer(known, ["number", "total"]))


def test_text_is_question_then_words_and_each_token_has_its_words_box(processor):
    batch = processor(text="what is the total?", words=WORDS, text_target="7.50")
    ids = batch["input_ids"][0]
    assert processor.tokenizer.decode(ids) == "question: what is the total? context: Invoice No: INV-2039</s>"
    tokens, boxes = processor.tokenizer.convert_ids_to_tokens(ids.tolist()), batch["bbox"][0].tolist()
    context = tokens.index("▁context") + 2
    assert all(box == [0, 0, 0, 0] for box in boxes[:context])
    assert tokens[context : context + 3] == ["▁Invoice", "▁No", ":"]
    assert boxes[context] == list(WORDS[0][1]) and boxes[context + 1] == [100, 20, 120, 40]
    assert boxes[context + 2] == [120, 20, 130, 40], "a piece has its share of its word's width"
    last = boxes[context + 3 : -1]  # "▁", then eight characters on 140..260
    assert last[0] == [140, 20, 140, 40] and last[1] == [140, 20, 155, 40] and last[-1] == [245, 20, 260, 40]
    assert boxes[-1] == [0, 0, 1000, 1000]
    assert processor.tokenizer.decode(batch["labels"][0]) == "7.50</s>"


def test_words_one_by_one_are_the_text_as_a_whole(processor):
    ids, _ = processor.encode("what is the total?", WORDS)
    whole = processor.tokenizer("question: what is the total? context: Invoice No: INV-2039", add_special_tokens=False)
    assert ids[:-1] == whole.input_ids


def test_values_are_spelled_and_json_is_not(processor):
    tokens = processor.tokenizer.tokenize('{"number":"A-1","total":"Ann Lee"}')
    assert tokens == ["▁", '{"', "number", '":"', "A", "-", "1", '","', "total", '":"', *"Ann", "▁", *"Lee", '"}']
    for text in ('{"number":"A-1","total":"$1,204.00"}', "ann.lee@mail.org", "€ 3.50", "what's the total?"):
        assert processor.tokenizer.decode(processor.tokenizer(text).input_ids) == text


def test_a_batch_equals_its_questions_alone(processor):
    picture = Image.new("RGB", (80, 50), (200, 30, 30))
    questions, pages = ["what is the total?", "what?"], [WORDS, []]
    both = processor(images=[picture, None], text=questions, words=pages)
    assert both["pixel_mask"].tolist() == [1, 0] and both["pixel_values"].shape == (2, 3, 64, 64)
    for i, question in enumerate(questions):
        one = processor(text=question, words=pages[i])
        n = one["input_ids"].shape[1]
        for name in ("input_ids", "bbox"):
            assert torch.equal(both[name][i, :n], one[name][0]) and not both[name][i, n:].any()
        assert both["attention_mask"][i].tolist() == [1] * n + [0] * (both["input_ids"].shape[1] - n)
    boxes = [[box for _, box in page] for page in pages]
    texts = [[text for text, _ in page] for page in pages]
    assert torch.equal(processor(text=questions, words=texts, boxes=boxes)["bbox"], both["bbox"])
    assert "pixel_values" not in processor(images=[None, None], text=questions)


def test_a_page_too_long_loses_its_last_words_not_the_question(processor):
    short = LatrProcessor(processor.image_processor, processor.tokenizer, max_length=14)
    ids, boxes = short.encode("what is the total?", WORDS)
    assert len(ids) == len(boxes) <= 14 and ids[-1] == processor.tokenizer.eos_token_id
    assert processor.tokenizer.decode(ids).endswith("context: Invoice No:</s>")
    assert len(short.encode("what is the total? " * 20, WORDS)[0]) == 14


def test_saves_and_loads_as_an_auto_processor(processor, tmp_path):
    from transformers import AutoProcessor

    import deed

    LatrProcessor(processor.image_processor, processor.tokenizer, max_length=77).save_pretrained(tmp_path)
    deed.models.latr.LatrConfig(vision_config=None).save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert type(again) is LatrProcessor and again.max_length == 77
    picture = Image.effect_noise((90, 70), 80).convert("RGB")
    before, after = (p(images=picture, text="what is it?", words=WORDS) for p in (processor, again))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert again.sees
    LatrProcessor(processor.image_processor, processor.tokenizer, sees=False).save_pretrained(tmp_path / "blind")
    assert not LatrProcessor.from_pretrained(tmp_path / "blind").sees


@pytest.mark.parametrize(
    "call, message",
    [
        ({"text": ["a", "b"], "words": [[]]}, "2 questions, but words for 1"),
        ({"text": "a", "words": ["Invoice"]}, "words need boxes"),
        ({"text": "a", "words": ["Invoice"], "boxes": []}, "1 words, but 0 boxes"),
        ({"text": "a", "words": [("x", (0, 0, 1200, 10))]}, "0..1000"),
        ({"text": ["a"], "text_target": ["x", "y"]}, "text_target for 2"),
        ({"text": None}, "text="),
        ({"text": "a", "return_tensors": "np"}, "return_tensors"),
    ],
)
def test_bad_input_is_refused(processor, call, message):
    with pytest.raises(ValueError, match=message):
        processor(**call)


def test_pictures_need_a_model_that_sees(processor):
    blind = LatrProcessor(processor.image_processor, processor.tokenizer, sees=False)
    with pytest.raises(ValueError, match="no ViT"):
        blind(images=Image.new("RGB", (9, 9)), text="what?")
