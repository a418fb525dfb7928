// The AWS SDK for JavaScript against the simulator, over HTTP/2: calls, and a shard read by fan-out to its end.
import assert from "node:assert/strict";
import * as sdk from "@aws-sdk/client-kinesis";
import { NodeHttpHandler, NodeHttp2Handler } from "@smithy/node-http-handler";

const [endpoint, version] = process.argv.slice(2);
const requestHandler = version === "1.1" ? new NodeHttpHandler() : new NodeHttp2Handler();
const credentials = { accessKeyId: "simulated", secretAccessKey: "simulated" };
const kinesis = new sdk.KinesisClient({ endpoint, region: "eu-west-1", credentials, requestHandler, maxAttempts: 10 });
const call = (name, input) => kinesis.send(new sdk[`${name}Command`](input));
const until = async (what, isSo) => {
  for (let tries = 0; tries < 600; tries++) {
    if (await isSo()) return;
    await new Promise((done) => setTimeout(done, 100));
  }
  assert.fail(`${what} did not come about`);
};

const StreamName = `javascript-${process.hrtime.bigint()}`;
await call("CreateStream", { StreamName, ShardCount: 1 });
const summary = async () => (await call("DescribeStreamSummary", { StreamName })).StreamDescriptionSummary;
await until("an active stream", async () => (await summary()).StreamStatus === "ACTIVE");
const StreamARN = (await summary()).StreamARN;
const text = (n) => Buffer.from(`record ${n}`);
const put = await call("PutRecords", {
  StreamName,
  Records: Array.from({ length: 50 }, (_, n) => ({ PartitionKey: `${n}`, Data: text(n) })),
});
assert.equal(put.FailedRecordCount, 0);
const { ConsumerARN } = (await call("RegisterStreamConsumer", { StreamARN, ConsumerName: "one" })).Consumer;
const consumer = async () => (await call("DescribeStreamConsumer", { ConsumerARN })).ConsumerDescription;
await until("an active consumer", async () => (await consumer()).ConsumerStatus === "ACTIVE");
const { Shards } = await call("ListShards", { StreamName });
const ShardId = Shards[0].ShardId;
await call("SplitShard", { StreamName, ShardToSplit: ShardId, NewStartingHashKey: `${2n ** 127n}` });

const records = [];
let children;
let StartingPosition = { Type: "TRIM_HORIZON" };
while (!children) {
  const answer = await call("SubscribeToShard", { ConsumerARN, ShardId, StartingPosition });
  for await (const { SubscribeToShardEvent: event } of answer.EventStream) {
    if (!event) continue;
    records.push(...event.Records);
    if (event.ChildShards?.length) {
      children = event.ChildShards;
      break;
    }
    StartingPosition = { Type: "AFTER_SEQUENCE_NUMBER", SequenceNumber: event.ContinuationSequenceNumber };
  }
}
assert.deepEqual(records.map((record) => Buffer.from(record.Data).toString()), Array.from({ length: 50 }, (_, n) => `record ${n}`));
assert.equal(children.length, 2);
const { ShardIterator } = await call("GetShardIterator", { StreamName, ShardId, ShardIteratorType: "TRIM_HORIZON" });
assert.equal((await call("GetRecords", { ShardIterator })).Records.length, 50);
await call("DeregisterStreamConsumer", { ConsumerARN });
await call("DeleteStream", { StreamName });
console.log(`javascript over HTTP/${version}: ${records.length} records, well`);
kinesis.destroy();
process.exit(0);
