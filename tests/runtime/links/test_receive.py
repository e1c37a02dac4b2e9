"""From ``babelrs-run`` over a real broker to ``babelrs-receive``, as their users meet them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from babelrs.bundle import Bundle
from benchmarks.mosquitto import Mosquitto
from benchmarks.rtsp_child import free_port
from runtime.links.message import MessageId, json_detections
from runtime.links.receive import REMEMBERED_IDS, Inbox
from tests.runtime.dots import write_dots
from tests.runtime.links.frames import PREFIX, frame, listening
from tests.runtime.links.test_compact import group_of

ROOT = Path(__file__).resolve().parents[3]


def command(module: str, *arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
    )


def run_images(tmp_path: Path, bundle: Bundle, count: int, *options: object, **environment: str) -> tuple[int, str]:
    for number in range(count):
        write_dots(tmp_path / "images" / f"{number}.png", 96, 64, [(30, 20, 250), (70, 44, 160)])
    running = command(
        "runtime.cli",
        tmp_path / "images",
        *("--sensor", "ir", "--bundle", bundle.folder, "--out", tmp_path / "out"),
        *options,
        **environment,
    )
    _, said = running.communicate(timeout=120)
    return running.returncode, said


def received(url: str, num_detections: int, *options: object) -> list[dict[str, Any]]:
    """What the receiver called "ground" writes until it has so many detections and, with options, a picture."""
    ground = command("runtime.links.receive", url, "--name", "ground", *options)
    assert ground.stdout is not None
    records: list[dict[str, Any]] = []
    for line in ground.stdout:
        records.append(json.loads(line))
        hits = sum(len(record.get("detections", [])) for record in records)
        if hits >= num_detections and (not options or any("jpeg" in record for record in records)):
            break
    ground.terminate()
    ground.communicate(timeout=60)
    return records


@pytest.mark.parametrize("encoding", ["json", "compact"])
def test_the_lines_on_the_ground_are_those_of_the_run(
    broker: Mosquitto, toy_bundle: Bundle, tmp_path: Path, encoding: str
) -> None:
    url = f"mqtt://127.0.0.1:{broker.port}/{PREFIX}"
    with listening(broker, "ground"):
        pass  # from now on the broker keeps messages for this name
    code, said = run_images(tmp_path, toy_bundle, 3, "--mqtt", url, "--mqtt-encoding", encoding, "--mqtt-thumbnails")
    assert (code, said) == (0, "")
    records = received(url, 6, "--pictures", tmp_path / "pictures")
    told = {
        (record["source"][-5:], hit["label"], round(hit["obb"][0]))
        for record in records
        for hit in record.get("detections", [])
    }
    wrote = [json.loads(line) for line in (tmp_path / "out" / "detections.ir.jsonl").read_text().splitlines()]
    assert told == {
        (line["source"][-5:], hit["label"], round(hit["obb"][0])) for line in wrote for hit in line["detections"]
    }
    assert len(told) == 6
    pictures = [record for record in records if record["schema"] == "babelrs.thumbnail/1"]
    assert pictures and all((tmp_path / "pictures" / one["jpeg"]).read_bytes()[:2] == b"\xff\xd8" for one in pictures)


def test_a_run_without_a_broker_ends_well_and_the_next_sends_its_messages(
    broker: Mosquitto, toy_bundle: Bundle, tmp_path: Path
) -> None:
    url = f"mqtt://127.0.0.1:{free_port()}/{PREFIX}"
    code, said = run_images(tmp_path, toy_bundle, 2, "--mqtt", url)
    assert code == 0 and "messages wait in" in said and "Traceback" not in said
    url = f"mqtt://127.0.0.1:{broker.port}/{PREFIX}"
    with listening(broker, "ground"):
        pass
    assert run_images(tmp_path, toy_bundle, 2, "--mqtt", url) == (0, "")
    records = received(url, 8)  # of two runs with two images of two dots each
    assert len({record["id"] for record in records}) == len(records)


def test_a_receiver_with_a_wrong_password_ends_with_the_reason(broker: Mosquitto, tmp_path: Path) -> None:
    broker.stop()
    (tmp_path / "passwords").write_text("")
    broker.settings = {"allow_anonymous": "false", "password_file": str(tmp_path / "passwords")}
    broker.start()
    ground = command("runtime.links.receive", f"mqtt://me:hidden@127.0.0.1:{broker.port}/a", "--seconds", "20")
    _, said = ground.communicate(timeout=60)
    assert ground.returncode == 2 and "Not authorized" in said and "hidden" not in said and "Traceback" not in said


def certificates(folder: Path) -> Path:
    """An authority ``ca.pem`` and a key and certificate of 127.0.0.1 that it signed."""
    script = (
        "set -e; openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 9 -subj /CN=authority\n"
        "openssl req -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -subj /CN=127.0.0.1\n"
        "printf 'subjectAltName=IP:127.0.0.1' > names\n"
        "openssl x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -extfile names -out cert.pem"
    )
    subprocess.run(["sh", "-c", script], check=True, capture_output=True, cwd=folder)
    return folder / "ca.pem"


def test_tls_is_used_with_the_named_authority_and_refused_without(
    broker: Mosquitto, toy_bundle: Bundle, tmp_path: Path
) -> None:
    ca = certificates(tmp_path)
    broker.stop()
    keys = {"certfile": str(tmp_path / "cert.pem"), "keyfile": str(tmp_path / "key.pem")}
    broker.settings = {"allow_anonymous": "true", **keys}
    broker.start()
    url = f"mqtts://127.0.0.1:{broker.port}/{PREFIX}"
    assert run_images(tmp_path, toy_bundle, 1, "--mqtt", url, "--mqtt-ca", ca) == (0, "")
    code, said = run_images(tmp_path, toy_bundle, 1, "--mqtt", url)
    assert code == 0 and "certificate is not trusted" in said and "messages wait in" in said


def test_doubles_are_dropped_and_the_memory_of_them_is_bounded() -> None:
    inbox = Inbox()
    group = group_of([((1, 1, 2, 1, 0), 0.5, 2, None)], frame(0, []).sensor)
    data = json_detections(group, MessageId(1, 1))
    assert inbox.take("ir/detections", data) is not None
    assert inbox.take("ir/detections", data) is None and inbox.num_doubles == 1
    for number in range(REMEMBERED_IDS + 5):
        inbox._once({"id": str(number)})
    assert len(inbox._seen) == REMEMBERED_IDS


@pytest.mark.parametrize(
    "payload", [b"", b"{", b"[]", b"{}", b'{"id": 7}', b"\xb5\x01\x01", b"\xff" * 50, b"[" * 100_000]
)
def test_what_others_publish_there_is_counted_and_skipped(payload: bytes, caplog: pytest.LogCaptureFixture) -> None:
    inbox = Inbox()
    assert inbox.take("ir/detections", payload) is None and inbox.num_bad == 1
    assert inbox.take("classes/0", b"") is None and inbox.num_bad == 2
    assert "Traceback" not in caplog.text
