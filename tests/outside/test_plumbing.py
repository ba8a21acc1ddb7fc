"""The script that runs Transformers' generation tests, on a miniature of a checkout: what it selects, wraps and expects."""

import importlib.util
from pathlib import Path

import pytest

spec = importlib.util.spec_from_file_location("generation_tests", Path(__file__).parent / "generation_tests.py")
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)

MIXIN = """
class GenerationTesterMixin:
    def test_it_generates(self):
        model = self.model()
        assert hasattr(model, "deed_config"), "not wrapped"
        assert model.generate(IDS, max_new_tokens=4).shape == (2, 5)

    def test_what_is_expected_dict_output(self):
        self.model().generate(IDS, max_new_tokens=2, output_attentions=True, return_dict_in_generate=True)

    def test_another_error_dict_output(self):
        self.model().generate(IDS, max_new_tokens=2, exit_threshold=-1.0)

    def test_the_cache_is_continued(self):
        model, more = self.model(), {"return_dict_in_generate": True, "min_new_tokens": 6}
        one = model.generate(IDS, max_new_tokens=6, **more)
        first = model.generate(IDS, max_new_tokens=3, **{**more, "min_new_tokens": 3})
        mask = torch.ones_like(first.sequences)
        two = model.generate(
            IDS, decoder_input_ids=first.sequences, decoder_attention_mask=mask, past_key_values=first.past_key_values,
            max_new_tokens=3, **{**more, "min_new_tokens": 3},
        )
        self._check_caches_are_equal(one.past_key_values, two.past_key_values)

    def test_other_tokens_than_the_plain_model(self):
        model = self.model()
        model.deed_config.threshold = 0.0
        model.generate(IDS, max_new_tokens=8, min_new_tokens=8)

    def _check_caches_are_equal(self, one, other):
        raise ValueError("The cache is not standard! Please overwrite")
"""
TESTS = """
import unittest

import torch
from transformers import T5Config, T5ForConditionalGeneration, T5Model

IDS = torch.tensor([[5, 6, 7], [8, 9, 3]])
{mixin}

class {name}(GenerationTesterMixin, unittest.TestCase):
    all_model_classes = (T5Model, T5ForConditionalGeneration) if {supported} else (T5Model,)

    def model(self):
        torch.manual_seed(0)
        sizes = dict(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_heads=2, num_layers=2, decoder_start_token_id=0)
        model = T5ForConditionalGeneration(T5Config(**sizes)).eval()
        with torch.no_grad():
            for p in model.parameters():
                p.normal_(0, 1.0)
        return model

    def test_not_about_generation(self):
        raise AssertionError("must not be run")
"""


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "tests" / "generation").mkdir(parents=True)
    (tmp_path / "tests" / "generation" / "test_utils.py").write_text("")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    for folder, supported in (("t5", True), ("other", False)):
        place = tmp_path / "tests" / "models" / folder
        place.mkdir(parents=True)
        text = TESTS.format(mixin=MIXIN, name=f"{folder.upper()}ModelTest", supported=supported)
        (place / f"test_modeling_{folder}.py").write_text(text)
    return tmp_path


def test_it_wraps_compares_and_expects(checkout, capfd):
    assert script.main([str(checkout), "t5", "--", "-vv"]) == 1
    out = capfd.readouterr().out
    said = {line.split("::")[-1].split()[0]: line for line in out.splitlines() if "::" in line and "%]" in line}
    assert set(said) == {
        "test_it_generates",
        "test_what_is_expected_dict_output",
        "test_another_error_dict_output",
        "test_the_cache_is_continued",
        "test_other_tokens_than_the_plain_model",
    }, out
    assert "PASSED" in said["test_it_generates"] and "PASSED" in said["test_the_cache_is_continued"], out
    assert "XFAIL" in said["test_what_is_expected_dict_output"] and "forward() gives them" in out
    assert "FAILED" in said["test_another_error_dict_output"]  # of the same name, but not for the expected reason
    assert "FAILED" in said["test_other_tokens_than_the_plain_model"]
    assert "tokens differ from the plain model's" in out
    assert "expected, but not met: test_assisted_decoding_" in out


def test_what_it_is_given(checkout, tmp_path, capsys):
    assert script.main([str(checkout), "--list"]) == 0
    listed = capsys.readouterr().out.split()
    assert listed == ["tests/models/other/test_modeling_other.py", "tests/models/t5/test_modeling_t5.py"]
    with pytest.raises(SystemExit, match="has no t6"):
        script.main([str(checkout), "t6"])
    with pytest.raises(SystemExit, match="give a source checkout"):
        script.main([str(tmp_path / "nothing")])
