#include "eval/file.h"

#include "base/file.h"
#include "base/mem.h"
#include "export/codes.h"
#include "export/gguf_model.h"
#include "model/lm_config.h"
#include "model/lm_extract.h"
#include "nn/experts.h"

#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int eval_file_kind(const char *path)
{
    char magic[4] = "";
    if (aq_is_directory(path))
        return EVAL_CHECKPOINT;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t n = fd < 0 ? 0 : pread(fd, magic, sizeof magic, 0);
    if (fd >= 0)
        (void)close(fd);
    return n == 4 && memcmp(magic, "GGUF", 4) == 0 ? EVAL_GGUF : -1;
}

void eval_file_close(struct eval_file *f)
{
    if (!f)
        return;
    if (f->has_ckpt)
        ckpt_close(&f->ckpt);
    if (f->has_gguf)
        gguf_close(&f->gguf);
    json_free(f->config);
    free(f->weights);
    aq_names_release(&f->names);
    aq_arena_release(&f->arena);
    free(f);
}

/* ---- weights for the model ---- */

static enum num_type plain_dtype(const struct coded *c)
{
    return c->form == CODED_PLAIN ? st_num_type(c->dtype) : NUM_F32;
}

static const struct coded *weight_of(const struct eval_file *f, const char *name)
{
    ptrdiff_t i = aq_names_find(&f->names, name);
    return i < 0 ? NULL : &f->weights[i];
}

/* One expert's matrices as a model asks for them: gate above up, or down alone. */
struct expert_parts {
    const struct coded *part[NN_EXPERT_PARTS];
    int count;
    bool plain; /* all of it is as computed with, in one type */
};

static int expert_parts(const struct eval_file *f, const struct nn_expert_name *e,
                        struct expert_parts *out, struct aq_err *err)
{
    char names[NN_EXPERT_PARTS][NN_EXPERT_NAME_MAX];
    int count = nn_expert_parts(e, names);
    *out = (struct expert_parts){.plain = true};
    for (int k = 0; k < count; k++) {
        const struct coded *c = weight_of(f, names[k]);
        if (!c)
            return aq_err_set(err, AQ_EINPUT, "there is no tensor '%s'", names[k]);
        out->plain &= c->form == CODED_PLAIN && c->dtype == (out->count ? out->part[0] : c)->dtype;
        out->part[out->count++] = c;
    }
    return 0;
}

static int find_coded_expert(struct eval_file *f, const struct nn_expert_name *e, const char *name,
                             struct backend_weight *w, struct aq_err *err)
{
    struct expert_parts p;
    if (expert_parts(f, e, &p, err) < 0)
        return -1;
    *w = (struct backend_weight){.host = p.plain && p.count == 1 ? p.part[0]->codes : NULL,
                                 .dtype = p.plain ? plain_dtype(p.part[0]) : NUM_F32,
                                 .rows = p.part[0]->rows * p.count,
                                 .cols = p.part[0]->cols,
                                 .name = aq_arena_strdup(&f->arena, name)};
    return 0;
}

static int make_expert(struct backend_weight *w, const struct expert_parts *p, struct aq_err *err)
{
    size_t part = (size_t)p->part[0]->rows * (size_t)w->cols * num_bytes(w->dtype);
    char *all = aq_big_alloc(part * (size_t)p->count, "a decoded expert", err);
    if (!all)
        return -1;
    for (int i = 0; i < p->count; i++) {
        const struct coded *c = p->part[i];
        float *to = (void *)(all + (size_t)i * part);
        if (p->plain)
            memcpy(to, c->codes, part);
        else if (c->form == CODED_PLAIN)
            num_widen(c->codes, st_num_type(c->dtype), (size_t)(c->rows * c->cols), to);
        else
            coded_decode(c, to);
    }
    w->host = all;
    return 0;
}

static int find_weight(void *arg, const char *name, struct backend_weight *w, struct aq_err *err)
{
    const struct eval_file *f = arg;
    ptrdiff_t i = aq_names_find(&f->names, name);
    struct nn_expert_name e;
    if (i < 0 && nn_expert_name(name, &e))
        return find_coded_expert(arg, &e, name, w, err);
    if (i < 0)
        return aq_err_set(err, AQ_EINPUT, "there is no tensor '%s'", name);
    const struct coded *c = &f->weights[i];
    *w = (struct backend_weight){.host = c->form == CODED_PLAIN ? c->codes : NULL,
                                 .dtype = plain_dtype(c),
                                 .rows = c->rows,
                                 .cols = c->cols,
                                 .name = f->names.items[i]};
    return 0;
}

static int make_weight(void *arg, struct backend_weight *w, struct aq_err *err)
{
    const struct coded *c = weight_of(arg, w->name);
    struct nn_expert_name e;
    struct expert_parts parts;
    if (!c && nn_expert_name(w->name, &e))
        return expert_parts(arg, &e, &parts, err) < 0 ? -1 : make_expert(w, &parts, err);
    size_t bytes;
    if (!c)
        return aq_err_set(err, AQ_EINPUT, "there is no tensor '%s'", w->name);
    if (!aq_mul((size_t)c->rows * sizeof(float), (size_t)c->cols, &bytes))
        return aq_err_set(err, AQ_EINPUT, "tensor '%s' is too large", w->name);
    float *values = aq_big_alloc(bytes, "a decoded weight", err);
    if (!values)
        return -1;
    coded_decode(c, values);
    w->host = values;
    return 0;
}

static void drop_weight(void *arg, struct backend_weight *w)
{
    const struct coded *c = weight_of(arg, w->name);
    struct nn_expert_name e;
    struct expert_parts p;
    if (!w->host || (c && c->form == CODED_PLAIN))
        return;
    if (!c && (!nn_expert_name(w->name, &e) || expert_parts(arg, &e, &p, NULL) < 0 ||
               (p.plain && p.count == 1)))
        return; /* it is in the file */
    aq_big_free((void *)w->host, (size_t)w->rows * (size_t)w->cols * num_bytes(w->dtype));
    w->host = NULL;
}

static void offer(struct eval_operand *o, struct eval_file *f)
{
    (void)aq_names_sort(&f->names);
    o->file = f;
    o->arch = &f->arch;
    o->has_source = true;
    o->source = (struct nn_source){
        .arch = &f->arch, .find = find_weight, .arg = f, .make = make_weight, .drop = drop_weight};
}

static struct coded *add_weight(struct eval_file *f, const char *name)
{
    f->weights = xreallocarray(f->weights, f->count + 1, sizeof *f->weights);
    aq_names_add(&f->names, aq_arena_strdup(&f->arena, name));
    f->weights[f->count] = (struct coded){0};
    return &f->weights[f->count++];
}

/* ---- a directory ---- */

struct checkpoint_reading {
    struct eval_operand *o;
    struct eval_file *f;
    const struct eval_reference *ref;
    struct eval_scheme *scheme; /* NULL: not quantized */
    const char *prefix;
    char *config_path;
    struct aq_err *err;
};

static const struct st_tensor *find_tensor(void *arg, const char *name)
{
    const struct ckpt_tensor *t = ckpt_find(arg, name);
    return t ? t->t : NULL;
}

static int read_config(struct checkpoint_reading *r)
{
    struct eval_file *f = r->f;
    f->config = json_read_max(r->config_path, JSON_CONFIG_MAX, r->err);
    if (!f->config)
        return -1;
    if (json_find(f->config, "quantization_config") &&
        !(r->scheme = eval_scheme_open(f->config, r->config_path, r->err)))
        return -1;
    if (r->scheme)
        (void)json_remove(f->config, "quantization_config");
    return lm_config_read(&f->arch, f->config, r->config_path, &f->arena, r->err);
}

static int read_plain(struct checkpoint_reading *r, struct coded *c, const char *source,
                      int64_t rows, int64_t cols)
{
    const struct st_tensor *t = find_tensor(&r->f->ckpt, source);
    if (!t)
        return aq_err_set(r->err, AQ_EINPUT, "'%s': tensor '%s' is missing",
                          aq_show(r->f->ckpt.dir), aq_show(source));
    if ((t->dtype != ST_BF16 && t->dtype != ST_F16 && t->dtype != ST_F32) ||
        t->elements != (uint64_t)rows * (uint64_t)cols)
        return aq_err_set(r->err, AQ_EINPUT, "'%s': tensor '%s' (%s) is not %lld x %lld numbers",
                          aq_show(r->f->ckpt.dir), aq_show(source), t->dtype_name, (long long)rows,
                          (long long)cols);
    *c = (struct coded){
        .form = CODED_PLAIN, .rows = rows, .cols = cols, .codes = t->data, .dtype = t->dtype};
    return 0;
}

static bool is_quantized(const struct checkpoint_reading *r, const char *module)
{
    static const char *const marks[] = {"weight_scale", "weight_packed"};
    bool found = false;
    for (size_t i = 0; i < AQ_COUNT(marks); i++) {
        char *name = xasprintf("%s.%s", module, marks[i]);
        found |= find_tensor(&r->f->ckpt, name) != NULL;
        free(name);
    }
    return found;
}

/* Is it a weight of codes without what would say so? */
static bool is_code(const struct checkpoint_reading *r, const char *source)
{
    const struct st_tensor *t = find_tensor(&r->f->ckpt, source);
    return t && (t->dtype == ST_I8 || t->dtype == ST_U8 || t->dtype == ST_F8_E4M3);
}

static int take_act(struct checkpoint_reading *r, const struct eval_module *m, const char *module,
                    struct eval_linear *l)
{
    float scale;
    if (quant_parse_act(m->act, &l->a, r->err) < 0)
        return aq_err_prefix(r->err, "%s", aq_show(module));
    l->swapped = l->a.steps > 0;
    if (!m->scale)
        return 0;
    char *name = xasprintf("%s.%s", module, m->scale);
    const struct st_tensor *t = find_tensor(&r->f->ckpt, name);
    int bad = t ? coded_number(t, &scale, r->err)
                : aq_err_set(r->err, AQ_EINPUT, "'%s': tensor '%s' is missing",
                             aq_show(r->f->ckpt.dir), aq_show(name));
    if (bad == 0 && !(scale > 0))
        bad = aq_err_set(r->err, AQ_EINPUT, "'%s': tensor '%s' is not positive",
                         aq_show(r->f->ckpt.dir), aq_show(name));
    free(name);
    if (bad < 0)
        return -1;
    l->ranged = true;
    l->range.amax = (float)(m->factor < 0 ? -m->factor / scale : m->factor * scale);
    return 0;
}

/* The activations as the named engine runs them; what it puts in place of them needs no scale. */
static int serve(struct checkpoint_reading *r, struct eval_module *m, const char *module,
                 const struct coded *c)
{
    enum scheme_layout layout = eval_scheme_is_modelopt(r->scheme) ? LAYOUT_MODELOPT : LAYOUT_CT;
    const char *act = m->act;
    if (served_coded(&r->ref->served, layout, module, c, &act, r->err) < 0)
        return -1;
    if (act != m->act) {
        (void)snprintf(m->act, sizeof m->act, "%s", act);
        m->scale = NULL;
    }
    return 0;
}

/* module: the checkpoint's name; linear: where its activations are noted, or NULL. */
static int read_module(struct checkpoint_reading *r, const char *name, const char *module,
                       int64_t rows, int64_t cols, struct eval_linear *linear)
{
    struct coded *c = add_weight(r->f, name);
    char *source = xasprintf("%s.weight", module);
    struct eval_module m;
    int bad = 0;
    if (!is_quantized(r, module) && !is_code(r, source))
        bad = read_plain(r, c, source, rows, cols);
    else if (!r->scheme)
        bad = aq_err_set(r->err, AQ_EINPUT, "'%s': '%s' is quantized, and %s does not say how",
                         aq_show(r->f->ckpt.dir), aq_show(source), aq_show(r->config_path));
    else if (eval_scheme_find(r->scheme, module, &m, r->err) < 0 ||
             (coded_open(c, module, rows, cols, &m.args, find_tensor, &r->f->ckpt, r->err) < 0 &&
              aq_err_prefix(r->err, "'%s'", aq_show(r->f->ckpt.dir)) < 0) ||
             (linear && (serve(r, &m, module, c) < 0 || take_act(r, &m, module, linear) < 0)))
        bad = -1;
    if (bad == 0 && linear && linear->a.steps) /* quantized inputs are multiplied before */
        linear->range.factor = coded_take_inputs(c, &r->f->arena);
    free(source);
    return bad;
}

static struct eval_linear *linear_of(struct eval_operand *o, const struct model_layer *shape,
                                     int64_t layer, const char *name)
{
    size_t n = strlen(name) - strlen(".weight");
    for (int l = 0; l < shape->linear_count; l++)
        if (strlen(shape->linears[l].name) == n && memcmp(shape->linears[l].name, name, n) == 0)
            return &o->linears[layer * MODEL_LINEARS + l];
    return NULL;
}

/* All experts of a layer have one treatment of what they read, and one range. */
static int note_expert(struct checkpoint_reading *r, const struct model_place *p,
                       const char *module, const struct eval_linear *l)
{
    int half = p->tensor->role == ROLE_EXPERT_DOWN ? EXPERT_DOWN : EXPERT_GATE_UP;
    struct eval_linear *x = &r->o->experts[p->layer * EXPERT_HALVES + half];
    if (p->expert == 0 && p->tensor->role != ROLE_EXPERT_UP)
        *x = *l;
    if (x->swapped == l->swapped && quant_same(&x->a, &l->a) && x->ranged == l->ranged &&
        x->range.amax == l->range.amax)
        return 0;
    return aq_err_set(r->err, AQ_EINPUT,
                      "'%s': '%s' reads its input otherwise than the other experts of its layer",
                      aq_show(r->f->ckpt.dir), aq_show(module));
}

static int read_place(struct checkpoint_reading *r, const struct model_place *p)
{
    struct aq_buf name = AQ_BUF_INIT;
    const struct lm_arch *a = &r->f->arch;
    struct model_layer shape;
    int rank;
    uint64_t dims[MODEL_RANK];
    model_place_describe(p, a, &name, &rank, dims);
    bool head = strcmp(name.data, "lm_head.weight") == 0;
    struct aq_buf source = AQ_BUF_INIT;
    model_place_source(p, &source);
    char *module = xasprintf("%s%s", head ? lm_head_prefix_of(r->prefix) : r->prefix, source.data);
    aq_buf_release(&source);
    int64_t rows = rank == 2 ? (int64_t)dims[0] : 1, cols = (int64_t)dims[rank - 1];
    struct eval_linear *linear = NULL, of_expert = {.same_as = -1};
    int bad;
    if (p->expert >= 0) {
        linear = &of_expert;
    } else if (p->layer >= 0 && rank == 2) {
        model_layer_describe(&shape, a, p->layer);
        linear = linear_of(r->o, &shape, p->layer, p->tensor->name);
    }
    if (rank == 2) {
        module[strlen(module) - strlen(".weight")] = '\0';
        bad = read_module(r, name.data, module, rows, cols, linear);
        if (bad == 0 && p->expert >= 0)
            bad = note_expert(r, p, module, &of_expert);
    } else {
        bad = read_plain(r, add_weight(r->f, name.data), module, rows, cols);
    }
    free(module);
    aq_buf_release(&name);
    return bad;
}

static int read_tensors(struct checkpoint_reading *r)
{
    size_t count;
    struct model_place *places = model_layout(&r->f->arch, &count);
    int bad = 0;
    eval_operand_take_linears(r->o, &r->f->arch);
    for (size_t i = 0; i < count && bad == 0; i++)
        bad = read_place(r, &places[i]);
    free(places);
    return bad;
}

/* Of config.json and the weights: the file's names and digests, by name. */
static void digest_directory(struct checkpoint_reading *r)
{
    struct aq_sha256 all;
    char hex[AQ_SHA256_HEX];
    struct aq_map map;
    aq_sha256_init(&all);
    if (aq_map_open(&map, r->config_path, NULL) == 0) {
        aq_sha256_of(map.data, map.size, hex);
        aq_map_close(&map);
        aq_sha256_add(&all, "config.json", sizeof "config.json");
        aq_sha256_add(&all, hex, strlen(hex));
    }
    for (size_t i = 0; i < r->f->ckpt.file_count; i++) {
        const struct aq_map *m = &r->f->ckpt.files[i].map;
        aq_sha256_of(m->data, m->size, hex);
        aq_sha256_add(&all, r->f->ckpt.names[i], strlen(r->f->ckpt.names[i]) + 1);
        aq_sha256_add(&all, hex, strlen(hex));
    }
    aq_sha256_hex(&all, r->o->digest);
}

static int open_directory(struct checkpoint_reading *r)
{
    struct eval_file *f = r->f;
    if (ckpt_open(&f->ckpt, r->o->path, r->err) < 0)
        return -1;
    f->has_ckpt = true;
    if (read_config(r) < 0)
        return -1;
    r->prefix = lm_prefix_of(&f->ckpt, r->err);
    if (!r->prefix || read_tensors(r) < 0)
        return -1;
    lm_round_embed_scale(&f->arch,
                         f->weights[0].form == CODED_PLAIN ? f->weights[0].dtype : ST_F32);
    digest_directory(r);
    offer(r->o, f);
    eval_operand_share(r->o);
    return 0;
}

/* ---- GGUF ---- */

/* A hyperparameter that the reference has too: another one makes it another model. */
static int same_number(struct eval_file *f, const char *arch, const char *key, double expected,
                       struct aq_err *err)
{
    char *name = xasprintf("%s.%s", arch, key);
    const struct gguf_value *v = gguf_get(&f->gguf, name);
    double found = NAN;
    int r = 0;
    if (v && (!gguf_number(v, &found) || fabs(found - expected) > 1e-6 * fabs(expected)))
        r = aq_err_set(err, AQ_EINPUT, "%s: %s is %g, the reference has %g", aq_show(f->gguf.path),
                       name, found, expected);
    free(name);
    return r;
}

static int same_experts(struct eval_file *f, const char *arch, const struct lm_arch *a,
                        struct aq_err *err)
{
    return a->experts == 0 ? 0
           : same_number(f, arch, "expert_count", (double)a->experts, err) < 0 ||
                   same_number(f, arch, "expert_used_count", (double)a->experts_per_token, err) <
                       0 ||
                   same_number(f, arch, "expert_feed_forward_length",
                               (double)a->moe_intermediate_size, err) < 0
               ? -1
               : 0;
}

static int check_gguf(struct eval_file *f, const struct lm *lm, const char **arch,
                      struct aq_err *err)
{
    const struct lm_arch *a = &lm->arch;
    const char *own = gguf_string(&f->gguf, gguf_get(&f->gguf, "general.architecture"));
    *arch = own ? gguf_arch(lm, own, err) : NULL;
    if (!*arch)
        return aq_err_set(err, AQ_EINPUT,
                          "%s: architecture '%s' is not read as a model of family '%s'",
                          aq_show(f->gguf.path), own ? aq_show(own) : "", a->family->name);
    return same_number(f, own, "block_count", (double)a->num_hidden_layers, err) < 0 ||
                   same_number(f, own, "embedding_length", (double)a->hidden_size, err) < 0 ||
                   same_number(f, own, "feed_forward_length", (double)gguf_feed_forward(a, own),
                               err) < 0 ||
                   same_experts(f, own, a, err) < 0 ||
                   same_number(f, own, "attention.head_count", (double)a->num_attention_heads,
                               err) < 0 ||
                   same_number(f, own, "attention.head_count_kv", (double)a->num_key_value_heads,
                               err) < 0 ||
                   same_number(f, own, "attention.layer_norm_rms_epsilon", a->rms_norm_eps, err) <
                       0 ||
                   same_number(f, own, "rope.freq_base", a->rope[0].theta, err) < 0
               ? -1
               : 0;
}

/* The second levels of a tensor's `count` matrices. */
static const float *gguf_second(const struct eval_file *f, const char *tensor, uint64_t count,
                                struct aq_err *err)
{
    char *name = xasprintf("%.*s.scale", (int)(strlen(tensor) - strlen(".weight")), tensor);
    const struct gguf_tensor *t = gguf_find(&f->gguf, name);
    bool fits = t && t->type == GGUF_F32 && t->elements == count;
    if (!fits)
        aq_err_set(err, AQ_EINPUT, "%s: tensor '%s' is missing or not %llu numbers",
                   aq_show(f->gguf.path), aq_show(name), (unsigned long long)count);
    free(name);
    return fits ? t->data : NULL;
}

/* A tensor of the file as one matrix of the model: its own, or that of one expert. */
static int take_gguf_matrix(struct eval_file *f, const struct gguf_tensor *t, const char *theirs,
                            const struct gguf_form *form, int64_t expert, struct coded *c,
                            struct aq_err *err)
{
    uint64_t count = expert < 0 ? 1 : t->shape[0];
    const float *second = NULL;
    size_t bytes = (size_t)(t->end - t->begin) / count, at = expert < 0 ? 0 : (size_t)expert;
    if (t->type == GGUF_NVFP4 && !(second = gguf_second(f, theirs, count, err)))
        return -1;
    *c = (struct coded){.form = CODED_GGUF,
                        .rows = t->rank > 1 ? (int64_t)t->shape[t->rank - 2] : 1,
                        .cols = (int64_t)t->shape[t->rank - 1],
                        .codes = (const char *)t->data + at * bytes,
                        .second = 1,
                        .type = t->type,
                        .heads = form->heads,
                        .plus = form->plus};
    if (second)
        memcpy(&c->second, (const char *)second + at * sizeof c->second, sizeof c->second);
    return 0;
}

static int read_gguf_tensor(struct eval_file *f, const char *arch, const struct model_place *p,
                            struct aq_err *err)
{
    struct aq_buf theirs = AQ_BUF_INIT, name = AQ_BUF_INIT, all = AQ_BUF_INIT;
    struct gguf_form form;
    int rank;
    uint64_t shape[MODEL_RANK];
    model_place_describe(p, &f->arch, &name, &rank, shape);
    if (p->expert >= 0) { /* the file has all of them in one */
        aq_buf_addf(&all, "layers.%" PRId64 ".%s", p->layer, p->tensor->name);
        memmove(shape + 1, shape, 2 * sizeof *shape);
        shape[0] = (uint64_t)f->arch.experts;
        rank = 3;
    }
    int r = gguf_tensor_name(&f->arch, arch, all.len ? all.data : name.data, &theirs, &form, err);
    const struct gguf_tensor *t = r == 0 ? gguf_find(&f->gguf, theirs.data) : NULL;
    struct coded *c = add_weight(f, name.data);
    if (r == 0 && !t)
        r = aq_err_set(err, AQ_EINPUT, "%s: tensor '%s' is missing", aq_show(f->gguf.path),
                       theirs.data);
    if (t && (t->rank != rank || memcmp(t->shape, shape, (size_t)rank * sizeof *shape) != 0))
        r = aq_err_set(err, AQ_EINPUT, "%s: tensor '%s' has another shape than the reference's",
                       aq_show(f->gguf.path), theirs.data);
    if (r == 0)
        r = take_gguf_matrix(f, t, theirs.data, &form, p->expert, c, err);
    aq_buf_release(&theirs);
    aq_buf_release(&name);
    aq_buf_release(&all);
    return r;
}

static int read_gguf(struct eval_file *f, const char *arch, struct aq_err *err)
{
    size_t count;
    int r = 0;
    /* a file may have a head of its own where the source has none */
    f->arch.tie_word_embeddings = gguf_find(&f->gguf, "output.weight") == NULL;
    f->arch.experts_layout = NULL; /* by expert, whatever the source's form is */
    struct model_place *places = model_layout(&f->arch, &count);
    for (size_t i = 0; i < count && r == 0; i++)
        r = read_gguf_tensor(f, arch, &places[i], err);
    free(places);
    return r;
}

/* What llama.cpp makes of the input of one weight. */
static int serve_weight(struct eval_file *f, const struct eval_reference *ref, const char *name,
                        struct eval_linear *e, struct aq_err *err)
{
    const struct coded *c = weight_of(f, name);
    const char *act = "none";
    if ((c && served_coded(&ref->served, LAYOUT_GGUF, name, c, &act, err) < 0) ||
        quant_parse_act(act, &e->a, err) < 0)
        return -1;
    e->swapped = e->a.steps > 0;
    return 0;
}

/* The experts of a layer are in one tensor for gate, up and down each. */
static int serve_experts(struct eval_operand *o, struct eval_file *f,
                         const struct eval_reference *ref, int64_t layer, struct aq_err *err)
{
    for (int h = 0; h < EXPERT_HALVES; h++) {
        struct eval_linear *e = &o->experts[layer * EXPERT_HALVES + h], other = *e;
        struct nn_expert_name first = {layer, 0, h == EXPERT_DOWN};
        char names[NN_EXPERT_PARTS][NN_EXPERT_NAME_MAX];
        int count = nn_expert_parts(&first, names);
        if (serve_weight(f, ref, names[0], e, err) < 0 ||
            serve_weight(f, ref, names[count - 1], &other, err) < 0)
            return -1;
        if (!quant_same(&e->a, &other.a))
            return aq_err_set(err, AQ_EINPUT,
                              "%s: layer %" PRId64 ": gate and up of the experts have types whose "
                              "inputs are quantized differently",
                              aq_show(f->gguf.path), layer);
    }
    return 0;
}

/* The named engine's activations; without one they are as they are. */
static int serve_gguf(struct eval_operand *o, struct eval_file *f, const struct eval_reference *ref,
                      struct aq_err *err)
{
    if (!ref->served.engine)
        return 0;
    eval_operand_take_linears(o, &f->arch);
    for (int64_t layer = 0; layer < o->layers; layer++) {
        struct model_layer shape;
        model_layer_describe(&shape, &f->arch, layer);
        for (int l = 0; l < shape.linear_count; l++) {
            char *name = xasprintf("layers.%" PRId64 ".%s.weight", layer, shape.linears[l].name);
            int bad = serve_weight(f, ref, name, &o->linears[layer * MODEL_LINEARS + l], err);
            free(name);
            if (bad < 0)
                return -1;
        }
        if (shape.experts && serve_experts(o, f, ref, layer, err) < 0)
            return -1;
    }
    eval_operand_share(o);
    return 0;
}

static int open_gguf(struct eval_operand *o, struct eval_file *f, const struct eval_reference *ref,
                     struct aq_err *err)
{
    const struct lm *lm = ref->lm;
    const char *arch;
    if (gguf_open(&f->gguf, o->path, err) < 0)
        return -1;
    f->has_gguf = true;
    f->arch = lm->arch;
    if (check_gguf(f, lm, &arch, err) < 0 || read_gguf(f, arch, err) < 0)
        return -1;
    aq_sha256_of(f->gguf.map.data, f->gguf.map.size, o->digest);
    offer(o, f);
    return serve_gguf(o, f, ref, err);
}

int eval_file_open(struct eval_operand *o, enum eval_kind kind, const struct eval_reference *ref,
                   struct aq_err *err)
{
    struct eval_file *f = xcalloc(1, sizeof *f);
    struct checkpoint_reading r = {.o = o, .f = f, .ref = ref, .err = err};
    o->kind = kind;
    o->file = f;
    if (kind == EVAL_GGUF)
        return open_gguf(o, f, ref, err);
    r.config_path = aq_path_join(o->path, "config.json");
    int bad = open_directory(&r);
    eval_scheme_close(r.scheme);
    free(r.config_path);
    return bad;
}
