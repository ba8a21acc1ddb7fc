"""OFA's processor: pictures as the original sees them, prompts word for word, boxes to bins and back."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ofa_files import small_tokenizer
from PIL import Image
from transformers import AutoProcessor

from deed.models.ofa import OFAConfig, prompts
from deed.models.ofa.bins import bins_to_box, box_to_bins
from deed.models.ofa.processing_ofa import OFAProcessor, build_image_processor
from deed.models.shared import pad_lists

PICTURE = Image.effect_noise((90, 70), 80).convert("RGB")


@pytest.fixture(scope="module")
def processor():
    return OFAProcessor(build_image_processor(64), small_tokenizer())


def text_of(processor, ids):
    return processor.tokenizer.decode([i for i in ids.tolist() if i not in (1, -100)])


# -- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        (prompts.vqa("What is THIS?"), " what is this?"),
        (prompts.vqa("  what's up "), " what's up?"),
        (prompts.vqa(".,?!Is it half-open/closed  \t now"), " is it half open closed now?"),
        (prompts.vqa("-what"), " what?"),
        (prompts.vqa("who?", "dog&&red ball"), " who? object: dog red ball"),
        (prompts.vqa("who?", [f"o{i}" for i in range(40)]), " who? object: " + " ".join(f"o{i}" for i in range(30))),
        (prompts.vqa("w " * 90), " " + " ".join("w" * 80) + "?"),
        (prompts.vqa("w " * 90, max_words=2), " w w?"),
        (prompts.CAPTION, " what does the image describe?"),
        (prompts.refer("The LEFT-most dog."), ' which region does the text " the left most dog. " describe?'),
        (prompts.entailment("#A <person> runs\n"), ' does the image describe " a person runs "?'),
        (
            prompts.entailment("It's cold", "Two/three men"),
            ' can image and text1 " two three men " imply text2 " it\'s cold "?',
        ),
        (prompts.caption_target(' A man\'s "dog",  running. '), " A mans dog running"),
        (prompts.caption_target("a b c d", 2), " a b"),
        (prompts.entailment_target("entailment"), " yes"),
        (prompts.entailment_target("contradiction"), " no"),
        (prompts.entailment_target("neutral"), " maybe"),
    ],
)
def test_prompts_and_targets(prompt, wanted):
    assert prompt == wanted


def test_each_task_tells_the_model_so(processor):
    two = [PICTURE, None]
    batch = processor.vqa(two, ["who?", "Why not"], ["dog", "yes"], objects=["a&&b", None])
    assert [text_of(processor, row) for row in batch["input_ids"]] == ["<s> who? object: a b</s>", "<s> why not?</s>"]
    assert [text_of(processor, row) for row in batch["labels"]] == [" dog</s>", " yes</s>"]
    assert batch["patch_masks"].tolist() == [True, False] and not batch["patch_images"][1].any()
    assert batch["attention_mask"].sum(1).tolist() == [(row != 1).sum() for row in batch["input_ids"]]
    assert "decoder_input_ids" not in batch
    batch = processor.caption(two, ["A dog.", "a b"])
    assert [text_of(processor, row) for row in batch["labels"]] == [" A dog</s>", " a b</s>"]
    assert text_of(processor, batch["input_ids"][1]) == "<s> what does the image describe?</s>"
    batch = processor.entail(PICTURE, "A dog", "two dogs", "neutral")
    assert text_of(processor, batch["labels"][0]) == " maybe</s>"
    assert text_of(processor, batch["input_ids"][0]).startswith("<s> can image and text1")
    alone = processor(text="hello")
    assert (
        set(alone) == {"input_ids", "attention_mask"} and text_of(processor, alone["input_ids"][0]) == "<s> hello</s>"
    )


def test_long_answers_are_cut_as_in_the_original(processor):
    short = OFAProcessor(processor.image_processor, processor.tokenizer, max_target_length=3)
    assert [len(row) for row in short.encode_answers(["q w e r t y", "q"])] == [4, 3]
    words = short.caption(None, "q w e r t y")["labels"][0]
    assert text_of(processor, words) == " q w e</s>", "captions by words"


@pytest.mark.parametrize("kind", ["prev_output", "src"])
def test_the_decoder_is_told_the_question_and_learns_the_answer(processor, kind):
    questions, answers = ["who is it?", "why?"], ["red", "two dogs"]
    batch = processor.vqa(None, questions, answers, prompt_type=kind)
    told = processor.decoder_prompts(batch["input_ids"], kind)
    for i, prompt in enumerate(told):
        target = processor.encode_answers([answers[i]])[0]
        length = len(prompt) + len(target) - 1
        assert prompt[0] == 0 and (prompt[-1] == 2) is (kind == "src")
        assert batch["decoder_input_ids"][i, :length].tolist() == [*prompt, *target[:-1]]
        assert (batch["decoder_input_ids"][i, length:] == 1).all()
        # Each label stands where the token before it goes in.
        assert batch["labels"][i, :length].tolist() == [-100] * (len(prompt) - 1) + target
        assert (batch["labels"][i, length:] == -100).all()
    assert processor.answers(batch["decoder_input_ids"], told) == answers
    one = processor.vqa(None, questions[0], prompt_type=kind)
    assert one["decoder_input_ids"].tolist() == [told[0]] and "labels" not in one
    with pytest.raises(ValueError, match=r"different lengths.*decoder_prompts"):
        processor.vqa(None, questions, prompt_type=kind)


def test_sequences_of_several_beams_each(processor):
    ids = processor(text=["a b", "k q"])["input_ids"]
    told = processor.decoder_prompts(ids)
    rows = pad_lists([[*prompt, *processor.encode_answers([a])[0]] for prompt in told for a in ("x", "y")], 1)
    assert processor.answers(rows, told) == ["x", "y", "x", "y"]
    assert processor.answers(ids) == ["a b", "k q"]
    with pytest.raises(ValueError, match="4 sequences, but prompts for 3"):
        processor.answers(rows, [[0]] * 3)


# -- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("imagenet", [False, True])
def test_pictures_are_squares_by_pillows_bicubic_filter(processor, imagenet):
    seeing = OFAProcessor(build_image_processor(64, imagenet), processor.tokenizer)
    got = seeing(PICTURE, "a")["patch_images"][0]
    square = np.asarray(PICTURE.resize((64, 64), Image.Resampling.BICUBIC), dtype=np.float64) / 255
    mean = [0.485, 0.456, 0.406] if imagenet else [0.5] * 3
    std = [0.229, 0.224, 0.225] if imagenet else [0.5] * 3
    wanted = torch.from_numpy((square - mean) / std).permute(2, 0, 1)
    torch.testing.assert_close(got.double(), wanted, rtol=0, atol=1e-6)


def test_any_kind_of_picture(processor, tmp_path):
    wanted = processor(PICTURE, "a")["patch_images"]
    PICTURE.save(tmp_path / "p.png")
    for picture in (np.asarray(PICTURE), tmp_path / "p.png", str(tmp_path / "p.png"), [PICTURE]):
        assert torch.equal(processor(picture, "a")["patch_images"], wanted)
    see_through = PICTURE.copy()
    see_through.putalpha(90)  # laid on white
    white = Image.blend(Image.new("RGB", PICTURE.size, "white"), PICTURE, 90 / 255)
    painted = (processor(p, "a")["patch_images"] for p in (see_through, white))
    torch.testing.assert_close(*painted, rtol=0, atol=0.02)
    gray = processor(PICTURE.convert("L"), "a")["patch_images"]
    assert torch.equal(gray[:, 0], gray[:, 1]) and gray.shape == (1, 3, 64, 64)


# -- boxes ------------------------------------------------------------------------------------------------------------


def test_bins_as_in_the_original():
    # A picture of 640 x 427 stretched to 512 x 512: 100 px -> 80 of 512 -> 156.09 of 999.
    assert box_to_bins((100, 50.5, 640, 427), (640, 427), 512, 512, 1000) == [156, 118, 999, 999]
    # At another resolution with the last bin still at 512, as the original has it.
    assert box_to_bins((0, 0, 640, 320), (640, 320), 256, 512, 1000) == [0, 0, 500, 500]  # 499.5, to the even
    generator = torch.Generator().manual_seed(0)
    for w, h in torch.randint(1, 900, (300, 2), generator=generator).tolist():
        sides = torch.tensor([[w, h]]).float()
        box = (torch.rand(2, 2, generator=generator).sort(0).values * sides).flatten()
        ratio = torch.as_tensor([512 / w, 512 / h, 512 / w, 512 / h])
        wanted = (box * ratio / 512 * 999).round()  # the original, step by step in its precision
        assert box_to_bins(box.tolist(), (w, h), 512, 512, 1000) == wanted.int().tolist()
    assert box_to_bins((-5, 0, 700, 427), (640, 427), 512, 512, 1000)[::2] == [0, 999], "clipped"
    x0, _, x1, y1 = bins_to_box([156, 118, 999, 999], (640, 427), 512, 512, 1000)
    assert (x1, y1) == (640, 427) and x0 == pytest.approx(156 / 999 * 512 / (512 / 640))


@given(
    st.tuples(*[st.floats(0, 1)] * 4),
    st.tuples(st.integers(1, 2000), st.integers(1, 2000)),
    st.sampled_from([(512, 512, 1000), (128, 128, 100), (384, 512, 1000)]),
)
def test_there_and_back_within_half_a_bin(corners, size, scale):
    (xs, ys), (image, reach, n) = (sorted(corners[:2]), sorted(corners[2:])), scale
    box = (xs[0] * size[0], ys[0] * size[1], xs[1] * size[0], ys[1] * size[1])
    back = bins_to_box(box_to_bins(box, size, image, reach, n), size, image, reach, n)
    for i, (a, b) in enumerate(zip(box, back, strict=True)):
        assert abs(a - b) <= (0.5 + 1e-3) / (n - 1) * reach / image * size[i % 2]


def test_referring_expressions(processor):
    batch = processor.refer([PICTURE, PICTURE], ["the dog", "it"], [(9, 7, 90, 70), (0, 0, 45, 35)])
    first, eos = processor.first_bin, 2
    assert batch["labels"].tolist() == [
        [first + 2, first + 2, first + 19, first + 19, eos],
        [first, first, first + 10, first + 10, eos],  # 9.5, to the even
    ]
    generated = torch.cat([torch.zeros(2, 1).long(), batch["labels"]], 1)
    boxes = processor.boxes(generated, [PICTURE.size, (900, 700)])
    assert boxes[0] == pytest.approx((2 / 19 * 90, 2 / 19 * 70, 90, 70))
    assert boxes[1] == pytest.approx((0, 0, 10 / 19 * 900, 10 / 19 * 700))
    assert processor.boxes([[0, first, 5, first, first, eos]], [(9, 9)]) == [None], "three bins are no box"
    assert processor.boxes([[0, *[first + 19] * 6, eos]], [(9, 9)])[0] == (9, 9, 9, 9)
    with pytest.raises(ValueError, match="boxes need their pictures"):
        processor.refer([PICTURE, None], ["a", "b"], [(0, 0, 1, 1)] * 2)
    with pytest.raises(ValueError, match="2 rows, but boxes for 1"):
        processor.refer([PICTURE] * 2, ["a", "b"], [(0, 0, 1, 1)])


def test_only_a_box_is_allowed(processor):
    allowed = processor.box_tokens_fn(start=2)
    bins = list(range(processor.first_bin, processor.first_bin + 20))
    ids = torch.tensor([0, 7, *bins[:4], 2, 2])
    assert [allowed(0, ids[:n]) for n in range(2, 8)] == [bins] * 4 + [[2]] * 2


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_saves_and_loads(processor, tmp_path):
    AutoProcessor.register(OFAConfig, OFAProcessor, exist_ok=True)
    mine = OFAProcessor(processor.image_processor, processor.tokenizer, max_target_length=7, max_image_size=512)
    mine.save_pretrained(tmp_path)
    OFAConfig().save_pretrained(tmp_path)
    for again in (OFAProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert type(again) is OFAProcessor and (again.max_target_length, again.max_image_size) == (7, 512)
        assert (again.first_bin, again.n_bins, again.image_size) == (mine.first_bin, 20, 64)
        before, after = (p.refer(PICTURE, "the dog", (1, 2, 30, 40)) for p in (mine, again))
        assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p(text=None), "text="),
        (lambda p: p(text=[]), "one prompt or more"),
        (lambda p: p(text="a", return_tensors="np"), "return_tensors"),
        (lambda p: p(text="a", prompt_type="both"), "prompt_type must be one of none, src, prev_output"),
        (lambda p: p([PICTURE], ["a", "b"]), "2 prompts, but images for 1"),
        (lambda p: p(text=["a", "b"], text_target=["c"]), "2 rows, but text_target for 1"),
        (lambda p: p.vqa(None, ["a"], objects=[None, None]), "1 rows, but objects for 2"),
        (lambda p: p.entail(None, "a", labels="perhaps"), "label must be one of entailment"),
        (lambda p: p.boxes([[0]], []), "1 rows, but sizes for 0"),
        (lambda p: p.encode_box((0, 0, 1), (9, 9)), "four numbers"),
        (lambda p: p.encode_box((0, 0, float("nan"), 1), (9, 9)), "four numbers"),
        (lambda p: p.encode_box((5, 0, 1, 1), (9, 9)), "x0 <= x1"),
        (lambda p: p.encode_box((0, 0, 1, 1), (0, 9)), "sizes must be positive"),
    ],
)
def test_bad_input_is_refused(processor, call, message):
    with pytest.raises(ValueError, match=message):
        call(processor)


def test_boxes_need_bins(processor):
    without = OFAProcessor(processor.image_processor, small_tokenizer(n_bins=0))
    with pytest.raises(ValueError, match="no location bins"):
        without.refer(PICTURE, "a", (0, 0, 1, 1))
    without.vqa(PICTURE, "who?", "dog")
