/*
 * All treatments of a sweep over one layer and one tile, as aq-score computes them, against as many
 * sgemm calls of the same shapes:
 *
 *     grid LM TOKENS RANGES STORE <LINES     a line: class, quant.json
 *
 * Lines of one class are scored in one call, first with fp32 products alone, then with matrix
 * units; before, between and after, every product of the layer is made by the BLAS. A call also
 * goes through the layer and back, and so it is counted: all products forward, and backward those
 * of o, gate, up and down, since no one asks for the gradient at the input of the lowest layer.
 */
#include "bare.h"

#include "score/score_run.h"

#include <time.h>
#include <unistd.h>

enum { SHAPES = 7, LINES = 512, LINE = 1024 };

/* 1 and the share of o, gate, up and down in the layer's elements. */
static const double passes = 1.84;

/* (out, in) of the 4B model's linears. */
static const int64_t shapes[SHAPES][2] = {{4096, 2560}, {1024, 2560}, {1024, 2560}, {2560, 4096},
                                          {9728, 2560}, {9728, 2560}, {2560, 9728}};

struct times {
    double wall, cpu;
};

/* fp32 and matrix units, and what the BLAS alone takes for the same products. */
struct account {
    const char *name;
    int rows;
    struct times plain, best, bare;
};

static struct times now(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (struct times){aq_now(), (double)t.tv_sec + 1e-9 * (double)t.tv_nsec};
}

static void add_since(struct times *sum, struct times start, double factor)
{
    struct times end = now();
    sum->wall += factor * (end.wall - start.wall);
    sum->cpu += factor * (end.cpu - start.cpu);
}

static void time_scores(const struct score_options *o, struct times *sum)
{
    (void)unlink(o->store);
    struct times start = now();
    must(score_run(o, &err) == 0);
    add_since(sum, start, 1);
}

/* One product of each shape; they are all alike, so that the rest is multiplied. */
static void time_layer(struct aq_pool *pool, struct bare *p, double products, struct times *sum)
{
    for (int i = 0; i < SHAPES; i++) {
        p->out = shapes[i][0];
        p->depth = shapes[i][1];
        struct times start = now();
        (void)time_bare(pool, p);
        add_since(sum, start, products);
    }
}

static void add_account(struct account *to, const struct account *from)
{
    to->rows += from->rows;
    to->plain.wall += from->plain.wall, to->plain.cpu += from->plain.cpu;
    to->best.wall += from->best.wall, to->best.cpu += from->best.cpu;
    to->bare.wall += from->bare.wall, to->bare.cpu += from->bare.cpu;
}

static void print_account(const struct account *a)
{
    printf("grid     %-6s %3d treatments: fp32 %.2f times bare sgemm (by CPU seconds %.2f); matrix "
           "units %.2f times faster (%.2f)\n",
           a->name, a->rows, a->plain.wall / a->bare.wall, a->plain.cpu / a->bare.cpu,
           a->plain.wall / a->best.wall, a->plain.cpu / a->best.cpu);
    (void)fflush(stdout);
}

/* ---- the lines ---- */

struct list {
    int count;
    char text[LINES][LINE];
    const char *kind[LINES], *file[LINES];
};

static void read_lines(struct list *l)
{
    while (l->count < LINES && fgets(l->text[l->count], LINE, stdin)) {
        char *rest = l->text[l->count];
        l->kind[l->count] = strsep(&rest, "\t");
        l->file[l->count] = strsep(&rest, "\n");
        must(l->file[l->count++] != NULL);
    }
}

/* Lines from <= i < to, all of one class. */
static struct account time_class(struct score_options *o, const struct list *l, int from, int to,
                                 struct aq_pool *pool, struct bare *bare)
{
    struct account a = {.name = l->kind[from], .rows = to - from};
    double third = (to - from + passes) / 3;
    o->quants = &l->file[from];
    o->quant_count = (size_t)(to - from);
    time_layer(pool, bare, third, &a.bare);
    o->plain_products = true;
    time_scores(o, &a.plain);
    time_layer(pool, bare, third, &a.bare);
    o->plain_products = false;
    time_scores(o, &a.best);
    time_layer(pool, bare, third, &a.bare);
    return a;
}

int main(int argc, char **argv)
{
    static struct list lines;
    if (argc != 5)
        return 2;
    read_lines(&lines);
    struct score_options o = {.lm = argv[1],
                              .tokens = argv[2],
                              .ranges = argv[3],
                              .store = argv[4],
                              .method = "gradient",
                              .dtype = "bf16",
                              .operand_rounding = "none",
                              .device = "cpu"};
    struct aq_pool *pool = aq_pool_new(0, &err);
    struct bare bare = {.x = random_floats((int64_t)BENCH_ROWS * 9728, 1),
                        .w = random_floats((int64_t)9728 * 2560, 1),
                        .y = random_floats((int64_t)BENCH_ROWS * 9728, 1)};
    struct account all = {.name = "all"};
    for (int from = 0, to = 0; from < lines.count; from = to) {
        while (to < lines.count && strcmp(lines.kind[to], lines.kind[from]) == 0)
            to++;
        struct account one = time_class(&o, &lines, from, to, pool, &bare);
        print_account(&one);
        add_account(&all, &one);
    }
    print_account(&all);
    aq_pool_free(pool);
    return 0;
}
