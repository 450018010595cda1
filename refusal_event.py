# SPDX-License-Identifier: MIT-0
"""OpenAI's `response.refusal.done` event as a checked dataclass, in one file to copy.

The Responses API, when it streams, ends a refusal with this event: the complete text
in which the model declined. This file reads and writes it where the official SDK
cannot be installed or is too large. It needs Python 3.8 or later and nothing else.

The contract is the schema `ResponseRefusalDoneEvent` of OpenAI's OpenAPI description,
as in `openai/types/responses/response_refusal_done_event.py` of openai-python 3.54.0.
"""

from collections import abc
from dataclasses import dataclass, fields
from typing import Any, Dict, Literal, Mapping, Tuple, Type, TypeVar

__all__ = ["ResponseRefusalDoneEvent"]
__version__ = "1.0.0"

_Event = TypeVar("_Event", bound="ResponseRefusalDoneEvent")

_TAG = "response.refusal.done"
_TYPES = {
    "content_index": int,
    "item_id": str,
    "output_index": int,
    "refusal": str,
    "sequence_number": int,
    "type": str,
}


# The next two are functions because, before Python 3.12, a comprehension slows down
# the whole of a method that it stands in.
def _held_by(data: Mapping[str, Any]) -> Dict[str, Any]:
    """Return the fields that a mapping holds."""
    # Asked with `in` first, since a defaultdict would invent what it lacks.
    return {field: data[field] for field in _TYPES if field in data}


def _values_of(event: "ResponseRefusalDoneEvent") -> Dict[str, Any]:
    """Return the six fields of an event, whatever they are."""
    return {field: getattr(event, field) for field in _TYPES}


def _error(cls: type, values: Mapping[str, Any]) -> Exception:
    """Return the exception that names every field missing or wrong among the values."""
    kind: Type[Exception] = ValueError
    problems = []
    for field, expected in _TYPES.items():
        if field not in values:
            problems.append(f"{field}: missing")
        elif type(values[field]) is not expected:
            kind = TypeError
            # Cut short, as is a tag, so that six of them fit in one line of a log.
            came = type(values[field]).__name__
            problems.append(f"{field}: expected {expected.__name__}, got {came:.30}")
        elif field == "type" and values[field] != _TAG:
            # Cut before repr, which would copy a huge tag, and after, for its escapes.
            came = repr(values[field][:64])
            problems.append(f"{field}: expected {_TAG!r}, got {came:.64}")
    return kind(f"{cls.__name__}: {'; '.join(problems)}")


def _rebuild(cls: Type[_Event], values: Dict[str, Any]) -> _Event:
    """Call the class with its fields by name, to copy or unpickle an event."""
    return cls(**values)


@dataclass(frozen=True)
class ResponseRefusalDoneEvent:
    """The event that completes a refusal, with the whole text of it.

    All six fields are required, and each is of exactly the annotated type: a bool or
    any other subclass is refused, and nothing is converted. Any int and any str will
    do, except in `type`. Events cannot be changed; they compare and hash by value.

    Raises TypeError if a value is of the wrong type, or else ValueError if `type` is
    another tag. The message is one line that names every wrong field and shows no
    value but a wrong tag, cut short. However an event is made (`from_dict`, `replace`,
    copying and unpickling too), it is checked in this way. A subclass is as well; one
    that has a `__post_init__` of its own must call the inherited one.

    >>> event = ResponseRefusalDoneEvent.from_dict({
    ...     "type": "response.refusal.done",
    ...     "item_id": "item-abc",
    ...     "output_index": 1,
    ...     "content_index": 2,
    ...     "refusal": "final refusal text",
    ...     "sequence_number": 1,
    ... })
    >>> event.refusal
    'final refusal text'
    >>> ResponseRefusalDoneEvent.from_dict({**event.to_dict(), "content_index": "zero"})
    Traceback (most recent call last):
    TypeError: ResponseRefusalDoneEvent: content_index: expected int, got str
    """

    # Written out, since dataclass(slots=True) needs Python 3.10.
    __slots__ = tuple(_TYPES)

    content_index: int
    """Index of the content part, within the output item, whose refusal is complete."""

    item_id: str
    """Id of the output item that holds the refusal."""

    output_index: int
    """Index of that output item in the response."""

    refusal: str
    """The complete refusal text."""

    sequence_number: int
    """Position of this event in the stream."""

    type: Literal["response.refusal.done"]
    """The event's tag, always this value."""

    def __post_init__(self) -> None:
        """Check every field; the class's docstring says what is raised."""
        # Spelled out for speed: a loop over _TYPES makes from_dict a third slower.
        if not (
            type(self.content_index) is int
            and type(self.item_id) is str
            and type(self.output_index) is int
            and type(self.refusal) is str
            and type(self.sequence_number) is int
            and type(self.type) is str
            and self.type == _TAG
        ):
            raise _error(type(self), _values_of(self))

    @classmethod
    def from_dict(cls: Type[_Event], data: Mapping[str, Any]) -> _Event:
        """Return the event that a payload, such as a decoded JSON object, describes.

        Unknown keys are ignored, and the payload is left as it was.

        Raises TypeError if `data` is not a mapping, and otherwise what the class raises,
        where a missing field counts like a wrong tag: as a ValueError, all in one message.
        """
        if type(data) is not dict:
            if not isinstance(data, abc.Mapping):
                came = type(data).__name__
                raise TypeError(f"{cls.__name__}: expected a mapping, got {came:.30}")
            data = _held_by(data)
        try:
            values = (
                data["content_index"],
                data["item_id"],
                data["output_index"],
                data["refusal"],
                data["sequence_number"],
                data["type"],
            )
        except KeyError:
            raise _error(cls, data) from None
        # By position for speed: keywords make from_dict a quarter slower.
        return cls(*values)

    def to_dict(self) -> Dict[str, Any]:
        """Return the payload: a new dict of the six fields, in order, for `json.dumps`.

        Raises what the class raises, if the event was forced out of its contract.
        """
        ResponseRefusalDoneEvent.__post_init__(self)
        return {
            "content_index": self.content_index,
            "item_id": self.item_id,
            "output_index": self.output_index,
            "refusal": self.refusal,
            "sequence_number": self.sequence_number,
            "type": self.type,
        }

    def __reduce__(self) -> Tuple[Any, ...]:
        """Copy and pickle as a call of the class, so that the copy is checked too."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        return _rebuild, (type(self), values)
