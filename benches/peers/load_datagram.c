// Echo over UDP: `depth` datagrams under way on each socket. What is lost is counted and sent anew.
#include "loadgen.h"
#include "measure.h"

#include <errno.h>
#include <stdbool.h>
#include <sys/epoll.h>

// Silence on every socket for so long means that what is under way was lost.
enum { LOST_AFTER_MILLISECONDS = 100, BATCH = 64 };

struct flow {
    int fd;
    size_t send_at;     // offset in the ring of messages
    int under_way;      // datagrams
    uint64_t last_turn; // when the last ones were received, and the next ones sent
};

static struct mmsghdr incoming[BATCH], outgoing[BATCH];
static struct iovec incoming_payloads[BATCH], outgoing_payloads[BATCH];
static uint64_t done;

static void send_datagrams(struct flow *flow, int count) {
    while (count > 0) {
        int batch = count < BATCH ? count : BATCH;
        size_t start = flow->send_at;
        for (int i = 0; i < batch; i++) {
            size_t offset = (start + i * messages.message) % messages.ring_length;
            outgoing_payloads[i] = (struct iovec){messages.ring + offset, messages.message};
            outgoing[i].msg_hdr =
                (struct msghdr){.msg_iov = &outgoing_payloads[i], .msg_iovlen = 1};
        }
        int sent;
        if (batch == 1) // as the servers do: a plain call costs less than a batch of one
            sent = send(flow->fd, messages.ring + start, messages.message, 0) < 0 ? -1 : 1;
        else
            sent = sendmmsg(flow->fd, outgoing, batch, 0);
        if (sent < 0 && errno != EAGAIN && errno != ECONNREFUSED)
            die("send");
        if (sent < 0)
            sent = 0;
        flow->send_at = (start + sent * messages.message) % messages.ring_length;
        flow->under_way += sent;
        count -= sent;
        if (sent < batch)
            break;
    }
}

// A datagram begins with its number in the ring, and is compared with that one.
static bool is_right(const char *bytes, size_t length) {
    uint32_t number;
    memcpy(&number, bytes, sizeof number);
    return length == messages.message && number < messages.count &&
           memcmp(bytes, messages.ring + number * messages.message, length) == 0;
}

static void receive_datagrams(struct flow *flow, bool measuring) {
    int most = options.depth < BATCH ? options.depth : BATCH, received;
    if (most == 1) {
        ssize_t length = recv(flow->fd, incoming_payloads[0].iov_base, MAX_DATAGRAM, MSG_DONTWAIT);
        received = length < 0 ? 0 : 1;
        incoming[0].msg_len = received ? length : 0;
    } else {
        received = recvmmsg(flow->fd, incoming, most, MSG_DONTWAIT, NULL);
        if (received < 0)
            received = 0;
    }
    uint64_t time = now();
    for (int i = 0; i < received; i++) {
        if (!is_right(incoming_payloads[i].iov_base, incoming[i].msg_len))
            errors++;
        else if (measuring)
            record(time - flow->last_turn);
    }
    done += received;
    flow->last_turn = time;
    flow->under_way -= received < flow->under_way ? received : flow->under_way;
    send_datagrams(flow, received);
}

// Replaces what never came back; returns how many those were.
static uint64_t start_anew(struct flow *flows) {
    uint64_t lost = 0;
    for (int i = 0; i < options.connections; i++) {
        int missing = flows[i].under_way;
        lost += missing;
        flows[i].under_way = 0;
        send_datagrams(&flows[i], missing ? missing : options.depth);
    }
    return lost;
}

static struct flow *open_all(int epoll) {
    char *buffers = aligned_alloc(4096, (size_t)BATCH * MAX_DATAGRAM);
    for (int i = 0; i < BATCH; i++) {
        incoming_payloads[i] = (struct iovec){buffers + (size_t)i * MAX_DATAGRAM, MAX_DATAGRAM};
        incoming[i].msg_hdr = (struct msghdr){.msg_iov = &incoming_payloads[i], .msg_iovlen = 1};
    }
    struct flow *flows = calloc(options.connections, sizeof *flows);
    for (int i = 0; i < options.connections; i++) {
        int fd = open_socket(0);
        connect_socket(fd);
        flows[i] = (struct flow){
            .fd = fd, .send_at = (i % messages.count) * messages.message, .last_turn = now()};
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &flows[i]};
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    }
    return flows;
}

void echo_datagrams(void) {
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct flow *flows = open_all(epoll);
    uint64_t time = now();
    uint64_t measure_from = time + (uint64_t)(options.warm_up * NANOSECONDS);
    uint64_t end = measure_from + (uint64_t)(options.seconds * NANOSECONDS);
    for (int i = 0; i < options.connections; i++)
        send_datagrams(&flows[i], options.depth);
    bool measuring = false;
    uint64_t lost = 0;
    struct snapshot start = take_snapshot(0);
    struct epoll_event events[MAX_EVENTS];
    for (;;) {
        int ready = epoll_wait(epoll, events, MAX_EVENTS, LOST_AFTER_MILLISECONDS);
        time = now();
        if (!measuring && time >= measure_from) {
            measuring = true;
            start = take_snapshot(done);
        }
        if (time >= end)
            break;
        if (ready == 0)
            lost += start_anew(flows);
        for (int i = 0; i < ready; i++)
            if (events[i].events & EPOLLIN)
                receive_datagrams(events[i].data.ptr, measuring);
    }
    print_echo(start, done, lost, 0);
}
