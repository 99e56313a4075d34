"""Random faults of JSON content, with which foreign models are tested."""

from __future__ import annotations

import copy
import random
import re
from pathlib import Path
from typing import Any

from diffusion_segmentation.errors import ModelError

BAIT = "foreign_bait"
"""Name of a module that a test provides, which must not be imported."""
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 3, 2.5, 10**30, 1e308, float("nan"), float("inf"), "", "\ud800", "a\nb", "\u202e", "x" * 5000),
    *([], {}, [[]], {"a": {}}, [1, 2, 3], [0.0] * 3, [True, False, None], list(range(10_000))),
    *("os.system", BAIT, f"{BAIT}.Net", f"torch.nn.{BAIT}", f"dynamic_network_architectures.architectures.unet.{BAIT}"),
    *("__import__('os').system('true')", "../../etc/passwd", "torch.nn.modules.conv.Conv2d", "2d", "3d_lowres"),
)


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values within a content."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [place for key, value in items for place in [(*path, key), *places(value, (*path, key))]]


def damaged(
    content: Any,
    draw: random.Random,
    values: tuple[Any, ...] = VALUES,
    names: tuple[str, ...] = (*"01234", "previous_stage", "inherits_from", "block", BAIT),
) -> Any:
    """A copy with one to three values removed, replaced, nested or exchanged; `names` are those of added ones."""
    content = copy.deepcopy(content)
    for _ in range(draw.randint(1, 3)):
        *path, key = draw.choice(places(content) or [()])
        parent = content
        for step in path:
            parent = parent[step]
        fault = draw.choice(("remove", "replace", "replace", "replace", "nest", "exchange", "add"))
        if fault == "remove":
            del parent[key]
        elif fault == "nest":
            parent[key] = [parent[key]]
        elif fault == "exchange":
            other = draw.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
            parent[key], parent[other] = parent[other], parent[key]
        elif fault == "add" and isinstance(parent, dict):
            parent[draw.choice(names)] = copy.deepcopy(draw.choice(values))
        else:
            parent[key] = copy.deepcopy(draw.choice(values))
        if not places(content):
            break
    return content


def hostile_values(file: Path) -> tuple[object, ...]:
    """VALUES, and expressions and components of MONAI of which each would create a file if it were run."""
    create = f"open({str(file)!r}, 'w')"
    return (
        *VALUES,
        *(
            f"${create}",
            f"$__import__('{BAIT}')",
            f"$[{create}]",
            f"$(lambda: {create})()",
            f"${create} if True else 1",
        ),
        *("@network_def", "@network_def::channels", "$@preprocessing", "@inferer#roi_size#0", "@", "$", "%", "$" * 50),
        *({"_target_": BAIT}, {"_target_": f"{BAIT}.x", "keys": "image"}, {"_target_": "UNet"}, "@postprocessing"),
        *("$-1", "$[1,2,3]", "$None", "$" + "(" * 900, "$" + "-" * 900 + "1", "$9**9**9", "$'a'*10**9", "@a::b::c"),
    )


def outcome(work: Any) -> bool:
    """Whether a folder is accepted; a refusal must be one sentence."""
    try:
        work()
    except ModelError as error:
        sentence = str(error)
        assert sentence.endswith(".") and sentence.isprintable() and len(sentence) < 500, sentence
        assert len(re.findall(r"[.?!](?=\s|$)", sentence)) == 1, sentence
        return False
    return True
