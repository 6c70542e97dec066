// Addresses as the programs of this folder take them, and what else servers and load generator
// share: tcp:127.0.0.1:PORT, tcp:[::1]:PORT, udp:HOST:PORT, unix:PATH. Hosts are numeric.
#ifndef NET_H
#define NET_H

#ifndef _GNU_SOURCE
#    define _GNU_SOURCE // recvmmsg, accept4
#endif

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

struct address {
    struct sockaddr_storage storage;
    socklen_t length;
    int family; // AF_INET, AF_INET6, AF_UNIX
    int type;   // SOCK_STREAM, SOCK_DGRAM
};

// Prints what failed with errno's text and ends the program.
__attribute__((noreturn)) static inline void die(const char *what) {
    perror(what);
    exit(3);
}

__attribute__((noreturn)) static inline void usage(const char *text) {
    fprintf(stderr, "%s\n", text);
    exit(64);
}

static inline struct address parse_address(const char *text) {
    struct address address = {.type = SOCK_STREAM};
    if (strncmp(text, "unix:", 5) == 0) {
        struct sockaddr_un name = {.sun_family = AF_UNIX};
        if (strlen(text + 5) >= sizeof name.sun_path)
            usage("the path of a Unix socket has at most 107 bytes");
        strcpy(name.sun_path, text + 5);
        memcpy(&address.storage, &name, sizeof name);
        address.length = sizeof name;
        address.family = AF_UNIX;
        return address;
    }
    if (strncmp(text, "udp:", 4) == 0)
        address.type = SOCK_DGRAM;
    else if (strncmp(text, "tcp:", 4) != 0)
        usage("an address is tcp:HOST:PORT, udp:HOST:PORT or unix:PATH");

    // "[::1]:7" and "127.0.0.1:7": the port follows the last colon, brackets are not the host's.
    char host[64];
    const char *start = text + 4, *colon = strrchr(start, ':');
    if (!colon || (size_t)(colon - start) >= sizeof host)
        usage("an address is tcp:HOST:PORT, udp:HOST:PORT or unix:PATH");
    const char *end = colon;
    if (*start == '[' && end[-1] == ']')
        start++, end--;
    memcpy(host, start, end - start);
    host[end - start] = '\0';

    struct addrinfo hints = {.ai_socktype = address.type, .ai_flags = AI_NUMERICHOST}, *found;
    if (getaddrinfo(host, colon + 1, &hints, &found) != 0)
        usage("the host of an address is numeric: 127.0.0.1 or [::1]");
    memcpy(&address.storage, found->ai_addr, found->ai_addrlen);
    address.length = found->ai_addrlen;
    address.family = found->ai_family;
    freeaddrinfo(found);
    return address;
}

// The soft limit of open files is 1,024 on most systems; `most` is what the program has room for.
static inline void raise_file_limit(rlim_t most) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        die("getrlimit");
    limit.rlim_cur = limit.rlim_max < most ? limit.rlim_max : most;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
        die("setrlimit");
}

static inline void set_option(int fd, int level, int option, int value) {
    if (setsockopt(fd, level, option, &value, sizeof value) < 0)
        die("setsockopt");
}

// A bound socket; a stream socket listens too, with the backlog that echo-core sets.
static inline int bind_address(const struct address *address) {
    if (address->family == AF_UNIX)
        remove(((const struct sockaddr_un *)&address->storage)->sun_path);
    int fd = socket(address->family, address->type | SOCK_CLOEXEC, 0);
    if (fd < 0)
        die("socket");
    if (address->family != AF_UNIX)
        set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (bind(fd, (const struct sockaddr *)&address->storage, address->length) < 0)
        die("bind");
    if (address->type == SOCK_STREAM && listen(fd, 4096) < 0)
        die("listen");
    return fd;
}

#endif
