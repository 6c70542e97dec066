// What the load generator's parts share: its options, the messages it sends, its exit codes.
#ifndef LOADGEN_H
#define LOADGEN_H

#include "net.h"

#include <stdint.h>

// Exit codes: 64 usage, 3 a system call failed, and
enum { EXIT_CLOSED_BY_SERVER = 4, EXIT_ERRORS = 5 };

enum {
    MAX_FILES = 20000,
    MAX_EVENTS = 512,
    RECEIVE_BUFFER = 256 << 10,
    MAX_DATAGRAM = 65536,
};

struct options {
    const char *mode;
    struct address target;
    int connections;
    int depth;           // messages under way per connection
    size_t size;         // payload bytes of a message
    double seconds;      // measured time
    double warm_up;      // seconds before it
    uint64_t most_churn; // connections after which churn ends early, 0: none
    int server_pid;      // whose CPU time and memory are reported, 0: nobody's
};

// Messages with different random payloads, one after the other, and the same once more behind
// them: a slice of up to `ring_length` bytes is contiguous wherever it begins.
struct messages {
    char *ring;
    size_t ring_length;
    size_t message; // bytes of one, with its header
    size_t count;
};

extern struct options options;
extern struct messages messages;
extern char *receive_buffer;
extern uint64_t errors; // wrong bytes, failed connections, stalls

// A socket for the target, not connected. Flags: SOCK_NONBLOCK or 0.
int open_socket(int flags);
// Waits while the server's backlog is full.
void connect_socket(int fd);

// The modes; each prints one line of JSON.
void echo_streams(void);
void echo_datagrams(void);
void churn(void);
void idle(void);

#endif
