"""The wheel's build hook: compile the kernels where they exist, and tag the wheel."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class KernelsHook(BuildHookInterface):
    """Builds `python/hotloop/_kernels.*` before hatchling collects the files."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and name what was compiled."""
        if self.target_name != "wheel":
            return  # A source distribution holds sources only.
        path = Path(self.root) / "tools" / "kernels.py"
        spec = importlib.util.spec_from_file_location("kernels", path)
        kernels = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(kernels)
        if not kernels.can_build():
            return  # A wheel without kernels runs on torch.
        if version == "editable":
            if not kernels.is_current():
                kernels.build()
        else:
            built = kernels.build()
            build_data["pure_python"] = False
            build_data["tag"] = "py3-none-manylinux_2_28_x86_64"
            build_data["force_include"].update(
                {str(path): f"hotloop/{path.name}" for path in built}
            )
