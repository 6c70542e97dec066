#include "measure.h"
#include "loadgen.h"

#include <dirent.h>
#include <time.h>

// Values below 64 have a bucket each, larger ones 32 buckets for each power of two.
enum { EXACT = 64, SUB_BITS = 5, SUB = 1 << SUB_BITS, BUCKETS = 1920 };

static uint64_t histogram[BUCKETS];
static uint64_t recorded;

uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * NANOSECONDS + time.tv_nsec;
}

static int bucket_of(uint64_t value) {
    if (value < EXACT)
        return value;
    int exponent = 63 - __builtin_clzll(value) - SUB_BITS;
    return exponent * SUB + SUB + ((value >> exponent) & (SUB - 1));
}

static uint64_t lower_bound(int bucket) {
    if (bucket < EXACT)
        return bucket;
    int exponent = (bucket - SUB) / SUB;
    return (uint64_t)(SUB + bucket % SUB) << exponent;
}

void record(uint64_t nanoseconds) {
    histogram[bucket_of(nanoseconds)]++;
    recorded++;
}

double percentile(double fraction) {
    uint64_t target = recorded * fraction, seen = 0;
    for (int bucket = 0; bucket < BUCKETS; bucket++) {
        seen += histogram[bucket];
        if (seen > target)
            return lower_bound(bucket) / 1000.0;
    }
    return 0;
}

uint64_t own_cpu(void) {
    struct timespec time;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
    return (uint64_t)time.tv_sec * NANOSECONDS + time.tv_nsec;
}

// schedstat's first number: nanoseconds on a CPU, where /proc/PID/stat counts ticks of 10 ms.
uint64_t server_cpu(void) {
    char path[384];
    snprintf(path, sizeof path, "/proc/%d/task", options.server_pid);
    DIR *tasks = options.server_pid ? opendir(path) : NULL;
    if (!tasks)
        return 0;
    uint64_t sum = 0;
    for (struct dirent *task; (task = readdir(tasks));) {
        snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", options.server_pid, task->d_name);
        FILE *file = task->d_name[0] == '.' ? NULL : fopen(path, "r");
        unsigned long time;
        if (file && fscanf(file, "%lu", &time) == 1)
            sum += time;
        if (file)
            fclose(file);
    }
    closedir(tasks);
    return sum;
}

// The number behind `key` in a file of lines such as "VmRSS:     1234 kB".
static long number_in(const char *path, const char *key) {
    FILE *file = fopen(path, "r");
    if (!file)
        return 0;
    long value = 0;
    char line[256];
    while (fgets(line, sizeof line, file))
        if (strncmp(line, key, strlen(key)) == 0)
            value = atol(line + strlen(key));
    fclose(file);
    return value;
}

long server_rss(void) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/status", options.server_pid);
    return options.server_pid ? number_in(path, "VmRSS:") : 0;
}

long kernel_slab(void) {
    return number_in("/proc/meminfo", "Slab:");
}

struct snapshot take_snapshot(uint64_t messages) {
    return (struct snapshot){now(), messages, own_cpu(), server_cpu()};
}

void print_echo(struct snapshot start, uint64_t total, uint64_t lost, double connect_seconds) {
    struct snapshot end = take_snapshot(total);
    double elapsed = (double)(end.time - start.time) / NANOSECONDS;
    uint64_t done = end.messages - start.messages, cpu = end.server_cpu - start.server_cpu;
    printf("{\"mode\":\"echo\",\"c\":%d,\"s\":%zu,\"d\":%d,\"mps\":%.0f,\"MBps\":%.1f,"
           "\"p50\":%.1f,\"p99\":%.1f,\"p999\":%.1f,\"ccpu\":%.2f,\"scpu\":%.2f,\"sns\":%.0f,"
           "\"errs\":%lu,\"lost\":%lu,\"conn_s\":%.3f,\"rss\":%ld}\n",
           options.connections, options.size, options.depth, done / elapsed,
           done * (double)messages.message / elapsed / 1e6, percentile(.5), percentile(.99),
           percentile(.999), (end.own_cpu - start.own_cpu) / elapsed / NANOSECONDS,
           cpu / elapsed / NANOSECONDS, done ? (double)cpu / done : 0, errors, lost,
           connect_seconds, server_rss());
}
