"""The contract of the `response.refusal.done` event, each test one law of it."""

from __future__ import annotations

import ast
import copy
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections import ChainMap, OrderedDict, UserDict, defaultdict
from contextlib import contextmanager
from dataclasses import FrozenInstanceError, dataclass, field, fields, replace
from decimal import Decimal
from enum import Enum, IntEnum
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import combinations
from pathlib import Path
from threading import Event as Signal
from threading import Thread, Timer
from types import MappingProxyType
from typing import Any, Callable, Dict, Iterator, List, Literal, Mapping, get_type_hints
from unittest.mock import ANY, Mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import refusal_event
from refusal_event import ResponseRefusalDoneEvent

# A slow machine is no failure: nothing here is a matter of time.
settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("unhurried")

HERE = Path(__file__).resolve().parent
TAG = "response.refusal.done"
CONTRACT = {
    "content_index": int,
    "item_id": str,
    "output_index": int,
    "refusal": str,
    "sequence_number": int,
    "type": str,
}
EXAMPLE = {
    "type": "response.refusal.done",
    "item_id": "item-abc",
    "output_index": 1,
    "content_index": 2,
    "refusal": "final refusal text",
    "sequence_number": 1,
}
MISSING = object()


class Index(int):
    """An int to isinstance, and not to the contract."""


class Text(str):
    """A str to isinstance, and not to the contract."""


NESTED = type("Nested", (int,), {"__qualname__": "Outer.Nested"})()
LONG_NAMED = type("X" * 999, (int,), {})()


class Number(IntEnum):
    ONE = 1


class Tag(str, Enum):
    DONE = TAG


class Agreeable(type):
    """A class that says that it equals any other, as its instances do."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = type.__hash__


class Chameleon(metaclass=Agreeable):
    __eq__ = Agreeable.__eq__
    __hash__ = object.__hash__


@dataclass(frozen=True)
class Noted(ResponseRefusalDoneEvent):
    """A subclass with fields of its own, one of which no caller can give."""

    note: str = ""
    labels: List[str] = field(default_factory=list)
    length: int = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "length", len(self.refusal))


CLASSES = [ResponseRefusalDoneEvent, Noted]
if sys.version_info >= (3, 10):

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Slotted(ResponseRefusalDoneEvent):
        """A subclass with slots, and with fields that are given by name alone."""

        note: str = ""
        labels: List[str] = field(default_factory=list)

    CLASSES.append(Slotted)


integers = st.integers()
texts = st.text(st.characters())  # characters() holds lone surrogates, text() does not
json_values = st.recursive(
    st.none() | st.booleans() | integers | st.floats() | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=5,
)
right_values: Dict[str, st.SearchStrategy[Any]] = {
    name: integers if kind is int else texts for name, kind in CONTRACT.items()
}
right_values["type"] = st.just(TAG)
payloads = (
    st.fixed_dictionaries(right_values)
    .flatmap(lambda payload: st.permutations(list(payload.items())))
    .map(dict)
)
events = payloads.map(ResponseRefusalDoneEvent.from_dict)
unknown_keys = st.dictionaries(
    (texts | integers).filter(lambda key: key not in CONTRACT), json_values, min_size=1
)
other_tags = texts.filter(lambda tag: tag != TAG)
short_tags = other_tags.filter(lambda tag: len(repr(tag)) <= 64)


def wrong_types(name: str) -> st.SearchStrategy[Any]:
    return json_values.filter(lambda value: type(value) is not CONTRACT[name])


def wrong_values(name: str) -> st.SearchStrategy[Any]:
    return wrong_types(name) | short_tags if name == "type" else wrong_types(name)


def flaws_from(values: Callable[[str], st.SearchStrategy[Any]]) -> Any:
    """At least one of the fields, each with a value for it."""
    optional = {name: values(name) for name in CONTRACT}
    return st.fixed_dictionaries({}, optional=optional).filter(bool)


def complaint(name: str, value: object) -> str:
    if value is MISSING:
        return f"{name}: missing"
    if type(value) is not CONTRACT[name]:
        came = type(value).__name__[:30]
        return f"{name}: expected {CONTRACT[name].__name__}, got {came}"
    return f"{name}: expected {TAG!r}, got {value!r}"


def assert_refused(
    make: Callable[[], object],
    flaws: Mapping[str, object],
    cls: type = ResponseRefusalDoneEvent,
) -> None:
    """Expect one error that names these flaws, in the contract's order, and no more."""
    wrong_type = any(
        value is not MISSING and type(value) is not CONTRACT[name]
        for name, value in flaws.items()
    )
    complaints = [complaint(name, flaws[name]) for name in CONTRACT if name in flaws]
    with pytest.raises(TypeError if wrong_type else ValueError) as caught:
        make()
    assert str(caught.value) == f"{cls.__name__}: {'; '.join(complaints)}"
    # A log shows this error alone, without one that led to it.
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def values_of(event: ResponseRefusalDoneEvent) -> Dict[str, Any]:
    return {name: getattr(event, name) for name in CONTRACT}


def repickled(event: Any, protocol: int) -> Any:
    return pickle.loads(pickle.dumps(event, protocol))


COPIES: Dict[str, Callable[[Any], Any]] = {
    "replace": replace,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{
        f"pickle {protocol}": partial(repickled, protocol=protocol)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
}
if sys.version_info >= (3, 13):
    COPIES["copy.replace"] = copy.replace
DOORS = {
    **COPIES,
    "constructor": lambda event: type(event)(**values_of(event)),
    "from_dict": lambda event: type(event).from_dict(values_of(event)),
    "to_dict": lambda event: event.to_dict(),
}

classes = st.sampled_from(CLASSES)
each_field = pytest.mark.parametrize("name", CONTRACT)
each_copy = pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
each_door = pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)
# One check stands behind every door, so that each door needs but a few examples.
few = settings(max_examples=25)


# What goes in, and what comes out.


def test_the_published_example_is_read_and_given_back() -> None:
    event = ResponseRefusalDoneEvent.from_dict(EXAMPLE)
    assert event.content_index == 2
    assert event.item_id == "item-abc"
    assert event.output_index == 1
    assert event.refusal == "final refusal text"
    assert event.sequence_number == 1
    assert event.type == "response.refusal.done"
    assert event.to_dict() == EXAMPLE


@given(payloads)
def test_payload_to_event_to_payload_is_the_identity(payload: Dict[str, Any]) -> None:
    """Whatever the order of its keys."""
    assert ResponseRefusalDoneEvent.from_dict(payload).to_dict() == payload


@given(events)
def test_event_to_payload_to_event_is_the_identity(
    event: ResponseRefusalDoneEvent,
) -> None:
    assert ResponseRefusalDoneEvent.from_dict(event.to_dict()) == event


@given(payloads.map(json.dumps))
def test_json_text_to_event_to_json_text_keeps_the_payload(text: str) -> None:
    event = ResponseRefusalDoneEvent.from_dict(json.loads(text))
    assert json.loads(json.dumps(event.to_dict())) == json.loads(text)


def test_any_int_and_any_str_are_accepted() -> None:
    for number in (0, -1, 2**63, -(10**5000)):
        for text in ("", "\0", "\ud800", "\U0001f645", "x" * 1_000_000):
            values = {int: number, str: text}
            payload = {name: values[kind] for name, kind in CONTRACT.items()}
            payload["type"] = TAG
            assert ResponseRefusalDoneEvent.from_dict(payload).to_dict() == payload


@given(payloads)
def test_the_constructor_takes_the_fields_by_position_and_by_name(
    payload: Dict[str, Any],
) -> None:
    event = ResponseRefusalDoneEvent(*(payload[name] for name in CONTRACT))
    assert event == ResponseRefusalDoneEvent(**payload)
    assert values_of(event) == payload


@given(payloads, unknown_keys)
def test_unknown_keys_are_ignored_and_not_kept(
    payload: Dict[Any, Any], unknown: Dict[Any, Any]
) -> None:
    event = ResponseRefusalDoneEvent.from_dict({**unknown, **payload})
    assert event.to_dict() == payload


@given(events)
def test_to_dict_gives_a_new_plain_dict_of_the_six_fields_in_order(
    event: ResponseRefusalDoneEvent,
) -> None:
    payload = event.to_dict()
    assert type(payload) is dict
    assert list(payload) == list(CONTRACT)
    payload.clear()
    assert event.to_dict() == values_of(event)


@given(st.dictionaries(st.sampled_from([*CONTRACT, "agent"]), json_values) | payloads)
def test_the_input_is_never_changed(data: Dict[str, Any]) -> None:
    before = copy.deepcopy(list(data.items()))
    try:
        ResponseRefusalDoneEvent.from_dict(data)
    except (TypeError, ValueError):
        pass
    assert list(data.items()) == before


class Computed(Mapping[str, Any]):
    """A mapping that is no dict, nor built on one."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.pairs = list(data.items())

    def __getitem__(self, key: str) -> Any:
        for name, value in self.pairs:
            if name == key:
                return value
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)


class Inventive(Dict[str, Any], metaclass=Agreeable):
    """A dict that answers for keys that it does not hold."""

    def __missing__(self, key: str) -> Any:
        return EXAMPLE[key]


class Boxed(Dict[str, Any]):
    """A dict that holds each value in a box, and opens it when asked."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        super().__init__((name, [value]) for name, value in data.items())

    def __getitem__(self, key: str) -> Any:
        return super().__getitem__(key)[0]


each_mapping = pytest.mark.parametrize(
    "mapping",
    [MappingProxyType, ChainMap, OrderedDict, UserDict, Computed, Inventive, Boxed]
    + [pytest.param(partial(defaultdict, int), id="defaultdict")],
)


@each_mapping
@given(payload=payloads)
def test_any_mapping_is_accepted(
    mapping: Callable[[Any], Mapping[str, Any]], payload: Dict[str, Any]
) -> None:
    assert ResponseRefusalDoneEvent.from_dict(mapping(payload)).to_dict() == payload


# What is refused.


@each_field
@given(payload=payloads, data=st.data())
def test_a_value_of_any_other_type_is_refused(
    name: str, payload: Dict[str, Any], data: st.DataObject
) -> None:
    """The constructor and from_dict refuse it in the same words."""
    value = data.draw(wrong_types(name))
    wrong = {**payload, name: value}
    assert_refused(lambda: ResponseRefusalDoneEvent.from_dict(wrong), {name: value})
    assert_refused(lambda: ResponseRefusalDoneEvent(**wrong), {name: value})


@each_field
def test_what_only_looks_like_the_type_is_refused(name: str) -> None:
    numbers = [True, False, 1.0, Decimal(1), Index(1), Number.ONE, Mock(spec=int), int]
    strings = [b"1", bytearray(b"1"), Text(TAG), Tag.DONE, Mock(spec=str), str]
    others = [None, ANY, Chameleon(), NESTED, LONG_NAMED]
    for value in [*numbers, *strings, *others]:
        wrong: Any = {**EXAMPLE, name: value}
        assert_refused(lambda: ResponseRefusalDoneEvent.from_dict(wrong), {name: value})
        assert_refused(lambda: ResponseRefusalDoneEvent(**wrong), {name: value})


@pytest.mark.parametrize(
    "absent",
    [names for count in range(1, 7) for names in combinations(CONTRACT, count)],
    ids="-".join,
)
def test_every_missing_field_is_named(absent: List[str]) -> None:
    kept = {name: value for name, value in EXAMPLE.items() if name not in absent}
    flaws = dict.fromkeys(absent, MISSING)
    assert_refused(lambda: ResponseRefusalDoneEvent.from_dict(kept), flaws)


@each_field
@each_mapping
def test_a_field_is_missing_when_the_mapping_does_not_hold_it(
    mapping: Callable[[Any], Mapping[str, Any]], name: str
) -> None:
    """Even where the mapping would answer for it, and then keep the answer."""
    kept = {key: value for key, value in EXAMPLE.items() if key != name}
    data = mapping(kept)
    assert_refused(lambda: ResponseRefusalDoneEvent.from_dict(data), {name: MISSING})
    assert list(data) == list(kept)


@each_mapping
def test_a_wrong_value_in_any_mapping_is_refused(
    mapping: Callable[[Any], Mapping[str, Any]],
) -> None:
    data = mapping({**EXAMPLE, "item_id": None, "refusal": 0})
    flaws = {"item_id": None, "refusal": 0}
    assert_refused(lambda: ResponseRefusalDoneEvent.from_dict(data), flaws)


@each_field
def test_the_constructor_requires_every_field(name: str) -> None:
    kept = {key: value for key, value in EXAMPLE.items() if key != name}
    with pytest.raises(TypeError, match=f"missing 1 required .*'{name}'"):
        ResponseRefusalDoneEvent(**kept)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "tag",
    ["", "\0", TAG[:-1], TAG[1:], TAG + ".", TAG + "\n", " " + TAG, TAG.upper()]
    + [TAG.title(), TAG.replace(".", "_"), "response.refusal.delta"],
)
def test_a_tag_that_is_nearly_right_is_refused(tag: str) -> None:
    wrong = {**EXAMPLE, "type": tag}
    assert_refused(lambda: ResponseRefusalDoneEvent.from_dict(wrong), {"type": tag})


@given(payloads, short_tags)
def test_any_other_tag_is_refused(payload: Dict[str, Any], tag: str) -> None:
    wrong = {**payload, "type": tag}
    assert_refused(lambda: ResponseRefusalDoneEvent.from_dict(wrong), {"type": tag})
    assert_refused(lambda: ResponseRefusalDoneEvent(**wrong), {"type": tag})


@given(classes, payloads, flaws_from(lambda name: wrong_values(name) | st.just(MISSING)))
def test_one_error_names_all_that_is_wrong_and_nothing_else(
    cls: Any, payload: Dict[str, Any], flaws: Dict[str, Any]
) -> None:
    wrong = {k: v for k, v in {**payload, **flaws}.items() if v is not MISSING}
    assert_refused(lambda: cls.from_dict(wrong), flaws, cls)


@given(other_tags, st.sampled_from([1, 99, 1_000_000]))
def test_a_long_tag_gives_a_short_message(part: str, count: int) -> None:
    """Even beside five fields whose types have long names."""
    tag = part * count + "'"  # which a repr of the whole would show by its own quotes
    data = {**dict.fromkeys(CONTRACT, LONG_NAMED), "type": tag}
    with pytest.raises(TypeError) as caught:
        ResponseRefusalDoneEvent.from_dict(data)
    message = str(caught.value)
    assert len(message) < 500
    assert message.splitlines() == [message]
    shown = message.partition(f"; type: expected {TAG!r}, got ")[2]
    assert shown and repr(tag[:64]).startswith(shown)


@pytest.mark.parametrize("length", [61, 62, 63, 64])
def test_a_tag_is_shown_in_64_characters_at_most(length: int) -> None:
    tag = "x" * length
    with pytest.raises(ValueError) as caught:
        ResponseRefusalDoneEvent.from_dict({**EXAMPLE, "type": tag})
    assert str(caught.value).endswith(f"got {repr(tag)[:64]}")


SECRET = "sk-0123456789"
secrets = st.sampled_from([SECRET, [SECRET], {SECRET: SECRET}, SECRET.encode(), 1.5])


@given(
    st.fixed_dictionaries(
        {"type": secrets.filter(lambda value: value != SECRET) | st.just(TAG)},
        optional={name: secrets for name in [*CONTRACT, SECRET] if name != "type"},
    )
)
def test_no_value_and_no_unknown_key_gets_into_a_message(data: Dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        ResponseRefusalDoneEvent.from_dict(data)
    message = str(caught.value)
    assert message.startswith("ResponseRefusalDoneEvent: ")
    assert message.splitlines() == [message]
    assert SECRET not in message and "1.5" not in message


@pytest.mark.parametrize(
    "data",
    [None, 1, TAG, b"{}", list(EXAMPLE.items()), EXAMPLE.items(), set(EXAMPLE), dict]
    + [NESTED, Mock(spec=list), ResponseRefusalDoneEvent.from_dict(EXAMPLE)],
    ids=lambda data: type(data).__name__,
)
def test_what_is_no_mapping_is_refused(data: Any) -> None:
    for cls in CLASSES:
        with pytest.raises(TypeError) as caught:
            cls.from_dict(data)
        message = f"{cls.__name__}: expected a mapping, got {type(data).__name__}"
        assert str(caught.value) == message


def test_a_long_type_name_is_cut_short() -> None:
    with pytest.raises(TypeError) as caught:
        ResponseRefusalDoneEvent.from_dict(LONG_NAMED)
    assert str(caught.value) == (
        f"ResponseRefusalDoneEvent: expected a mapping, got {'X' * 30}"
    )


# One door.


@each_copy
@few
@given(cls=classes, payload=payloads)
def test_a_copy_is_an_equal_event_of_the_same_class(
    copied: Callable[[Any], Any], cls: Any, payload: Dict[str, Any]
) -> None:
    event = cls.from_dict(payload)
    assert type(event) is cls
    again = copied(event)
    assert type(again) is cls
    assert again == event
    assert again.to_dict() == payload


@each_copy
@pytest.mark.parametrize("cls", CLASSES[1:])
def test_a_copy_keeps_the_fields_of_a_subclass(
    cls: Any, copied: Callable[[Any], Any]
) -> None:
    event = cls(**EXAMPLE, note="kept", labels=["too"])
    again = copied(event)
    assert (again.note, again.labels) == ("kept", ["too"])
    assert again == event
    if copied is copy.deepcopy:
        assert again.labels is not event.labels


@each_door
@few
@given(cls=classes, payload=payloads, flaws=flaws_from(wrong_values))
def test_an_event_forced_out_of_its_contract_passes_no_door(
    door: Callable[[Any], Any],
    cls: Any,
    payload: Dict[str, Any],
    flaws: Dict[str, Any],
) -> None:
    event = cls.from_dict(payload)
    for name, value in flaws.items():
        object.__setattr__(event, name, value)
    assert_refused(lambda: door(event), flaws, cls)


@each_field
@given(event=events, data=st.data())
def test_replace_refuses_what_the_constructor_refuses(
    name: str, event: ResponseRefusalDoneEvent, data: st.DataObject
) -> None:
    value = data.draw(wrong_values(name))
    assert_refused(lambda: replace(event, **{name: value}), {name: value})


def test_to_dict_checks_for_a_subclass_that_does_not() -> None:
    class Careless(ResponseRefusalDoneEvent):
        def __post_init__(self) -> None:
            pass

    event = Careless.from_dict({**EXAMPLE, "item_id": None})
    assert_refused(event.to_dict, {"item_id": None}, Careless)


# The event as a value.


@each_field
@given(payload=payloads, data=st.data())
def test_events_are_equal_and_hash_alike_when_their_payloads_are_equal(
    name: str, payload: Dict[str, Any], data: st.DataObject
) -> None:
    near = {**payload, name: data.draw(right_values[name])}
    one = ResponseRefusalDoneEvent.from_dict(payload)
    other = ResponseRefusalDoneEvent.from_dict(near)
    assert (one == other) is (payload == near)
    assert len({one, other}) == (1 if payload == near else 2)
    again = ResponseRefusalDoneEvent.from_dict(dict(payload))
    assert one == again
    assert hash(one) == hash(again)


def test_an_event_equals_no_value_of_another_class_and_has_no_order() -> None:
    event: Any = ResponseRefusalDoneEvent.from_dict(EXAMPLE)
    for other in (EXAMPLE, tuple(values_of(event).values()), Noted.from_dict(EXAMPLE)):
        assert event != other
    with pytest.raises(TypeError):
        event < event


@each_field
@given(event=events)
def test_a_field_cannot_be_changed_or_removed(
    name: str, event: ResponseRefusalDoneEvent
) -> None:
    before = event.to_dict()
    with pytest.raises(FrozenInstanceError):
        setattr(event, name, before[name])
    with pytest.raises(FrozenInstanceError):
        delattr(event, name)
    assert event.to_dict() == before


def test_an_event_takes_no_new_attributes() -> None:
    event = ResponseRefusalDoneEvent.from_dict(EXAMPLE)
    with pytest.raises(FrozenInstanceError):
        event.agent = {}  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        object.__setattr__(event, "agent", {})
    assert not hasattr(event, "__dict__")


def test_the_fields_are_the_contract_in_its_order() -> None:
    hints = {**CONTRACT, "type": Literal["response.refusal.done"]}
    assert [f.name for f in fields(ResponseRefusalDoneEvent)] == list(CONTRACT)
    assert get_type_hints(ResponseRefusalDoneEvent) == hints
    assert repr(ResponseRefusalDoneEvent.from_dict(EXAMPLE)) == (
        "ResponseRefusalDoneEvent(content_index=2, item_id='item-abc', output_index=1, "
        "refusal='final refusal text', sequence_number=1, type='response.refusal.done')"
    )


@pytest.mark.skipif(sys.version_info < (3, 10), reason="match came with Python 3.10")
def test_an_event_can_be_matched() -> None:
    scope: Dict[str, Any] = {"event": ResponseRefusalDoneEvent.from_dict(EXAMPLE)}
    exec(
        "from refusal_event import ResponseRefusalDoneEvent\n"
        "match event:\n"
        "    case ResponseRefusalDoneEvent(2, 'item-abc', refusal=text):\n"
        "        pass\n",
        scope,
    )
    assert scope["text"] == "final refusal text"


# The file.


def test_the_public_surface_is_the_class_and_the_version() -> None:
    assert refusal_event.__all__ == ["ResponseRefusalDoneEvent"]
    assert refusal_event.__version__ == "1.0.0"
    names = [name for name in vars(ResponseRefusalDoneEvent) if name[0] != "_"]
    assert sorted(names) == sorted([*CONTRACT, "from_dict", "to_dict"])


def test_the_file_is_ascii_and_names_its_licence_first() -> None:
    source = (HERE / "refusal_event.py").read_bytes().decode("ascii")
    assert source.splitlines()[0] == "# SPDX-License-Identifier: MIT-0"


def test_a_string_under_each_field_documents_it() -> None:
    module = ast.parse((HERE / "refusal_event.py").read_text(encoding="ascii"))
    [body] = [node.body for node in module.body if isinstance(node, ast.ClassDef)]
    for name, documentation in zip(body, body[1:]):
        if isinstance(name, ast.AnnAssign):
            assert isinstance(documentation, ast.Expr)
            assert ast.literal_eval(documentation.value)


def test_the_file_runs_alone_and_without_a_warning(tmp_path: Path) -> None:
    """With no site-packages, no environment, and nothing beside it on the path."""
    shutil.copy(str(HERE / "refusal_event.py"), str(tmp_path))
    program = (
        "import json, pickle, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from refusal_event import ResponseRefusalDoneEvent\n"
        "event = ResponseRefusalDoneEvent.from_dict(json.load(sys.stdin))\n"
        "print(json.dumps(pickle.loads(pickle.dumps(event)).to_dict()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-W", "error", "-c", program, str(tmp_path)],
        input=json.dumps(EXAMPLE),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout) == EXAMPLE


# The README. Its doctests run beside these, by the configuration of pytest.


def readme_blocks(language: str) -> List[str]:
    text = (HERE / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def printed_by(command: str, folder: Path) -> str:
    """What a shell prints in this folder, where python3 is the Python of the tests."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        ["sh", "-c", command],
        cwd=str(folder),
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        universal_newlines=True,
        timeout=60,
        check=True,
    ).stdout


def test_the_first_command_reads_the_published_example() -> None:
    event = ResponseRefusalDoneEvent.from_dict(EXAMPLE)
    assert printed_by(readme_blocks("sh")[0], HERE) == f"{event}\n"


def test_a_vendored_copy_can_be_checked_where_it_landed(tmp_path: Path) -> None:
    command = readme_blocks("sh")[2]
    source = (HERE / "refusal_event.py").read_text(encoding="ascii")
    # A folder each, since bytecode of the one would do for the other.
    for folder, text in [("good", source), ("bad", source.replace(" is int", " is str"))]:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "refusal_event.py").write_text(text, encoding="ascii")
    printed = printed_by(command, tmp_path / "good")
    assert printed == 'works\n__version__ = "1.0.0"\n'
    assert "works" not in printed_by(command, tmp_path / "bad")


ITEM = "msg_67ccfcdd16748190a91872c75d38539e09e4d4aac714747c"
REFUSAL = "I\u2019m sorry, but I can\u2019t help with that.\u2028D\u00e9sol\u00e9 \U0001f645"


def refusal_done(**changes: Any) -> Dict[str, Any]:
    return {
        "type": "response.refusal.done",
        "item_id": ITEM,
        "output_index": 0,
        "content_index": 0,
        "refusal": REFUSAL,
        "sequence_number": 9,
        **changes,
    }


def refusal_stream() -> List[Dict[str, Any]]:
    """The payloads of a response that is one refusal, as the API numbers them."""
    part = {"type": "refusal", "refusal": ""}
    done_part = {"type": "refusal", "refusal": REFUSAL}
    item = {
        "id": ITEM,
        "type": "message",
        "status": "in_progress",
        "role": "assistant",
        "content": [],
    }
    done_item = {**item, "status": "completed", "content": [done_part]}
    response = {
        "id": "resp_67ccfcdd16748190a91872c75d38539e",
        "object": "response",
        "created_at": 1741487325,
        "status": "in_progress",
        "error": None,
        "model": "gpt-5",
        "output": [],
        "usage": None,
    }
    done_response = {
        **response,
        "status": "completed",
        "output": [done_item],
        "usage": {"input_tokens": 17, "output_tokens": 21, "total_tokens": 38},
    }
    at_part = {"item_id": ITEM, "output_index": 0, "content_index": 0}
    deltas = re.findall(r"\S+\s*", REFUSAL)
    sent: List[Dict[str, Any]] = [
        {"type": "response.created", "response": response},
        {"type": "response.in_progress", "response": response},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.content_part.added", **at_part, "part": part},
        *({"type": "response.refusal.delta", **at_part, "delta": d} for d in deltas),
        refusal_done(),
        {"type": "response.content_part.done", **at_part, "part": done_part},
        {"type": "response.output_item.done", "output_index": 0, "item": done_item},
        {"type": "response.completed", "response": done_response},
    ]
    return [{**payload, "sequence_number": n} for n, payload in enumerate(sent)]


def on_the_wire(sent: List[Dict[str, Any]], ensure_ascii: bool = False) -> bytes:
    """Server-sent events, with a keep-alive and an event of the future before each."""
    future = {"type": "response.future", "text": "a response.refusal.done is to come"}
    lines = []
    for payload in sent:
        lines += [": keep-alive", "", "event: response.future"]
        lines += ["data: " + json.dumps(future), ""]
        lines += ["event: " + payload.get("type", "message")]
        lines += ["data: " + json.dumps(payload, ensure_ascii=ensure_ascii), ""]
    return "".join(line + "\r\n" for line in lines).encode("utf-8")


class Server(HTTPServer):
    """Streams some bytes, and after a pause some more, to whoever posts a request."""

    def __init__(self, before: bytes, after: bytes, chunk: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.before = before
        self.after = after
        self.chunk = chunk
        self.go_on = Signal()
        self.waited_in_vain = False
        self.requests: List[Any] = []


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.path, self.headers, json.loads(body)))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.send_chunks(self.server.before)
        self.server.waited_in_vain = not self.server.go_on.wait(timeout=20)
        self.send_chunks(self.server.after)
        self.wfile.write(b"0\r\n\r\n")

    def send_chunks(self, data: bytes) -> None:
        for start in range(0, len(data), self.server.chunk):
            part = data[start : start + self.server.chunk]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving(before: bytes, after: bytes, chunk: int) -> Iterator[Server]:
    with Server(before, after, chunk) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.go_on.set()
            server.shutdown()
            thread.join()


@contextmanager
def reading_from(
    server: Server, folder: Path, base_path: str = "/v1"
) -> Iterator[subprocess.Popen[str]]:
    """The README's program, as a process that reads from this server."""
    [block] = [b for b in readme_blocks("python") if "urllib.request" in b]
    assert '"OPENAI_BASE_URL", "https://api.openai.com/v1"' in block
    program = folder / "reader.py"
    program.write_text(block, encoding="utf-8")
    reader = subprocess.Popen(
        [sys.executable, "-W", "error", str(program)],
        env={
            **os.environ,
            "OPENAI_API_KEY": "sk-test",
            "OPENAI_BASE_URL": f"http://127.0.0.1:{server.server_port}{base_path}",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            "PYTHONPATH": str(HERE),
            "PYTHONIOENCODING": "utf-8",
            "PYTHONUNBUFFERED": "1",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    # A reader that hangs ends with its test, and its test with it.
    watchdog = Timer(60, reader.kill)
    watchdog.start()
    with reader:
        try:
            yield reader
        finally:
            watchdog.cancel()
            reader.kill()


@pytest.mark.parametrize(
    ("chunk", "base_path"), [(1, "/v1"), (7, "/v1/"), (100_000, "/v1")]
)
def test_the_reader_prints_a_refusal_while_the_stream_goes_on(
    tmp_path: Path, chunk: int, base_path: str
) -> None:
    sent = refusal_stream()
    middle = 1 + [payload["type"] for payload in sent].index(TAG)
    before = on_the_wire(sent[:middle])
    after = on_the_wire(sent[middle:]) + b"data: [DONE]\r\n\r\n"
    with serving(before, after, chunk) as server:
        with reading_from(server, tmp_path, base_path) as reader:
            assert reader.stdout
            assert reader.stdout.readline() == f"Model refused: {REFUSAL}\n"
            server.go_on.set()
            assert reader.communicate() == ("", "")
    assert reader.returncode == 0
    assert not server.waited_in_vain
    [(path, headers, body)] = server.requests
    assert path == "/v1/responses"
    assert headers["Authorization"] == "Bearer sk-test"
    assert headers["Content-Type"] == "application/json"
    assert body["stream"] is True
    assert body["model"] and body["input"]


def test_the_reader_outlives_broken_refusals_and_loses_none(tmp_path: Path) -> None:
    no_id = refusal_done(refusal="No.")
    del no_id["item_id"]
    no_text = refusal_done(sequence_number="9")
    del no_text["refusal"]
    no_type = {"note": "not a response.refusal.done"}
    unprintable = refusal_done(refusal="No\ud800.")
    stream = on_the_wire([no_type, no_id, unprintable, no_text], ensure_ascii=True)
    # As other servers write it: bare line feeds, and no space after the colon.
    stream = stream.replace(b"\r\n", b"\n").replace(b"data: ", b"data:")
    with serving(stream, b"", 100_000) as server:
        server.go_on.set()
        with reading_from(server, tmp_path) as reader:
            stdout, stderr = reader.communicate()
    assert reader.returncode == 0
    assert stdout.splitlines() == [
        "Model refused: No. (from a broken event)",
        "Model refused: No\\ud800.",
        "Model refused: None (from a broken event)",
    ]
    assert stderr.splitlines() == [
        "ResponseRefusalDoneEvent: item_id: missing",
        "ResponseRefusalDoneEvent: refusal: missing; "
        "sequence_number: expected int, got str",
    ]
