// The load generator for echo servers: one thread, closed loop, every echoed byte compared.
//
//     loadgen [-m echo|churn|idle] -a ADDRESS [-c CONNECTIONS] [-s BYTES] [-d DEPTH] [-t SECONDS]
//             [-w WARM_UP_SECONDS] [-x CONNECTIONS] [-p SERVER_PID] [-C CORE]
//
//     echo    DEPTH messages of BYTES stay under way on each connection
//     churn   connect, send one message, receive it, close, on CONNECTIONS sockets at a time
//     idle    memory that a connection costs the server, before and after one echo
//
// On streams a message is a u32 big-endian length and its payload, which framed and raw servers
// echo alike. It prints one line of JSON: mps messages per second, p50/p99/p999 in microseconds,
// ccpu and scpu the load of client and server in cores, sns the server's CPU nanoseconds per
// message, Bconn and Becho its resident bytes per connection. A client at ccpu 1.00 is the
// bottleneck: then compare sns, not mps.
#include "loadgen.h"
#include "measure.h"

#include <errno.h>
#include <sched.h>
#include <stdbool.h>
#include <unistd.h>

struct options options = {
    .mode = "echo", .connections = 1, .depth = 1, .size = 64, .seconds = 2, .warm_up = 0.5};
struct messages messages;
char *receive_buffer;
uint64_t errors;

int open_socket(int flags) {
    int fd = socket(options.target.family, options.target.type | SOCK_CLOEXEC | flags, 0);
    if (fd < 0)
        die("socket");
    if (options.target.type == SOCK_DGRAM)
        set_option(fd, SOL_SOCKET, SO_RCVBUF, 4 << 20); // a deep burst must fit
    else if (options.target.family != AF_UNIX)
        set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    return fd;
}

void connect_socket(int fd) {
    const struct sockaddr *name = (const struct sockaddr *)&options.target.storage;
    while (connect(fd, name, options.target.length) < 0) {
        if (errno != EAGAIN && errno != EINTR) // EAGAIN: a Unix socket's backlog is full
            die("connect");
        usleep(100);
    }
}

// xorshift: any bytes will do that no server can guess by mistake.
static void fill_random(char *bytes, size_t length) {
    uint64_t state = 88172645463325252u;
    for (size_t i = 0; i < length; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes[i] = state >> 32;
    }
}

static void make_messages(void) {
    bool datagram = options.target.type == SOCK_DGRAM;
    size_t header = datagram ? 0 : sizeof(uint32_t);
    messages.message = options.size + header;
    // About 256 KiB, which stays in the cache, in at least as many messages as are under way.
    messages.count = (256 << 10) / messages.message;
    if (messages.count > 1024)
        messages.count = 1024;
    if (messages.count < 2)
        messages.count = 2;
    if (messages.count < (size_t)options.depth)
        messages.count = options.depth;
    messages.ring_length = messages.count * messages.message;
    size_t twice = 2 * messages.ring_length, page = 4096;
    messages.ring = aligned_alloc(page, (twice + page - 1) / page * page);
    fill_random(messages.ring, messages.ring_length);
    for (size_t i = 0; i < messages.count; i++) {
        // A datagram begins with its number, so that a reply out of order can be compared.
        uint32_t word = datagram ? i : htonl(options.size);
        memcpy(messages.ring + i * messages.message, &word, sizeof word);
    }
    memcpy(messages.ring + messages.ring_length, messages.ring, messages.ring_length);
}

static void parse_options(int argc, char **argv, int *core) {
    const char *help =
        "usage: loadgen [-m echo|churn|idle] -a ADDRESS [-c CONNECTIONS] [-s BYTES] [-d DEPTH]\n"
        "               [-t SECONDS] [-w WARM_UP_SECONDS] [-x CONNECTIONS] [-p SERVER_PID]\n"
        "               [-C CORE]";
    const char *target = NULL;
    int option;
    while ((option = getopt(argc, argv, "m:a:c:s:d:t:w:x:p:C:")) != -1) {
        switch (option) {
        case 'm': options.mode = optarg; break;
        case 'a': target = optarg; break;
        case 'c': options.connections = atoi(optarg); break;
        case 's': options.size = atol(optarg); break;
        case 'd': options.depth = atoi(optarg); break;
        case 't': options.seconds = atof(optarg); break;
        case 'w': options.warm_up = atof(optarg); break;
        case 'x': options.most_churn = atoll(optarg); break;
        case 'p': options.server_pid = atoi(optarg); break;
        case 'C': *core = atoi(optarg); break;
        default: usage(help);
        }
    }
    if (!target || options.connections < 1 || options.depth < 1)
        usage(help);
    options.target = parse_address(target);
    if (options.target.type == SOCK_DGRAM && (options.size < 4 || options.size > MAX_DATAGRAM))
        usage("a datagram has 4 to 65536 bytes (-s)");
}

int main(int argc, char **argv) {
    int core = -1;
    parse_options(argc, argv, &core);
    raise_file_limit(MAX_FILES);
    if (core >= 0) {
        cpu_set_t cores;
        CPU_ZERO(&cores);
        CPU_SET(core, &cores);
        sched_setaffinity(0, sizeof cores, &cores);
    }
    make_messages();
    receive_buffer = aligned_alloc(4096, RECEIVE_BUFFER);

    bool datagram = options.target.type == SOCK_DGRAM;
    if (strcmp(options.mode, "echo") == 0)
        datagram ? echo_datagrams() : echo_streams();
    else if (strcmp(options.mode, "churn") == 0 && !datagram)
        churn();
    else if (strcmp(options.mode, "idle") == 0 && !datagram)
        idle();
    else
        usage("-m is echo, churn or idle; datagrams have echo alone");
    return errors ? EXIT_ERRORS : 0;
}
