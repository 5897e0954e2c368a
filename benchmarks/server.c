/* An object store for benchmarks: far away, quick, and read-only.
 *
 *     server ROOT LATENCY JITTER RATE SECONDS
 *
 * Serves the files ROOT/BUCKET/KEY to whoever asks for /BUCKET/KEY, as a web server and as a
 * path-style S3 endpoint (signatures are not looked at): GET and HEAD with one Range and If-Match,
 * HEAD of a bucket, and ListObjectsV2. An ETag is MTIME-SIZE, the first in nanoseconds, both in
 * hexadecimal.
 *
 * The first byte of a reply comes LATENCY to LATENCY + JITTER milliseconds after its request, and a
 * connection then gets at most RATE bytes a second (0: no limit), paced by the kernel. Requests that
 * wait cost nothing: one thread, epoll, one timer and sendfile, so that the cores are left to what
 * is measured.
 *
 * Listens on a free port of 127.0.0.1 and prints it. What was asked for is counted by bucket:
 *
 *     GET /-/counts    the counts as JSON
 *     GET /-/reset     the same, and begin at 0 again
 *
 * Ends after SECONDS, or with the process that started it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_CONNECTIONS = 4096,
    MAX_REQUEST = 16 * 1024, /* bytes of a request's head */
    MAX_PATH = 4096,
    MAX_BUCKETS = 16,
    MAX_KEYS = 1000, /* on one page of a listing */
    MAX_DEPTH = 16,  /* of folders in a bucket */
};

enum state { READING, WAITING, SENDING };

struct connection {
    int socket;
    enum state state;
    bool closes; /* after this reply */
    char request[MAX_REQUEST + 1];
    size_t received;
    char *reply; /* the head, and the body unless that is a file's */
    size_t reply_size, reply_sent;
    int file; /* or -1 */
    off_t offset;
    size_t left; /* bytes of the file to send */
    int64_t due; /* when a waiting reply may go */
};

struct counts {
    char bucket[64];
    uint64_t gets, heads, lists, errors, bytes;
};

static const char *root;
static int64_t latency, jitter; /* nanoseconds */
static uint64_t rate;

static int listener, poller, timer;
static struct connection *waiting[MAX_CONNECTIONS]; /* those with a reply to come, the last due first */
static int waiting_count;

static struct counts counts[MAX_BUCKETS];
static int bucket_count, connection_count, busy, busy_most;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

/* -- counting ------------------------------------------------------------------------------------ */

static struct counts *counts_of(const char *bucket, size_t size) {
    for (int i = 0; i < bucket_count; i++)
        if (strlen(counts[i].bucket) == size && memcmp(counts[i].bucket, bucket, size) == 0)
            return &counts[i];
    if (bucket_count == MAX_BUCKETS || size >= sizeof counts->bucket)
        return &counts[0]; /* strangers count as the first */
    struct counts *made = &counts[bucket_count++];
    memcpy(made->bucket, bucket, size);
    return made;
}

static void reset_counts(void) {
    for (int i = 0; i < bucket_count; i++)
        counts[i].gets = counts[i].heads = counts[i].lists = counts[i].errors = counts[i].bytes = 0;
    busy_most = busy;
}

/* -- replies ------------------------------------------------------------------------------------- */

static void __attribute__((format(printf, 2, 3))) set_reply(struct connection *c, const char *format, ...) {
    va_list values;
    va_start(values, format);
    free(c->reply);
    int size = vasprintf(&c->reply, format, values);
    va_end(values);
    if (size < 0)
        fail("out of memory");
    c->reply_size = size;
    c->reply_sent = 0;
}

static void set_document(struct connection *c, const char *status, const char *type, const char *body, bool is_head) {
    set_reply(c, "HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n\r\n%s", status, type, strlen(body),
              is_head ? "" : body);
}

static void set_error(struct connection *c, const char *status, const char *code, bool is_head) {
    char body[256];
    snprintf(body, sizeof body, "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>%s</Code></Error>", code);
    set_document(c, status, "application/xml", body, is_head);
}

static void set_counts(struct connection *c) {
    char *body;
    size_t size;
    FILE *out = open_memstream(&body, &size);
    if (out == NULL)
        fail("out of memory");
    fprintf(out, "{\"busy\": %d, \"busy_most\": %d, \"connections\": %d, \"buckets\": {", busy, busy_most,
            connection_count);
    for (int i = 0; i < bucket_count; i++)
        fprintf(out,
                "%s\"%s\": {\"gets\": %" PRIu64 ", \"heads\": %" PRIu64 ", \"lists\": %" PRIu64
                ", \"errors\": %" PRIu64 ", \"bytes\": %" PRIu64 "}",
                i ? ", " : "", counts[i].bucket, counts[i].gets, counts[i].heads, counts[i].lists, counts[i].errors,
                counts[i].bytes);
    fputs("}}", out);
    fclose(out);
    set_document(c, "200 OK", "application/json", body, false);
    free(body);
}

/* -- requests ------------------------------------------------------------------------------------ */

static int hex(char c) {
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Decode the *size* bytes at *from*; false if the result would not fit, or has a NUL in it. */
static bool decode(const char *from, size_t size, char *to, size_t room) {
    const char *end = from + size;
    for (; from < end; from++) {
        char c = *from;
        if (c == '%' && end - from > 2 && hex(from[1]) >= 0 && hex(from[2]) >= 0) {
            c = hex(from[1]) * 16 + hex(from[2]);
            from += 2;
        }
        if (c == '\0' || room-- <= 1)
            return false;
        *to++ = c;
    }
    *to = '\0';
    return true;
}

/* Find a parameter of a query. Returns false, and "" as its value, if it is not there. */
static bool parameter(const char *query, const char *name, char *value, size_t room) {
    size_t name_size = strlen(name);
    *value = '\0';
    while (query != NULL && *query) {
        size_t size = strcspn(query, "&");
        if (size >= name_size && memcmp(query, name, name_size) == 0 && (size == name_size || query[name_size] == '=')) {
            if (size == name_size)
                return true;
            return decode(query + name_size + 1, size - name_size - 1, value, room);
        }
        query += size;
        query += *query == '&';
    }
    return false;
}

/* Find a header in a head of which every line ends in CR LF. Returns false if it is not there. */
static bool header(const char *head, const char *name, char *value, size_t room) {
    size_t name_size = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line != NULL; line = strstr(line, "\r\n")) {
        line += 2;
        if (strncasecmp(line, name, name_size) != 0 || line[name_size] != ':')
            continue;
        line += name_size + 1;
        line += strspn(line, " \t");
        size_t size = strcspn(line, "\r");
        if (size >= room)
            return false;
        memcpy(value, line, size);
        value[size] = '\0';
        return true;
    }
    return false;
}

/* -- listings ------------------------------------------------------------------------------------ */

struct object {
    char *key;
    struct stat status;
};

struct listing {
    struct object *objects;
    size_t count, room;
};

static void write_etag(const struct stat *status, char *etag, size_t room) {
    uint64_t time = status->st_mtim.tv_sec * UINT64_C(1000000000) + status->st_mtim.tv_nsec;
    snprintf(etag, room, "%" PRIx64 "-%" PRIx64, time, (uint64_t)status->st_size);
}

static void walk(const char *folder, const char *key, int depth, struct listing *found) {
    char path[MAX_PATH], below[MAX_PATH];
    if (depth > MAX_DEPTH || snprintf(path, sizeof path, "%s/%s", folder, key) >= (int)sizeof path)
        return;
    DIR *opened = opendir(path);
    if (opened == NULL)
        return;
    for (struct dirent *entry; (entry = readdir(opened)) != NULL;) {
        struct stat status;
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        if (snprintf(below, sizeof below, "%s%s", key, entry->d_name) >= (int)sizeof below - 1)
            continue;
        if (fstatat(dirfd(opened), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) != 0)
            continue;
        if (S_ISDIR(status.st_mode)) {
            walk(folder, strcat(below, "/"), depth + 1, found);
        } else if (S_ISREG(status.st_mode)) {
            if (found->count == found->room) {
                found->room = found->room ? 2 * found->room : 1024;
                found->objects = realloc(found->objects, found->room * sizeof *found->objects);
                if (found->objects == NULL)
                    fail("out of memory");
            }
            found->objects[found->count++] = (struct object){strdup(below), status};
        }
    }
    closedir(opened);
}

static int by_key(const void *a, const void *b) {
    return strcmp(((const struct object *)a)->key, ((const struct object *)b)->key);
}

static void write_escaped(FILE *out, const char *text, size_t size) {
    for (const char *end = text + size; text < end; text++) {
        if (*text == '&')
            fputs("&amp;", out);
        else if (*text == '<')
            fputs("&lt;", out);
        else if (*text == '>')
            fputs("&gt;", out);
        else
            fputc(*text, out);
    }
}

static void write_object(FILE *out, const struct object *object) {
    char etag[64], time[64];
    struct tm parts;
    write_etag(&object->status, etag, sizeof etag);
    gmtime_r(&object->status.st_mtime, &parts);
    strftime(time, sizeof time, "%Y-%m-%dT%H:%M:%S.000Z", &parts);
    fputs("<Contents><Key>", out);
    write_escaped(out, object->key, strlen(object->key));
    fprintf(out, "</Key><LastModified>%s</LastModified><ETag>\"%s\"</ETag><Size>%jd</Size></Contents>", time, etag,
            (intmax_t)object->status.st_size);
}

/* Answer with the keys, or groups of keys up to the delimiter, that come after where the page begins. */
static void set_listing(struct connection *c, const char *bucket, const char *query) {
    char prefix[MAX_PATH], delimiter[8], after[MAX_PATH], number[16], folder[MAX_PATH];
    parameter(query, "prefix", prefix, sizeof prefix);
    parameter(query, "delimiter", delimiter, sizeof delimiter);
    if (!parameter(query, "continuation-token", after, sizeof after))
        parameter(query, "start-after", after, sizeof after);
    int most = parameter(query, "max-keys", number, sizeof number) ? atoi(number) : MAX_KEYS;
    if (most > MAX_KEYS || most < 1)
        most = MAX_KEYS;
    struct listing found = {0};
    if (snprintf(folder, sizeof folder, "%s/%s", root, bucket) < (int)sizeof folder)
        walk(folder, "", 0, &found);
    qsort(found.objects, found.count, sizeof *found.objects, by_key);

    char *body;
    size_t body_size, prefix_size = strlen(prefix), group_size = 0;
    FILE *out = open_memstream(&body, &body_size);
    if (out == NULL)
        fail("out of memory");
    fputs("<?xml version=\"1.0\" encoding=\"UTF-8\"?>"
          "<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">", out);
    int written = 0;
    bool more = false;
    const char *last = NULL;
    for (size_t i = 0; i < found.count && !more; i++) {
        const char *key = found.objects[i].key;
        if (strncmp(key, prefix, prefix_size) != 0 || strcmp(key, after) <= 0)
            continue;
        if (group_size && strncmp(key, last, group_size) == 0) {
            last = key; /* of the group that was written */
            continue;
        }
        if (written == most) {
            more = true;
            break;
        }
        const char *mark = *delimiter ? strstr(key + prefix_size, delimiter) : NULL;
        group_size = mark ? mark + strlen(delimiter) - key : 0;
        if (group_size) {
            fputs("<CommonPrefixes><Prefix>", out);
            write_escaped(out, key, group_size);
            fputs("</Prefix></CommonPrefixes>", out);
        } else {
            write_object(out, &found.objects[i]);
        }
        written++;
        last = key;
    }
    fprintf(out, "<KeyCount>%d</KeyCount><MaxKeys>%d</MaxKeys><IsTruncated>%s</IsTruncated>", written, most,
            more ? "true" : "false");
    if (more) {
        fputs("<NextContinuationToken>", out);
        write_escaped(out, last, strlen(last));
        fputs("</NextContinuationToken>", out);
    }
    fputs("</ListBucketResult>", out);
    fclose(out);
    set_document(c, "200 OK", "application/xml", body, false);
    free(body);
    for (size_t i = 0; i < found.count; i++)
        free(found.objects[i].key);
    free(found.objects);
}

/* -- objects ------------------------------------------------------------------------------------- */

/* Read `bytes=A-B`, `bytes=A-` or `bytes=-N`. Returns 0 for anything else, -1 if it holds no byte. */
static int parse_range(const char *text, int64_t size, int64_t *first, int64_t *last) {
    char *rest;
    if (strncmp(text, "bytes=", 6) != 0 || strchr(text, ',') != NULL)
        return 0;
    text += 6;
    if (*text == '-') {
        int64_t count = strtoll(text + 1, NULL, 10);
        *first = count < size ? size - count : 0;
        *last = size - 1;
        return count > 0 && size > 0 ? 1 : -1;
    }
    *first = strtoll(text, &rest, 10);
    if (rest == text || *rest != '-')
        return 0;
    *last = rest[1] ? strtoll(rest + 1, NULL, 10) : size - 1;
    if (*last >= size)
        *last = size - 1;
    return *first <= *last ? 1 : -1;
}

static void set_object(struct connection *c, const char *path, bool is_head, struct counts *count) {
    char etag[64], time[64], value[1024], part[128] = "";
    struct stat status;
    struct tm parts;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &status) != 0 || !S_ISREG(status.st_mode)) {
        if (file >= 0)
            close(file);
        count->errors++;
        set_error(c, "404 Not Found", "NoSuchKey", is_head);
        return;
    }
    write_etag(&status, etag, sizeof etag);
    if (header(c->request, "If-Match", value, sizeof value) && strcmp(value, "*") != 0 && strstr(value, etag) == NULL) {
        close(file);
        count->errors++;
        set_error(c, "412 Precondition Failed", "PreconditionFailed", is_head);
        return;
    }
    int64_t first = 0, last = status.st_size - 1;
    int has_range = 0;
    if (header(c->request, "Range", value, sizeof value))
        has_range = parse_range(value, status.st_size, &first, &last);
    if (has_range < 0) {
        close(file);
        count->errors++;
        set_reply(c, "HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */%jd\r\nContent-Length: 0\r\n\r\n",
                  (intmax_t)status.st_size);
        return;
    }
    if (has_range)
        snprintf(part, sizeof part, "Content-Range: bytes %jd-%jd/%jd\r\n", (intmax_t)first, (intmax_t)last,
                 (intmax_t)status.st_size);
    gmtime_r(&status.st_mtime, &parts);
    strftime(time, sizeof time, "%a, %d %b %Y %H:%M:%S GMT", &parts);
    int64_t size = last - first + 1;
    set_reply(c,
              "HTTP/1.1 %s\r\nETag: \"%s\"\r\nLast-Modified: %s\r\nAccept-Ranges: bytes\r\n"
              "Content-Type: application/octet-stream\r\n%sContent-Length: %jd\r\n\r\n",
              has_range ? "206 Partial Content" : "200 OK", etag, time, part, (intmax_t)size);
    if (is_head) {
        close(file);
        count->heads++;
        return;
    }
    count->gets++;
    count->bytes += size;
    c->file = file;
    c->offset = first;
    c->left = size;
}

/* Make the reply to the request at the front of the buffer. Returns whether it is to come late. */
static bool answer(struct connection *c) {
    char method[8], target[MAX_PATH], path[MAX_PATH], value[64];
    if (sscanf(c->request, "%7s %4095s", method, target) != 2) {
        c->closes = true;
        set_error(c, "400 Bad Request", "BadRequest", false);
        return false;
    }
    c->closes = header(c->request, "Connection", value, sizeof value) && strcasecmp(value, "close") == 0;
    bool is_head = strcmp(method, "HEAD") == 0;
    char *query = strchr(target, '?');
    if (query != NULL)
        *query++ = '\0';
    if (strcmp(target, "/-/counts") == 0 || strcmp(target, "/-/reset") == 0) {
        set_counts(c);
        if (target[3] == 'r')
            reset_counts();
        return false;
    }
    busy++;
    if (busy > busy_most)
        busy_most = busy;
    if ((!is_head && strcmp(method, "GET") != 0) || target[0] != '/') {
        c->closes = true; /* with a body behind it, perhaps */
        set_error(c, "405 Method Not Allowed", "MethodNotAllowed", is_head);
        return true;
    }
    size_t size = strlen(root);
    memcpy(path, root, size);
    if (!decode(target, strlen(target), path + size, sizeof path - size) || strstr(path + size, "/..") != NULL) {
        set_error(c, "400 Bad Request", "InvalidURI", is_head);
        return true;
    }
    char *bucket = path + size + 1, *key = bucket + strcspn(bucket, "/");
    struct counts *count = counts_of(bucket, key - bucket);
    if (*key && key[1]) {
        set_object(c, path, is_head, count);
    } else if (is_head) {
        count->heads++;
        set_document(c, "200 OK", "application/xml", "", true);
    } else {
        *key = '\0';
        count->lists++;
        set_listing(c, bucket, query);
    }
    return true;
}

/* -- connections --------------------------------------------------------------------------------- */

static void set_timer(void) {
    struct itimerspec when = {0};
    if (waiting_count) {
        int64_t due = waiting[waiting_count - 1]->due;
        when.it_value.tv_sec = due / 1000000000;
        when.it_value.tv_nsec = due % 1000000000;
    }
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
}

static void wait_until_due(struct connection *c) {
    /* In the order of being due, which nearly is that of arrival: little is moved. */
    int place = waiting_count++;
    memmove(waiting + 1, waiting, place * sizeof *waiting);
    for (place = 0; place + 1 < waiting_count && waiting[place + 1]->due > c->due; place++)
        waiting[place] = waiting[place + 1];
    waiting[place] = c;
    c->state = WAITING;
    if (place == waiting_count - 1)
        set_timer();
}

static void stop_waiting(struct connection *c) {
    for (int i = 0; i < waiting_count; i++)
        if (waiting[i] == c) {
            waiting_count--;
            memmove(waiting + i, waiting + i + 1, (waiting_count - i) * sizeof *waiting);
            return;
        }
}

static void watch(struct connection *c, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(poller, EPOLL_CTL_MOD, c->socket, &event) != 0)
        fail("epoll_ctl");
}

static void end(struct connection *c) {
    if (c->state == WAITING)
        stop_waiting(c);
    if (c->state != READING)
        busy--;
    if (c->file >= 0)
        close(c->file);
    close(c->socket);
    free(c->reply);
    free(c);
    connection_count--;
}

/* Send what can be sent. Returns 1 when the reply is complete, 0 if it goes on later, -1 on failure. */
static int send_some(struct connection *c) {
    while (c->reply_sent < c->reply_size) {
        ssize_t sent = send(c->socket, c->reply + c->reply_sent, c->reply_size - c->reply_sent,
                            MSG_NOSIGNAL | (c->left ? MSG_MORE : 0));
        if (sent < 0)
            return errno == EAGAIN ? 0 : -1;
        c->reply_sent += sent;
    }
    while (c->left) {
        ssize_t sent = sendfile(c->socket, c->file, &c->offset, c->left);
        if (sent <= 0)
            return sent < 0 && errno == EAGAIN ? 0 : -1;
        c->left -= sent;
    }
    return 1;
}

static void proceed(struct connection *c);

static void send_reply(struct connection *c) {
    c->state = SENDING;
    int done = send_some(c);
    if (done < 0 || (done && c->closes)) {
        end(c);
    } else if (!done) {
        watch(c, EPOLLOUT);
    } else {
        busy--;
        if (c->file >= 0)
            close(c->file);
        c->file = -1;
        c->state = READING;
        watch(c, EPOLLIN);
        if (c->received)
            proceed(c);
    }
}

/* Answer the request in the buffer, if it is complete. */
static void proceed(struct connection *c) {
    c->request[c->received] = '\0';
    char *blank = strstr(c->request, "\r\n\r\n");
    if (blank == NULL) {
        if (c->received == MAX_REQUEST)
            end(c);
        return;
    }
    blank[2] = '\0';
    bool is_late = answer(c);
    size_t used = blank + 4 - c->request;
    memmove(c->request, blank + 4, c->received - used);
    c->received -= used;
    if (!is_late)
        busy++; /* what `send_reply` takes back */
    if (is_late && latency + jitter > 0) {
        c->due = now() + latency + (jitter ? (int64_t)(drand48() * jitter) : 0);
        watch(c, EPOLLRDHUP);
        wait_until_due(c);
    } else {
        send_reply(c);
    }
}

static void receive(struct connection *c) {
    ssize_t got = recv(c->socket, c->request + c->received, MAX_REQUEST - c->received, 0);
    if (got > 0) {
        c->received += got;
        proceed(c);
    } else if (got == 0 || errno != EAGAIN) {
        end(c);
    }
}

static void welcome(void) {
    for (int socket; (socket = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0;) {
        int one = 1;
        struct connection *c = connection_count < MAX_CONNECTIONS ? calloc(1, sizeof *c) : NULL;
        if (c == NULL) {
            close(socket);
            continue;
        }
        connection_count++;
        c->socket = socket;
        c->file = -1;
        setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (rate)
            setsockopt(socket, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, sizeof rate);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
        if (epoll_ctl(poller, EPOLL_CTL_ADD, socket, &event) != 0)
            fail("epoll_ctl");
    }
}

static void handle(struct connection *c, uint32_t events) {
    if (c->state == READING)
        receive(c);
    else if (c->state == SENDING && !(events & (EPOLLERR | EPOLLHUP)))
        send_reply(c);
    else /* nobody waits for this reply any more */
        end(c);
}

static void serve(void) {
    struct epoll_event events[256];
    for (;;) {
        int count = epoll_wait(poller, events, 256, -1);
        if (count < 0 && errno != EINTR)
            fail("epoll_wait");
        for (int i = 0; i < count; i++) {
            uint64_t expirations;
            if (events[i].data.ptr == &listener)
                welcome();
            else if (events[i].data.ptr == &timer)
                (void)!read(timer, &expirations, sizeof expirations);
            else
                handle(events[i].data.ptr, events[i].events);
        }
        if (!waiting_count)
            continue;
        int64_t time = now();
        bool any = false;
        while (waiting_count && waiting[waiting_count - 1]->due <= time) {
            send_reply(waiting[--waiting_count]);
            any = true;
        }
        if (any)
            set_timer();
    }
}

int main(int count, char **words) {
    if (count != 6) {
        fprintf(stderr, "usage: server ROOT LATENCY JITTER RATE SECONDS\n");
        return 2;
    }
    root = words[1];
    latency = atof(words[2]) * 1e6;
    jitter = atof(words[3]) * 1e6;
    rate = atof(words[4]);
    alarm(atoi(words[5]));
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() == 1)
        return 1; /* the parent was quicker to end */
    signal(SIGPIPE, SIG_IGN);

    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, size) != 0 || listen(listener, 1024) != 0 ||
        getsockname(listener, (struct sockaddr *)&address, &size) != 0)
        fail("cannot listen on 127.0.0.1");
    poller = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event comes = {.events = EPOLLIN, .data.ptr = &listener};
    struct epoll_event is_due = {.events = EPOLLIN, .data.ptr = &timer};
    if (poller < 0 || timer < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, listener, &comes) != 0 ||
        epoll_ctl(poller, EPOLL_CTL_ADD, timer, &is_due) != 0)
        fail("epoll");
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    serve();
}
