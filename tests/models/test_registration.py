"""LaTr++ and OFA in the Auto classes: nothing is imported before it is needed, and everything is there when it is."""

import subprocess
import sys

import pytest
from ofa_files import small_tokenizer
from ofa_models import plain_ofa
from PIL import Image

from deed.models.latr import LatrConfig, LatrForConditionalGeneration
from deed.models.latr import small as small_latr
from deed.models.ofa import OFAProcessor, build_image_processor

ORDERS = {
    "deed first": "import deed; import transformers",
    "transformers first": "import transformers; import deed",
    "the Auto classes first": "from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoProcessor; import deed",
    "deed, then Trainer": "import deed; from transformers import Seq2SeqTrainer",
}


def fresh(code):
    """What a fresh Python process prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("registered")
    plain_ofa(enc=1, dec=2).save_pretrained(root / "ofa")
    OFAProcessor(build_image_processor(32), small_tokenizer()).save_pretrained(root / "ofa")
    tokenizer = small_latr.build_tokenizer(["total"])
    config = LatrConfig(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=16, num_heads=2, num_layers=1, num_decoder_layers=2
    )
    LatrForConditionalGeneration(config).save_pretrained(root / "latr")
    small_latr.build_processor(tokenizer).save_pretrained(root / "latr")
    return root


LOADS = {
    "config": ("AutoConfig", "OFAConfig", "LatrConfig"),
    "model": ("AutoModelForSeq2SeqLM", "OFAForConditionalGeneration", "LatrForConditionalGeneration"),
    "processor": ("AutoProcessor", "OFAProcessor", "LatrProcessor"),
}


@pytest.mark.parametrize("at, order", list(enumerate(ORDERS)))
def test_each_auto_class_loads_both_models_in_a_fresh_process(folders, at, order):
    loads = list(LOADS.values())
    loads = loads[at % 3 :] + loads[: at % 3]  # so that each comes first once: it then has nobody to register for it
    code = f"{ORDERS[order]}; import transformers\nroot = {str(folders)!r}\n"
    for auto, _, _ in loads:
        code += (
            f"for k in ('ofa', 'latr'): print(type(transformers.{auto}.from_pretrained(root + '/' + k)).__name__)\n"
        )
    assert fresh(code).split() == [name for _, *names in loads for name in names]


def test_importing_deed_imports_neither_torch_nor_transformers():
    assert fresh("import sys, deed; print({'torch', 'transformers', 'numpy'} & set(sys.modules) or 'none')") == "none"


def test_models_ocr_and_the_command_line_wait_until_they_are_asked_for():
    code = """
import sys, deed, deed.modeling.model
import transformers.models.auto.modeling_auto
rooms = ("models.latr.m", "models.latr.p", "models.ofa.m", "models.ofa.p", "models.ofa.d", "ocr", "cli", "data", "tasks")
print([m for m in sys.modules if m.startswith(tuple(f"deed.{room}" for room in rooms))])
"""
    assert fresh(code) == "[]"


def test_a_configuration_alone_loads_no_model_code(folders):
    code = (
        f"import sys, deed; from transformers import AutoConfig; AutoConfig.from_pretrained({str(folders / 'ofa')!r})"
    )
    assert fresh(code + "; print('deed.models.ofa.modeling_ofa' in sys.modules)") == "False"


def test_names_of_the_packages_are_listed_and_others_refused():
    code = """
import deed
print("OFAProcessor" in dir(deed.models.ofa), deed.models.latr.LatrConfig.model_type)
try:
    deed.models.ofa.Nothing
except AttributeError as error:
    print(error)
"""
    assert fresh(code).splitlines() == ["True latr", "module 'deed.models.ofa' has no attribute 'Nothing'"]


def test_a_deed_model_of_ours_loads_and_unpickles_in_a_fresh_process(folders, tmp_path):
    import deed

    model = deed.get_deed_model(plain_ofa(enc=1, dec=2))
    model.save_pretrained(tmp_path)
    assert fresh(f"import deed; print(type(deed.from_pretrained({str(tmp_path)!r})).__name__)") == type(model).__name__
    code = "from deed.modeling.model import DeedOFAForConditionalGeneration as c; print(c.deed_base.__name__)"
    assert fresh(code) == "OFAForConditionalGeneration"


def test_a_processor_loaded_by_its_auto_class_works(folders):
    from transformers import AutoProcessor

    batch = AutoProcessor.from_pretrained(folders / "ofa").caption(Image.new("RGB", (40, 30)))
    assert batch["patch_images"].shape == (1, 3, 32, 32)
