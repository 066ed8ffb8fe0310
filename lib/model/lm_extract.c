#include "model/lm_extract.h"
#include "base/mem.h"
#include "base/num.h"
#include "model/checkpoint.h"
#include "model/family.h"
#include "model/lm_config.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/*
 * The naming regimes: whole multimodal models as newer and as older libraries write them, their
 * backbone alone, whole language models, and an extracted language model alone.
 */
static const char *const prefixes[] = {"model.language_model.", "language_model.model.",
                                       "language_model.", "model.", ""};
static const char *const vision_prefixes[] = {"model.visual.",
                                              "visual.",
                                              "model.vision_tower.",
                                              "vision_tower.",
                                              "model.multi_modal_projector.",
                                              "multi_modal_projector."};

struct extraction {
    struct lm *lm;
    struct ckpt ckpt;
    const char *prefix;
    struct aq_err *err;
};

static bool starts_with(const char *s, const char *head)
{
    return strncmp(s, head, strlen(head)) == 0;
}

/* ---- architecture ---- */

static int read_config(struct extraction *x, const char *dir)
{
    char *path = aq_path_join(dir, "config.json");
    int r = -1;
    struct json *v = NULL;
    if (!aq_path_exists(path)) {
        aq_err_set(x->err, AQ_EINPUT, "'%s' is missing", aq_show(path));
        goto out;
    }
    v = json_read_max(path, JSON_CONFIG_MAX, x->err);
    if (v)
        r = lm_config_read(&x->lm->arch, v, path, &x->lm->strings, x->err);
out:
    json_free(v);
    free(path);
    return r;
}

/* ---- tensors ---- */

const char *lm_prefix_of(const struct ckpt *c, struct aq_err *err)
{
    for (size_t i = 0; i < AQ_COUNT(prefixes); i++) {
        char *name = xasprintf("%sembed_tokens.weight", prefixes[i]);
        const struct ckpt_tensor *t = ckpt_find(c, name);
        free(name);
        if (t)
            return prefixes[i];
    }
    aq_err_set(err, AQ_EINPUT,
               "'%s': tensor 'embed_tokens.weight' is missing (looked for the prefixes "
               "'model.language_model.', 'language_model.model.', 'language_model.', "
               "'model.' and none)",
               aq_show(c->dir));
    return NULL;
}

static int find_prefix(struct extraction *x)
{
    x->prefix = lm_prefix_of(&x->ckpt, x->err);
    return x->prefix ? 0 : -1;
}

/* The head is beside the model that the prefix names. */
const char *lm_head_prefix_of(const char *prefix)
{
    return strcmp(prefix, "language_model.model.") == 0 ? "language_model." : "";
}

static const char *head_prefix(const struct extraction *x)
{
    return lm_head_prefix_of(x->prefix);
}

static bool is_head(const struct extraction *x, const char *source)
{
    const char *prefix = head_prefix(x);
    return starts_with(source, prefix) && strcmp(source + strlen(prefix), "lm_head.weight") == 0;
}

/* The first tensor of a layer. Caller frees. */
static char *first_of_layer(const struct extraction *x, int64_t layer)
{
    return xasprintf("%slayers.%" PRId64 ".%s", x->prefix, layer,
                     x->lm->arch.family->tensors[0].name);
}

/* How many layers the checkpoint holds: the first whose first tensor is missing. */
static int64_t count_layers(const struct extraction *x)
{
    for (int64_t n = 0;; n++) {
        char *name = first_of_layer(x, n);
        const struct ckpt_tensor *t = ckpt_find(&x->ckpt, name);
        free(name);
        if (!t)
            return n;
    }
}

static int fail_missing(const struct extraction *x, const char *name)
{
    int64_t have = count_layers(x), want = x->lm->arch.num_hidden_layers;
    if (have < want && starts_with(name + strlen(x->prefix), "layers."))
        return aq_err_set(x->err, AQ_EINPUT,
                          "'%s': tensor '%s' is missing; config.json says %" PRId64
                          " layers, the first %" PRId64 " are there",
                          aq_show(x->ckpt.dir), name, want, have);
    if (is_head(x, name))
        return aq_err_set(x->err, AQ_EINPUT,
                          "'%s': tensor '%s' is missing, and config.json does not tie "
                          "it to the embedding",
                          aq_show(x->ckpt.dir), name);
    return aq_err_set(x->err, AQ_EINPUT, "'%s': tensor '%s' is missing", aq_show(x->ckpt.dir),
                      name);
}

static void show_shape(struct aq_buf *out, const uint64_t *shape, int rank)
{
    aq_buf_addc(out, '[');
    for (int i = 0; i < rank; i++)
        aq_buf_addf(out, "%s%" PRIu64, i ? ", " : "", shape[i]);
    aq_buf_addc(out, ']');
}

static int check_tensor(const struct extraction *x, const struct st_tensor *t, int rank,
                        const uint64_t *shape)
{
    const char *dir = aq_show(x->ckpt.dir);
    if (t->rank != rank || memcmp(t->shape, shape, (size_t)rank * sizeof *shape) != 0) {
        struct aq_buf found = AQ_BUF_INIT, wanted = AQ_BUF_INIT;
        show_shape(&found, t->shape, t->rank);
        show_shape(&wanted, shape, rank);
        aq_err_set(x->err, AQ_EINPUT, "'%s': tensor '%s' has shape %s, config.json needs %s", dir,
                   aq_show(t->name), aq_buf_str(&found), aq_buf_str(&wanted));
        aq_buf_release(&found);
        aq_buf_release(&wanted);
        return -1;
    }
    if (t->dtype == ST_BF16 || t->dtype == ST_F16 || t->dtype == ST_F32)
        return 0;
    aq_err_set(x->err, AQ_EINPUT, "'%s': tensor '%s' has dtype %s, expected BF16, F16 or F32", dir,
               aq_show(t->name), t->dtype_name);
    if (strchr("FUI", t->dtype_name[0]) && t->end - t->begin <= t->elements)
        aq_err_hint(x->err, "it seems to be quantized already: take the checkpoint it was made "
                            "from");
    return -1;
}

static int take_tensor(struct extraction *x, const struct model_place *p, size_t i,
                       struct aq_buf *name)
{
    struct lm *lm = x->lm;
    struct lm_tensor *t = &lm->tensors[i];
    model_place_describe(p, &lm->arch, name, &t->rank, t->shape);
    t->transposed = arch_layout(&lm->arch, p->layer) == EXPERTS_TRANSPOSED;
    t->name = aq_arena_strdup(&lm->strings, name->data);
    bool head = strcmp(t->name, "lm_head.weight") == 0;
    model_place_source(p, name);
    char *source = xasprintf("%s%s", head ? head_prefix(x) : x->prefix, name->data);
    t->source = aq_arena_strdup(&lm->strings, source);
    free(source);
    const struct ckpt_tensor *c = ckpt_find(&x->ckpt, t->source);
    if (!c)
        return fail_missing(x, t->source);
    if (check_tensor(x, c->t, t->rank, t->shape) < 0)
        return -1;
    t->dtype = c->t->dtype;
    t->elements = c->t->elements;
    t->file = c->file; /* of the checkpoint, until keep_files */
    t->begin = c->t->begin;
    t->end = c->t->end;
    return 0;
}

/* Gemma multiplies embeddings by sqrt(hidden_size) as a number of their own type. */
void lm_round_embed_scale(struct lm_arch *a, enum st_dtype embedding)
{
    if (a->family->embed_root)
        a->embed_scale = num_as((float)a->embed_scale, st_num_type(embedding));
}

/* ---- experts ---- */

/* Bits of enum arch_experts that the shape of a fused tensor allows; 0 after an error. */
static unsigned orientations(const struct extraction *x, const struct st_tensor *t, int64_t layer,
                             enum model_role role)
{
    struct lm_arch a = x->lm->arch;
    int8_t *layouts = xcalloc((size_t)a.num_hidden_layers, 1);
    const struct model_place p = {layer, model_expert_tensor(&a, role), -1};
    struct aq_buf name = AQ_BUF_INIT;
    uint64_t shape[2][MODEL_RANK];
    unsigned found = 0;
    a.experts_layout = layouts;
    for (int k = EXPERTS_LINEAR; k <= EXPERTS_TRANSPOSED; k++) {
        int rank;
        layouts[layer] = (int8_t)k;
        model_place_describe(&p, &a, &name, &rank, shape[k - EXPERTS_LINEAR]);
        if (t->rank == rank && memcmp(t->shape, shape[k - EXPERTS_LINEAR], sizeof *shape) == 0)
            found |= 1u << k;
    }
    aq_buf_release(&name);
    free(layouts);
    if (!found) {
        struct aq_buf text = AQ_BUF_INIT;
        show_shape(&text, t->shape, t->rank);
        aq_buf_adds(&text, ", config.json needs ");
        show_shape(&text, shape[0], MODEL_RANK);
        aq_buf_adds(&text, " or ");
        show_shape(&text, shape[1], MODEL_RANK);
        aq_err_set(x->err, AQ_EINPUT, "'%s': tensor '%s' has shape %s", aq_show(x->ckpt.dir),
                   aq_show(t->name), aq_buf_str(&text));
        aq_buf_release(&text);
    }
    return found;
}

static const struct ckpt_tensor *find_fused(const struct extraction *x, int64_t layer,
                                            enum model_role role)
{
    const struct model_tensor *t = model_expert_tensor(&x->lm->arch, role);
    char *name = xasprintf("%slayers.%" PRId64 ".%s", x->prefix, layer, t->name);
    const struct ckpt_tensor *found = ckpt_find(&x->ckpt, name);
    free(name);
    return found;
}

/* The form of a layer's experts: bits of those that are possible. */
static int layer_forms(const struct extraction *x, int64_t layer, unsigned *forms)
{
    const struct ckpt_tensor *gate_up = find_fused(x, layer, ROLE_EXPERTS_GATE_UP);
    const struct ckpt_tensor *down = find_fused(x, layer, ROLE_EXPERTS_DOWN);
    unsigned first, second;
    *forms = 1u << EXPERTS_EACH;
    if (!gate_up)
        return 0;
    first = orientations(x, gate_up->t, layer, ROLE_EXPERTS_GATE_UP);
    second = down ? orientations(x, down->t, layer, ROLE_EXPERTS_DOWN) : first;
    if (!first || !second)
        return -1;
    *forms = first & second;
    return *forms ? 0
                  : aq_err_set(x->err, AQ_EINPUT,
                               "'%s': tensors '%s' and '%s' have different orientations",
                               aq_show(x->ckpt.dir), aq_show(gate_up->t->name),
                               aq_show(down->t->name));
}

/* A shape may allow both orientations; then the other layers decide. */
static int find_layouts(struct extraction *x)
{
    const unsigned both = 1u << EXPERTS_LINEAR | 1u << EXPERTS_TRANSPOSED;
    struct lm_arch *a = &x->lm->arch;
    unsigned seen = 0;
    int64_t open = -1;
    if (!a->experts)
        return 0;
    for (int64_t l = 0; l < a->num_hidden_layers; l++) {
        unsigned forms;
        if (!a->layer_sparse[l])
            continue;
        if (layer_forms(x, l, &forms) < 0)
            return -1;
        if (forms == both) {
            open = l;
            a->experts_layout[l] = -1;
            continue;
        }
        seen |= forms & both;
        a->experts_layout[l] = forms & 1u << EXPERTS_EACH     ? EXPERTS_EACH
                               : forms & 1u << EXPERTS_LINEAR ? EXPERTS_LINEAR
                                                              : EXPERTS_TRANSPOSED;
    }
    if (open < 0)
        return 0;
    if (seen == 0 || seen == both) {
        const struct ckpt_tensor *t = find_fused(x, open, ROLE_EXPERTS_GATE_UP);
        return aq_err_set(x->err, AQ_EINPUT,
                          "'%s': tensor '%s' may be (experts, out, in) or (experts, in, out): its "
                          "shape fits both, and no other tensor decides",
                          aq_show(x->ckpt.dir), aq_show(t->t->name));
    }
    for (int64_t l = 0; l < a->num_hidden_layers; l++)
        if (a->experts_layout[l] < 0)
            a->experts_layout[l] =
                seen & 1u << EXPERTS_LINEAR ? EXPERTS_LINEAR : EXPERTS_TRANSPOSED;
    return 0;
}

/* ---- all tensors ---- */

static int take_tensors(struct extraction *x)
{
    struct lm *lm = x->lm;
    struct aq_buf name = AQ_BUF_INIT;
    size_t want;
    int r = 0;
    /* a small config.json must not ask for more memory than a real checkpoint would fill */
    int64_t have = count_layers(x);
    if (have < lm->arch.num_hidden_layers) {
        char *missing = first_of_layer(x, have);
        r = fail_missing(x, missing);
        free(missing);
        return r;
    }
    if (find_layouts(x) < 0)
        return -1;
    struct model_place *places = model_layout(&lm->arch, &want);
    lm->tensors = xcalloc(want, sizeof *lm->tensors);
    for (size_t i = 0; i < want && r == 0; i++) {
        r = take_tensor(x, &places[i], i, &name);
        lm->count = i + 1;
    }
    free(places);
    aq_buf_release(&name);
    if (r == 0) {
        lm_round_embed_scale(&lm->arch, lm->tensors[0].dtype);
        lm_index(lm);
    }
    return r;
}

/* Only files that hold a tensor of the language model are of interest later on. */
static void keep_files(struct extraction *x)
{
    struct lm *lm = x->lm;
    uint32_t *number = xcalloc(x->ckpt.file_count, sizeof *number);
    for (size_t i = 0; i < lm->count; i++)
        number[lm->tensors[i].file] = 1;
    lm->files = xcalloc(x->ckpt.file_count, sizeof *lm->files);
    for (size_t i = 0; i < x->ckpt.file_count; i++)
        if (number[i]) {
            lm->files[lm->file_count].name = aq_arena_strdup(&lm->strings, x->ckpt.names[i]);
            lm->files[lm->file_count].bytes = x->ckpt.files[i].map.size;
            number[i] = (uint32_t)lm->file_count++;
        }
    for (size_t i = 0; i < lm->count; i++)
        lm->tensors[i].file = number[lm->tensors[i].file];
    free(number);
}

/* ---- the rest ---- */

static struct lm_dropped *dropped_under(struct lm *lm, const char *prefix)
{
    for (size_t i = 0; i < lm->dropped_count; i++)
        if (strcmp(lm->dropped[i].prefix, prefix) == 0)
            return &lm->dropped[i];
    lm->dropped = xreallocarray(lm->dropped, lm->dropped_count + 1, sizeof *lm->dropped);
    struct lm_dropped *d = &lm->dropped[lm->dropped_count++];
    *d = (struct lm_dropped){.prefix = aq_arena_strdup(&lm->strings, prefix)};
    return d;
}

/* Weights of Linear and Conv modules; a position or token embedding has a matrix too. */
static bool is_linear(const struct st_tensor *t)
{
    const char *dot = strrchr(t->name, '.');
    if (t->rank < 2 || !dot || strcmp(dot, ".weight") != 0)
        return false;
    size_t n = (size_t)(dot - t->name);
    return !(n >= 5 && memcmp(dot - 5, "embed", 5) == 0) &&
           !(n >= 12 && memcmp(dot - 12, "embed_tokens", 12) == 0);
}

static int drop_tensor(struct extraction *x, const struct st_tensor *t)
{
    struct lm_dropped *d = NULL;
    for (size_t i = 0; i < AQ_COUNT(vision_prefixes) && !d; i++)
        if (starts_with(t->name, vision_prefixes[i]))
            d = dropped_under(x->lm, vision_prefixes[i]);
    bool head = is_head(x, t->name);
    if (!d && head)
        d = dropped_under(x->lm, "lm_head."); /* a copy of the embedding: the tie wins */
    if (!d) {
        aq_err_set(x->err, AQ_EINPUT, "'%s': unexpected tensor '%s'", aq_show(x->ckpt.dir),
                   aq_show(t->name));
        int64_t layers = count_layers(x);
        if (layers > x->lm->arch.num_hidden_layers)
            aq_err_hint(x->err, "config.json says %" PRId64 " layers, the checkpoint has %" PRId64,
                        x->lm->arch.num_hidden_layers, layers);
        return -1;
    }
    d->tensors++;
    d->elements += t->elements;
    if (!head && is_linear(t)) {
        d->linears++;
        d->linear_weights += t->elements;
    }
    return 0;
}

/* The tie wins, but a head of other weights means that one of the two files is wrong. */
static void compare_heads(const struct extraction *x, struct aq_buf *notes)
{
    enum { SAMPLE = 4096 };
    char *name = xasprintf("%slm_head.weight", head_prefix(x));
    const struct ckpt_tensor *head = ckpt_find(&x->ckpt, name);
    free(name);
    const struct lm_tensor *embed = &x->lm->tensors[0];
    if (!x->lm->arch.tie_word_embeddings || !head)
        return;
    uint64_t n = embed->end - embed->begin, step = n < SAMPLE ? n : SAMPLE;
    bool same = head->t->end - head->t->begin == n && head->t->dtype == embed->dtype;
    for (int i = 0; i < 3 && same; i++) {
        uint64_t at = (n - step) / 2 * (uint64_t)i; /* first, middle, last */
        same = memcmp((const char *)head->t->data + at, (const char *)embed->data + at, step) == 0;
    }
    if (!same)
        aq_buf_addf(notes,
                    "%s: lm_head.weight differs from the embedding it is tied to: it is "
                    "not used\n",
                    aq_show(x->ckpt.dir));
}

static int by_source(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int drop_rest(struct extraction *x)
{
    struct lm *lm = x->lm;
    const char **taken = xcalloc(lm->count, sizeof *taken);
    int r = 0;
    for (size_t i = 0; i < lm->count; i++)
        taken[i] = lm->tensors[i].source;
    qsort(taken, lm->count, sizeof *taken, by_source);
    for (size_t i = 0; i < x->ckpt.count && r == 0; i++) {
        const struct st_tensor *t = x->ckpt.tensors[i].t;
        if (!bsearch(&t->name, taken, lm->count, sizeof *taken, by_source))
            r = drop_tensor(x, t);
    }
    free(taken);
    return r;
}

static void make_groups(struct lm *lm, enum lm_digest kind)
{
    model_groups_make(&lm->groups, &lm->arch, lm);
    lm_compute_digest(lm, LM_DIGEST_SAMPLE, lm->digest);
    if (kind == LM_DIGEST_FULL)
        lm_compute_digest(lm, LM_DIGEST_FULL, lm->full);
}

void lm_split_experts(struct lm *lm, enum lm_digest kind)
{
    if (!lm->arch.experts)
        return;
    lm->arch.moe_split = true;
    model_groups_release(&lm->groups);
    make_groups(lm, kind);
}

int lm_extract(struct lm *lm, const char *dir, enum lm_digest kind, struct aq_buf *notes,
               struct aq_err *err)
{
    struct extraction x = {.lm = lm, .err = err};
    int r = -1;
    *lm = (struct lm){.root = NULL};
    if (ckpt_open(&x.ckpt, dir, err) < 0)
        return -1;
    if (read_config(&x, dir) < 0 || find_prefix(&x) < 0 || take_tensors(&x) < 0 ||
        drop_rest(&x) < 0)
        goto out;
    keep_files(&x);
    lm->root = aq_arena_strdup(&lm->strings, dir);
    if (lm_map(lm, err) < 0)
        goto out;
    make_groups(lm, kind);
    aq_buf_add(notes, aq_buf_str(&x.ckpt.notes), x.ckpt.notes.len);
    compare_heads(&x, notes);
    r = 0;
out:
    ckpt_close(&x.ckpt);
    if (r < 0)
        lm_close(lm);
    return r;
}
