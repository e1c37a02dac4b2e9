"""Metrics over HTTP: a real client, and the Prometheus project's own parser as the judge of the text."""

from __future__ import annotations

import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

parser = pytest.importorskip("prometheus_client.parser", reason="the judge of the text is prometheus_client")

from babelrs.errors import BabelRSError  # noqa: E402
from babelrs.sensors import Sensor  # noqa: E402
from runtime.degrading.degrader import Degrader  # noqa: E402
from runtime.health.exposition import CONTENT_TYPE, FAMILIES, exposition  # noqa: E402
from runtime.health.monitor import Monitor  # noqa: E402
from runtime.health.prometheus import AT_ONCE, HealthServer  # noqa: E402
from runtime.health.sampler import Sampler  # noqa: E402
from runtime.integrity.counters import Counters  # noqa: E402
from runtime.sources.live import Stream, StreamFault  # noqa: E402
from runtime.sources.supervised import SupervisedSource  # noqa: E402
from runtime.stopwatch import STAGES  # noqa: E402
from tests.runtime.health.device_tree import write_tree  # noqa: E402
from tests.runtime.health.test_device import latest_where  # noqa: E402

NASTY = 'a "quoted"\\name\nwith lines, {braces} and é'


def samples_of(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = list(parser.text_string_to_metric_families(text))
    assert all(family.documentation and family.type in ("gauge", "counter") for family in families)
    every = [sample for family in families for sample in family.samples]
    samples = {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in every}
    assert len(samples) == len(every), "a series is there twice"
    return samples


def full_monitor(root: Path) -> Monitor:
    def connect(stop: object) -> Stream:
        raise StreamFault("refused")

    sampler = Sampler(write_tree(root))
    latest_where(sampler, lambda state: True)
    monitor = Monitor(Degrader(), sampler)
    sources = [SupervisedSource(NASTY, Sensor.IR, "cam_", connect), SupervisedSource(NASTY, Sensor.IR, "c", connect)]
    monitor.begin(sources, {})
    monitor.metrics.add(dict.fromkeys(STAGES, 2.0), 8.0, 3)
    monitor.metrics.skip(NASTY)
    monitor.also("integrity", lambda: {"ir": vars(Counters(passes=7, mismatches=1))})
    monitor.also("link", lambda: {"spooled": {"0": 2}, "sent": {"0": 5, "1": 6}, "dropped": {"thumbnail": 1}})
    return monitor


def test_the_text_is_what_prometheus_reads_with_every_family_and_its_values(tmp_path: Path) -> None:
    monitor = full_monitor(tmp_path)
    with monitor.pulses.own("inferring"):
        samples = samples_of(exposition(monitor.snapshot()))
    names = {name for name, _ in samples}
    queues = {"babelrs_queue_depth", "babelrs_source_frame_age_seconds"}  # nothing waits, no frame came
    assert {f"babelrs_{family[0]}" for family in FAMILIES} - names <= queues
    assert samples["babelrs_integrity_total", (("sensor", "ir"), ("what", "passes"))] == 7
    assert samples["babelrs_link_sent_total", (("priority", "1"),)] == 6
    assert samples["babelrs_skipped_total", (("cause", NASTY),)] == 1
    assert samples["babelrs_latency_seconds", (("quantile", "0.9"), ("stage", "total"))] == 0.008
    assert samples["babelrs_temperature_celsius", (("zone", "tj-thermal"),)] == 48.312
    assert samples["babelrs_source_connected", (("place", "1"), ("sensor", "ir"), ("source", NASTY))] == 0
    assert samples["babelrs_detections_total", ()] == 3 and samples["babelrs_healthy", ()] == 1
    assert samples["babelrs_level", (("level", "normal"),)] == 1


@settings(max_examples=50)
@given(st.dictionaries(st.text(max_size=20), st.floats(allow_nan=False), max_size=5))
def test_any_label_and_number_survives(causes: dict[str, float]) -> None:
    report = {**Monitor().snapshot(), "skipped": causes}
    samples = samples_of(exposition(report))
    found = {labels[0][1]: value for (name, labels), value in samples.items() if name == "babelrs_skipped_total"}
    assert found == causes


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[HealthServer, Monitor]]:
    monitor = full_monitor(tmp_path)
    server = HealthServer("127.0.0.1", 0, monitor.snapshot)
    server.start()
    yield server, monitor
    server.close()


def get(port: int, path: str) -> tuple[int, Any, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


def test_metrics_health_and_nothing_else_are_served(served: tuple[HealthServer, Monitor]) -> None:
    port = served[0].port
    code, headers, text = get(port, "/metrics")
    assert (code, headers["Content-Type"]) == (200, CONTENT_TYPE) and samples_of(text)
    code, _, text = get(port, "/healthz")
    assert code == 200 and json.loads(text)["schema"] == "babelrs.health/1"
    assert [get(port, path)[0] for path in ("/", "/metrics/x", "/../etc/passwd", "/metrics?a=b")] == [
        404,
        404,
        404,
        200,
    ]
    with socket.create_connection(("127.0.0.1", port), 30) as client:
        client.sendall(b"HEAD /metrics HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert b"200 OK" in answer and answer.endswith(b"\r\n\r\n")


def test_health_is_an_error_while_a_stage_does_not_answer(tmp_path: Path) -> None:
    monitor = Monitor(allowance_s=-1.0)
    server = HealthServer("127.0.0.1", 0, monitor.snapshot)
    server.start()
    with monitor.pulses.own("inferring"):
        code, _, text = get(server.port, "/healthz")
    assert code == 503 and json.loads(text)["stages"]["inferring"]["answers"] is False
    assert get(server.port, "/healthz")[0] == 200
    server.close()


def test_a_name_that_is_no_utf8_does_not_end_the_metrics(served: tuple[HealthServer, Monitor]) -> None:
    served[1].metrics.skip("caf\udce9")
    code, _, text = get(served[0].port, "/metrics")
    assert code == 200 and samples_of(text)["babelrs_skipped_total", (("cause", "caf?"),)] == 1


def test_clients_that_say_nothing_or_nonsense_do_no_harm(served: tuple[HealthServer, Monitor]) -> None:
    port = served[0].port
    silent = [socket.create_connection(("127.0.0.1", port), 30) for _ in range(3 * AT_ONCE)]
    refused = [client for client in silent if _is_closed(client)]
    assert len(refused) == 2 * AT_ONCE  # no more threads than that
    for client in silent:
        client.close()
    while not (answer := _said(port, b"\xff\x00 nonsense\r\n\r\n")):  # until the threads are free again
        time.sleep(0.05)
    assert b"400" in answer and b"200" in _said(port, b"GET /metrics HTTP/1.0\r\n\r\n")


def _said(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 30) as client:
        try:
            client.sendall(request)
            return client.recv(65536)
        except ConnectionError:
            return b""


def _is_closed(client: socket.socket) -> bool:
    client.settimeout(0.5)
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def test_a_port_that_is_taken_is_the_users_error(served: tuple[HealthServer, Monitor]) -> None:
    with pytest.raises(
        BabelRSError, match=rf"127.0.0.1:{served[0].port} cannot be listened on .*in use.* Give another"
    ):
        HealthServer("127.0.0.1", served[0].port, served[1].snapshot)
    with pytest.raises(BabelRSError, match="cannot be listened on"):
        HealthServer("host.invalid", 0, served[1].snapshot)
    with pytest.raises(BabelRSError, match="cannot be listened on"):
        HealthServer("203.0.113.7", 0, served[1].snapshot)  # no address of this device


def test_it_listens_on_ipv6_too() -> None:
    try:
        server = HealthServer("::1", 0, Monitor().snapshot)
    except BabelRSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    server.start()
    with urllib.request.urlopen(f"http://[::1]:{server.port}/metrics", timeout=30) as answer:
        assert answer.status == 200
    server.close()
