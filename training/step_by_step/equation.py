"""Arithmetic that a model wrote: read as a tree, never run as a program."""

import ast
import re
from fractions import Fraction

_SIGNS = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}
_ARITHMETIC = re.compile(r"[0-9.+\-*/() ]{1,500}")  # longer ones could nest too deep to parse


def normalised(equation: str) -> str | None:
    """One spelling for `( 84.0 / 2.0 )`, `84/2` and `(84) / 2`: brackets around each operation.

    Numbers, + - * / and brackets are understood; None is for anything else. Nothing is computed:
    `2 + 1` and `1 + 2` stay different.
    """
    tree = _parsed(equation)
    try:
        return None if tree is None else _spelled(tree)
    except (ValueError, RecursionError):
        return None


def value(equation: str) -> Fraction | None:
    """What it comes to, exactly; None where it is no equation, or divides by zero."""
    tree = _parsed(equation)
    try:
        return None if tree is None else _computed(tree)
    except (ValueError, ZeroDivisionError, RecursionError):
        return None


def _parsed(text: str) -> ast.expr | None:
    if not _ARITHMETIC.fullmatch(text):
        return None
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, RecursionError, MemoryError):
        return None


def _number(node: ast.Constant) -> Fraction:
    return Fraction(str(node.value))  # 0.1 is a tenth, not the float beside it; inf is refused


def _spelled(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return str(_number(node))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return f"(-{_spelled(node.operand)})"
    if isinstance(node, ast.BinOp) and type(node.op) in _SIGNS:
        return f"({_spelled(node.left)}{_SIGNS[type(node.op)]}{_spelled(node.right)})"
    raise ValueError(f"{type(node).__name__} is no arithmetic")


def _computed(node: ast.expr) -> Fraction:
    if isinstance(node, ast.Constant):
        return _number(node)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_computed(node.operand)
    if isinstance(node, ast.BinOp):
        left, right = _computed(node.left), _computed(node.right)
        match node.op:
            case ast.Add():
                return left + right
            case ast.Sub():
                return left - right
            case ast.Mult():
                return left * right
            case ast.Div():
                return left / right
    raise ValueError(f"{type(node).__name__} is no arithmetic")
