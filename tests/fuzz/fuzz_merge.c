/*
 * aq-score merge: the store of a seed becomes two parts, in which the input takes cells away,
 * changes sums, with a check that fits or without, or flips bits anywhere. A result holds exactly
 * the cells of its parts; parts that differ where they overlap, or are damaged, are refused.
 * Started in the root of the repository.
 */
#include "base/mem.h"
#include "mem_file.h"
#include "store/store_check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PARTS = 2 };

struct input {
    const uint8_t *at;
    size_t left;
};

static unsigned take(struct input *in)
{
    if (!in->left)
        return 0;
    in->left--;
    return *in->at++;
}

static struct aq_buf base; /* a sound store */
static char out[64];

static void *place(unsigned char *bytes, const struct store *s, const void *in_map)
{
    return bytes + ((const unsigned char *)in_map - s->file.map.data);
}

/* The flags in the file; those of the row are a copy. */
static uint8_t *flags(unsigned char *bytes, const struct store *s, const struct store_row *r)
{
    char name[64];
    (void)snprintf(name, sizeof name, "have/%s/%lld", r->key.id, (long long)r->key.prefix);
    return place(bytes, s, st_find(&s->file, name)->data);
}

static void seal_cell(unsigned char *bytes, const struct store *s, const struct store_row *r,
                      int64_t layer, int64_t tile)
{
    struct store_cell c = store_cell_of(s, r, layer, tile);
    for (int p = 0; p < STORE_PARTS; p++)
        if (c.parts[p])
            c.parts[p] = place(bytes, s, c.parts[p]);
    size_t cell = (size_t)(layer * s->shape.tiles + tile);
    uint64_t check = store_cell_check(&r->key, layer, tile, &c);
    memcpy((char *)place(bytes, s, r->check) + cell * sizeof check, &check, sizeof check);
}

static void must_open(struct store *s, const void *bytes, size_t size, enum store_use use)
{
    struct aq_err err = {0};
    if (store_open_memory(s, bytes, size, "base", use, &err) < 0) {
        (void)fprintf(stderr, "%s\n", err.msg);
        exit(1);
    }
}

static void leave(void)
{
    static const char *const ends[] = {"", ".part", ".lock"};
    for (size_t i = 0; i < AQ_COUNT(ends); i++) {
        char path[80];
        (void)snprintf(path, sizeof path, "%s%s", out, ends[i]);
        (void)unlink(path);
    }
}

/* The seed of fuzz_store, made sound: all flags set, checks and digest anew. */
static void make_base(void)
{
    struct aq_buf seed = AQ_BUF_INIT;
    struct aq_err err = {0};
    if (aq_read_file("tests/fuzz/seeds/fuzz_store/one", 1 << 20, &seed, &err) < 0)
        exit(1);
    size_t header = strlen(aq_buf_str(&seed));
    uint64_t n = header;
    aq_buf_add(&base, &n, sizeof n);
    aq_buf_add(&base, seed.data, header);
    aq_buf_add(&base, seed.data + header + 1, seed.len - header - 1);
    unsigned char *copy = xmalloc(base.len);
    memcpy(copy, base.data, base.len);
    struct store s;
    must_open(&s, base.data, base.len, STORE_REPAIR);
    for (size_t i = 0; i < s.count; i++) {
        size_t cells = (size_t)(s.shape.layers * s.shape.tiles);
        memset(flags(copy, &s, &s.rows[i]), 1, cells);
        for (size_t c = 0; c < cells; c++)
            seal_cell(copy, &s, &s.rows[i], (int64_t)c / s.shape.tiles, (int64_t)c % s.shape.tiles);
    }
    struct store_header h;
    char digest[AQ_SHA256_HEX];
    if (store_header_of(&s, &h, &err) < 0)
        exit(1);
    store_header_digest(&h, digest);
    memcpy(copy + (h.digits - h.bytes), digest, sizeof digest - 1);
    store_close(&s);
    memcpy(base.data, copy, base.len);
    free(copy);
    aq_buf_release(&seed);
    (void)snprintf(out, sizeof out, "%s/aq-fuzz-merge-%d",
                   access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp", (int)getpid());
    (void)atexit(leave);
}

/* What became of a part's cells. */
enum fate { KEPT, GONE, CHANGED, DAMAGED, FATES };

static void change_sum(unsigned char *bytes, const struct store *s, const struct store_row *r,
                       int64_t layer, int64_t tile)
{
    struct store_cell c = store_cell_of(s, r, layer, tile);
    char *at = place(bytes, s, c.parts[STORE_SUMS]);
    double x;
    memcpy(&x, at, sizeof x);
    x = x * 2 + 1;
    memcpy(at, &x, sizeof x);
}

static void take_away(unsigned char *bytes, const struct store *s, const struct store_row *r,
                      int64_t layer, int64_t tile)
{
    struct store_cell c = store_cell_of(s, r, layer, tile);
    size_t cell = (size_t)(layer * s->shape.tiles + tile);
    for (int p = 0; p < STORE_PARTS; p++)
        for (size_t g = 0; c.parts[p] && g < c.groups; g++) {
            size_t one = store_part_kinds[p].size;
            memset((char *)place(bytes, s, c.parts[p]) + g * c.stride * one, 0, c.samples * one);
        }
    flags(bytes, s, r)[cell] = 0;
    memset((char *)place(bytes, s, r->check) + cell * 8, 0, 8);
}

static void apply(unsigned char *bytes, const struct store *s, size_t row, size_t cell,
                  enum fate fate)
{
    const struct store_row *r = &s->rows[row];
    int64_t layer = (int64_t)cell / s->shape.tiles, tile = (int64_t)cell % s->shape.tiles;
    if (fate == GONE) {
        take_away(bytes, s, r, layer, tile);
    } else if (fate != KEPT) {
        change_sum(bytes, s, r, layer, tile);
        if (fate == CHANGED)
            seal_cell(bytes, s, r, layer, tile);
    }
}

static void check_result(const struct store *s, uint8_t *const fates[PARTS])
{
    struct store merged;
    struct aq_err err = {0};
    if (store_open(&merged, out, &err) < 0 || merged.count != s->count)
        abort();
    size_t cells = (size_t)(s->shape.layers * s->shape.tiles);
    for (size_t i = 0; i < s->count * cells; i++) {
        const struct store_row *r =
            store_find(&merged, s->rows[i / cells].key.id, s->rows[i / cells].key.prefix);
        bool there = fates[0][i] != GONE || fates[1][i] != GONE;
        if (!r || store_have(&merged, r, (int64_t)(i % cells) / s->shape.tiles,
                             (int64_t)(i % cells) % s->shape.tiles) != there)
            abort();
    }
    store_close(&merged);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct mem_file files[PARTS];
    struct input in = {data, size};
    if (!base.len)
        make_base();
    struct store s;
    must_open(&s, base.data, base.len, STORE_WHOLE);
    size_t all = s.count * (size_t)(s.shape.layers * s.shape.tiles), cells = all / s.count;
    const char *paths[PARTS];
    uint8_t *fates[PARTS];
    bool damaged = false, differ = false, flipped = false;
    for (int p = 0; p < PARTS; p++) {
        unsigned char *bytes = xmalloc(base.len);
        memcpy(bytes, base.data, base.len);
        fates[p] = xcalloc(all, 1);
        for (size_t i = 0; i < all; i++) {
            fates[p][i] = (uint8_t)(take(&in) % FATES);
            apply(bytes, &s, i / cells, i % cells, (enum fate)fates[p][i]);
            damaged |= fates[p][i] == DAMAGED;
            differ |= p && fates[0][i] != GONE && fates[1][i] != GONE && fates[0][i] != fates[1][i];
        }
        for (unsigned flips = take(&in) % 4; flips; flips--) {
            size_t at = (take(&in) | take(&in) << 8) % base.len;
            bytes[at] ^= (unsigned char)(1U << take(&in) % 8);
            flipped = true;
        }
        paths[p] = mem_file_set(&files[p], bytes, base.len);
        free(bytes);
    }
    struct aq_err err = {0};
    bool done = store_merge(out, paths, PARTS, &err) == 0;
    if (!done)
        must_be_refusal(&err);
    else if (damaged || differ)
        flipped ? (void)0 : abort();
    if (done && !flipped)
        check_result(&s, fates);
    if (!done && !damaged && !differ && !flipped)
        abort();
    for (int p = 0; p < PARTS; p++)
        free(fates[p]);
    store_close(&s);
    leave();
    return 0;
}
