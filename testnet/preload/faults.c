/* Faults at chosen writes of a process, for `pumasi-testnet crash`. Loaded with LD_PRELOAD; compiled at run
 * time. Only files below FAULTS_DIR count; everything else passes through. Linux only.
 *
 * FAULTS_STATE  file of one page, shared with the test: calls counted, records logged, when the fault hit
 * FAULTS_ON     which calls count: "any", "sync" or "write"
 * FAULTS_AT     the number of the call at which it happens; 0: never
 * FAULTS_DO     "before": SIGKILL instead of the call; "after": the call, then SIGKILL; "torn": half of a
 *               write, then SIGKILL; "eio": the call fails once; "full": no write succeeds any more
 * FAULTS_LOG    file that gets every call with its data
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define WRITE 1
#define SYNC 2
#define OTHER 4
#define PATH 4096

struct state {
  uint64_t calls;  /* that count */
  uint64_t logged; /* records in the log */
  uint64_t hit;    /* milliseconds since 1970 at which the fault happened, else 0 */
};

static struct state *state;
static char dir[PATH];
static size_t dir_length;
static uint64_t at;
static int on = WRITE | SYNC | OTHER;
static const char *act = "";
static int log_file = -1;
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void begin(void) {
  const char *place = getenv("FAULTS_DIR"), *shared = getenv("FAULTS_STATE");
  if (!place || !shared || strlen(place) >= PATH) return;
  strcpy(dir, place);
  dir_length = strlen(dir);
  if (getenv("FAULTS_AT")) at = strtoull(getenv("FAULTS_AT"), 0, 10);
  if (getenv("FAULTS_DO")) act = getenv("FAULTS_DO");
  if (getenv("FAULTS_ON") && !strcmp(getenv("FAULTS_ON"), "sync")) on = SYNC;
  if (getenv("FAULTS_ON") && !strcmp(getenv("FAULTS_ON"), "write")) on = WRITE;
  if (getenv("FAULTS_LOG"))
    log_file = open(getenv("FAULTS_LOG"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  int file = open(shared, O_RDWR | O_CLOEXEC);
  if (file < 0) return;
  void *page = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (page != MAP_FAILED) state = page;
}

/* The path below the directory, or 0 for files that do not count. */
static const char *relative(const char *path) {
  if (!state || strncmp(path, dir, dir_length) || path[dir_length] != '/') return 0;
  const char *name = path + dir_length + 1;
  size_t length = strlen(name);
  if (!strcmp(name, "lock") || (length > 4 && !strcmp(name + length - 4, "-shm"))) return 0;
  return name;
}

static const char *name_of(int fd, char *path) {
  char link[64];
  if (!state) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, path, PATH - 1);
  if (length <= 0) return 0;
  path[length] = 0;
  return relative(path);
}

static void put(const void *bytes, size_t length) {
  while (length > 0) {
    long done = syscall(SYS_write, log_file, bytes, length);
    if (done <= 0) _exit(99);
    bytes = (const char *)bytes + done;
    length -= (size_t)done;
  }
}

/* kind, length of name, offset, length of data; then name and data. Little-endian machines. */
static void note(char kind, const char *name, int64_t offset, const void *data, uint32_t length) {
  if (log_file < 0) return;
  uint32_t name_length = (uint32_t)strlen(name);
  char head[17];
  head[0] = kind;
  memcpy(head + 1, &name_length, 4);
  memcpy(head + 5, &offset, 8);
  memcpy(head + 13, &length, 4);
  put(head, sizeof head);
  put(name, name_length);
  put(data, length);
  __atomic_add_fetch(&state->logged, 1, __ATOMIC_SEQ_CST);
}

static void die(void) {
  syscall(SYS_kill, getpid(), SIGKILL);
  for (;;) pause();
}

/* What to do at this call: 0 go on, 1 fail, 2 die after it, 3 die after half of it. */
static int due(int kind) {
  if (!(kind & on)) return 0;
  uint64_t number = __atomic_add_fetch(&state->calls, 1, __ATOMIC_SEQ_CST);
  int full = !strcmp(act, "full");
  if (!at || number < at || (number > at && !full)) return 0;
  if (!state->hit) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    state->hit = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
  }
  if (full) return errno = ENOSPC, 1;
  if (!strcmp(act, "eio")) return errno = EIO, 1;
  if (!strcmp(act, "after")) return 2;
  if (!strcmp(act, "torn")) return kind == WRITE ? 3 : 2;
  die();
  return 0;
}

static size_t tear(uint64_t offset, size_t length) {
  uint64_t end = (offset + length / 2) / 512 * 512;
  return end > offset ? (size_t)(end - offset) : 0;
}

static ssize_t write_at(int fd, const void *data, size_t length, int64_t offset, int placed) {
  char path[PATH];
  const char *name = name_of(fd, path);
  if (!name)
    return placed ? syscall(SYS_pwrite64, fd, data, length, offset) : syscall(SYS_write, fd, data, length);
  pthread_mutex_lock(&turn);
  ssize_t done = -1;
  int what = due(WRITE);
  if (what != 1) {
    if (!placed) offset = lseek(fd, 0, SEEK_CUR);
    /* Disks write sectors whole. */
    if (what == 3) length = tear((uint64_t)offset, length);
    note('w', name, offset, data, (uint32_t)length);
    done = placed ? syscall(SYS_pwrite64, fd, data, length, offset) : syscall(SYS_write, fd, data, length);
    if (what) die();
  }
  int error = errno;
  pthread_mutex_unlock(&turn);
  errno = error;
  return done;
}

ssize_t write(int fd, const void *data, size_t length) { return write_at(fd, data, length, 0, 0); }
ssize_t pwrite(int fd, const void *data, size_t length, off_t at_) { return write_at(fd, data, length, at_, 1); }
ssize_t pwrite64(int fd, const void *data, size_t length, off64_t at_) { return write_at(fd, data, length, at_, 1); }

static int sync_(int fd, long call) {
  char path[PATH];
  const char *name = name_of(fd, path);
  if (!name) return (int)syscall(call, fd);
  pthread_mutex_lock(&turn);
  int done = -1, what = due(SYNC);
  if (what != 1) {
    done = (int)syscall(call, fd);
    if (done == 0) note('s', name, 0, "", 0);
    if (what) die();
  }
  int error = errno;
  pthread_mutex_unlock(&turn);
  errno = error;
  return done;
}

int fsync(int fd) { return sync_(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_(fd, SYS_fdatasync); }

static int cut(int fd, int64_t length) {
  char path[PATH];
  const char *name = name_of(fd, path);
  if (!name) return (int)syscall(SYS_ftruncate, fd, length);
  pthread_mutex_lock(&turn);
  int done = -1, what = due(OTHER);
  if (what != 1) {
    note('t', name, length, "", 0);
    done = (int)syscall(SYS_ftruncate, fd, length);
    if (what) die();
  }
  int error = errno;
  pthread_mutex_unlock(&turn);
  errno = error;
  return done;
}

int ftruncate(int fd, off_t length) { return cut(fd, length); }
int ftruncate64(int fd, off64_t length) { return cut(fd, length); }

int rename(const char *from, const char *to) {
  const char *name = relative(from), *other = relative(to);
  if (!name || !other) return (int)syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
  pthread_mutex_lock(&turn);
  int done = -1, what = due(OTHER);
  if (what != 1) {
    note('r', name, 0, other, (uint32_t)strlen(other));
    done = (int)syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
    if (what) die();
  }
  int error = errno;
  pthread_mutex_unlock(&turn);
  errno = error;
  return done;
}

int unlink(const char *path) {
  const char *name = relative(path);
  if (!name) return (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
  pthread_mutex_lock(&turn);
  int done = -1, what = due(OTHER);
  if (what != 1) {
    note('u', name, 0, "", 0);
    done = (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (what) die();
  }
  int error = errno;
  pthread_mutex_unlock(&turn);
  errno = error;
  return done;
}
