// An echo server on io_uring: multishot accept, multishot recv into a ring of buffers that the
// kernel picks from, and one send under way per connection. One thread.
//
//     uring_echo PORT        (TCP on 127.0.0.1)
#include "net.h"

#include <errno.h>
#include <liburing.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <unistd.h>

enum {
    BUFFERS = 4096, // a power of two, as the buffer ring wants
    BUFFER_SIZE = 8192,
    BUFFER_GROUP = 0,
    MAX_FILES = 65536, // connections are found by descriptor
    SUBMISSIONS = 4096,
    COMPLETIONS = 32768,
    FIRST_QUEUE = 4, // replies that a connection's queue has room for at first
};

enum operation { ACCEPT, RECEIVE, SEND };

// A buffer with received bytes that go back to the peer.
struct reply {
    uint16_t buffer;
    uint32_t length, sent;
};

// Replies go out in order: `head` is under way, those up to `tail` wait.
struct connection {
    struct reply *queue;
    uint32_t head, tail, capacity;
    bool receiving; // a multishot recv is armed
    bool sending;
    bool ended;   // nothing more will be received
    bool starved; // its recv ended because no buffer was free
};

static struct connection connections[MAX_FILES];
static int starved[MAX_FILES];
static int starved_count;
static struct io_uring ring;
static struct io_uring_buf_ring *free_buffers;
static char *buffers;

static char *buffer_at(uint16_t buffer) {
    return buffers + (size_t)buffer * BUFFER_SIZE;
}

// A free submission; a full queue is submitted first.
static struct io_uring_sqe *prepare(void) {
    struct io_uring_sqe *submission = io_uring_get_sqe(&ring);
    if (!submission) {
        io_uring_submit(&ring);
        submission = io_uring_get_sqe(&ring);
    }
    return submission;
}

static void tag(struct io_uring_sqe *submission, enum operation operation, int fd) {
    io_uring_sqe_set_data64(submission, (uint64_t)operation << 32 | (uint32_t)fd);
}

static void start_accepting(int listener) {
    struct io_uring_sqe *submission = prepare();
    io_uring_prep_multishot_accept(submission, listener, NULL, NULL, 0);
    tag(submission, ACCEPT, listener);
}

static void start_receiving(int fd) {
    struct io_uring_sqe *submission = prepare();
    io_uring_prep_recv_multishot(submission, fd, NULL, 0, 0);
    submission->flags |= IOSQE_BUFFER_SELECT;
    submission->buf_group = BUFFER_GROUP;
    tag(submission, RECEIVE, fd);
    connections[fd].receiving = true;
}

static struct reply *first_reply(struct connection *connection) {
    return &connection->queue[connection->head % connection->capacity];
}

static void start_sending(int fd) {
    struct reply *reply = first_reply(&connections[fd]);
    struct io_uring_sqe *submission = prepare();
    io_uring_prep_send(submission, fd, buffer_at(reply->buffer) + reply->sent,
                       reply->length - reply->sent, MSG_NOSIGNAL | MSG_WAITALL);
    tag(submission, SEND, fd);
    connections[fd].sending = true;
}

static void give_back(uint16_t buffer) {
    io_uring_buf_ring_add(free_buffers, buffer_at(buffer), BUFFER_SIZE, buffer,
                          io_uring_buf_ring_mask(BUFFERS), 0);
    io_uring_buf_ring_advance(free_buffers, 1);
}

static void push_reply(struct connection *connection, struct reply reply) {
    uint32_t count = connection->tail - connection->head;
    if (count == connection->capacity) {
        uint32_t capacity = count ? count * 2 : FIRST_QUEUE;
        struct reply *queue = malloc(capacity * sizeof *queue);
        for (uint32_t i = 0; i < count; i++)
            queue[i] = connection->queue[(connection->head + i) % connection->capacity];
        free(connection->queue);
        connection->queue = queue;
        connection->capacity = capacity;
        connection->head = 0;
        connection->tail = count;
    }
    connection->queue[connection->tail++ % connection->capacity] = reply;
}

// The descriptor may be closed, and used anew, only when no operation refers to it.
static void close_when_unused(int fd) {
    struct connection *connection = &connections[fd];
    if (connection->sending || connection->receiving)
        return;
    for (; connection->head != connection->tail; connection->head++)
        give_back(first_reply(connection)->buffer);
    free(connection->queue);
    *connection = (struct connection){0};
    close(fd);
}

static void on_accept(int listener, const struct io_uring_cqe *completion) {
    if (completion->res >= 0) {
        int on = 1;
        setsockopt(completion->res, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        start_receiving(completion->res);
    }
    if (!(completion->flags & IORING_CQE_F_MORE))
        start_accepting(listener);
}

static void on_receive(int fd, const struct io_uring_cqe *completion) {
    struct connection *connection = &connections[fd];
    bool more = completion->flags & IORING_CQE_F_MORE;
    if (!more)
        connection->receiving = false;
    if (completion->res > 0) {
        push_reply(connection, (struct reply){
                                   .buffer = completion->flags >> IORING_CQE_BUFFER_SHIFT,
                                   .length = completion->res,
                               });
        if (!connection->sending)
            start_sending(fd);
        if (!more)
            start_receiving(fd);
    } else if (completion->res == -ENOBUFS) {
        if (!connection->starved) {
            connection->starved = true;
            starved[starved_count++] = fd;
        }
    } else {
        connection->ended = true;
        if (connection->head == connection->tail || completion->res < 0)
            close_when_unused(fd);
    }
}

static void on_send(int fd, const struct io_uring_cqe *completion) {
    struct connection *connection = &connections[fd];
    connection->sending = false;
    if (completion->res <= 0) {
        connection->ended = true;
        if (connection->receiving)
            shutdown(fd, SHUT_RDWR); // ends the recv
        close_when_unused(fd);
        return;
    }
    struct reply *reply = first_reply(connection);
    reply->sent += completion->res;
    if (reply->sent >= reply->length) {
        give_back(reply->buffer);
        connection->head++;
        // A queue that a burst made long goes: an idle connection keeps the small one.
        if (connection->head == connection->tail && connection->capacity > FIRST_QUEUE) {
            free(connection->queue);
            connection->queue = NULL;
            connection->head = connection->tail = connection->capacity = 0;
        }
    }
    if (connection->head != connection->tail)
        start_sending(fd);
    else if (connection->ended)
        close_when_unused(fd);
}

// This round's sends gave buffers back: those that found none receive again.
static void feed_starved(void) {
    int count = starved_count;
    starved_count = 0;
    for (int i = 0; i < count; i++) {
        struct connection *connection = &connections[starved[i]];
        if (!connection->starved)
            continue; // closed in the meantime
        connection->starved = false;
        if (!connection->ended && !connection->receiving)
            start_receiving(starved[i]);
    }
}

static void set_up(void) {
    struct io_uring_params params = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE,
        .cq_entries = COMPLETIONS,
    };
    errno = -io_uring_queue_init_params(SUBMISSIONS, &ring, &params);
    if (errno)
        die("io_uring_queue_init_params");
    buffers = aligned_alloc(4096, (size_t)BUFFERS * BUFFER_SIZE);
    free_buffers = aligned_alloc(4096, BUFFERS * sizeof(struct io_uring_buf));
    struct io_uring_buf_reg registration = {
        .ring_addr = (uintptr_t)free_buffers,
        .ring_entries = BUFFERS,
        .bgid = BUFFER_GROUP,
    };
    errno = -io_uring_register_buf_ring(&ring, &registration, 0);
    if (errno)
        die("io_uring_register_buf_ring");
    io_uring_buf_ring_init(free_buffers);
    for (int i = 0; i < BUFFERS; i++)
        io_uring_buf_ring_add(free_buffers, buffer_at(i), BUFFER_SIZE, i,
                              io_uring_buf_ring_mask(BUFFERS), i);
    io_uring_buf_ring_advance(free_buffers, BUFFERS);
}

int main(int argc, char **argv) {
    if (argc != 2)
        usage("usage: uring_echo PORT");
    signal(SIGPIPE, SIG_IGN);
    raise_file_limit(MAX_FILES);
    char text[64];
    snprintf(text, sizeof text, "tcp:127.0.0.1:%s", argv[1]);
    struct address address = parse_address(text);
    int listener = bind_address(&address);
    set_up();
    start_accepting(listener);
    for (;;) {
        io_uring_submit_and_wait(&ring, 1);
        struct io_uring_cqe *completion;
        unsigned head, count = 0;
        io_uring_for_each_cqe(&ring, head, completion) {
            int fd = (int)completion->user_data;
            switch ((enum operation)(completion->user_data >> 32)) {
            case ACCEPT: on_accept(fd, completion); break;
            case RECEIVE: on_receive(fd, completion); break;
            case SEND: on_send(fd, completion); break;
            }
            count++;
        }
        io_uring_cq_advance(&ring, count);
        feed_starved();
    }
}
