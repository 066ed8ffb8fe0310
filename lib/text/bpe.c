#include "text/bpe.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

#define BPE_FREE UINT64_MAX
#define NO_RANK UINT32_MAX

/* Up to here, finding the lowest rank by looking at all pairs beats a heap. */
enum { SHORT = 64 };

void ids_release(struct ids *ids)
{
    free(ids->items);
    *ids = (struct ids){.items = NULL};
}

void ids_reserve(struct ids *ids, size_t more)
{
    if (ids->cap - ids->count >= more)
        return;
    size_t cap = ids->cap * 2 > ids->count + more ? ids->cap * 2 : ids->count + more;
    ids->items = xreallocarray(ids->items, cap, sizeof *ids->items);
    ids->cap = cap;
}

void ids_push(struct ids *ids, int32_t id)
{
    ids_reserve(ids, 1);
    ids->items[ids->count++] = id;
}

/* ---- merges ---- */

void bpe_init(struct bpe *b, size_t merges)
{
    size_t size = 16;
    while (size < 2 * merges)
        size *= 2;
    *b = (struct bpe){.mask = size - 1};
    b->merges = xreallocarray(NULL, size, sizeof *b->merges);
    for (size_t i = 0; i < size; i++)
        b->merges[i].pair = BPE_FREE;
}

static struct bpe_merge *find(const struct bpe *b, uint32_t left, uint32_t right)
{
    uint64_t pair = (uint64_t)left << 32 | right;
    uint64_t h = pair * 0x9e3779b97f4a7c15;
    for (size_t i = (size_t)(h >> 32) & b->mask;; i = (i + 1) & b->mask)
        if (b->merges[i].pair == pair || b->merges[i].pair == BPE_FREE)
            return &b->merges[i];
}

bool bpe_add_merge(struct bpe *b, uint32_t left, uint32_t right, uint32_t rank, uint32_t id)
{
    struct bpe_merge *m = find(b, left, right);
    if (m->pair != BPE_FREE)
        return false;
    *m = (struct bpe_merge){(uint64_t)left << 32 | right, rank, id};
    return true;
}

/* The rank of a pair, NO_RANK if it does not merge; *id is what it becomes. */
static uint32_t rank_of(const struct bpe *b, int32_t left, int32_t right, uint32_t *id)
{
    const struct bpe_merge *m = find(b, (uint32_t)left, (uint32_t)right);
    *id = m->id;
    return m->pair == BPE_FREE ? NO_RANK : m->rank;
}

/* ---- short words: arrays that close up after each merge ---- */

static size_t merge_short(const struct bpe *b, int32_t *sym, size_t n)
{
    uint32_t rank[SHORT], merged[SHORT]; /* of the pair (i, i + 1) */
    for (size_t i = 0; i + 1 < n; i++)
        rank[i] = rank_of(b, sym[i], sym[i + 1], &merged[i]);
    for (;;) {
        size_t best = 0;
        uint32_t least = NO_RANK;
        for (size_t i = 0; i + 1 < n; i++)
            if (rank[i] < least) {
                least = rank[i];
                best = i;
            }
        if (least == NO_RANK)
            break;
        sym[best] = (int32_t)merged[best];
        n--;
        memmove(sym + best + 1, sym + best + 2, (n - best - 1) * sizeof *sym);
        if (best + 1 < n) {
            memmove(rank + best + 1, rank + best + 2, (n - best - 2) * sizeof *rank);
            memmove(merged + best + 1, merged + best + 2, (n - best - 2) * sizeof *merged);
            rank[best] = rank_of(b, sym[best], sym[best + 1], &merged[best]);
        }
        if (best)
            rank[best - 1] = rank_of(b, sym[best - 1], sym[best], &merged[best - 1]);
    }
    return n;
}

/* ---- long ones: a linked list of symbols and a heap of pairs ---- */

struct symbol {
    int32_t sym;
    uint32_t prev, next;   /* indices; END where there is none */
    uint32_t rank, merged; /* of the pair with the next one */
};

struct pair_of_symbols {
    uint32_t rank, at;
};

struct bpe_work {
    struct symbol *nodes;
    size_t node_cap;
    struct pair_of_symbols *heap;
    size_t heap_count, heap_cap;
};

#define END UINT32_MAX

void bpe_release(struct bpe *b)
{
    free(b->merges);
    if (b->work) {
        free(b->work->nodes);
        free(b->work->heap);
    }
    free(b->work);
    *b = (struct bpe){.merges = NULL};
}

static bool before(struct pair_of_symbols a, struct pair_of_symbols b)
{
    return a.rank != b.rank ? a.rank < b.rank : a.at < b.at;
}

static void push(struct bpe_work *w, struct pair_of_symbols c)
{
    AQ_GROW(w->heap, w->heap_count, w->heap_cap);
    size_t i = w->heap_count++;
    for (; i && before(c, w->heap[(i - 1) / 2]); i = (i - 1) / 2)
        w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = c;
}

static struct pair_of_symbols pop(struct bpe_work *w)
{
    struct pair_of_symbols top = w->heap[0], last = w->heap[--w->heap_count];
    size_t i = 0;
    for (size_t k = 1; k < w->heap_count; k = 2 * i + 1) {
        if (k + 1 < w->heap_count && before(w->heap[k + 1], w->heap[k]))
            k++;
        if (!before(w->heap[k], last))
            break;
        w->heap[i] = w->heap[k];
        i = k;
    }
    w->heap[i] = last;
    return top;
}

static void rank_pair(const struct bpe *b, struct bpe_work *w, uint32_t at)
{
    struct symbol *n = &w->nodes[at];
    n->rank = n->next == END ? NO_RANK : rank_of(b, n->sym, w->nodes[n->next].sym, &n->merged);
    if (n->rank != NO_RANK)
        push(w, (struct pair_of_symbols){n->rank, at});
}

size_t bpe_merge_long(struct bpe *b, int32_t *symbols, size_t n)
{
    if (n == 0)
        return 0;
    if (!b->work)
        b->work = xcalloc(1, sizeof *b->work);
    struct bpe_work *w = b->work;
    if (w->node_cap < n) {
        w->node_cap = n;
        w->nodes = xreallocarray(w->nodes, n, sizeof *w->nodes);
    }
    for (size_t i = 0; i < n; i++)
        w->nodes[i] = (struct symbol){.sym = symbols[i],
                                      .prev = i ? (uint32_t)i - 1 : END,
                                      .next = i + 1 < n ? (uint32_t)i + 1 : END};
    w->heap_count = 0;
    for (size_t i = 0; i + 1 < n; i++)
        rank_pair(b, w, (uint32_t)i);
    while (w->heap_count) {
        struct pair_of_symbols c = pop(w);
        struct symbol *l = &w->nodes[c.at];
        if (l->rank != c.rank)
            continue; /* stale: one of the two was merged with another */
        struct symbol *r = &w->nodes[l->next];
        l->sym = (int32_t)l->merged;
        l->next = r->next;
        r->rank = NO_RANK;
        if (l->next != END)
            w->nodes[l->next].prev = c.at;
        rank_pair(b, w, c.at);
        if (l->prev != END)
            rank_pair(b, w, l->prev);
    }
    size_t count = 0;
    for (uint32_t i = 0; i != END; i = w->nodes[i].next)
        symbols[count++] = w->nodes[i].sym;
    return count;
}

size_t bpe_merge(struct bpe *b, int32_t *symbols, size_t n)
{
    return n > SHORT ? bpe_merge_long(b, symbols, n) : merge_short(b, symbols, n);
}
