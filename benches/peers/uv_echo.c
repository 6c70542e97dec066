// An echo server on libuv, as its documentation writes one, with the two habits that make it fast:
// one read buffer for all connections, and uv_try_write before anything is queued.
//
//     uv_echo PORT        (TCP on 127.0.0.1)
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

// A write that the socket did not take at once, with its bytes behind it.
struct rest {
    uv_write_t request;
    char bytes[];
};

// A read callback runs to its end before the next read, so that all connections share one buffer.
static char buffer[65536];

static void on_allocate(uv_handle_t *handle, size_t suggested, uv_buf_t *result) {
    (void)handle, (void)suggested;
    *result = uv_buf_init(buffer, sizeof buffer);
}

static void on_closed(uv_handle_t *handle) {
    free(handle);
}

static void on_written(uv_write_t *request, int status) {
    (void)status; // a failed write is followed by a failed read
    free(request);
}

static void on_read(uv_stream_t *stream, ssize_t length, const uv_buf_t *input) {
    if (length < 0) {
        uv_close((uv_handle_t *)stream, on_closed);
        return;
    }
    if (length == 0)
        return; // EAGAIN
    uv_buf_t reply = uv_buf_init(input->base, length);
    ssize_t written = uv_try_write(stream, &reply, 1);
    if (written < 0)
        written = 0;
    if (written < length) {
        size_t left = length - written;
        struct rest *rest = malloc(sizeof *rest + left);
        memcpy(rest->bytes, input->base + written, left);
        reply = uv_buf_init(rest->bytes, left);
        uv_write(&rest->request, stream, &reply, 1, on_written);
    }
}

static void on_connection(uv_stream_t *listener, int status) {
    if (status < 0)
        return;
    uv_tcp_t *connection = malloc(sizeof *connection);
    uv_tcp_init(listener->loop, connection);
    if (uv_accept(listener, (uv_stream_t *)connection) < 0) {
        uv_close((uv_handle_t *)connection, on_closed);
        return;
    }
    uv_tcp_nodelay(connection, 1);
    uv_read_start((uv_stream_t *)connection, on_allocate, on_read);
}

static int fail(const char *what, int error) {
    fprintf(stderr, "%s: %s\n", what, uv_strerror(error));
    return 3;
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: uv_echo PORT\n");
        return 64;
    }
    signal(SIGPIPE, SIG_IGN);
    uv_loop_t *loop = uv_default_loop();
    uv_tcp_t listener;
    struct sockaddr_in address;
    uv_tcp_init(loop, &listener);
    uv_ip4_addr("127.0.0.1", atoi(argv[1]), &address);
    int error = uv_tcp_bind(&listener, (struct sockaddr *)&address, 0);
    if (error < 0)
        return fail("bind", error);
    error = uv_listen((uv_stream_t *)&listener, 4096, on_connection);
    if (error < 0)
        return fail("listen", error);
    return uv_run(loop, UV_RUN_DEFAULT);
}
