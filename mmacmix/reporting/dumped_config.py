"""The configs that MMEngine leaves in work directories, read as data."""

import ast
from pathlib import Path
from typing import Any


def read_dumped_config(path: str | Path) -> dict[str, Any]:
    """Read what MMEngine's ``Config.dump`` has written, without running it.

    Args:
        path: The file. It sets names to numbers, strings, ``None``, ``True``, ``False``, and lists, tuples, sets and
            dictionaries of them, also as ``dict(name=value)``. The name of a class, such as ``torch.nn.GELU``, is read
            as a string.

    Raises:
        ValueError: Anything else is in it.
    """
    try:
        return dict(map(_setting, ast.parse(Path(path).read_text(encoding='utf-8')).body))
    except (MemoryError, RecursionError, SyntaxError, ValueError) as error:
        reason = getattr(error, 'msg', None) or str(error) or 'it is nested too deeply'
        raise ValueError(f'{path} cannot be read as the settings of a run: {reason}') from error


def _setting(statement: ast.stmt) -> tuple[str, Any]:
    line = statement.lineno
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            try:
                return name, ast.literal_eval(_AsLiterals().visit(value))
            except (TypeError, ValueError):
                pass
    raise ValueError(f'line {line} holds something else than values, which could be code')


class _AsLiterals(ast.NodeTransformer):
    """Makes of ``dict(name=value)`` and of names what ``ast.literal_eval`` takes."""

    def visit_Call(self, node: ast.Call) -> ast.expr:
        match node:
            case ast.Call(func=ast.Name(id='dict'), args=[], keywords=keywords) if all(each.arg for each in keywords):
                names = [ast.Constant(each.arg) for each in keywords]
                return ast.Dict(names, [self.visit(each.value) for each in keywords])
            case ast.Call(func=ast.Name(id='dict'), args=[ast.Dict() as argument], keywords=[]):
                return self.visit(argument)
        return node  # is refused

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return ast.Constant(float(node.id) if node.id in ('inf', 'nan') else node.id)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        return ast.Constant(ast.unparse(node))
