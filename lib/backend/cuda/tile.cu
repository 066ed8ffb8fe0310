/* Tiles, and the parts of them that go to an expert. */
#include "backend/cuda/cuda.cuh"

#include <string.h>

/* Pieces of one block, put together on the host; offsets, since the device's block comes last. */
struct piece_list {
    std::vector<char> bytes;

    size_t add(const void *from, size_t n)
    {
        size_t at = (bytes.size() + 15) / 16 * 16;
        bytes.resize(at + n);
        if (n)
            memcpy(bytes.data() + at, from, n);
        return at;
    }
};

/*
 * A model with experts makes and frees a tile for each expert in each pass, so that rooms are kept
 * for the next of about their size. All work is on one stream: what reads the old contents comes
 * before the upload of the new.
 */
static bool take_room(struct cuda_backend *c, struct backend_tile *t, struct aq_err *err)
{
    size_t size = 4096;
    while (size < t->bytes)
        size *= 2;
    t->bytes = size;
    auto kept = c->rooms->find(size);
    if (kept == c->rooms->end())
        return (t->room = cuda_take(c, size, "a tile", err)) != NULL;
    t->room = kept->second;
    c->rooms->erase(kept);
    return true;
}

/* The pieces in a room of their own; t->bytes is set. NULL: no memory. */
static char *upload_pieces(struct cuda_backend *c, struct backend_tile *t,
                           const struct piece_list *list, struct aq_err *err)
{
    t->bytes = list->bytes.size();
    if (!take_room(c, t, err))
        return NULL;
    (void)cuda_check(c,
                     cudaMemcpyAsync(t->room, list->bytes.data(), list->bytes.size(),
                                     cudaMemcpyHostToDevice, c->stream),
                     "upload of a tile");
    return (char *)t->room;
}

struct backend_tile *cuda_tile_new(struct backend *b, const struct backend_tile_desc *d,
                                   struct aq_err *err)
{
    struct cuda_backend *c = cuda_of(b);
    struct backend_tile t = {};
    t.rows = d->rows;
    t.chunk = (int32_t)gemm_chunk(d->rows);
    t.samples = d->samples;
    t.used = d->first[d->samples];
    t.ends.assign(d->first, d->first + d->samples + 1);
    std::vector<int32_t> sample_of((size_t)d->rows, -1);
    std::vector<int64_t> square_at((size_t)d->samples);
    for (int32_t s = 0; s < d->samples; s++) {
        int32_t n = d->first[s + 1] - d->first[s];
        t.longest = n > t.longest ? n : t.longest;
        square_at[(size_t)s] = t.squares;
        t.squares += (int64_t)n * n;
        for (int32_t r = d->first[s]; r < d->first[s + 1]; r++)
            sample_of[(size_t)r] = s;
    }
    struct piece_list list;
    size_t row_bytes = (size_t)d->rows * sizeof(int32_t), samples = (size_t)d->samples;
    size_t first = list.add(t.ends.data(), (samples + 1) * sizeof(int32_t));
    size_t ids = list.add(d->ids, row_bytes), pos = list.add(d->pos, row_bytes);
    size_t target = list.add(d->target, row_bytes);
    size_t of = list.add(sample_of.data(), row_bytes);
    size_t square = list.add(square_at.data(), samples * sizeof(int64_t));
    size_t pad = list.add(d->pad, samples);
    char *at = upload_pieces(c, &t, &list, err);
    if (!at)
        return NULL;
    t.first = (int32_t *)(at + first);
    t.ids = (int32_t *)(at + ids);
    t.pos = (int32_t *)(at + pos);
    t.target = (int32_t *)(at + target);
    t.sample_of = (int32_t *)(at + of);
    t.square_at = (int64_t *)(at + square);
    t.pad = (uint8_t *)(at + pad);
    return new backend_tile(t);
}

/* An expert's slots as rows of a part, in which they take whole chunks. */
struct part_rows {
    std::vector<int32_t> slots, sample_of, expert_of, row_of;

    void add(const struct backend_tile *t, struct backend_tile *p, int expert,
             const int32_t *own, int32_t count)
    {
        int32_t rows = (count + p->chunk - 1) / p->chunk * p->chunk, base = (int32_t)slots.size();
        slots.resize((size_t)(base + rows), -1);
        sample_of.resize((size_t)(base + rows), -1);
        expert_of.resize(expert_of.size() + (size_t)(rows / p->chunk), expert);
        for (int32_t s = 0, at = 0; s < t->samples; s++) {
            for (; at < count && own[at] / p->per_token < t->ends[(size_t)s + 1]; at++) {
                slots[(size_t)(base + at)] = own[at];
                sample_of[(size_t)(base + at)] = expert * t->samples + s;
                row_of[(size_t)own[at]] = base + at;
            }
            p->ends[(size_t)(expert * t->samples + s) + 1] =
                base + (s + 1 < t->samples ? at : rows);
        }
    }
};

struct backend_tile *cuda_tile_part(struct backend *b, const struct backend_tile *t,
                                    const int32_t *slots, const int32_t *ends, int experts,
                                    int per_token, struct aq_err *err)
{
    struct cuda_backend *c = cuda_of(b);
    struct backend_tile p = {};
    struct part_rows all;
    p.chunk = b->expert_rows;
    p.samples = t->samples * experts;
    p.per_token = per_token;
    p.experts = experts;
    p.tile_rows = t->rows;
    p.ends.assign((size_t)p.samples + 1, 0);
    p.has = new std::vector<bool>;
    all.row_of.assign((size_t)t->rows * (size_t)per_token, -1);
    for (int e = 0; e < experts; e++) {
        int32_t from = e ? ends[e - 1] : 0;
        p.has->push_back(ends[e] > from);
        all.add(t, &p, e, slots + from, ends[e] - from);
    }
    p.rows = p.used = (int32_t)all.slots.size();
    struct piece_list list;
    size_t first = list.add(p.ends.data(), p.ends.size() * sizeof(int32_t));
    size_t slot = list.add(all.slots.data(), all.slots.size() * sizeof(int32_t));
    size_t of = list.add(all.sample_of.data(), all.sample_of.size() * sizeof(int32_t));
    size_t expert = list.add(all.expert_of.data(), all.expert_of.size() * sizeof(int32_t));
    size_t row = list.add(all.row_of.data(), all.row_of.size() * sizeof(int32_t));
    char *at = upload_pieces(c, &p, &list, err);
    if (!at) {
        delete p.has;
        return NULL;
    }
    p.first = (int32_t *)(at + first);
    p.slots = (int32_t *)(at + slot);
    p.sample_of = (int32_t *)(at + of);
    p.expert_of = (int32_t *)(at + expert);
    p.row_of = (int32_t *)(at + row);
    return new backend_tile(p);
}

void cuda_tile_free(struct backend *b, struct backend_tile *t)
{
    if (!t)
        return;
    cuda_of(b)->rooms->emplace(t->bytes, t->room);
    delete t->has;
    delete t;
}
