/* Counts the calls by which a process changes files below one folder, and fails or kills at the n-th of them.

       cc -shared -fPIC -O1 -o faults.so faults.c -ldl          LD_PRELOAD=faults.so python benchmarks/faults.py

   The functions of the C library are replaced, so that writers which never pass through Python's os (Parquet,
   safetensors, tokenizers) are counted as well. Calls on other folders, and calls that only read, go through uncounted.
   Nothing is counted before `faults_arm`; processes that are forked afterwards go on with the count. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { KILL_BEFORE = -1, KILL_AFTER = -2 };

/* Shared with the process that watches: it reads what happened after this one was killed. */
struct calls {
    long count;  /* calls until now */
    long struck; /* the call that was failed; 0 while none was */
    char call[32];
    char path[512];
    long used;
    char log[1 << 18]; /* "call path\n" of every call, as far as there is room */
};

static struct calls *calls;
static char root[PATH_MAX];
static size_t root_length;
static long site;
static int fault;
static __thread int dying;

void faults_arm(struct calls *shared, const char *folder, long number, int error) {
    strncpy(root, folder, sizeof root - 1);
    root_length = strlen(root);
    site = number;
    fault = error;
    calls = shared;
}

void faults_disarm(void) { calls = NULL; }

static int below(const char *path) {
    return !strncmp(path, root, root_length) && (path[root_length] == '/' || !path[root_length]);
}

/* The name of an open file; "" where it has none, such as a socket's. */
static void name_of(int fd, char *name) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, name, PATH_MAX - 1);
    name[length < 0 ? 0 : length] = 0;
}

static int inside_at(int folder, const char *path, char *name) {
    if (!calls || !path) return 0;
    if (path[0] == '/') {
        snprintf(name, PATH_MAX, "%s", path);
    } else {
        char base[PATH_MAX];
        if (folder == AT_FDCWD) {
            if (!getcwd(base, sizeof base)) return 0;
        } else {
            name_of(folder, base);
        }
        if (snprintf(name, PATH_MAX, "%s/%s", base, path) >= PATH_MAX) return 0;
    }
    return below(name);
}

static int inside(int fd, char *name) {
    if (!calls) return 0;
    name_of(fd, name);
    return below(name);
}

/* Counts a call. Returns 0 where it goes through, 1 where it is the one that fails, 2 where it fails after that one: a
   full disk stays full for what needs room, and a disk that became read-only stays so for everything. */
static int fails(const char *call, const char *name, int needs_room) {
    long number = __sync_add_and_fetch(&calls->count, 1);
    long length = strlen(call) + strlen(name) + 2, end = calls->used + length;
    if (end < (long)sizeof calls->log) {
        snprintf(calls->log + calls->used, length + 1, "%s %s\n", call, name);
        calls->used = end;
    }
    if (number == site) {
        snprintf(calls->call, sizeof calls->call, "%s", call);
        snprintf(calls->path, sizeof calls->path, "%s", name);
        calls->struck = number;
        if (fault == KILL_BEFORE) kill(getpid(), SIGKILL);
        dying = fault == KILL_AFTER;
        if (fault > 0) errno = fault;
        return fault > 0;
    }
    if (calls->struck && ((fault == ENOSPC && needs_room) || fault == EROFS)) {
        errno = fault;
        return 2;
    }
    return 0;
}

#define NEXT(function) ((__typeof__(&function))dlsym(RTLD_NEXT, #function))
#define FINISH(result)                          \
    do {                                        \
        __typeof__(result) value = (result);    \
        if (dying) kill(getpid(), SIGKILL);     \
        return value;                           \
    } while (0)

static int changes(int flags) { return (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC)); }
static int has_mode(int flags) { return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE; }

#define OPEN(function)                                                                                               \
    int function(const char *path, int flags, ...) {                                                                 \
        char name[PATH_MAX];                                                                                         \
        va_list rest;                                                                                                \
        va_start(rest, flags);                                                                                       \
        mode_t mode = has_mode(flags) ? va_arg(rest, mode_t) : 0;                                                    \
        va_end(rest);                                                                                                \
        if (changes(flags) && inside_at(AT_FDCWD, path, name) && fails("open", name, has_mode(flags))) return -1;    \
        FINISH(NEXT(function)(path, flags, mode));                                                                   \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(function)                                                                                             \
    int function(int folder, const char *path, int flags, ...) {                                                     \
        char name[PATH_MAX];                                                                                         \
        va_list rest;                                                                                                \
        va_start(rest, flags);                                                                                       \
        mode_t mode = has_mode(flags) ? va_arg(rest, mode_t) : 0;                                                    \
        va_end(rest);                                                                                                \
        if (changes(flags) && inside_at(folder, path, name) && fails("open", name, has_mode(flags))) return -1;      \
        FINISH(NEXT(function)(folder, path, flags, mode));                                                           \
    }
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(function)                                                                                              \
    FILE *function(const char *path, const char *mode) {                                                             \
        char name[PATH_MAX];                                                                                         \
        if (strpbrk(mode, "wa+") && inside_at(AT_FDCWD, path, name) && fails("open", name, 1)) return NULL;          \
        FINISH(NEXT(function)(path, mode));                                                                          \
    }
FOPEN(fopen)
FOPEN(fopen64)

/* A full disk takes a part of what is written, says so by the number of bytes, and refuses the next call. */
#define WRITE(function, cut, PARAMETERS, ARGUMENTS, PART)                                                            \
    ssize_t function PARAMETERS {                                                                                    \
        char name[PATH_MAX];                                                                                         \
        if (inside(fd, name)) {                                                                                      \
            int failed = fails("write", name, 1);                                                                    \
            if (failed == 1 && fault == ENOSPC && (cut)) return NEXT(function) PART;                                 \
            if (failed) return -1;                                                                                   \
        }                                                                                                            \
        FINISH(NEXT(function) ARGUMENTS);                                                                            \
    }
WRITE(write, size > 1, (int fd, const void *data, size_t size), (fd, data, size), (fd, data, size / 2))
WRITE(pwrite, size > 1, (int fd, const void *data, size_t size, off_t at), (fd, data, size, at), (fd, data, size / 2, at))
WRITE(pwrite64, size > 1, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at), (fd, data, size / 2, at))
WRITE(writev, 0, (int fd, const struct iovec *parts, int count), (fd, parts, count), (fd, parts, count))
WRITE(sendfile, size > 1, (int fd, int from, off_t *at, size_t size), (fd, from, at, size), (fd, from, at, size / 2))
WRITE(sendfile64, size > 1, (int fd, int from, off64_t *at, size_t size), (fd, from, at, size), (fd, from, at, size / 2))
WRITE(copy_file_range, size > 1, (int from, off64_t *a, int fd, off64_t *b, size_t size, unsigned flags),
      (from, a, fd, b, size, flags), (from, a, fd, b, size / 2, flags))

#define ON_FILE(function, label, needs_room, PARAMETERS, ARGUMENTS)                                                  \
    int function PARAMETERS {                                                                                        \
        char name[PATH_MAX];                                                                                         \
        if (inside(fd, name) && fails(label, name, needs_room)) return -1;                                           \
        FINISH(NEXT(function) ARGUMENTS);                                                                            \
    }
ON_FILE(fsync, "fsync", 0, (int fd), (fd))
ON_FILE(fdatasync, "fsync", 0, (int fd), (fd))
ON_FILE(ftruncate, "truncate", 0, (int fd, off_t size), (fd, size))
ON_FILE(ftruncate64, "truncate", 0, (int fd, off64_t size), (fd, size))
ON_FILE(fchmod, "chmod", 0, (int fd, mode_t mode), (fd, mode))

#define ON_PATH(function, label, folder, path, needs_room, PARAMETERS, ARGUMENTS)                                    \
    int function PARAMETERS {                                                                                        \
        char name[PATH_MAX];                                                                                         \
        if (inside_at(folder, path, name) && fails(label, name, needs_room)) return -1;                              \
        FINISH(NEXT(function) ARGUMENTS);                                                                            \
    }
ON_PATH(mkdir, "mkdir", AT_FDCWD, path, 1, (const char *path, mode_t mode), (path, mode))
ON_PATH(mkdirat, "mkdir", folder, path, 1, (int folder, const char *path, mode_t mode), (folder, path, mode))
ON_PATH(rename, "rename", AT_FDCWD, to, 0, (const char *from, const char *to), (from, to))
ON_PATH(renameat, "rename", b, to, 0, (int a, const char *from, int b, const char *to), (a, from, b, to))
ON_PATH(renameat2, "rename", b, to, 0, (int a, const char *from, int b, const char *to, unsigned flags),
        (a, from, b, to, flags))
ON_PATH(link, "link", AT_FDCWD, to, 1, (const char *from, const char *to), (from, to))
ON_PATH(symlink, "link", AT_FDCWD, to, 1, (const char *from, const char *to), (from, to))
ON_PATH(unlink, "unlink", AT_FDCWD, path, 0, (const char *path), (path))
ON_PATH(unlinkat, "unlink", folder, path, 0, (int folder, const char *path, int flags), (folder, path, flags))
ON_PATH(rmdir, "rmdir", AT_FDCWD, path, 0, (const char *path), (path))
ON_PATH(truncate, "truncate", AT_FDCWD, path, 0, (const char *path, off_t size), (path, size))
ON_PATH(chmod, "chmod", AT_FDCWD, path, 0, (const char *path, mode_t mode), (path, mode))
ON_PATH(fchmodat, "chmod", folder, path, 0, (int folder, const char *path, mode_t mode, int flags),
        (folder, path, mode, flags))

/* Pages that are mapped to be written are a write to the file without any further call. */
#define MAP(function)                                                                                                \
    void *function(void *where, size_t size, int protection, int flags, int fd, __typeof__((off64_t)0) at) {         \
        char name[PATH_MAX];                                                                                         \
        if (fd >= 0 && (protection & PROT_WRITE) && (flags & MAP_SHARED) && inside(fd, name) && fails("map", name, 0)) \
            return MAP_FAILED;                                                                                       \
        FINISH(NEXT(function)(where, size, protection, flags, fd, at));                                              \
    }
MAP(mmap64)
MAP(mmap)
