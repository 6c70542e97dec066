// Clocks, the histogram of latencies, and what /proc says about the server.
#ifndef MEASURE_H
#define MEASURE_H

#include <stdint.h>

enum { NANOSECONDS = 1000000000 };

// Monotonic, in nanoseconds.
uint64_t now(void);

// Records one latency. Buckets are 3 % wide.
void record(uint64_t nanoseconds);
// In microseconds, the lower bound of the bucket; `fraction` is 0.99 for p99.
double percentile(double fraction);

uint64_t own_cpu(void);    // nanoseconds, user and system
uint64_t server_cpu(void); // nanoseconds, of all its threads; 0 without a pid
long server_rss(void);     // KiB
long kernel_slab(void);    // KiB, where the kernel keeps sockets

// Where the counters stood when measuring began.
struct snapshot {
    uint64_t time, messages, own_cpu, server_cpu;
};

struct snapshot take_snapshot(uint64_t messages);
// The line of JSON of an echo run that began at `start`.
void print_echo(struct snapshot start, uint64_t messages, uint64_t lost, double connect_seconds);

#endif
