"""The contract of the `response.refusal.done` event, as laws that the file keeps."""

from __future__ import annotations

import ast
import copy
import doctest
import io
import json
import pickle
import re
import shlex
import subprocess
import sys
import traceback
from collections import ChainMap, UserDict, defaultdict
from dataclasses import FrozenInstanceError, asdict, fields, replace
from decimal import Decimal
from enum import Enum
from functools import partial
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, Callable, Dict, List, Literal, get_type_hints
from urllib.parse import quote
from urllib.request import Request

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

# A deadline, or the check for slow data, would fail on a slow machine.
settings.register_profile(
    "tests", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")


class Index(int):
    __repr__ = object.__repr__  # so that a failure does not show it as 1


class Tag(str, Enum):
    DONE = TAG  # as in the events of LiteLLM


OTHER_TAGS = ["response.refusal.delta", "response.output_text.done"]
WRONG_TAGS = [TAG.upper(), f" {TAG}", f"{TAG}\n", TAG[:-1], TAG.replace(".", "_")]
# Stripping, normalizing, encoding, unescaping or cutting would change these texts.
TEXTS = ["", " \r\n", "\ufeff", " \x00e\u0301\ud800&amp;\r\n", "1", "; refusal: x" * 9]
STRINGS = [*TEXTS, *OTHER_TAGS, *WRONG_TAGS]
HARD_JSON = [None, True, 1.0, 10**400 + 1, -(10**400) - 1, *STRINGS]
MAPPINGS = [dict, MappingProxyType, ChainMap, UserDict, partial(defaultdict, int)]
UNKNOWN: Payload = {
    **dict.fromkeys(["contentIndex", "outputIndex", "sequenceNumber", "index"], 1),
    **dict.fromkeys(["itemId", "id", "Refusal", "text", "delta"], "another text"),
    **dict.fromkeys(["TYPE", "event"], TAG),
    "agent": {"agent_name": "name"},
    "data": EXAMPLE,
    "error": {"code": "server_error"},
}

texts = st.text(st.characters())  # with lone surrogates, which text() leaves out
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
json_values = scalars | st.lists(texts) | st.dictionaries(texts, texts)
valid_strategies: dict[str, Any] = {
    **{field: st.integers() if CONTRACT[field] is int else texts for field in CONTRACT},
    "type": st.just(TAG),
}
valid_payloads = st.fixed_dictionaries(valid_strategies)
any_strategies = {field: valid_strategies[field] | json_values for field in CONTRACT}
any_payloads = st.fixed_dictionaries({}, optional=any_strategies)  # any may be missing
unknown_keys = st.dictionaries(texts | st.integers(), json_values)
each_field = pytest.mark.parametrize("field", CONTRACT)


def pin_hard_json(test: Any) -> Any:
    """Pin each of HARD_JSON as an example of a property."""
    for value in HARD_JSON:
        test = example(value)(test)
    return test


def without(field: str, payload: Payload) -> Payload:
    return {key: payload[key] for key in payload if key != field}


def unchecked(payload: Payload) -> Event:
    event = Event(**EXAMPLE)
    for field, value in payload.items():
        object.__setattr__(event, field, value)
    return event


# The ways into an event and out of it, each with the fields that come out.
WAYS: dict[str, Callable[[Payload], object]] = {
    "from_dict": lambda payload: asdict(Event.from_dict(payload)),
    "mapping": lambda payload: asdict(Event.from_dict(MappingProxyType(payload))),
    "round trip": lambda payload: asdict(Event.from_dict(Event(**payload).to_dict())),
    "constructor": lambda payload: asdict(Event(**payload)),
    "replace": lambda payload: asdict(replace(EVENT, **payload)),
    "copy": lambda payload: asdict(copy.copy(unchecked(payload))),
    "deepcopy": lambda payload: asdict(copy.deepcopy(unchecked(payload))),
    "pickle": lambda payload: asdict(pickle.loads(pickle.dumps(unchecked(payload)))),
    "to_dict": lambda payload: unchecked(payload).to_dict(),
}


def outcome(way: Callable[[Any], object], data: object) -> object:
    """Return what comes out, or the error as Python prints it, without the frames."""
    try:
        return way(data)
    except Exception as error:
        return "".join(traceback.format_exception(type(error), error, None))


def expected_outcome(payload: Payload) -> object:
    """Return the outcome that the contract demands."""
    error = "ValueError"
    problems = []
    for field, kind in CONTRACT.items():
        got = type(payload.get(field))
        if field not in payload:
            problems.append(f"{field}: missing")
        elif got is not kind:
            error = "TypeError"
            problems.append(f"{field}: expected {kind.__name__}, got {got.__name__}")
        elif field == "type" and payload[field] != TAG:
            problems.append(f"type: expected {TAG!r}, got {payload[field]!r:.64}")
    if problems:
        return f"{error}: ResponseRefusalDoneEvent: {'; '.join(problems)}\n"
    return {field: payload[field] for field in CONTRACT}


class TestFields:
    """Each field has exactly its type, and is kept as it is."""

    @each_field
    @given(json_values | st.binary())
    @pin_hard_json
    @example(Index(1))
    @example(Tag.DONE)
    @example(Decimal(1))
    def test_a_field_holds_exactly_its_type(self, field: str, value: Any) -> None:
        payload = {**EXAMPLE, field: value}
        for name, way in WAYS.items():
            assert outcome(way, payload) == expected_outcome(payload), name

    @each_field
    def test_the_constructor_requires_each_field(self, field: str) -> None:
        with pytest.raises(TypeError):
            Event(**without(field, EXAMPLE))

    def test_every_character_is_kept(self) -> None:
        text = "".join(map(chr, range(0x110000)))
        payload = {**EXAMPLE, "item_id": text, "refusal": text}
        kept = {name for name in WAYS if outcome(WAYS[name], payload) == payload}
        assert kept == WAYS.keys()  # not the texts, which would fill many screens

    @given(valid_payloads | any_payloads, unknown_keys, st.sampled_from(MAPPINGS))
    @example(EXAMPLE, UNKNOWN, dict)
    @example({**EXAMPLE, "type": "other"}, UNKNOWN, dict)
    @example(dict.fromkeys(CONTRACT), UNKNOWN, partial(defaultdict, int))
    def test_from_dict_reads_the_fields_of_any_mapping_and_leaves_it_as_it_was(
        self, payload: Payload, unknown: Payload, mapping: Any
    ) -> None:
        whole = {**unknown, **payload}
        for content in [whole, *(without(field, whole) for field in CONTRACT)]:
            data = mapping(dict(content))
            assert outcome(WAYS["from_dict"], data) == expected_outcome(content)
            assert dict(data) == content

    @each_field
    @given(valid_payloads, valid_payloads)
    # The hash of -1 is the hash of -2.
    @example({**EXAMPLE, "output_index": -1}, {**EXAMPLE, "output_index": -2})
    def test_events_are_equal_exactly_if_their_values_are(
        self, field: str, payload: Payload, other: Payload
    ) -> None:
        changed = {**payload, field: other[field]}
        events: list[Any] = [Event(**payload), Event(**changed)]
        assert (events[0] == events[1]) is (payload == changed)
        assert len(set(events)) == (1 if payload == changed else 2)
        assert payload not in events


class TestErrors:
    """An error is one line of bounded length, and no value is shown but a wrong tag."""

    LONG_NAMED = type("X" * 99, (), {})()

    def test_all_problems_are_on_one_line(self) -> None:
        wrong = {"item_id": b"secret", "output_index": "", "refusal": self.LONG_NAMED}
        payload = {"content_index": 2, **wrong, "type": "\r\n\x85\u2028" * 99}
        assert outcome(Event.from_dict, payload) == (
            "TypeError: ResponseRefusalDoneEvent: item_id: expected str, got bytes; "
            "output_index: expected int, got str; "
            f"refusal: expected str, got {'X' * 30}; sequence_number: missing; "
            "type: expected 'response.refusal.done', got '"
            + (r"\r\n\x85\u2028" * 4 + r"\r\n\x8" + "\n")
        )

    METHODS = ["to_dict", "model_dump", "dict", "_asdict", "asDict", "keys", "items"]
    LOOKALIKE = SimpleNamespace(**EXAMPLE, **dict.fromkeys(METHODS, lambda: EXAMPLE))
    JSON = json.dumps(EXAMPLE)
    NOT_MAPPINGS = [None, JSON, JSON.encode(), [*EXAMPLE.items()], EVENT, LOOKALIKE]

    @pytest.mark.parametrize("data", [*NOT_MAPPINGS, LONG_NAMED], ids=type)
    def test_what_is_not_a_mapping_is_rejected(self, data: Any) -> None:
        problem = f"expected a mapping, got {type(data).__name__:.30}"
        error = f"TypeError: ResponseRefusalDoneEvent: {problem}\n"
        assert outcome(Event.from_dict, data) == error

    def test_nothing_is_printed_or_logged(self, capfd: Any, caplog: Any) -> None:
        caplog.set_level("DEBUG")
        outcome(Event.from_dict, self.JSON)
        wrong = {**EXAMPLE, "type": "other"}
        for payload in [EXAMPLE, wrong, dict.fromkeys(CONTRACT), {}]:
            for way in WAYS.values():
                outcome(way, payload)
        assert capfd.readouterr() == ("", "")
        assert caplog.records == []


class TestEvent:
    """An event is a frozen dataclass that holds the contract's fields alone."""

    def test_the_fields_and_their_types_are_the_contract(self) -> None:
        assert [field.name for field in fields(Event)] == list(CONTRACT)
        hints = {**CONTRACT, "type": Literal["response.refusal.done"]}
        assert get_type_hints(Event) == hints

    def test_it_has_no_other_public_names(self) -> None:
        names = {name for name in dir(EVENT) if not name.startswith("_")}
        assert names == {*CONTRACT, "from_dict", "to_dict"}

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="__final__ is new in 3.11")
    def test_the_class_is_final(self) -> None:
        assert vars(Event)["__final__"]

    @pytest.mark.parametrize("name", [*CONTRACT, "agent"])
    def test_no_attribute_can_be_set_or_deleted(self, name: str) -> None:
        with pytest.raises(FrozenInstanceError):
            setattr(Event(**EXAMPLE), name, 1)
        with pytest.raises(FrozenInstanceError):
            delattr(Event(**EXAMPLE), name)

    def test_to_dict_returns_a_new_dict_in_the_order_of_the_fields(self) -> None:
        assert type(EVENT.to_dict()) is dict
        assert EVENT.to_dict() is not EVENT.to_dict()
        assert list(EVENT.to_dict()) == list(CONTRACT)

    def test_the_pickle_format_is_kept(self) -> None:
        # Versions of the file load each other's pickles because all write the same.
        assert pickle.dumps(EVENT, protocol=0) == (
            b"crefusal_event\nResponseRefusalDoneEvent\np0\n"
            b"(I2\nVitem-abc\np1\nI1\nVfinal refusal text\np2\nI1\n"
            b"Vresponse.refusal.done\np3\ntp4\nRp5\n."
        )


HERE = Path(__file__).resolve().parent
SOURCE = (HERE / "refusal_event.py").read_text(encoding="utf-8")
README = (HERE / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


FIRST, CATCH, FILL_IN, DUMP, READ_STREAM, LIVE, SPARK = blocks("python")
COMMAND, _ = blocks("sh")
PRINTED, MESSAGE = blocks("text")
UNNUMBERED = without("sequence_number", EXAMPLE)
COMPLETED = {"type": "response.completed", "response": {"status": "completed"}}


def execute(code: str, **names: Any) -> Payload:
    """Execute code as a program that has these names, and return all its names."""
    # Without dont_inherit, this file's `annotations` import would apply to the code.
    exec(compile(code, "program", "exec", dont_inherit=True), names)
    return names


class TestFile:
    """The file can be copied anywhere, and needs no other."""

    def test_its_licence_its_version_and_its_only_export(self) -> None:
        assert SOURCE.startswith("# SPDX-License-Identifier: MIT-0\n")
        assert list(refusal_event.__all__) == ["ResponseRefusalDoneEvent"]
        assert re.fullmatch(r"\d+\.\d+\.\d+", refusal_event.__version__)

    def test_it_is_ascii(self) -> None:
        assert SOURCE.isascii()

    def test_none_of_its_statements_is_a_bare_call(self) -> None:
        bare = [each.value for each in ast.parse(SOURCE).body if type(each) is ast.Expr]
        assert not any(type(expression) is ast.Call for expression in bare)

    def test_the_examples_in_its_docstrings_hold(self) -> None:
        failed, attempted = doctest.testmod(refusal_event)
        assert attempted and not failed

    def test_a_renamed_copy_works_alone_in_a_package(self, tmp_path: Path) -> None:
        (tmp_path / "application").mkdir()
        (tmp_path / "application" / "renamed.py").write_text(SOURCE, encoding="utf-8")
        program = f"""
import pickle, sys
sys.path.insert(0, {str(tmp_path)!r})
from application.renamed import ResponseRefusalDoneEvent
for payload in [{EXAMPLE}, {dict(EXAMPLE, refusal=None)}, {UNNUMBERED}]:
    try:
        event = ResponseRefusalDoneEvent.from_dict(payload)
        print(pickle.loads(pickle.dumps(event)).to_dict())
    except (TypeError, ValueError) as error:
        print(error)
"""
        python = [sys.executable, "-I", "-S", "-OO", "-W", "error", "-c", program]
        assert subprocess.check_output(python, text=True) == (
            f"{EVENT.to_dict()}\n"
            "ResponseRefusalDoneEvent: refusal: expected str, got NoneType\n"
            "ResponseRefusalDoneEvent: sequence_number: missing\n"
        )

    def test_a_plugin_host_can_execute_a_copy_with_events_of_its_own(self) -> None:
        # "plugin" is not in sys.modules, where dataclass looks up string annotations.
        names = execute(SOURCE, __name__="plugin")
        assert names["ResponseRefusalDoneEvent"](**EXAMPLE) != EVENT


class Lines(List[Any]):
    """The lines of a log, which are mapped and filtered as by Spark."""

    def map(self, function: Any) -> Lines:
        return Lines(map(function, self))

    def filter(self, function: Any) -> Lines:
        return Lines(filter(function, self))

    collect = list.copy


def fill_in(payload: Payload) -> Any:
    return execute(FILL_IN, payload=payload)["event"]


class TestReadme:
    """The README's examples do what it says."""

    def test_the_first_example_prints_a_refusal(self, capsys: Any) -> None:
        for tag in [*OTHER_TAGS, TAG]:
            execute(FIRST, payload={**UNKNOWN, **EXAMPLE, "type": tag})
        assert capsys.readouterr().out == "Model refused: final refusal text\n"
        with pytest.raises(TypeError):
            execute(FIRST, payload={**EXAMPLE, "refusal": None})

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
        execute(CATCH, payload=UNNUMBERED)
        assert capsys.readouterr().out.endswith("Event: sequence_number: missing\n")
        assert execute(CATCH, payload=EXAMPLE)["event"] == EVENT

    def test_missing_fields_are_filled_in_except_the_refusal_and_the_tag(self) -> None:
        for absent in [{}, dict.fromkeys(CONTRACT)]:
            event = fill_in({**absent, "refusal": "No.", "type": TAG})
            assert event == Event(-1, "", -1, "No.", -1, "response.refusal.done")
            with pytest.raises(ValueError, match="refusal.*type"):
                fill_in(absent)
        complete = {**EXAMPLE, "output_index": 0, "refusal": ""}
        assert fill_in({**UNKNOWN, **complete}) == Event(**complete)
        with pytest.raises(TypeError, match="item_id"):
            fill_in({**EXAMPLE, "item_id": 7})

    def test_spark_finds_the_refusals_in_a_log(self) -> None:
        log = Lines(json.dumps({**EXAMPLE, "type": tag}) for tag in [*OTHER_TAGS, TAG])
        copied: list[str] = []
        sc = SimpleNamespace(addPyFile=copied.append, textFile=lambda path: log)
        assert execute(SPARK, sc=sc)["events"] == [EVENT]
        assert copied == ["refusal_event.py"]
        for bad in ["", "{}", json.dumps(UNNUMBERED)]:
            log[0] = bad
            with pytest.raises((KeyError, ValueError)):
                execute(SPARK, sc=sc)


def event_stream(*payloads: Payload, form: str = "event: x\ndata: {}\n\n") -> bytes:
    events = [form.format(json.dumps(each, ensure_ascii=False)) for each in payloads]
    return "".join(events).encode()


def read_stream(lines: Any) -> Any:
    return execute(READ_STREAM)["read_stream"](lines)


class TestStream:
    """The README's stream function yields the payloads of one completed response."""

    def test_nothing_is_read_before_it_is_needed(self) -> None:
        first = event_stream(EXAMPLE)
        lines = io.BytesIO(first + event_stream(COMPLETED) + b"after the end")
        payloads = read_stream(lines)
        assert next(payloads) == EXAMPLE
        assert lines.tell() <= len(first)
        assert list(payloads) == [COMPLETED]
        assert lines.read().strip() == b"after the end"

    @pytest.mark.parametrize("form", ["data: {}\n\n", "id: 1\r\ndata:{}\r\n\r\n"])
    def test_every_payload_is_yielded_as_it_is(self, form: str) -> None:
        refusal = {**EXAMPLE, "refusal": " I can\u2019t.\u2028data: [DONE] "}
        tags = [*OTHER_TAGS, "response.mcp_call.failed", None]
        payloads = [*({"type": tag} for tag in tags), refusal, COMPLETED]
        stream = event_stream(*payloads, form=form)
        assert list(read_stream(io.BytesIO(stream))) == payloads
        assert list(read_stream(stream.splitlines())) == payloads

    def test_lines_without_data_are_skipped(self) -> None:
        lines = [b"", b"\n", b"\r\n", b"data\n", b"data:\n", b"data: \r\n"]
        others = [b":\n", b": data: x\n", b"event: x\n", b"id\n", b"datax: x\n"]
        stream = [*lines, *others, *io.BytesIO(event_stream(COMPLETED))]
        assert list(read_stream(stream)) == [COMPLETED]

    OTHER_ENDS = [
        {**COMPLETED, "type": "error"},
        {**COMPLETED, "type": "response.failed"},
        {**COMPLETED, "type": "response.incomplete"},
        {"type": "response.completed"},
        {**COMPLETED, "response": "completed"},
        {**COMPLETED, "response": {}},
        {**COMPLETED, "response": {"status": "incomplete"}},
    ]

    @pytest.mark.parametrize("last", OTHER_ENDS, ids=json.dumps)
    def test_an_end_without_completion_is_an_error(self, last: Payload) -> None:
        payloads = read_stream(io.BytesIO(event_stream(last, COMPLETED)))
        assert next(payloads) == last
        with pytest.raises(RuntimeError, match=re.escape(str(last))):
            next(payloads)

    LAST_DATA = {  # and what the error quotes
        b'{"error": "\xc3\xa9"}': "{'error': '\xe9'}",
        b'["\xc3\xa9"]': "['\xe9']",
        b'{"type": "\xff"}': r'{"type": "\xff"}',
        b'{"type": "cut': '{"type": "cut',
        b"<html>": "<html>",
        b"[DONE]": str(EXAMPLE),
        b" [DONE]": str(EXAMPLE),
    }

    @pytest.mark.parametrize("data", LAST_DATA)
    def test_data_that_is_no_payload_is_an_error(self, data: bytes) -> None:
        first, last = event_stream(EXAMPLE), event_stream(COMPLETED)
        payloads = read_stream(io.BytesIO(first + b"data:" + data + b"\n\n" + last))
        assert next(payloads) == EXAMPLE
        with pytest.raises(RuntimeError, match=re.escape(self.LAST_DATA[data])):
            next(payloads)

    def test_a_stream_that_just_stops_is_an_error(self) -> None:
        for payloads, last in [([], None), ([EXAMPLE], EXAMPLE)]:
            lines = io.BytesIO(event_stream(*payloads))
            with pytest.raises(RuntimeError, match=re.escape(str(last))):
                list(read_stream(lines))

    def test_the_live_loop_prints_each_refusal(self, capsys: Any) -> None:
        others = [{**EXAMPLE, "type": tag} for tag in OTHER_TAGS]
        payloads = [{**UNKNOWN, **EXAMPLE}, *others, {**EXAMPLE, "refusal": "No."}]
        for last, error in [("error", RuntimeError), (TAG, ValueError)]:
            stream = event_stream(*payloads, {"type": last})
            with pytest.raises(error):
                execute(READ_STREAM + LIVE, request=Request(f"data:,{quote(stream)}"))
            printed = capsys.readouterr().out
            assert printed == "Model refused: final refusal text\nModel refused: No.\n"


@pytest.fixture(scope="module")
def sdk() -> Any:
    return pytest.importorskip("openai.types.responses").ResponseRefusalDoneEvent


def assert_same_verdict(sdk: Any, payload: Payload) -> None:
    """Assert that from_dict and the SDK's strict validation reject the same fields."""
    ours = outcome(WAYS["from_dict"], payload)
    try:
        sdk.model_validate(payload, strict=True)
    except ValueError as error:
        theirs = {problem["loc"][0] for problem in error.errors()}  # type: ignore
        assert set(re.findall(r"(\w+): (?:expected|missing)", str(ours))) == theirs
    else:
        assert ours == payload  # what both accept is kept as it is


class TestSDK:
    """The SDK's class has the same contract, and its events become payloads."""

    def test_the_fields_are_the_same(self, sdk: Any) -> None:
        theirs = dict(sdk.model_fields)
        assert {key: theirs[key].annotation for key in theirs} == get_type_hints(Event)

    @each_field
    @given(json_values)
    @pin_hard_json
    def test_it_takes_the_same_values(self, sdk: Any, field: str, value: Any) -> None:
        assert_same_verdict(sdk, {**EXAMPLE, field: value})

    @each_field
    @given(valid_payloads | any_payloads)
    def test_it_requires_the_same_fields(self, sdk: Any, field: str, data: Any) -> None:
        assert_same_verdict(sdk, without(field, data))

    def test_its_events_become_payloads(self, sdk: Any) -> None:
        # A class as in LiteLLM: the tag is a default, and the SDK's methods are missing.
        types: Any = {"item_id": str, "refusal": str, "type": (Tag, Tag.DONE)}
        other = pytest.importorskip("pydantic").create_model("Event", **types)
        data: Payload = {"item_id": 7, "refusal": "No."}
        for event in [sdk.construct(**data, type=TAG), other.model_construct(**data)]:
            payload = execute(DUMP, event=event)["payload"]
            assert payload.pop("item_id") == 7
            assert fill_in(payload).refusal == "No."
