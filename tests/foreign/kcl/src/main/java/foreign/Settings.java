package foreign;

import java.lang.reflect.Modifier;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import software.amazon.kinesis.checkpoint.CheckpointConfig;
import software.amazon.kinesis.common.ConfigsBuilder;
import software.amazon.kinesis.common.LeaseCleanupConfig;
import software.amazon.kinesis.coordinator.CoordinatorConfig;
import software.amazon.kinesis.leases.LeaseManagementConfig;
import software.amazon.kinesis.lifecycle.LifecycleConfig;
import software.amazon.kinesis.metrics.MetricsConfig;
import software.amazon.kinesis.processor.ProcessorConfig;
import software.amazon.kinesis.retrieval.RetrievalConfig;
import software.amazon.kinesis.retrieval.fanout.FanOutConfig;
import software.amazon.kinesis.retrieval.polling.PollingConfig;

/** Whether a document names every setting of the KCL. */
public final class Settings {
    public static void main(String[] arguments) throws Exception {
        String document = Files.readString(Path.of(arguments[0]));
        var classes = List.of(ConfigsBuilder.class, LeaseManagementConfig.class, LeaseCleanupConfig.class,
                LeaseManagementConfig.GracefulLeaseHandoffConfig.class,
                LeaseManagementConfig.WorkerUtilizationAwareAssignmentConfig.class, CoordinatorConfig.class,
                LifecycleConfig.class, ProcessorConfig.class, CheckpointConfig.class, RetrievalConfig.class,
                PollingConfig.class, FanOutConfig.class, MetricsConfig.class);
        var settings = classes.stream().flatMap(of -> Arrays.stream(of.getDeclaredFields()))
                .filter(field -> !Modifier.isStatic(field.getModifiers()) && !field.isSynthetic()).toList();
        var missing = settings.stream().filter(field -> !document.contains("`" + field.getName() + "`"))
                .map(field -> field.getDeclaringClass().getSimpleName() + "." + field.getName()).toList();
        System.out.println("kcl: " + settings.size() + " settings, not in " + arguments[0] + ": " + missing);
        System.exit(missing.isEmpty() ? 0 : 1);
    }
}
