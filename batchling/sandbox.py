"""Jinja for prompts: its sandbox, in which a template reads data and writes text, and never code.

Jinja was made for web pages and Python objects. Four of its habits have no place in a prompt, and are turned off here:

* `order.items` is Python's method before it is the row's field, and is written as `<built-in method … at 0x7f…>`: a text
  that changes with each process, so that the same row is asked, and paid, again. Here a field is a field. A method
  is found where it is called, `name.upper()`, and nowhere else.
* Whatever has no text of its own (`tags|map('upper')`, `range`, `loop`) is written as Python's representation of it. Here
  sequences are written as lists, and what is code is an error of the row.
* Text made on the way (`~`, `|string`, `|join`, `%`, `.format()`) spells values as Python does: None, True, {'a': 1}.
  Here it spells them as `{{ value }}` does.
* `tojson` and `escape` write for HTML. Here JSON is what `{{ value }}` writes, and nothing is escaped later because an
  earlier filter was applied.

It runs without what would make two renderings differ (`random`, `lipsum`), and row values cannot be changed.

What a template does to a row is counted, in steps and characters, and ends at a fixed number: `'x' * 10**9` or three loops over
`range(99999)` are an error of the row. A count, unlike a clock, says the same on a slow machine.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from decimal import Decimal
from functools import wraps
from types import MethodType, ModuleType
from typing import Any

from jinja2 import StrictUndefined, TemplateError, Undefined, meta, nodes
from jinja2.filters import do_xmlattr, make_attrgetter
from jinja2.nodes import EvalContext
from jinja2.runtime import Context, LoopContext, Macro, TemplateReference
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Cycler, Joiner, Namespace, pass_eval_context
from jinja2.visitor import NodeTransformer

from batchling.prompt import RenderError, unknown_column, value_text
from batchling.written import dumps

__all__ = ["compile_template"]

_MACHINERY = (Macro, LoopContext, TemplateReference, Namespace, Cycler, Joiner, Context, ModuleType, type)
_SCALARS = (str, int, float, Decimal, bytes, type(None))
_TEXT_FILTERS = (
    "capitalize",
    "center",
    "indent",
    "lower",
    "replace",
    "striptags",
    "title",
    "trim",
    "truncate",
    "upper",
    "urlize",
    "wordcount",
    "wordwrap",
)
_SEQUENCES = (str, list, tuple, bytes)
_SIZED = (*_SEQUENCES, dict, range)
_COLLECTIONS = (list, tuple, dict)
_WITH_METHODS = (str, bytes, int)
_AS_TEXT = (str, Undefined)
_RESERVED = "self"  # Jinja's own name for the template; a column may be called so
_DEEPEST = 200

WORK = 30_000_000
"""What a template may do for one row: characters and list items that it makes, `_STEP` for each turn of a loop and each call."""

_STEP = 50
_AT_COMPILE = 1000  # of one constant: what is longer is left to the rows
_BITS = 100_000  # of a whole number that `*` or `**` makes


class _Meter:
    """What is left of the work for the row that is rendered now."""

    def __init__(self) -> None:
        self.left = WORK

    def charge(self, amount: int) -> None:
        self.left -= max(0, amount)
        if self.left < 0:
            raise RenderError(
                f"the template does too much for one row: more than {WORK:,} characters, list items and steps of loops"
            )


_NOW: ContextVar[_Meter] = ContextVar("_NOW")


def _charge(amount: int) -> None:
    meter = _NOW.get(None)
    if meter is not None:  # None: while a template is compiled, and constants in it are computed
        meter.charge(amount)
    elif amount > _AT_COMPILE:
        raise RenderError("too long for a constant")  # Jinja leaves it to the row


def _made(value: Any) -> Any:
    """The value, after what it takes was counted."""
    if isinstance(value, _SEQUENCES):
        _charge(len(value))
    return value


def compile_template(
    text: str, columns: Sequence[str], where: str
) -> tuple[Callable[[Mapping[str, Any]], str], list[str]]:
    """A function from a row to the text, and the columns it needs.

    Args:
        text: the template.
        columns: the columns that rows have.
        where: names the message in errors.

    Raises:
        PromptError: Jinja does not understand it, or a name in it is no column.
    """
    from batchling.errors import PromptError

    env = _Environment(columns)
    try:
        tree = env.parse(text)
        if next(iter(meta.find_referenced_templates(tree)), "") != "":
            raise PromptError("include, import and extends are not available: a message is one template", where=where)
        names = {name: _column_of(name) for name in sorted(meta.find_undeclared_variables(tree))}
        for name in names.values():
            if name not in columns:
                hint = "set it with {% set %} or fix the name"
                raise unknown_column(name, columns, f"jinja variable `{name}`", where, hint)
        template = env.from_string(text)
    except (RecursionError, MemoryError, SyntaxError, OverflowError) as error:
        raise PromptError("jinja: the template is nested too deeply to be compiled", where=where) from error
    except TemplateError as error:
        line = getattr(error, "lineno", None)
        raise PromptError(f"jinja: {error}", where=f"{where}, line {line}" if line else where) from error

    def render(row: Mapping[str, Any]) -> str:
        _NOW.set(_Meter())
        try:
            return template.render({name: row[column] for name, column in names.items()})
        except RenderError as error:
            raise RenderError(f"jinja, {_place(error, where)}: {error.message}", error.column) from error
        except Exception as error:  # a template is code: any exception is this row's, never the plan's
            message = f"jinja, {_place(error, where)}: {type(error).__name__}: {error}"
            raise RenderError(message) from error

    return render, sorted(names.values())


def _column_of(name: str) -> str:
    return name.removeprefix("_column_") if name == f"_column_{_RESERVED}" else name


def _place(error: Exception, where: str) -> str:
    """The message and the line in it that an exception comes from: the innermost frame that is the template's."""
    line = None
    step = error.__traceback__
    while step is not None:
        if step.tb_frame.f_code.co_filename == "<template>":
            line = step.tb_lineno
        step = step.tb_next
    return where if line is None else f"{where}, line {line}"


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with lookups that find data and filters that write it."""

    intercepted_binops = frozenset({"%", "*", "**", "+"})

    def __init__(self, columns: Sequence[str]):
        super().__init__(undefined=StrictUndefined, autoescape=False, keep_trailing_newline=True, finalize=_text)
        self._columns = frozenset(columns)
        del self.filters["random"]
        for name in {"lipsum", *columns} & self.globals.keys():  # a column wins over a built-in function
            del self.globals[name]
        for name in _TEXT_FILTERS:
            self.filters[name] = _of_text(self.filters[name])
        self.filters |= {
            "escape": _escaped,
            "e": _escaped,
            "forceescape": _escaped,
            "format": lambda value, *args, **kwargs: _percent(_text(value), kwargs or args),
            "join": _joined,
            "pprint": lambda value: _json(value, indent=2),
            "safe": _text,
            "string": _text,
            "tojson": _json,
            "urlencode": _of_scalar(self.filters["urlencode"]),
            "xmlattr": _attributes,
            "round": _rounded(self.filters["round"]),
            "sum": _summed,
        }
        self.filters = {name: _metered(filter_, name) for name, filter_ in self.filters.items()}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Rewriter(self._columns).visit(super()._parse(source, name, filename))
        return tree

    def getattr(self, obj: Any, attribute: str) -> Any:
        """`obj.attribute` where it is not called: a field, or an attribute that is data."""
        if isinstance(obj, Mapping):
            try:
                return obj[attribute]
            except (KeyError, TypeError):
                return self._no_field(obj, attribute)
        value = super().getattr(obj, attribute)
        if callable(value) and not isinstance(value, Undefined | Macro):
            raise RenderError(
                f"`.{attribute}` is a method of {_kind(obj)}, not data: call it, `.{attribute}()`, or use a filter"
            )
        return value

    def getitem(self, obj: Any, argument: Any) -> Any:
        """`obj[argument]`, never one of Python's methods."""
        try:
            return obj[argument]
        except (TypeError, LookupError):
            if isinstance(argument, str) and not isinstance(obj, Mapping):
                return self.getattr(obj, argument)  # `loop['index']`, and what `groupby` gives
        return self.undefined(obj=obj, name=argument)

    def method(self, obj: Any, attribute: str) -> Any:
        """`obj.attribute` where it is called."""
        return super().getattr(obj, attribute)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        if type(obj) is MethodType and obj.__self__ is self:
            return obj(*args)  # one of those that the rewriter put there
        if not callable(obj):
            raise RenderError(f"{_kind(obj)} is called like a function, but is data")
        _charge(_STEP)
        of = getattr(obj, "__self__", None)
        if isinstance(of, _WITH_METHODS):
            args = self._foreseen(of, str(getattr(obj, "__name__", "")), args, kwargs)
            return _made(super().call(context, obj, *args, **kwargs))
        return super().call(context, obj, *args, **kwargs)

    def _foreseen(
        self, of: str | bytes | int, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[Any, ...]:
        """Counts what a method of a text or number is going to make, before it does; its arguments."""
        if isinstance(of, int):
            _charge(sum(n for n in (*args, *kwargs.values()) if isinstance(n, int)))
            return args
        _charge(len(of))
        if name in ("center", "ljust", "rjust", "zfill"):
            _charge(max((n for n in args if isinstance(n, int)), default=0))
        elif name == "expandtabs":
            sizes = [n for n in (*args, *kwargs.values()) if isinstance(n, int)]
            _charge(len(of) * max(8, *sizes, 0))
        elif name == "replace" and len(args) >= 2 and isinstance(args[0], type(of)):
            _charge(of.count(args[0]) * len(args[1]))  # type: ignore[arg-type]
        elif name == "join" and args:
            items = list(args[0])
            for item in items:
                _charge(len(of) + len(item))
            return (items, *args[1:])
        elif name == "translate" and args and isinstance(args[0], Mapping):
            _charge(len(of) * max((len(v) for v in args[0].values() if isinstance(v, str)), default=1))
        return args

    def steps(self, iterable: Any, cost: int) -> Any:
        """What a loop goes over, after its turns were counted; of an iterator each as it comes."""
        if isinstance(iterable, Undefined):
            return iterable
        if isinstance(iterable, _SIZED):
            _charge(len(iterable) * cost)
            return iterable
        return self._counted(iterable, cost)

    def _counted(self, iterable: Iterable[Any], cost: int) -> Iterator[Any]:
        for item in iterable:
            _charge(cost)
            yield item

    def step(self, cost: int) -> str:
        """One turn of a recursive loop, or one call of a macro."""
        _charge(cost)
        return ""

    def together(self, *parts: Any) -> str:
        """`a ~ b ~ c`."""
        return "".join(map(_text, parts))

    def sliced(self, obj: Any, start: Any, stop: Any, step: Any) -> Any:
        """`obj[start:stop:step]`."""
        if isinstance(obj, _SEQUENCES):
            _charge(len(range(*slice(start, stop, step).indices(len(obj)))))
        return obj[start:stop:step]

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            return _percent(left, right)
        _foresee(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if super().wrap_str_format(value) is None:
            return None
        template, by_mapping = str(value.__self__), value.__name__ == "format_map"

        def format(*args: Any, **kwargs: Any) -> str:
            if by_mapping:
                (kwargs,) = args
                args = ()
            return str(_made(_Formatter(self).vformat(template, args, kwargs)))

        return format

    def _no_field(self, obj: Any, attribute: str) -> Undefined:
        if attribute.startswith("_") or not hasattr(obj, attribute):
            return self.undefined(obj=obj, name=attribute)
        hint = f"there is no field `{attribute}` in this value; the method is written `.{attribute}()`"
        return self.undefined(hint, obj=obj, name=attribute)


class _Rewriter(NodeTransformer):
    """Tells attributes that are called from those that are read, and has `~` spell values as `{{ value }}` does."""

    def __init__(self, columns: frozenset[str]):
        self._columns = columns

    def visit_Call(self, node: nodes.Call) -> nodes.Node:
        self.generic_visit(node)
        called = node.node
        if isinstance(called, nodes.Getattr):
            finder = nodes.EnvironmentAttribute("method", lineno=called.lineno)
            where = nodes.Const(called.attr, lineno=called.lineno)
            node.node = nodes.Call(finder, [called.node, where], [], None, None, lineno=called.lineno)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return self._own("together", node.nodes, node.lineno)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        nothing = nodes.Const(None, lineno=node.lineno)
        parts = [part or nothing for part in (node.arg.start, node.arg.stop, node.arg.step)]
        return self._own("sliced", [node.node, *parts], node.lineno)

    def visit_For(self, node: nodes.For) -> nodes.Node:
        cost = nodes.Const(_STEP + _written_in(node.body), lineno=node.lineno)
        self.generic_visit(node)
        if node.recursive:  # `loop(children)` goes over what is not seen here
            node.body.insert(0, nodes.ExprStmt(self._own("step", [cost], node.lineno), lineno=node.lineno))
        node.iter = self._own("steps", [node.iter, cost], node.lineno)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._called(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        return self._called(node)

    def _called(self, node: nodes.Macro | nodes.CallBlock) -> nodes.Node:
        cost = nodes.Const(_STEP + _written_in(node.body), lineno=node.lineno)
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(self._own("step", [cost], node.lineno), lineno=node.lineno))
        return node

    @staticmethod
    def _own(method: str, args: Sequence[nodes.Node], lineno: int) -> nodes.Call:
        """A call of a method of the environment."""
        return nodes.Call(nodes.EnvironmentAttribute(method, lineno=lineno), list(args), [], None, None, lineno=lineno)

    def visit_Name(self, node: nodes.Name) -> nodes.Node:
        if node.name == _RESERVED and node.name in self._columns:
            node.name = f"_column_{node.name}"
        return node


def _written_in(body: Iterable[nodes.Node]) -> int:
    """Characters of the template itself in a body: each turn writes them."""
    return sum(len(data.data) for node in body for data in node.find_all(nodes.TemplateData)) + sum(
        len(node.data) for node in body if isinstance(node, nodes.TemplateData)
    )


class _Formatter(SandboxedFormatter):
    """`str.format` that spells values as `{{ value }}` does."""

    def convert_field(self, value: Any, conversion: Any) -> Any:
        return super().convert_field(value, conversion) if isinstance(value, str) else _spelled(value)

    def format_field(self, value: Any, format_spec: str) -> Any:
        _charge(_widths(format_spec))
        return super().format_field(_spelled(value), format_spec)


def _text(value: Any) -> str:
    """A value as the model reads it; what `{{ value }}` writes.

    Raises:
        RenderError: it is code, or cannot be written.
    """
    text = str(value) if isinstance(value, _AS_TEXT) else value_text(_data(value))
    _charge(len(text))
    return text


def _foresee(operator: str, left: Any, right: Any) -> None:
    """Counts what `*`, `**` or `+` is going to make, before it does."""
    if operator == "+":
        if isinstance(left, _SEQUENCES) and isinstance(right, _SEQUENCES):
            _charge(len(left) + len(right))
    elif operator == "*":
        if isinstance(left, _SEQUENCES) and isinstance(right, int):
            _charge(len(left) * max(0, right))
        elif isinstance(right, _SEQUENCES) and isinstance(left, int):
            _charge(len(right) * max(0, left))
        elif isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() + right.bit_length())
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() * max(0, right))


def _check_bits(bits: int) -> None:
    if bits > _BITS:
        raise RenderError(f"the template makes a number of more than {_BITS // 3:,} digits")


def _widths(spec: str) -> int:
    """The characters that the widths and precisions in a format may ask for, all together."""
    return sum(int(digits[:12]) for digits in re.findall(r"\d+", spec))


def _metered(filter_: Callable[..., Any], name: str) -> Callable[..., Any]:
    """A filter that counts what it is given and what it makes."""
    place = 1 if getattr(filter_, "jinja_pass_arg", None) is not None else 0

    @wraps(filter_)
    def filtered(*args: Any, **kwargs: Any) -> Any:
        value = args[place] if len(args) > place else None
        _charge(_STEP + (len(value) if isinstance(value, _SIZED) else 0))
        if name in _EXPANDING:
            _expand(name, _text(value) if name in _TEXT_FILTERS else "", [*args[place + 1 :], *kwargs.values()])
        return _made(filter_(*args, **kwargs))

    return filtered


_EXPANDING = frozenset({"batch", "center", "indent", "replace", "slice", "urlize", "wordwrap"})
"""Filters whose result is as long as a number among their arguments says, or repeats one of their texts."""


def _expand(name: str, text: str, given: Sequence[Any]) -> None:
    """Counts what such a filter is going to make, before it does."""
    number = max((n for n in given if isinstance(n, int)), default=0)
    longest = max((len(t) for t in given if isinstance(t, str)), default=0)
    if name in ("batch", "slice", "center"):
        _charge(number)
    elif name == "indent":
        _charge((text.count("\n") + 1) * max(number, longest))
    elif name == "replace":
        old, new = (*map(_text, given[:2]), "", "")[:2]
        _charge((text.count(old)) * len(new))
    else:  # a text for each link, or for each line
        _charge(len(text) * longest)


def _rounded(filter_: Callable[..., Any]) -> Callable[..., Any]:
    """`round` without numbers of a billion digits on the way."""

    @wraps(filter_)
    def rounded(value: Any, precision: int = 0, method: str = "common") -> Any:
        if abs(precision) > 400:
            raise RenderError("`round` takes a precision of 400 at most")
        return filter_(value, precision, method)

    return rounded


@pass_eval_context
def _summed(context: EvalContext, iterable: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
    """`sum`, which also joins lists."""
    if attribute is not None:
        iterable = map(make_attrgetter(context.environment, attribute), iterable)
    total = start
    for item in iterable:
        _charge(_STEP)
        total = _made(total + item)
    return total


def _spelled(value: Any) -> Any:
    """A value for Python's own formatting: numbers as they are, everything else as text."""
    plain = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    return value if plain else _text(value)


def _data(value: Any, depth: int = 0) -> Any:
    """The value, with what Jinja makes on the way (iterators, ranges, views) as lists.

    Raises:
        RenderError: there is code in it.
    """
    if isinstance(value, _SCALARS):
        if isinstance(value, str):
            _charge(len(value))
        return value
    if isinstance(value, Undefined):
        return str(value)  # raises
    if isinstance(value, _MACHINERY) or callable(value):
        raise RenderError(f"{_kind(value)} is code, not data: it has no text")
    if depth > _DEEPEST:
        raise RenderError("the value is nested too deeply")
    if isinstance(value, _COLLECTIONS):
        _charge(_STEP * (2 + len(value)))  # also where a list holds one list many times: it is written each time
    if isinstance(value, Mapping):
        items = {name: _data(item, depth + 1) for name, item in value.items()}
        return value if all(items[name] is item for name, item in value.items()) else items
    if isinstance(value, list | tuple):
        parts = [_data(item, depth + 1) for item in value]
        return value if all(a is b for a, b in zip(parts, value, strict=True)) else parts
    if isinstance(value, Iterable):
        return [_data(item, depth + 1) for item in value]
    return value


def _kind(value: Any) -> str:
    """What a value is, in words that name no address."""
    names = {str: "text", int: "a number", float: "a number", bool: "true or false", list: "a list", dict: "an object"}
    if isinstance(value, Macro):
        return f"the macro `{value.name}`"
    if type(value) in names:
        return names[type(value)]
    if value is None:
        return "null"
    name = getattr(value, "__name__", None)
    return f"`{(name if isinstance(name, str) else type(value).__name__).removeprefix('safe_')}`"


def _json(
    value: Any,
    indent: int | None = None,
    *,
    ensure_ascii: bool = False,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as a person writes it: in the order that is there, every character as itself."""
    if indent is not None and (not isinstance(indent, int) or indent > 100):
        raise RenderError("JSON is indented by a number of blanks, 100 at most")
    if separators is not None and sum(map(len, separators)) > 100:
        raise RenderError("JSON's separators are a few characters")
    value = _data(value)
    if isinstance(value, Decimal):
        return value_text(value)
    options = {"ensure_ascii": ensure_ascii, "indent": indent, "separators": separators, "sort_keys": sort_keys}
    try:
        return dumps(value, value_text, **options)
    except (TypeError, ValueError, RecursionError) as error:
        raise RenderError(f"the value cannot be written as JSON: {error}") from error


def _percent(template: str, values: Any) -> str:
    """`template % values`."""
    _charge(_widths(template))
    if "*" in template:
        given = values if isinstance(values, tuple) else (values,)
        _charge(sum(abs(n) for n in given if isinstance(n, int)))
    if isinstance(values, tuple):
        return str(template) % tuple(map(_spelled, values))
    if isinstance(values, Mapping) and "%(" in template:
        return str(template) % {name: _spelled(value) for name, value in values.items()}
    return str(template) % (_spelled(values),)


def _escaped(value: Any) -> str:
    """HTML's escapes, as plain text: what is joined to it is not escaped as well."""
    return html.escape(_text(value)).replace("&quot;", "&#34;").replace("&#x27;", "&#39;")


@pass_eval_context
def _joined(context: EvalContext, value: Any, d: Any = "", attribute: str | int | None = None) -> str:
    items: Iterator[Any] = iter(value)
    if attribute is not None:
        items = map(make_attrgetter(context.environment, attribute), items)
    return _text(d).join(map(_text, items))


@pass_eval_context
def _attributes(context: EvalContext, value: Mapping[str, Any], autospace: bool = True) -> str:
    known = {name: None if item is None else _text(item) for name, item in value.items()}
    return str(do_xmlattr(context, known, autospace))


def _of_text(filter_: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of texts, given its value and its texts as `{{ value }}` writes them."""
    place = 1 if getattr(filter_, "jinja_pass_arg", None) is not None else 0

    @wraps(filter_)
    def filtered(*args: Any, **kwargs: Any) -> Any:
        given = list(args)
        given[place] = _text(given[place])
        result = filter_(*given, **kwargs)
        return str(result) if isinstance(result, str) else result

    return filtered


def _of_scalar(filter_: Callable[..., Any]) -> Callable[..., Any]:
    """The same for a filter that does something of its own with objects and lists."""

    @wraps(filter_)
    def filtered(value: Any) -> str:
        if isinstance(value, Mapping):
            value = {name: _text(item) for name, item in value.items()}
        elif not isinstance(value, str | Undefined) and not isinstance(value, Iterable):
            value = _text(value)
        return str(filter_(value))

    return filtered
