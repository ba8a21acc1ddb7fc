"""Building the native library: with the compiler there is, without one, with one that fails, and what is loaded afterwards."""

import ctypes
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from deed.kernels import native
from deed.kernels.native import build as builder
from deed.kernels.native.build import BuildError, build

ROOT = Path(__file__).parents[2]


def test_no_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "/no/such/compiler")
    with pytest.raises(BuildError, match="no C\\+\\+ compiler"):
        build(tmp_path / "library.so")
    assert not list(tmp_path.iterdir())


def test_a_compiler_that_fails_leaves_nothing(monkeypatch, tmp_path):
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\necho no such flag >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    target = tmp_path / "built" / "library.so"
    target.parent.mkdir()
    target.write_text("the one from before")
    with pytest.raises(BuildError, match="no such flag"):
        build(target)
    assert [f.name for f in target.parent.iterdir()] == ["library.so"] and target.read_text() == "the one from before"


def test_the_compiler_there_is_builds_all_instruction_sets(tmp_path):
    try:
        builder.compiler()
    except BuildError:
        pytest.skip("no compiler here")
    library = ctypes.CDLL(str(build(tmp_path / "library.so")))
    assert library.deed_has(0) == 1 and library.deed_has(99) == 0


def test_what_is_no_library_of_ours_is_not_used(monkeypatch, tmp_path):
    for content in (None, b"no library"):
        file = tmp_path / "library.so"
        if content:
            file.write_bytes(content)
        monkeypatch.setattr(native, "LIBRARY", file)
        assert native.load.__wrapped__() is None


@pytest.mark.parametrize(
    ("variables", "most"),
    [
        ({}, 3),
        ({"ATEN_CPU_CAPABILITY": "avx2"}, 1),
        ({"ATEN_CPU_CAPABILITY": "default"}, 0),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, 1),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2_VNNI"}, 2),
        ({"DEED_NATIVE": "avx2"}, 1),
        ({"DEED_NATIVE": "avx512", "ATEN_CPU_CAPABILITY": "avx2"}, 1),
    ],
)
def test_variables_that_restrict(monkeypatch, variables, most):
    for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "DEED_NATIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    class Everything:
        def deed_has(self, isa):
            return True

    monkeypatch.setattr(native, "load", Everything)
    assert native.instruction_set.__wrapped__() == native.SETS[most]
    monkeypatch.setenv("DEED_NATIVE", "off")
    assert native.instruction_set.__wrapped__() is None
    monkeypatch.setenv("DEED_NATIVE", "mmx")
    with pytest.raises(ValueError, match="DEED_NATIVE='mmx': use off or the most"):
        native.instruction_set.__wrapped__()


@pytest.mark.skipif(native.load() is None or sys.platform != "linux", reason="not built, or not Linux")
def test_it_shares_the_openmp_library_of_pytorch():
    """Else there would be two teams of threads on the same processors."""
    code = "from deed.kernels import native; native.load(); print(open('/proc/self/maps').read())"
    maps = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    files = {line.split()[-1] for line in maps.splitlines() if "libgomp" in line}
    assert str(native.LIBRARY) in maps
    assert len(files) <= 1, files


def hook(monkeypatch, tmp_path, **variables):
    """What `hatch_build.py` makes of `build_data`, without hatchling."""
    stand_in = type(sys)("stand_in")
    stand_in.BuildHookInterface = object
    monkeypatch.setitem(sys.modules, "hatchling.builders.hooks.plugin.interface", stand_in)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    one = module.NativeKernels()
    one.root, one.target_name = str(ROOT), "wheel"
    made = tmp_path / "src/deed/kernels/native/libdeed_kernels.so"

    class Builder:
        @staticmethod
        def build():
            if "CXX" in variables:
                raise BuildError("broken")
            return made

    monkeypatch.setattr(module, "_builder", lambda root: Builder)
    one.root = str(tmp_path)
    data = {"force_include": {}, "pure_python": True}
    one.initialize("standard", data)
    return data, made


def test_the_hook_marks_the_wheel_only_if_it_built(monkeypatch, tmp_path, capsys):
    data, made = hook(monkeypatch, tmp_path)
    assert data["pure_python"] is False and data["tag"].startswith("py3-none-")
    assert data["force_include"] == {str(made): "deed/kernels/native/libdeed_kernels.so"}
    data, _ = hook(monkeypatch, tmp_path, CXX="broken")
    assert data == {"force_include": {}, "pure_python": True}
    assert "native kernels not built" in capsys.readouterr().err
    with pytest.raises(BuildError):
        hook(monkeypatch, tmp_path, CXX="broken", DEED_BUILD_NATIVE="1")
    data, _ = hook(monkeypatch, tmp_path, DEED_BUILD_NATIVE="0")
    assert data == {"force_include": {}, "pure_python": True}
