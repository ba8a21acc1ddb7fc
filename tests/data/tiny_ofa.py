"""A tiny random OFA in a folder, and small data sets for it in their own formats."""

import pickle

import torch

from data.picture_formats import (
    coco_refs,
    tsv_image,
    write_coco_captions,
    write_refcoco,
    write_snli_ve,
    write_tsv,
    write_vqav2,
)
from deed import DeedConfig, get_deed_model
from deed.data.synthetic import scenes
from deed.models.ofa import small as small_ofa


def build_small_processor():
    return small_ofa.build_processor(small_ofa.build_tokenizer(scenes.vocabulary_texts(30), 800))


def build_small_ofa(processor, threshold=0.5, plain=False):
    """Three decoder layers, random; answers end after at most forty tokens."""
    torch.manual_seed(0)
    model = small_ofa.build_model(processor.tokenizer, 1, 3, 32, 32, (8, 8, 16, 16)).eval()
    return model if plain else get_deed_model(model, DeedConfig(threshold=threshold))


def save_small_ofa(folder, threshold=0.5, plain=False):
    processor = build_small_processor()
    build_small_ofa(processor, threshold, plain).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def write_ofa_tsv(folder, split="val"):
    """A file per task, named as the released ones are, two lines each."""
    folder.mkdir(parents=True, exist_ok=True)
    image = tsv_image()
    rows = {
        "vqa": [
            ["1", "9", "is it red?", "0.3|!+no&&1.0|!+yes", "box&&wall", image],
            ["2", "9", "how many?", "1|!+2", "", image],
        ],
        "refer": [["1", "9", "left box", "10.5,20.0,40.75,60.0", image], ["2", "9", "all", "0,0,200,100", image]],
        "caption": [["1", "9", "a red box&&a box", "box", image], ["2", "8", "red paper", "paper", image]],
        "snli_ve": [["1", "9", image, "it is red", "a box", "entailment"], ["2", "9", image, "no", "b", "neutral"]],
    }
    return {task: write_tsv(folder / f"{task}_{split}.tsv", lines) for task, lines in rows.items()}


def write_data(folder):
    """Every data set on disk that an OFA can do: `{task: (folder or file, split, examples)}`."""
    files = write_ofa_tsv(folder / "tsv")
    return {
        "refcoco": (write_refcoco(folder / "coco", pickle.dumps(coco_refs())), "val", 2),
        "coco_captions": (write_coco_captions(folder / "captions"), "val", 2),
        "vqav2": (write_vqav2(folder / "vqav2"), "val", 4),
        "snli_ve": (write_snli_ve(folder / "snli_ve"), "dev", 3),
        **{f"ofa_tsv_{task}": (path, "val", 2) for task, path in files.items()},
    }
