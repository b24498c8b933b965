"""Passwords in addresses: a table of what people type, and that no part of a secret is shown."""

import io
import sys

import pytest

from edge_runtime.cli.run import run_verb
from edge_runtime.errors import UsageError
from edge_runtime.secrets import hide_secrets, remember, shown_address

# (address, how it is shown, the secret)
ADDRESSES = [
    ("rtsp://eva:Secret1@cam/live", "rtsp://eva:***@cam/live", "Secret1"),
    ("rtsp://eva:Secret1@cam:8554/live", "rtsp://eva:***@cam:8554/live", "Secret1"),
    ("RTSP://eva:Secret1@cam/live", "RTSP://eva:***@cam/live", "Secret1"),
    ("rtsps://eva:Secret1@10.0.0.7:322/a", "rtsps://eva:***@10.0.0.7:322/a", "Secret1"),
    ("rtmp://eva:Secret1@cam/app/key", "rtmp://eva:***@cam/app/key", "Secret1"),
    ("http://eva:Secret1@cam:8080/a.mjpg", "http://eva:***@cam:8080/a.mjpg", "Secret1"),
    ("srt://eva:Secret1@cam:9000?mode=caller", "srt://eva:***@cam:9000?mode=caller", "Secret1"),
    ("rtsp://eva:Sec#ret1@cam/live", "rtsp://eva:***@cam/live", "Sec#ret1"),
    ("rtsp://eva:Sec/ret1@cam:554/live", "rtsp://eva:***@cam:554/live", "Sec/ret1"),
    ("rtsp://eva:Sec?ret1@cam/live", "rtsp://eva:***@cam/live", "Sec?ret1"),
    ("rtsp://eva:Sec@ret1@cam/live", "rtsp://eva:***@cam/live", "Sec@ret1"),
    ("rtsp://eva:Sec:ret1@cam/live", "rtsp://eva:***@cam/live", "Sec:ret1"),
    ("rtsp://eva:Sec%ret1@cam/live", "rtsp://eva:***@cam/live", "Sec%ret1"),
    ("rtsp://eva:12/345@cam/live", "rtsp://eva:***@cam/live", "12/345"),
    ("rtsp://eva:12345@cam/live", "rtsp://eva:***@cam/live", "12345"),
    ("rtsp://eva:Sec%23ret1@cam/live", "rtsp://eva:***@cam/live", "Sec%23ret1"),
    ("rtsp://eva:Secret1@[fe80::1]:8554/live", "rtsp://eva:***@[fe80::1]:8554/live", "Secret1"),
    ("rtsp://:Secret1@cam/live", "rtsp://:***@cam/live", "Secret1"),
    ("rtsp://eva:Secret1", "rtsp://eva:***", "Secret1"),
    ("rtsp://eva:Sec#ret1/live", "rtsp://eva:***", "Sec#ret1"),
    ("http://cam/live?token=Secret1", "http://cam/live?token=***", "Secret1"),
    ("http://cam:80/live?a=1&access_token=Sec/ret1==&b=2", "http://cam:80/live?a=1&access_token=***&b=2", "Sec/ret1"),
    ("https://cam/live?X-Amz-Signature=Secret1&x=1", "https://cam/live?X-Amz-Signature=***&x=1", "Secret1"),
    ("https://cam/live?sig=Secret1#t=3", "https://cam/live?sig=***", "Secret1"),
    ("https://cam/live#access_token=Secret1", "https://cam/live#access_token=***", "Secret1"),
    ("http://cam/live?user=eva&pwd=Sec@ret1", "http://cam/live?user=eva&pwd=***", "Sec@ret1"),
    ("http://cam/live?KEY=Secret1&auth=Secret1", "http://cam/live?KEY=***&auth=***", "Secret1"),
    ("srt://cam:9000?passphrase=Secret1", "srt://cam:9000?passphrase=***", "Secret1"),
    ("rtsp://cam/user=eva&password=Secret1&channel=1", "rtsp://cam/user=eva&password=***&channel=1", "Secret1"),
    ("rtsp://cam:554/user=eva_password=Secret1_channel=1.sdp", "rtsp://cam:554/user=eva_password=***", "Secret1"),
]
OPEN = [
    "rtsp://cam/live",
    "rtsp://cam:8554/live",
    "rtsp://cam:8554",
    "rtsp://eva@cam/live",
    "rtsp://[fe80::1]:554/live",
    "rtsp://[fe80::1]/live@2",
    "rtsp://cam/live@2",
    "http://cam/a:b/live?channel=1#t",
    "udp://@239.0.0.1:1234",
    "udp://@:5000",
]


@pytest.mark.parametrize("address, shown, secret", ADDRESSES)
def test_no_part_of_a_secret_is_shown(address, shown, secret):
    assert shown_address(address) == shown
    assert shown_address(shown) == shown
    for text in ("%s", "%s: gave no frame", "'%s' is away", "(%s), or %s; %s", '{"source": "%s"}', "%s#12"):
        found = hide_secrets(text.replace("%s", address))
        assert not any(secret[start : start + 3] in found for start in range(len(secret) - 2)), found
    assert hide_secrets(f"{address}: reading failed") == f"{shown}: reading failed"


@pytest.mark.parametrize("address", OPEN)
def test_an_address_without_a_secret_stays_as_it_is(address):
    assert shown_address(address) == address
    for text in ("%s", "%s: gave no frame", "look at %s, or at %s.", "'%s'", "%s#12"):
        text = text.replace("%s", address)
        assert hide_secrets(text) == text


def test_text_without_an_address_stays_as_it_is():
    text = "token=abc: C:/photos/a.jpg, key=1"
    assert hide_secrets(text) == text


def test_an_address_that_was_given_is_known_whatever_is_in_it():
    address = "rtsp://eva:my 'own\" secret@cam/live"
    remember(["bundle", address])
    assert hide_secrets(f"open {address}") == "open rtsp://eva:***@cam/live"
    for text in (address, repr(address), f"open({address}) failed"):
        assert "own" not in hide_secrets(text) and "secret" not in hide_secrets(text)


def fails_with(error):
    def verb(_):
        raise error

    return verb


@pytest.mark.parametrize("error", [UsageError, RuntimeError])
def test_neither_an_error_nor_a_bug_s_traceback_shows_a_secret(capsys, error):
    address = "rtsp://eva:Sec#r et1@cam/live"
    assert run_verb(fails_with(error(f"{address}: no answer from {address!r}")), [address]) in (1, 2)
    err = capsys.readouterr().err
    assert "rtsp://eva:***@cam/live: no answer" in err
    assert "Sec" not in err and "et1" not in err


def test_a_stream_of_standard_error_keeps_its_methods(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    before = sys.stderr
    found = []
    assert run_verb(lambda _: found.append(sys.stderr.isatty()), []) == 0
    assert found == [False] and sys.stderr is before
