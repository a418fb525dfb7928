"""A browser without a window, spoken to by the WebDriver protocol. Nothing but Python, Chromium and its driver is needed."""

import base64
import json
import subprocess
import time
import urllib.request


class Browser:
    def __init__(self, folder):
        self.driver = subprocess.Popen(
            ["chromedriver", "--port=0", f"--log-path={folder}/chromedriver.log"], stdout=subprocess.PIPE, text=True
        )
        for line in self.driver.stdout:
            if "successfully on port" in line:
                self.at = "http://127.0.0.1:" + line.rsplit("on port", 1)[1].strip(" .\n")
                break
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking", "--window-size=1280,900"]
        # Chromium itself calls home unless it is told not to.
        wanted = {"browserName": "chrome", "goog:chromeOptions": {"args": arguments}, "goog:loggingPrefs": {"browser": "ALL"}}
        self.session = "/session/" + self.call("/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]

    def call(self, path, body=None, method=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.at + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, url):
        self.call(self.session + "/url", {"url": url})

    def run(self, script):
        return self.call(self.session + "/execute/sync", {"script": script, "args": []})

    def until(self, script, what, within=120):
        """Waits until a script returns something true."""
        end = time.monotonic() + within
        while time.monotonic() < end:
            found = self.run(script)
            if found:
                return found
            time.sleep(0.2)
        raise AssertionError(f"{what}: {self.run('return document.body.innerText')[:3000]}")

    def devtools(self, command, parameters):
        return self.call(self.session + "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def theme(self, theme):
        self.devtools("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": theme}]})

    def shoot(self, file, whole=True):
        size = self.devtools("Page.getLayoutMetrics", {})["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 4000 if whole else 900), "scale": 1}
        shot = self.devtools("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True, "clip": clip})
        with open(file, "wb") as out:
            out.write(base64.b64decode(shot["data"]))

    def press(self, keys):
        keys = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self.call(self.session + "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": keys}]})

    def complaints(self):
        """What the browser wrote to its console: requests that were refused, scripts that were blocked or failed."""
        return [line["message"] for line in self.call(self.session + "/se/log", {"type": "browser"})]

    def close(self):
        try:
            self.call(self.session, method="DELETE")
        finally:
            self.driver.kill()
            self.driver.wait()
