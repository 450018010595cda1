# SPDX-License-Identifier: MIT-0
"""OpenAI's `response.refusal.done` event as a checked dataclass, in one file to copy.

The streaming Responses API ends a refusal with this event. The file needs nothing but
Python 3.8 or later, so it runs where the official SDK cannot.

The contract is the schema `ResponseRefusalDoneEvent` of OpenAI's OpenAPI description,
as in `openai/types/responses/response_refusal_done_event.py` of openai-python 3.57.0.

>>> payload = {
...     "type": "response.refusal.done",
...     "item_id": "item-abc",
...     "output_index": 1,
...     "content_index": 2,
...     "refusal": "final refusal text",
...     "sequence_number": 1,
... }
>>> ResponseRefusalDoneEvent.from_dict(payload).refusal
'final refusal text'
>>> ResponseRefusalDoneEvent.from_dict({**payload, "content_index": "zero"})
Traceback (most recent call last):
TypeError: ResponseRefusalDoneEvent: content_index: expected int, got str
"""

from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Dict, List, Literal, Mapping, Tuple, Type, final

__all__ = ["ResponseRefusalDoneEvent"]
__version__ = "2.0.4"

_TAG = "response.refusal.done"
_TYPES = {  # in the order of the fields, because __reduce__ passes them by position
    "content_index": int,
    "item_id": str,
    "output_index": int,
    "refusal": str,
    "sequence_number": int,
    "type": str,
}
_values_of = attrgetter(*_TYPES)


def _fields_of(data: object) -> Dict[str, Any]:
    """Return the fields found in `data`; raise TypeError if it is not a mapping."""
    if not isinstance(data, Mapping):
        got = type(data).__name__
        # Cut to 30 characters because the name of a class can have any length.
        raise TypeError(f"ResponseRefusalDoneEvent: expected a mapping, got {got:.30}")
    # Asking with `in` first keeps a defaultdict from adding the missing keys.
    return {field: data[field] for field in _TYPES if field in data}


def _error(values: Mapping[str, Any]) -> Exception:
    """Return one error for all missing and wrong fields, of bounded length."""
    error_class: Type[Exception] = ValueError
    problems: List[str] = []
    for field, expected in _TYPES.items():
        if field not in values:
            problems.append(f"{field}: missing")
        elif type(values[field]) is not expected:
            error_class = TypeError
            got = type(values[field]).__name__
            problems.append(f"{field}: expected {expected.__name__}, got {got:.30}")
        elif field == "type" and values[field] != _TAG:
            problems.append(f"{field}: expected {_TAG!r}, got {values[field]!r:.64}")
    return error_class("ResponseRefusalDoneEvent: " + "; ".join(problems))


@final
@dataclass(frozen=True)
class ResponseRefusalDoneEvent:
    """Emitted when a refusal is complete; carries its full text.

    All fields are required. Each value must have exactly the annotated type: a bool or
    any other subclass is rejected, and nothing is converted. Any int and any str is
    valid, except in `type`. Events are frozen, and compare and hash by value. The class
    is final; to add data to an event, keep both in a class of your own.

    Raises TypeError if a value has the wrong type, and otherwise ValueError if `type`
    is not the tag. The message is one line that names every wrong field and shows no
    value except a wrong tag, shortened. Replacing, copying and unpickling check too.
    """

    # Set here because dataclass(slots=True) needs Python 3.10.
    __slots__ = tuple(_TYPES)

    content_index: int
    """Index, within the output item, of the content part that holds the refusal."""

    item_id: str
    """ID of the output item that holds the refusal."""

    output_index: int
    """Index of the output item in the response."""

    refusal: str
    """The complete refusal text."""

    sequence_number: int
    """Position of this event in the stream."""

    type: Literal["response.refusal.done"]
    """The event's tag, always `response.refusal.done`."""

    def __post_init__(self) -> None:
        # Spelled out because a loop over _TYPES makes from_dict slower.
        if not (
            type(self.content_index) is int
            and type(self.item_id) is str
            and type(self.output_index) is int
            and type(self.refusal) is str
            and type(self.sequence_number) is int
            and type(self.type) is str
            and self.type == _TAG
        ):
            raise _error(dict(zip(_TYPES, _values_of(self))))

    def __reduce__(self) -> Tuple[Any, ...]:
        """Copy and pickle by calling the class, so that the copy is checked too."""
        return type(self), _values_of(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ResponseRefusalDoneEvent":
        """Return the event described by a mapping, such as a decoded JSON object.

        Unknown keys are ignored, and the mapping is not changed. Raises TypeError if
        `data` is not a mapping or a value has the wrong type, and otherwise ValueError
        if a field is missing or `type` is not the tag. All problems are in one message.
        """
        fields = data
        # A plain dict is read directly because that is faster.
        if type(data) is not dict:
            fields = _fields_of(data)
        try:
            # By position because keywords make this slower.
            return cls(
                fields["content_index"],
                fields["item_id"],
                fields["output_index"],
                fields["refusal"],
                fields["sequence_number"],
                fields["type"],
            )
        except KeyError:
            raise _error(fields) from None

    def to_dict(self) -> Dict[str, Any]:
        """Return a new dict of the fields, in declared order, ready for `json.dumps`.

        Raises what the class raises if `object.__setattr__` has made the event invalid.
        """
        self.__post_init__()
        return {
            "content_index": self.content_index,
            "item_id": self.item_id,
            "output_index": self.output_index,
            "refusal": self.refusal,
            "sequence_number": self.sequence_number,
            "type": self.type,
        }
