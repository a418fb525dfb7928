package peers;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.BitSet;

/** Counts payload, and reports its cost: CPU time of the process, from the end of the warm-up to the last byte. */
final class Meter {
    /** The time that a virtual machine needs to reach its speed. */
    private static final double WARM_UP_SECONDS = 5;

    private final long goal;
    private final int shards;
    private final BitSet seen = new BitSet();
    private long firstNanos;
    private long bytes;
    private long startBytes;
    private long startNanos;
    private double startCpu;

    Meter(long goal, int shards) {
        this.goal = goal;
        this.shards = shards;
    }

    /** Counts the records of a shard. Ends the program once there is enough. */
    synchronized void count(int shard, long more) {
        if (seen.isEmpty()) {
            firstNanos = System.nanoTime();
        }
        seen.set(shard);
        bytes += more;
        if (startNanos == 0) {
            boolean warm = System.nanoTime() - firstNanos > WARM_UP_SECONDS * 1e9;
            if (warm && seen.cardinality() == shards) {
                startBytes = bytes;
                startCpu = cpuSeconds();
                startNanos = System.nanoTime();
            }
        } else if (bytes - startBytes >= goal) {
            double cpu = cpuSeconds() - startCpu;
            double seconds = (System.nanoTime() - startNanos) / 1e9;
            System.out.printf("{\"bytes\":%d,\"cpu_seconds\":%.2f,\"seconds\":%.3f}%n", bytes - startBytes, cpu, seconds);
            System.out.flush();
            // The measuring process looks at this one from outside before it ends.
            try {
                System.in.read();
            } catch (IOException ignored) {
                // The measuring process is gone.
            }
            Runtime.getRuntime().halt(0);
        }
    }

    private static double cpuSeconds() {
        try {
            String stat = Files.readString(Path.of("/proc/self/stat"));
            String[] fields = stat.substring(stat.lastIndexOf(')') + 1).trim().split("\\s+");
            return (Long.parseLong(fields[11]) + Long.parseLong(fields[12])) / 100.0;
        } catch (IOException error) {
            throw new IllegalStateException("no /proc here", error);
        }
    }
}
