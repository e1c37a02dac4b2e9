"""What the command line says about the link is checked before anything is opened."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from babelrs.errors import BabelRSError
from runtime.arguments import parse_run
from runtime.links.options import PASSWORD_VARIABLE, parse_broker


def test_an_address_is_taken_apart() -> None:
    broker = parse_broker("mqtts://us%40er:pass%2Fword@host.example/fleet/drone%201/")
    assert (broker.host, broker.port, broker.prefix) == ("host.example", 8883, "fleet/drone 1")
    assert (broker.user, broker.password, broker.is_secure) == ("us@er", "pass/word", True)
    assert parse_broker("mqtt://[::1]:77/a").host == "::1"


def test_the_password_is_neither_in_the_name_nor_in_what_is_printed() -> None:
    broker = parse_broker("mqtt://user:hidden@host/a")
    assert "hidden" not in f"{broker} {broker!r}" and "user" not in str(broker)


def test_the_password_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, "from there")
    assert parse_broker("mqtt://user@host/a").password == "from there"
    assert parse_broker("mqtt://user:given@host/a").password == "given"
    assert parse_broker("mqtt://host/a").password is None


@pytest.mark.parametrize(
    "address",
    [
        "",
        "host/topic",
        "http://host/topic",
        "mqtt://",
        "mqtt:///topic",
        "mqtt://u:secret@/topic",
        "mqtt://u:secret@host",
        "mqtt://u:secret@host/",
        "mqtt://u:secret@host:0/a",
        "mqtt://u:secret@host:99999/a",
        "mqtt://u:secret@host:port/a",
        "mqtt://u:secret@host/a/+/b",
        "mqtt://u:secret@host/a/%23",
        "mqtt://u:secret@host/a%00b",
        "mqtt://u:secret@host/a?b",
        "mqtt://u:secret@host/" + "a" * 300,
        "mqtt://u:secret@[::1/a",
    ],
)
def test_what_names_no_broker_or_topic_is_refused_without_the_password(address: str) -> None:
    with pytest.raises(BabelRSError) as caught:
        parse_run(["x.png", "--mqtt", address])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        ["--mqtt-budget", "100"],
        ["--mqtt-budget", "-5"],
        ["--mqtt-spool-mib", "0"],
        ["--mqtt-linger", "-1"],
        ["--mqtt-linger", "nan"],
        ["--mqtt-ca", "no/such/file"],
    ],
)
def test_values_out_of_range_are_refused(options: list[str]) -> None:
    with pytest.raises(BabelRSError, match="--mqtt"):
        parse_run(["x.png", "--mqtt", "mqtts://host/a", *options])


def test_without_an_address_there_is_no_link() -> None:
    assert parse_run(["x.png"]).link is None


def test_a_run_without_a_link_does_not_load_its_library() -> None:
    code = "import sys, runtime.cli, runtime.outputs; sys.exit('paho' in sys.modules or 'sqlite3' in sys.modules)"
    root = Path(__file__).resolve().parents[3]
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=root).returncode == 0


def test_a_missing_library_is_said_with_its_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tests.runtime.links.frames import open_sink, options_for

    monkeypatch.setitem(sys.modules, "paho.mqtt", None)
    with pytest.raises(BabelRSError, match=r"needs paho-mqtt 2 or later.*babelrs\[mqtt\]"):
        open_sink(tmp_path, options_for(1))
    assert not any(tmp_path.iterdir())
