package foreign;

import java.io.FileWriter;
import java.io.PrintWriter;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import software.amazon.awssdk.arns.Arn;
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
import software.amazon.kinesis.common.StreamConfig;
import software.amazon.kinesis.common.StreamIdentifier;
import software.amazon.kinesis.coordinator.Scheduler;
import software.amazon.kinesis.lifecycle.events.InitializationInput;
import software.amazon.kinesis.lifecycle.events.LeaseLostInput;
import software.amazon.kinesis.lifecycle.events.ProcessRecordsInput;
import software.amazon.kinesis.lifecycle.events.ShardEndedInput;
import software.amazon.kinesis.lifecycle.events.ShutdownRequestedInput;
import software.amazon.kinesis.metrics.NullMetricsFactory;
import software.amazon.kinesis.processor.FormerStreamsLeasesDeletionStrategy;
import software.amazon.kinesis.processor.MultiStreamTracker;
import software.amazon.kinesis.processor.RecordProcessorCheckpointer;
import software.amazon.kinesis.processor.ShardRecordProcessor;
import software.amazon.kinesis.processor.SingleStreamTracker;
import software.amazon.kinesis.retrieval.KinesisClientRecord;

/**
 * An application that reads a stream until it is killed, and logs each user record and each checkpoint. Its table is
 * one of a single stream, or one of several.
 *
 * <p>Application KINESIS DYNAMODB NAME WORKER STREAM-ARN EPOCH LOG one|several [SHARD=CHECKPOINT+MORE | SHARD=nothing]...
 *
 * <p>A shard that is named is stopped: after the user record CHECKPOINT there is a checkpoint, MORE user records are
 * processed without one, and the rest never. Other shards have a checkpoint at every seventh user record.
 */
public final class Application {
    private static final Map<String, String> STOPS = new HashMap<>();
    private static final CountDownLatch NEVER = new CountDownLatch(1);
    private static PrintWriter log;

    public static void main(String[] arguments) throws Exception {
        URI endpoint = URI.create(arguments[0]);
        URI table = URI.create(arguments[1]);
        String name = arguments[2];
        Arn stream = Arn.fromString(arguments[4]);
        log = new PrintWriter(new FileWriter(arguments[6], StandardCharsets.UTF_8), true);
        boolean isSeveral = arguments[7].equals("several");
        for (String stop : List.of(arguments).subList(8, arguments.length)) {
            STOPS.put(stop.split("=")[0], stop.split("=")[1]);
        }
        var credentials = StaticCredentialsProvider.create(AwsBasicCredentials.create("simulated", "simulated"));
        KinesisAsyncClient kinesis = KinesisClientUtil.createKinesisAsyncClient(KinesisAsyncClient.builder()
                .region(Region.EU_WEST_1).endpointOverride(endpoint).credentialsProvider(credentials));
        DynamoDbAsyncClient dynamo = DynamoDbAsyncClient.builder()
                .region(Region.EU_WEST_1).endpointOverride(table).credentialsProvider(credentials).build();
        // This is never called, because the metrics are discarded.
        CloudWatchAsyncClient cloudWatch = CloudWatchAsyncClient.builder()
                .region(Region.EU_WEST_1).endpointOverride(table).credentialsProvider(credentials).build();
        var oldest = InitialPositionInStreamExtended.newInitialPosition(InitialPositionInStream.TRIM_HORIZON);
        String worker = arguments[3];
        ConfigsBuilder configs = isSeveral
                ? new ConfigsBuilder(new Streams(new StreamConfig(
                        StreamIdentifier.multiStreamInstance(stream, Long.parseLong(arguments[5])), oldest)),
                        name, kinesis, dynamo, cloudWatch, worker, Processor::new)
                : new ConfigsBuilder(new SingleStreamTracker(stream.resource().resource(), oldest),
                        name, kinesis, dynamo, cloudWatch, worker, Processor::new);
        // Everything is quicker than by default, so that a run takes seconds.
        var leases = configs.leaseManagementConfig().failoverTimeMillis(5_000).shardSyncIntervalMillis(1_000);
        leases.dynamoDbLockBasedLeaderLeaseDurationInMillis(4_000).dynamoDbLockBasedLeaderHeartbeatPeriodInMillis(1_000);
        leases.leasesRecoveryAuditorExecutionFrequencyMillis(2_000);
        leases.workerUtilizationAwareAssignmentConfig().disableWorkerMetrics(true);
        var coordinator = configs.coordinatorConfig().parentShardPollIntervalMillis(500);
        new Scheduler(configs.checkpointConfig(), coordinator, leases, configs.lifecycleConfig(),
                configs.metricsConfig().metricsFactory(new NullMetricsFactory()), configs.processorConfig(),
                configs.retrievalConfig()).run();
    }

    private record Streams(StreamConfig only) implements MultiStreamTracker {
        @Override
        public List<StreamConfig> streamConfigList() {
            return List.of(only);
        }

        @Override
        public FormerStreamsLeasesDeletionStrategy formerStreamsLeasesDeletionStrategy() {
            return new FormerStreamsLeasesDeletionStrategy.NoLeaseDeletionStrategy();
        }
    }

    private static final class Processor implements ShardRecordProcessor {
        private String shard;
        private String checkpoint;
        /** How many user records are processed after the last checkpoint. */
        private int more = Integer.MAX_VALUE;
        private int processed;

        @Override
        public void initialize(InitializationInput input) {
            shard = input.shardId();
            log.println("begun " + shard + " " + input.extendedSequenceNumber());
            if (STOPS.containsKey(shard)) {
                String[] stop = STOPS.get(shard).split("\\+");
                checkpoint = stop[0];
                if (checkpoint.equals("nothing")) {
                    more = 0;
                }
            }
        }

        @Override
        public void processRecords(ProcessRecordsInput input) {
            for (KinesisClientRecord record : input.records()) {
                if (more == 0) {
                    park();
                }
                String number = StandardCharsets.UTF_8.decode(record.data()).toString().split(" ")[0];
                log.println("read " + shard + " " + number);
                processed++;
                more--;
                if (number.equals(checkpoint)) {
                    store(input.checkpointer(), record, number);
                    more = Integer.parseInt(STOPS.get(shard).split("\\+")[1]);
                } else if (more > 1_000_000 && processed % 7 == 0) {
                    store(input.checkpointer(), record, number);
                }
            }
            if (more == 0) {
                park();
            }
        }

        private void store(RecordProcessorCheckpointer checkpointer, KinesisClientRecord record, String number) {
            try {
                checkpointer.checkpoint(record.sequenceNumber(), record.subSequenceNumber());
            } catch (Exception error) {
                throw new IllegalStateException(error);
            }
            log.println("checkpoint " + shard + " " + number);
        }

        /** Leases are renewed on other threads. */
        private void park() {
            log.println("stopped " + shard);
            try {
                NEVER.await();
            } catch (InterruptedException error) {
                throw new IllegalStateException(error);
            }
        }

        @Override
        public void leaseLost(LeaseLostInput input) {
            log.println("lost " + shard);
        }

        @Override
        public void shardEnded(ShardEndedInput input) {
            try {
                input.checkpointer().checkpoint();
            } catch (Exception error) {
                throw new IllegalStateException(error);
            }
            log.println("ended " + shard);
        }

        @Override
        public void shutdownRequested(ShutdownRequestedInput input) {}
    }
}
