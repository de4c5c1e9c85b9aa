"""Files, settings, ids, clocks, telemetry: the small parts everything stands on."""

import errno
import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from infra.plumbing.clock import ManualClock, SystemClock
from infra.plumbing.errors import AtollError, SettingsError
from infra.plumbing.files import write_atomically
from infra.plumbing.ids import accept_request_id, new_request_id
from infra.plumbing.progress import SilentProgress
from infra.plumbing.settings import load_settings
from infra.plumbing.span_file import SpanFile
from infra.plumbing.telemetry import TelemetrySettings, inject, start_telemetry


class Example(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    port: int
    name: str = "x"


def test_settings_are_read_from_toml_and_json(tmp_path: Path):
    (tmp_path / "a.toml").write_text("port = 1\n")
    (tmp_path / "a.json").write_text('{"port": 2, "name": "y"}')
    assert load_settings(tmp_path / "a.toml", Example) == Example(port=1)
    assert load_settings(tmp_path / "a.json", Example) == Example(port=2, name="y")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [(b"port = 'x'", "Expected `int`"), (b"", "missing required field"), (b"port=1\nprot=2", "unknown field"),
     (b"\xff", "not usable"), (b"port = ", "not usable")],
)  # fmt: skip
def test_bad_settings_say_what_is_wrong(tmp_path: Path, content: bytes, complaint: str):
    (tmp_path / "a.toml").write_bytes(content)
    with pytest.raises(SettingsError, match=complaint) as caught:
        load_settings(tmp_path / "a.toml", Example)
    assert "Example" in str(caught.value)


def test_missing_settings_say_which_file(tmp_path: Path):
    with pytest.raises(SettingsError, match=r"none\.toml: No such file"):
        load_settings(tmp_path / "none.toml", Example)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "deep" / "file"
    write_atomically(path, b"old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == ["file"]


def test_request_ids_are_taken_over_only_when_harmless():
    assert accept_request_id("abc-12345") == "abc-12345"
    for offered in (None, "", "short", "x" * 65, "a b c d e f", "<script>alert", "new\nline-new"):
        assert accept_request_id(offered) != offered
    assert new_request_id() != new_request_id()


def test_errors_say_what_to_do():
    assert str(AtollError("It broke.", fix="Mend it.")) == "It broke. Mend it."
    assert str(AtollError("It broke.")) == "It broke."


def test_clocks_move():
    clock = ManualClock()
    before = clock.now_ms()
    clock.advance(1.5)
    assert clock.now_ms() - before == 1500
    assert clock.monotonic_s() == 1.5
    assert abs(SystemClock().now_ms() - time.time() * 1000) < 1000
    assert SystemClock().monotonic_s() <= time.monotonic()
    SilentProgress().advance(1, 2, "x")


def test_one_trace_goes_from_header_to_span_to_log(tmp_path: Path):
    spans, log = tmp_path / "t" / "spans.jsonl", tmp_path / "l" / "log.jsonl"
    settings = TelemetrySettings(spans_file=str(spans), log_file=str(log), sample_ratio=0.0)
    telemetry = start_telemetry(service="edge", region="r", node="n", settings=settings)
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    passed_on: dict[str, str] = {}
    with telemetry.span("work", headers={"Traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}, attributes={"n": 1}):
        telemetry.logger.info("said", extra={"fields": {"count": 3}})
        inject(passed_on)
    with telemetry.span("unsampled"):
        pass
    try:
        raise ValueError("boom")
    except ValueError:
        telemetry.logger.exception("failed")
    telemetry.close()
    (span,) = [json.loads(line) for line in spans.read_text().splitlines()]
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert span["context"]["trace_id"] == f"0x{trace_id}"
    assert trace_id in passed_on["traceparent"]
    assert lines[0] | {"time": 0} == {
        "time": 0, "level": "info", "message": "said", "service": "edge", "region": "r", "node": "n",
        "count": 3, "trace_id": trace_id,
    }  # fmt: skip
    assert "ValueError: boom" in lines[1]["error"]


def test_logs_go_to_stderr_by_default():
    telemetry = start_telemetry(service="s", region="r", node="n", settings=TelemetrySettings())
    (handler,) = telemetry.logger.handlers
    assert type(handler) is logging.StreamHandler
    telemetry.close()


def test_kept_spans_say_what_the_sdk_says(tmp_path: Path):
    kept: list[ReadableSpan] = []

    class Keeper(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            kept.extend(spans)
            return SpanExportResult.SUCCESS

    provider = TracerProvider(resource=Resource.create({"service.name": "s"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(Keeper()))
    tracer = provider.get_tracer("atoll")
    with tracer.start_as_current_span("outer", attributes={"text": "a", "list": [1, 2], "flag": True}) as outer:
        links = [Link(outer.get_span_context(), {"k": "v"})]
        with tracer.start_as_current_span("inner", links=links, kind=SpanKind.CLIENT) as inner:
            inner.add_event("seen", {"share": 0.5})
            inner.set_status(Status(StatusCode.ERROR, "why"))
    path = tmp_path / "spans"
    with path.open("w") as file:
        SpanFile(file).export(kept)
    provider.shutdown()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [json.loads(one.to_json()) for one in kept]
