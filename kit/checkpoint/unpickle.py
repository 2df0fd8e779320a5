"""Reading a checkpoint's pickle without running any of it.

A pickle is a program for a stack machine. This module is such a machine with the dangerous half
left out: it has no instruction that imports, builds or calls anything. Plain containers and scalars
become themselves, tensors become ``TensorRef`` descriptions, objects of foreign classes become
``OPAQUE`` and are forgotten. The few calls torch needs to describe tensors are a fixed table
(``torch_objects.CALLS``); a pickle that calls any other function is refused by name. What it does
is counted, so that a small one cannot grow for ever.

Opcodes are decoded by the standard library's ``pickletools``; its documentation is the source for
what each of them does.
"""

import io
import pickletools
from collections.abc import Callable
from typing import Any

from kit.checkpoint.torch_objects import (
    CALLS,
    GETATTR,
    OPAQUE,
    Global,
    is_attack,
    is_passed_over,
    keep_text_keys,
    storage,
    text,
)
from kit.errors import IntegrityError, UnsafePickle

MAX_STEPS = 4_000_000
"""Instructions, and items that calls copy: as many as the largest pickle needs for plain data."""

MAX_PICKLE_BYTES = 8 * 1024**2
"""Far above what a checkpoint of any size needs (13B: 0.1 MB); bounds memory and time."""


def read_pickle(data: bytes, *, source: str) -> object:
    """The object that ``data`` describes: dict, list, tuple, scalars, TensorRef, Global, OPAQUE.

    Args:
        data: a pickle of protocol 0 to 5, as torch writes it into ``data.pkl``.
        source: the file's name, for messages.

    Raises:
        UnsafePickle: it calls something that is not needed to describe tensors.
        IntegrityError: it is damaged, too large, asks for too much work, or is not a checkpoint's
            pickle.
    """
    if len(data) > MAX_PICKLE_BYTES:
        raise IntegrityError(
            f"{source}: its pickle of {len(data)} bytes is too large for a checkpoint",
            hint="a checkpoint's pickle only describes tensors: save it again without other data",
        )
    machine = _Machine(source)
    try:
        for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
            machine.count(1)
            machine.step(opcode.name, argument)
        return machine.pop()
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{source}: its pickle is damaged",
            hint="download the checkpoint again, or save it again with torch.save",
        ) from error


class _Machine:
    """The stack machine. ``step`` raises plain Python errors where the pickle makes no sense."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.stack: list[Any] = []
        self.below_marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.steps = 0

    def count(self, steps: int) -> None:
        self.steps += steps
        if self.steps > MAX_STEPS:
            raise IntegrityError(
                f"{self.source}: its pickle asks for more work than any checkpoint's",
                hint="it is damaged, or made to fill the memory: do not use it",
            )

    def step(self, opcode: str, argument: Any) -> None:
        if opcode in _PUSHES_ARGUMENT:
            self.push(argument)
        elif opcode in _CONSTANTS:
            self.push(_CONSTANTS[opcode])
        elif opcode not in _IGNORED:
            _HANDLERS[opcode](self, argument)

    def push(self, item: object) -> None:
        self.stack.append(item)

    def pop(self) -> Any:
        return self.stack.pop()

    def mark(self) -> None:
        self.below_marks.append(self.stack)
        self.stack = []

    def pop_to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.below_marks.pop()
        return items

    def pop_item_or_mark(self) -> None:
        if self.stack:
            self.pop()
        else:
            self.pop_to_mark()

    def push_tuple(self, length: int) -> None:
        items = [self.pop() for _ in range(length)]
        self.push(tuple(items[::-1]))

    def set_items(self, items: list[Any]) -> None:
        if isinstance(target := self.stack[-1], dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                keep_text_keys(target, key, value)

    def push_dict(self) -> None:
        items = self.pop_to_mark()
        self.push({})
        self.set_items(items)

    def append_items(self, items: list[Any]) -> None:
        if isinstance(target := self.stack[-1], list):
            target.extend(items)

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def forget_items(self) -> None:
        """A set: nothing in it is a named tensor."""
        self.pop_to_mark()

    def push_frozenset(self) -> None:
        self.pop_to_mark()
        self.push(OPAQUE)

    def push_global(self) -> None:
        name, module = self.pop(), self.pop()
        self.push(Global(f"{text(module)}.{text(name)}"))

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        name = _name(function)
        if name in CALLS:
            if type(arguments) is tuple and len(arguments) == 1:  # what OrderedDict copies
                self.count(len(arguments[0]) if isinstance(arguments[0], list | dict) else 0)
            self.push(CALLS[name](arguments))
        elif name in GETATTR:
            self.push(self.attribute(name, arguments))
        elif is_passed_over(name):
            self.push(OPAQUE)
        else:
            raise self.refusal(name)

    def attribute(self, name: str, arguments: Any) -> object:
        """A class within a class, or its member, of those that are passed over."""
        owner, attribute = arguments if len(arguments) == 2 else (None, None)
        if not isinstance(owner, Global) or not is_passed_over(owner.name):
            raise self.refusal(name)
        if text(attribute).startswith("_"):
            raise self.refusal(name)
        inner = f"{owner.name}.{attribute}"
        return Global(inner) if is_passed_over(inner) else OPAQUE

    def new_object(self, operands: int) -> None:
        """An object made without arguments that could do anything: forgotten."""
        *_, made = [self.pop() for _ in range(operands)]
        if is_attack(name := _name(made)):
            raise self.refusal(name)
        self.push(OPAQUE)

    def build(self) -> None:
        """State for the object below, such as a state dict's metadata: forgotten."""
        self.pop()
        self.push(self.pop())

    def refusal(self, name: str) -> UnsafePickle:
        shown = ascii(name[:200])[1:-1]
        return UnsafePickle(
            f"{self.source}: its pickle calls {shown}; refused, nothing was run",
            hint="a checkpoint holds tensors only: do not open this file with other tools either, "
            "get it again from a source you trust",
        )

    def refuse_instance(self, argument: str) -> None:
        raise self.refusal(_dotted(argument))

    def refuse_object(self) -> None:
        raise self.refusal(_name(self.pop_to_mark()[0]))

    def refuse_extension(self, code: int) -> None:
        raise self.refusal(f"extension code {code} of the copyreg registry")


def _dotted(argument: str) -> str:
    return argument.replace(" ", ".", 1)


def _name(function: object) -> str:
    return function.name if isinstance(function, Global) else "an object made by the pickle"


_PUSHES_ARGUMENT = frozenset(
    [
        "INT",
        "BININT",
        "BININT1",
        "BININT2",
        "LONG",
        "LONG1",
        "LONG4",
        "FLOAT",
        "BINFLOAT",
        "STRING",
        "BINSTRING",
        "SHORT_BINSTRING",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
        "UNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE",
        "BINUNICODE8",
    ]
)
_CONSTANTS: dict[str, object] = {
    "NONE": None,
    "NEWTRUE": True,
    "NEWFALSE": False,
    "EMPTY_TUPLE": (),
    "EMPTY_SET": OPAQUE,
}
_IGNORED = frozenset(("PROTO", "FRAME", "STOP"))
_HANDLERS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": lambda machine, _: machine.mark(),
    "POP": lambda machine, _: machine.pop_item_or_mark(),
    "POP_MARK": lambda machine, _: machine.forget_items(),
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "LIST": lambda machine, _: machine.push(machine.pop_to_mark()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: machine.push_tuple(1),
    "TUPLE2": lambda machine, _: machine.push_tuple(2),
    "TUPLE3": lambda machine, _: machine.push_tuple(3),
    "DICT": lambda machine, _: machine.push_dict(),
    "SETITEM": lambda machine, _: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "APPEND": lambda machine, _: machine.append_items([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append_items(machine.pop_to_mark()),
    "ADDITEMS": lambda machine, _: machine.forget_items(),
    "FROZENSET": lambda machine, _: machine.push_frozenset(),
    "PUT": lambda machine, index: machine.remember(index),
    "BINPUT": lambda machine, index: machine.remember(index),
    "LONG_BINPUT": lambda machine, index: machine.remember(index),
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    "GET": lambda machine, index: machine.push(machine.memo[index]),
    "BINGET": lambda machine, index: machine.push(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.push(machine.memo[index]),
    "GLOBAL": lambda machine, argument: machine.push(Global(_dotted(argument))),
    "STACK_GLOBAL": lambda machine, _: machine.push_global(),
    "BINPERSID": lambda machine, _: machine.push(storage(machine.pop())),
    "REDUCE": lambda machine, _: machine.reduce(),
    "NEWOBJ": lambda machine, _: machine.new_object(2),
    "NEWOBJ_EX": lambda machine, _: machine.new_object(3),
    "BUILD": lambda machine, _: machine.build(),
    "INST": lambda machine, argument: machine.refuse_instance(argument),
    "OBJ": lambda machine, _: machine.refuse_object(),
    "EXT1": lambda machine, code: machine.refuse_extension(code),
    "EXT2": lambda machine, code: machine.refuse_extension(code),
    "EXT4": lambda machine, code: machine.refuse_extension(code),
}
