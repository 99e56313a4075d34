"""Tasks with a known answer: each case is an image and the exact distribution of the label map given that image.

Real data sets have no known posterior to compare a sampler's uncertainty with. Here the probability of every voxel, the
variance of every volume and, except for `probit`, every possible label map are known. The tasks:

- `boundary`: one random number moves all borders; detects samplers whose masks vary too little.
- `probit`: layers with correlated random borders; detects independent voxels and wrong smoothness.
- `lesions`: whole objects are present or absent, some together; detects lost modes and partial lesions.
- `split`: two inputs whose sum is the image of `boundary`; detects models that do not use an input.
- `template`: noise hides the object; detects networks that do not compute a posterior.
"""

from __future__ import annotations

import re

from ..errors import InputError
from .boundary import Boundary
from .case import Phantom, PhantomCase, VolumeLaw
from .lesions import Lesions
from .probit import Probit
from .split import Split
from .template import Template

__all__ = ["PHANTOMS", "Phantom", "PhantomCase", "VolumeLaw", "phantom"]

PHANTOMS: dict[str, type[Phantom]] = {kind.name: kind for kind in (Boundary, Probit, Lesions, Template, Split)}


def phantom(text: str) -> Phantom:
    """The phantom of a name with an optional grid, such as "lesions", "lesions:48x48" or "template:24x24x24".

    Raises InputError for an unknown name and for a grid that cannot be read or used.
    """
    parts = re.fullmatch(r"([a-z]+)(?::([0-9]{1,5}(?:x[0-9]{1,5})*))?", text)
    if parts is None or parts[1] not in PHANTOMS:
        raise InputError(
            f"There is no phantom '{text}'; choose {', '.join(PHANTOMS)}, or one with a grid as in lesions:32x32."
        )
    kind = PHANTOMS[parts[1]]
    return kind(tuple(map(int, parts[2].split("x")))) if parts[2] else kind()
