package foreign;

import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import software.amazon.awssdk.auth.credentials.AwsBasicCredentials;
import software.amazon.awssdk.auth.credentials.StaticCredentialsProvider;
import software.amazon.awssdk.core.SdkBytes;
import software.amazon.awssdk.regions.Region;
import software.amazon.awssdk.services.cloudwatch.CloudWatchAsyncClient;
import software.amazon.awssdk.services.dynamodb.DynamoDbAsyncClient;
import software.amazon.awssdk.services.kinesis.KinesisAsyncClient;
import software.amazon.awssdk.services.kinesis.model.PutRecordsRequestEntry;
import software.amazon.awssdk.services.kinesis.model.Shard;
import software.amazon.awssdk.services.kinesis.model.StreamStatus;
import software.amazon.kinesis.common.ConfigsBuilder;
import software.amazon.kinesis.common.InitialPositionInStream;
import software.amazon.kinesis.common.InitialPositionInStreamExtended;
import software.amazon.kinesis.common.KinesisClientUtil;
import software.amazon.kinesis.coordinator.Scheduler;
import software.amazon.kinesis.lifecycle.events.InitializationInput;
import software.amazon.kinesis.lifecycle.events.LeaseLostInput;
import software.amazon.kinesis.lifecycle.events.ProcessRecordsInput;
import software.amazon.kinesis.lifecycle.events.ShardEndedInput;
import software.amazon.kinesis.lifecycle.events.ShutdownRequestedInput;
import software.amazon.kinesis.metrics.NullMetricsFactory;
import software.amazon.kinesis.processor.ShardRecordProcessor;
import software.amazon.kinesis.processor.SingleStreamTracker;

/** Writes a stream, splits and merges it, and reads it with the KCL by fan-out, to the end of all parents. */
public final class Reader {
    private static final Map<String, Integer> READ = new ConcurrentHashMap<>();
    private static final Set<String> ENDED = ConcurrentHashMap.newKeySet();

    private final KinesisAsyncClient kinesis;
    private final String stream = "kcl-" + System.nanoTime();
    private int written;

    private Reader(KinesisAsyncClient kinesis) {
        this.kinesis = kinesis;
    }

    public static void main(String[] arguments) throws Exception {
        URI endpoint = URI.create(arguments[0]);
        URI table = URI.create(arguments[1]);
        var credentials = StaticCredentialsProvider.create(AwsBasicCredentials.create("simulated", "simulated"));
        KinesisAsyncClient kinesis = KinesisClientUtil.createKinesisAsyncClient(KinesisAsyncClient.builder()
                .region(Region.EU_WEST_1).endpointOverride(endpoint).credentialsProvider(credentials));
        var reader = new Reader(kinesis);
        reader.write();
        DynamoDbAsyncClient dynamo = DynamoDbAsyncClient.builder()
                .region(Region.EU_WEST_1).endpointOverride(table).credentialsProvider(credentials).build();
        // This is never called, because the metrics are discarded.
        CloudWatchAsyncClient cloudWatch = CloudWatchAsyncClient.builder()
                .region(Region.EU_WEST_1).endpointOverride(table).credentialsProvider(credentials).build();
        var tracker = new SingleStreamTracker(reader.stream,
                InitialPositionInStreamExtended.newInitialPosition(InitialPositionInStream.TRIM_HORIZON));
        var configs = new ConfigsBuilder(tracker, reader.stream, kinesis, dynamo, cloudWatch, "worker", Processor::new);
        var leases = configs.leaseManagementConfig();
        leases.shardSyncIntervalMillis(5_000);
        leases.workerUtilizationAwareAssignmentConfig().disableWorkerMetrics(true);
        var scheduler = new Scheduler(configs.checkpointConfig(), configs.coordinatorConfig().parentShardPollIntervalMillis(2_000),
                leases, configs.lifecycleConfig(), configs.metricsConfig().metricsFactory(new NullMetricsFactory()),
                configs.processorConfig(), configs.retrievalConfig());
        var running = new Thread(scheduler, "scheduler");
        running.setDaemon(true);
        running.start();
        reader.waitForAll();
        System.exit(0);
    }

    private void write() throws Exception {
        kinesis.createStream(call -> call.streamName(stream).shardCount(2)).join();
        untilActive();
        put();
        String first = shards().get(0);
        kinesis.splitShard(call -> call.streamName(stream).shardToSplit(first).newStartingHashKey("1000")).join();
        untilActive();
        put();
        var children = shards().subList(2, 4);
        kinesis.mergeShards(call -> call.streamName(stream)
                .shardToMerge(children.get(0)).adjacentShardToMerge(children.get(1))).join();
        untilActive();
        put();
    }

    private java.util.List<String> shards() {
        return kinesis.listShards(call -> call.streamName(stream)).join().shards().stream().map(Shard::shardId).toList();
    }

    private void untilActive() throws InterruptedException {
        StreamStatus status;
        do {
            Thread.sleep(300);
            status = kinesis.describeStreamSummary(call -> call.streamName(stream)).join()
                    .streamDescriptionSummary().streamStatus();
        } while (status != StreamStatus.ACTIVE);
    }

    private void put() {
        int from = written;
        written += 100;
        var records = IntStream.range(from, written).mapToObj(number -> PutRecordsRequestEntry.builder()
                .partitionKey("key-" + number).data(SdkBytes.fromUtf8String("record " + number)).build());
        var answer = kinesis.putRecords(call -> call.streamName(stream).records(records.toList())).join();
        if (answer.failedRecordCount() != 0) {
            throw new IllegalStateException(answer.toString());
        }
    }

    /** All records were read, and the shards that were split or merged have ended. */
    private void waitForAll() throws InterruptedException {
        long giveUp = System.nanoTime() + 240_000_000_000L;
        while (READ.size() < written || ENDED.size() < 3) {
            if (System.nanoTime() > giveUp) {
                System.out.println("kcl: only " + READ.size() + " records, and the ends of " + ENDED);
                System.exit(1);
            }
            Thread.sleep(200);
        }
        boolean all = IntStream.range(0, written).allMatch(number -> READ.containsKey("record " + number));
        String twice = READ.values().stream().filter(times -> times > 1).map(String::valueOf).collect(Collectors.joining(","));
        System.out.println("kcl: " + READ.size() + " records, " + ENDED.size() + " ends, "
                + (all && twice.isEmpty() ? "well" : "missing or twice: " + twice));
        System.exit(all && twice.isEmpty() ? 0 : 1);
    }

    private static final class Processor implements ShardRecordProcessor {
        private String shard;

        @Override
        public void initialize(InitializationInput input) {
            shard = input.shardId();
        }

        @Override
        public void processRecords(ProcessRecordsInput input) {
            input.records().forEach(record ->
                    READ.merge(StandardCharsets.UTF_8.decode(record.data()).toString(), 1, Integer::sum));
        }

        @Override
        public void leaseLost(LeaseLostInput input) {}

        @Override
        public void shardEnded(ShardEndedInput input) {
            try {
                input.checkpointer().checkpoint();
                ENDED.add(shard);
            } catch (Exception error) {
                throw new IllegalStateException(error);
            }
        }

        @Override
        public void shutdownRequested(ShutdownRequestedInput input) {}
    }
}
