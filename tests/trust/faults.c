/* Stands between a program and the C library (LD_PRELOAD), and makes a chosen call on files below a directory the last
 * thing that the process does, or fail, or late. Calls are counted in memory that the parent process shares. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NOTHING, KILL, FAIL, DELAY };

struct state { long count, at; int action, error; unsigned seed; char calls[256], under[PATH_MAX]; };
static struct state *state;

__attribute__((constructor)) static void begin(void) {
    state = mmap(NULL, sizeof *state, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

void faults_arm(const char *under, const char *calls, long at, int action, int error, unsigned seed) {
    struct state fresh = {0, at, NOTHING, error, seed, "", ""};
    snprintf(fresh.under, sizeof fresh.under, "%s", under);
    snprintf(fresh.calls, sizeof fresh.calls, ",%s,", calls);
    *state = fresh;
    state->action = action;
}

long faults_count(void) { return state->count; }

static int is_under(const char *path) {
    return path && state->under[0] && !strncmp(path, state->under, strlen(state->under));
}

static int is_file_under(int descriptor) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return is_under(path);
}

/* Whether this call is to fail; a call that is to be the last doesn't return. */
static int fails(const char *name, int concerned) {
    char wanted[64];
    if (!state || !concerned) return 0;
    snprintf(wanted, sizeof wanted, ",%s,", name);
    if (!strstr(state->calls, wanted)) return 0;
    long number = __sync_add_and_fetch(&state->count, 1);
    if (state->action == DELAY) {
        unsigned seed = state->seed + (unsigned)number * 2654435761u + (unsigned)getpid();
        if (rand_r(&seed) % 4 == 0) usleep(rand_r(&seed) % 20000);
        return 0;
    }
    if (state->action == NOTHING || number != state->at) return 0;
    if (state->action == KILL) { kill(getpid(), SIGKILL); for (;;) pause(); }
    errno = state->error;
    return 1;
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define OF_FILE(type, name, arguments, ...) \
    type name arguments { REAL(type, #name, ARGUMENTS_##name); \
        return fails(#name, is_file_under(descriptor)) ? -1 : real(__VA_ARGS__); }

#define ARGUMENTS_write int, const void *, size_t
OF_FILE(ssize_t, write, (int descriptor, const void *data, size_t size), descriptor, data, size)
#define ARGUMENTS_writev int, const struct iovec *, int
OF_FILE(ssize_t, writev, (int descriptor, const struct iovec *data, int count), descriptor, data, count)
#define ARGUMENTS_fsync int
OF_FILE(int, fsync, (int descriptor), descriptor)
#define ARGUMENTS_fdatasync int
OF_FILE(int, fdatasync, (int descriptor), descriptor)
#define ARGUMENTS_ftruncate64 int, off64_t
OF_FILE(int, ftruncate64, (int descriptor, off64_t size), descriptor, size)

/* Half of what was to be written is, where the process ends with it. */
ssize_t pwrite64(int descriptor, const void *data, size_t size, off64_t start) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    int concerned = is_file_under(descriptor);
    if (concerned && state->action == KILL && state->count + 1 == state->at && strstr(state->calls, ",pwrite64,"))
        real(descriptor, data, size / 2, start);
    if (fails("pwrite64", concerned)) return -1;
    return real(descriptor, data, size, start);
}

int posix_fallocate64(int descriptor, off64_t start, off64_t size) {
    REAL(int, "posix_fallocate64", int, off64_t, off64_t);
    if (fails("posix_fallocate64", is_file_under(descriptor))) return errno;
    return real(descriptor, start, size);
}

ssize_t copy_file_range(int source, off64_t *from, int descriptor, off64_t *to, size_t size, unsigned flags) {
    REAL(ssize_t, "copy_file_range", int, off64_t *, int, off64_t *, size_t, unsigned);
    if (fails("copy_file_range", is_file_under(descriptor))) return -1;
    return real(source, from, descriptor, to, size, flags);
}

ssize_t sendfile64(int descriptor, int source, off64_t *from, size_t size) {
    REAL(ssize_t, "sendfile64", int, int, off64_t *, size_t);
    if (fails("sendfile64", is_file_under(descriptor))) return -1;
    return real(descriptor, source, from, size);
}

int rename(const char *one, const char *other) {
    REAL(int, "rename", const char *, const char *);
    if (fails("rename", is_under(other))) return -1;
    return real(one, other);
}

int renameat2(int a, const char *one, int b, const char *other, unsigned flags) {
    REAL(int, "renameat2", int, const char *, int, const char *, unsigned);
    if (fails("renameat2", is_under(other))) return -1;
    return real(a, one, b, other, flags);
}

int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    if (fails("mkdir", is_under(path))) return -1;
    return real(path, mode);
}

int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    if (fails("unlink", is_under(path))) return -1;
    return real(path);
}

int unlinkat(int descriptor, const char *path, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    if (fails("unlinkat", is_under(path) || is_file_under(descriptor))) return -1;
    return real(descriptor, path, flags);
}

int rmdir(const char *path) {
    REAL(int, "rmdir", const char *);
    if (fails("rmdir", is_under(path))) return -1;
    return real(path);
}

int open64(const char *path, int flags, ...) {
    REAL(int, "open64", const char *, int, ...);
    va_list rest;
    va_start(rest, flags);
    int mode = va_arg(rest, int);
    va_end(rest);
    if ((flags & (O_CREAT | O_WRONLY | O_RDWR)) && fails("open64", is_under(path))) return -1;
    return real(path, flags, mode);
}
