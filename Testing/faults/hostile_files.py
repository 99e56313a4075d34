"""Random faults of single files of a model, and checksums that fit to them."""

from __future__ import annotations

import hashlib
import json
import random
import struct

from hostile_archives import damaged_bytes
from model_faults import BITS, OTHER_FORMATS, SIZES, TYPES, with_header


def damaged_text(data: bytes, draw: random.Random) -> bytes:
    """A file with other bytes, another encoding or the content of another format."""
    fault = draw.randrange(4)
    if fault == 0:
        return draw.choice(OTHER_FORMATS)
    if fault == 1:
        at = draw.randrange(len(data) + 1)
        return data[:at] + draw.choice(BITS) + data[at:]
    if fault == 2 and len(data) < 20_000:
        return data.decode("utf-8", "replace").encode(
            draw.choice(("utf-16", "utf-8-sig", "utf-32", "cp037")), "replace"
        )
    return damaged_bytes(data, draw, share=1.0)


def damaged_tensors(data: bytes, draw: random.Random) -> bytes:
    """A file of safetensors with faults in its header or its bytes."""
    if draw.random() < 0.3:
        return damaged_bytes(data, draw, share=1.0)
    fault = draw.choice(("dtype", "shape", "data_offsets", "name", "remove", "empty", "number", "length"))
    sizes = [draw.choice(SIZES) for _ in range(draw.randrange(5))]
    values = {"dtype": draw.choice(TYPES), "number": b"\x00\x7e", "length": draw.choice((0, 2**32, 2**63)), "name": "a"}
    try:
        return with_header(data, [(fault, draw.randrange(10**6), values.get(fault, sizes))])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, struct.error):  # damaged before
        return data


def fit_checksums(files: dict[str, bytes]) -> None:
    """The author of a hostile model can compute its checksums."""
    from diffusion_segmentation.model import monai_metadata, nnunet_metadata

    try:
        metadata = json.loads(files["metadata.json"])
        section = metadata["diffusion_segmentation"]
        parts = [*section.get("folds", ()), section.get("weights"), section]
        for part, name in ((one, one.get("file", "model.safetensors")) for one in parts if isinstance(one, dict)):
            part["sha256"] = hashlib.sha256(files[name]).hexdigest()
            if "bytes" in part:
                part["bytes"] = len(files[name])
        if "kind" in section:
            module = monai_metadata if section["kind"] == "monai" else nnunet_metadata
            section["sha256"] = module.digest_of_model(section)
        files["metadata.json"] = json.dumps(metadata).encode()
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        return
