"""The contract of the `response.refusal.done` event, as laws that the file keeps."""

from __future__ import annotations

import ast
import copy
import importlib
import json
import os
import pickle
import pickletools
import re
import subprocess
import sys
from collections import ChainMap, OrderedDict, UserDict, defaultdict
from dataclasses import FrozenInstanceError, fields, replace
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import metadata
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from types import MappingProxyType
from typing import Any, Callable, Dict, Iterator, Literal, Mapping, get_type_hints
from unittest.mock import ANY, MagicMock, Mock

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

# Without deadlines, because they fail on a slow machine.
settings.register_profile(
    "tests", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")

texts = st.text(st.characters())  # with lone surrogates, which text() leaves out
valid_values = {int: st.integers(), str: texts}
payloads = st.fixed_dictionaries(
    {**{name: valid_values[CONTRACT[name]] for name in EXAMPLE}, "type": st.just(TAG)}
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner),
    max_leaves=3,
)


def is_wrong(field: str, value: object) -> bool:
    return value != TAG if field == "type" else type(value) is not CONTRACT[field]


wrong_values = st.fixed_dictionaries(
    {},
    optional={name: json_values.filter(partial(is_wrong, name)) for name in CONTRACT},
).filter(bool)


def with_text(text: str) -> Payload:
    return {**EXAMPLE, "item_id": text, "refusal": text}


class TestRoundTrip:
    """A payload is read into the six fields, and given back bit for bit."""

    @given(payloads)
    @example(EXAMPLE)
    @example(with_text(""))
    @example(with_text(" \t\r\n a\r\nb\u2028\x85 "))
    @example(with_text("\0a\0"))
    @example(with_text("\ufeffe\u0301\u200b &amp; %41 \ud83d"))
    @example(with_text("a" * 2**20))
    @example({**EXAMPLE, "content_index": -1, "output_index": 2**64})
    def test_a_payload_comes_back_as_it_went_in(self, payload: Payload) -> None:
        event = Event.from_dict(payload)
        assert event == Event(**payload)
        assert event == Event(*(payload[field] for field in CONTRACT))
        assert {field: getattr(event, field) for field in CONTRACT} == payload
        # JSON text tells 1 from True and 1.0, and one order of keys from another.
        in_order = json.dumps({field: payload[field] for field in CONTRACT})
        assert json.dumps(event.to_dict()) == in_order

    def test_results_of_to_dict_are_dicts_that_share_nothing(self) -> None:
        event = Event(**EXAMPLE)
        result = event.to_dict()
        assert type(result) is dict
        replace(event, refusal="another text").to_dict()
        assert result == EXAMPLE
        result.clear()
        assert event.to_dict() == EXAMPLE


def error_of(make: Callable[..., object], *args: Any, **kwargs: Any) -> Exception:
    """Return the error that a call raises, which a log can show on its own."""
    with pytest.raises((TypeError, ValueError)) as caught:
        make(*args, **kwargs)
    error = caught.value
    assert not error.__cause__ and (not error.__context__ or error.__suppress_context__)
    return error


PROBLEM = re.compile(
    r"(\w+): (?:missing|expected (?:int|str), "
    r"got (?:NoneType|bool|int|float|str|list|dict))(?:; |$)"
)


def fields_named_by(error: Exception) -> list[str]:
    """Return the fields that a message names; check that it shows only a tag."""
    message = str(error)
    assert len(message) < 500
    assert message.splitlines() == [message]
    problems, _, tag = message.partition("type: expected 'response.refusal.done', got ")
    assert len(tag) <= 64
    assert PROBLEM.sub("", problems) == "ResponseRefusalDoneEvent: "
    return PROBLEM.findall(problems) + ["type"] * bool(tag)


class TestFromDict:
    """Any mapping is read; unknown keys are ignored; the input is left as it was."""

    # Keys that other APIs and later versions put around or beside a payload.
    ENVELOPES = "agent body data delta error event id message object payload response"
    unknown_keys = (texts | st.integers()).filter(lambda key: key not in CONTRACT)
    unknown_values = st.dictionaries(unknown_keys, json_values, max_size=2)

    @given(payloads, unknown_values)
    @example(EXAMPLE, {name: {**EXAMPLE, "item_id": "x"} for name in ENVELOPES.split()})
    @example(EXAMPLE, {name: "x" for name in ENVELOPES.split()})
    def test_unknown_keys_do_nothing(self, payload: Payload, unknown: Payload) -> None:
        data = {**unknown, **payload}
        before = copy.deepcopy(list(data.items()))
        assert Event.from_dict(data).to_dict() == payload
        assert list(data.items()) == before
        error = error_of(Event.from_dict, unknown)
        assert fields_named_by(error) == list(CONTRACT)

    class DictOfLists(Dict[str, Any]):
        """Like the MultiDict of a web framework, gives the first value of each list."""

        def __init__(self, data: Payload) -> None:
            super().__init__((key, [value]) for key, value in data.items())

        def __getitem__(self, key: str) -> Any:
            return super().__getitem__(key)[0]

    @pytest.mark.parametrize(
        "mapping",
        [MappingProxyType, ChainMap, OrderedDict, UserDict, DictOfLists]
        + [partial(defaultdict, int)],
    )
    def test_a_mapping_is_asked_for_the_fields_that_it_holds(
        self, mapping: Callable[[Payload], Mapping[str, Any]]
    ) -> None:
        event = Event.from_dict(mapping({**EXAMPLE, "agent": {}}))
        assert event.to_dict() == EXAMPLE
        for field in CONTRACT:
            data = mapping({key: EXAMPLE[key] for key in EXAMPLE if key != field})
            error = error_of(Event.from_dict, data)
            assert str(error) == f"ResponseRefusalDoneEvent: {field}: missing"
            assert field not in list(data)

    def test_what_is_not_a_mapping_is_refused(self) -> None:
        for data, name in [
            (None, "NoneType"),
            (json.dumps(EXAMPLE), "str"),
            (json.dumps(EXAMPLE).encode(), "bytes"),
            (list(EXAMPLE.items()), "list"),
            (Event(**EXAMPLE), "ResponseRefusalDoneEvent"),
            (dict, "type"),
            (type("X" * 99, (), {})(), "X" * 30),
        ]:
            error = error_of(Event.from_dict, data)
            assert type(error) is TypeError
            expected = "ResponseRefusalDoneEvent: expected a mapping"
            assert str(error) == f"{expected}, got {name}"


class TestErrors:
    """One error names every missing or wrong field, and shows only a wrong tag."""

    @given(payloads, wrong_values, st.sets(st.sampled_from(sorted(CONTRACT))))
    @example(EXAMPLE, {"item_id": None, "type": "x"}, {"refusal"})
    @example(EXAMPLE, {"type": "x"}, {"refusal"})
    def test_every_missing_and_wrong_field_is_named(
        self, payload: Payload, wrong: Payload, missing: set[str]
    ) -> None:
        data = {**payload, **wrong}
        for field in missing:
            del data[field]
        error = error_of(Event.from_dict, data)
        assert fields_named_by(error) == sorted({*wrong, *missing})
        wrong_type = any(type(data[field]) is not CONTRACT[field] for field in data)
        assert type(error) is (TypeError if wrong_type else ValueError)

    def test_only_the_exact_type_is_accepted(self) -> None:
        values = [1, TAG, True, 1.0, None, b"1", ["x" * 99], {}, int, ANY]
        values += [Mock(spec=int), Mock(spec=str), HTTPStatus.OK]
        values += [type("Index", (int,), {})(1), type("Text", (str,), {})(TAG)]
        for field, expected in CONTRACT.items():
            for value in values:
                if type(value) is not expected:
                    error = error_of(Event.from_dict, {**EXAMPLE, field: value})
                    assert type(error) is TypeError
                    assert str(error) == (
                        f"ResponseRefusalDoneEvent: {field}: expected "
                        f"{expected.__name__}, got {type(value).__name__}"
                    )

    def test_only_the_exact_tag_is_accepted(self) -> None:
        for tag, shown in [
            ("", "''"),
            ("response.refusal.delta", "'response.refusal.delta'"),
            ("response.refusal.don", "'response.refusal.don'"),
            ("response.refusal.done\n", r"'response.refusal.done\n'"),
            (" response.refusal.done", "' response.refusal.done'"),
            ("Response.Refusal.Done", "'Response.Refusal.Done'"),
            ("x" * 62, "'" + "x" * 62 + "'"),
            ("x" * 63, "'" + "x" * 29 + "..." + "x" * 30 + "'"),
            ("x" * 10_000_000, "'" + "x" * 29 + "..." + "x" * 30 + "'"),
        ]:
            error = error_of(Event.from_dict, {**EXAMPLE, "type": tag})
            assert type(error) is ValueError
            expected = (
                "ResponseRefusalDoneEvent: type: expected 'response.refusal.done'"
            )
            assert str(error) == f"{expected}, got {shown}"

    def test_the_longest_message_has_less_than_500_characters(self) -> None:
        long_name = type("X" * 99, (int,), {})()
        data = {**dict.fromkeys(CONTRACT, long_name), "type": "x" * 99}
        message = str(error_of(Event.from_dict, data))
        assert len(message) < 500
        assert re.findall("X+", message) == ["X" * 30] * (len(CONTRACT) - 1)


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
        assert event != tuple(event.to_dict().values())
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
SOURCE = (HERE / "refusal_event.py").read_bytes().decode("ascii")
README = (HERE / "README.md").read_text(encoding="utf-8")
BLOCKS: list[str] = re.findall(r"^```\w+\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def block(content: str) -> str:
    """Return the one code block of the README that contains this text."""
    [found] = [block for block in BLOCKS if content in block]
    return found


def run(*command: str, folder: Path = HERE, **env: str) -> Any:
    """Run a command in a folder, and return the process with what it printed."""
    return subprocess.run(
        command,
        cwd=str(folder),
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
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

    PROGRAM = """\
import importlib, json, os, pickle, reprlib, sys, warnings

folder, payload, *imported = sys.argv[1:]
for name in imported:
    importlib.import_module(name)
sys.path.insert(0, folder)
os.environ.clear()  # The tests have imported the file, which may have set something.
loaded = {name: sys.modules[name] for name in sys.modules if name != "__main__"}

def public(module):
    return {name: value for name, value in vars(module).items() if name[0] != "_"}

def state():
    return [
        [public(module) for module in loaded.values()],
        [list(sys.path), dict(os.environ), list(warnings.filters)],
        [dict(vars(reprlib.aRepr)), sys.getrecursionlimit()],
    ]

before = state()
from application.vendored.renamed import ResponseRefusalDoneEvent

event = ResponseRefusalDoneEvent.from_dict(json.loads(payload))
try:
    ResponseRefusalDoneEvent.from_dict({**event.to_dict(), "type": "x" * 99})
except ValueError:
    print("A wrong tag is refused.")
print(pickle.loads(pickle.dumps(event)) == event, state() == before)
print(*sorted(set(sys.modules) - {*loaded, "__main__"}))
"""
    OUTPUT = """\
A wrong tag is refused.
True True
application application.vendored application.vendored.renamed
"""

    @pytest.mark.parametrize("option", ["-B", "-O", "-OO"])
    def test_a_renamed_copy_works_alone_and_changes_nothing_else(
        self, tmp_path: Path, option: str
    ) -> None:
        folder = tmp_path / "application" / "vendored"
        folder.mkdir(parents=True)
        (folder / "renamed.py").write_text(SOURCE, encoding="ascii")
        # What the file names is loaded before, so that it may load nothing else.
        nodes = ast.walk(ast.parse(SOURCE))
        imported = [str(n.module) for n in nodes if isinstance(n, ast.ImportFrom)]
        python = [sys.executable, "-I", "-S", "-W", "error", option]
        arguments = [str(tmp_path), json.dumps(EXAMPLE), *imported]
        done = run(*python, "-c", self.PROGRAM, *arguments)
        assert (done.stdout, done.stderr) == (self.OUTPUT, "")


class TestReadme:
    """The blocks of the README do what it says."""

    def test_every_python_block_compiles(self) -> None:
        for program in re.findall(r"^```python\n([^>].*?)^```$", README, re.S | re.M):
            compile(program, "README.md", "exec")

    @staticmethod
    def shell(command: str, folder: Path, **env: str) -> str:
        """Return what a command prints where python3 is the Python of the tests."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        return str(run("sh", "-c", command, folder=folder, PATH=path, **env).stdout)

    def test_the_first_command_prints_what_is_shown(self) -> None:
        printed = self.shell(block("json.load(sys.stdin)"), HERE)
        assert printed == block("ResponseRefusalDoneEvent(content_index=2")

    @pytest.mark.parametrize("optimize", ["", "2"])
    def test_a_copy_can_be_checked(self, tmp_path: Path, optimize: str) -> None:
        check = block("-m doctest")
        copied = tmp_path / "refusal_event.py"
        copied.write_text(SOURCE, encoding="ascii")
        printed = self.shell(check, tmp_path, PYTHONOPTIMIZE=optimize)
        assert printed == f'works\n__version__ = "{refusal_event.__version__}"\n'
        broken = f"{SOURCE}\nResponseRefusalDoneEvent.from_dict = print\n"
        copied.write_text(broken, encoding="ascii")
        assert "works" not in self.shell(check, tmp_path, PYTHONOPTIMIZE=optimize)

    def test_spark_loses_no_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pyspark", MagicMock())
        scope: Payload = {}
        exec(block("pyspark"), scope)
        rows = {
            json.dumps(EXAMPLE): Event(**EXAMPLE),
            json.dumps({**EXAMPLE, "item_id": None}): "TypeError",
            '{"type": "response.refusal.done"}': "ValueError",
            "{}": "KeyError",
            "[]": "TypeError",
            "7": "TypeError",
            "null": "TypeError",
            '"text"': "TypeError",
            "{": "JSONDecodeError",
            "[" * 200_000: "RecursionError",
        }
        other = '{"type": "response.refusal.delta"}'
        assert list(scope["refusals"]([other, *rows, other])) == list(rows.values())


class Handler(BaseHTTPRequestHandler):
    """Sends the bytes that the server holds, and keeps the request."""

    server: Any

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = self.headers["Authorization"], self.headers["Content-Type"]
        self.server.request = self.path, *headers, json.loads(body)
        self.wfile.write(self.server.answer)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "127.0.0.1")
        with HTTPServer(("127.0.0.1", 0), Handler) as server:
            Thread(target=server.serve_forever).start()
            yield server
            server.shutdown()


def answer(body: bytes, status: int = 200) -> bytes:
    """Return an HTTP answer in chunks of one byte, which split the text anywhere."""
    head = b"HTTP/1.1 %d \r\nContent-Type: text/event-stream\r\n" % status
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def sse(**payload: Any) -> bytes:
    """Return a payload as a server-sent event."""
    text = json.dumps(payload, ensure_ascii=False)
    return f"event: {payload['type']}\ndata: {text}\n\n".encode("utf-8")


TEXT = " I\u2019m sorry.\n\u2028D\u00e9sol\u00e9 [DONE] \U0001f645 " * 9
REFUSAL = sse(**{**EXAMPLE, "refusal": TEXT})
PRINTED = f"Model refused: {TEXT}\n"
NO_ID = sse(type=TAG, refusal="I can\u2019t.")
TEXT_INDEX = sse(**{**EXAMPLE, "output_index": "1", "refusal": "I can\u2019t."})
UNKNOWN = sse(type="response.refusal.done.completed", text="response.refusal.done")
COMPLETED = sse(type="response.completed", response={"status": "completed"})
INCOMPLETE = sse(type="response.incomplete", response={"reason": "max_tokens"})
FAILED = sse(type="response.failed", response={"error": {"message": "Broken."}})
ERROR = sse(type="error", code="ERR", message="Something is wrong.")
DONE = b"data: [DONE]\n\n"
CRLF = (REFUSAL * 2 + COMPLETED + DONE).replace(b"\n", b"\r\n: data: none\r\n")
UNPRINTABLE = json.dumps({**EXAMPLE, "refusal": "No\ud800."}).encode()
BARE = b'data:%s\n\ndata:{"type":"response.completed"}\n\n' % UNPRINTABLE
CUT = answer(UNKNOWN)[:-8]  # in the middle of the last chunk
NOT_EVENTS = [b"{", b"[]", b'"text"', b"7", b"null", b'"\xff"', b"{}", b"[" * 100_000]
NOT_EVENTS += [
    b'{"type": "response.refusal.done"',
    b'["response.refusal.done"]',
    b'"response.refusal.done"',
    json.dumps({**EXAMPLE, "refusal": "?"}).encode().replace(b"?", b"\xff"),
    b'{"refusal": "response.refusal.done"}',
]
LINES = b"".join(b"data: %s\n\n" % line for line in NOT_EVENTS)
SKIPPED = answer(LINES + REFUSAL + COMPLETED)
API_ERROR = b'{"error": {"message": "Not now."}}'


class TestStreamProgram:
    """The README's stream program prints each refusal, and reports what goes wrong."""

    # What is sent, what is printed, what each line on standard error says, exit status.
    ROWS: dict[str, Any] = {
        "refusal": (answer(UNKNOWN + REFUSAL + COMPLETED), PRINTED, [], 0),
        "CRLF": (answer(CRLF), PRINTED * 2, [], 0),
        "bare lines": (answer(BARE), "Model refused: No\\ud800.\n", [], 0),
        "no refusal": (answer(UNKNOWN + COMPLETED), "", [], 0),
        "no id": (answer(NO_ID + COMPLETED), "", ["id: missing.*I can\u2019t"], 0),
        "text index": (answer(TEXT_INDEX + COMPLETED), "", ["str.*I can\u2019t"], 0),
        "not events": (SKIPPED, PRINTED, ["Error"] * len(NOT_EVENTS), 0),
        "error": (answer(REFUSAL + ERROR + DONE), PRINTED, ["Something is wrong"], 1),
        "failed": (answer(FAILED + DONE), "", ["not complete.*Broken"], 1),
        "incomplete": (answer(INCOMPLETE + DONE), "", ["not complete.*max_tokens"], 1),
        "early end": (answer(UNKNOWN), "", ["not complete.*refusal.done"], 1),
        "cut": (CUT, "", ["broke.*refusal.done"], 1),
        "no answer": (b"", "", ["broke"], 1),
        "401": (answer(API_ERROR, 401), "", ["401.*Not now"], 1),
        "429": (answer(API_ERROR, 429), "", ["429.*Not now"], 1),
        "500": (answer(API_ERROR, 500), "", ["500.*Not now"], 1),
    }

    @pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
    def test_what_is_sent_and_what_the_reader_sees(self, server: Any, row: Any) -> None:
        server.answer, printed, reported, exit_status = row
        slash = "/" * exit_status  # The URL may end in a slash, or not.
        url = f"http://127.0.0.1:{server.server_port}/v1{slash}"
        program = block("urllib.request")
        assert '"OPENAI_BASE_URL", "https://api.openai.com/v1"' in program
        command = [sys.executable, "-W", "error", "-c", program]
        done = run(*command, OPENAI_API_KEY="key", OPENAI_BASE_URL=url)
        body = {"model": "gpt-4o", "input": "Write malware for me.", "stream": True}
        headers = "Bearer key", "application/json"
        assert server.request == ("/v1/responses", *headers, body)
        assert done.stdout == printed
        lines = done.stderr.splitlines()
        assert len(lines) == len(reported)
        assert all(map(re.search, reported, lines))
        assert done.returncode == exit_status


@pytest.fixture(scope="module")
def sdk() -> Any:
    types: Any = importlib.import_module("openai.types.responses")
    return types.ResponseRefusalDoneEvent


@pytest.mark.skipif(find_spec("openai") is None, reason="openai is not installed")
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

    def test_it_needs_a_compiled_package_and_a_recent_python(self) -> None:
        compiled: Any = find_spec("pydantic_core._pydantic_core")
        assert compiled.origin.endswith((".so", ".pyd"))
        assert metadata("openai")["Requires-Python"] == ">=3.10"

    def test_its_stream_is_checked_only_on_request(self, sdk: Any, server: Any) -> None:
        openai: Any = importlib.import_module("openai")
        server.answer = answer(sse(type=TAG, content_index="zero"))
        url = f"http://127.0.0.1:{server.server_port}"
        client = partial(openai.OpenAI, base_url=url, api_key="key")

        with client() as unchecked:
            ask = unchecked.responses.create
            event = next(ask(model="gpt-4o", input="", stream=True))
        assert type(event) is sdk
        assert (event.content_index, event.item_id) == ("zero", None)
        with client(_strict_response_validation=True) as checked:
            ask = checked.responses.create
            with pytest.raises(openai.APIResponseValidationError):
                next(ask(model="gpt-4o", input="", stream=True))

    def test_its_model_is_the_one_that_the_readme_describes(self, sdk: Any) -> None:
        for value in (True, "1", 1.0):
            converted = sdk.model_validate({**EXAMPLE, "content_index": value})
            assert converted.content_index == 1
        with pytest.raises(ValueError, match="a secret"):
            sdk.model_validate({**EXAMPLE, "content_index": "a secret"})
        event = sdk.model_validate({**EXAMPLE, "agent": {}})
        assert event.to_dict() == {**EXAMPLE, "agent": {}}
        assert sdk.model_validate_json(event.to_json()) == event
        assert sdk.model_json_schema()["required"] == list(CONTRACT)
        assert sdk.model_validate(Event.from_dict(event.to_dict()).to_dict())
        event.content_index = "zero"
        with pytest.raises(TypeError):
            hash(event)
