/* Progress as a terminal sees it: a child works slowly on a pseudo-terminal, and the parent notes
 * what appears when. */
#include "base/msg.h"
#include "base/progress.h"
#include "tap.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

struct seen {
    char text[8192];
    size_t len;
    double at[64]; /* seconds from the start, of each read */
    size_t end[64];
    size_t reads;
    int status;
};

static void nap(double seconds)
{
    (void)usleep((useconds_t)(seconds * 1e6));
}

/* Three steps of which the first and the last take long. */
static void slow_work(void)
{
    struct aq_progress p;
    aq_progress_begin(&p, "work", 4);
    nap(2.6);
    aq_progress_update(&p, 2);
    nap(2.4);
    aq_warn("in between");
    nap(0.2);
    aq_progress_end(&p);
}

static void quick_work(void)
{
    struct aq_progress p;
    aq_progress_begin(&p, "quick", 2);
    aq_progress_update(&p, 1);
    aq_progress_update(&p, 2);
    aq_progress_end(&p);
}

static void watch(struct seen *s, void (*work)(void))
{
    memset(s, 0, sizeof *s);
    int master = posix_openpt(O_RDWR | O_NOCTTY);
    if (master < 0 || grantpt(master) < 0 || unlockpt(master) < 0)
        abort();
    const char *name = ptsname(master);
    double start = aq_now();
    (void)fflush(stdout); /* else the child would write it too */
    pid_t child = fork();
    if (child == 0) {
        int slave = open(name, O_RDWR);
        if (slave < 0 || dup2(slave, STDERR_FILENO) < 0)
            _exit(9);
        aq_msg_name("aq-x");
        work();
        exit(0);
    }
    /* the child has its own; without one the read below would never end */
    int held = open(name, O_RDWR | O_NOCTTY);
    int flags = fcntl(master, F_GETFL);
    (void)fcntl(master, F_SETFL, flags | O_NONBLOCK);
    bool running = true;
    while (s->len + 1 < sizeof s->text) {
        ssize_t n = read(master, s->text + s->len, sizeof s->text - 1 - s->len);
        if (n > 0 && s->reads < 64) {
            s->len += (size_t)n;
            s->at[s->reads] = aq_now() - start;
            s->end[s->reads++] = s->len;
        } else if (!running) {
            break;
        } else {
            running = waitpid(child, &s->status, WNOHANG) == 0;
            nap(0.01);
        }
    }
    (void)close(held);
    (void)close(master);
}

static void test_terminal(void)
{
    struct seen s;
    watch(&s, slow_work);
    tap_ok(s.status == 0, "the child ends");
    tap_ok(s.reads > 0 && s.at[0] < 2, "a line within two seconds");
    double gap = 0;
    for (size_t i = 1; i < s.reads; i++)
        if (s.at[i] - s.at[i - 1] > gap)
            gap = s.at[i] - s.at[i - 1];
    tap_ok(s.reads >= 4 && gap < 1.6, "the line changes every second while nothing is done");
    tap_ok(strstr(s.text, "\rwork:   0%, 1 s\033[K") != NULL,
           "without a rate there is no time to go");
    tap_ok(strstr(s.text, "\rwork:  50%, 3 s, about 3 s to go\033[K") != NULL,
           "at half time as much is left as was used");
    tap_ok(strstr(s.text, "about 2 s to go") != NULL, "the time to go runs down between two steps");
    tap_ok(strstr(s.text, "\r\033[Kaq-x: warning: in between") != NULL,
           "a message replaces the line");
}

static void test_short(void)
{
    struct seen s;
    watch(&s, quick_work);
    tap_ok(s.status == 0 && s.len == 0, "a short job shows nothing");
}

int main(void)
{
    test_terminal();
    test_short();
    return tap_done();
}
