"""Check of a pickle before PyTorch loads it: which names it looks up, and how large its values are.

PyTorch's safe loading calls no foreign code, but functions that allocate any number of bytes, and it hashes tuples of
any size: one that contains another one twice, and so on, takes years.
"""

from __future__ import annotations

import pickletools
import re
from pathlib import Path
from typing import Any

import torch

MAX_BYTES = 32 * 2**20  # of the pickle; the history of a long training has some MB
MAX_PARTS = 20_000_000  # of values that are used again, each time counted with their parts
NAMES = re.compile(
    r"collections (OrderedDict|Counter)|builtins set|_codecs encode|numpy dtype|numpy\._?core\.multiarray scalar"
    r"|numpy\.dtypes \w+DType|torch (Size|device|float\d+|bfloat16|u?int\d+|bool|[A-Z][A-Za-z0-9]*Storage)"
    r"|torch\.nn\.parameter Parameter"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|tensor_v3|parameter|parameter_with_state)|__builtin__ set"
)
"""Names of what weights and the state of a training consist of."""
_MARK = None  # on the stack of sizes


def require_plain(path: Path) -> None:
    """Raise ValueError if the pickle in a file of PyTorch has other names, or values of excessive size.

    Errors of the readers for damaged files come out, too.
    """
    reader = torch._C.PyTorchFileReader(str(path))
    _scan(reader.get_record("data.pkl"))


def _scan(pickled: bytes) -> None:
    """Follow the operations of a pickle with the number of parts of each value in place of the value."""
    if len(pickled) > MAX_BYTES:
        raise ValueError("too long")
    stack: list[int | None] = []
    memo: dict[Any, int | None] = {}
    repeated = 0
    for operation, argument, _ in pickletools.genops(pickled):
        if operation.name == "GLOBAL" and not NAMES.fullmatch(str(argument)):
            raise ValueError("another name")
        if "PUT" in operation.name:
            memo[argument] = stack[-1]
            continue
        if operation.name == "MARK":
            stack.append(_MARK)
            continue
        parts = memo[argument] or 0 if "GET" in operation.name else 1
        repeated += parts if "GET" in operation.name else 0
        parts += _popped(stack, operation)
        stack.extend([parts] * len(operation.stack_after))
        if max(parts, repeated) > MAX_PARTS:
            raise ValueError("too many parts")


def _popped(stack: list[int | None], operation: pickletools.OpcodeInfo) -> int:
    """Take what an operation needs from the stack; returns the number of its parts."""
    parts, single = 0, len(operation.stack_before)
    if pickletools.markobject in operation.stack_before:
        single = operation.stack_before.index(pickletools.markobject)
        while (top := stack.pop()) is not _MARK:
            parts += top or 0
    return parts + sum(stack.pop() or 0 for _ in range(single))
