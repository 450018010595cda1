"""The contract of the `response.refusal.done` event, as laws that the file keeps."""

from __future__ import annotations

import ast
import asyncio
import copy
import doctest
import json
import pickle
import re
import shlex
import subprocess
import sys
from collections import ChainMap, UserDict, defaultdict
from contextlib import suppress
from dataclasses import FrozenInstanceError, fields, replace
from decimal import Decimal
from email.message import Message
from enum import Enum
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO, RawIOBase, TextIOWrapper
from pathlib import Path
from threading import Thread
from types import MappingProxyType, SimpleNamespace
from typing import Any, AsyncIterator, Callable, Dict, Iterator, Literal, get_type_hints
from unittest.mock import Mock
from urllib.response import addinfourl

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import refusal_event
from refusal_event import ResponseRefusalDoneEvent as Event

Payload = Dict[Any, Any]
TAG = "response.refusal.done"
CONTRACT = {
    "content_index": int,
    "item_id": str,
    "output_index": int,
    "refusal": str,
    "sequence_number": int,
    "type": str,
}
EXAMPLE: Payload = {
    "type": TAG,
    "item_id": "item-abc",
    "output_index": 1,
    "content_index": 2,
    "refusal": "final refusal text",
    "sequence_number": 1,
}
EVENT: Any = Event(**EXAMPLE)

# Without deadlines, because they fail on a slow machine.
settings.register_profile(
    "tests", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")


class Index(int):
    """An int, but not exactly of that type."""

    def __repr__(self) -> str:
        return f"Index({int(self)})"


class Text(str):
    """A str, but not exactly of that type."""

    def __repr__(self) -> str:
        return f"Text({str(self)!r})"


class Tag(str, Enum):
    """A str, as the tags of LiteLLM's events are."""

    DONE = TAG


texts = st.text(st.characters())  # with lone surrogates, which text() leaves out
wrong_tags = st.sampled_from(
    [TAG.upper(), f" {TAG}", f"{TAG}\n", TAG[:-1], "response.refusal.delta", "error"]
)
json_values = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers().map(str)
    | st.integers(-9, 9).map(float)
    | st.floats()
    | texts
    | st.just(TAG)
    | wrong_tags
    | st.lists(texts)
    | st.dictionaries(texts, texts)
)
values = json_values | st.binary()

valid_values = {
    field: st.just(TAG) if field == "type" else {int: st.integers(), str: texts}[kind]
    for field, kind in CONTRACT.items()
}
payloads = st.fixed_dictionaries(valid_values)


def payloads_of_any(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Payload]:
    """Return payloads in which each field is missing, valid or any of these values."""
    optional = {field: valid | values for field, valid in valid_values.items()}
    return st.fixed_dictionaries({}, optional=optional)


unknown_keys = st.dictionaries(texts | st.integers(), values)
mappings = st.sampled_from(
    [dict, MappingProxyType, ChainMap, UserDict, partial(defaultdict, int)]
)
each_field = pytest.mark.parametrize("field", CONTRACT)


def without(field: str, payload: Payload) -> Payload:
    return {key: payload[key] for key in payload if key != field}


def expected_error(payload: Payload) -> tuple[Any, set[str]]:
    """Return the class of the error that is due, if any, and the fields it names."""
    missing = CONTRACT.keys() - payload.keys()
    present = CONTRACT.keys() - missing
    wrong = {field for field in present if type(payload[field]) is not CONTRACT[field]}
    other_tag = {"type"} if payload.get("type", TAG) != TAG else set()
    error = TypeError if wrong else ValueError if missing or other_tag else None
    return error, missing | wrong | other_tag


def raised_error(call: Callable[[Any], object], payload: Any) -> tuple[Any, set[str]]:
    """Return the class of the error that is raised, if any, and the fields it names."""
    try:
        call(payload)
    except (TypeError, ValueError) as error:
        return type(error), {field for field in CONTRACT if f" {field}: " in str(error)}
    return None, set()


def unchecked(payload: Payload) -> Event:
    """Return an event that object.__setattr__ has given these values."""
    event = Event(**EXAMPLE)
    for field, value in payload.items():
        object.__setattr__(event, field, value)
    return event


WAYS_TO_AN_EVENT: dict[str, Callable[[Payload], Event]] = {
    "from_dict": Event.from_dict,
    "constructor": lambda payload: Event(**payload),
    "replace": lambda payload: replace(EVENT, **payload),
    "copy": lambda payload: copy.copy(unchecked(payload)),
    "deepcopy": lambda payload: copy.deepcopy(unchecked(payload)),
    "pickle": lambda payload: pickle.loads(pickle.dumps(unchecked(payload))),
}
CHECKS: dict[str, Callable[[Payload], object]] = {
    **WAYS_TO_AN_EVENT,
    "to_dict": lambda payload: unchecked(payload).to_dict(),
}


class TestFields:
    """Each field has exactly its type, and is kept as it is."""

    def test_json_becomes_an_event_and_json_again(self) -> None:
        text = (
            '{"content_index": 1, "item_id": "msg_1", "output_index": 2, '
            '"refusal": "No.", "sequence_number": 3, "type": "response.refusal.done"}'
        )
        assert json.dumps(Event.from_dict(json.loads(text)).to_dict()) == text

    LARGE: Payload = {
        **EXAMPLE,
        "content_index": 2**64 + 1,
        "item_id": " \x00e\u0301\ud800&amp;\r\n",
        "output_index": 2**64 + 1,
        "refusal": " \x00e\u0301\ud800&amp;\r\n",
        "sequence_number": 2**64 + 1,
    }
    SMALL: Payload = {
        **EXAMPLE,
        "content_index": -(2**64) - 1,
        "item_id": "\ufeff",
        "output_index": -(2**64) - 1,
        "refusal": "\ufeff",
        "sequence_number": -(2**64) - 1,
    }
    UNKNOWN: Payload = {
        "contentIndex": 2,
        "itemId": "item-abc",
        "outputIndex": 1,
        "Refusal": "another text",
        "sequenceNumber": 1,
        "TYPE": TAG,
        "agent": {"agent_name": "name"},
        "data": EXAMPLE,
        "error": {"code": "server_error"},
        1: EXAMPLE,
    }

    @given(payloads, unknown_keys, mappings)
    @example(LARGE, UNKNOWN, dict)
    @example(SMALL, {}, dict)
    @example({**EXAMPLE, "item_id": "", "refusal": ""}, {}, dict)
    def test_every_payload_comes_back(
        self, payload: Payload, unknown: Payload, mapping: Any
    ) -> None:
        data = mapping({**unknown, **payload})
        assert Event.from_dict(data).to_dict() == payload
        assert dict(data) == {**unknown, **payload}
        for name, way in WAYS_TO_AN_EVENT.items():
            assert (name, way(payload).to_dict()) == (name, payload)

    def test_every_character_comes_back(self) -> None:
        text = "".join(map(chr, range(0x110000)))
        payload = {**EXAMPLE, "item_id": text, "refusal": text}
        for name, way in WAYS_TO_AN_EVENT.items():
            comes_back = False
            with suppress(Exception):  # because its message may hold the whole text
                comes_back = way(payload).to_dict() == payload
            assert comes_back, name

    @each_field
    @given(values)
    @example("1")
    @example(True)
    @example(1.0)
    @example(Index(1))
    @example(Text(TAG))
    @example(Tag.DONE)
    @example("")
    @example("error")
    @example("response.refusal.delta")
    @example(TAG.upper())
    @example(f" {TAG}")
    @example(f"{TAG}\n")
    def test_a_field_takes_exactly_its_type(self, field: str, value: Any) -> None:
        payload = {**EXAMPLE, field: value}
        for name, check in CHECKS.items():
            error = raised_error(check, payload)
            assert (name, *error) == (name, *expected_error(payload))

    @each_field
    @given(payloads, unknown_keys, mappings)
    @example(EXAMPLE, UNKNOWN, dict)
    def test_a_missing_field_is_named(
        self, field: str, payload: Payload, unknown: Payload, mapping: Any
    ) -> None:
        data = mapping(without(field, {**unknown, **payload}))
        assert raised_error(Event.from_dict, data) == (ValueError, {field})

    @given(payloads_of_any(values), unknown_keys, mappings)
    @example({}, UNKNOWN, partial(defaultdict, int))
    @example(dict.fromkeys(CONTRACT), {}, UserDict)
    def test_all_missing_and_wrong_fields_are_named_at_once(
        self, payload: Payload, unknown: Payload, mapping: Any
    ) -> None:
        payload = {**unknown, **payload}
        data = mapping(payload)
        assert raised_error(Event.from_dict, data) == expected_error(payload)
        assert dict(data) == payload

    @each_field
    @given(payloads, payloads)
    def test_events_are_equal_exactly_if_their_values_are(
        self, field: str, payload: Payload, other: Payload
    ) -> None:
        changed = {**payload, field: other[field]}
        events: list[Any] = [Event(**payload), Event(**changed)]
        assert (events[0] == events[1]) is (payload == changed)
        assert len(set(events)) == (1 if payload == changed else 2)
        assert payload not in events
        assert SimpleNamespace(**payload) not in events


def error_from(data: Any) -> str:
    """Return the class and the message of the error that from_dict raises."""
    with pytest.raises((TypeError, ValueError)) as caught:
        Event.from_dict(data)
    return f"{type(caught.value).__name__}: {caught.value}"


class TestErrors:
    """An error is one line of bounded length, and shows no value but a wrong tag."""

    def test_all_problems_are_in_one_message(self) -> None:
        wrong = {"item_id": ["secret"], "output_index": "secret", "type": "x"}
        assert error_from(without("content_index", {**EXAMPLE, **wrong})) == (
            "TypeError: ResponseRefusalDoneEvent: content_index: missing; "
            "item_id: expected str, got list; output_index: expected int, got str; "
            "type: expected 'response.refusal.done', got 'x'"
        )

    @each_field
    def test_a_missing_field_is_called_missing(self, field: str) -> None:
        message = error_from(without(field, EXAMPLE))
        assert message == f"ValueError: ResponseRefusalDoneEvent: {field}: missing"

    MODEL = SimpleNamespace(**EXAMPLE, keys=EXAMPLE.keys, model_dump=lambda: EXAMPLE)
    NOT_MAPPINGS = [None, json.dumps(EXAMPLE), [*EXAMPLE.items()], EVENT, MODEL]

    @pytest.mark.parametrize("data", NOT_MAPPINGS)
    def test_what_is_not_a_mapping_is_rejected(self, data: Any) -> None:
        problem = f"expected a mapping, got {type(data).__name__}"
        assert error_from(data) == f"TypeError: ResponseRefusalDoneEvent: {problem}"

    def test_a_long_tag_is_cut_and_on_one_line(self) -> None:
        tag = "\r\n\x85\u2028" * 999
        assert error_from({**EXAMPLE, "type": tag}) == (
            "ValueError: ResponseRefusalDoneEvent: "
            "type: expected 'response.refusal.done', got '"
            r"\r\n\x85\u2028\r\n\x85\u2028\r\n\x85\u2028\r\n\x85\u2028\r\n\x8"
        )

    def test_a_long_class_name_is_cut(self) -> None:
        value = type("X" * 999, (), {})()
        for data in [value, {**EXAMPLE, "refusal": value}]:
            assert error_from(data).endswith(", got " + "X" * 30)

    @pytest.mark.parametrize("data", [{}, {**EXAMPLE, "item_id": 7}])
    def test_the_traceback_shows_no_other_error(self, data: Payload) -> None:
        with pytest.raises((TypeError, ValueError)) as caught:
            Event.from_dict(data)
        assert "above exception" not in str(caught.getrepr(style="native"))


class TestEvent:
    """An event is a frozen dataclass that holds the contract's fields alone."""

    def test_the_fields_and_their_types_are_the_contract(self) -> None:
        assert [field.name for field in fields(Event)] == list(CONTRACT)
        hints = {**CONTRACT, "type": Literal["response.refusal.done"]}
        assert get_type_hints(Event) == hints

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="new in Python 3.11")
    def test_the_class_is_final(self) -> None:
        assert vars(Event)["__final__"]

    @pytest.mark.parametrize("name", [*CONTRACT, "agent"])
    def test_no_attribute_can_be_set_or_deleted(self, name: str) -> None:
        with pytest.raises(FrozenInstanceError):
            setattr(Event(**EXAMPLE), name, 1)
        with pytest.raises(FrozenInstanceError):
            delattr(Event(**EXAMPLE), name)

    def test_an_event_has_no_room_for_other_attributes(self) -> None:
        with pytest.raises(AttributeError):
            object.__setattr__(Event(**EXAMPLE), "agent", 1)

    def test_to_dict_returns_a_new_dict_each_time(self) -> None:
        assert type(EVENT.to_dict()) is dict
        assert EVENT.to_dict() is not EVENT.to_dict()

    def test_a_pickle_begins_with_the_class(self) -> None:
        # So that it loads where another version of the file is installed.
        name = b"crefusal_event\nResponseRefusalDoneEvent\n"
        assert pickle.dumps(EVENT, 0).startswith(name)


HERE = Path(__file__).resolve().parent
SOURCE = (HERE / "refusal_event.py").read_text(encoding="ascii")
README = (HERE / "README.md").read_text(encoding="utf-8")
BLOCKS: list[str] = re.findall(r"^```\w+\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def block(content: str) -> str:
    """Return the one code block of the README that contains this text."""
    found = [text for text in BLOCKS if content in text]
    assert len(found) == 1, f"{len(found)} blocks of the README contain {content!r}"
    return found[0]


def execute(code: str, **names: Any) -> Payload:
    """Execute code as a program that has these names, and return all its names."""
    exec(compile(code, "program", "exec", dont_inherit=True), names)
    return names


class TestFile:
    """The file can be copied anywhere, and does nothing but define the class."""

    def test_its_licence_version_and_public_names(self) -> None:
        assert SOURCE.startswith("# SPDX-License-Identifier: MIT-0\n")
        assert refusal_event.__all__ == ["ResponseRefusalDoneEvent"]
        assert re.fullmatch(r"\d+\.\d+\.\d+", refusal_event.__version__)
        names = {name for name in vars(Event) if not name.startswith("_")}
        assert names == {*CONTRACT, "from_dict", "to_dict"}

    def test_it_only_imports_and_defines_names(self) -> None:
        _docstring, *statements = ast.parse(SOURCE).body
        kinds = {ast.Import, ast.ImportFrom, ast.Assign, ast.FunctionDef, ast.ClassDef}
        assert {type(statement) for statement in statements} <= kinds

    def test_the_example_in_its_docstring_holds(self) -> None:
        failed, attempted = doctest.testmod(refusal_event)
        assert attempted == 3
        assert failed == 0

    def test_a_renamed_copy_works_alone_in_a_package(self, tmp_path: Path) -> None:
        (tmp_path / "application").mkdir()
        (tmp_path / "application" / "renamed.py").write_text(SOURCE, encoding="ascii")
        program = """
import json, pickle, sys
sys.path.insert(0, sys.argv[1])
from application.renamed import ResponseRefusalDoneEvent
event = ResponseRefusalDoneEvent.from_dict(json.loads(sys.argv[2]))
print(pickle.loads(pickle.dumps(event)) == event)
try:
    ResponseRefusalDoneEvent.from_dict({**event.to_dict(), "refusal": None})
except TypeError as error:
    print(error)
"""
        python = [sys.executable, "-I", "-S", "-OO", "-W", "error", "-c", program]
        arguments = [str(tmp_path), json.dumps(EXAMPLE)]
        printed = subprocess.check_output([*python, *arguments], text=True)
        assert printed.splitlines() == [
            "True",
            "ResponseRefusalDoneEvent: refusal: expected str, got NoneType",
        ]

    def test_a_plugin_host_can_execute_it(self) -> None:
        # Not in sys.modules, where dataclass looks up annotations that are strings.
        execute(SOURCE, __name__="plugin")


UNNUMBERED = without("sequence_number", EXAMPLE)


class TestReadme:
    """The README's examples do what it says."""

    def test_the_first_example_prints_a_refusal(self, capsys: Any) -> None:
        execute(BLOCKS[0], payload=EXAMPLE)
        execute(BLOCKS[0], payload={"type": "response.refusal.delta"})
        assert capsys.readouterr().out == "Model refused: final refusal text\n"

    def test_the_first_command_prints_what_is_shown(self) -> None:
        python = shlex.quote(sys.executable)
        command = block("json.load(sys.stdin)").replace("python3", python)
        printed = subprocess.check_output(["sh", "-c", command], cwd=HERE, text=True)
        assert printed == block("ResponseRefusalDoneEvent(content_index=2")

    @pytest.mark.parametrize("kind", [int, str])
    def test_the_fields_are_listed_by_type(self, kind: type) -> None:
        names = ", ".join(f"`{field}`" for field in CONTRACT if CONTRACT[field] is kind)
        assert f"\n- `{kind.__name__}`: {names}\n" in README

    def test_the_message_is_the_one_that_is_shown(self) -> None:
        message = error_from({**UNNUMBERED, "item_id": None})
        assert message + "\n" == block("TypeError: ResponseRefusalDoneEvent")

    def fill_in(self, payload: Payload) -> Any:
        return execute(block("unknown = {"), payload=payload)["event"]

    def test_what_a_server_leaves_out_is_filled_in(self) -> None:
        complete = {**EXAMPLE, "output_index": 0, "refusal": ""}
        assert self.fill_in(complete) == Event(**complete)
        sparse: Payload = {"refusal": "No.", "type": TAG}
        for payload in [sparse, {**dict.fromkeys(CONTRACT), **sparse}]:
            event = self.fill_in(payload)
            assert event == Event(-1, "", -1, "No.", -1, "response.refusal.done")

    @pytest.mark.parametrize("field", ["refusal", "type"])
    def test_a_refusal_and_a_tag_are_not_filled_in(self, field: str) -> None:
        for payload in [without(field, EXAMPLE), {**EXAMPLE, field: None}]:
            assert raised_error(self.fill_in, payload) == (ValueError, {field})

    def test_what_a_host_decoded_becomes_a_payload(self) -> None:
        numbers = {"content_index": Decimal(2), "output_index": Index(1)}
        texts = {"refusal": Text("final refusal text"), "type": Tag.DONE}
        decoded = UserDict({**EXAMPLE, **numbers, **texts, "_id": object()})
        names = execute(block("default=convert"), payload=decoded)
        assert Event.from_dict(names["payload"]) == EVENT


BAD_PAYLOADS = {
    "no tag": (b"{}", "KeyError('type'"),
    "list": (b'["response.refusal.done"]', "TypeError("),
    "broken JSON": (b'{"type"', "JSONDecodeError("),
    "not UTF-8": (b'"\xff"', "UnicodeDecodeError("),
    "UTF-16": (json.dumps(EXAMPLE).encode("utf-16-be"), "JSONDecodeError("),
    "deep nesting": (b"[" * 200_000, "RecursionError("),
}
each_bad_payload = pytest.mark.parametrize(
    "payload, error", BAD_PAYLOADS.values(), ids=BAD_PAYLOADS
)


class TestLog:
    """The README's log programs show every refusal and every line with an error."""

    def read_log(self, lines: list[Any]) -> list[Any]:
        return list(execute(block("def read_log"))["read_log"](lines))

    @each_bad_payload
    def test_a_bad_line_is_an_error(self, payload: bytes, error: str) -> None:
        [bad, good] = self.read_log([payload, json.dumps(EXAMPLE)])
        assert good == (EVENT, None)
        assert bad[0] is None
        assert bad[1].startswith(error)
        assert bad[1].endswith(f" in {payload!r}")

    def test_text_and_bytes_are_read(self) -> None:
        text = json.dumps({**EXAMPLE, "refusal": "\u6291\u6b49"}, ensure_ascii=False)
        for line in [text, text.encode(), b"\xef\xbb\xbf" + text.encode()]:
            [(event, _)] = self.read_log([line])
            assert event.refusal == "\u6291\u6b49"

    def test_other_events_and_blank_lines_are_skipped(self) -> None:
        other = '{"type": "response.refusal.delta"}'
        assert self.read_log(["", "\r\n", b"\n", other, other.encode()]) == []

    LINES = [json.dumps({**EXAMPLE, "refusal": "\u2019\n"}), json.dumps(UNNUMBERED)]
    SHOWN = (
        "'\u2019\\n'\nValueError('ResponseRefusalDoneEvent: sequence_number: missing"
    )

    def test_each_refusal_or_error_is_on_one_line(self, capsys: Any) -> None:
        log = BytesIO("\n".join(self.LINES).encode())
        code = block("def read_log") + block('open("events.jsonl", "rb")')
        execute(code, open=lambda *_: log)
        assert capsys.readouterr().out.startswith(self.SHOWN)

    def test_spark_reads_each_partition(self, capsys: Any) -> None:
        def map_partitions(function: Any) -> Any:
            return SimpleNamespace(toLocalIterator=lambda: function(self.LINES))

        sc = Mock()
        sc.textFile.return_value = SimpleNamespace(mapPartitions=map_partitions)
        execute(block("def read_log") + block("sc.textFile"), sc=sc)
        sc.addPyFile.assert_called_once_with("refusal_event.py")
        sc.textFile.assert_called_once_with("events.jsonl")
        assert capsys.readouterr().out.startswith(self.SHOWN)


def line(payload: Payload) -> bytes:
    return f"data: {json.dumps(payload, ensure_ascii=False)}\n".encode()


DELTA = {**UNNUMBERED, "type": "response.refusal.delta", "delta": "final "}
COMPLETED = {"type": "response.completed", "response": {"status": "completed"}}
LAST_LINE = line(COMPLETED)


def read_stream(lines: Any) -> Any:
    return execute(block("def read_stream"))["read_stream"](lines)


def error_after(events: Any) -> str:
    """Return the message of the error that is raised instead of a next event."""
    with pytest.raises(RuntimeError) as caught:
        next(events)
    return str(caught.value)


class TestStreamFunction:
    """The README's stream function yields the events of one completed response."""

    def test_every_event_is_yielded(self) -> None:
        refusal = {**EXAMPLE, "refusal": " I can\u2019t.\u2028\x85[DONE] "}
        events = [{"type": "keepalive"}, DELTA, EXAMPLE, refusal, COMPLETED]
        assert list(read_stream(map(line, events))) == events

    def test_async_code_changes_two_words(self) -> None:
        code = block("def read_stream").replace("def read", "async def read")
        code = code.replace("for line", "async for line")

        async def lines() -> AsyncIterator[bytes]:
            yield line(EXAMPLE)
            yield LAST_LINE

        async def collect() -> list[Payload]:
            return [payload async for payload in execute(code)["read_stream"](lines())]

        assert asyncio.run(collect()) == [EXAMPLE, COMPLETED]

    def test_a_byte_order_mark_no_space_and_no_line_end_are_accepted(self) -> None:
        form = b"\xef\xbb\xbfdata:" + json.dumps(EXAMPLE).encode()
        assert list(read_stream([form, LAST_LINE])) == [EXAMPLE, COMPLETED]

    def test_lines_without_data_are_skipped(self) -> None:
        blank = [b"", b"\n", b"\r\n", b"data\n", b"data:\n", b"data: \r\n"]
        others = [b":\n", b": data: x\n", b"event: x\n", b"id\n", b"retry: 9\n"]
        assert list(read_stream([*blank, *others, LAST_LINE])) == [COMPLETED]

    NO_PROBLEM = {"status": "completed", "error": None, "incomplete_details": None}

    @pytest.mark.parametrize("response", [None, {}, {"status": None}, NO_PROBLEM])
    def test_a_response_without_a_problem_is_completed(self, response: Any) -> None:
        last = {"type": "response.completed", "response": response}
        for end in [last, without("response", last)]:
            assert list(read_stream([line(end), b"not read"])) == [end]

    PROBLEMS = [
        {"status": "failed"},
        {"status": "incomplete"},
        {"status": "cancelled"},
        {**NO_PROBLEM, "error": {"code": "server_error"}},
        {**NO_PROBLEM, "incomplete_details": {"reason": "content_filter"}},
        "\u2019",
        ["completed"],
    ]
    OTHER_ENDS = [
        {"type": "error", "message": "\u2019"},
        {"type": "response.failed", "response": {"status": "failed"}},
        {"type": "response.incomplete"},
        *[{"type": "response.completed", "response": problem} for problem in PROBLEMS],
    ]

    @pytest.mark.parametrize("last", OTHER_ENDS)
    def test_another_end_is_yielded_and_shown(self, last: Payload) -> None:
        events = read_stream([line(last), LAST_LINE])
        assert next(events) == last
        assert error_after(events) == f"response not completed; last event: {last}"

    @pytest.mark.parametrize(
        "rest", [[], [b"data: [DONE]\n", LAST_LINE], [b"data:[DONE]", LAST_LINE]]
    )
    def test_an_early_end_shows_the_last_event(self, rest: list[bytes]) -> None:
        last = {"type": "response.cancelled"}
        events = read_stream([line(last), *rest])
        assert next(events) == last
        assert error_after(events) == f"response not completed; last event: {last}"

    def test_no_event_is_an_error(self) -> None:
        message = error_after(read_stream([]))
        assert message == "response not completed; last event: None"

    @each_bad_payload
    def test_a_bad_payload_is_shown(self, payload: bytes, error: str) -> None:
        bad_line = b"data: " + payload + b"\n"
        events = read_stream([line(EXAMPLE), bad_line, LAST_LINE])
        assert next(events) == EXAMPLE
        message = error_after(events)
        assert message.startswith(error)
        assert message.endswith(f" in {bad_line!r}")

    @pytest.mark.parametrize("start", ["", " data: ", "datax: ", "xdata: "])
    def test_text_that_is_no_event_is_shown(self, start: str) -> None:
        text = start + '{\n  "error": "\u2019"\n}\n'
        lines = text.encode().splitlines(keepends=True)
        message = f"unexpected text in the stream: {text!r}"
        assert error_after(read_stream(lines)) == message
        events = read_stream([line(EXAMPLE), *lines, LAST_LINE])
        assert [next(events), next(events)] == [EXAMPLE, COMPLETED]
        assert error_after(events) == message


class Handler(BaseHTTPRequestHandler):
    """Keeps each request, and sends the next answer."""

    def do_POST(self: Any) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.command, self.path, self.headers, body))
        self.wfile.write(self.server.answers.pop(0))

    do_GET = do_POST


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Start a server, and have the stream program ask it directly."""
    server: Any = HTTPServer(("127.0.0.1", 0), Handler)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1/")
    with server:
        server.requests, server.answers = [], []
        Thread(target=server.serve_forever, args=[0.01]).start()
        yield server
        server.shutdown()


@pytest.fixture
def urlopen(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Replace the function that the stream program opens its request with."""
    urlopen = Mock()
    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    return urlopen


def response(body: Any) -> addinfourl:
    """Return a stream that has this body, as urllib.request.urlopen does."""
    headers = Message()
    headers["Content-Type"] = "text/event-stream"
    return addinfourl(body, headers, "", 200)


class TestStreamProgram:
    """The README's stream program prints each refusal, or ends with an error."""

    @pytest.fixture(autouse=True)
    def arguments(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "key\n")
        monkeypatch.setattr(sys, "argv", ["stream.py", "a model", "a prompt"])

    def run(self) -> None:
        execute(block("def read_stream") + block("urllib.request.urlopen"))

    STREAM = b"HTTP/1.0 200 \r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n"

    def test_what_it_asks_and_prints(self, server: Any, capsys: Any) -> None:
        events = [DELTA, EXAMPLE, {**EXAMPLE, "refusal": ""}, COMPLETED]
        server.answers = [self.STREAM + b"\n".join(map(line, events))]
        self.run()
        printed = "Model refused: final refusal text\nModel refused: \n"
        assert capsys.readouterr().out == printed
        [(method, path, headers, body)] = server.requests
        assert (method, path) == ("POST", "/v1/responses")
        assert headers["Authorization"] == "Bearer key"
        assert headers["Content-Type"] == "application/json"
        schema = {
            "type": "object",
            "properties": {"answer": {"type": "string"}},
            "required": ["answer"],
            "additionalProperties": False,
        }
        output_format = {"type": "json_schema", "name": "reply", "strict": True}
        assert json.loads(body) == {
            "model": "a model",
            "input": "a prompt",
            "stream": True,
            "text": {"format": {**output_format, "schema": schema}},
        }

    def test_a_redirect_does_not_carry_the_key(self, server: Any) -> None:
        redirect = b"HTTP/1.0 302 \r\nLocation: /elsewhere\r\n\r\n"
        server.answers = [redirect, self.STREAM + LAST_LINE]
        self.run()
        [_, (_, path, headers, _)] = server.requests
        assert path == "/elsewhere"
        assert "key" not in str(headers)

    @pytest.mark.parametrize(
        "status, kind", [(200, "plain"), (202, "event-stream"), (401, "event-stream")]
    )
    def test_another_answer_is_shown(self, server: Any, status: int, kind: str) -> None:
        head = f"HTTP/1.0 {status} \r\nContent-Type: text/{kind}\r\n\r\n"
        server.answers = [head.encode() + b"<p>\xc3\x89\xff"]
        with pytest.raises(SystemExit, match=f"^HTTP {status}: <p>\u00c9\ufffd$"):
            self.run()

    def test_a_refusal_is_printed_while_the_stream_is_open(
        self, urlopen: Mock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written = BytesIO()
        monkeypatch.setattr(sys, "stdout", TextIOWrapper(written, newline="\n"))

        class OpenStream(RawIOBase):
            def __iter__(self) -> Iterator[bytes]:
                yield line(EXAMPLE)
                assert written.getvalue() == b"Model refused: final refusal text\n"
                yield LAST_LINE

        urlopen.return_value = response(OpenStream())
        self.run()

    def test_a_refusal_is_checked(self, urlopen: Mock) -> None:
        urlopen.return_value = response(BytesIO(line(UNNUMBERED) + LAST_LINE))
        with pytest.raises(ValueError, match=": sequence_number: missing$"):
            self.run()

    def test_an_early_end_is_an_error(self, urlopen: Mock) -> None:
        urlopen.return_value = response(BytesIO(line(EXAMPLE)))
        with pytest.raises(RuntimeError, match="^response not completed"):
            self.run()

    def test_a_key_of_two_lines_is_not_shown(
        self, urlopen: Mock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "key-1\nkey-2")
        with pytest.raises(ValueError) as caught:
            self.run()
        assert "key" not in str(caught.value)
        urlopen.assert_not_called()

    def test_an_empty_base_url_means_openai(
        self, urlopen: Mock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_BASE_URL", "")
        urlopen.return_value = response(BytesIO(LAST_LINE))
        self.run()
        [request] = urlopen.call_args[0]
        assert request.full_url == "https://api.openai.com/v1/responses"


@pytest.fixture(scope="module")
def sdk() -> Any:
    return pytest.importorskip("openai.types.responses").ResponseRefusalDoneEvent


def assert_same_verdict(sdk: Any, payload: Payload) -> None:
    """Assert that from_dict and the SDK's strict validation name the same fields."""
    theirs = set()
    try:
        sdk.model_validate(payload, strict=True)
    except ValueError as invalid:
        error: Any = invalid
        theirs = {problem["loc"][0] for problem in error.errors()}
    raised, ours = raised_error(Event.from_dict, payload)
    assert ours == theirs
    assert bool(raised) is bool(theirs)


class TestSDK:
    """The SDK's class has the same contract, and its events become payloads."""

    def test_the_fields_are_the_same_and_required(self, sdk: Any) -> None:
        theirs = dict(sdk.model_fields)
        assert list(theirs) == list(CONTRACT)
        hints = get_type_hints(Event)
        assert {name: theirs[name].annotation for name in theirs} == hints
        assert all(field.is_required() for field in theirs.values())

    @each_field
    @given(json_values)
    @example(True)
    @example(1.0)
    @example(2**64 + 1)
    @example(-(2**64) - 1)
    @example("")
    @example("1")
    @example("error")
    @example("response.refusal.delta")
    @example(TAG.upper())
    @example(f" {TAG}")
    @example(f"{TAG}\n")
    def test_its_strict_validation_takes_the_same_values(
        self, sdk: Any, field: str, value: Any
    ) -> None:
        assert_same_verdict(sdk, {**EXAMPLE, field: value})

    @each_field
    @given(payloads_of_any(json_values))
    @example(EXAMPLE)
    def test_its_strict_validation_misses_the_same_fields(
        self, sdk: Any, field: str, payload: Payload
    ) -> None:
        assert_same_verdict(sdk, without(field, payload))

    def test_its_events_become_payloads(self, sdk: Any) -> None:
        payload = {**UNNUMBERED, "item_id": 7, "type": Tag.DONE}
        event = sdk.construct(**payload)  # which does not check, like its stream
        found = execute(block("model_dump"), event=event)["payload"]
        fields = {field: found[field] for field in CONTRACT}
        assert fields == {**payload, "sequence_number": None}
        assert type(found["type"]) is str
