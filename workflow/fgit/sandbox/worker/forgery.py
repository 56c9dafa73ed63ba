"""Which programs could forge a verdict, and so need a closer look when they pass."""

from __future__ import annotations

import ast
import builtins
import importlib
import string
import types
from collections.abc import Iterable, Iterator

FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef

# Names of these modules that read and write nothing but their arguments. Where a module is named
# without a list, all of its public names that are not modules themselves.
HARMLESS: dict[str, tuple[str, ...]] = {
    "__future__": ("annotations",),
    "bisect": (),
    "cmath": (),
    "collections": ("Counter", "OrderedDict", "defaultdict", "deque"),
    "copy": ("copy", "deepcopy"),
    "datetime": ("date", "datetime", "time", "timedelta"),
    "decimal": ("Decimal", "ROUND_DOWN", "ROUND_HALF_EVEN", "ROUND_HALF_UP", "ROUND_UP"),
    "fractions": ("Fraction",),
    "functools": ("cache", "cmp_to_key", "lru_cache", "partial", "reduce"),
    "heapq": (),
    "itertools": (),
    "math": (),
    "operator": (
        *("add", "and_", "eq", "floordiv", "ge", "gt", "itemgetter", "le", "lt", "mod"),
        *("mul", "ne", "neg", "not_", "or_", "pow", "sub", "truediv", "xor"),
    ),
    "random": ("choice", "choices", "randint", "random", "randrange", "sample", "seed", "shuffle"),
    "re": (
        *("A", "ASCII", "DOTALL", "I", "IGNORECASE", "M", "MULTILINE", "S", "VERBOSE", "X"),
        *("compile", "escape", "findall", "finditer", "fullmatch", "match", "search", "split"),
        *("sub", "subn"),
    ),
    "statistics": ("fmean", "mean", "median", "mode", "pstdev", "pvariance", "stdev", "variance"),
    "string": (
        *("ascii_letters", "ascii_lowercase", "ascii_uppercase", "capwords", "digits"),
        *("hexdigits", "octdigits", "printable", "punctuation", "whitespace"),
    ),
    "typing": (
        *("Any", "Callable", "Counter", "Deque", "DefaultDict", "Dict", "FrozenSet", "Generator"),
        *("Iterable", "Iterator", "List", "Literal", "Mapping", "Optional", "Sequence", "Set"),
        *("Tuple", "Type", "TypeVar", "Union"),
    ),
}
HARMLESS_BUILTINS = frozenset(
    (
        *("abs", "all", "any", "ascii", "bin", "bool", "bytearray", "bytes", "callable", "chr"),
        *("classmethod", "complex", "dict", "divmod", "enumerate", "filter", "float", "format"),
        *("frozenset", "hasattr", "hash", "hex", "id", "int", "isinstance", "issubclass", "iter"),
        *("len", "list", "map", "max", "min", "next", "object", "oct", "ord", "pow", "print"),
        *("property", "range", "repr", "reversed", "round", "set", "slice", "sorted"),
        *("staticmethod", "str", "sum", "tuple", "zip", "Ellipsis", "NotImplemented", "__name__"),
    )
)
HARMLESS_METHODS = frozenset({"__init__", "__repr__", "__str__", "__lt__"})
# Attributes that lead from a generator, coroutine, exception or function to what surrounds it.
INNER = ("gi_", "cr_", "ag_", "f_", "tb_", "co_", "func_")


def suspicion(program: str) -> str:
    """Why a program could forge a verdict; '' for one that is plainly unable to.

    It is, if all it uses is from lists of what cannot reach another object than its own: builtins
    that neither look up attributes by name nor run text, the pure parts of some modules, classes
    without a base or special methods, no attribute that begins with an underscore or belongs to a
    frame, and no assignment to an attribute. Most honest programs are so; the others take longer.
    """
    try:
        tree = ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"it does not parse: {type(error).__name__}"
    nodes = list(ast.walk(tree))
    modules: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name not in HARMLESS:
                    return f"imports {alias.name}"
                modules[alias.asname or alias.name] = alias.name
        elif isinstance(node, ast.ImportFrom):
            if node.level or node.module not in HARMLESS:
                return f"imports {node.module}"
            for alias in node.names:
                if alias.name not in harmless_names(node.module) and (
                    alias.name != "*" or HARMLESS[node.module]
                ):
                    return f"imports {node.module}.{alias.name}"
    of_attributes = {id(node.value) for node in nodes if isinstance(node, ast.Attribute)}
    kinds = {
        id(node.func)
        for node in nodes
        if isinstance(node, ast.Call)
        and len(node.args) == 1
        and not node.keywords
        and not isinstance(node.args[0], ast.Starred)
    }
    for node in nodes:
        if name := next((name for name in bound(node) if name.startswith("__")), None):
            return f"binds {name}"
        if isinstance(node, ast.Name):
            if node.id in modules:
                if id(node) not in of_attributes:
                    return f"uses the module {node.id} as a value"
            elif node.id == "type":
                if id(node) not in kinds:
                    return "uses type"
            elif (
                (hasattr(builtins, node.id) or node.id.startswith("__"))
                and node.id not in HARMLESS_BUILTINS
                and not is_exception(node.id)
            ):
                return f"uses {node.id}"
        elif isinstance(node, ast.Attribute):
            if reason := attribute_suspicion(node, modules):
                return reason
        elif isinstance(node, ast.Constant):
            text = node.value.decode("latin-1") if isinstance(node.value, bytes) else node.value
            if isinstance(text, str) and "__" in text and node.value != "__main__":
                return "a text with __"
        elif isinstance(node, ast.ClassDef):
            bases = [base.id if isinstance(base, ast.Name) else "" for base in node.bases]
            if node.keywords or not all(base == "object" or is_exception(base) for base in bases):
                return f"class {node.name} has a base"
        elif isinstance(node, FUNCTIONS):
            if node.name.startswith("__") and node.name not in HARMLESS_METHODS:
                return f"defines {node.name}"
        elif isinstance(node, ast.MatchClass):
            return "matches classes"
    return ""


def bound(node: ast.AST) -> Iterator[str]:
    """The names in a node that are no node of their own: of classes, arguments, captures ..."""
    if isinstance(node, ast.Name | ast.Attribute | ast.Constant | FUNCTIONS | ast.ImportFrom):
        return  # looked at by themselves
    for _, value in ast.iter_fields(node):
        names = value if isinstance(value, list) else [value]
        yield from (name for name in names if isinstance(name, str))


def attribute_suspicion(node: ast.Attribute, modules: dict[str, str]) -> str:
    name = node.attr
    base = node.value.id if isinstance(node.value, ast.Name) else None
    if not isinstance(node.ctx, ast.Load):
        return f"assigns to .{name}"
    if base in modules:
        module = modules[base]
        return "" if name in harmless_names(module) else f"uses {module}.{name}"
    if name.startswith(INNER) or (
        name.startswith("_") and (base != "self" or name.startswith("__"))
    ):
        return f"uses .{name}"
    if name == "format_map" or (name == "format" and not is_simple_template(node.value)):
        return f"uses .{name}"  # a template may look up attributes
    return ""


def is_simple_template(node: ast.expr) -> bool:
    if not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
        return False
    try:
        fields = list(string.Formatter().parse(node.value))
    except ValueError:
        return False
    names = "".join(name or "" for _, name, _, _ in fields)
    return not set(".[") & set(names) and not any("{" in (spec or "") for _, _, spec, _ in fields)


def is_exception(name: str) -> bool:
    kind = getattr(builtins, name, None)
    return isinstance(kind, type) and issubclass(kind, BaseException)


def harmless_names(module: str) -> Iterable[str]:
    if HARMLESS[module]:
        return HARMLESS[module]
    loaded = importlib.import_module(module)
    return [
        name
        for name, value in vars(loaded).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    ]
