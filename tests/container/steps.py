"""Runs the steps of a Containerfile, each stage over a copy-on-write view of this machine, and what they make.

The images that the stages begin with are not fetched: this machine's files stand in for them. So a step that works here
because of a program that the image lacks is not found. Everything else of a step is done: RUN runs as the user and in the
folder that the file says, COPY copies, and nothing of it reaches this machine.
"""

import ctypes
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request

ROOT = sys.argv[1]
SCRATCH = f"{ROOT}/target/container"
sys.path.insert(0, f"{ROOT}/tests/page")
from services import Kinesis  # noqa: E402

# What the images set, and what this machine needs so that cargo finds itself.
IMAGE = {"PATH": os.environ["PATH"], "HOME": "/root"}


def call(*arguments, **options):
    return subprocess.run(arguments, check=True, **options)


def instructions(text):
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for line in re.sub(r"\\\n\s*", "", lines).splitlines():
        if line.strip():
            yield line.split(maxsplit=1)


class Stage:
    def __init__(self, number):
        self.folder, self.user, self.environment = "/", "0", dict(IMAGE)
        self.healthcheck = self.entrypoint = self.command = None
        base = f"{SCRATCH}/mounts/{number}"
        self.root = f"{base}/root"
        for name in ("upper", "work", "root"):
            os.makedirs(f"{base}/{name}")
        layers = f"lowerdir=/,upperdir={base}/upper,workdir={base}/work"
        call("mount", "-t", "overlay", "overlay", "-o", layers, self.root)
        for kernel in ("proc", "dev", "sys"):
            call("mount", "--rbind", f"/{kernel}", f"{self.root}/{kernel}")

    def inside(self, path):
        return self.root + os.path.join(self.folder, path)

    def start(self, arguments, **options):
        """Starts a program inside, as the user and in the folder of the stage."""
        inside = ["sh", "-c", 'cd "$0" && exec "$@"', self.folder, *arguments]
        return subprocess.Popen(["chroot", f"--userspec={self.user}:{self.user}", "--groups=", self.root, *inside], env=self.environment, **options)

    def run(self, arguments, **options):
        return self.start(arguments, **options).wait()


def context(stage, folder):
    """What `COPY . .` copies: the files of the repository, without those that .dockerignore names."""
    os.makedirs(folder, exist_ok=True)
    files = call("git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard", capture_output=True).stdout
    with open(f"{ROOT}/.dockerignore") as ignored:
        assert {"target", ".git"} <= set(ignored.read().split()), "the context would be huge"
    tar = call("tar", "-C", ROOT, "--null", "-T", "-", "-c", input=files, capture_output=True).stdout
    call("tar", "-C", folder, "--no-same-owner", "-x", input=tar)


def build():
    stages, names = [], {}
    with open(f"{ROOT}/dist/container/Containerfile") as file:
        steps = list(instructions(file.read()))
    for what, text in steps:
        print(f"{what} {text}", flush=True)
        stage = stages[-1] if stages else None
        if what == "FROM":
            stage = Stage(len(stages))
            stages.append(stage)
            if " AS " in text:
                names[text.split(" AS ")[1]] = stage
        elif what == "ARG":
            name, _, value = text.partition("=")
            stage.environment[name] = value
        elif what == "WORKDIR":
            stage.folder = text
            os.makedirs(stage.root + text, exist_ok=True)
        elif what == "USER":
            stage.user = text
        elif what == "COPY" and text == ". .":
            context(stage, stage.inside("."))
            # So that a second run compiles only what changed. No step may depend on it.
            os.makedirs(f"{SCRATCH}/build", exist_ok=True)
            os.makedirs(stage.inside("target"))
            call("mount", "--bind", f"{SCRATCH}/build", stage.inside("target"))
        elif what == "COPY":
            origin, *sources, target = text.split()
            of = names[origin.removeprefix("--from=")]
            os.makedirs(os.path.dirname(stage.inside(target)), exist_ok=True)
            for source in sources:
                shutil.copy2(of.root + source, stage.inside(target))
        elif what == "RUN":
            assert stage.run(["sh", "-ec", text]) == 0, f"RUN {text}"
        elif what == "HEALTHCHECK":
            stage.healthcheck = json.loads(text.removeprefix("CMD "))
        elif what in ("ENTRYPOINT", "CMD"):
            setattr(stage, {"ENTRYPOINT": "entrypoint", "CMD": "command"}[what], json.loads(text))
        else:
            assert what in ("EXPOSE", "STOPSIGNAL"), f"this script does not know {what}"
    return stages[-1]


def until(what, condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def alone():
    """Leaves this process and its children with a loopback of their own: the image's port is open to all who reach it."""
    new_network, set_flags, up = 0x40000000, 0x8914, 1
    assert ctypes.CDLL(None, use_errno=True).unshare(new_network) == 0, os.strerror(ctypes.get_errno())
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, set_flags, struct.pack("16sH22x", b"lo", up))


def ready():
    try:
        with urllib.request.urlopen("http://127.0.0.1:9100/ready", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def use(image):
    assert image.run([*image.entrypoint, "--version"]) == 0
    assert image.user != "0" and image.run(["test", "-w", "."]) == 0, "the program can't write its checkpoints"
    assert image.run(["test", "-w", "/usr/local/bin/kinesis-input"]) != 0, "the program can replace itself"
    assert image.run(image.healthcheck, stderr=subprocess.DEVNULL) != 0, "healthy though nothing runs"
    kinesis = Kinesis(SCRATCH)
    kinesis.create("orders", 2)
    kinesis.put("orders", 100)
    os.makedirs(f"{image.root}/etc/kinesis-input")
    with open(f"{image.root}/etc/kinesis-input/pipeline.yaml", "w") as file:
        file.write(f"""input:
  aws_kinesis:
    streams: [orders]
    region: us-east-1
    endpoint: {kinesis.endpoint}
    credentials: {{ id: test, secret: test }}
    checkpoint_file: orders.checkpoints
    start_from_oldest: true
output:
  file: {{ path: orders, format: raw }}
""")
    image.environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": image.folder, "AWS_EC2_METADATA_DISABLED": "true"}
    program = image.start([*image.entrypoint, *image.command])
    try:
        until("ready", ready)
        with open(f"/proc/{program.pid}/status") as status:
            owner = re.search(r"Uid:\t(\d+)", status.read()).group(1)
        assert owner == image.user, f"it runs as {owner}"
        assert image.run(image.healthcheck) == 0, "not healthy though it runs"

        def written():
            with open(image.inside("orders")) as orders:
                return sum(1 for _ in orders) == 100

        until("all records are written", written)
        program.send_signal(signal.SIGTERM)
        assert program.wait(timeout=30) == 0, "it does not stop gracefully"
        assert image.run(image.healthcheck, stderr=subprocess.DEVNULL) != 0, "healthy though it stopped"
    finally:
        program.kill()
        kinesis.close()


os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
os.makedirs(f"{SCRATCH}/mounts", exist_ok=True)
# The upper layers of an overlay can't lie on another one, and are gone with the mount.
call("mount", "-t", "tmpfs", "tmpfs", f"{SCRATCH}/mounts")
image = build()
alone()
use(image)
print("all steps done; the program runs as its user, is healthy, reads and stops")
