"""Credentials in addresses are never shown, and names of result files never meet."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.sources.naming import Names, hidden, redacted, safe_stem

SECRET = "Tr0ub4dor"
WITH_SECRET = [
    f"rtsp://admin:{SECRET}@10.0.0.7:554/h264",
    f"rtsp://admin:{SECRET}@@10.0.0.7/x",
    f"rtsp://admin:p/{SECRET}@10.0.0.7/x",
    f"rtsp://{SECRET}@10.0.0.7/x",
    f"rtsp://10.0.0.7/user=admin_password={SECRET}_channel=1_stream=0.sdp",
    f"http://10.0.0.7/video?user=admin&pwd={SECRET}&channel=2",
    f"http://10.0.0.7/video?t={SECRET}",
    f"gst:rtspsrc location=rtsp://admin:{SECRET}@host/x ! rtph264depay ! avdec_h264",
    f'gst:rtspsrc location="rtsp://admin:{SECRET}@host/x" ! decodebin',
    f'gst:rtspsrc location=rtsp://host/x user-id=admin user-pw="{SECRET}" ! decodebin',
    f"gst:srtsrc uri=srt://host:7001?passphrase={SECRET} ! tsdemux",
    f"RTSP://ADMIN:{SECRET}@HOST/X?PASSWORD={SECRET}",
]


@pytest.mark.parametrize("address", WITH_SECRET)
def test_credentials_are_hidden_and_the_rest_still_tells_which_source_it_is(address: str) -> None:
    for shown in (redacted(address), safe_stem(address), Names().prefix(address)):
        assert SECRET not in shown and SECRET.upper() not in shown.upper()
    assert redacted(address)[:7].lower() == address[:7].lower()
    assert re.search("10.0.0.7|host", safe_stem(address), re.IGNORECASE)
    assert redacted(redacted(address)) == redacted(address)


@pytest.mark.parametrize("address", ["rtsp://10.0.0.7:554/cam?channel=1&subtype=0", "gst:v4l2src device=/dev/video0"])
def test_addresses_without_credentials_stay_as_they_are(address: str) -> None:
    assert redacted(address) == address


def test_a_password_is_hidden_in_what_other_programs_say_also_with_its_escapes_undone() -> None:
    address = "rtsp://admin:pa%24%24word@10.0.0.7/x"
    text = "could not open rtsp://admin:pa%24%24word@10.0.0.7/x: login 'pa$$word' refused"
    assert "word" not in hidden(text, address)
    assert "refused" in hidden(text, address)


@given(st.text(max_size=300))
def test_any_address_gives_a_safe_file_name(address: str) -> None:
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]{0,79}", safe_stem(address))


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["a", "a_", "a_0", "a_000001", "a-2", "a-2_000000", "b"]))))
def test_no_two_frames_of_a_run_have_the_same_name(calls: list[tuple[bool, str]]) -> None:
    names, given_names = Names(), []
    for endless, base in calls:
        if endless:
            prefix = names.prefix(base)
            given_names += [f"{prefix}{number:06d}" for number in range(3)]
        else:
            given_names.append(names.unique(base))
    assert len(given_names) == len(set(given_names))
