"""From the real KCL to a pipeline of ours and back, over a stream that is split and merged meanwhile.

usage: kcl_import.py PLAIN-ENDPOINT SECURE-ENDPOINT PROGRAM FOLDER one|several JAVA...

The KCL is killed with positions of every kind: inside an aggregate, at the last user record of one, at a plain record,
and with nothing processed. A pipeline goes on, and is stopped inside an aggregate. The KCL goes on again. No user record
may be missing, and what the KCL had processed after its last checkpoints comes twice, and nothing else.
"""

import collections
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time

import boto3
from aws_kinesis_agg.aggregator import RecordAggregator

plain, secure, program, folder, form, *java = sys.argv[1:]
STREAM, APPLICATION, TABLE = f"orders-{form}", f"orders-app-{form}", f"leases-{form}"
# A user record is larger than two pipes, so that the pipeline can be stopped between two of them.
PIPE, PAD = 4096, "." * 10_000
FAILOVER = "5"
# For how many seconds a pipeline that runs well is never silent while there is something to read.
SILENCE = 45
os.environ |= {
    "AWS_ACCESS_KEY_ID": "simulated", "AWS_SECRET_ACCESS_KEY": "simulated", "AWS_REGION": "eu-west-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
session = boto3.Session(region_name="eu-west-1")
kinesis, dynamodb = (session.client(service, endpoint_url=plain) for service in ("kinesis", "dynamodb"))
put, started = [], []


def begin(command, **outputs):
    """Starts a process that does not outlive this one."""
    started.append(subprocess.Popen(command, **outputs))
    return started[-1]


def until(what, is_so, seconds=300):
    give_up = time.monotonic() + seconds
    while not (found := is_so()):
        if time.monotonic() > give_up:
            sys.exit(f"kcl-import: {what} did not come about within {seconds} s")
        time.sleep(0.1)
    return found


# The stream.


def shards():
    return {int(shard["ShardId"][-12:]): shard for shard in kinesis.list_shards(StreamName=STREAM)["Shards"]}


def is_active():
    summary = kinesis.describe_stream_summary(StreamName=STREAM)["StreamDescriptionSummary"]
    return summary if summary["StreamStatus"] == "ACTIVE" else None


def start(shard):
    return shards()[shard]["HashKeyRange"]["StartingHashKey"]


def split(shard):
    keys = shards()[shard]["HashKeyRange"]
    middle = (int(keys["StartingHashKey"]) + int(keys["EndingHashKey"])) // 2
    kinesis.split_shard(StreamName=STREAM, ShardToSplit=name(shard), NewStartingHashKey=str(middle))
    until("the split", is_active)


def merge(one, other):
    kinesis.merge_shards(StreamName=STREAM, ShardToMerge=name(one), AdjacentShardToMerge=name(other))
    until("the merge", is_active)


def name(shard):
    return f"shardId-{shard:012}"


def number():
    put.append(len(put))
    return put[-1]


def data(number):
    return f"{number} {PAD}".encode()


def one(shard):
    """Puts a plain record, and returns its number."""
    made = number()
    kinesis.put_record(StreamName=STREAM, PartitionKey=str(made), ExplicitHashKey=start(shard), Data=data(made))
    return made


def aggregate(shard, count=10):
    """Puts an aggregate, and returns the numbers of its user records."""
    packer, made, key = RecordAggregator(), [number() for _ in range(count)], start(shard)
    for user_record in made:
        packer.add_user_record(str(user_record), data(user_record), key)
    _, _, packed = packer.clear_and_get().get_contents()
    kinesis.put_record(StreamName=STREAM, PartitionKey="a", ExplicitHashKey=key, Data=bytes(packed))
    return made


def fill(shard):
    """Puts plain records and aggregates, and returns their numbers."""
    return [[one(shard)], [one(shard)], aggregate(shard), [one(shard)], aggregate(shard), [one(shard)]]


# The KCL.


class Kcl:
    def __init__(self, worker, arn, epoch, stops=()):
        self.log = f"{folder}/{form}-{worker}.log"
        open(self.log, "w").close()
        told = [secure, plain, APPLICATION, worker, arn, str(epoch), self.log, form, *stops]
        errors = open(f"{folder}/{form}-{worker}.err", "w")
        self.process = begin([*java, "foreign.Application", *told], stdout=errors, stderr=errors)

    def lines(self, word):
        with open(self.log) as log:
            whole = [line.split() for line in log if line.endswith("\n")]
        return [line[1:] for line in whole if line[0] == word]

    def read(self):
        """What it processed and stored, and what it processed behind its last checkpoints."""
        stored, behind = [], collections.defaultdict(list)
        with open(self.log) as log:
            for line in log:
                match line.split():
                    # It lost the lease and has it again, so it processes again what it did not store: its own affair.
                    case ["begun", shard, *_]:
                        behind[shard].clear()
                    case ["read", shard, number]:
                        behind[shard].append(int(number))
                    case ["checkpoint" | "ended", shard, *_]:
                        stored += behind.pop(shard, [])
        return stored, [number for numbers in behind.values() for number in numbers]

    def kill(self):
        self.process.kill()
        self.process.wait()


def rows():
    items, more = [], {}
    while True:
        page = dynamodb.scan(TableName=APPLICATION, ConsistentRead=True, **more)
        items += page["Items"]
        if "LastEvaluatedKey" not in page:
            return sorted(items, key=lambda item: item["leaseKey"]["S"])
        more = {"ExclusiveStartKey": page["LastEvaluatedKey"]}


def dump(when):
    texts = lambda value: value.hex() if isinstance(value, bytes) else sorted(value) if isinstance(value, set) else value
    with open(f"{folder}/{form}-{when}.json", "w") as file:
        json.dump(rows(), file, indent=2, sort_keys=True, default=texts)


# Ours.


def migrate(command, *arguments, code=0, says=""):
    told = ["kcl", command, "--app", APPLICATION, "--stream", STREAM, "--table", TABLE, "--endpoint", plain]
    told += ["--failover", FAILOVER, *arguments]
    done = subprocess.run([program, *told], capture_output=True, text=True, timeout=120)
    said = done.stdout + done.stderr
    print(f"$ kinesis-input kcl {command} {' '.join(arguments)}".rstrip(), said, sep="\n", flush=True)
    if done.returncode != code or says not in said:
        sys.exit(f"kcl-import: exit code {done.returncode} in place of {code}, or it did not say {says!r}")


class Pipeline:
    def __init__(self):
        file = f"{folder}/{form}.yaml"
        with open(file, "w") as pipeline:
            # The shards begin where the import says, and not at the latest record.
            json.dump({
                "input": {"aws_kinesis": {
                    "streams": [STREAM], "region": "eu-west-1", "endpoint": plain, "client_id": "pipeline",
                    "start_from_oldest": False, "dynamodb": {"table": TABLE},
                    "enhanced_fan_out": {"enabled": True}, "commit_period": "1s", "rebalance_period": "1s",
                }},
                "output": {"stdout": {}}, "pipeline": {"batch_size": 1}, "shutdown_timeout": "3s",
            }, pipeline)
        out, into = os.pipe()
        fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, PIPE)
        errors = open(f"{folder}/{form}-pipeline.err", "w")
        self.process = begin([program, "run", file], stdout=into, stderr=errors)
        os.close(into)
        self.out, self.part, self.read = out, b"", []

    def until(self, numbers):
        """Takes user records until it has these, or until none has come for long."""
        missing = set(numbers) - set(self.read)
        while missing and select.select([self.out], [], [], SILENCE)[0]:
            read = os.read(self.out, PIPE)
            if not read:
                break
            self.part += read
            line, end, rest = self.part.partition(b"\n")
            if end:
                self.read.append(int(line.split()[0]))
                self.part = rest
                missing.discard(self.read[-1])
        if missing:
            print(f"the pipeline did not deliver {sorted(missing)}", flush=True)

    def stop(self):
        """Stops gracefully while the output takes nothing more: the pipe holds a part of a user record, and no whole one."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        if b"\n" in os.read(self.out, PIPE):
            sys.exit("kcl-import: the pipe held the end of a user record")


def main():
    kinesis.create_stream(StreamName=STREAM, ShardCount=3)
    summary = until("the stream", is_active)
    arn, epoch = summary["StreamARN"], int(summary["StreamCreationTimestamp"].timestamp())
    _, inside, _ = fill(0), fill(1), fill(2)
    split(0)
    plain_one, behind = fill(3), fill(4)
    # Shard 1 stops inside an aggregate and shard 4 behind one, shard 3 at a plain record, and shard 2 at its start.
    stops = [
        f"{name(1)}={inside[2][6]}+2", f"{name(2)}=nothing", f"{name(3)}={plain_one[3][0]}+5", f"{name(4)}={behind[2][-1]}+0",
    ]
    kcl = Kcl("worker-1", arn, epoch, stops)
    until("the stop of the KCL", lambda: len(kcl.lines("stopped")) == 4 and kcl.lines("ended"))
    migrate("import", "--create", "--dry-run", code=1, says="worker-1 wrote to its table")
    kcl.kill()
    dump("before")
    # Children that the KCL has never seen.
    split(1)
    for shard in (4, 5, 6):
        fill(shard)

    migrate("import", "--create", "--dry-run")
    migrate("import", "--create", "--yes")
    stored, behind = kcl.read()
    pipeline = Pipeline()
    pipeline.until(set(put) - set(stored))
    merge(3, 4)
    filled = fill(7)
    pipeline.until(number for numbers in filled for number in numbers)
    migrate("export", "--dry-run", code=1, says="read already, by pipeline")
    last = aggregate(7)
    pipeline.until(last[:4])
    pipeline.stop()

    migrate("export", "--yes", code=1, says="--create")
    migrate("export", "--create", "--dry-run")
    migrate("export", "--create", "--yes")
    dump("exported")
    for shard in (2, 5, 6, 7):
        fill(shard)
    ends = [one(shard) for shard in (2, 5, 6, 7)]
    again = Kcl("worker-2", arn, epoch)
    until("the end", lambda: set(ends) <= set(sum(again.read(), [])))
    again.kill()
    dump("after")

    # What the KCL processed behind its checkpoints is not done: it has to come again, and nothing else may.
    read = [stored + behind, pipeline.read, sum(again.read(), [])]
    times = collections.Counter(number for numbers in read for number in numbers)
    due = {number: 1 + (number in behind) for number in put}
    lost = sorted(number for number in put if times[number] < due[number])
    beyond = sorted(number for number, count in times.items() if count > due.get(number, 0))
    repeated = sum(count - 1 for count in times.values() if count > 1)
    by = "read by the KCL={}, by the pipeline={}, by the KCL again={}".format(*map(len, read))
    print(f"kcl-import ({form}): put={len(put)}, {by}, lost={len(lost)}, repeated={repeated} "
          f"(the KCL had processed {len(behind)} behind its checkpoints)")
    if lost or beyond:
        sys.exit(f"kcl-import: lost {lost}, too often {beyond}")


try:
    main()
finally:
    for process in started:
        process.kill()
