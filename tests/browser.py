"""A headless Chromium that opens one page and tells what it did: messages, requests, the sizes of elements, pictures.

It is spoken to over two pipes (--remote-debugging-pipe: file descriptors 3 and 4, JSON messages that end with NUL) by
the Chrome DevTools Protocol (chromedevtools.github.io/devtools-protocol), so that nothing has to listen on a port.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
ANSWER_S = 60.0
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-extensions", "--disable-background-networking", "--disable-component-update",
    "--remote-debugging-pipe", "--hide-scrollbars",
)  # fmt: skip


def program() -> str | None:
    """The browser to start, None where there is none."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


class Browser:
    """One page. `messages`: console lines, exceptions and complaints of the browser. `requests`: all addresses."""

    def __init__(self, profile: Path) -> None:
        self.messages: list[str] = []
        self.requests: list[str] = []
        self._events: list[dict[str, Any]] = []
        self._number, self._received = 0, b""
        found = program()
        assert found, f"found none of {', '.join(PROGRAMS)}; tools/install_browser.py installs one"
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        # The shell puts the pipes where the browser looks for them, whatever numbers they have here.
        command = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        self._process = subprocess.Popen(
            ["bash", "-c", command, "bash", found, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        target = self._call("Target.createTarget", {"url": "about:blank"}, None)["targetId"]
        attached = self._call("Target.attachToTarget", {"targetId": target, "flatten": True}, None)
        self._session: str | None = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._call("Browser.close", {}, None)
            self._process.wait(10)
        except (AssertionError, OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._out)
        os.close(self._in)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A method of the protocol on the page; returns its result."""
        return self._call(method, parameters, self._session)

    def open(self, path: Path) -> None:
        """Load a file and wait until it is there with all that it asks for."""
        self._events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        deadline = time.monotonic() + ANSWER_S
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._take(deadline)

    def value(self, expression: str) -> Any:
        """What an expression of JavaScript is on the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def look(self, width: int, scheme: str, height: int = 900) -> None:
        """The size of the window in CSS pixels, and `light` or `dark`."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path: Path) -> None:
        """The whole page, as long as it is."""
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(taken["data"]))

    def _call(self, method: str, parameters: dict[str, Any], session: str | None) -> dict[str, Any]:
        self._number += 1
        number = self._number
        message = {"id": number, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + ANSWER_S
        while True:
            answer = self._take(deadline)
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def _take(self, deadline: float) -> dict[str, Any]:
        """The next message; an event is also kept."""
        while b"\0" not in self._received:
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"found no answer of {program()} within {ANSWER_S:.0f} s"
            if select.select([self._in], [], [], left_s)[0]:
                more = os.read(self._in, 1 << 20)
                assert more, f"{program()} ended, exit code {self._process.poll()}"
                self._received += more
        text, _, self._received = self._received.partition(b"\0")
        message = json.loads(text)
        if "method" in message:
            self._note(message)
        return message

    def _note(self, event: dict[str, Any]) -> None:
        self._events.append(event)
        told = event.get("params", {})
        if event["method"] == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif event["method"] == "Runtime.exceptionThrown":
            self.messages.append(str(told["exceptionDetails"]))
        elif event["method"] == "Runtime.consoleAPICalled":
            self.messages.append(f"{told['type']}: {[one.get('value') for one in told['args']]}")
        elif event["method"] == "Log.entryAdded":
            self.messages.append(f"{told['entry']['level']}: {told['entry']['text']}")
