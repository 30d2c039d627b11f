"""A real browser, driven over the DevTools protocol: pages are opened, pointed at, typed on and looked at."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
NONE = "there is no chromium"
PATIENCE = 20.0
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-extensions", "--mute-audio",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--force-color-profile=srgb", "--remote-debugging-port=0", "--remote-allow-origins=*",
)  # fmt: skip


def found() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Chromium:
    """One browser; `page` opens a tab in a context of its own, with storage of its own."""

    def __init__(self) -> None:
        path = found()
        assert path is not None, NONE
        self.folder = Path(tempfile.mkdtemp(prefix="chromium-"))
        command = [path, *FLAGS, f"--user-data-dir={self.folder}", "about:blank"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.port = self._port()

    def _port(self) -> int:
        file, end = self.folder / "DevToolsActivePort", time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if file.is_file() and (said := file.read_text().split()):
                return int(said[0])
            assert self.process.poll() is None, "chromium ended at once"
            time.sleep(0.05)
        raise TimeoutError("chromium does not say where it listens")

    def page(
        self, address: str, width: int = 1280, height: int = 800, *, dark: bool = False, touch: bool = False
    ) -> Page:
        asked = urllib.request.Request(f"http://127.0.0.1:{self.port}/json/new?about:blank", method="PUT")
        with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
            target = json.loads(answer.read())
        page = Page(target["webSocketDebuggerUrl"])
        page.look(width, height, dark=dark, touch=touch)
        page.open(address)
        return page

    def close(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)


class Page:
    """One tab."""

    def __init__(self, address: str) -> None:
        from websockets.sync.client import connect

        self.context = connect(address, max_size=2**26, open_timeout=PATIENCE)
        self.socket = self.context.__enter__()
        self.count = 0
        self.said: list[str] = []  # errors of scripts, and what the console was told
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": params}))
        while True:
            words = json.loads(self.socket.recv(PATIENCE))
            if words.get("id") == self.count:
                assert "error" not in words, words["error"]
                return words["result"]
            self._note(words)

    def _note(self, words: dict[str, Any]) -> None:
        what, told = words.get("method"), words.get("params", {})
        if what == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self.said.append(str(details.get("exception", {}).get("description", details["text"])))
        elif what == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.said.append(told["entry"]["text"])

    def look(self, width: int, height: int, *, dark: bool = False, touch: bool = False) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        self.ask("Emulation.setTouchEmulationEnabled", enabled=touch)
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[feature])

    def open(self, address: str) -> None:
        self.ask("Page.navigate", url=address)

    def run(self, script: str) -> Any:
        given = {"expression": script, "returnByValue": True, "awaitPromise": True}
        found = self.ask("Runtime.evaluate", **given)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script: str, seconds: float = PATIENCE) -> Any:
        """Waits for a script to be true, and returns what it is."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := self.run(script):
                return value
            time.sleep(0.03)
        raise TimeoutError(
            f"never true: {script}; the page says {self.run('document.body.innerText')[:300]!r}; {self.said}"
        )

    def mouse(self, kind: str, x: float, y: float, buttons: int = 1) -> None:
        button = "none" if kind == "mouseMoved" and not buttons else "left"
        self.ask("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, buttons=buttons, clickCount=1)

    def drag(self, points: list[tuple[float, float]], pause: float = 0.016) -> None:
        """Presses at the first point, goes through the others, and lets go at the last."""
        self.mouse("mouseMoved", *points[0], buttons=0)
        self.mouse("mousePressed", *points[0])
        for point in points[1:]:
            time.sleep(pause)
            self.mouse("mouseMoved", *point)
        self.mouse("mouseReleased", *points[-1], buttons=0)

    def swipe(self, points: list[tuple[float, float]], pause: float = 0.016) -> None:
        """The same with a finger."""
        for kind, where in [("touchStart", points[0]), *(("touchMove", point) for point in points[1:])]:
            self.ask("Input.dispatchTouchEvent", type=kind, touchPoints=[{"x": where[0], "y": where[1]}])
            time.sleep(pause)
        self.ask("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])

    def press(self, key: str, code: str = "", text: str = "", modifiers: int = 0) -> None:
        number = {"Escape": 27, "Enter": 13, "Backspace": 8}.get(key, 0)
        down: dict[str, Any] = {
            "key": key,
            "code": code or key,
            "modifiers": modifiers,
            "windowsVirtualKeyCode": number,
        }
        self.ask("Input.dispatchKeyEvent", type="keyDown", **down, **({"text": text} if text else {}))
        self.ask("Input.dispatchKeyEvent", type="keyUp", **down)

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        self.context.__exit__(None, None, None)
