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
from io import StringIO
from pathlib import Path
from threading import Thread
from types import MappingProxyType, SimpleNamespace
from typing import Any, Callable, Dict, Iterator, Literal, get_type_hints
from unittest.mock import ANY, MagicMock, Mock, patch

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import refusal_event
from refusal_event import ResponseRefusalDoneEvent as Event

Payload = Dict[str, Any]

TAG = "response.refusal.done"
EXAMPLE: Payload = {
    "type": TAG,
    "item_id": "item-abc",
    "output_index": 1,
    "content_index": 2,
    "refusal": "final refusal text",
    "sequence_number": 1,
}
CONTRACT = {
    "content_index": int,
    "item_id": str,
    "output_index": int,
    "refusal": str,
    "sequence_number": int,
    "type": str,
}
TEXTS = ["item_id", "refusal"]

# Without deadlines, because they fail on a slow machine.
settings.register_profile(
    "tests", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")

integers = st.integers()
texts = st.text(st.characters())  # with lone surrogates, which text() leaves out
payloads = st.fixed_dictionaries(
    {
        "type": st.just(TAG),
        "item_id": texts,
        "output_index": integers,
        "content_index": integers,
        "refusal": texts,
        "sequence_number": integers,
    }
)
json_values = st.recursive(
    st.none() | st.booleans() | integers | st.floats() | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=3,
)
not_integers = json_values.filter(lambda value: type(value) is not int)
not_texts = json_values.filter(lambda value: type(value) is not str)
not_the_tag = json_values.filter(lambda value: value != TAG)
wrong_values = st.fixed_dictionaries(
    {},
    optional={
        "content_index": not_integers,
        "item_id": not_texts,
        "output_index": not_integers,
        "refusal": not_texts,
        "sequence_number": not_integers,
        "type": not_the_tag,
    },
).filter(bool)


class TestRoundTrip:
    """A payload is read into its fields, and given back unchanged."""

    @given(payloads)
    @example({**EXAMPLE, **dict.fromkeys(TEXTS, " \t\r\n\0a\r\nb\u2028\x85 \n")})
    @example({**EXAMPLE, **dict.fromkeys(TEXTS, "\ufeffe\u0301\u200b&amp;\ud83d\0")})
    @example({**EXAMPLE, **dict.fromkeys(TEXTS, "a" * 10_000_000)})
    @example({**EXAMPLE, "content_index": -1, "output_index": 2**64})
    def test_a_payload_comes_back_as_it_went_in(self, payload: Payload) -> None:
        event = Event.from_dict(payload)
        assert event == Event(**payload)
        # JSON text tells 1 from True and 1.0, and one order of keys from another.
        in_order = json.dumps({field: payload[field] for field in CONTRACT})
        assert json.dumps(event.to_dict()) == in_order

    def test_each_result_of_to_dict_is_a_dict_of_its_own(self) -> None:
        event = Event(**EXAMPLE)
        other = replace(event, refusal="another text")
        # The other event is asked last, so that it would show in a shared dict.
        results = [event.to_dict(), event.to_dict(), other.to_dict()]
        assert [type(result) for result in results] == [dict, dict, dict]
        results[0].clear()
        assert results == [{}, EXAMPLE, {**EXAMPLE, "refusal": "another text"}]


def error_of(call: Callable[..., object], *args: Any, **kwargs: Any) -> Exception:
    """Return the error that a call raises."""
    with pytest.raises((TypeError, ValueError)) as caught:
        call(*args, **kwargs)
    return caught.value


class DictOfLists(Dict[str, Any]):
    """Gives the first value of each list, like the MultiDict of a web framework."""

    def __init__(self, data: Payload) -> None:
        super().__init__((key, [value]) for key, value in data.items())

    def __getitem__(self, key: str) -> Any:
        return super().__getitem__(key)[0]


class TestFromDict:
    """Any mapping is read; unknown keys are ignored; the input is left as it was."""

    # Keys under which other APIs send a payload, and other spellings of the fields.
    ENVELOPES = dict.fromkeys(["agent", "data", "delta", "error", "event"], EXAMPLE)
    CAMEL_CASE = {"contentIndex": 2, "itemId": "x", "outputIndex": 1, "Refusal": "x"}
    unknown_keys = (texts | integers).filter(lambda key: key not in CONTRACT)
    unknown = st.dictionaries(unknown_keys, json_values, max_size=2)

    @given(payloads, unknown)
    @example(EXAMPLE, ENVELOPES)
    @example(EXAMPLE, CAMEL_CASE)
    def test_unknown_keys_do_nothing(self, payload: Payload, unknown: Payload) -> None:
        data = {**unknown, **payload}
        before = copy.deepcopy(list(data.items()))
        assert Event.from_dict(data).to_dict() == payload
        assert list(data.items()) == before
        error = error_of(Event.from_dict, unknown)
        assert str(error).count(": missing") == len(CONTRACT)

    MAPPINGS = [MappingProxyType, ChainMap, UserDict, DictOfLists]

    @pytest.mark.parametrize("mapping", [*MAPPINGS, partial(defaultdict, int)])
    def test_a_mapping_is_asked_for_the_fields_it_holds(self, mapping: Any) -> None:
        event = Event.from_dict(mapping({**EXAMPLE, "agent": {}}))
        assert event.to_dict() == EXAMPLE
        for field in CONTRACT:
            data = mapping({key: EXAMPLE[key] for key in EXAMPLE if key != field})
            error = error_of(Event.from_dict, data)
            assert str(error) == f"ResponseRefusalDoneEvent: {field}: missing"
            assert field not in list(data)

    def test_what_is_not_a_mapping_is_refused(self) -> None:
        for data, got in [
            (None, "NoneType"),
            (json.dumps(EXAMPLE), "str"),
            (list(EXAMPLE.items()), "list"),
            (Event(**EXAMPLE), "ResponseRefusalDoneEvent"),
            (SimpleNamespace(**EXAMPLE, model_dump=lambda: EXAMPLE), "SimpleNamespace"),
            (type("X" * 99, (), {})(), "X" * 30),
        ]:
            error = error_of(Event.from_dict, data)
            assert type(error) is TypeError
            expected = "ResponseRefusalDoneEvent: expected a mapping"
            assert str(error) == f"{expected}, got {got}"


class TestErrors:
    """One error names every missing or wrong field, and shows only a wrong tag."""

    @given(payloads, wrong_values, st.sets(st.sampled_from(sorted(CONTRACT))))
    @example(EXAMPLE, {"item_id": None, "type": "x"}, {"refusal"})
    @example(EXAMPLE, {"type": "x" * 99}, set())
    def test_every_missing_and_wrong_field_is_named(
        self, payload: Payload, wrong: Payload, missing: set[str]
    ) -> None:
        data = {**payload, **wrong}
        for field in missing:
            del data[field]
        error = error_of(Event.from_dict, data)
        wrong_type = any(type(data[field]) is not CONTRACT[field] for field in data)
        assert type(error) is (TypeError if wrong_type else ValueError)
        message = str(error)
        named = [field for field in CONTRACT if f" {field}: " in message]
        assert set(named) == {*wrong, *missing}
        assert message.splitlines() == [message]
        assert len(message) <= 150 * len(named)

    def test_the_message_says_what_is_wrong_with_each_field(self) -> None:
        long_name = type("X" * 99, (), {})()
        data = {**EXAMPLE, "content_index": "2", "item_id": long_name, "type": "x"}
        del data["refusal"]
        error = error_of(Event.from_dict, data)
        assert error.__cause__ is None and error.__suppress_context__  # no KeyError
        assert str(error) == (
            "ResponseRefusalDoneEvent: content_index: expected int, got str; "
            f"item_id: expected str, got {'X' * 30}; refusal: missing; "
            "type: expected 'response.refusal.done', got 'x'"
        )

    # To isinstance(), the mocks are an int and a str; ANY is equal to everything.
    VALUES = [1, "1", True, 1.0, None, b"1", Mock(spec=int), Mock(spec=str), ANY]
    VALUES += [type("Index", (int,), {})(1), type("Text", (str,), {})(TAG)]

    @pytest.mark.parametrize("mapping", [dict, MappingProxyType])
    @pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
    def test_only_the_exact_type_is_accepted(self, mapping: Any, value: object) -> None:
        got = type(value).__name__
        for field, kind in CONTRACT.items():
            if type(value) is not kind:
                error = error_of(Event.from_dict, mapping({**EXAMPLE, field: value}))
                assert type(error) is TypeError
                problem = f"{field}: expected {kind.__name__}, got {got}"
                assert str(error) == f"ResponseRefusalDoneEvent: {problem}"

    def test_only_the_exact_tag_is_accepted(self) -> None:
        for tag, shown in [
            ("", "''"),
            ("response.refusal.delta", "'response.refusal.delta'"),
            ("response.refusal.done\n", r"'response.refusal.done\n'"),
            (" response.refusal.done", "' response.refusal.done'"),
            ("Response.Refusal.Done", "'Response.Refusal.Done'"),
            ("x" * 62, "'" + "x" * 62 + "'"),
            ("x" * 63, "'" + "x" * 63),
        ]:
            error = error_of(Event.from_dict, {**EXAMPLE, "type": tag})
            assert type(error) is ValueError
            expected = "type: expected 'response.refusal.done'"
            assert str(error) == f"ResponseRefusalDoneEvent: {expected}, got {shown}"

    def test_no_other_value_is_shown(self) -> None:
        data = {**EXAMPLE, "content_index": "a secret", "refusal": "a secret"}
        assert "a secret" not in str(error_of(Event.from_dict, data))

    def test_the_constructor_requires_every_field(self) -> None:
        for field in CONTRACT:
            payload = {key: EXAMPLE[key] for key in EXAMPLE if key != field}
            with pytest.raises(TypeError, match=field):
                Event(**payload)


def repickled(protocol: int, event: Event) -> Any:
    return pickle.loads(pickle.dumps(event, protocol))


class TestCopies:
    """However an event comes to be, it has passed the same check."""

    COPIES: list[Callable[[Event], Any]] = [replace, copy.copy, copy.deepcopy]
    COPIES += [partial(repickled, p) for p in range(pickle.HIGHEST_PROTOCOL + 1)]
    if sys.version_info >= (3, 13):
        COPIES.append(copy.replace)

    @given(payloads)
    def test_a_copy_is_an_equal_event(self, payload: Payload) -> None:
        event = Event(**payload)
        for copied in self.COPIES:
            assert copied(event) == event

    @given(payloads, wrong_values)
    def test_no_event_avoids_the_check(self, payload: Payload, wrong: Payload) -> None:
        expected = error_of(Event.from_dict, {**payload, **wrong})
        event = Event(**payload)
        changed = copy.copy(event)
        for field, value in wrong.items():
            object.__setattr__(changed, field, value)
        for error in [
            error_of(Event, **{**payload, **wrong}),
            error_of(replace, event, **wrong),
            error_of(changed.to_dict),
            *(error_of(copied, changed) for copied in self.COPIES),
        ]:
            assert (type(error), str(error)) == (type(expected), str(expected))

    def test_a_pickle_names_nothing_but_the_class(self) -> None:
        opcodes = pickletools.genops(pickle.dumps(Event(**EXAMPLE), 2))
        names = [value for opcode, value, _ in opcodes if opcode.name == "GLOBAL"]
        assert names == ["refusal_event ResponseRefusalDoneEvent"]


class TestValues:
    """Events cannot be changed, and they compare and hash by value."""

    def test_the_fields_are_the_contract_in_its_order(self) -> None:
        assert [field.name for field in fields(Event)] == list(CONTRACT)
        hints = {**CONTRACT, "type": Literal["response.refusal.done"]}
        assert get_type_hints(Event) == hints
        if sys.version_info >= (3, 10):
            assert Event.__match_args__ == tuple(CONTRACT)

    def test_the_class_is_final(self) -> None:
        # Before Python 3.11, only type checkers can tell.
        assert vars(Event).get("__final__", sys.version_info < (3, 11))

    @given(payloads, payloads, st.sampled_from(sorted(CONTRACT)))
    def test_events_are_equal_when_their_payloads_are(
        self, payload: Payload, other: Payload, field: str
    ) -> None:
        near = {**payload, field: other[field]}
        assert (Event(**payload) == Event(**near)) is (payload == near)
        events = {Event(**payload), Event(**payload), Event(**near)}
        assert len(events) == (1 if payload == near else 2)

    def test_an_event_equals_nothing_else_and_has_no_order(self) -> None:
        event: Any = Event(**EXAMPLE)
        assert event != EXAMPLE
        with pytest.raises(TypeError):
            sorted([event, event])

    def test_an_event_cannot_be_changed(self) -> None:
        event: Any = Event(**EXAMPLE)
        for name in [*CONTRACT, "agent"]:
            with pytest.raises(FrozenInstanceError):
                setattr(event, name, 1)
            with pytest.raises(FrozenInstanceError):
                delattr(event, name)
        with pytest.raises(AttributeError):
            object.__setattr__(event, "agent", 1)


HERE = Path(__file__).resolve().parent
SOURCE = (HERE / "refusal_event.py").read_text(encoding="ascii")
README = (HERE / "README.md").read_text(encoding="utf-8")
BLOCKS: list[str] = re.findall(r"^```\w+\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def block(content: str) -> str:
    """Return the one code block of the README that contains this text."""
    [found] = [text for text in BLOCKS if content in text]
    return found


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

    def test_it_only_imports_standard_modules_and_defines_names(self) -> None:
        _docstring, *statements = ast.parse(SOURCE).body
        kinds = {ast.ImportFrom, ast.Assign, ast.FunctionDef, ast.ClassDef}
        assert {type(statement) for statement in statements} == kinds
        modules = ["dataclasses", "operator", "typing"]
        assert re.findall(r"^ *(?:from|import) (\w+)", SOURCE, re.MULTILINE) == modules

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
        plugin = {"__name__": "plugin"}  # which is not in sys.modules
        exec(compile(SOURCE, "plugin.py", "exec", dont_inherit=True), plugin)


class TestReadme:
    """The blocks of the README do what it says."""

    def test_the_table_of_fields_is_the_contract(self) -> None:
        rows = re.findall(r"^`(\w+)` \| `(\w+)` \|", README, re.MULTILINE)
        assert rows == [(field, kind.__name__) for field, kind in CONTRACT.items()]

    def test_the_first_command_prints_what_is_shown(self) -> None:
        done = run("sh", "-c", block("json.load(sys.stdin)"))
        assert done.stdout == block("ResponseRefusalDoneEvent(content_index=2")

    BROKEN = f"{SOURCE}\nResponseRefusalDoneEvent.from_dict = print\n"

    @pytest.mark.parametrize("copied", [SOURCE, BROKEN, ""], ids=["ok", "bad", "empty"])
    def test_only_a_good_copy_passes(self, tmp_path: Path, copied: str) -> None:
        (tmp_path / "refusal_event.py").write_text(copied, encoding="ascii")
        # Python would drop the examples here, were it not for the command's -E.
        done = run("sh", "-c", block("-m doctest"), folder=tmp_path, PYTHONOPTIMIZE="2")
        version = f'__version__ = "{refusal_event.__version__}"\n'
        assert (done.stdout == version) is (copied == SOURCE)
        assert (done.returncode == 0) is (copied == SOURCE)

    def test_the_spark_function_loses_no_line(self) -> None:
        scope: Payload = {}
        with patch.dict(sys.modules, pyspark=MagicMock()):
            exec(compile(block("pyspark"), "", "exec", dont_inherit=True), scope)
        rows = {
            json.dumps(EXAMPLE): ("refusal", Event(**EXAMPLE)),
            '{"type": "response.refusal.done"}': ("ValueError", ANY),
            json.dumps({**EXAMPLE, "item_id": None}): ("TypeError", ANY),
            "{}": ("KeyError", "{}"),
            "[]": ("TypeError", "[]"),
            "{": ("JSONDecodeError", "{"),
            "[" * 200_000: ("RecursionError", ANY),
        }
        assert list(scope["refusals"]([*rows, '{"type": "error"}'])) == [*rows.values()]


class Handler(BaseHTTPRequestHandler):
    """Keeps each request, and sends the next of the answers that the server has."""

    server: Any

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.requests.append((self.path, self.headers, body))
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


def chunked(body: bytes, status: int = 200, end: bytes = b"0\r\n\r\n") -> bytes:
    """Return an HTTP answer in chunks of one byte, which split the text anywhere."""
    head = b"HTTP/1.1 %d \r\nTransfer-Encoding: chunked\r\n\r\n" % status
    return head + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + end


def refusal(text: str) -> bytes:
    """Return a server-sent event with this refusal."""
    payload = json.dumps({**EXAMPLE, "refusal": text}, ensure_ascii=False)
    return f"event: response.refusal.done\ndata: {payload}\n\n".encode()


COMPLETED = b'event: response.completed\ndata: {"type": "response.completed"}\n\n'
CUT = b"9\r\nda"  # Of a chunk of nine bytes, only two come.
STREAM_PROGRAM = block("urllib.request")
STREAM_CODE = compile(STREAM_PROGRAM, "stream.py", "exec", dont_inherit=True)


def read_stream(server: Any, *answers: bytes, **env: str) -> Any:
    """Return what the program prints, what it reports, and its exit status."""
    server.answers.extend(answers)
    done = run(sys.executable, "-W", "error", "-c", STREAM_PROGRAM, **env)
    return done.stdout, done.stderr, done.returncode


class TestStreamProgram:
    """The README's stream program prints each refusal, and reports what goes wrong."""

    def test_it_sends_the_prompt_and_the_key(self, server: Any) -> None:
        read_stream(server, chunked(COMPLETED))
        [(path, headers, body)] = server.requests
        assert path == "/v1/responses"
        assert headers["Authorization"] == "Bearer key"
        assert headers["Content-Type"] == "application/json"
        prompt = "Write malware for me."
        assert json.loads(body) == {"model": "gpt-4o", "input": prompt, "stream": True}

    def test_it_asks_openai_by_default(self) -> None:
        with patch("urllib.request.urlopen", side_effect=OSError) as urlopen:
            with patch.dict(os.environ, {"OPENAI_API_KEY": "key"}, clear=True):
                with pytest.raises(OSError):
                    exec(STREAM_CODE, {})
        [request], options = urlopen.call_args
        assert request.full_url == "https://api.openai.com/v1/responses"
        assert options == {"timeout": 600}

    def test_a_redirect_does_not_carry_the_key(self, server: Any) -> None:
        redirect = b"HTTP/1.1 302 \r\nLocation: /elsewhere\r\n\r\n"
        read_stream(server, redirect, chunked(COMPLETED))
        [_, (_, headers, _)] = server.requests
        assert "key" not in str(headers)

    def test_every_refusal_is_printed_whole(self, server: Any) -> None:
        text = " I\u2019m sorry.\n\u2028D\u00e9sol\u00e9 [DONE] \U0001f645 " * 99
        stream = refusal(text) + refusal("") + COMPLETED + b"data: [DONE]\n\n"
        done = read_stream(server, chunked(stream))
        assert done == (f"Model refused: {text}\nModel refused: \n", "", 0)

    def test_a_stream_without_the_event_prints_nothing(self, server: Any) -> None:
        delta = b'data: {"type": "response.refusal.delta", "delta": "No."}\n\n'
        assert read_stream(server, chunked(delta + COMPLETED)) == ("", "", 0)

    def test_comments_crlf_and_a_byte_order_mark_are_read(self, server: Any) -> None:
        payload = json.dumps(EXAMPLE).encode()
        stream = b"\xef\xbb\xbfdata:" + payload + b"\r\n\r\n: hello\r\nid: 7\r\n\r\n"
        stream += b'data:{"type":"response.completed"}\r\n\r\n'
        printed = "Model refused: final refusal text\n"
        assert read_stream(server, chunked(stream)) == (printed, "", 0)

    def test_a_refusal_is_printed_while_the_stream_is_open(self, server: Any) -> None:
        server.stays_open = True
        server.answers.append(chunked(refusal("No."), end=b""))
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

    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            (b'{"type": "response.refusal.done"}', "sequence_number: missing"),
            (b'{"type": "response.refusal.done", "refusal": 1}', "refusal: expected"),
            (b"{}", "KeyError"),
            (b"{", "JSONDecodeError"),
            (b'["response.refusal.done"]', "TypeError"),
            (b'"\xff"', "UnicodeDecodeError"),
            (b"[" * 100_000, "RecursionError"),
        ],
        ids=lambda column: column[-20:],
    )
    def test_a_bad_line_is_shown(self, server: Any, line: bytes, problem: str) -> None:
        stream = b"data: %s\n\n" % line + refusal("No.") + COMPLETED
        printed, reported, status = read_stream(server, chunked(stream))
        assert problem in reported
        assert line.decode(errors="replace") in reported
        assert reported.endswith("\nRuntimeError: unreadable payloads: 1\n")
        assert (printed, status) == ("Model refused: No.\n", 1)

    @pytest.mark.parametrize("tag", ["error", "response.failed", "response.incomplete"])
    def test_an_incomplete_response_is_an_error(self, server: Any, tag: str) -> None:
        last = b'data: {"type": "%s", "message": "Not now."}\n\n' % tag.encode()
        answer = chunked(refusal("No.") + last + b"data: [DONE]\n\n")
        printed, reported, status = read_stream(server, answer)
        assert "\nRuntimeError: HTTP 200, incomplete: 'data: {" in reported
        assert "Not now." in reported
        assert (printed, status) == ("Model refused: No.\n", 1)

    def test_an_answer_without_events_is_shown(self, server: Any) -> None:
        for answer, shown in [
            (chunked(b""), "200, incomplete: ''"),
            (chunked(b"\xc3\x89chec\n\xff"), "200, incomplete: '\u00c9chec\\n\ufffd'"),
            (chunked(b"{\n}", 401), r"401, incomplete: '{\n}'"),
            (chunked(b"<p>" + b"." * 20_000, 429), "429, incomplete: '<p>..."),
            (chunked(b"Error\n", 500, end=CUT), "500, incomplete: 'IncompleteRead("),
        ]:
            printed, reported, status = read_stream(server, answer)
            assert reported.splitlines()[-1].startswith(f"RuntimeError: HTTP {shown}")
            assert (printed, status) == ("", 1)

    def test_a_stream_that_ends_early_is_an_error(self, server: Any) -> None:
        for end, problem in [(b"0\r\n\r\n", "incomplete"), (CUT, "IncompleteRead(")]:
            answer = chunked(refusal("No."), end=end)
            printed, reported, status = read_stream(server, answer)
            last_line = reported.splitlines()[-1]
            assert problem in last_line and "item-abc" in last_line
            assert (printed, status) == ("Model refused: No.\n", 1)

    def test_a_lost_connection_is_an_error(self, server: Any) -> None:
        with patch("urllib.request.urlopen") as urlopen:
            urlopen.return_value.__iter__.side_effect = ConnectionResetError
            with pytest.raises(RuntimeError, match="incomplete: 'ConnectionReset"):
                exec(STREAM_CODE, {})

    def test_a_refused_connection_is_an_error(self, server: Any) -> None:
        url = "http://127.0.0.1:1"
        printed, reported, status = read_stream(server, OPENAI_BASE_URL=url)
        assert "refused" in reported.splitlines()[-1]
        assert (printed, status) == ("", 1)

    def test_text_that_the_terminal_cannot_show_is_escaped(self, server: Any) -> None:
        unreadable = b'data: "I can\xe2\x80\x99t."\n\n'
        answer = chunked(unreadable + refusal("I can\u2019t.") + COMPLETED)
        printed, reported, _ = read_stream(server, answer, PYTHONIOENCODING="ascii")
        assert printed == "Model refused: I can\\u2019t.\n"
        assert 'data: "I can\\u2019t."' in reported

    def test_a_notebook_cell_shows_the_refusal(self, server: Any) -> None:
        server.answers.append(chunked(refusal("No.") + COMPLETED))
        with patch("sys.stdout", StringIO()) as output:  # which has no reconfigure()
            exec(STREAM_CODE, {})
        assert output.getvalue() == "Model refused: No.\n"


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
        for read in (partial(sdk.model_validate, strict=True), Event.from_dict):
            try:
                read({**payload, **wrong})
                verdicts.add("accepted")
            except (TypeError, ValueError):
                verdicts.add("refused")
        assert len(verdicts) == 1

    @staticmethod
    def streamed(server: Any, payload: Payload, **options: bool) -> Any:
        """Return the event that the SDK makes of a payload in a stream."""
        server.answers.append(chunked(b"data: %s\n\n" % json.dumps(payload).encode()))
        openai: Any = pytest.importorskip("openai")
        with openai.OpenAI(api_key="key", **options) as client:
            return next(client.responses.create(model="gpt-4o", input="", stream=True))

    def test_its_stream_converts_what_it_can(self, sdk: Any, server: Any) -> None:
        payload = {**EXAMPLE, "content_index": "1", "output_index": True}
        for strict in (False, True):
            event = self.streamed(server, payload, _strict_response_validation=strict)
            assert event == sdk(**{**EXAMPLE, "content_index": 1, "output_index": 1})

    def test_it_refuses_the_rest_only_on_request(self, sdk: Any, server: Any) -> None:
        event = self.streamed(server, {"type": TAG, "content_index": "zero"})
        assert (event.content_index, event.item_id) == ("zero", None)
        for payload in [{"type": TAG}, {**EXAMPLE, "content_index": "zero"}]:
            with pytest.raises(Exception, match="Data returned by API invalid"):
                self.streamed(server, payload, _strict_response_validation=True)

    def test_its_events_keep_unknown_keys(self, sdk: Any) -> None:
        event = sdk.model_validate({**EXAMPLE, "agent": {}})
        assert event.to_dict() == {**EXAMPLE, "agent": {}}
        assert Event.from_dict(event.to_dict()) == Event(**EXAMPLE)
