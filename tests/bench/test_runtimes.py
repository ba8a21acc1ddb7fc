"""Other runtimes decode the same weights to the same tokens, where they are installed, or say why not."""

import pytest

from deed.bench import runtimes
from deed.bench.shapes import NotAvailable, make_workload
from deed.bench.subjects import BASELINE


@pytest.mark.parametrize("name", ["tiny-t5", "tiny-bart"])
@pytest.mark.parametrize("compute_type", ["float32", "int8"])
def test_ctranslate2_decodes_the_same_weights(name, compute_type, tmp_path):
    pytest.importorskip("ctranslate2")
    workload = make_workload(name, 2, 6, tmp_path)
    subject = runtimes.ctranslate2(workload, compute_type)
    parity = subject.check(subject.run().tokens)
    assert parity["tokens"] == 12 and parity["against"] == BASELINE
    assert parity["equal"] == 1.0 if compute_type == "float32" else parity["equal"] > 0


def test_ctranslate2_does_not_know_latr(tmp_path):
    pytest.importorskip("ctranslate2")
    with pytest.raises(NotAvailable, match=r"^No conversion is registered for the model configuration LatrConfig$"):
        runtimes.ctranslate2(make_workload("tiny-latr", 1, 4, tmp_path), "float32")


def test_real_words_are_read_without_their_padding(tmp_path):
    workload = make_workload("g2p", 3, 4, tmp_path)
    rows = runtimes.unpadded(workload)
    assert [len(r) for r in rows] == workload.mask.sum(1).tolist() and all(r[-1] == 1 for r in rows)
    assert workload.model.deed_config.threshold <= 1, "the shipped model's own configuration"
