"""The registry of data sets: metrics and tasks that exist, and who can do what."""

from deed.data.registry import READERS
from deed.metrics import text as metrics

METRICS = {
    "docvqa": "anls",
    "textvqa": "vqa_accuracy",
    "stvqa": "anls",
    "ocrvqa": "exact_match",
    "easyvqa": "exact_match",
    "vqav2": "vqa_accuracy",
    "refcoco": "acc_at_0.5",
    "coco_captions": "cider_d",
    "snli_ve": "exact_match",
    "ofa_tsv_vqa": "ofa_vqa_score",
    "ofa_tsv_refer": "acc_at_0.5",
    "ofa_tsv_caption": "cider_d",
    "ofa_tsv_snli_ve": "exact_match",
}


def test_metrics_exist():
    assert {name: reader.metric for name, reader in READERS.items()} == METRICS
    for reader in READERS.values():
        assert "\n" not in reader.description and set(reader.models) <= {"latr", "ofa"} and reader.models
        if "latr" in reader.models:
            assert callable(getattr(metrics, reader.metric)) and callable(getattr(metrics, f"{reader.metric}_each"))


def test_who_can_do_what():
    both = {name for name, reader in READERS.items() if reader.models == ("latr", "ofa")}
    assert both == {"easyvqa", "vqav2"}
    reads_words = {name for name, reader in READERS.items() if reader.models == ("latr",)}
    assert reads_words == {"docvqa", "textvqa", "stvqa", "ocrvqa"}


def test_what_a_package_brings_needs_no_folder():
    assert [name for name, reader in READERS.items() if not reader.on_disk] == ["easyvqa"]
    assert next(READERS["easyvqa"].read(None, "test")).answers
