// What connections cost, rather than messages: churn and idle.
#include "loadgen.h"
#include "measure.h"

#include <errno.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <unistd.h>

// Until the server has accepted, and freed what it will free; its state cannot be asked for.
enum { SETTLE_MICROSECONDS = 700000, STALL_MILLISECONDS = 2000 };

struct attempt {
    int fd;
    bool sent;
    size_t received;
    uint64_t began;
};

static int epoll;

static void send_message(struct attempt *attempt) {
    if (send(attempt->fd, messages.ring, messages.message, MSG_NOSIGNAL) < 0)
        errors++;
    attempt->sent = true;
}

static void begin(struct attempt *attempt) {
    *attempt = (struct attempt){.fd = open_socket(SOCK_NONBLOCK), .began = now()};
    const struct sockaddr *name = (const struct sockaddr *)&options.target.storage;
    int result = connect(attempt->fd, name, options.target.length);
    if (result < 0 && errno != EINPROGRESS)
        die("connect");
    if (result == 0)
        send_message(attempt);
    struct epoll_event event = {.events = attempt->sent ? EPOLLIN : EPOLLOUT, .data.ptr = attempt};
    epoll_ctl(epoll, EPOLL_CTL_ADD, attempt->fd, &event);
}

// Whether the attempt has ended, well or not.
static bool receive_reply(struct attempt *attempt) {
    ssize_t length = recv(attempt->fd, receive_buffer, RECEIVE_BUFFER, 0);
    if (length < 0 && errno == EAGAIN)
        return false;
    if (length <= 0 || attempt->received + length > messages.message ||
        memcmp(receive_buffer, messages.ring + attempt->received, length) != 0) {
        errors++;
        return true;
    }
    attempt->received += length;
    return attempt->received == messages.message;
}

void churn(void) {
    epoll = epoll_create1(EPOLL_CLOEXEC);
    struct attempt *attempts = calloc(options.connections, sizeof *attempts);
    struct snapshot start = take_snapshot(0);
    uint64_t end = start.time + (uint64_t)(options.seconds * NANOSECONDS), done = 0;
    uint64_t started = options.connections, live = options.connections;
    for (int i = 0; i < options.connections; i++)
        begin(&attempts[i]);
    struct epoll_event events[MAX_EVENTS];
    while (live) {
        int ready = epoll_wait(epoll, events, MAX_EVENTS, STALL_MILLISECONDS);
        uint64_t time = now();
        if (ready == 0) {
            fprintf(stderr, "stalled: nothing came back for 2 s\n");
            errors++;
            break;
        }
        for (int i = 0; i < ready; i++) {
            struct attempt *attempt = events[i].data.ptr;
            if (!attempt->sent) { // connected
                send_message(attempt);
                struct epoll_event event = {.events = EPOLLIN, .data.ptr = attempt};
                epoll_ctl(epoll, EPOLL_CTL_MOD, attempt->fd, &event);
                continue;
            }
            if (!receive_reply(attempt))
                continue;
            close(attempt->fd);
            record(now() - attempt->began);
            done++;
            if (time < end && (!options.most_churn || started < options.most_churn)) {
                begin(attempt);
                started++;
            } else {
                live--;
            }
        }
    }
    struct snapshot last = take_snapshot(done);
    double elapsed = (double)(last.time - start.time) / NANOSECONDS;
    uint64_t cpu = last.server_cpu - start.server_cpu;
    printf("{\"mode\":\"churn\",\"c\":%d,\"s\":%zu,\"d\":1,\"mps\":%.0f,\"p50\":%.1f,\"p99\":%.1f,"
           "\"p999\":%.1f,\"ccpu\":%.2f,\"scpu\":%.2f,\"sns\":%.0f,\"errs\":%lu,\"n\":%lu}\n",
           options.connections, options.size, done / elapsed, percentile(.5), percentile(.99),
           percentile(.999), (last.own_cpu - start.own_cpu) / elapsed / NANOSECONDS,
           cpu / elapsed / NANOSECONDS, done ? (double)cpu / done : 0, errors, done);
}

static void send_whole_message(int fd) {
    for (size_t at = 0; at < messages.message;) {
        ssize_t sent = send(fd, messages.ring + at, messages.message - at, MSG_NOSIGNAL);
        if (sent < 0)
            die("send");
        at += sent;
    }
}

static void receive_whole_message(int fd) {
    for (size_t at = 0; at < messages.message;) {
        size_t rest = messages.message - at;
        ssize_t length = recv(fd, receive_buffer, rest < RECEIVE_BUFFER ? rest : RECEIVE_BUFFER, 0);
        if (length <= 0)
            die("recv");
        if (memcmp(receive_buffer, messages.ring + at, length) != 0)
            errors++;
        at += length;
    }
}

void idle(void) {
    int *sockets = calloc(options.connections, sizeof *sockets);
    long rss_before = server_rss(), slab_before = kernel_slab();
    for (int i = 0; i < options.connections; i++) {
        sockets[i] = open_socket(0);
        connect_socket(sockets[i]);
    }
    usleep(SETTLE_MICROSECONDS);
    long rss_connected = server_rss(), slab_connected = kernel_slab();
    for (int i = 0; i < options.connections; i++)
        send_whole_message(sockets[i]);
    for (int i = 0; i < options.connections; i++)
        receive_whole_message(sockets[i]);
    usleep(SETTLE_MICROSECONDS);
    long rss_echoed = server_rss(), slab_echoed = kernel_slab();
    double kib = 1024.0 / options.connections; // bytes per connection in one KiB of all
    printf("{\"mode\":\"idle\",\"c\":%d,\"s\":%zu,\"rss0\":%ld,\"rss_conn\":%ld,\"rss_echo\":%ld,"
           "\"Bconn\":%.0f,\"Becho\":%.0f,\"slabB\":%.0f,\"slabBecho\":%.0f,\"errs\":%lu}\n",
           options.connections, options.size, rss_before, rss_connected, rss_echoed,
           (rss_connected - rss_before) * kib, (rss_echoed - rss_before) * kib,
           (slab_connected - slab_before) * kib, (slab_echoed - slab_before) * kib, errors);
}
