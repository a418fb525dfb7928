"""Looks at the page of real pipelines with a real browser. Screenshots of each scene come to the folder in the arguments."""

import os
import subprocess
import sys
import threading
import time

from browser import Browser
from services import Kinesis, Worker

folder = sys.argv[1]
TAB, ENTER = "\ue004", "\ue007"


def shoot(browser, name, whole=True):
    for theme in ("light", "dark"):
        browser.theme(theme)
        browser.shoot(f"{folder}/{name}-{theme}.png", whole)


def says(*texts):
    return "return " + " && ".join(f"document.querySelector('main').innerText.includes({text!r})" for text in texts)


def fits(browser, what):
    wide = browser.run("return document.documentElement.scrollWidth > document.documentElement.clientWidth")
    assert not wide, f"{what}: the page is wider than its window"


def writes(kinesis, stream, stop):
    while not stop.wait(0.5):
        try:
            kinesis.put(stream, 100)
        except OSError:
            pass


def healthy(browser, kinesis):
    """Two workers share a stream. The page refreshes itself, filters, and is used by keyboard alone."""
    kinesis.create("orders", 6)
    first = Worker(folder, kinesis, "worker-1", "orders", "drop")
    stop = threading.Event()
    writer = threading.Thread(target=writes, args=(kinesis, "orders", stop))
    writer.start()
    browser.open(first.page)
    browser.until(says("Reading 6 shards"), "one worker has all")
    second = Worker(folder, kinesis, "worker-2", "orders", "drop")
    try:
        # The script fetches the page anew; the page itself is not loaded again.
        browser.run("window.isTheSame = true")
        browser.until(says("Reading 3 shards", "worker-2", "released"), "each worker has half")
        browser.until("return document.querySelector('svg.acked path.line')", "a curve is drawn")
        time.sleep(float(os.environ.get("LOOK_SECONDS", "20")))
        assert browser.run("return window.isTheSame"), "the page was loaded anew"
        assert first.get("ready") == (200, "ready\n") and first.get("health")[0] == 200
        fits(browser, "healthy")
        shoot(browser, "healthy")
        # By keyboard: to the shards, into the filter, and to its result.
        browser.run("document.activeElement.blur()")
        browser.press([TAB])
        assert browser.run("return document.activeElement.className") == "skip"
        for _ in range(20):
            if browser.run("return document.activeElement.id") == "filter":
                break
            browser.press([TAB])
        browser.press(list("worker-2") + [ENTER])
        browser.until(says("3 of 6"), "the filter finds those of the other worker")
        # Without JavaScript the numbers are there all the same.
        browser.devtools("Emulation.setScriptExecutionDisabled", {"value": True})
        browser.open(first.page)
        assert "shardId-" in first.get("")[1]
        browser.devtools("Emulation.setScriptExecutionDisabled", {"value": False})
        # A narrow window, as that of a telephone.
        browser.open(first.page)
        browser.devtools("Emulation.setDeviceMetricsOverride", {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": False})
        fits(browser, "narrow")
        shoot(browser, "narrow")
        browser.devtools("Emulation.clearDeviceMetricsOverride", {})
    finally:
        stop.set()
        writer.join()
        second.close()
    return first


def expired(browser, kinesis, first):
    """The other worker was killed: its row shows it. Then nothing answers any more, and the leases of this one expire."""
    browser.open(first.page)
    browser.until(says("Reading 6 shards", "took"), "the shards of the dead worker are taken over")
    # A stopped server is a server that does not answer.
    os.kill(kinesis.process.pid, 19)
    try:
        browser.until(says("The leases have expired", "could not be renewed"), "the leases expire")
        code, reason = first.get("ready")
        assert code == 503 and "leases" in reason, (code, reason)
        shoot(browser, "expired")
    finally:
        os.kill(kinesis.process.pid, 18)
    browser.until(says("Reading 6 shards", "valid again"), "the leases are renewed")
    first.close()
    browser.until("return !document.getElementById('stale').hidden", "the page says that nobody answers")
    shoot(browser, "stale", whole=False)


def stalled(browser, kinesis):
    """An output that takes nothing: the pool is full, and each shard has stalled."""
    kinesis.create("returns", 3)
    os.mkfifo(f"{folder}/pipe")
    held = os.open(f"{folder}/pipe", os.O_RDWR)
    os.set_blocking(held, False)
    try:
        while True:
            os.write(held, b"x" * 4096)
    except BlockingIOError:
        pass
    output = f"{{ file: {{ path: {folder}/pipe, format: raw }} }}"
    worker = Worker(folder, kinesis, "worker-3", "returns", output, "enhanced_fan_out: { enabled: true, max_pending_records: 500 }")
    try:
        for _ in range(10):
            kinesis.put("returns", 200)
        browser.open(worker.page)
        browser.until(says("Degraded", "wait for space", "reading has stalled"), "the stall shows")
        code, reason = worker.get("ready")
        assert code == 503 and "stalled" in reason, (code, reason)
        shoot(browser, "stalled")
    finally:
        worker.close()
        os.close(held)


def many(browser, kinesis):
    """Two thousand shards."""
    kinesis.create("events", 2000)
    worker = Worker(folder, kinesis, "worker-4", "events", "drop", "poll_period: 10s", f"checkpoint_file: {folder}/checkpoints")
    try:
        for _ in range(20):
            kinesis.put("events", 500)
        browser.open(worker.page)
        browser.until(says("Reading 2,000 shards", "the first 100 are shown"), "all are read", within=300)
        shoot(browser, "many")
        start = time.monotonic()
        page = worker.get("?all=1")[1]
        print(f"all 2,000 shards: {len(page) // 1024} KiB in {time.monotonic() - start:.2f} s")
        browser.open(worker.page + "?all=1")
        fits(browser, "many")
        shoot(browser, "all")
    finally:
        worker.close()


def main():
    kinesis, browser = Kinesis(folder), Browser(folder)
    try:
        scenes = sys.argv[2:] or ["healthy", "stalled", "many"]
        if "healthy" in scenes:
            expired(browser, kinesis, healthy(browser, kinesis))
        if "stalled" in scenes:
            stalled(browser, kinesis)
        if "many" in scenes:
            many(browser, kinesis)
        odd = [line for line in browser.complaints() if "ERR_CONNECTION_REFUSED" not in line]
        assert not odd, f"the browser complains: {odd}"
        print(f"all is shown; the screenshots are in {folder}")
    finally:
        browser.close()
        kinesis.close()


main()
