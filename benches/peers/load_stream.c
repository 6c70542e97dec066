// Echo over streams: `depth` messages under way on each connection, one sent for each received.
#include "loadgen.h"
#include "measure.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <sys/epoll.h>

enum { POLL_MILLISECONDS = 100 };
static const uint64_t STALL = 3ull * NANOSECONDS; // without a byte from anybody

struct connection {
    int fd;
    bool waits_to_send;
    size_t send_at, receive_at; // offsets in the ring of messages
    size_t unsent;              // bytes that are due and not sent yet
    size_t partial;             // bytes received of a message
    uint64_t *sent_times;       // a ring of the `depth` messages under way
    int oldest, newest;
};

static int epoll;
static uint64_t done;

static void wait_to_send(struct connection *connection, bool wait) {
    if (connection->waits_to_send == wait)
        return;
    connection->waits_to_send = wait;
    struct epoll_event event = {.events = EPOLLIN | (wait ? EPOLLOUT : 0), .data.ptr = connection};
    epoll_ctl(epoll, EPOLL_CTL_MOD, connection->fd, &event);
}

static void send_due(struct connection *connection) {
    while (connection->unsent) {
        size_t length = connection->unsent;
        if (length > messages.ring_length)
            length = messages.ring_length;
        const char *bytes = messages.ring + connection->send_at;
        ssize_t sent = send(connection->fd, bytes, length, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EAGAIN)
            break;
        if (sent < 0)
            die("send");
        connection->send_at = (connection->send_at + sent) % messages.ring_length;
        connection->unsent -= sent;
        if ((size_t)sent < length)
            break;
    }
    wait_to_send(connection, connection->unsent > 0);
}

static void push_messages(struct connection *connection, size_t count, uint64_t time) {
    for (size_t i = 0; i < count; i++) {
        connection->sent_times[connection->newest] = time;
        if (++connection->newest == options.depth)
            connection->newest = 0;
    }
    connection->unsent += count * messages.message;
}

// Compares with the ring, whose second half spares a wrap-around of up to `ring_length` bytes.
static void verify(const struct connection *connection, size_t length) {
    for (size_t at = 0; at < length;) {
        size_t offset = (connection->receive_at + at) % messages.ring_length;
        size_t part = length - at < messages.ring_length ? length - at : messages.ring_length;
        if (memcmp(receive_buffer + at, messages.ring + offset, part) != 0)
            errors++;
        at += part;
    }
}

static void receive(struct connection *connection, bool measuring) {
    ssize_t length = recv(connection->fd, receive_buffer, RECEIVE_BUFFER, MSG_DONTWAIT);
    if (length < 0 && errno == EAGAIN)
        return;
    if (length <= 0) {
        fprintf(stderr, "closed by the server: %s\n", length ? strerror(errno) : "end of stream");
        exit(EXIT_CLOSED_BY_SERVER);
    }
    verify(connection, length);
    connection->receive_at = (connection->receive_at + length) % messages.ring_length;
    connection->partial += length;
    size_t complete = connection->partial / messages.message;
    if (complete == 0)
        return;
    connection->partial -= complete * messages.message;
    uint64_t time = now();
    for (size_t i = 0; i < complete; i++) {
        uint64_t latency = time - connection->sent_times[connection->oldest];
        if (++connection->oldest == options.depth)
            connection->oldest = 0;
        if (measuring)
            record(latency);
    }
    done += complete;
    push_messages(connection, complete, time);
    send_due(connection);
}

static struct connection *connect_all(void) {
    struct connection *all = calloc(options.connections, sizeof *all);
    for (int i = 0; i < options.connections; i++) {
        int fd = open_socket(0);
        connect_socket(fd);
        fcntl(fd, F_SETFL, O_NONBLOCK);
        // Each begins with another message: a server that mixes connections up is found out.
        size_t start = (i % messages.count) * messages.message;
        all[i] = (struct connection){.fd = fd, .send_at = start, .receive_at = start};
        all[i].sent_times = calloc(options.depth, sizeof(uint64_t));
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &all[i]};
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
    }
    return all;
}

void echo_streams(void) {
    epoll = epoll_create1(EPOLL_CLOEXEC);
    uint64_t began = now();
    struct connection *all = connect_all();
    uint64_t time = now(), last_received = time;
    double connect_seconds = (double)(time - began) / NANOSECONDS;
    uint64_t measure_from = time + (uint64_t)(options.warm_up * NANOSECONDS);
    uint64_t end = measure_from + (uint64_t)(options.seconds * NANOSECONDS);
    for (int i = 0; i < options.connections; i++) {
        push_messages(&all[i], options.depth, time);
        send_due(&all[i]);
    }
    bool measuring = false;
    struct snapshot start = take_snapshot(0);
    struct epoll_event events[MAX_EVENTS];
    for (;;) {
        int ready = epoll_wait(epoll, events, MAX_EVENTS, POLL_MILLISECONDS);
        time = now();
        if (!measuring && time >= measure_from) {
            measuring = true;
            start = take_snapshot(done);
        }
        if (time >= end)
            break;
        if (ready > 0)
            last_received = time;
        if (time - last_received > STALL) {
            fprintf(stderr, "stalled: nothing came back for 3 s\n");
            errors++;
            break;
        }
        for (int i = 0; i < ready; i++) {
            struct connection *connection = events[i].data.ptr;
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                receive(connection, measuring);
            if (events[i].events & EPOLLOUT && connection->unsent)
                send_due(connection);
        }
    }
    print_echo(start, done, 0, connect_seconds);
}
