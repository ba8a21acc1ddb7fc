"""Builds the native kernels with the C++ compiler that is there: at install (`hatch_build.py`) or by hand.

    python -m deed.kernels.native

The standard library only, and no import of deed: pip builds in an environment that has neither torch nor deed. Each
instruction set is a file with flags of its own; which one runs is decided where it runs. `CXX` names the compiler.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FOLDER = Path(__file__).parent
LIBRARY = FOLDER / "libdeed_kernels.so"
X86 = ("x86_64", "amd64")
AVX2 = ["-mavx2", "-mfma"]
AVX512 = [*(f"-mavx512{part}" for part in ("f", "bw", "vl", "dq", "vnni")), "-mprefer-vector-width=512"]
SOURCES: dict[str, list[str]] = {"dispatch": [], "scalar": []}
X86_SOURCES = {"avx2": AVX2, "avx_vnni": [*AVX2, "-mavxvnni"], "avx512": [*AVX2, *AVX512]}
# No contraction and no reordering: what a row gives must not depend on the rows beside it.
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-fno-math-errno", "-w"]


class BuildError(Exception):
    """No compiler, or it failed; the message says which."""


def compiler() -> list[str]:
    """The command of the C++ compiler.

    Raises:
        BuildError: there is none.
    """
    named = os.environ.get("CXX")
    for command in [shlex.split(named)] if named else [["c++"], ["g++"], ["clang++"]]:
        if command and shutil.which(command[0]):
            return command
    raise BuildError(f"no C++ compiler ({named or 'c++, g++, clang++'})")


def build(target: Path = LIBRARY) -> Path:
    """Compile and link the library; it appears at `target` whole or not at all.

    Raises:
        BuildError: there is no compiler, or it fails; the message has its output.
    """
    command, machine = compiler(), platform.machine().lower()
    sources = {**SOURCES, **(X86_SOURCES if machine in X86 else {})}
    flags = [*FLAGS, *(["-DDEED_X86"] if machine in X86 else [])]
    with tempfile.TemporaryDirectory(prefix="deed-kernels-") as folder:
        for openmp in (["-fopenmp"], []):  # Without OpenMP (clang of macOS) on one thread.
            jobs = [
                [*command, *flags, *openmp, *own, "-c", str(FOLDER / f"{name}.cpp"), "-o", f"{folder}/{name}.o"]
                for name, own in sources.items()
            ]
            try:
                with ThreadPoolExecutor(os.cpu_count()) as pool:
                    list(pool.map(_run, jobs))
                made = Path(folder, "library")
                _run([*command, "-shared", *openmp, *(f"{folder}/{name}.o" for name in sources), "-o", str(made)])
                break
            except BuildError:
                if not openmp:
                    raise
        temporary = target.with_name(f"{target.name}.{os.getpid()}.tmp")
        try:
            shutil.copyfile(made, temporary)
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    return target


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]}: {error}") from error
    if done.returncode:
        raise BuildError(f"{shlex.join(command)}\n{done.stderr[-4000:]}")
