// paced PORT RATE SECONDS: one frame of 64 bytes at a time over TCP on loopback, RATE a second on a schedule, and how long
// each echo takes. Prints a line of JSON, in microseconds, twice: as this program sees it, from before its write to after
// its read; and as a capture on the server's interface has it (packet(7)), from the request's arrival to the reply's
// leaving, which does not hold how long this program waits for a core. Captures need CAP_NET_RAW.
//
// An echo that takes longer than its interval delays the next one, which is not counted as late.
#include "net.h"

#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

// The kernel begins to stamp packets some time after it was asked to; until then it stamps what is read.
enum { MESSAGE = 4 + 64, IP = 20, TCP = 32, BUFFER = 8 << 20, WARM_UP = 50 };

static double microseconds(struct timespec time) {
    // Of the day: a double has no room for nanoseconds of the epoch.
    return time.tv_sec % 86400 * 1e6 + time.tv_nsec / 1e3;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print(const char *name, double *times, int count) {
    qsort(times, count, sizeof *times, by_size);
    double sum = 0;
    for (int i = 0; i < count; i++)
        sum += times[i];
    printf("\"%s\":{\"count\":%d,\"mean\":%.1f,\"p50\":%.1f,\"p99\":%.1f,\"max\":%.1f}", name, count,
           sum / count, times[count / 2], times[count * 99 / 100], times[count - 1]);
}

// A capture of the segments with a message from or to this port, each with its time.
static int capture(int port) {
    int fd = socket(AF_PACKET, SOCK_DGRAM, htons(ETH_P_ALL));
    if (fd < 0)
        die("socket (a capture needs CAP_NET_RAW)");
    struct sock_filter code[] = {
        {BPF_LD | BPF_H | BPF_ABS, 0, 0, 2}, // total length
        {BPF_JMP | BPF_JEQ | BPF_K, 0, 5, IP + TCP + MESSAGE},
        {BPF_LD | BPF_H | BPF_ABS, 0, 0, IP}, // source port
        {BPF_JMP | BPF_JEQ | BPF_K, 2, 0, port},
        {BPF_LD | BPF_H | BPF_ABS, 0, 0, IP + 2}, // destination port
        {BPF_JMP | BPF_JEQ | BPF_K, 0, 1, port},
        {BPF_RET | BPF_K, 0, 0, UINT16_MAX},
        {BPF_RET | BPF_K, 0, 0, 0},
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    int on = 1, buffer = BUFFER;
    if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) < 0)
        die("SO_ATTACH_FILTER");
    if (setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof on) < 0)
        die("SO_TIMESTAMPNS");
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    return fd;
}

// The next captured segment: false when there is none.
static bool captured(int fd, int port, bool *request, bool *leaving, double *at) {
    unsigned char packet[IP + TCP];
    char control[128];
    struct sockaddr_ll from;
    struct iovec part = {packet, sizeof packet};
    struct msghdr message = {.msg_name = &from,
                             .msg_namelen = sizeof from,
                             .msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = control,
                             .msg_controllen = sizeof control};
    if (recvmsg(fd, &message, MSG_DONTWAIT) < 0)
        return false;
    for (struct cmsghdr *it = CMSG_FIRSTHDR(&message); it; it = CMSG_NXTHDR(&message, it)) {
        struct timespec time;
        if (it->cmsg_level != SOL_SOCKET || it->cmsg_type != SCM_TIMESTAMPNS)
            continue;
        memcpy(&time, CMSG_DATA(it), sizeof time);
        *at = microseconds(time);
    }
    *request = (packet[IP + 2] << 8 | packet[IP + 3]) == port;
    *leaving = from.sll_pkttype == PACKET_OUTGOING;
    return true;
}

// The times between a request that arrives and the reply that leaves.
static int pair(int fd, int port, double *times, int most) {
    int count = 0;
    double arrived = 0, at = 0;
    for (bool request, leaving; count < most && captured(fd, port, &request, &leaving, &at);) {
        if (request && !leaving) {
            arrived = at;
        } else if (!request && leaving && arrived > 0) {
            times[count++] = at - arrived;
            arrived = 0;
        }
    }
    return count;
}

static void echo(int fd) {
    static const unsigned char message[MESSAGE] = {0, 0, 0, 64};
    unsigned char reply[MESSAGE];
    if (write(fd, message, MESSAGE) != MESSAGE)
        die("write");
    for (int got = 0; got < MESSAGE;) {
        ssize_t read_now = read(fd, reply + got, MESSAGE - got);
        if (read_now <= 0)
            die("read");
        got += read_now;
    }
    if (memcmp(message, reply, MESSAGE) != 0)
        die("another echo");
}

int main(int count, char **arguments) {
    if (count != 4 || atoi(arguments[2]) < 1 || atof(arguments[3]) <= 0) {
        fprintf(stderr, "usage: paced PORT RATE SECONDS\n");
        return 2;
    }
    int port = atoi(arguments[1]), rate = atoi(arguments[2]), on = 1;
    int echoes = rate * atof(arguments[3]);
    double *seen = calloc(echoes, sizeof *seen), *served = calloc(echoes, sizeof *served);
    prctl(PR_SET_TIMERSLACK, 1);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int packets = capture(port), fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0)
        die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct timespec due, before, after;
    clock_gettime(CLOCK_MONOTONIC, &due);
    for (int i = -WARM_UP; i < echoes; i++) {
        if (i == 0)
            pair(packets, port, served, echoes);
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
        clock_gettime(CLOCK_MONOTONIC, &before);
        echo(fd);
        clock_gettime(CLOCK_MONOTONIC, &after);
        if (i >= 0)
            seen[i] = microseconds(after) - microseconds(before);
        due.tv_nsec += 1000000000 / rate;
        due.tv_sec += due.tv_nsec / 1000000000;
        due.tv_nsec %= 1000000000;
    }
    int pairs = pair(packets, port, served, echoes);
    if (pairs < echoes * 9 / 10)
        die("the capture has too few");
    printf("{");
    print("client", seen, echoes);
    printf(",");
    print("server", served, pairs);
    printf("}\n");
}
