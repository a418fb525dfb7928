"""Compares aggregates: what the aggregation library of AWS packs must come out of ours as out of its own reader.

usage: aggregates.py PROGRAM [SEED]   PROGRAM reads a record in hex on each line and writes what it holds as JSON
"""

import base64
import json
import random
import subprocess
import sys

from aws_kinesis_agg import aggregator, deaggregator

program, seed = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 32)
chance = random.Random(seed)
ALPHABET = "abcXYZ019-_ é😀"


def key():
    return "".join(chance.choice(ALPHABET) for _ in range(chance.randint(1, 20)))


records, given, packed = [], [], []
for _ in range(300):
    packer = aggregator.RecordAggregator()
    keys = [key() for _ in range(chance.randint(1, 30))]
    for _ in range(chance.choice([1, 2, 17, 300])):
        hash_key = str(chance.randrange(1 << 128)) if chance.random() < 0.3 else None
        data = chance.randbytes(chance.choice([0, 1, 100, 1000]))
        user = [chance.choice(keys), hash_key, data.hex()]
        given.append(user)
        full = packer.add_user_record(user[0], data, hash_key)
        if full:
            records.append(full.get_contents()[2])
    rest = packer.clear_and_get()
    if rest:
        records.append(rest.get_contents()[2])

lines = "".join(bytes(record).hex() + "\n" for record in records)
said = subprocess.run([program], input=lines, capture_output=True, text=True, check=True).stdout.splitlines()
assert len(said) == len(records), (len(said), len(records))
user_records = 0
for record, line in zip(records, said):
    event = {
        "eventID": "shardId-000000000000:1", "eventVersion": "1.0", "eventSource": "aws:kinesis", "awsRegion": "eu-west-1",
        "eventName": "aws:kinesis:record", "eventSourceARN": "arn", "invokeIdentityArn": "arn",
        "kinesis": {
            "kinesisSchemaVersion": "1.0", "partitionKey": "a", "sequenceNumber": "1", "approximateArrivalTimestamp": 1,
            "data": base64.b64encode(bytes(record)),
        },
    }
    theirs = [
        [found["kinesis"]["partitionKey"], found["kinesis"].get("explicitHashKey"),
         base64.b64decode(found["kinesis"]["data"]).hex()]
        for found in deaggregator.deaggregate_records([event])
    ]
    ours = json.loads(line)
    assert [sub for *_, sub in ours] == list(range(len(ours))), line
    # Their reader gives a user record without an explicit hash key the first one of the table.
    assert len(ours) == len(theirs), seed
    for found, their in zip(ours, theirs):
        assert [found[0], found[1] or their[1], found[2]] == their, (seed, found[:2], their[:2])
    packed += [found[:3] for found in ours]
    user_records += len(ours)
assert packed == given, seed
print(f"aggregates: {len(records)} records, {user_records} user records, the same in both readers (seed {seed})")
