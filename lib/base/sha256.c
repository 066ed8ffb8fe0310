#include "base/sha256.h"

#include <stdbool.h>
#include <string.h>
#ifdef __x86_64__
#include <cpuid.h>
#include <immintrin.h>
#endif

static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

__attribute__((always_inline)) static inline uint32_t ror(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

/* One round of the eight words; the next takes them one place further, so that none is moved. */
__attribute__((always_inline)) static inline void round_of(uint32_t a, uint32_t b, uint32_t c,
                                                           uint32_t *d, uint32_t e, uint32_t f,
                                                           uint32_t g, uint32_t *h, uint32_t word)
{
    *h += (ror(e, 6) ^ ror(e, 11) ^ ror(e, 25)) + (g ^ (e & (f ^ g))) + word;
    *d += *h;
    *h += (ror(a, 2) ^ ror(a, 13) ^ ror(a, 22)) + ((a & b) | (c & (a | b)));
}

/* Inlined into what is compiled for a kind of processor. */
__attribute__((always_inline)) static inline void compress_block(uint32_t s[8],
                                                                 const unsigned char block[64])
{
    uint32_t w[64];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 |
               (uint32_t)block[4 * i + 2] << 8 | block[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        uint32_t s0 = ror(w[i - 15], 7) ^ ror(w[i - 15], 18) ^ w[i - 15] >> 3;
        uint32_t s1 = ror(w[i - 2], 17) ^ ror(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    uint32_t a = s[0], b = s[1], c = s[2], d = s[3], e = s[4], f = s[5], g = s[6], h = s[7];
    for (int i = 0; i < 64; i += 8) {
        round_of(a, b, c, &d, e, f, g, &h, K[i] + w[i]);
        round_of(h, a, b, &c, d, e, f, &g, K[i + 1] + w[i + 1]);
        round_of(g, h, a, &b, c, d, e, &f, K[i + 2] + w[i + 2]);
        round_of(f, g, h, &a, b, c, d, &e, K[i + 3] + w[i + 3]);
        round_of(e, f, g, &h, a, b, c, &d, K[i + 4] + w[i + 4]);
        round_of(d, e, f, &g, h, a, b, &c, K[i + 5] + w[i + 5]);
        round_of(c, d, e, &f, g, h, a, &b, K[i + 6] + w[i + 6]);
        round_of(b, c, d, &e, f, g, h, &a, K[i + 7] + w[i + 7]);
    }
    s[0] += a;
    s[1] += b;
    s[2] += c;
    s[3] += d;
    s[4] += e;
    s[5] += f;
    s[6] += g;
    s[7] += h;
}

static void compress_portable(uint32_t h[8], const unsigned char *p, size_t blocks)
{
    for (; blocks; blocks--, p += 64)
        compress_block(h, p);
}

/* ---- with the processor's own instructions: SHA's are ten times as fast ---- */

#ifdef __x86_64__
/* Rotations into another register: a tenth faster than the portable form. */
__attribute__((target("bmi2"))) static void compress_bmi2(uint32_t h[8], const unsigned char *p,
                                                          size_t blocks)
{
    for (; blocks; blocks--, p += 64)
        compress_block(h, p);
}

/* The instructions want the words as (f, e, b, a) and (h, g, d, c). */
__attribute__((target("sha,sse4.1"))) static void
compress_sha(uint32_t h[8], const unsigned char *p, size_t blocks)
{
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    __m128i t = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)h), 0xb1);
    __m128i s1 = _mm_shuffle_epi32(_mm_loadu_si128((const __m128i *)(h + 4)), 0x1b);
    __m128i s0 = _mm_alignr_epi8(t, s1, 8);
    s1 = _mm_blend_epi16(s1, t, 0xf0);
    for (; blocks; blocks--, p += 64) {
        __m128i w[4], old0 = s0, old1 = s1;
        for (int i = 0; i < 4; i++)
            w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(p + 16 * i)), swap);
        for (int i = 0; i < 16; i++) {
            __m128i now = w[i & 3];
            __m128i k = _mm_add_epi32(now, _mm_loadu_si128((const __m128i *)(K + 4 * i)));
            s1 = _mm_sha256rnds2_epu32(s1, s0, k);
            s0 = _mm_sha256rnds2_epu32(s0, s1, _mm_shuffle_epi32(k, 0x0e));
            __m128i next = _mm_sha256msg1_epu32(now, w[(i + 1) & 3]);
            next = _mm_add_epi32(next, _mm_alignr_epi8(w[(i + 3) & 3], w[(i + 2) & 3], 4));
            w[i & 3] = _mm_sha256msg2_epu32(next, w[(i + 3) & 3]);
        }
        s0 = _mm_add_epi32(s0, old0);
        s1 = _mm_add_epi32(s1, old1);
    }
    t = _mm_shuffle_epi32(s0, 0x1b);
    s1 = _mm_shuffle_epi32(s1, 0xb1);
    _mm_storeu_si128((__m128i *)h, _mm_blend_epi16(t, s1, 0xf0));
    _mm_storeu_si128((__m128i *)(h + 4), _mm_alignr_epi8(s1, t, 8));
}

static bool has_sha(void)
{
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & 1U << 29) &&
           __builtin_cpu_supports("sse4.1");
}
#endif

typedef void compress_fn(uint32_t h[8], const unsigned char *p, size_t blocks);

static compress_fn *choose(void)
{
#ifdef __x86_64__
    if (has_sha())
        return compress_sha;
    if (__builtin_cpu_supports("bmi2"))
        return compress_bmi2;
#endif
    return compress_portable;
}

static void compress(uint32_t h[8], const unsigned char *p, size_t blocks)
{
    /* all callers store the same pointer: a race changes nothing */
    static _Atomic(compress_fn *) chosen;
    compress_fn *f = chosen;
    if (!f)
        chosen = f = choose();
    f(h, p, blocks);
}

void aq_sha256_init(struct aq_sha256 *s)
{
    static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(s->h, start, sizeof start);
    s->bytes = 0;
}

void aq_sha256_add(struct aq_sha256 *s, const void *data, size_t n)
{
    const unsigned char *p = data;
    size_t have = s->bytes % 64;
    s->bytes += n;
    if (have) {
        size_t take = 64 - have < n ? 64 - have : n;
        memcpy(s->block + have, p, take);
        if (have + take < 64)
            return;
        compress(s->h, s->block, 1);
        p += take;
        n -= take;
    }
    compress(s->h, p, n / 64);
    if (n % 64)
        memcpy(s->block, p + n / 64 * 64, n % 64);
}

void aq_sha256_hex(struct aq_sha256 *s, char out[AQ_SHA256_HEX])
{
    uint64_t bits = s->bytes * 8;
    static const unsigned char pad[64] = {0x80};
    size_t have = s->bytes % 64;
    aq_sha256_add(s, pad, have < 56 ? 56 - have : 120 - have);
    unsigned char tail[8];
    for (int i = 0; i < 8; i++)
        tail[i] = (unsigned char)(bits >> (56 - 8 * i));
    aq_sha256_add(s, tail, 8);
    static const char hex[] = "0123456789abcdef";
    for (int i = 0; i < 64; i++)
        out[i] = hex[s->h[i / 8] >> (28 - 4 * (i % 8)) & 15];
    out[64] = '\0';
}

void aq_sha256_of(const void *data, size_t n, char out[AQ_SHA256_HEX])
{
    struct aq_sha256 s;
    aq_sha256_init(&s);
    aq_sha256_add(&s, data, n);
    aq_sha256_hex(&s, out);
}
