"""The simulator's Kinesis, and pipelines that read it, each a process of its own."""

import json
import os
import re
import subprocess
import time
import urllib.request

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))


class Kinesis:
    def __init__(self, folder):
        # It ends with its input, and therefore with this process, however that ends.
        self.process = subprocess.Popen(
            [f"{ROOT}/target/debug/simulate", f"{folder}/certificate.pem"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        self.endpoint = self.process.stdout.readline().strip()

    def call(self, operation, **arguments):
        headers = {
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": f"Kinesis_20131202.{operation}",
            "Authorization": "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/kinesis/aws4_request, SignedHeaders=host, Signature=0",
        }
        request = urllib.request.Request(self.endpoint, json.dumps(arguments).encode(), headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"{}")

    def create(self, stream, shards):
        self.call("CreateStream", StreamName=stream, ShardCount=shards)
        while self.call("DescribeStreamSummary", StreamName=stream)["StreamDescriptionSummary"]["StreamStatus"] != "ACTIVE":
            time.sleep(0.1)

    def put(self, stream, count):
        records = [{"Data": "eHh4eHh4eHh4eHh4eHh4eHh4", "PartitionKey": os.urandom(8).hex()} for _ in range(count)]
        self.call("PutRecords", StreamName=stream, Records=records)

    def close(self):
        self.process.kill()
        self.process.wait()


class Worker:
    """A pipeline that serves its page at a port of its own."""

    def __init__(self, folder, kinesis, name, stream, output, more="", store=None):
        file = f"{folder}/{name}.yaml"
        access = "credentials: { id: test, secret: test }"
        table = f'dynamodb: {{ table: leases, create: true, region: us-east-1, endpoint: "{kinesis.endpoint}", {access} }}'
        with open(file, "w") as out:
            out.write(f"""input:
  aws_kinesis:
    streams: [{stream}]
    region: us-east-1
    endpoint: {kinesis.endpoint}
    credentials: {{ id: test, secret: test }}
    {store or table}
    client_id: {name}
    commit_period: 1s
    lease_period: 12s
    rebalance_period: 2s
    start_from_oldest: true
    {more}
output: {output}
""")
        environment = {"PATH": os.environ["PATH"], "HOME": folder, "AWS_EC2_METADATA_DISABLED": "true", "AWS_REGION": "us-east-1"}
        self.log = open(f"{folder}/{name}.log", "w+")
        self.process = subprocess.Popen(
            [f"{ROOT}/target/debug/kinesis-input", "run", file, "--http", "0"], stdin=subprocess.DEVNULL, stderr=self.log, env=environment
        )
        end = time.monotonic() + 60
        self.page = None
        while self.page is None:
            assert self.process.poll() is None and time.monotonic() < end, open(self.log.name).read()
            found = re.search(r"at (http://127\.0\.0\.1:\d+/)", open(self.log.name).read())
            self.page = found and found.group(1)
            time.sleep(0.05)

    def get(self, path):
        try:
            with urllib.request.urlopen(self.page + path, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode()

    def close(self):
        self.process.kill()
        self.process.wait()
