"""Claims about object stores: every stage works on s3://, through faults, with the numbers of a local run.

The server is moto in a process of its own on loopback; a proxy before it answers some requests with a 500 and
drops the connection of others, before or after the server has done what was asked.
"""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cache.errors import InputError
from cache.location import Location, StoreError
from pipeline.upkeep import cache_tools as cache_tool

if TYPE_CHECKING:
    from tests.stages.conftest import Stages

KEY, SECRET = "AKIAFORTESTSONLY0000", "a-secret-that-must-not-be-seen/0123456789"
BUCKET = "s3://tokens/some/prefix"


class Proxy(ThreadingHTTPServer):
    """Hands requests on to `server`; every seventh one meets a fault, each sort in turn."""

    daemon_threads = True

    def __init__(self, server: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.server, self.count, self.lock = server, 0, threading.Lock()
        self.faults = {"500": 0, "dropped before": 0, "dropped after": 0}
        self.broken = False

    def fault(self) -> str:
        """The fault that the next request meets, "" for none."""
        with self.lock:
            self.count += 1
            if self.broken:
                return "500"
            if self.count % 7:
                return ""
            name = list(self.faults)[self.count // 7 % 3]
            self.faults[name] += 1
            return name


class Handler(BaseHTTPRequestHandler):
    """One connection of the proxy."""

    server: Proxy
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.fault()
        if fault == "500":
            self.reply(500, {}, b"<Error><Code>InternalError</Code><Message>made by the test</Message></Error>")
            return
        if fault == "dropped before":
            self.connection.close()
            self.close_connection = True
            return
        upstream = http.client.HTTPConnection(self.server.server, timeout=30)
        upstream.request(self.command, self.path, body, dict(self.headers))
        response = upstream.getresponse()
        content = response.read()
        upstream.close()
        if fault == "dropped after":
            self.connection.close()
            self.close_connection = True
            return
        self.reply(response.status, dict(response.getheaders()), content)

    def reply(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = headers.get("Content-Length", str(len(content))) if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = answer

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """host:port of an S3 server with an empty bucket."""
    pytest.importorskip("moto.server", reason="needs moto[server] (make test installs it)")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                request = urllib.request.Request(f"http://127.0.0.1:{port}/tokens", method="PUT")
                urllib.request.urlopen(request, timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        yield f"127.0.0.1:{port}"
        process.kill()


@pytest.fixture
def proxy(moto: str) -> Iterator[Proxy]:
    with Proxy(moto) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()


@pytest.fixture
def env(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What a user has in the environment; set for this process too."""
    found = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.server_port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
    }
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    return found


@pytest.mark.slow
def test_all_stages_run_on_s3_through_faults_with_the_numbers_of_a_local_run(
    in_processes: Stages,
    proxy: Proxy,
    env: dict[str, str],
    tmp_path: Path,
    contents: Callable[[Path], dict[str, bytes]],
) -> None:
    for stage in ("extract", "mine-latent", "mine-concepts", "train", "eval"):
        assert in_processes.run(stage, BUCKET, env=env) == 0, in_processes.said()
        assert in_processes.run(stage, tmp_path) == 0, in_processes.said()
    assert min(proxy.faults.values()) >= 3, proxy.faults
    local, remote = contents(tmp_path), Location(BUCKET)
    timed = ("report.json", "grid.png")
    objects = {name: remote.get(name) for name in remote.names()}
    numbers = {name: data for name, data in local.items() if not name.endswith(timed)}
    assert [name for name in numbers if objects.get(name) != numbers[name]] == []
    assert any("tensorboard/" in name for name in objects)
    assert not any(name.endswith("claim.json") for name in objects)
    assert cache_tool.verify(BUCKET)["faults"] == []
    assert {e.state for e in cache_tool.entries(BUCKET)} == {"complete"}
    everything = b"".join(data or b"" for data in objects.values()) + in_processes.said().encode()
    for secret in (KEY, SECRET):
        assert secret.encode() not in everything
    cache_tool.remove(BUCKET, [next(e.name for e in cache_tool.entries(BUCKET) if e.kind == "eval")], force=False)
    assert "eval" not in {e.kind for e in cache_tool.entries(BUCKET)}


def test_a_store_that_stays_away_is_one_line_without_credentials(
    proxy: Proxy, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache.location.RETRIES", 1)
    proxy.broken = True
    with pytest.raises(StoreError) as error:
        Location(BUCKET).put("x", b"y")
    said = f"{error.value} {error.value.__cause__!r}"
    assert str(error.value).startswith(f"{BUCKET}/x: can't write (") and "\n" not in str(error.value)
    assert KEY not in said and SECRET not in said


def test_a_claim_is_given_to_one_even_when_the_answer_is_lost(proxy: Proxy, env: dict[str, str]) -> None:
    """The server took the claim, its answer never came: asked again, it is there already, and ours."""
    from cache.claims import give_back, take

    at = Location(BUCKET).child("claims")
    for number in range(21):
        assert take(at, f"{number}.json") is None
        give_back(at, f"{number}.json")
    assert proxy.faults["dropped after"] > 0
    assert at.names() == {}


@pytest.mark.parametrize("url", ["s3://key:secret@bucket/prefix", "s3://bucket/prefix?X-Amz-Signature=secret"])
def test_credentials_in_an_address_are_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(InputError, match="credentials come from the environment") as error:
        Location(url)
    assert "secret" not in str(error.value)


def test_an_unknown_bucket_is_one_line(env: dict[str, str]) -> None:
    with pytest.raises(StoreError, match=r"^s3://nosuchbucket/x: can't write \(.*\); what was computed before stays$"):
        Location("s3://nosuchbucket").put("x", b"y")


def test_the_s3_server_passes_both_conformance_suites(proxy: Proxy, env: dict[str, str]) -> None:
    """Through the proxy's faults; a claim whose answer is lost may be found taken, by us."""
    from cache.testing import ARTIFACT, check_artifacts, check_store

    assert "a_claim_has_one_owner" in check_store(Location("s3://tokens/conformance/objects"))
    assert len(check_artifacts(Location("s3://tokens/conformance/shards"))) == len(ARTIFACT)


def test_a_password_in_the_endpoint_is_in_no_error(env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cache.location.RETRIES", 0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:pa55word@127.0.0.1:9")
    with pytest.raises(StoreError) as error:
        Location("s3://tokens/x").put("x", b"y")
    said = f"{error.value} {error.value.__cause__!r}"
    assert "pa55word" not in said and "can't write" in said


def test_a_storm_of_refusals_is_waited_out(proxy: Proxy, env: dict[str, str]) -> None:
    """Longer than eight tries in four seconds, which is what it was."""
    at = Location("s3://tokens/storm")
    at.put("x", b"1")
    proxy.broken = True
    calm = threading.Timer(5.0, lambda: setattr(proxy, "broken", False))
    calm.start()
    assert at.get("x") == b"1"
    calm.join()
