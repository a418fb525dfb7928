package peers;

import java.net.URI;
import java.util.concurrent.CompletableFuture;
import java.util.stream.IntStream;
import software.amazon.awssdk.auth.credentials.AwsBasicCredentials;
import software.amazon.awssdk.auth.credentials.StaticCredentialsProvider;
import software.amazon.awssdk.regions.Region;
import software.amazon.awssdk.services.kinesis.KinesisAsyncClient;
import software.amazon.awssdk.services.kinesis.model.ShardIteratorType;
import software.amazon.awssdk.services.kinesis.model.SubscribeToShardEvent;
import software.amazon.awssdk.services.kinesis.model.SubscribeToShardResponseHandler;

/** The loop that one would write with the SDK for Java. */
public final class SdkLoop {
    private static final String CONSUMER = "arn:aws:kinesis:us-east-1:000000000000:stream/bench/consumer/bench:1";

    public static void main(String[] arguments) {
        String endpoint = arguments[0];
        int shards = Integer.parseInt(arguments[1]);
        Meter meter = new Meter(Long.parseLong(arguments[2]), shards);
        KinesisAsyncClient client = KinesisAsyncClient.builder()
                .region(Region.US_EAST_1)
                .endpointOverride(URI.create(endpoint))
                .credentialsProvider(StaticCredentialsProvider.create(AwsBasicCredentials.create("bench", "bench")))
                .build();
        CompletableFuture.allOf(IntStream.range(0, shards)
                .mapToObj(shard -> subscribe(client, shard, meter))
                .toArray(CompletableFuture[]::new)).join();
        throw new IllegalStateException("the server ended before enough was read");
    }

    private static CompletableFuture<Void> subscribe(KinesisAsyncClient client, int shard, Meter meter) {
        SubscribeToShardResponseHandler handler = SubscribeToShardResponseHandler.builder()
                .subscriber(event -> {
                    if (event instanceof SubscribeToShardEvent records) {
                        long bytes = records.records().stream().mapToLong(record -> record.data().asByteArrayUnsafe().length).sum();
                        meter.count(shard, bytes);
                    }
                })
                .build();
        return client.subscribeToShard(request -> request
                .consumerARN(CONSUMER)
                .shardId(String.format("shardId-%012d", shard))
                .startingPosition(position -> position.type(ShardIteratorType.TRIM_HORIZON)), handler);
    }
}
