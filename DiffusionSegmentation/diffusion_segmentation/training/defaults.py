"""Default configurations, for entries that neither a configuration nor the data set have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .settings import merged

CONFIGS = Path(__file__).parent / "configs"


def config(name: str) -> dict[str, Any]:
    """A shipped configuration by its file name without suffix, completed by `configs/defaults.json`."""
    common, own = (json.loads((CONFIGS / f"{n}.json").read_text(encoding="utf-8")) for n in ("defaults", name))
    return merged(common, own)
