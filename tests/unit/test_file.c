/* lib/base/file: products that are whole or not there, whatever ends the program; maps, bounded
 * reads, locks. */
#include "tap.h"

#include "base/file.h"
#include "base/mem.h"
#include "base/msg.h"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* Entries of the scratch directory, which is the working directory. */
static int entries(void)
{
    int n = 0;
    DIR *d = opendir(".");
    for (const struct dirent *e; d && (e = readdir(d));)
        n += e->d_name[0] != '.' || (e->d_name[1] && strcmp(e->d_name, "..") != 0);
    if (d)
        (void)closedir(d);
    return n;
}

static void holds(const char *path, const char *text, const char *what)
{
    struct aq_buf b = AQ_BUF_INIT;
    struct aq_err err = {0};
    int r = aq_read_file(path, 1000, &b, &err);
    tap_same(r == 0 ? aq_buf_str(&b) : err.msg, text, what);
    aq_buf_release(&b);
}

static void write_text(const char *path, const char *text)
{
    struct aq_err err = {0};
    if (aq_write_file(path, text, strlen(text), &err) < 0)
        tap_ok(0, "%s", err.msg);
}

/* Half a product is written in a child, which then gets the signal; with `ignored` it goes on and
 * finishes. */
static int child_with_signal(int sig, bool ignored)
{
    (void)fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        struct aq_out out = AQ_OUT_INIT;
        struct aq_err err = {0};
        if (ignored)
            (void)signal(sig, SIG_IGN);
        if (aq_out_open(&out, "product", &err) < 0 || aq_out_write(&out, "half", 4, &err) < 0)
            _exit(99);
        (void)raise(sig);
        _exit(aq_out_commit(&out, &err) < 0 ? 98 : 0);
    }
    int status = -1;
    (void)waitpid(pid, &status, 0);
    return status;
}

static void test_signals(void)
{
    static const int fatal[] = {SIGINT, SIGTERM, SIGHUP};
    for (size_t i = 0; i < AQ_COUNT(fatal); i++) {
        write_text("product", "old");
        int status = child_with_signal(fatal[i], false);
        tap_ok(WIFSIGNALED(status) && WTERMSIG(status) == fatal[i],
               "%s ends it, as the parent sees", strsignal(fatal[i]));
        holds("product", "old", "the old product stays");
        tap_ok(entries() == 1, "nothing is left behind");
    }
    tap_ok(child_with_signal(SIGHUP, true) == 0, "a signal that the caller ignores stays ignored");
    holds("product", "half", "and the product is finished");
    (void)unlink("product");
}

static void test_products(void)
{
    struct aq_out out = AQ_OUT_INIT;
    struct aq_err err = {0};
    tap_ok(aq_out_open(&out, "p", &err) == 0 && aq_out_write(&out, "abc", 3, &err) == 0 &&
               !aq_path_exists("p"),
           "no name before the end");
    tap_ok(aq_out_pwrite(&out, "X", 1, 1, &err) == 0 && aq_out_write(&out, "d", 1, &err) == 0,
           "writing at a place leaves the end where it is");
    tap_ok(aq_out_commit(&out, &err) == 0 && entries() == 1, "committed");
    tap_ok(aq_out_abort(&out) < 0, "an abort after a commit does no harm");
    holds("p", "aXcd", "the product");
    tap_ok(aq_out_open(&out, "p", &err) == 0 && aq_out_write(&out, "new", 3, &err) == 0 &&
               aq_out_abort(&out) < 0 && entries() == 1,
           "aborted");
    holds("p", "aXcd", "the old one stays");
    struct stat before, after;
    (void)stat("p", &before);
    tap_ok(aq_write_if_changed("p", "aXcd", 4, &err) == 0 && stat("p", &after) == 0 &&
               before.st_ino == after.st_ino,
           "the same bytes are not written again");
    tap_ok(aq_write_if_changed("p", "aXce", 4, &err) == 0 && stat("p", &after) == 0 &&
               before.st_ino != after.st_ino,
           "other bytes of the same length are");
    tap_ok(aq_out_open(&out, "no/p", &err) < 0 && err.code == AQ_ERUN, "no directory");
    tap_same(err.msg, "cannot write 'no/p': No such file or directory", "message");
    (void)unlink("p");
}

static void test_reading(void)
{
    struct aq_buf b = AQ_BUF_INIT;
    struct aq_err err = {0};
    struct aq_map m;
    write_text("f", "12345");
    tap_ok(aq_read_file("f", 5, &b, &err) == 0 && b.len == 5, "as large as the limit");
    aq_buf_reset(&b);
    tap_ok(aq_read_file("f", 4, &b, &err) < 0 && err.code == AQ_EINPUT, "one byte above the limit");
    tap_same(err.msg, "'f' is larger than the limit of 4 bytes", "message");
    tap_ok(aq_map_open(&m, "f", &err) == 0 && m.size == 5 && memcmp(m.data, "12345", 5) == 0,
           "map");
    aq_map_close(&m);
    write_text("f", "");
    tap_ok(aq_map_open(&m, "f", &err) == 0 && m.size == 0 && m.data, "a map of nothing is a map");
    aq_map_close(&m);
    tap_ok(aq_map_open(&m, ".", &err) < 0 && err.code == AQ_EINPUT, "a directory is not an input");
    tap_ok(mkfifo("fifo", 0600) == 0 && aq_read_file("nope", 5, &b, &err) < 0 &&
               err.code == AQ_ERUN,
           "no file");
    (void)unlink("fifo");
    (void)unlink("f");
    aq_buf_release(&b);
}

/* A mapped file that is cut short: a message and exit 1, not a crash. */
static void test_lost_map(void)
{
    char *page = xcalloc(1, 65536);
    struct aq_err err = {0};
    struct aq_map m;
    if (aq_write_file("f", page, 65536, &err) < 0 || aq_map_open(&m, "f", &err) < 0) {
        tap_ok(0, "%s", err.msg);
    } else {
        (void)fflush(stdout);
        pid_t pid = fork();
        if (pid == 0) {
            int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
            (void)dup2(null, STDERR_FILENO);
            if (truncate("f", 0) < 0)
                _exit(99);
            _exit(*(const volatile unsigned char *)(m.data + 40000));
        }
        int status = -1;
        (void)waitpid(pid, &status, 0);
        tap_ok(WIFEXITED(status) && WEXITSTATUS(status) == AQ_ERUN,
               "a map that is cut short ends in exit 1");
        aq_map_close(&m);
    }
    free(page);
    (void)unlink("f");
}

static void test_directories_and_locks(void)
{
    struct aq_err err = {0};
    struct aq_lock one = {-1}, two = {-1};
    tap_ok(aq_make_dirs("a/b//c/", &err) == 0 && aq_make_dirs("a/b/c", &err) == 0 &&
               aq_path_exists("a/b/c"),
           "directories are made, and may be there");
    write_text("a/f", "");
    tap_ok(aq_make_dirs("a/f/x", &err) < 0 && err.code == AQ_ERUN, "a file is in the way");
    tap_ok(aq_lock_take(&one, "a/lock", &err) == 0, "locked");
    tap_ok(aq_lock_take(&two, "a/lock", &err) < 0, "not twice");
    tap_same(err.msg, "'a/lock' is in use by another process", "message");
    aq_lock_release(&one);
    tap_ok(aq_lock_take(&two, "a/lock", &err) == 0, "free again");
    aq_lock_release(&two);
    static const char *const joins[][3] = {
        {"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"", "b", "b"}, {"a", "/b", "/b"}, {"/", "b", "/b"}};
    for (size_t i = 0; i < AQ_COUNT(joins); i++) {
        char *path = aq_path_join(joins[i][0], joins[i][1]);
        tap_same(path, joins[i][2], "joined");
        free(path);
    }
    static const char *const dirs[][2] = {{"a/b", "a"}, {"/b", "/"}, {"b", "."}, {"a//b", "a/"}};
    for (size_t i = 0; i < AQ_COUNT(dirs); i++) {
        char *dir = aq_path_dir(dirs[i][0]);
        tap_same(dir, dirs[i][1], "directory of a path");
        free(dir);
    }
}

int main(void)
{
    char scratch[] = "/tmp/aq-test-file.XXXXXX";
    if (!mkdtemp(scratch) || chdir(scratch) < 0)
        return 2;
    /* as in a terminal, also under nohup or in the background of a script, which ignore them */
    (void)signal(SIGINT, SIG_DFL);
    (void)signal(SIGHUP, SIG_DFL);
    test_signals();
    test_products();
    test_reading();
    test_lost_map();
    test_directories_and_locks();
    if (chdir("/") < 0)
        return 2;
    char *remove = xasprintf("rm -rf '%s'", scratch);
    int bad = system(remove);
    free(remove);
    return bad ? 2 : tap_done();
}
