/* aq-extract-lm: the language model inside a checkpoint, as byte ranges or as a copy. */
#include "base/msg.h"
#include "base/opt.h"
#include "io/hub.h"
#include "model/lm.h"
#include "model/lm_extract.h"
#include "model/lm_materialize.h"
#include "model/lm_shapes.h"

#include <stdlib.h>
#include <string.h>

enum { RESULT_VERSION = 1 };

static struct {
    const char *digest, *materialize, *shapes;
    uint64_t shard_bytes;
    bool moe_split;
} o = {.digest = "sample", .shard_bytes = LM_SHARD_BYTES};

static const char *const digests[] = {"sample", "full", NULL};

static const struct aq_opt options[] = {
    {"digest", 0, AQ_OPT_CHOICE, &o.digest, "KIND",
     "sample: headers and 12 KiB a tensor (default); full: also\none of all bytes, for --verify",
     digests},
    {"moe-split", 0, AQ_OPT_FLAG, &o.moe_split, NULL,
     "gate with up and down of a layer's experts are a group each\n(autoquant.moe_split)"},
    {"materialize", 0, AQ_OPT_TEXT, &o.materialize, "OUT",
     "also write the language model as a checkpoint of its own"},
    {"shapes", 0, AQ_OPT_TEXT, &o.shapes, "OUT",
     "first write to OUT, sparse, a checkpoint without numbers of the\nshapes that DIR/config.json "
     "asks for: for a plan"},
    {"shard-size", 0, AQ_OPT_SIZE, &o.shard_bytes, "SIZE",
     "largest file of that copy (5000000000)"},
    AQ_OPT_END,
};

static void print_notes(struct aq_buf *notes)
{
    for (char *line = strtok(notes->data, "\n"); line; line = strtok(NULL, "\n"))
        aq_warn("%s", line);
    aq_buf_reset(notes);
}

static int extract(struct lm *lm, const char *dir, enum lm_digest kind, struct aq_err *err)
{
    struct aq_buf notes = AQ_BUF_INIT;
    char *found = hub_directory(dir);
    /* the whole is read once, under the groups that it is for */
    int r = lm_extract(lm, found, o.moe_split ? LM_DIGEST_SAMPLE : kind, &notes, err);
    free(found);
    if (r == 0 && o.moe_split)
        lm_split_experts(lm, kind);
    if (r == 0 && notes.len)
        print_notes(&notes);
    aq_buf_release(&notes);
    return r;
}

static int run(const struct aq_cmdline *cl, struct aq_err *err)
{
    struct lm lm;
    enum lm_digest kind = strcmp(o.digest, "full") == 0 ? LM_DIGEST_FULL : LM_DIGEST_SAMPLE;
    const char *dir = cl->args[0];
    if (o.shapes) {
        char *found = hub_directory(dir);
        int bad = lm_shapes(found, o.shapes, err);
        free(found);
        if (bad < 0)
            return -1;
        dir = o.shapes;
    }
    /* of a copy, the digest is taken from the copy */
    if (extract(&lm, dir, o.materialize ? LM_DIGEST_SAMPLE : kind, err) < 0)
        return -1;
    int r = 0;
    if (o.materialize) {
        r = lm_materialize(&lm, o.materialize, o.shard_bytes, err);
        lm_close(&lm);
        if (r == 0)
            r = extract(&lm, o.materialize, kind, err);
        if (r < 0)
            return -1;
    }
    struct json *v = lm_to_json(&lm, "aq-extract-lm", RESULT_VERSION);
    r = json_write_file(cl->output, v, err);
    json_free(v);
    lm_close(&lm);
    return r;
}

static const char *const schemas[] = {LM_SCHEMA, NULL};

static const struct aq_tool tool = {
    .name = "aq-extract-lm",
    .summary = "find the language model in a checkpoint",
    .usage = "aq-extract-lm [--digest sample|full] [--moe-split] [--materialize OUT]\n"
             "        [--shapes OUT] [-o FILE] DIR",
    .details = "DIR holds config.json and model.safetensors or its shards. The product,\n"
               "lm.json, says where every tensor is; nothing is copied. With --materialize\n"
               "the language model is also written to OUT, and lm.json describes OUT.",
    .example = "aq-extract-lm models/qwen3_vl_demo/checkpoint | jq .dropped",
    .options = options,
    .min_args = 1,
    .max_args = 1,
    .run = run,
    .result_version = RESULT_VERSION,
    .schemas = schemas,
};

int main(int argc, char **argv)
{
    return aq_tool_main(&tool, argc, argv);
}
