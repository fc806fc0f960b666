"""What a module's forward does with the layers below it, followed through its source.

For each layer, by its path below the module, the set of what may become of it on one way through: it is called, its
weight is taken, both, or neither. Conditions on what the module itself holds, mostly settings of its configuration, are
decided; at others both ways are possible.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache
from typing import Any

from .conditions import condition, settings_in
from .effects import CALLED, TAKEN, Effects, Scope, all_of, any_of, both, either
from .source import definition, is_weight, read_in

#: So many methods are followed inside each other.
_DEPTH = 8


def methods_of(module: Any) -> Mapping[str, Callable[..., Any]]:
    """The methods of a module's class and of those that it inherits from, but for torch's and those of every model."""
    its_class: Any = type(module)
    return _methods(its_class)


@cache
def _methods(its_class: Any) -> Mapping[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {}
    for one in its_class.__mro__:
        if one.__name__ == "PreTrainedModel" or one.__module__.partition(".")[0] in ("torch", "builtins"):
            break
        for name, value in vars(one).items():
            if inspect.isfunction(value) and name != "__init__":
                found.setdefault(name, value)
    return found


class Follower:
    """Follows the methods of one module.

    Parameters
    ----------
    root : torch.nn.Module
    usual : bool
        Whether parameters have their defaults where nothing is given for them, and not any value.
    decided : collection of str, optional
        The settings, by the names of attributes, that have their values; others may have any. None for all.

    Attributes
    ----------
    reached : set of str
        Names of its own methods that were followed.
    asked : dict
        The settings that conditions were on, to the modules that have them.
    """

    def __init__(self, root: Any, *, usual: bool = False, decided: Collection[str] | None = None) -> None:
        self.root = root
        self.usual = usual
        self.decided = decided
        self.reached: set[str] = set()
        self.asked: dict[str, Any] = {}
        self._within: list[Any] = []

    def follow(self, method: Callable[..., Any], name: str, at: str = "", given: Scope | None = None) -> Effects:
        """What a method of the module at a path does, with what its parameters hold."""
        node = definition(method)
        if node is None or method in self._within or len(self._within) > _DEPTH:
            return {}
        if not at:
            self.reached.add(name)
        self._within.append(method)
        try:
            scope = given or self._arguments(method, ast.Call(ast.Name(name), [], []), Scope({}), 0)
            if node.args.args and node.args.args[0].arg == "self":
                scope.modules["self"] = at
            return self._statements(node.body, scope)
        finally:
            self._within.pop()

    def _statements(self, statements: Iterable[ast.stmt], scope: Scope) -> Effects:
        found: Effects = {}
        statements = list(statements)
        for place, one in enumerate(statements):
            if isinstance(one, ast.If):
                found = both(found, self._expression(one.test, scope))
                ways = [
                    (body, scope.copy())
                    for value, body in ((True, one.body), (False, one.orelse))
                    if self._may_be(one.test, value, scope)
                ]
                if any(_leaves(body) for body, _ in ways):  # what follows is the other way's
                    rest = statements[place + 1 :]
                    return both(found, any_of(self._statements(_followed(b, rest), inside) for b, inside in ways))
                found = both(found, any_of([self._statements(body, inside) for body, inside in ways]))
                scope.take_over([inside for _, inside in ways])
            else:
                found = both(found, self._statement(one, scope))
        return found

    def _statement(self, one: ast.stmt, scope: Scope) -> Effects:
        if isinstance(one, ast.Assign) and _ties(one):
            return {}
        if isinstance(one, ast.For | ast.While):
            found = self._expression(one.iter if isinstance(one, ast.For) else one.test, scope)
            if isinstance(one, ast.For):
                self._name_loop(one.target, one.iter, scope)
            inside = scope.copy()
            found = both(found, either({}, self._statements(one.body, inside)))
            scope.take_over([inside, scope])
            return found
        if isinstance(one, ast.With):
            found = all_of(self._expression(item.context_expr, scope) for item in one.items)
            return both(found, self._statements(one.body, scope))
        if isinstance(one, ast.Try):
            ways = [self._statements(body, scope) for body in (one.body, *(h.body for h in one.handlers))]
            return both(any_of(ways), self._statements(one.finalbody, scope))
        if isinstance(one, ast.FunctionDef):
            return self._statements(one.body, scope.copy())
        found = all_of(self._expression(child, scope) for child in read_in(one))
        for node in ast.walk(one):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                scope.constants.pop(node.id, None)
        if isinstance(one, ast.Assign) and len(one.targets) == 1 and isinstance(one.targets[0], ast.Name):
            later = {path: its for path, its in found.items() if not any(bits & CALLED for bits in its)}
            scope.set(one.targets[0].id, self._path(one.value, scope), later)
            return {path: its for path, its in found.items() if path not in later}
        return found

    def _name_loop(self, target: ast.expr, over: ast.expr, scope: Scope) -> None:
        """Have a loop's variables stand for the modules that it goes over."""
        values: list[ast.expr] = [over]
        targets: list[ast.expr] = [target]
        if isinstance(over, ast.Call) and isinstance(over.func, ast.Name):
            values = list(over.args)
            if over.func.id in ("enumerate", "zip") and isinstance(target, ast.Tuple):
                targets = target.elts[1:] if over.func.id == "enumerate" else target.elts
        for one, value in zip(targets, values, strict=False):
            if isinstance(one, ast.Name):
                path = self._path(value, scope)
                scope.set(one.id, None if path is None else f"{path}.*", {})

    def _expression(self, node: ast.AST, scope: Scope) -> Effects:
        if isinstance(node, ast.IfExp):
            ways = [node.body] * self._may_be(node.test, True, scope)
            ways += [node.orelse] * self._may_be(node.test, False, scope)
            return both(self._expression(node.test, scope), any_of(self._expression(way, scope) for way in ways))
        if isinstance(node, ast.Name):
            return scope.values.get(node.id, {}) if isinstance(node.ctx, ast.Load) else {}
        if isinstance(node, ast.ListComp | ast.GeneratorExp | ast.SetComp | ast.DictComp):
            scope = scope.copy()
            for loop in node.generators:
                self._name_loop(loop.target, loop.iter, scope)
        if is_weight(node):
            path = self._path(node.value, scope)  # type: ignore[attr-defined]
            if path:
                return {path: {TAKEN}}
        found = all_of(self._expression(child, scope) for child in read_in(node))
        return both(found, self._call(node, scope)) if isinstance(node, ast.Call) else found

    def _call(self, node: ast.Call, scope: Scope) -> Effects:
        path = self._path(node.func, scope)
        hands = any(self._path(value, scope) for value in (*node.args, *(one.value for one in node.keywords)))
        if path is None:
            if isinstance(node.func, ast.Name) and hands:
                function = getattr(sys.modules.get(self._within[-1].__module__), node.func.id, None)
                if inspect.isfunction(function):
                    return self.follow(function, "", "-", self._arguments(function, node, scope, 0))
            return {}
        module = self._at(path)
        parent, _, name = path.rpartition(".")
        method = methods_of(module).get("forward") if module is not None else methods_of(self._at(parent)).get(name)
        inside: Effects = {}
        if method is not None and (hands or (module is None and not parent)):  # others are followed by themselves
            at = parent if module is None else path
            inside = self.follow(method, name, at, self._arguments(method, node, scope, 1))
        return inside if module is None else both({path: {CALLED}}, inside)

    def _arguments(self, function: Callable[..., Any], call: ast.Call, scope: Scope, first: int) -> Scope:
        """What a function's parameters hold in a call."""
        found = Scope({})
        node = definition(function)
        if node is None:
            return found
        parameters = [one.arg for one in node.args.args]
        given = dict(zip(parameters[first:], call.args, strict=False))
        given |= {one.arg: one.value for one in call.keywords if one.arg}
        unpacked = any(isinstance(one, ast.Starred) for one in call.args) or any(not one.arg for one in call.keywords)
        defaults = dict(zip(reversed(parameters), reversed(node.args.defaults), strict=False))
        defaults |= {
            one.arg: value for one, value in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True) if value
        }
        for name, value in {**({} if unpacked else defaults), **given}.items():
            path = self._path(value, scope) if name in given else None
            if path:
                found.modules[name] = path
            elif self.usual and isinstance(value, ast.Constant):
                found.constants[name] = value.value
            elif self.usual and isinstance(value, ast.Name) and value.id in scope.constants:
                found.constants[name] = scope.constants[value.id]
        return found

    def _path(self, node: ast.AST, scope: Scope) -> str | None:
        """The path of what an expression names; None if it isn't of the module."""
        if isinstance(node, ast.Name):
            return scope.modules.get(node.id)
        if isinstance(node, ast.Attribute):
            path = self._path(node.value, scope)
            return None if path is None else f"{path}.{node.attr}".lstrip(".")
        if isinstance(node, ast.Subscript):
            path = self._path(node.value, scope)
            if path is None or isinstance(node.slice, ast.Slice):
                return path
            return f"{path}.{node.slice.value!s}" if isinstance(node.slice, ast.Constant) else f"{path}.*"
        return None

    def _at(self, path: str) -> Any:
        """The module at a path, any one of a list's; None if there is none."""
        found = self.root
        for part in path.split(".") if path else ():
            children = getattr(found, "_modules", {})
            found = next(iter(children.values()), None) if part == "*" else children.get(part)
        return found

    def _may_be(self, test: ast.expr, value: bool, scope: Scope) -> bool:
        """Whether a condition may have a value: what hangs on the module itself is known."""
        if isinstance(test, ast.BoolOp):
            known = [self._value(one, scope) for one in test.values]
            decided = isinstance(test.op, ast.Or)
            found = decided if decided in known else None if None in known else not decided
        else:
            found = self._value(test, scope)
        return found is None or found is value

    def _value(self, test: ast.expr, scope: Scope) -> bool | None:
        code, names = condition(test)
        known = dict(scope.constants)
        if "self" in scope.modules:
            known["self"] = self._at(scope.modules["self"])
        if code is None or not names <= known.keys():
            return None
        settings = settings_in(test, known["self"]) if "self" in names else set()
        self.asked |= dict.fromkeys(settings, known.get("self"))
        if self.decided is not None and not settings <= {*self.decided}:
            return None
        try:
            return bool(eval(code, {}, known))  # noqa: S307, the model's own code
        except Exception:
            return None


def _leaves(body: list[ast.stmt]) -> bool:
    """Whether what follows isn't reached from these statements."""
    return bool(body) and isinstance(body[-1], ast.Return | ast.Raise | ast.Continue | ast.Break)


def _ties(one: ast.Assign) -> bool:
    """Whether a weight is assigned to be another's."""
    return is_weight(one.value) and all(isinstance(t, ast.Attribute) and t.attr == "weight" for t in one.targets)


def _followed(body: list[ast.stmt], rest: list[ast.stmt]) -> list[ast.stmt]:
    return body if _leaves(body) else [*body, *rest]
