"""The contract of the `response.refusal.done` event, as laws that the file keeps."""

from __future__ import annotations

import ast
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
from enum import Enum
from functools import partial
from io import BytesIO
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, Callable, Dict, List, Literal, get_type_hints

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


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


FIRST, CATCH, FILL_IN, DUMP, READ_STREAM, RESPONSE, SPARK = blocks("python")
COMMAND, _ = blocks("sh")
PRINTED, MESSAGE = blocks("text")
UNNUMBERED = without("sequence_number", EXAMPLE)
COMPLETED = {"type": "response.completed", "response": {"status": "completed"}}


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


class Lines(List[Any]):
    """The lines of a log, which are mapped and filtered as by Spark."""

    def map(self, function: Any) -> Lines:
        return Lines(map(function, self))

    def filter(self, function: Any) -> Lines:
        return Lines(filter(function, self))

    collect = List.copy


def fill_in(payload: Payload) -> Any:
    return execute(FILL_IN, payload=payload)["event"]


class TestReadme:
    """The README's examples do what it says."""

    def test_the_first_example_prints_a_refusal(self, capsys: Any) -> None:
        execute(FIRST, payload=EXAMPLE)
        execute(FIRST, payload={"type": "response.refusal.delta"})
        assert capsys.readouterr().out == "Model refused: final refusal text\n"

    def test_the_first_command_prints_what_is_shown(self) -> None:
        command = COMMAND.replace("python3", shlex.quote(sys.executable))
        printed = subprocess.check_output(["sh", "-c", command], cwd=HERE, text=True)
        assert printed == PRINTED

    @pytest.mark.parametrize("kind", [int, str])
    def test_the_fields_are_listed_by_type(self, kind: type) -> None:
        names = ", ".join(f"`{field}`" for field in CONTRACT if CONTRACT[field] is kind)
        assert f"\n- `{kind.__name__}`: {names}\n" in README

    def test_an_error_is_caught_and_prints_what_is_shown(self, capsys: Any) -> None:
        execute(CATCH, payload={**UNNUMBERED, "item_id": None})
        assert capsys.readouterr().out == MESSAGE
        execute(CATCH, payload={})
        assert execute(CATCH, payload=EXAMPLE)["event"] == EVENT

    def test_missing_fields_are_filled_in_but_for_the_refusal_and_the_tag(self) -> None:
        for absent in [{}, dict.fromkeys(CONTRACT)]:
            event = fill_in({**absent, "refusal": "No.", "type": TAG})
            assert event == Event(-1, "", -1, "No.", -1, "response.refusal.done")
            assert raised_error(fill_in, absent) == (ValueError, {"refusal", "type"})
        complete = {**EXAMPLE, "output_index": 0, "refusal": ""}
        assert fill_in(complete) == Event(**complete)

    def test_spark_finds_the_refusals_in_a_log(self) -> None:
        log = Lines(['{"type": "response.refusal.delta"}', json.dumps(EXAMPLE)])
        copied: list[str] = []
        sc = SimpleNamespace(addPyFile=copied.append, textFile=lambda path: log)
        assert execute(SPARK, sc=sc)["events"] == [EVENT]
        assert copied == ["refusal_event.py"]
        log.append(json.dumps(UNNUMBERED))
        with pytest.raises(ValueError, match="sequence_number: missing"):
            execute(SPARK, sc=sc)


def line(payload: Payload, form: str = "data: {}\n") -> bytes:
    return form.format(json.dumps(payload, ensure_ascii=False)).encode()


def read_stream(lines: Any) -> Any:
    return execute(READ_STREAM)["read_stream"](lines)


class TestStream:
    """The README's stream function yields the payloads of one completed response."""

    def test_no_line_is_read_before_it_is_needed(self) -> None:
        lines = iter([line(EXAMPLE), line(COMPLETED), b"after the end"])
        payloads = read_stream(lines)
        assert next(payloads) == EXAMPLE
        assert list(payloads) == [COMPLETED]
        assert list(lines) == [b"after the end"]

    @pytest.mark.parametrize("form", ["data: {}\n", "data:{}\r\n", "data:{}"])
    def test_every_payload_is_yielded_as_it_is(self, form: str) -> None:
        refusal = {**EXAMPLE, "refusal": " I can\u2019t.\u2028data: [DONE] "}
        payloads = [{"type": "keepalive"}, refusal, COMPLETED]
        assert list(read_stream(line(each, form) for each in payloads)) == payloads

    def test_lines_without_data_are_skipped(self) -> None:
        lines = [b"", b"\n", b"\r\n", b"data\n", b"data:\n", b"data: \r\n"]
        others = [b":\n", b": data: x\n", b"event: x\n", b"id\n", b"datax: x\n"]
        assert list(read_stream([*lines, *others, line(COMPLETED)])) == [COMPLETED]

    OTHER_ENDS = [
        (EXAMPLE, []),
        (EXAMPLE, [b"data: [DONE]\n", line(COMPLETED)]),
        (EXAMPLE, [b"data:[DONE]", line(COMPLETED)]),
        ({**COMPLETED, "type": "error"}, [line(COMPLETED)]),
        ({**COMPLETED, "type": "response.failed"}, [line(COMPLETED)]),
        ({**COMPLETED, "type": "response.incomplete"}, [line(COMPLETED)]),
        ({"type": "response.completed"}, [line(COMPLETED)]),
        ({**COMPLETED, "response": {}}, [line(COMPLETED)]),
        ({**COMPLETED, "response": {"status": "incomplete"}}, [line(COMPLETED)]),
    ]

    @pytest.mark.parametrize("last, rest", OTHER_ENDS)
    def test_another_end_is_an_error(self, last: Payload, rest: list[bytes]) -> None:
        payloads = read_stream([line(last), *rest])
        assert next(payloads) == last
        with pytest.raises(RuntimeError, match=re.escape(f"last event: {last}")):
            next(payloads)

    def test_a_stream_without_a_payload_is_an_error(self) -> None:
        with pytest.raises(RuntimeError, match="last event: None"):
            next(read_stream([]))

    def test_a_response_is_read(self, monkeypatch: Any, capsys: Any) -> None:
        response = BytesIO(line(EXAMPLE) + line(COMPLETED))
        monkeypatch.setattr("urllib.request.urlopen", lambda request: response)
        execute(READ_STREAM + RESPONSE, request=None)
        assert capsys.readouterr().out == "response.refusal.done\nresponse.completed\n"

    def test_data_that_is_no_payload_is_an_error(self) -> None:
        for data, error in [(b"{}", KeyError), (b"[]", TypeError), (b"{", ValueError)]:
            with pytest.raises(error):
                next(read_stream([b"data: " + data]))


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
        found = execute(DUMP, event=event)["payload"]
        fields = {field: found[field] for field in CONTRACT}
        assert fields == {**payload, "sequence_number": None}
        assert type(found["type"]) is str
