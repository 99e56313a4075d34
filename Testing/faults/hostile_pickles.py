"""Random faults of weights that PyTorch pickled; a pickle that is run creates a file."""

from __future__ import annotations

import contextlib
import copy
import io
import pickle
import random
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

MARK = "replaced-by-other-operations"
HUGE = (10**6, 10**6)
"""Shape of a tensor of 4 TB."""


def _repeated(levels: int, wide: bool = False) -> bytes:
    """A tuple of a tuple ..., each of which contains the next one twice, or a hundred times: its hash takes years."""
    step = b"(" + b"h\x7f" * 100 + b"tq\x7f" if wide else b"q\x7fh\x7f\x86q\x7f"
    return b")q\x7f" + (b"0" + step if wide else step) * levels


def _call(function: str, *arguments: Any) -> bytes:
    """Operations that call a function with arguments."""
    module, _, name = function.rpartition(".")
    return f"c{module}\n{name}\n".encode() + pickle.dumps(arguments, protocol=2)[2:-1] + b"R"


def operations(canary: Path) -> list[bytes]:
    """Operations of pickles that run code, that ask for memory, or that take for ever."""
    file = str(canary)
    run = f"open({file!r}, 'w').close()"
    return [
        *(_call("os.system", f"touch '{file}'"), _call("posix.system", f"touch '{file}'"), _call("os.mkdir", file)),
        *(_call("builtins.eval", run), _call("builtins.exec", run), _call("builtins.open", file, "w")),
        *(_call("io.open", file, "w"), _call("subprocess.Popen", ["touch", file]), _call("runpy.run_path", file)),
        *(_call("builtins.getattr", [], "append"), _call("torch.load", file), _call("torch.save", [], file)),
        *(_call("torch.hub.load", "x", "y"), _call("numpy.save", file, [1]), _call("torch._C._jit_init")),
        *(_call("builtins.bytearray", 2**40), _call("builtins.bytearray", 2**31), _call("torch.FloatTensor", 2**40)),
        *(
            _call("torch.storage.UntypedStorage", 2**40),
            _call("torch.FloatTensor", 2**28),
            _call("torch.Size", [2**62]),
        ),
        *(_call("torch.nn.parameter.Parameter", 3), _call("builtins.set", []), _call("collections.Counter", "abc")),
        *(_call("torch._utils._rebuild_meta_tensor_no_storage", 1, [2**40], [1], False), _call("torch.device", "cuda")),
        *(_repeated(60), _repeated(60, wide=True), b"}" + _repeated(60) + b"Ns", b"\x8f(" + _repeated(60) + b"\x90"),
        *(b")" + b"\x85" * 50_000, b"]" * 50_000, b"(" * 50_000, b"N.", b"", b"0" * 9, b"h\xff", b"j\xff\xff\xff\xff"),
        *(b"X\xff\xff\xff\x7f", b"\x8b\xff\xff\xff\x7f", b"B\xff\xff\xff\x7f", b"\x95" + b"\xff" * 8, b"\x8a\xff1"),
        *(b"r\xff\xff\xff\xff", b"P1\n", b"K\x01Q", b"i" + b"os\nsystem\n", b"(S'x'\nios\nsystem\n", b"\x93", b"\x81"),
    ]


def _tensors() -> list[Callable[[torch.Tensor], Any]]:
    """What can be in place of a tensor."""
    return [
        *(lambda t: torch.zeros(()).expand(HUGE), lambda t: torch.zeros(()).expand(t.shape), lambda t: t[..., :0]),
        *(
            lambda t: torch.zeros(()).expand(2**27),
            lambda t: t.to(torch.float64),
            lambda t: t.half(),
            lambda t: t.int(),
        ),
        *(lambda t: t * float("nan"), lambda t: t / 0, lambda t: t.bool(), lambda t: t.to(torch.complex64)),
        *(
            lambda t: t.to_sparse(),
            lambda t: t.to("meta"),
            lambda t: torch.empty(HUGE, device="meta"),
            lambda t: t[None],
        ),
        *(lambda t: torch.quantize_per_tensor(t.float(), 1, 0, torch.qint8), lambda t: torch.nn.Parameter(t.float())),
        *(lambda t: t.T if t.ndim == 2 else t.flip(0), lambda t: torch.ones(1000)[3:4], lambda t: t.reshape(-1)),
        *(lambda t: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), lambda t: torch.ones((1,) * 60)),
        *(lambda t: t.tolist(), lambda t: None, lambda t: "x", lambda t: {"a": t}, lambda t: 10**30, lambda t: (t, t)),
        *(lambda t: t.untyped_storage(), lambda t: t.shape, lambda t: t.dtype, lambda t: MARK, lambda t: MARK),
    ]


TENSORS = _tensors()
KEYS: tuple[Any, ...] = (0, None, (1, 2), "", "x" * 300, "\u202e", "é", "a\nb", b"a", 1.5, True, MARK, MARK)


def damaged_state(state: dict[Any, Any], draw: random.Random) -> Any:
    """A copy of a state dict with one or two tensors or names replaced, removed or added."""
    state = dict(state)
    for _ in range(draw.randint(1, 2)):
        key = draw.choice(list(state) or ["a"])
        tensor = state.get(key, torch.ones(2))
        tensor = tensor if isinstance(tensor, torch.Tensor) and tensor.numel() < 10**6 else torch.ones(2)
        fault = draw.choice(("replace", "replace", "replace", "remove", "rename", "add", "shared", "empty", "list"))
        if fault == "replace":
            with contextlib.suppress(RuntimeError, IndexError, NotImplementedError):  # for a scalar, or an empty one
                state[key] = draw.choice(TENSORS)(tensor)
        elif fault == "remove":
            state.pop(key, None)
        elif fault == "rename":
            state[draw.choice(KEYS)] = state.pop(key, None)
        elif fault == "add":
            state[draw.choice(KEYS)] = tensor
        elif fault == "shared":
            state |= {f"shared.{n}": tensor for n in range(draw.choice((1, 50, 12_000 if draw.random() < 0.02 else 9)))}
        elif fault == "empty":
            state = {}
        else:
            return draw.choice(([], [state], MARK, {"model": MARK}, {"model": {"model": state}}, tensor, 3))
    return state


def saved(content: Any, draw: random.Random, canary: Path) -> bytes:
    """A file of weights with this content, in which hostile operations replace MARK."""
    file, is_old = io.BytesIO(), draw.random() < 0.04  # the format before PyTorch 1.6
    try:
        torch.save(content, file, _use_new_zipfile_serialization=not is_old)
    except (RuntimeError, NotImplementedError, ValueError):  # what PyTorch cannot write
        return b""
    if is_old:
        return _replaced(file.getvalue(), draw.choice(operations(canary)))
    if MARK.encode() not in file.getvalue():
        return file.getvalue()
    return rewritten(file.getvalue(), lambda pickled: _replaced(pickled, draw.choice(operations(canary))))


def rewritten(
    data: bytes, change: Callable[[bytes], bytes], compression: int = zipfile.ZIP_STORED, twice: bool = False
) -> bytes:
    """A file of weights with a changed pickle; `twice`: the pickle as it was follows it under the same name."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as before, zipfile.ZipFile(out, "w", compression) as after:
        for info in before.infolist():
            content = before.read(info)
            if info.filename.endswith("/data.pkl"):
                after.writestr(info.filename, change(content))
                if not twice:
                    continue
            with warnings.catch_warnings(action="ignore"):
                after.writestr(info.filename, content)
    return out.getvalue()


def _replaced(pickled: bytes, operations: bytes) -> bytes:
    mark = MARK.encode()
    return pickled.replace(b"X" + len(mark).to_bytes(4, "little") + mark, operations)


def damaged_file(data: bytes, draw: random.Random, canary: Path) -> bytes:
    """A file of weights with faults in its pickle or in its form."""
    operation = draw.choice(operations(canary))
    with contextlib.suppress(zipfile.BadZipFile, EOFError, zlib.error, RuntimeError, ValueError):  # damaged before
        return _damaged_zip(data, operation, draw)
    return data[: len(data) // 2] + operation


def _damaged_zip(data: bytes, operation: bytes, draw: random.Random) -> bytes:
    fault = draw.randrange(8)
    if fault == 0:
        return b"\x80\x02" + operation + b"."
    if fault == 1:
        return rewritten(data, lambda _: b"\x80\x02" + operation + b".", twice=draw.random() < 0.5)
    if fault == 2:
        return rewritten(data, lambda p: p[:2] + operation + b"0" + p[2:], draw.choice((zipfile.ZIP_STORED, 8)))
    if fault == 3:
        return rewritten(data, lambda p: _with_random_bytes(p, draw))
    if fault == 4:
        return rewritten(data, lambda p: p + bytes(draw.choice((1, 2**16, 2**24))), draw.choice((0, 8)))
    if fault == 5:  # sizes in the directory of the archive
        at = data.rfind(b"PK\x01\x02") + draw.randrange(8, 46)
        return data[:at] + draw.choice((b"\xff" * 4, b"\0" * 4, b"\x00\x00\x00\x7f")) + data[at + 4 :]
    if fault == 6:
        return data[: draw.randrange(len(data))]
    return _with_random_bytes(data, draw)


def _with_random_bytes(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(copy.copy(data))
    for _ in range(draw.choice((1, 1, 2, 20))):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)
