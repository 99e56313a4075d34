"""Tasks with a known answer: each case is an image and the exact law of the label map given that image.

What a sampler says about uncertainty can be wrong in ways that no real data set shows, because nobody knows the right
answer there. Here it is known: every voxel's probability, every volume's spread, and, but for `probit`, every
label map that can occur. Four tasks, each hard in its own way:

- `boundary`: one number decides all borders; catches samplers whose masks vary too little.
- `probit`: layers with wavering borders; catches voxels drawn independently, and too much or too little smoothness.
- `lesions`: whole objects come and go, some together; catches lost modes and halves of lesions.
- `template`: the noise itself hides the object; catches networks that do not compute a posterior.
"""

from __future__ import annotations

import re

from ..errors import InputError
from .boundary import Boundary
from .case import Case, Phantom, VolumeLaw
from .lesions import Lesions
from .probit import Probit
from .template import Template

__all__ = ["PHANTOMS", "Case", "Phantom", "VolumeLaw", "phantom"]

PHANTOMS: dict[str, type[Phantom]] = {kind.name: kind for kind in (Boundary, Probit, Lesions, Template)}


def phantom(text: str) -> Phantom:
    """The phantom that `text` names: a name, and if wanted a grid; "lesions", "lesions:48x48", "template:24x24x24".

    Raises InputError for an unknown name and for a grid that cannot be read or used.
    """
    parts = re.fullmatch(r"([a-z]+)(?::([0-9]{1,5}(?:x[0-9]{1,5})*))?", text)
    if parts is None or parts[1] not in PHANTOMS:
        raise InputError(
            f"There is no phantom '{text}'; known are {', '.join(PHANTOMS)}, if wanted with a grid as in lesions:32x32."
        )
    kind = PHANTOMS[parts[1]]
    return kind(tuple(map(int, parts[2].split("x")))) if parts[2] else kind()
