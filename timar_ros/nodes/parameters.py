"""Node parameters declared once: name, default, description and what is allowed.

``ros2 param describe`` shows the description and the range, rqt's sliders read the same range, and
a wrong value is refused with a sentence that says what is allowed, in a launch file's override (the
node ends with that sentence) as well as at run time (``SetParametersResult.reason``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import rclpy.parameter
from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node

from timar_ros.errors import TimarError

_Type = rclpy.parameter.Parameter.Type
_TYPES = {
    bool: (_Type.BOOL, "true or false"),
    int: (_Type.INTEGER, "an integer"),
    float: (_Type.DOUBLE, "a number"),
    str: (_Type.STRING, "a text"),
    list[str]: (_Type.STRING_ARRAY, "a list of texts"),
}


@dataclass(frozen=True)
class Parameter:
    """One parameter of a node.

    ``type`` is one of bool, int, float, str, or ``list[str]``, which must be given; the others are
    taken from ``default``. ``minimum`` and ``maximum`` (both or neither) are of a number,
    ``choices`` hold for every element of a list. ``check`` takes a value that passed all this and
    returns None or the words that say what is allowed ("a name of a robot profile, one of ..."). A
    ``read_only`` parameter is settled when the node starts.
    """

    name: str
    default: Any
    description: str
    type: Any = None
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple = ()
    check: Callable[[Any], str | None] | None = None
    read_only: bool = False

    def __post_init__(self):
        if self.type is None:
            object.__setattr__(self, "type", type(self.default))
        if self.type not in _TYPES:
            raise TypeError(f"parameter {self.name}: no ROS parameter type for {self.type!r}")
        if (self.minimum is None) != (self.maximum is None):
            raise TypeError(f"parameter {self.name}: give both ends of the range")
        if reason := self.refusal(self.converted(self.default)):
            raise ValueError(f"the default is not allowed: {reason}")

    @property
    def is_list(self) -> bool:
        return self.type == list[str]

    @property
    def element_type(self) -> type:
        return str if self.is_list else self.type

    def allowed(self) -> str:
        """What may be given, in words."""
        words = _TYPES[self.type][1]
        if self.choices:
            words = f"{words} that is one of " + ", ".join(repr(c) for c in self.choices)
            return words.replace("a text that is one of", "one of")
        if self.minimum is not None:
            words = f"{words} from {_short(self.minimum)} to {_short(self.maximum)}"
        return words

    def converted(self, value: Any) -> Any:
        """``value`` as rclpy hands it out, ``5`` taken for 5.0 where a number is due and for a free
        text "5".

        YAML and the command line cannot tell these apart without quotes (``-p device:=5``).
        """
        if self.is_list and isinstance(value, Iterable) and not isinstance(value, str | bytes):
            return [self._convert_element(v) for v in value]
        return self._convert_element(value)

    def _convert_element(self, value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            if self.element_type is float:
                return float(value)
            if self.element_type is str and not self.choices:
                return str(value)
        return value

    def refusal(self, value: Any) -> str | None:
        """None where the (converted) value is allowed, else the sentence that says what is."""
        if self.is_list and not isinstance(value, list):
            return self._sentence(value, self.allowed())
        for element in value if self.is_list else [value]:
            if type(element) is not self.element_type or not self._in_range(element):
                return self._sentence(value, self.allowed())
        if self.check and (allowed := self.check(value)):
            return self._sentence(value, allowed)
        return None

    def _in_range(self, element: Any) -> bool:
        if self.choices and element not in self.choices:
            return False
        if isinstance(element, float) and not math.isfinite(element):
            return False
        return self.minimum is None or self.minimum <= element <= self.maximum

    def _sentence(self, value: Any, allowed: str) -> str:
        shown = "not set" if value is None else repr(value)
        return f"parameter '{self.name}' is {shown}; allowed is {allowed} ({self.description})"

    def descriptor(self) -> ParameterDescriptor:
        descriptor = ParameterDescriptor(
            description=self.description,
            additional_constraints=f"allowed: {self.allowed()}",
            read_only=self.read_only,
        )
        if self.minimum is not None:
            if self.type is int:
                descriptor.integer_range = [
                    IntegerRange(from_value=int(self.minimum), to_value=int(self.maximum), step=0)
                ]
            else:
                descriptor.floating_point_range = [
                    FloatingPointRange(from_value=float(self.minimum), to_value=float(self.maximum), step=0.0)
                ]
        return descriptor


class Parameters(Mapping):
    """The present values of a node's declared parameters: ``values.hop_frames`` or
    ``values["a.b"]``.
    """

    def __init__(self, values: dict[str, Any]):
        self._values = values

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self._values[name]
        except KeyError:
            raise AttributeError(f"no parameter named {name!r} was declared") from None

    def __iter__(self):
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def declare(
    node: Node,
    parameters: Iterable[Parameter],
    check: Callable[[dict[str, Any]], str | None] | None = None,
) -> Parameters:
    """Declare all parameters of a node and watch over them.

    Returns the present values, kept up to date. ``check(values)`` sees all values as they would be
    and returns None or a sentence that says why they do not go together. Raises TimarError for an
    override that is not allowed.
    """
    specs = {p.name: p for p in parameters}
    values = {name: _declare_one(node, spec) for name, spec in specs.items()}
    if check and (reason := check(dict(values))):
        raise TimarError(reason)
    present = Parameters(values)

    def convert(changes: list) -> list:
        return [_converted(specs, change) for change in changes]

    def validate(changes: list) -> SetParametersResult:
        proposed = {c.name: c.value for c in changes if c.name in specs}
        for name, value in proposed.items():
            if reason := specs[name].refusal(_plain(specs[name], value)):
                return SetParametersResult(successful=False, reason=reason)
        if check and proposed and (reason := check({**values, **proposed})):
            return SetParametersResult(successful=False, reason=reason)
        return SetParametersResult(successful=True)

    def take_over(changes: list) -> None:
        for change in changes:
            if change.name in specs:
                values[change.name] = _plain(specs[change.name], change.value)

    if hasattr(node, "add_post_set_parameters_callback"):
        node.add_pre_set_parameters_callback(convert)
        node.add_on_set_parameters_callback(validate)
        node.add_post_set_parameters_callback(take_over)
        return present

    # ROS 2 Humble has this one alone: a 5 is refused there where a number is due.
    def validate_and_take_over(changes: list) -> SetParametersResult:
        result = validate(changes)
        if result.successful:
            take_over(changes)
        return result

    node.add_on_set_parameters_callback(validate_and_take_over)
    return present


def _declare_one(node: Node, spec: Parameter) -> Any:
    """Declare one parameter and return its value, an override being checked by us before rclpy sees
    it.

    rclpy's own check would refuse ``5`` for a number and speaks of types rather than of what is
    allowed, so the override is fetched through a dynamically typed stand-in first.
    """
    any_type = ParameterDescriptor(dynamic_typing=True)
    found = node.declare_parameter(spec.name, None, any_type)
    overridden = found.type_ != _Type.NOT_SET
    node.undeclare_parameter(spec.name)
    value = _plain(spec, found.value if overridden else spec.default)
    if reason := spec.refusal(value):
        raise TimarError(reason)
    ros_type = _TYPES[spec.type][0]
    if value == []:
        # rclpy takes an empty list for a byte array, so the type is declared and the value set
        # after it, which a read-only parameter would refuse.
        node.declare_parameter(spec.name, ros_type, ignore_override=True)
        node.set_parameters([rclpy.parameter.Parameter(spec.name, ros_type, [])])
        descriptor = spec.descriptor()
        descriptor.type = ros_type.value
        node.set_descriptor(spec.name, descriptor)
    else:
        node.declare_parameter(spec.name, value, spec.descriptor(), ignore_override=True)
    return value


def _plain(spec: Parameter, value: Any) -> Any:
    """rclpy hands out ``array.array`` for numeric lists; everything here speaks of plain lists."""
    return spec.converted(list(value) if spec.is_list and _is_sequence(value) else value)


def _is_sequence(value: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | bytes)


def _converted(specs: Mapping[str, Parameter], change: Any) -> Any:
    spec = specs.get(change.name)
    if spec is None:
        return change
    value = _plain(spec, change.value)
    if spec.refusal(value) is not None:
        return change
    return rclpy.parameter.Parameter(change.name, _TYPES[spec.type][0], value)


def _short(number: float) -> str:
    return f"{number:g}"
