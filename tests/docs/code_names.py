"""What a module defines, read from its text."""

import ast
from functools import cache
from pathlib import Path


@cache
def definitions(path: Path) -> dict[str, str]:
    """Returns name -> source of the functions, classes and methods (``Class.method``) of a module."""
    text = path.read_text(encoding="utf-8")
    found: dict[str, ast.AST] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
            if isinstance(node, ast.ClassDef):
                found |= {f"{node.name}.{part.name}": part for part in node.body if isinstance(part, ast.FunctionDef)}
    return {name: ast.get_source_segment(text, node) or "" for name, node in found.items()}
