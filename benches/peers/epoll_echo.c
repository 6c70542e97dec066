// The reference: an echo server as one writes it by hand in C, one thread on one epoll instance.
//
//     epoll_echo -a ADDRESS [-m DATAGRAMS]
//
// Streams: level-triggered, read into one shared buffer, write the same bytes back. A connection
// owns memory only while its peer does not read. UDP: recvfrom and sendto, or with -m batches of
// that many datagrams through recvmmsg and sendmmsg.
#include "net.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/epoll.h>
#include <unistd.h>

enum {
    BUFFER_SIZE = 65536, // larger ones gain nothing; every datagram fits
    MAX_FILES = 65536,   // connections are found by descriptor
    MAX_EVENTS = 1024,
    MAX_BATCH = 256,
    DATAGRAM_QUEUE = 4 << 20, // bytes: a deep burst must not be dropped before it is read
};

// What the peer has not read yet; {NULL, 0, 0} almost always.
struct connection {
    char *unwritten;
    size_t written, length;
};

static struct connection connections[MAX_FILES];
static char *buffer;
static int epoll;

static void watch(int fd, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(epoll, operation, fd, &event) < 0)
        die("epoll_ctl");
}

static void close_connection(int fd) {
    close(fd);
    free(connections[fd].unwritten);
    connections[fd] = (struct connection){0};
}

static void accept_all(int listener, bool tcp) {
    int fd;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        int on = 1; // not set_option: a peer that is gone already must not end the server
        if (tcp)
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        watch(fd, EPOLL_CTL_ADD, EPOLLIN);
    }
}

// Sends as much as the socket takes; -1 when the connection is gone.
static ssize_t send_some(int fd, const char *bytes, size_t length) {
    ssize_t sent = send(fd, bytes, length, MSG_NOSIGNAL);
    return sent < 0 && errno == EAGAIN ? 0 : sent;
}

// The peer reads again: sends the rest, and waits for input only when all is out.
static void write_rest(int fd) {
    struct connection *connection = &connections[fd];
    size_t rest = connection->length - connection->written;
    ssize_t sent = send_some(fd, connection->unwritten + connection->written, rest);
    if (sent < 0) {
        close_connection(fd);
    } else if ((size_t)sent == rest) {
        free(connection->unwritten);
        *connection = (struct connection){0};
        watch(fd, EPOLL_CTL_MOD, EPOLLIN);
    } else {
        connection->written += sent;
    }
}

// One read and one write a turn: if more is there, epoll says so again, after the others' turn.
static void echo(int fd) {
    ssize_t received = recv(fd, buffer, BUFFER_SIZE, 0);
    if (received < 0 && errno == EAGAIN)
        return;
    ssize_t sent = received > 0 ? send_some(fd, buffer, received) : -1;
    if (sent < 0) {
        close_connection(fd);
    } else if (sent < received) {
        size_t rest = received - sent;
        connections[fd] = (struct connection){.unwritten = malloc(rest), .length = rest};
        memcpy(connections[fd].unwritten, buffer + sent, rest);
        watch(fd, EPOLL_CTL_MOD, EPOLLOUT);
    }
}

static void serve_stream(int listener, bool tcp) {
    fcntl(listener, F_SETFL, O_NONBLOCK);
    epoll = epoll_create1(EPOLL_CLOEXEC);
    watch(listener, EPOLL_CTL_ADD, EPOLLIN);
    struct epoll_event events[MAX_EVENTS];
    for (;;) {
        int ready = epoll_wait(epoll, events, MAX_EVENTS, -1);
        for (int i = 0; i < ready; i++) {
            int fd = events[i].data.fd;
            if (fd == listener)
                accept_all(listener, tcp);
            else if (connections[fd].unwritten)
                write_rest(fd);
            else
                echo(fd);
        }
    }
}

static void serve_datagrams(int fd) {
    for (;;) {
        struct sockaddr_storage peer;
        socklen_t length = sizeof peer;
        ssize_t received = recvfrom(fd, buffer, BUFFER_SIZE, 0, (struct sockaddr *)&peer, &length);
        if (received >= 0)
            sendto(fd, buffer, received, 0, (struct sockaddr *)&peer, length);
    }
}

static void serve_batches(int fd, int batch) {
    struct mmsghdr messages[MAX_BATCH];
    struct iovec payloads[MAX_BATCH];
    struct sockaddr_storage peers[MAX_BATCH];
    char *buffers = malloc((size_t)BUFFER_SIZE * batch);
    for (;;) {
        for (int i = 0; i < batch; i++) {
            payloads[i] = (struct iovec){buffers + (size_t)BUFFER_SIZE * i, BUFFER_SIZE};
            messages[i].msg_hdr = (struct msghdr){
                .msg_name = &peers[i],
                .msg_namelen = sizeof peers[i],
                .msg_iov = &payloads[i],
                .msg_iovlen = 1,
            };
        }
        // Waits for the first datagram, then takes what is there.
        int received = recvmmsg(fd, messages, batch, MSG_WAITFORONE, NULL);
        for (int i = 0; i < received; i++)
            payloads[i].iov_len = messages[i].msg_len;
        for (int sent = 0, now; sent < received; sent += now) {
            now = sendmmsg(fd, messages + sent, received - sent, 0);
            if (now <= 0)
                break;
        }
    }
}

int main(int argc, char **argv) {
    const char *help = "usage: epoll_echo -a ADDRESS [-m DATAGRAMS (1 to 256)]", *text = NULL;
    int option, batch = 1;
    while ((option = getopt(argc, argv, "a:m:")) != -1) {
        if (option == 'a')
            text = optarg;
        else if (option == 'm')
            batch = atoi(optarg);
        else
            usage(help);
    }
    if (!text || batch < 1 || batch > MAX_BATCH)
        usage(help);

    signal(SIGPIPE, SIG_IGN);
    raise_file_limit(MAX_FILES);
    buffer = aligned_alloc(4096, BUFFER_SIZE);
    struct address address = parse_address(text);
    int fd = bind_address(&address);
    if (address.type == SOCK_STREAM)
        serve_stream(fd, address.family != AF_UNIX);
    set_option(fd, SOL_SOCKET, SO_RCVBUF, DATAGRAM_QUEUE);
    if (batch > 1)
        serve_batches(fd, batch);
    serve_datagrams(fd);
}
