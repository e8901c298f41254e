"""Headless Chromium for tests, spoken to over the DevTools protocol by a pair of pipes: no port, no library, no driver.

    with Browser() as browser:
        page = browser.open("http://127.0.0.1:4651/")
        page.wait("document.querySelector('canvas')")
        page.screenshot("trees.png")
"""
import base64
import json
import os
import queue
import shutil
import signal
import subprocess
import tempfile
import threading
import time

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = [
    "--headless=new", "--no-first-run", "--no-default-browser-check", "--disable-extensions", "--disable-gpu",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps",
    "--disable-dev-shm-usage", "--hide-scrollbars", "--mute-audio", "--force-color-profile=srgb", "--remote-debugging-pipe",
    "--font-render-hinting=none",
]


class BrowserError(Exception):
    pass


def program():
    """The browser's path; None: there is none."""
    return next((path for path in map(shutil.which, PROGRAMS) if path), None)


class Browser:
    def __init__(self, timeout=30, before=()):
        """`before`: a command that runs the browser, such as nsenter."""
        self.timeout = timeout
        self.profile = tempfile.mkdtemp(prefix="banyan-chromium-")
        to_browser, self.write_end = os.pipe()
        self.read_end, from_browser = os.pipe()
        flags = FLAGS + [f"--user-data-dir={self.profile}"] + (["--no-sandbox"] if os.geteuid() == 0 else [])
        # The protocol is spoken on descriptors 3 and 4.
        script = 'exec "$@" 3<&"$IN" 4>&"$OUT" 2>/dev/null'
        self.process = subprocess.Popen(["bash", "-c", script, "chromium", *before, program(), *flags], pass_fds=(to_browser, from_browser),
                                        stdout=subprocess.DEVNULL, start_new_session=True,
                                        env={**os.environ, "IN": str(to_browser), "OUT": str(from_browser)})
        os.close(to_browser)
        os.close(from_browser)
        self.answers = {}
        self.arrived = threading.Condition()
        self.sessions = {}
        self.next_id = 0
        self.closed = False
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        try:
            self.call("Browser.close", timeout=3)
        except (BrowserError, OSError):
            pass
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self.write_end)
        shutil.rmtree(self.profile, ignore_errors=True)

    def _read(self):
        rest = b""
        while True:
            got = os.read(self.read_end, 1 << 20)
            if not got:
                break
            *messages, rest = (rest + got).split(b"\0")
            for message in messages:
                self._take(json.loads(message))
        with self.arrived:
            self.closed = True
            self.arrived.notify_all()

    def _take(self, message):
        if "id" in message:
            with self.arrived:
                self.answers[message["id"]] = message
                self.arrived.notify_all()
        elif message.get("sessionId") in self.sessions:
            self.sessions[message["sessionId"]].events.put(message)

    def call(self, method, params=None, session=None, timeout=None):
        with self.arrived:
            self.next_id += 1
            number = self.next_id
        message = {"id": number, "method": method, "params": params or {}}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.write_end, data):]
        with self.arrived:
            if not self.arrived.wait_for(lambda: number in self.answers or self.closed, timeout or self.timeout):
                raise BrowserError(f"{method}: no answer")
            if number not in self.answers:
                raise BrowserError(f"{method}: the browser has ended")
            answer = self.answers.pop(number)
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error'].get('message')}")
        return answer["result"]

    def open(self, url, width=1440, height=900, scale=1, dark=False, calm=False):
        """A page in a context of its own. Waits for nothing but that the navigation has begun."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", {"url": "about:blank", "browserContextId": context})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        page = Page(self, session, target)
        self.sessions[session] = page
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.resize(width, height, scale)
        page.media(dark, calm)
        page.call("Page.navigate", {"url": url})
        return page


class Page:
    def __init__(self, browser, session, target):
        self.browser = browser
        self.session = session
        self.target = target
        self.events = queue.Queue()
        self.requests = []   # every URL that was asked for
        self.problems = []   # console errors, exceptions, refused and failed requests

    def call(self, method, params=None, timeout=None):
        return self.browser.call(method, params, self.session, timeout)

    def resize(self, width, height, scale=1):
        self.call("Emulation.setDeviceMetricsOverride",
                  {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": False})

    def media(self, dark=False, calm=False):
        self.call("Emulation.setEmulatedMedia", {"features": [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "prefers-reduced-motion", "value": "reduce" if calm else "no-preference"}]})

    def run(self, script, timeout=None):
        """The value of a JavaScript expression; promises are awaited."""
        result = self.call("Runtime.evaluate", {"expression": script, "returnByValue": True, "awaitPromise": True}, timeout)
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            raise BrowserError(f"{script}: {details.get('exception', {}).get('description', details.get('text'))}")
        return result["result"].get("value")

    def wait(self, condition, seconds=10, step=0.03):
        """Until the expression is true; returns how long it took."""
        began = time.monotonic()
        while True:
            try:
                if self.run(f"!!({condition})"):
                    return time.monotonic() - began
            except BrowserError as error:
                # Between two documents there is nothing to ask.
                if "ReferenceError" not in str(error) and "TypeError" not in str(error) and "context" not in str(error):
                    raise
            if time.monotonic() - began > seconds:
                self.drain()
                raise BrowserError(f"not within {seconds} s: {condition}; {self.problems}")
            time.sleep(step)

    def key(self, key, text=None):
        codes = {"Enter": 13, "Escape": 27, "Tab": 9, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, " ": 32}
        params = {"key": key, "windowsVirtualKeyCode": codes.get(key, ord(key[0].upper()))}
        if text or len(key) == 1:
            params["text"] = text or key
        elif key == "Enter":
            params["text"] = "\r"
        self.call("Input.dispatchKeyEvent", {"type": "keyDown", **params})
        self.call("Input.dispatchKeyEvent", {"type": "keyUp", **{k: v for k, v in params.items() if k != "text"}})

    def type(self, text):
        self.call("Input.insertText", {"text": text})

    def mouse(self, kind, x, y, **more):
        self.call("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, **more})

    def click(self, x, y, count=1):
        self.mouse("mouseMoved", x, y)
        for number in range(1, count + 1):
            self.mouse("mousePressed", x, y, button="left", buttons=1, clickCount=number)
            self.mouse("mouseReleased", x, y, button="left", clickCount=number)

    def screenshot(self, path):
        data = base64.b64decode(self.call("Page.captureScreenshot", {"format": "png"})["data"])
        with open(path, "wb") as file:
            file.write(data)
        return data

    def drain(self):
        """Takes note of what the page has asked for and complained of since the last time."""
        while True:
            try:
                event = self.events.get_nowait()
            except queue.Empty:
                return self
            method, params = event["method"], event["params"]
            if method == "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])
            elif method == "Network.loadingFailed" and not params.get("canceled"):
                self.problems.append(f"request failed: {params.get('errorText')} {params.get('blockedReason', '')}")
            elif method == "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                self.problems.append(f"exception: {details.get('exception', {}).get('description', details.get('text'))}")
            elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
                self.problems.append("console: " + " ".join(str(arg.get("value", arg.get("description"))) for arg in params["args"]))
            elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
                self.problems.append(f"log: {params['entry']['text']} {params['entry'].get('url', '')}")

    def close(self):
        self.browser.call("Target.closeTarget", {"targetId": self.target})
