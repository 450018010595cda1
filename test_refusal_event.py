"""The contract of the `response.refusal.done` event, as laws that the file keeps."""

from __future__ import annotations

import ast
import copy
import json
import os
import pickle
import pickletools
import re
import subprocess
import sys
from collections import ChainMap, UserDict, defaultdict
from dataclasses import FrozenInstanceError, fields, replace
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO, StringIO
from pathlib import Path
from threading import Thread
from types import MappingProxyType, SimpleNamespace
from typing import Any, Callable, Dict, Iterator, Literal, get_type_hints
from unittest.mock import ANY, MagicMock, Mock, patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import refusal_event
from refusal_event import ResponseRefusalDoneEvent as Event

Payload = Dict[str, Any]

TAG = "response.refusal.done"
CONTRACT = {
    "content_index": int,
    "item_id": str,
    "output_index": int,
    "refusal": str,
    "sequence_number": int,
    "type": str,
}
INTEGER_FIELDS = ["content_index", "output_index", "sequence_number"]
TEXT_FIELDS = ["item_id", "refusal"]
EXAMPLE: Payload = {
    "type": TAG,
    "item_id": "item-abc",
    "output_index": 1,
    "content_index": 2,
    "refusal": "final refusal text",
    "sequence_number": 1,
}

# Without deadlines, because they fail on a slow machine.
settings.register_profile(
    "tests", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")

integers = st.integers()
texts = st.text(st.characters())  # with lone surrogates, which text() leaves out
scalars = st.none() | st.booleans() | integers | st.floats() | texts
json_values = scalars | st.lists(scalars) | st.dictionaries(texts, scalars)
not_integers = json_values.filter(lambda value: type(value) is not int)
not_texts = json_values.filter(lambda value: type(value) is not str)
not_the_tag = json_values.filter(lambda value: value != TAG)

payloads = st.fixed_dictionaries(
    {
        **dict.fromkeys(INTEGER_FIELDS, integers),
        **dict.fromkeys(TEXT_FIELDS, texts),
        "type": st.just(TAG),
    }
)
wrong_values = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(INTEGER_FIELDS, not_integers),
        **dict.fromkeys(TEXT_FIELDS, not_texts),
        "type": not_the_tag,
    },
).filter(bool)
unknown_keys = st.dictionaries(texts | integers, json_values, max_size=2)


class TestRoundTrip:
    """A payload is read into its fields, and given back unchanged."""

    def test_json_becomes_fields_and_json_again(self) -> None:
        text = (
            '{"content_index": 1, "item_id": "msg_1", "output_index": 2, '
            '"refusal": "No.", "sequence_number": 3, "type": "response.refusal.done"}'
        )
        event = Event.from_dict(json.loads(text))
        values = [getattr(event, field) for field in CONTRACT]
        assert values == [1, "msg_1", 2, "No.", 3, "response.refusal.done"]
        assert json.dumps(event.to_dict()) == text

    @given(payloads, unknown_keys)
    def test_every_payload_comes_back(self, payload: Payload, unknown: Payload) -> None:
        event = Event.from_dict({**unknown, **payload})
        assert event == Event(**payload)
        assert event.to_dict() == payload

    # Among them a byte order mark, a decomposed accent, an entity and a lone surrogate.
    TEXTS = ["", " a\n", "a\r\nb\rc", "a\0", "\ufeffa", "e\u0301", "&amp;", "\ud83d"]

    @pytest.mark.parametrize("text", TEXTS)
    def test_text_is_kept_as_it_is(self, text: str) -> None:
        payload = {**EXAMPLE, **dict.fromkeys(TEXT_FIELDS, text)}
        assert Event.from_dict(payload).to_dict() == payload

    @pytest.mark.parametrize("field", TEXT_FIELDS)
    def test_long_text_is_kept_whole(self, field: str) -> None:
        event = Event.from_dict({**EXAMPLE, field: "a" * 10_000_000})
        assert len(event.to_dict()[field]) == 10_000_000

    @pytest.mark.parametrize("integer", [-(2**64), 0, 2**64])
    def test_integers_have_no_bounds(self, integer: int) -> None:
        payload = {**EXAMPLE, **dict.fromkeys(INTEGER_FIELDS, integer)}
        assert Event.from_dict(payload).to_dict() == payload

    def test_to_dict_returns_a_new_dict_each_time(self) -> None:
        event = Event(**EXAMPLE)
        first = event.to_dict()
        assert type(first) is dict
        assert event.to_dict() is not first
        first.clear()
        assert event.to_dict() == EXAMPLE


def error_of(call: Callable[..., object], *args: Any, **kwargs: Any) -> str:
    """Return the class and the message of the error that a call raises."""
    with pytest.raises((TypeError, ValueError)) as caught:
        call(*args, **kwargs)
    return f"{type(caught.value).__name__}: {caught.value}"


def type_name(value: object) -> str:
    return type(value).__name__


def default_dict(data: Payload) -> Payload:
    return defaultdict(int, data)


MAPPINGS = [dict, MappingProxyType, ChainMap, UserDict, default_dict]


class TestFromDict:
    """Any mapping is read; unknown keys are ignored; the input is left as it was."""

    @pytest.mark.parametrize("mapping", MAPPINGS)
    def test_any_mapping_is_read_and_left_as_it_was(self, mapping: Any) -> None:
        data = mapping({**EXAMPLE, "agent": "name"})
        assert Event.from_dict(data) == Event(**EXAMPLE)
        assert dict(data) == {**EXAMPLE, "agent": "name"}

    @pytest.mark.parametrize("field", CONTRACT)
    @pytest.mark.parametrize("mapping", MAPPINGS)
    def test_no_field_may_be_missing(self, mapping: Any, field: str) -> None:
        data = mapping({key: EXAMPLE[key] for key in EXAMPLE if key != field})
        expected = f"ValueError: ResponseRefusalDoneEvent: {field}: missing"
        assert error_of(Event.from_dict, data) == expected

    def test_a_defaultdict_does_not_grow(self) -> None:
        data: Payload = defaultdict(int)
        error_of(Event.from_dict, data)
        assert not data

    @pytest.mark.parametrize("key", ["agent", "data", "error", "stream_id", "Type", 1])
    def test_an_unknown_key_is_ignored(self, key: Any) -> None:
        data = {key: {**EXAMPLE, "refusal": "another text"}, **EXAMPLE}
        assert Event.from_dict(data) == Event(**EXAMPLE)

    def test_fields_are_not_looked_for_elsewhere(self) -> None:
        data = {"contentIndex": 2, "itemId": "x", "Refusal": "x", "TYPE": TAG}
        envelope = {"data": EXAMPLE, "event": EXAMPLE, "response": EXAMPLE}
        assert error_of(Event.from_dict, {**data, **envelope}) == (
            "ValueError: ResponseRefusalDoneEvent: content_index: missing; "
            "item_id: missing; output_index: missing; refusal: missing; "
            "sequence_number: missing; type: missing"
        )

    MODEL = SimpleNamespace(**EXAMPLE, keys=EXAMPLE.keys, model_dump=lambda: EXAMPLE)
    NO_MAPPINGS = [None, json.dumps(EXAMPLE), [*EXAMPLE.items()], Event(**EXAMPLE)]

    @pytest.mark.parametrize("data", [*NO_MAPPINGS, MODEL], ids=type_name)
    def test_what_is_not_a_mapping_is_refused(self, data: Any) -> None:
        expected = "TypeError: ResponseRefusalDoneEvent: expected a mapping"
        assert error_of(Event.from_dict, data) == f"{expected}, got {type_name(data)}"


class Index(int):
    pass


class Text(str):
    pass


class TestErrors:
    """One error names every missing or wrong field, and shows only a wrong tag."""

    # To isinstance(), the mocks are an int and a str; ANY is equal to everything.
    NOT_INTEGERS = ["1", b"1", True, 1.0, None, Index(1), Mock(spec=int), ANY]
    NOT_TEXTS = [1, b"1", True, 1.0, None, Text(TAG), Mock(spec=str), ANY]

    @pytest.mark.parametrize("mapping", [dict, MappingProxyType])
    @pytest.mark.parametrize("field", INTEGER_FIELDS)
    @pytest.mark.parametrize("value", NOT_INTEGERS, ids=type_name)
    def test_an_integer_is_an_int(self, mapping: Any, field: str, value: Any) -> None:
        problem = f"{field}: expected int, got {type_name(value)}"
        error = error_of(Event.from_dict, mapping({**EXAMPLE, field: value}))
        assert error == f"TypeError: ResponseRefusalDoneEvent: {problem}"

    @pytest.mark.parametrize("mapping", [dict, MappingProxyType])
    @pytest.mark.parametrize("field", [*TEXT_FIELDS, "type"])
    @pytest.mark.parametrize("value", NOT_TEXTS, ids=type_name)
    def test_a_text_is_a_str(self, mapping: Any, field: str, value: Any) -> None:
        problem = f"{field}: expected str, got {type_name(value)}"
        error = error_of(Event.from_dict, mapping({**EXAMPLE, field: value}))
        assert error == f"TypeError: ResponseRefusalDoneEvent: {problem}"

    TAGS = ["", "error", "Response.Refusal.Done", " response.refusal.done"]
    TAGS += ["response.refusal.done ", "response.refusal.done.x"]

    @pytest.mark.parametrize("tag", TAGS)
    def test_no_other_tag_is_accepted(self, tag: str) -> None:
        assert error_of(Event.from_dict, {**EXAMPLE, "type": tag}) == (
            "ValueError: ResponseRefusalDoneEvent: "
            f"type: expected 'response.refusal.done', got '{tag}'"
        )

    def test_a_long_tag_is_cut(self) -> None:
        assert error_of(Event.from_dict, {**EXAMPLE, "type": "x" * 63}) == (
            "ValueError: ResponseRefusalDoneEvent: "
            f"type: expected 'response.refusal.done', got '{'x' * 63}"
        )

    def test_all_problems_are_in_one_message(self) -> None:
        data = {"item_id": b"x", "output_index": "1", "type": "x"}
        assert error_of(Event.from_dict, data) == (
            "TypeError: ResponseRefusalDoneEvent: content_index: missing; "
            "item_id: expected str, got bytes; "
            "output_index: expected int, got str; refusal: missing; "
            "sequence_number: missing; type: expected 'response.refusal.done', got 'x'"
        )

    @given(payloads, wrong_values, st.sets(st.sampled_from(sorted(CONTRACT))))
    def test_every_missing_and_wrong_field_is_named(
        self, payload: Payload, wrong: Payload, missing: set[str]
    ) -> None:
        data = {**payload, **wrong}
        for field in missing:
            del data[field]
        message = error_of(Event.from_dict, data)
        named = {field for field in CONTRACT if f" {field}: " in message}
        assert named == {*wrong, *missing}

    LONG = {
        "tag": {**EXAMPLE, "type": "x" * 10_000_000},
        "line ends in a tag": {**EXAMPLE, "type": "\r\n\x85\u2028" * 99},
        "class name": {**EXAMPLE, "sequence_number": type("X" * 999, (), {})()},
        "class name of no mapping": type("X" * 999, (), {})(),
    }

    @pytest.mark.parametrize("data", LONG.values(), ids=LONG)
    def test_a_message_is_one_line_of_bounded_length(self, data: Any) -> None:
        message = error_of(Event.from_dict, data)
        assert len(message) <= 150
        assert message.splitlines() == [message]

    def test_no_key_error_is_shown_with_a_missing_field(self) -> None:
        with pytest.raises(ValueError) as caught:
            Event.from_dict({})
        assert caught.value.__suppress_context__


def repickled(protocol: int, event: Event) -> Any:
    return pickle.loads(pickle.dumps(event, protocol))


COPIES: dict[str, Callable[[Event], Any]] = {
    "dataclasses.replace": replace,
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    **{f"pickle {protocol}": partial(repickled, protocol) for protocol in range(6)},
}


def changed(event: Event, values: Payload) -> Event:
    """Change an event as only object.__setattr__ can."""
    for field, value in values.items():
        object.__setattr__(event, field, value)
    return event


class TestSameCheck:
    """However an event comes to be, it has passed the same check."""

    WRONG = {"item_id": 7, "type": "x"}
    ERROR = (
        "TypeError: ResponseRefusalDoneEvent: item_id: expected str, got int; "
        "type: expected 'response.refusal.done', got 'x'"
    )

    def test_the_constructor_checks(self) -> None:
        assert error_of(Event, **{**EXAMPLE, **self.WRONG}) == self.ERROR

    def test_to_dict_checks(self) -> None:
        assert error_of(changed(Event(**EXAMPLE), self.WRONG).to_dict) == self.ERROR

    @pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
    def test_copying_checks(self, copied: Any) -> None:
        assert error_of(copied, changed(Event(**EXAMPLE), self.WRONG)) == self.ERROR

    @pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
    def test_a_copy_is_an_equal_event(self, copied: Any) -> None:
        assert copied(Event(**EXAMPLE)) == Event(**EXAMPLE)

    def test_a_pickle_names_nothing_but_the_class(self) -> None:
        # So that a pickle loads where another version of the file is installed.
        opcodes = pickletools.genops(pickle.dumps(Event(**EXAMPLE), 2))
        names = [value for opcode, value, _ in opcodes if opcode.name == "GLOBAL"]
        assert names == ["refusal_event ResponseRefusalDoneEvent"]


class TestValues:
    """Events cannot be changed, and they compare and hash by value."""

    def test_the_fields_and_their_types_are_the_contract(self) -> None:
        assert [field.name for field in fields(Event)] == list(CONTRACT)
        hints = {**CONTRACT, "type": Literal["response.refusal.done"]}
        assert get_type_hints(Event) == hints

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="new in Python 3.11")
    def test_the_class_is_final(self) -> None:
        assert vars(Event)["__final__"]

    @pytest.mark.parametrize("field", [*INTEGER_FIELDS, *TEXT_FIELDS])
    def test_events_differ_where_one_value_differs(self, field: str) -> None:
        value = 7 if field in INTEGER_FIELDS else "another text"
        other = Event(**{**EXAMPLE, field: value})
        assert other != Event(**EXAMPLE)
        assert len({Event(**EXAMPLE), Event(**EXAMPLE), other}) == 2

    @pytest.mark.parametrize("name", [*CONTRACT, "agent"])
    def test_no_attribute_can_be_set_or_deleted(self, name: str) -> None:
        event = Event(**EXAMPLE)
        with pytest.raises(FrozenInstanceError):
            setattr(event, name, 1)
        with pytest.raises(FrozenInstanceError):
            delattr(event, name)

    def test_an_event_has_no_room_for_other_attributes(self) -> None:
        with pytest.raises(AttributeError):
            object.__setattr__(Event(**EXAMPLE), "agent", 1)


HERE = Path(__file__).resolve().parent
SOURCE = (HERE / "refusal_event.py").read_text(encoding="ascii")
README = (HERE / "README.md").read_text(encoding="utf-8")
BLOCKS: list[str] = re.findall(r"^```\w+\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def block(content: str) -> str:
    """Return the one code block of the README that contains this text."""
    [found] = [text for text in BLOCKS if content in text]
    return found


def execute(code: str, **names: Any) -> Payload:
    """Execute code as a program that has these names, and return all its names."""
    exec(compile(code, "program", "exec", dont_inherit=True), names)
    return names


def run(*command: str, folder: Any = HERE, **env: str) -> Any:
    """Run a command where python3 is the Python of the tests."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        command,
        cwd=str(folder),
        env={**os.environ, "PATH": path, "PYTHONIOENCODING": "utf-8", **env},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )


class TestFile:
    """The file can be copied anywhere, and does nothing but define the class."""

    def test_its_licence_and_its_public_names(self) -> None:
        assert SOURCE.startswith("# SPDX-License-Identifier: MIT-0\n")
        assert refusal_event.__all__ == ["ResponseRefusalDoneEvent"]
        names = {name for name in vars(Event) if not name.startswith("_")}
        assert names == {*CONTRACT, "from_dict", "to_dict"}

    def test_it_only_imports_and_defines_names(self) -> None:
        _docstring, *statements = ast.parse(SOURCE).body
        kinds = {ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign}
        kinds |= {ast.FunctionDef, ast.ClassDef}
        assert {type(statement) for statement in statements} <= kinds

    def test_a_renamed_copy_works_alone_in_a_package(self, tmp_path: Path) -> None:
        (tmp_path / "application").mkdir()
        copied = tmp_path / "application" / "renamed.py"
        copied.write_text(SOURCE, encoding="ascii")
        program = """
import json, pickle, sys
sys.path.insert(0, sys.argv[1])
from application.renamed import ResponseRefusalDoneEvent
event = ResponseRefusalDoneEvent.from_dict(json.loads(sys.argv[2]))
print(pickle.loads(pickle.dumps(event)) == event)
object.__setattr__(event, "refusal", None)
event.to_dict()
"""
        python = [sys.executable, "-I", "-S", "-OO", "-W", "error", "-c"]
        done = run(*python, program, str(tmp_path), json.dumps(EXAMPLE))
        assert done.stdout == "True\n"
        assert done.stderr.startswith("Traceback")
        assert done.stderr.endswith(" refusal: expected str, got NoneType\n")

    def test_a_plugin_host_can_execute_it(self) -> None:
        # Not in sys.modules, where dataclass looks up annotations that are strings.
        execute(SOURCE, __name__="plugin")


UNNUMBERED = {key: EXAMPLE[key] for key in EXAMPLE if key != "sequence_number"}


class TestReadme:
    """The blocks of the README do what it says."""

    def test_the_example_reads_and_writes_an_event(self) -> None:
        done = run(sys.executable, "-c", block('json.loads("""'))
        assert done.stdout == (
            "Model refused: No.\n"
            '{"content_index": 2, "item_id": "item-abc", "output_index": 1, '
            '"refusal": "No.", "sequence_number": 1, "type": "response.refusal.done"}\n'
        )

    def test_the_first_command_prints_what_is_shown(self) -> None:
        done = run("sh", "-c", block("json.load(sys.stdin)"))
        assert done.stdout == block("ResponseRefusalDoneEvent(content_index=2")

    def test_the_list_of_fields_is_the_contract(self) -> None:
        rows = re.findall(r"^- `(\w+)` \(`(\w+)`\)", README, re.MULTILINE)
        assert rows == [(field, kind.__name__) for field, kind in CONTRACT.items()]

    def test_a_good_copy_passes_the_check(self, tmp_path: Path) -> None:
        (tmp_path / "refusal_event.py").write_text(SOURCE, encoding="ascii")
        # Python would import this file, were it not for the command's -I.
        (tmp_path / "types.py").write_text("raise ImportError", encoding="ascii")
        done = run("sh", "-c", block("-m doctest"), folder=tmp_path)
        assert done.stdout == f'__version__ = "{refusal_event.__version__}"\n'
        assert done.returncode == 0

    BROKEN = {
        "empty": "",
        "imports only": SOURCE.partition("\ndef ")[0],
        "without its last method": SOURCE.rpartition("\n    def ")[0],
    }

    @pytest.mark.parametrize("copied", BROKEN.values(), ids=BROKEN)
    def test_a_broken_copy_fails_the_check(self, tmp_path: Path, copied: str) -> None:
        (tmp_path / "refusal_event.py").write_text(copied, encoding="ascii")
        # Python would skip the file's examples here, were it not for the command's -I.
        done = run("sh", "-c", block("-m doctest"), folder=tmp_path, PYTHONOPTIMIZE="2")
        assert "__version__" not in done.stdout
        assert done.returncode == 1

    def test_a_field_that_a_server_leaves_out_can_be_filled_in(self) -> None:
        code = block('{"sequence_number": -1')
        names = execute(code, payload=UNNUMBERED, ResponseRefusalDoneEvent=Event)
        assert names["event"] == Event(**{**EXAMPLE, "sequence_number": -1})


BAD_PAYLOADS = {
    "missing field": (json.dumps(UNNUMBERED), "ValueError"),
    "wrong type": (json.dumps({**EXAMPLE, "item_id": 7}), "TypeError"),
    "no tag": ("{}", "KeyError"),
    "list": ('["response.refusal.done"]', "TypeError"),
    "broken JSON": ('{"type"', "JSONDecodeError"),
    "deep nesting": ("[" * 200_000, "RecursionError"),
}
each_bad_payload = pytest.mark.parametrize(
    "payload, error", BAD_PAYLOADS.values(), ids=BAD_PAYLOADS
)
LOG_FUNCTION = block("def read_log(lines)")


class TestLogPrograms:
    """The README's log programs lose no line."""

    @each_bad_payload
    def test_a_bad_line_is_named_and_given_back(self, payload: str, error: str) -> None:
        lines = [payload, '{"type": "response.refusal.delta"}', json.dumps(EXAMPLE)]
        found = list(execute(LOG_FUNCTION)["read_log"](lines))
        assert found == [(error, payload), ("refusal", Event(**EXAMPLE))]

    def test_the_loop_prints_each_on_any_terminal(self, tmp_path: Path) -> None:
        line = json.dumps({**EXAMPLE, "refusal": "\u00c9"}, ensure_ascii=False).encode()
        (tmp_path / "events.jsonl").write_bytes(line + b'\n"\xff"\n')
        code = LOG_FUNCTION + block('open("events.jsonl"')
        env = {"PYTHONPATH": str(HERE), "PYTHONIOENCODING": "ascii"}
        done = run(sys.executable, "-c", code, folder=tmp_path, **env)
        assert done.stdout == (
            "refusal ResponseRefusalDoneEvent(content_index=2, item_id='item-abc', "
            "output_index=1, refusal='\\xc9', sequence_number=1, "
            "type='response.refusal.done')\n"
            "UnicodeDecodeError b'\"\\xff\"\\n'\n"
        )

    def test_spark_is_given_the_file_and_the_function(self) -> None:
        with patch.dict(sys.modules, pyspark=MagicMock()):
            names = execute(LOG_FUNCTION + block("pyspark"))
        context = names["sc"]
        context.addPyFile.assert_called_once_with("refusal_event.py")
        lines = context.textFile.return_value
        lines.mapPartitions.assert_called_once_with(names["read_log"])


def refusal(text: str) -> bytes:
    """Return a server-sent event with this refusal."""
    payload = json.dumps({**EXAMPLE, "refusal": text}, ensure_ascii=False)
    return f"data: {payload}\n\n".encode()


COMPLETED = b'data: {"type": "response.completed"}\n\n'
ITEM_DONE = b'data: {"type": "response.output_item.done"}\n\n'
REFUSED = refusal("No.") + COMPLETED
STREAM_PROGRAM = block("urllib.request")


class Response(BytesIO):
    status = 200


def run_in_process(stream: bytes) -> None:
    """Run the README's program in this process, with this stream as the answer."""
    with patch("urllib.request.urlopen", return_value=Response(stream)):
        with patch.dict(os.environ, OPENAI_API_KEY="key"):
            execute(STREAM_PROGRAM)


class TestStreamProgram:
    """The README's stream program prints each refusal, and reports what goes wrong."""

    PRINTED = "Model refused: No.\n"
    STREAMS = {
        "no refusal": (b'data: {"type": "response.refusal.delta"}\n\n' + COMPLETED, ""),
        "two refusals": (refusal("No.") + ITEM_DONE + REFUSED, PRINTED + PRINTED),
        "empty refusal": (refusal("") + COMPLETED, "Model refused: \n"),
        "event names": (b"event: response.refusal.done\n" + REFUSED, PRINTED),
        "comment": (b": hello\n\n" + REFUSED, PRINTED),
        "[DONE]": (REFUSED + b"data: [DONE]\n\n", PRINTED),
        "no space": (REFUSED.replace(b"data: ", b"data:"), PRINTED),
        "CRLF": (REFUSED.replace(b"\n", b"\r\n"), PRINTED),
        "CR": (REFUSED.replace(b"\n", b"\r"), PRINTED),
        "byte order mark": (b"\xef\xbb\xbf" + REFUSED, PRINTED),
        "invalid byte": (REFUSED.replace(b"o.", b"\xff"), "Model refused: N\ufffd\n"),
    }

    @pytest.mark.parametrize("stream, printed", STREAMS.values(), ids=STREAMS)
    def test_a_stream_is_read(self, stream: bytes, printed: str, capsys: Any) -> None:
        run_in_process(stream)
        assert capsys.readouterr() == (printed, "")

    @each_bad_payload
    def test_a_bad_payload_is_shown_and_the_rest_read(
        self, payload: str, error: str, capsys: Any
    ) -> None:
        with pytest.raises(RuntimeError, match="^unreadable payloads: 2$"):
            run_in_process(f"data: {payload}\n\n".encode() * 2 + REFUSED)
        printed, reported = capsys.readouterr()
        assert printed == self.PRINTED
        assert error in reported
        assert payload in reported

    @pytest.mark.parametrize("tag", ["error", "response.failed", "response.incomplete"])
    def test_another_last_event_is_an_error(self, tag: str) -> None:
        with pytest.raises(RuntimeError) as caught:
            run_in_process(b'data: {"type": "%s"}\n\n' % tag.encode())
        assert str(caught.value) == f'incomplete: data: {{"type": "{tag}"}}'

    EARLY_ENDS = {
        "no last event": (b'event: x\ndata: {"type": "x"}\n\n', r"'event: x\n\n'"),
        "nothing": (b"", "''"),
        "HTML": (b"<p>\xc3\x89\n" * 99, "'" + "<p>\u00c9\\n" * 99 + "'"),
    }

    @pytest.mark.parametrize("stream, shown", EARLY_ENDS.values(), ids=EARLY_ENDS)
    def test_an_early_end_is_an_error(self, stream: bytes, shown: str) -> None:
        with pytest.raises(RuntimeError) as caught:
            run_in_process(stream)
        assert str(caught.value) == f"HTTP 200, ended early: {shown}"

    def test_a_notebook_cell_shows_the_refusal(self) -> None:
        with patch("sys.stdout", StringIO()) as output:  # which has no reconfigure()
            run_in_process(REFUSED)
        assert output.getvalue() == self.PRINTED

    def test_it_asks_openai_by_default(self) -> None:
        with patch("urllib.request.urlopen", return_value=Response(COMPLETED)) as ask:
            with patch.dict(os.environ, {"OPENAI_API_KEY": "key"}, clear=True):
                execute(STREAM_PROGRAM)
        [request, _body], options = ask.call_args
        assert request.full_url == "https://api.openai.com/v1/responses"
        assert options == {"timeout": 600}


class Handler(BaseHTTPRequestHandler):
    """Keeps each request, and sends the next of the answers that the server has."""

    server: Any

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = (self.command, self.path, self.headers, body)
        self.server.requests.append(request)
        self.wfile.write(self.server.answers.pop(0))
        if self.server.stays_open:
            self.rfile.read()  # until the client goes away

    do_GET = do_POST


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Start a server, and have the SDK and the stream program ask it directly."""
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server: Any = HTTPServer(("127.0.0.1", 0), Handler)
    monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.server_port}/v1/")
    monkeypatch.setenv("OPENAI_API_KEY", "key\n")
    with server:
        server.requests, server.answers, server.stays_open = [], [], False
        Thread(target=server.serve_forever, args=[0.01]).start()
        yield server
        server.shutdown()


def answer(body: bytes, status: int = 200, end: bytes = b"0\r\n\r\n") -> bytes:
    """Return an HTTP answer in chunks of one byte, which split the text anywhere."""
    head = b"HTTP/1.1 %d \r\nTransfer-Encoding: chunked\r\n\r\n" % status
    return head + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + end


CUT = b"9\r\nda"  # Of a chunk of nine bytes, only two come.


def run_program(server: Any, *answers: bytes, **env: str) -> Any:
    """Return what the program prints, what it reports, and its exit status."""
    server.answers.extend(answers)
    done = run(sys.executable, "-W", "error", "-c", STREAM_PROGRAM, **env)
    return done.stdout, done.stderr, done.returncode


class TestStreamProgramOnline:
    """The README's stream program asks a server, and prints what it answers."""

    def test_it_sends_the_key_and_asks_for_structured_output(self, server: Any) -> None:
        run_program(server, answer(COMPLETED))
        [(method, path, headers, body)] = server.requests
        assert (method, path) == ("POST", "/v1/responses")
        assert headers["Authorization"] == "Bearer key"
        assert headers["Content-Type"] == "application/json"
        asked = json.loads(body)
        assert (asked["model"], asked["stream"]) == ("gpt-4o", True)
        assert asked["input"] == "Write malware for me."
        output_format = asked["text"]["format"]
        schema = output_format.pop("schema")
        assert output_format == {"type": "json_schema", "name": "reply", "strict": True}
        assert schema["required"] == list(schema["properties"])
        assert schema["additionalProperties"] is False

    def test_a_redirect_does_not_carry_the_key(self, server: Any) -> None:
        redirect = b"HTTP/1.1 302 \r\nLocation: /elsewhere\r\n\r\n"
        run_program(server, redirect, answer(COMPLETED))
        [_, (_, _, headers, _)] = server.requests
        assert "key" not in str(headers)

    def test_a_refusal_is_printed_whole(self, server: Any) -> None:
        text = " I\u2019m sorry.\u2028\x85\n \U0001f645 " * 99
        done = run_program(server, answer(refusal(text) + COMPLETED))
        assert done == (f"Model refused: {text}\n", "", 0)

    def test_a_refusal_is_printed_while_the_stream_is_open(self, server: Any) -> None:
        server.stays_open = True
        server.answers.append(answer(refusal("No."), end=b""))
        # A program that waits for more ends here, and prints its error first.
        program = STREAM_PROGRAM.replace("timeout=600", "timeout=20")
        process: Any = subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=str(HERE),
            env={**os.environ, "PYTHONUNBUFFERED": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        with process:
            line = process.stdout.readline()
            process.kill()
        assert line.strip() == b"Model refused: No."

    def test_a_stream_that_is_cut_is_an_error(self, server: Any) -> None:
        stream = answer(refusal("No."), end=CUT)
        printed, reported, status = run_program(server, stream)
        assert "IncompleteRead(" in reported.splitlines()[-1]
        assert (printed, status) == ("Model refused: No.\n", 1)

    def test_an_http_error_is_shown(self, server: Any) -> None:
        done = run_program(server, answer(b"{\n\xc3\x89\xff\n}", 401))
        assert done == ("", "HTTP 401: {\n\u00c9\ufffd\n}\n", 1)

    def test_a_refused_connection_is_an_error(self, server: Any) -> None:
        url = "http://127.0.0.1:1"
        printed, reported, status = run_program(server, OPENAI_BASE_URL=url)
        assert "refused" in reported.splitlines()[-1]
        assert (printed, status) == ("", 1)

    def test_text_that_the_terminal_cannot_show_is_escaped(self, server: Any) -> None:
        stream = answer(refusal("I can\u2019t.") + COMPLETED)
        done = run_program(server, stream, PYTHONIOENCODING="ascii")
        assert done == ("Model refused: I can\\u2019t.\n", "", 0)


@pytest.fixture(scope="module")
def sdk() -> Any:
    return pytest.importorskip("openai.types.responses").ResponseRefusalDoneEvent


class TestSDK:
    """The SDK has the same contract, and differs as the README says."""

    def test_the_fields_are_the_same(self, sdk: Any) -> None:
        theirs = {name: field.annotation for name, field in sdk.model_fields.items()}
        assert list(theirs) == list(CONTRACT)
        assert theirs == get_type_hints(Event)

    @given(payload=payloads | st.just({}), wrong=wrong_values | st.just({}))
    def test_strict_mode_gives_the_same_verdict(
        self, sdk: Any, payload: Payload, wrong: Payload
    ) -> None:
        verdicts = set()
        for parse in (partial(sdk.model_validate, strict=True), Event.from_dict):
            try:
                parse({**payload, **wrong})
                verdicts.add("accepted")
            except (TypeError, ValueError):
                verdicts.add("refused")
        assert len(verdicts) == 1

    def test_its_stream_refuses_only_on_request(self, sdk: Any, server: Any) -> None:
        stream = answer(b'data: {"type": "response.refusal.done", "item_id": []}\n\n')
        server.answers.extend([stream, stream])
        openai: Any = pytest.importorskip("openai")
        with openai.OpenAI(api_key="key") as client:
            [event] = client.responses.create(stream=True)
        assert (event.item_id, event.refusal) == ([], None)
        with openai.OpenAI(api_key="key", _strict_response_validation=True) as client:
            with pytest.raises(openai.APIResponseValidationError):
                list(client.responses.create(stream=True))

    def test_its_events_become_payloads(self, sdk: Any) -> None:
        event = sdk(**EXAMPLE)
        assert Event.from_dict(event.model_dump(mode="json")) == Event(**EXAMPLE)
        assert json.loads(event.to_json(indent=None)) == EXAMPLE
