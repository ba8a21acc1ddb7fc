"""Build hook: compiles the native kernels (`src/deed/kernels/native`) where a C++ compiler is, and goes on without.

A wheel with the library in it is one of this platform (any Python 3); without, it runs everywhere. An editable install
leaves the library beside its sources. `DEED_BUILD_NATIVE=0` skips it; `=1` makes a failure an error.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeKernels(BuildHookInterface):
    """Called by hatchling before it writes a wheel."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and say that the wheel has the library.

        Args:
            version: "standard" or "editable".
            build_data: hatchling's, changed in place.
        """
        wanted = os.environ.get("DEED_BUILD_NATIVE", "")
        if self.target_name != "wheel" or wanted == "0":
            return
        builder = _builder(Path(self.root))
        try:
            library = builder.build()
        except Exception as error:
            if wanted == "1":
                raise
            print(f"deed: native kernels not built, PyTorch's are used instead ({error})", file=sys.stderr)
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        if version != "editable":
            build_data["force_include"][str(library)] = library.relative_to(Path(self.root, "src")).as_posix()


def _builder(root: Path) -> Any:
    path = root / "src" / "deed" / "kernels" / "native" / "build.py"
    spec = importlib.util.spec_from_file_location("deed_native_build", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
