/* Random bits through any treatment: see quant_check.h for what must hold. */
#include "../unit/quant_check.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct reader {
    const uint8_t *at, *end;
};

static unsigned byte(struct reader *r)
{
    return r->at < r->end ? *r->at++ : 0;
}

static float number(struct reader *r)
{
    uint32_t u = 0;
    for (int i = 0; i < 4; i++)
        u = u << 8 | byte(r);
    return fabsf(num_float(u));
}

static struct quant_step step(struct reader *r)
{
    struct quant_step s = {.bits = 8, .block_rows = 1, .block_cols = 1};
    s.number = byte(r) % (QUANT_E2M3 + 1);
    s.bits = s.number == QUANT_INT ? 2 + (int)(byte(r) % 7) : 8;
    s.scope = byte(r) % (QUANT_MX + 1);
    s.dynamic = byte(r) & 1;
    if (s.scope >= QUANT_BLOCK)
        s.block_cols = 1 + (int)(byte(r) % 40);
    if (s.scope == QUANT_BLOCK)
        s.block_rows = 1 + (int)(byte(r) % 4);
    if (s.scope == QUANT_MX)
        s.block_cols = 8 << s.block_cols % 3;
    return s;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct reader r = {data, data + size};
    struct quant_spec wild = {0}, spec;
    char text[QUANT_TEXT_MAX];
    float hidden[256];
    struct check c = {.spec = &spec};
    unsigned flags = byte(&r);
    c.is_weight = flags & 1;
    wild.steps = c.is_weight ? (int)(flags >> 1 & 3) : 1;
    for (int i = 0; i < wild.steps; i++)
        wild.step[i] = step(&r);
    quant_print(&wild, text);
    if (quant_parse(text, &spec, NULL) < 0)
        return -1; /* not worth keeping */
    c.range.amax = number(&r);
    c.range.hidden = hidden;
    for (int i = 0; i < 256; i++)
        hidden[i] = i % 16 ? hidden[i - 1] * 0.5F : number(&r);
    c.x.dtype = flags & 8 ? NUM_BF16 : NUM_F32;
    c.x.cols = 1 + byte(&r);
    size_t row = (size_t)c.x.cols * check_size(c.x.dtype), left = (size_t)(r.end - r.at);
    c.x.rows = (int64_t)(left / row);
    c.x.data = r.at;
    c.x.name = "x";
    if (c.x.rows < 1)
        return -1;
    if (quant_check(&c) < 0) {
        (void)fprintf(stderr, "%s\n", c.what);
        abort();
    }
    return 0;
}
