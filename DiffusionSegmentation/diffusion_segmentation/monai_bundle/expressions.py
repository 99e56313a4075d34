"""Expressions of a bundle's configuration, of which only constants, references, sums and choices are computed.

MONAI evaluates a text that begins with "$" as Python. Here it is parsed, and nothing is called or looked up.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from typing import Any

from ..model.refusal import Refusal

MAX_CHARACTERS = 1000
MAX_LENGTH = 10_000  # of a text or a list that is a sum
REFERENCE = r"@[A-Za-z_0-9]+(?:(?:::|#)[A-Za-z_0-9]+)*"
UNREADABLE = (ValueError, TypeError, SyntaxError, MemoryError, RecursionError, OverflowError)


def value_of(expression: str, look_up: Callable[[str], Any]) -> Any:
    """Value of an expression without its "$"; `look_up` returns the value of a reference such as "@device".

    Raises Refusal if it is more than constants, references, `+` and `A if B else C`.
    """
    references = re.findall(REFERENCE, expression) if len(expression) <= MAX_CHARACTERS else []
    names = {f"_reference_{number}_": reference for number, reference in enumerate(references)}
    free = iter(names)
    try:
        if len(expression) > MAX_CHARACTERS:
            raise ValueError("too long")
        text = re.sub(REFERENCE, lambda _: next(free), expression)
        return _value(ast.parse(text.strip(), mode="eval").body, lambda name: look_up(names[name]))
    except (KeyError, *UNREADABLE):
        shown = expression[:60] if expression.isprintable() else "an expression"
        raise Refusal(f"needs the value of '{shown}', and expressions are not run; choose another model") from None


def _value(node: ast.expr, look_up: Callable[[str], Any]) -> Any:
    match node:
        case ast.Constant(value=None | bool() | int() | float() | str()):
            return node.value
        case ast.Name():
            return look_up(node.id)
        case ast.List() | ast.Tuple():
            return [_value(element, look_up) for element in node.elts]
        case ast.UnaryOp(op=ast.USub()):
            return -_number(_value(node.operand, look_up))
        case ast.BinOp(op=ast.Add()):
            return _sum(_value(node.left, look_up), _value(node.right, look_up))
        case ast.IfExp():
            test = _value(node.test, look_up)
            if not isinstance(test, bool):
                raise TypeError("a choice needs true or false")
            return _value(node.body if test else node.orelse, look_up)
    raise ValueError("not a constant")


def _number(value: Any) -> int | float:
    if type(value) not in (int, float):
        raise TypeError("not a number")
    return value


def _sum(a: Any, b: Any) -> Any:
    if not any(isinstance(a, kind) and isinstance(b, kind) for kind in (str, list)):
        return _number(a) + _number(b)
    if len(a) + len(b) > MAX_LENGTH:
        raise ValueError("too long")
    return a + b
