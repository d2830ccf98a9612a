/* The interpreter's hot loop: carries out one rank's program over memory rings and sockets.
 *
 * A channel is a stream of bytes to and from one peer: a pair of rings in shared memory, or a socket. Instructions run
 * in order. A SEND only queues its bytes; whatever is queued is pushed whenever the machine waits, so a send never
 * blocks. A receive takes bytes straight out of the ring, or off the socket through a small buffer, and adds or
 * copies them as they come.
 *
 * Rings: one writer, one reader, positions published with release and read with acquire. Who finds nothing to do
 * raises its `sleeping` flag (sequentially consistent), looks again, and polls its bell (an eventfd) and
 * its sockets; who changes a ring looks at the flag after a full fence and rings the bell if it is up.
 *
 * Built on demand with the system's compiler; interpreter/portable.py does the same in Python over sockets.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <float.h>
#include <math.h>
#include <poll.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { SEND, RECEIVE, RECEIVE_ADD, ADD, COPY, ROUND, ENCODE_BF16, DECODE_BF16, ENCODE_INT8, DECODE_INT8 };
enum { DONE, LOST, MISMATCH, ABORTED, TIMED_OUT, NO_MEMORY, BAD_PROGRAM };
enum { F32, F64, F16, BF16, I8, I16, I32, I64, U8, U16, U32, U64 };
enum { SUM, MIN, MAX, PROD };

#define HEADER 64 /* a tag, the sender's rank, what identifies the operation, and in the last 8 bytes how many follow */
#define RANK_AT 4
#define IDENTITY_AT 8
#define TOTAL_AT 56
#define PIECE (128 << 10) /* bytes moved between two looks around; fits the second-level cache */
#define LINE 64

#if defined(__x86_64__)
#define PAUSE __builtin_ia32_pause()
#elif defined(__aarch64__)
#define PAUSE __asm__ volatile("yield")
#else
#define PAUSE (void)0
#endif

typedef struct {
    _Alignas(LINE) _Atomic uint64_t written;
    _Alignas(LINE) _Atomic uint64_t consumed;
    _Alignas(LINE) char data[];
} ring_t;

typedef struct {
    int32_t op, channel, target, left, right, unused; /* buffers by number */
    int64_t count, target_at, left_at, right_at;      /* elements; bytes */
} instruction_t;

typedef struct {
    const char *data;
    uint64_t size;
} pending_t;

typedef struct {
    int fd;
    int peer_bell;
    ring_t *out, *in;
    uint64_t capacity;
    _Atomic uint32_t *peer_sleeping;
    pending_t *queue; /* [head, tail) is still to be sent */
    int head, tail, room;
    int greeted, checked;       /* whether this operation's header was sent, and seen */
    uint64_t to_send, to_take;  /* bytes of this operation, all told */
    _Atomic uint64_t sent, received;
    _Atomic int awaited; /* bytes from it, or room in it */
    char greeting[HEADER], header[HEADER];
} channel_t;

typedef struct {
    int channels, bell, spin, error_channel;
    _Atomic int aborted, waiting;
    _Atomic uint32_t *sleeping;
    channel_t *channel;
    struct pollfd *polls;
    char *scratch;
    char error_header[HEADER];
    int queued;     /* entries over all queues */
    uint64_t moved; /* bytes out of them so far */
} machine_t;

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

/* ---- arithmetic: target = left (op) right, elementwise; target may be left or right ---- */

static inline float from_bf16(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float f;
    memcpy(&f, &bits, 4);
    return f;
}
static inline uint16_t to_bf16(float f) {
    uint32_t bits;
    memcpy(&bits, &f, 4);
    uint16_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return f != f ? 0x7fc0 : rounded; /* a select, not a branch: the loop vectorises */
}

#ifdef __FLT16_MAX__
typedef _Float16 half_t;
#define from_f16(x) ((float)(x))
#define to_f16(x) ((_Float16)(x))
#else /* GCC before 12 */
typedef uint16_t half_t;
static inline float from_f16(uint16_t x) {
    uint32_t sign = (uint32_t)(x & 0x8000) << 16, exponent = x >> 10 & 31, fraction = x & 1023, bits;
    float f;
    if (exponent == 0) {
        f = (float)fraction * 0x1p-24f;
        return sign ? -f : f;
    }
    bits = sign | (exponent == 31 ? 255u : exponent + 112) << 23 | fraction << 13;
    memcpy(&f, &bits, 4);
    return f;
}
static inline uint16_t to_f16(float f) {
    uint32_t bits, magnitude, sign;
    memcpy(&bits, &f, 4);
    sign = bits >> 16 & 0x8000;
    magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return sign | 0x7e00;
    if (magnitude >= 0x47800000) return sign | 0x7c00; /* 65536 and more */
    if (magnitude < 0x38800000) {                      /* below 2**-14: adding 0.5 leaves multiples of 2**-24, rounded */
        float small;
        memcpy(&small, &magnitude, 4);
        small += 0.5f;
        memcpy(&magnitude, &small, 4);
        return sign | (magnitude - 0x3f000000);
    }
    return sign | (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
}
#endif

#define LEAST(a, b) ((a) != (a) ? (a) : (b) != (b) ? (b) : (a) < (b) ? (a) : (b))
#define MOST(a, b) ((a) != (a) ? (a) : (b) != (b) ? (b) : (a) > (b) ? (a) : (b))
#define PLUS(a, b) ((a) + (b))
#define TIMES(a, b) ((a) * (b))

#define LOOP(type, load, store, combine)                                                                             \
    {                                                                                                                \
        type *t = target;                                                                                            \
        const type *l = left, *r = right;                                                                            \
        _Pragma("GCC ivdep") for (int64_t i = 0; i < n; i++) t[i] = store(combine(load(l[i]), load(r[i])));          \
        return;                                                                                                      \
    }
#define SAME(x) (x)
#define BY_OPERATION(type, load, store)                                                                              \
    switch (operation) {                                                                                             \
        case SUM: LOOP(type, load, store, PLUS)                                                                      \
        case MIN: LOOP(type, load, store, LEAST)                                                                     \
        case MAX: LOOP(type, load, store, MOST)                                                                      \
        case PROD: LOOP(type, load, store, TIMES)                                                                    \
    }                                                                                                                \
    return;

static void combine(int dtype, int operation, void *target, const void *left, const void *right, int64_t n) {
    switch (dtype) {
        case F32: BY_OPERATION(float, SAME, SAME)
        case F64: BY_OPERATION(double, SAME, SAME)
        case F16: BY_OPERATION(half_t, from_f16, to_f16)
        case BF16: BY_OPERATION(uint16_t, from_bf16, to_bf16)
        case I8: BY_OPERATION(int8_t, SAME, SAME)
        case I16: BY_OPERATION(int16_t, SAME, SAME)
        case I32: BY_OPERATION(int32_t, SAME, SAME) /* built with -fwrapv */
        case I64: BY_OPERATION(int64_t, SAME, SAME)
        case U8: BY_OPERATION(uint8_t, SAME, SAME)
        case U16: BY_OPERATION(uint16_t, SAME, SAME)
        case U32: BY_OPERATION(uint32_t, SAME, SAME)
        case U64: BY_OPERATION(uint64_t, SAME, SAME)
    }
}

/* ---- lossy wire formats (collective/lossy.py says what they are) ---- */

#define BLOCK 256

/* What is lost; nothing where something is not finite, or it would never be finite again. */
static inline float lost(float value, float decoded) {
    float rest = value - decoded;
    return fabsf(rest) <= FLT_MAX ? rest : 0;
}

static void encode_bf16(uint16_t *target, const float *left, float *right, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float value = right ? left[i] + right[i] : left[i];
        target[i] = to_bf16(value);
        if (right) right[i] = lost(value, from_bf16(target[i]));
    }
}

static void decode_bf16(float *target, const float *left, const uint16_t *right, int64_t n) {
    for (int64_t i = 0; i < n; i++) target[i] = left ? left[i] + from_bf16(right[i]) : from_bf16(right[i]);
}

/* The least e with largest <= 127 * 2**e; 127 for what is not finite, or would not be when decoded. */
static int block_exponent(float largest) {
    int exponent;
    if (!(largest <= FLT_MAX)) return 127;
    float fraction = frexpf(largest / 127.0f, &exponent);
    if (fraction == 0) return -126;
    exponent -= fraction == 0.5f;
    return exponent < -126 ? -126 : exponent > 121 ? 127 : exponent;
}

static void encode_int8(int8_t *target, const float *left, float *right, int64_t n) {
    float value[BLOCK];
    for (int64_t start = 0; start < n; start += BLOCK) {
        int size = n - start < BLOCK ? (int)(n - start) : BLOCK;
        float largest = 0;
        int finite = 1;
        for (int i = 0; i < size; i++) {
            value[i] = right ? left[start + i] + right[start + i] : left[start + i];
            float magnitude = fabsf(value[i]);
            finite &= magnitude <= FLT_MAX;
            largest = magnitude > largest ? magnitude : largest;
        }
        int exponent = finite ? block_exponent(largest) : 127;
        finite = exponent < 127;
        float up = exponent < 127 ? ldexpf(1, -exponent) : 0, down = exponent < 127 ? ldexpf(1, exponent) : 0;
        *target++ = (int8_t)exponent;
        for (int i = 0; i < size; i++) {
            float q = finite ? rintf(value[i] * up) : 0;
            q = q > 127 ? 127 : q < -127 ? -127 : q;
            target[i] = (int8_t)q;
            if (right) right[start + i] = finite ? lost(value[i], q * down) : 0;
        }
        target += size;
    }
}

static void decode_int8(float *target, const float *left, const int8_t *right, int64_t n) {
    for (int64_t start = 0; start < n; start += BLOCK) {
        int size = n - start < BLOCK ? (int)(n - start) : BLOCK;
        int exponent = *right++;
        float down = exponent < 127 ? ldexpf(1, exponent) : NAN;
        for (int i = 0; i < size; i++) {
            float value = right[i] * down;
            target[start + i] = left ? left[start + i] + value : value;
        }
        right += size;
    }
}

/* ---- channels ---- */

static void ring_bell(channel_t *c) {
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(c->peer_sleeping, memory_order_relaxed) &&
        atomic_exchange_explicit(c->peer_sleeping, 0, memory_order_seq_cst)) {
        uint64_t one = 1;
        if (write(c->peer_bell, &one, sizeof one) < 0) return; /* full: it is awake then */
    }
}

static int fail(machine_t *m, int channel, int code) {
    m->error_channel = channel;
    return code;
}

/* Moves queued bytes into the channel as far as they go. */
static int push(machine_t *m, int index) {
    channel_t *c = &m->channel[index];
    while (c->head < c->tail) {
        pending_t *p = &c->queue[c->head];
        uint64_t moved;
        if (c->fd < 0) {
            uint64_t written = atomic_load_explicit(&c->out->written, memory_order_relaxed);
            uint64_t space = c->capacity - (written - atomic_load_explicit(&c->out->consumed, memory_order_acquire));
            uint64_t at = written % c->capacity;
            moved = p->size < space ? p->size : space;
            if (moved > c->capacity - at) moved = c->capacity - at;
            if (moved > PIECE) moved = PIECE;
            if (moved == 0 && p->size) return DONE;
            memcpy(c->out->data + at, p->data, moved);
            atomic_store_explicit(&c->out->written, written + moved, memory_order_release);
            ring_bell(c);
        } else {
            ssize_t n = send(c->fd, p->data, p->size, MSG_DONTWAIT | MSG_NOSIGNAL);
            if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return DONE;
            if (n < 0 && errno == EINTR) continue;
            if (n < 0) return fail(m, index, LOST);
            moved = n;
        }
        c->sent += moved;
        m->moved += moved;
        p->data += moved;
        p->size -= moved;
        if (p->size == 0) {
            c->head++;
            m->queued--;
        }
    }
    c->head = c->tail = 0;
    return DONE;
}

static int push_all(machine_t *m) {
    for (int i = 0; m->queued && i < m->channels; i++) {
        int code = m->channel[i].head < m->channel[i].tail ? push(m, i) : DONE;
        if (code) return code;
    }
    return DONE;
}

static int enqueue(machine_t *m, int index, const char *data, uint64_t size) {
    channel_t *c = &m->channel[index];
    if (c->tail == c->room) {
        int room = c->room ? 2 * c->room : 64;
        pending_t *queue = realloc(c->queue, room * sizeof *queue);
        if (!queue) return fail(m, index, NO_MEMORY);
        c->queue = queue;
        c->room = room;
    }
    c->queue[c->tail++] = (pending_t){data, size};
    m->queued++;
    return push(m, index);
}

static uint64_t readable(channel_t *c) {
    return atomic_load_explicit(&c->in->written, memory_order_acquire) -
           atomic_load_explicit(&c->in->consumed, memory_order_relaxed);
}

/* Whether something can be done without sleeping: `need` bytes in the ring of `from` (-1: nobody), or room for what is
 * queued. */
static int ready(machine_t *m, int from, uint64_t need) {
    if (from >= 0 && m->channel[from].fd < 0 && readable(&m->channel[from]) >= need) return 1;
    for (int i = 0; m->queued && i < m->channels; i++) {
        channel_t *c = &m->channel[i];
        if (c->fd < 0 && c->head < c->tail &&
            atomic_load_explicit(&c->out->written, memory_order_relaxed) -
                    atomic_load_explicit(&c->out->consumed, memory_order_acquire) < c->capacity)
            return 1;
    }
    return 0;
}

/* Waits until `need` bytes (off a socket: any) may have come from `from`, or queued bytes may go on; pushes those. */
static int wait_for(machine_t *m, int from, uint64_t need, int64_t deadline) {
    uint64_t before = m->moved;
    int code = push_all(m);
    if (code) return code;
    if (from < 0 && (m->moved != before || !m->queued)) return DONE; /* perhaps just what the caller waits for */
    for (int i = 0; i < m->spin; i++) {
        if (ready(m, from, need)) return push_all(m);
        if (i % 32 == 31)
            sched_yield(); /* the peer may be waiting for this very core */
        else
            PAUSE;
    }
    atomic_store_explicit(m->sleeping, 1, memory_order_seq_cst);
    atomic_thread_fence(memory_order_seq_cst);
    if (!ready(m, from, need) && !atomic_load(&m->aborted)) {
        int n = 0;
        m->polls[n++] = (struct pollfd){m->bell, POLLIN, 0};
        for (int i = 0; i < m->channels; i++) {
            channel_t *c = &m->channel[i];
            short events = (i == from ? POLLIN : 0) | (c->head < c->tail ? POLLOUT : 0);
            atomic_store_explicit(&c->awaited, events != 0, memory_order_relaxed);
            if (c->fd >= 0 && events) m->polls[n++] = (struct pollfd){c->fd, events, 0};
        }
        atomic_store(&m->waiting, 1);
        int64_t left = deadline - now_ns();
        int milliseconds = left > 1000000000ll * 3600 ? 3600000 : left <= 0 ? 0 : (int)(left / 1000000 + 1);
        int woken = poll(m->polls, n, milliseconds);
        atomic_store(&m->waiting, 0);
        if (woken == 0 && left <= 0) {
            atomic_store_explicit(m->sleeping, 0, memory_order_relaxed);
            for (int i = 0; from < 0 && i < m->channels; i++)
                if (m->channel[i].head < m->channel[i].tail) from = i;
            return fail(m, from, TIMED_OUT);
        }
        if (m->polls[0].revents) {
            uint64_t count;
            if (read(m->bell, &count, sizeof count) < 0) count = 0;
        }
    }
    atomic_store_explicit(m->sleeping, 0, memory_order_seq_cst);
    if (atomic_load(&m->aborted)) return fail(m, from, ABORTED);
    return push_all(m);
}

/* Reads up to `size` bytes off a socket, waiting for the first. */
static int read_socket(machine_t *m, int index, char *target, uint64_t size, uint64_t *got, int64_t deadline) {
    for (;;) {
        ssize_t n = recv(m->channel[index].fd, target, size, MSG_DONTWAIT);
        if (n > 0) {
            *got = n;
            return DONE;
        }
        if (n == 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR)) return fail(m, index, LOST);
        int code = wait_for(m, index, 1, deadline);
        if (code) return code;
    }
}

/* A piece of what lies readable in a ring, waiting for at least `need` bytes. */
static int read_ring(machine_t *m, int index, uint64_t need, uint64_t most, const char **piece, uint64_t *got,
                     int64_t deadline) {
    channel_t *c = &m->channel[index];
    uint64_t n;
    while ((n = readable(c)) < need) {
        int code = wait_for(m, index, need, deadline);
        if (code) return code;
    }
    uint64_t at = atomic_load_explicit(&c->in->consumed, memory_order_relaxed) % c->capacity;
    if (n > c->capacity - at) n = c->capacity - at;
    *piece = c->in->data + at;
    *got = n < most ? n : most;
    return DONE;
}

static void consume(channel_t *c, uint64_t n) {
    uint64_t consumed = atomic_load_explicit(&c->in->consumed, memory_order_relaxed);
    atomic_store_explicit(&c->in->consumed, consumed + n, memory_order_release);
    c->received += n;
    ring_bell(c);
}

/* Copies exactly `size` bytes out of a channel. */
static int take(machine_t *m, int index, char *target, uint64_t size, int64_t deadline) {
    channel_t *c = &m->channel[index];
    while (size) {
        uint64_t got;
        int code;
        if (c->fd >= 0) {
            code = read_socket(m, index, target, size, &got, deadline);
            if (code) return code;
            c->received += got;
        } else {
            const char *piece;
            code = read_ring(m, index, 1, size < PIECE ? size : PIECE, &piece, &got, deadline);
            if (code) return code;
            memcpy(target, piece, got);
            consume(c, got);
        }
        target += got;
        size -= got;
        if (m->queued && (code = push_all(m))) return code;
    }
    return DONE;
}

/* Adds exactly `count` elements from a channel. */
static int take_add(machine_t *m, int index, char *target, const char *left, int64_t count, int size, int dtype,
                    int operation, int64_t deadline) {
    channel_t *c = &m->channel[index];
    uint64_t rest = count * size, carry = 0;
    while (rest) {
        uint64_t got, whole;
        const char *piece;
        int code;
        if (c->fd >= 0) {
            uint64_t most = rest - carry < PIECE - carry ? rest - carry : PIECE - carry;
            code = read_socket(m, index, m->scratch + carry, most, &got, deadline);
            if (code) return code;
            c->received += got;
            piece = m->scratch;
            got += carry;
        } else {
            code = read_ring(m, index, size, rest < PIECE ? rest : PIECE, &piece, &got, deadline);
            if (code) return code; /* elements start at multiples of their size: none goes over the ring's end */
        }
        whole = got - got % size;
        combine(dtype, operation, target, left, piece, whole / size);
        if (c->fd >= 0) {
            carry = got - whole;
            memmove(m->scratch, m->scratch + whole, carry);
        } else {
            consume(c, whole);
        }
        target += whole;
        left += whole;
        rest -= whole;
        if (m->queued && (code = push_all(m))) return code;
    }
    return DONE;
}

/* Waits until nothing that is still to be sent lies in [data, data + size). */
static int settle(machine_t *m, const char *data, uint64_t size, int64_t deadline) {
    for (;;) {
        int overlap = 0;
        for (int i = 0; m->queued && i < m->channels; i++) {
            channel_t *c = &m->channel[i];
            for (int k = c->head; k < c->tail; k++)
                overlap |= c->queue[k].data < data + size && data < c->queue[k].data + c->queue[k].size;
        }
        if (!overlap) return DONE;
        int code = wait_for(m, -1, 0, deadline);
        if (code) return code;
    }
}

/* Bytes from a position in a ring to the next fresh line: a header starts on one, so that elements are aligned. */
static uint64_t padding(uint64_t position) { return (LINE - position % LINE) % LINE; }

static int greet(machine_t *m, int index, const char *header) {
    static const char zeros[LINE];
    channel_t *c = &m->channel[index];
    if (c->greeted) return DONE;
    c->greeted = 1; /* nothing is queued before it: an operation ends with all sent */
    if (c->fd < 0) {
        uint64_t pad = padding(atomic_load_explicit(&c->out->written, memory_order_relaxed));
        int code = pad ? enqueue(m, index, zeros, pad) : DONE;
        if (code) return code;
    }
    memcpy(c->greeting, header, TOTAL_AT);
    memcpy(c->greeting + TOTAL_AT, &c->to_send, 8);
    return enqueue(m, index, c->greeting, HEADER);
}

/* Reads the peer's header for this operation and compares all but the sender's rank. */
static int check(machine_t *m, int index, const char *header, int64_t deadline) {
    channel_t *c = &m->channel[index];
    if (c->checked) return DONE;
    int code = DONE;
    if (c->fd < 0) {
        uint64_t pad = padding(atomic_load_explicit(&c->in->consumed, memory_order_relaxed));
        code = take(m, index, c->header, pad, deadline);
    }
    if (!code) code = take(m, index, c->header, HEADER, deadline);
    if (code) return code;
    c->checked = 1;
    if (memcmp(c->header, header, RANK_AT) == 0 && memcmp(c->header + TOTAL_AT, &c->to_take, 8) == 0 &&
        memcmp(c->header + IDENTITY_AT, header + IDENTITY_AT, TOTAL_AT - IDENTITY_AT) == 0)
        return DONE;
    memcpy(m->error_header, c->header, HEADER);
    return fail(m, index, MISMATCH);
}

/* ---- what Python calls ---- */

machine_t *machine_new(int channels, int bell, void *sleeping, int spin) {
    machine_t *m = calloc(1, sizeof *m);
    if (!m) return NULL;
    m->channel = calloc(channels + 1, sizeof *m->channel);
    m->polls = calloc(channels + 1, sizeof *m->polls);
    m->scratch = aligned_alloc(LINE, PIECE);
    if (!m->channel || !m->polls || !m->scratch) return NULL;
    m->channels = channels;
    m->bell = bell;
    m->sleeping = sleeping;
    m->spin = spin;
    return m;
}

void machine_socket(machine_t *m, int index, int fd) { m->channel[index] = (channel_t){.fd = fd}; }

void machine_ring(machine_t *m, int index, void *out, void *in, uint64_t capacity, void *peer_sleeping, int bell) {
    m->channel[index] = (channel_t){
        .fd = -1, .peer_bell = bell, .out = out, .in = in, .capacity = capacity, .peer_sleeping = peer_sleeping};
}

void machine_abort(machine_t *m) {
    uint64_t one = 1;
    atomic_store(&m->aborted, 1);
    if (write(m->bell, &one, sizeof one) < 0) return;
}

int machine_waits_for(machine_t *m, int index) { return m->waiting && m->channel[index].awaited; }
int machine_error_channel(machine_t *m) { return m->error_channel; }
const char *machine_error_header(machine_t *m) { return m->error_header; }
uint64_t machine_sent(machine_t *m, int index) { return m->channel[index].sent; }
uint64_t machine_received(machine_t *m, int index) { return m->channel[index].received; }

void machine_free(machine_t *m) {
    for (int i = 0; i < m->channels; i++) free(m->channel[i].queue);
    free(m->channel);
    free(m->polls);
    free(m->scratch);
    free(m);
}

int machine_run(machine_t *m, const instruction_t *program, int64_t length, char **buffer, int size, int dtype,
                int operation, const char *header, int64_t deadline) {
    int code = DONE;
    if (atomic_load(&m->aborted)) return fail(m, -1, ABORTED);
    for (int i = 0; i < m->channels; i++) {
        channel_t *c = &m->channel[i];
        c->greeted = c->checked = 0;
        c->to_send = c->to_take = 0;
    }
    for (int64_t k = 0; k < length; k++) {
        if (program[k].op == SEND) m->channel[program[k].channel].to_send += program[k].count * size;
        if (program[k].op == RECEIVE || program[k].op == RECEIVE_ADD)
            m->channel[program[k].channel].to_take += program[k].count * size;
    }
    for (int64_t k = 0; k < length && !code; k++) {
        const instruction_t *i = &program[k];
        char *target = i->target < 0 ? NULL : buffer[i->target] + i->target_at;
        char *left = i->left < 0 ? NULL : buffer[i->left] + i->left_at;
        char *right = i->right < 0 ? NULL : buffer[i->right] + i->right_at;
        uint64_t bytes = i->count * size;
        if (target && m->queued && (code = settle(m, target, bytes, deadline))) break;
        switch (i->op) {
            case SEND:
                if (!(code = greet(m, i->channel, header))) code = enqueue(m, i->channel, left, bytes);
                break;
            case RECEIVE:
                if (!(code = check(m, i->channel, header, deadline)))
                    code = take(m, i->channel, target, bytes, deadline);
                break;
            case RECEIVE_ADD:
                if (!(code = check(m, i->channel, header, deadline)))
                    code = take_add(m, i->channel, target, left, i->count, size, dtype, operation, deadline);
                break;
            case ADD: combine(dtype, operation, target, left, right, i->count); break;
            case COPY:
                if (target != left) memmove(target, left, bytes);
                break;
            case ENCODE_BF16: encode_bf16((uint16_t *)target, (float *)left, (float *)right, i->count); break;
            case DECODE_BF16: decode_bf16((float *)target, (float *)left, (uint16_t *)right, i->count); break;
            case ENCODE_INT8: encode_int8((int8_t *)target, (float *)left, (float *)right, i->count); break;
            case DECODE_INT8: decode_int8((float *)target, (float *)left, (int8_t *)right, i->count); break;
            default: code = BAD_PROGRAM;
        }
        if (!code && atomic_load_explicit(&m->aborted, memory_order_relaxed)) code = fail(m, -1, ABORTED);
    }
    while (!code && m->queued) code = wait_for(m, -1, 0, deadline);
    if (code) atomic_store(&m->aborted, 1); /* the channels are somewhere in the middle */
    return code;
}
