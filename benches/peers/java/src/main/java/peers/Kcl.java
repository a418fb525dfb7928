package peers;

import java.net.URI;
import java.util.UUID;
import software.amazon.awssdk.auth.credentials.AwsBasicCredentials;
import software.amazon.awssdk.auth.credentials.StaticCredentialsProvider;
import software.amazon.awssdk.regions.Region;
import software.amazon.awssdk.services.cloudwatch.CloudWatchAsyncClient;
import software.amazon.awssdk.services.dynamodb.DynamoDbAsyncClient;
import software.amazon.awssdk.services.kinesis.KinesisAsyncClient;
import software.amazon.kinesis.common.ConfigsBuilder;
import software.amazon.kinesis.common.InitialPositionInStream;
import software.amazon.kinesis.common.InitialPositionInStreamExtended;
import software.amazon.kinesis.common.KinesisClientUtil;
import software.amazon.kinesis.coordinator.Scheduler;
import software.amazon.kinesis.exceptions.InvalidStateException;
import software.amazon.kinesis.exceptions.ShutdownException;
import software.amazon.kinesis.lifecycle.events.InitializationInput;
import software.amazon.kinesis.lifecycle.events.LeaseLostInput;
import software.amazon.kinesis.lifecycle.events.ProcessRecordsInput;
import software.amazon.kinesis.lifecycle.events.ShardEndedInput;
import software.amazon.kinesis.lifecycle.events.ShutdownRequestedInput;
import software.amazon.kinesis.metrics.NullMetricsFactory;
import software.amazon.kinesis.processor.ShardRecordProcessor;
import software.amazon.kinesis.processor.SingleStreamTracker;
import software.amazon.kinesis.retrieval.polling.PollingConfig;

/**
 * The KCL with its defaults, except for what would call other services: metrics, and the worker's own figures. It polls
 * if the last argument is "poll".
 */
public final class Kcl {
    public static void main(String[] arguments) {
        URI endpoint = URI.create(arguments[0]);
        int shards = Integer.parseInt(arguments[1]);
        Meter meter = new Meter(Long.parseLong(arguments[2]), shards);
        URI table = URI.create(arguments[3]);
        boolean polls = arguments.length > 4 && arguments[4].equals("poll");
        var credentials = StaticCredentialsProvider.create(AwsBasicCredentials.create("bench", "bench"));
        KinesisAsyncClient kinesis = KinesisClientUtil.createKinesisAsyncClient(KinesisAsyncClient.builder()
                .region(Region.US_EAST_1).endpointOverride(endpoint).credentialsProvider(credentials));
        DynamoDbAsyncClient dynamo = DynamoDbAsyncClient.builder()
                .region(Region.US_EAST_1).endpointOverride(table).credentialsProvider(credentials).build();
        // This is never called, because the metrics are discarded.
        CloudWatchAsyncClient cloudWatch = CloudWatchAsyncClient.builder()
                .region(Region.US_EAST_1).endpointOverride(table).credentialsProvider(credentials).build();
        var tracker = new SingleStreamTracker("bench",
                InitialPositionInStreamExtended.newInitialPosition(InitialPositionInStream.TRIM_HORIZON));
        String application = "bench-" + UUID.randomUUID();
        var configs = new ConfigsBuilder(tracker, application, kinesis, dynamo, cloudWatch, "worker", () -> new Processor(meter));
        var leases = configs.leaseManagementConfig();
        leases.workerUtilizationAwareAssignmentConfig().disableWorkerMetrics(true);
        var retrieval = configs.retrievalConfig();
        if (polls) {
            retrieval.retrievalSpecificConfig(new PollingConfig(kinesis));
        }
        new Scheduler(configs.checkpointConfig(), configs.coordinatorConfig(), leases, configs.lifecycleConfig(),
                configs.metricsConfig().metricsFactory(new NullMetricsFactory()), configs.processorConfig(),
                retrieval).run();
    }

    /** Counts, and checkpoints every five seconds, as the KCL's own examples do now and then. */
    private static final class Processor implements ShardRecordProcessor {
        private static final long CHECKPOINT_NANOS = 5_000_000_000L;

        private final Meter meter;
        private int shard;
        private long stored = System.nanoTime();

        Processor(Meter meter) {
            this.meter = meter;
        }

        @Override
        public void initialize(InitializationInput input) {
            shard = Integer.parseInt(input.shardId().substring("shardId-".length()));
        }

        @Override
        public void processRecords(ProcessRecordsInput input) {
            long bytes = input.records().stream().mapToLong(record -> record.data().remaining()).sum();
            if (!input.records().isEmpty()) {
                meter.count(shard, bytes);
            }
            if (System.nanoTime() - stored > CHECKPOINT_NANOS) {
                stored = System.nanoTime();
                try {
                    input.checkpointer().checkpoint();
                } catch (InvalidStateException | ShutdownException error) {
                    throw new IllegalStateException(error);
                }
            }
        }

        @Override
        public void leaseLost(LeaseLostInput input) {}

        @Override
        public void shardEnded(ShardEndedInput input) {}

        @Override
        public void shutdownRequested(ShutdownRequestedInput input) {}
    }
}
