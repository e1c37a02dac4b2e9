"""A link as it meets a real broker: nothing is lost, what is worth most goes first, and the sink never waits."""

from __future__ import annotations

import base64
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.mosquitto import Mosquitto, ThinLink
from benchmarks.rtsp_child import free_port
from tests.runtime.links.frames import frame, listening, open_sink, options_for, wait_for

HIGH, LOW = [0.95], [0.3]


@pytest.mark.parametrize("encoding", ["json", "compact"])
def test_every_detection_of_a_run_arrives_with_its_class_and_box(
    broker: Mosquitto, tmp_path: Path, encoding: str
) -> None:
    sink = open_sink(tmp_path, options_for(broker.port, encoding=encoding))
    with listening(broker) as ground:
        for number in range(20):
            sink.write(frame(number, [0.9, 0.5, 0.3], [0, 1, 2]))
        sink.close()
        wait_for(lambda: sum(len(record["detections"]) for record in ground.records) == 60)
    found = {(one["frame"], hit["label"]): hit for one in ground.records for hit in one["detections"]}
    assert len(found) == 60 and ground.inbox.num_doubles == ground.inbox.num_bad == 0
    assert {record["schema"] for record in ground.records} == {"babelrs.detections/1"}
    assert found[7, "plane"]["obb"] == pytest.approx([240, 60, 30, 10, 0.25], abs=0.07)
    assert found[7, "plane"]["score"] == pytest.approx(0.5, abs=0.003)


def test_what_waited_comes_in_the_order_of_its_worth(broker: Mosquitto, tmp_path: Path) -> None:
    sink = open_sink(tmp_path, options_for(free_port(), linger_s=0))
    for number in range(10):
        sink.write(frame(number, LOW if number % 2 else HIGH, source=f"image{number}"))
    sink.close()
    with listening(broker) as ground:
        open_sink(tmp_path, options_for(broker.port)).close()
        wait_for(lambda: len(ground.records) == 10)
    priorities = [record["priority"] for record in ground.records]
    assert priorities == sorted(priorities) and len(set(priorities)) > 1


def test_a_broker_that_is_killed_and_comes_back_costs_no_message(broker: Mosquitto, tmp_path: Path) -> None:
    broker.persistent = True
    broker.stop()
    broker.start()
    sink = open_sink(tmp_path, options_for(broker.port, linger_s=40))
    with listening(broker) as ground:
        for number in range(90):
            sink.write(frame(number, HIGH + LOW, source=f"image{number}"))
            if number == 30:
                wait_for(lambda: len(ground.records) > 5)
                broker.stop()  # saves its sessions, as a killed receiver is not what is tested here
            if number == 60:
                broker.start()
            time.sleep(0.01)
        wait_for(lambda: len({record["id"] for record in ground.records}) == 180)
        sink.close()
    assert sorted(set(ground.frames)) == list(range(90))


def test_a_sink_without_a_broker_neither_waits_nor_fails_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("paho.mqtt", reason="the link needs paho-mqtt")
    sink = open_sink(tmp_path, options_for(free_port(), linger_s=0))
    for number in range(5):
        sink.write(frame(number, HIGH))
        time.sleep(0.3)
    sink.close()
    said = [record.getMessage() for record in caplog.records if "no connection" in record.getMessage()]
    assert len(said) == 1 and "Connection refused" in said[0]
    assert "5 messages wait in" in caplog.text


def test_a_broker_that_accepts_but_never_answers_does_not_hold_up_the_sink(tmp_path: Path) -> None:
    pytest.importorskip("paho.mqtt", reason="the link needs paho-mqtt")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        sink = open_sink(tmp_path, options_for(mute.getsockname()[1], linger_s=0))
        written = threading.Event()

        def write() -> None:
            for number in range(50):
                sink.write(frame(number, HIGH))
            written.set()

        threading.Thread(target=write, daemon=True).start()
        assert written.wait(8), "the sink waits for the network"  # a connection is given up after ten seconds
    sink.close()


def test_a_process_that_is_killed_loses_no_message_it_had_taken(broker: Mosquitto, tmp_path: Path) -> None:
    port = free_port()  # nobody listens, so all waits
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from tests.runtime.links.frames import frame, open_sink, options_for\n"
        "sink = open_sink(Path(sys.argv[1]), options_for(int(sys.argv[2])))\n"
        "for number in range(10**6):\n"
        "    sink.write(frame(number, [0.9]))\n    print(number, flush=True)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, tmp_path, str(port)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    seen = [child.stdout.readline() for _ in range(200)]
    child.send_signal(signal.SIGKILL)
    last = int([*seen, *child.stdout][-1])
    child.wait()
    with listening(broker) as ground:
        sink = open_sink(tmp_path, options_for(broker.port, linger_s=30))
        sink.write(frame(0, [0.9], source="the next run"))
        sink.close()
        wait_for(lambda: len(ground.records) >= last + 2)
    taken = [record["frame"] for record in ground.records if record["source"] == "camera"]
    assert set(range(last + 1)) <= set(taken)
    assert len({record["id"] for record in ground.records}) == len(ground.records)


def test_a_wrong_password_is_said_once_without_it_and_messages_wait(
    tmp_path: Path, broker: Mosquitto, caplog: pytest.LogCaptureFixture
) -> None:
    broker.stop()
    passwords = tmp_path / "passwords"
    subprocess.run(["mosquitto_passwd", "-b", "-c", passwords, "drone", "right"], check=True, capture_output=True)
    broker.settings = {"allow_anonymous": "false", "password_file": str(passwords)}
    broker.start()
    options = options_for(broker.port, linger_s=0)
    options = replace(options, broker=replace(options.broker, user="drone", password="wrong-secret"))
    sink = open_sink(tmp_path, options)
    sink.write(frame(0, HIGH))
    wait_for(lambda: "Not authorized" in caplog.text)
    time.sleep(1.5)  # time for another attempt
    sink.close()
    said = [record for record in caplog.records if "refuses" in record.getMessage()]
    assert len(said) == 1 and "wrong-secret" not in caplog.text
    sink = open_sink(tmp_path, replace(options, broker=replace(options.broker, password="right"), linger_s=10))
    sink.close()
    assert sum(sink._link.publisher.sent.values()) == 1


def test_over_a_thin_link_what_is_urgent_overtakes_what_waits(broker: Mosquitto, tmp_path: Path) -> None:
    thin = ThinLink(broker.port, 1000)
    sink = open_sink(tmp_path, options_for(thin.port, linger_s=0))
    with listening(broker) as ground:
        for number in range(60):
            sink.write(frame(number, LOW, source="low"))
        wait_for(lambda: len(ground.records) >= 3)
        sink.write(frame(100, HIGH, [1], source="urgent"))
        wait_for(lambda: 100 in ground.frames)
        waiting = 60 - ground.frames.index(100)
        sink.close()
    thin.close()
    assert ground.records[ground.frames.index(100)]["priority"] == 0
    assert waiting > 40, "it queued behind the others"


def test_the_broker_says_offline_for_one_that_vanishes_and_keeps_the_state(broker: Mosquitto, tmp_path: Path) -> None:
    thin = ThinLink(broker.port, 1e6)
    with listening(broker) as ground:
        sink = open_sink(tmp_path, options_for(thin.port, linger_s=0))
        wait_for(lambda: ("state", b"online") in ground.raw)
        thin.close()
        wait_for(lambda: ("state", b"offline") in ground.raw)
        sink.close()
    with listening(broker, "late") as late:
        wait_for(lambda: ("state", b"offline") in late.raw)
        wait_for(lambda: any(topic == "status" for topic, _ in late.raw))


def test_a_run_that_ends_says_offline_and_what_it_sent(broker: Mosquitto, tmp_path: Path) -> None:
    with listening(broker) as ground:
        sink = open_sink(tmp_path, options_for(broker.port))
        sink.write(frame(0, HIGH))
        sink.close()
        wait_for(lambda: ("state", b"offline") in ground.raw)
    status = json.loads([payload for topic, payload in ground.raw if topic == "status"][-1])
    assert status["schema"] == "babelrs.link-status/1"
    assert status["sent"] == {"0": 1} and status["spooled"] == {} and status["dropped"] == {}
    assert status["bytes_last_minute"] > 300


def test_thumbnails_show_the_detection_and_go_after_all_detections(broker: Mosquitto, tmp_path: Path) -> None:
    sink = open_sink(tmp_path, options_for(free_port(), linger_s=0, thumbnails=True, encoding="compact"))
    for number in range(5):
        sink.write(frame(number, HIGH, source=f"image{number}"))
    sink.close()
    with listening(broker) as ground:
        open_sink(tmp_path, options_for(broker.port)).close()
        wait_for(lambda: len(ground.records) == 10)
    assert [("jpeg" in record) for record in ground.records] == [False] * 5 + [True] * 5
    assert {record["of"] for record in ground.records[5:]} == {record["id"] for record in ground.records[:5]}
    data = np.frombuffer(base64.b64decode(ground.records[-1]["jpeg"]), np.uint8)
    picture = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
    assert picture.shape[1] <= 64 and abs(int(picture.mean()) - 90) < 3


def test_connecting_again_and_again_leaves_no_descriptor_behind(broker: Mosquitto, tmp_path: Path) -> None:
    thin = ThinLink(broker.port, 1e6)
    sink = open_sink(tmp_path, options_for(thin.port, linger_s=0))
    with listening(broker) as ground:
        counts = []
        for number in range(4):
            sink.write(frame(number, HIGH))
            wait_for(lambda number=number: number in ground.frames)  # type: ignore[misc]
            counts.append(len(os.listdir("/proc/self/fd")))
            thin.cut()
        sink.close()
    thin.close()
    assert max(counts[1:]) - counts[1] <= 4, counts  # the proxy's sockets may be closing


def test_a_full_spool_says_what_it_dropped_and_keeps_the_first_priority(
    broker: Mosquitto, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink = open_sink(tmp_path, options_for(free_port(), spool_mib=1, linger_s=0))
    with caplog.at_level(logging.WARNING):
        for number in range(1500):
            sink.write(frame(number, LOW * 3, source="low"))
            if number % 10 == 0:
                sink.write(frame(number, HIGH, source=f"image{number}"))
    assert "mqtt.spool is full" in caplog.text and "priority 0 were" not in caplog.text
    sink.close()
    dropped = sink.status()["dropped"]
    assert dropped and "0" not in dropped
    with listening(broker) as ground:
        open_sink(tmp_path, options_for(broker.port, linger_s=60)).close()
        wait_for(lambda: len(ground.records) + sum(dropped.values()) == 1650)
    first = [record["frame"] for record in ground.records if record["priority"] == 0]
    assert sorted(first) == list(range(0, 1500, 10))
