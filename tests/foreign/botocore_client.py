"""botocore against the simulator: every call that it answers, a split and a merge, and a shard read by fan-out to its end."""

import sys
import time

import boto3
from botocore.config import Config


def client(endpoint):
    return boto3.client(
        "kinesis",
        endpoint_url=endpoint,
        region_name="eu-west-1",
        aws_access_key_id="simulated",
        aws_secret_access_key="simulated",
        config=Config(retries={"max_attempts": 10, "mode": "standard"}),
    )


def until(what, is_so):
    for _ in range(600):
        if is_so():
            return
        time.sleep(0.1)
    raise AssertionError(f"{what} did not come about")


def read(kinesis, consumer, shard, position):
    """Events of a shard until its end: records, and the children."""
    records, children = [], []
    while not children:
        answer = kinesis.subscribe_to_shard(ConsumerARN=consumer, ShardId=shard, StartingPosition=position)
        for event in answer["EventStream"]:
            event = event["SubscribeToShardEvent"]
            records += event["Records"]
            children = event.get("ChildShards", [])
            if children:
                assert not event.get("ContinuationSequenceNumber"), event
                break
            position = {"Type": "AFTER_SEQUENCE_NUMBER", "SequenceNumber": event["ContinuationSequenceNumber"]}
    return records, children


def main(endpoint):
    kinesis = client(endpoint)
    name = f"botocore-{time.time_ns()}"
    kinesis.create_stream(StreamName=name, ShardCount=1)
    active = lambda: kinesis.describe_stream_summary(StreamName=name)["StreamDescriptionSummary"]["StreamStatus"] == "ACTIVE"
    until("an active stream", active)
    assert name in kinesis.list_streams()["StreamNames"]
    assert kinesis.describe_limits()["OpenShardCount"] >= 1
    arn = kinesis.describe_stream(StreamName=name)["StreamDescription"]["StreamARN"]
    put = kinesis.put_record(StreamName=name, PartitionKey="a", Data=b"first")
    kinesis.put_records(StreamARN=arn, Records=[{"PartitionKey": str(n), "Data": b"%d" % n} for n in range(100)])

    made = kinesis.register_stream_consumer(StreamARN=arn, ConsumerName="one")["Consumer"]
    described = lambda: kinesis.describe_stream_consumer(ConsumerARN=made["ConsumerARN"])["ConsumerDescription"]
    until("an active consumer", lambda: described()["ConsumerStatus"] == "ACTIVE")
    assert [one["ConsumerName"] for one in kinesis.list_stream_consumers(StreamARN=arn)["Consumers"]] == ["one"]

    kinesis.split_shard(StreamName=name, ShardToSplit=put["ShardId"], NewStartingHashKey=str(2**127))
    records, children = read(kinesis, made["ConsumerARN"], put["ShardId"], {"Type": "TRIM_HORIZON"})
    assert [record["Data"] for record in records] == [b"first"] + [b"%d" % n for n in range(100)], len(records)
    assert records[0]["SequenceNumber"] == put["SequenceNumber"]
    assert abs(records[0]["ApproximateArrivalTimestamp"].timestamp() - time.time()) < 300
    children = sorted(child["ShardId"] for child in children)

    until("an active stream", active)
    kinesis.merge_shards(StreamName=name, ShardToMerge=children[0], AdjacentShardToMerge=children[1])
    until("an active stream", active)
    shards = {shard["ShardId"]: shard for shard in kinesis.list_shards(StreamName=name)["Shards"]}
    merged = [s for s in shards.values() if {s.get("ParentShardId"), s.get("AdjacentParentShardId")} == set(children)]
    assert len(merged) == 1, shards
    kinesis.update_shard_count(StreamName=name, TargetShardCount=2, ScalingType="UNIFORM_SCALING")
    until("an active stream", active)

    iterator = kinesis.get_shard_iterator(StreamName=name, ShardId=put["ShardId"], ShardIteratorType="TRIM_HORIZON")
    got = kinesis.get_records(ShardIterator=iterator["ShardIterator"])
    assert len(got["Records"]) == 101 and got["ChildShards"] and "NextShardIterator" not in got
    kinesis.increase_stream_retention_period(StreamName=name, RetentionPeriodHours=48)
    try:
        kinesis.describe_stream_summary(StreamName="none")
        raise AssertionError("there is no such stream")
    except kinesis.exceptions.ResourceNotFoundException:
        pass
    kinesis.deregister_stream_consumer(ConsumerARN=made["ConsumerARN"])
    kinesis.delete_stream(StreamName=name)
    print(f"botocore: {len(records)} records, {len(shards) + 2} shards, well")


main(sys.argv[1])
