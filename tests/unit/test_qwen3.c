/*
 * The model against transformers in float64 (vectors of tests/oracle/qwen3.py): logits, loss, and
 * the gradient at the output of every linear; the same bits for any number of threads and for
 * any set of samples after the ones compared.
 */
#include "tap.h"

#include "qwen3_case.h"

#include "model_run.h"

static void run_case(const char *name, const char *checkpoint)
{
    struct qwen3_case c;
    struct tiles tiles, fewer;
    case_open(&c, name, checkpoint);
    const struct nn_source *s = &c.source;
    must(tiles_build(&tiles, &c.samples, 512, s->arch->vocab_size, &err), "tiles");
    tap_ok(tiles.count == 1, "%s: one tile", name);

    struct result one = run_tile(s, &tiles.items[0], 1);
    compare(name, &c.file, s->arch, &one);
    static const int threads[] = {2, 3, 8};
    for (size_t i = 0; i < AQ_COUNT(threads); i++) {
        struct result many = run_tile(s, &tiles.items[0], threads[i]);
        tap_ok(strcmp(one.digest, many.digest) == 0, "%s: same bits with %d threads", name,
               threads[i]);
        result_release(&many, s->arch);
    }
    if (c.samples.samples > 3)
        c.samples.samples = 3;
    must(tiles_build(&fewer, &c.samples, 512, s->arch->vocab_size, &err), "tiles");
    struct result part = run_tile(s, &fewer.items[0], 2);
    size_t q_bytes =
        (size_t)(part.used * s->arch->num_attention_heads * s->arch->head_dim) * sizeof(float);
    tap_ok(memcmp(part.loss, one.loss, (size_t)c.samples.samples * sizeof(double)) == 0 &&
               memcmp(part.dy[0], one.dy[0], q_bytes) == 0,
           "%s: same bits without the later samples", name);
    result_release(&part, s->arch);
    result_release(&one, s->arch);
    tiles_release(&tiles);
    tiles_release(&fewer);
    case_close(&c);
}

int main(void)
{
    static const char *const cases[] = {"plain", "grouped", "deep", "vl", "padded"};
    for (size_t i = 0; i < AQ_COUNT(cases); i++)
        run_case(cases[i], NULL);
    run_case("demo", "models/qwen3_vl_demo/checkpoint");
    return tap_done();
}
