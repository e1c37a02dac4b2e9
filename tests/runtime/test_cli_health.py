"""What watches over ``babelrs-run``, as a process: reports, metrics, a service manager, and the end for heat."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.runtime.dots import write_dots
from tests.runtime.health.manager import Manager

PATIENT_S = 60.0


def babelrs_run(
    *arguments: object, environment: Mapping[str, str] | None = None, code: str = "import runtime.cli as cli"
) -> subprocess.Popen[str]:
    start = f"import sys\n{code}\nsys.exit(cli.main())"
    command = [sys.executable, "-c", start, *map(str, arguments)]
    every = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), **(environment or {})}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=every)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def until(running: subprocess.Popen[str], found: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENT_S
    while not found():
        assert running.poll() is None and time.monotonic() < end, running.communicate()
        time.sleep(0.05)


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    folder = tmp_path / "spool"
    folder.mkdir()
    for count in range(3):
        write_dots(folder / f"{count}.png", 80, 60, [(20, 20, 250)])
    return folder


def report_of(path: Path) -> dict[str, object]:
    return json.loads(path.read_text()) if path.exists() else {}  # type: ignore[no-any-return]


def test_reports_metrics_and_their_end_are_those_of_the_run(spool: Path, tmp_path: Path) -> None:
    port, health = free_port(), tmp_path / "out" / "health.json"
    options = ("--health-interval", "0.1", "--prometheus", port)
    running = babelrs_run("--sensor", "ir", f"spool:{spool}", "--out", tmp_path / "out", *options)
    until(running, lambda: report_of(health).get("images") == 3)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        assert b"babelrs_images_total 3.0\n" in answer.read()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=30) as answer:
        assert json.load(answer)["state"] == "running"
    running.send_signal(signal.SIGTERM)
    _, errors = running.communicate(timeout=PATIENT_S)
    lines = [json.loads(line) for line in errors.splitlines() if line.startswith("{")]
    assert running.returncode == 0 and lines[-1] == report_of(health)
    assert lines[-1]["state"] == "ended" and lines[-1]["images"] == 3 and lines[-1]["schema"] == "babelrs.health/1"
    assert [line["images"] for line in lines] == sorted(line["images"] for line in lines)
    stages = {"reading", "preparing", "inferring", "finishing", "writing", "reporting"}
    assert {name.partition(" ")[0] for name in lines[0]["stages"]} == stages
    assert lines[-1]["process"]["resident_bytes"] > 1 << 20 and lines[-1]["latency_ms"]["infer"]["p99"] > 0


def test_a_run_of_files_of_which_nothing_is_asked_has_no_report(spool: Path, tmp_path: Path) -> None:
    running = babelrs_run("--sensor", "ir", spool, "--out", tmp_path / "out")
    output, errors = running.communicate(timeout=PATIENT_S)
    assert (running.returncode, errors) == (0, "") and "3 images" in output
    assert not (tmp_path / "out" / "health.json").exists()


def test_a_service_is_ready_once_all_stages_answer_is_alive_and_says_that_it_stops(spool: Path, tmp_path: Path) -> None:
    manager = Manager(tmp_path / "notify")
    environment = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "8000000"}
    running = babelrs_run("--sensor", "ir", f"spool:{spool}", "--out", tmp_path / "out", environment=environment)
    first = manager.until(lambda message: "WATCHDOG" in message)
    assert [message for message in first if "READY" in message] == [{"READY": "1", "STATUS": "all stages answer"}]
    until(running, lambda: (tmp_path / "out" / "health.json").exists())  # services report by default
    manager.until(lambda message: "WATCHDOG" in message)
    running.send_signal(signal.SIGTERM)
    assert manager.until(lambda message: "STOPPING" in message)[-1] == {"STOPPING": "1"}
    assert running.communicate(timeout=PATIENT_S) is not None and running.returncode == 0
    manager.close()


def test_systemd_notify_and_this_program_speak_one_protocol(tmp_path: Path) -> None:
    """What the tests' manager takes from us, it takes from systemd's own client."""
    manager = Manager(tmp_path / "notify")
    try:
        subprocess.run(
            ["systemd-notify", "--no-block", "--ready", "--status=all stages answer"],
            env={**os.environ, "NOTIFY_SOCKET": manager.address},
            check=True,
            timeout=PATIENT_S,
        )
    except FileNotFoundError:
        pytest.skip("systemd-notify is not installed")
    (message,) = manager.until(lambda message: "READY" in message)
    assert message == {"READY": "1", "STATUS": "all stages answer"}
    manager.close()


def test_a_device_at_its_critical_point_ends_the_run_in_order_with_code_3(spool: Path, tmp_path: Path) -> None:
    hot = (
        "import runtime.cli as cli, runtime.health.sampler as sampler\n"
        "from runtime.health.device import DeviceState, Zone\n"
        "sampler.read_device = lambda root, read: DeviceState(zones=(Zone('tj-thermal', 104.0, 95.0, 105.0),))"
    )
    arguments = ("--sensor", "ir", f"spool:{spool}", "--out", tmp_path / "out", "--deadline-ms", 10_000)
    running = babelrs_run(*arguments, code=hot)
    output, errors = running.communicate(timeout=PATIENT_S)
    assert running.returncode == 3 and "3 images" in output and "Traceback" not in errors
    assert errors.splitlines()[-1] == (
        "error: Stopped with everything written: tj-thermal is at 104.0 C, critical is 105.0 C."
    )
    assert len((tmp_path / "out" / "detections.ir.jsonl").read_text().splitlines()) == 3


def test_a_port_that_is_taken_is_said_before_anything_runs(spool: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        running = babelrs_run("--sensor", "ir", spool, "--out", tmp_path / "out", "--prometheus", port)
        _, errors = running.communicate(timeout=PATIENT_S)
    assert running.returncode == 2 and f"127.0.0.1:{port} cannot be listened on" in errors
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--prometheus", "http"),
        ("--prometheus", "65536"),
        ("--prometheus", ":9178"),
        ("--health-interval", "-1"),
        ("--health-interval", "0.01"),
        ("--health-interval", "nan"),
        ("--deadline-ms", "0"),
        ("--deadline-ms", "inf"),
        ("--max-temperature", "900"),
    ],
)
def test_values_that_mean_nothing_are_refused(arguments: tuple[str, str]) -> None:
    from babelrs.errors import BabelRSError
    from runtime.arguments import parse_run

    with pytest.raises(BabelRSError, match=f"{arguments[0]} is .*Give "):
        parse_run(["--sensor", "ir", "image.png", *arguments])


@pytest.mark.parametrize(
    ("text", "address"),
    [("9178", ("127.0.0.1", 9178)), ("0.0.0.0:9178", ("0.0.0.0", 9178)), ("[::1]:80", ("::1", 80))],
)
def test_metrics_are_this_devices_only_unless_an_address_is_given(text: str, address: tuple[str, int]) -> None:
    from runtime.arguments import parse_run

    assert parse_run(["--sensor", "ir", "a.png", "--prometheus", text]).attention.prometheus == address
