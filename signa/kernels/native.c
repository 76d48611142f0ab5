/* The inner loops of signs on a CPU: floats to bits and back, a look for infinities, and many small blocks into one.
 *
 * Floats are read as unsigned integers of their size, so that one text serves every dtype. But for two sums, in which
 * nothing is fused (-ffp-contract=off), they are never computed with: no compiler can flush or reorder anything.
 * Entry e of a row is bit e & 63 of its word e >> 6. Every loop may be split among threads in any way: what is written
 * does not depend on it.
 */
#include <stdint.h>
#include <string.h>
#if defined(__AVX512BW__) || defined(__AVX2__)
#include <immintrin.h>
#endif

typedef int64_t count;

/* Entries of a word, of what a thread looks at in one go, and of the lines that are asked for at once, so many bytes
 * before they are read: a core's own guess ends with every page (a quarter of the speed). */
enum { WORD = 64, BLOCK = 1 << 16, LINES = 128, AHEAD = 4096 };

#define SHARED(...) \
    _Pragma(TEXT(omp parallel for num_threads((int)threads) schedule(static) if (threads > 1) __VA_ARGS__))
#define TEXT(...) #__VA_ARGS__

/* Bit i is whether byte i, 0 or 255, is set. */
static inline uint64_t gathered(const uint8_t flags[WORD])
{
#if defined(__AVX512BW__)
    return _mm512_movepi8_mask(_mm512_loadu_si512(flags));
#elif defined(__AVX2__)
    const uint32_t low = (uint32_t)_mm256_movemask_epi8(_mm256_loadu_si256((const __m256i *)flags));
    const uint32_t high = (uint32_t)_mm256_movemask_epi8(_mm256_loadu_si256((const __m256i *)(flags + 32)));
    return low | (uint64_t)high << 32;
#else
    uint64_t word = 0;
    for (int i = 0; i < 8; i++) {
        uint64_t eight;
        memcpy(&eight, flags + 8 * i, 8); /* the product's top byte has bit j = byte j, if bytes are 0 or 1 */
        word |= ((eight & 0x0101010101010101u) * 0x0102040810204080u >> 56) << 8 * i;
    }
    return word;
#endif
}

static inline count least_of(count a, count b)
{
    return a < b ? a : b;
}

/* So many bytes will be wanted soon: those that lie AHEAD of a place. */
static inline void ask(const void *place, int bytes)
{
    for (int line = 0; line < bytes; line += 64)
        __builtin_prefetch((const char *)place + AHEAD + line);
}

#define KIND(U, BITS)                                                                                                   \
    /* Bit j is whether least <= (x[j stride] & keep) <= least + range; of fewer than 64 entries the others are 0. */   \
    static inline uint64_t word##BITS(const U *x, count stride, count entries, U keep, U least, U range)                \
    {                                                                                                                   \
        uint8_t flags[WORD];                                                                                            \
        if (entries == WORD && stride == 1) {                                                                           \
            for (int j = 0; j < WORD; j++)                                                                              \
                flags[j] = (U)((x[j] & keep) - least) <= range ? 255 : 0;                                               \
        } else {                                                                                                        \
            memset(flags, 0, WORD);                                                                                     \
            for (count j = 0; j < entries; j++)                                                                         \
                flags[j] = (U)((x[j * stride] & keep) - least) <= range ? 255 : 0;                                      \
        }                                                                                                               \
        return gathered(flags);                                                                                         \
    }                                                                                                                   \
                                                                                                                        \
    /* Words of rows (R, L): whether least <= (x & keep) <= most. Says whether the second test holds throughout. */     \
    count words##BITS(const U *x, count row_stride, count stride, count rows, count length,                             \
                      uint64_t *out, count out_stride, uint64_t keep, uint64_t least, uint64_t most,                    \
                      uint64_t sure_keep, uint64_t sure_least, uint64_t sure_most, count threads)                       \
    {                                                                                                                   \
        const count wide = (length + WORD - 1) / WORD;                                                                  \
        const U range = (U)(most - least), size = (U)sure_keep;                                                         \
        const U low = (U)sure_least, high = (U)(sure_most - sure_least);                                                \
        count sure = 1;                                                                                                 \
        SHARED(reduction(& : sure))                                                                                     \
        for (count at = 0; at < rows * wide; at++) {                                                                    \
            const count row = at / wide, first = at % wide * WORD, entries = least_of(length - first, WORD);            \
            const U *from = x + row * row_stride + first * stride;                                                      \
            U odd = 0;                                                                                                  \
            ask(from, WORD * (int)sizeof(U));                                                                           \
            out[row * out_stride + at % wide] = word##BITS(from, stride, entries, (U)keep, (U)least, range);            \
            if (entries == WORD && stride == 1) {                                                                       \
                for (int j = 0; j < WORD; j++)                                                                          \
                    odd |= (U)((from[j] & size) - low) > high;                                                          \
            } else {                                                                                                    \
                for (count j = 0; j < entries; j++)                                                                     \
                    odd |= (U)((from[j * stride] & size) - low) > high;                                                 \
            }                                                                                                           \
            sure &= odd == 0;                                                                                           \
        }                                                                                                               \
        return sure;                                                                                                    \
    }                                                                                                                   \
                                                                                                                        \
    /* Eight entries of every byte, as the table (256, 8) has them. */                                                  \
    void unpack##BITS(const uint8_t *bytes, count many, const U *table, U *out, count threads)                          \
    {                                                                                                                   \
        SHARED()                                                                                                        \
        for (count at = 0; at < many; at++)                                                                             \
            memcpy(out + 8 * at, table + 8 * (count)bytes[at], 8 * sizeof(U));                                          \
    }                                                                                                                   \
                                                                                                                        \
    /* Whether some entry of some block has all the exponent's bits, as infinities and NaN do. */                       \
    static count odd##BITS(const U *x, count length, U exponent)                                                        \
    {                                                                                                                   \
        U odd = 0;                                                                                                      \
        count j = 0;                                                                                                    \
        for (; j + LINES <= length; j += LINES) {                                                                       \
            ask(x + j, LINES * (int)sizeof(U));                                                                         \
            for (int k = 0; k < LINES; k++)                                                                             \
                odd |= (x[j + k] & exponent) == exponent;                                                               \
        }                                                                                                               \
        for (; j < length; j++)                                                                                         \
            odd |= (x[j] & exponent) == exponent;                                                                       \
        return odd != 0;                                                                                                \
    }                                                                                                                   \
                                                                                                                        \
    count finite##BITS(const U *const *blocks, const count *lengths, count many, uint64_t exponent, count threads)      \
    {                                                                                                                   \
        count odd = 0;                                                                                                  \
        SHARED(reduction(| : odd))                                                                                      \
        for (count thread = 0; thread < threads; thread++) {                                                            \
            count piece = 0; /* of all blocks; each thread looks at the pieces that are its own */                      \
            for (count i = 0; i < many; i++)                                                                            \
                for (count first = 0; first < lengths[i]; first += BLOCK)                                               \
                    if (piece++ % threads == thread)                                                                    \
                        odd |= odd##BITS(blocks[i] + first, least_of(BLOCK, lengths[i] - first), (U)exponent);          \
        }                                                                                                               \
        return odd == 0;                                                                                                \
    }

KIND(uint8_t, 8)
KIND(uint16_t, 16)
KIND(uint32_t, 32)
KIND(uint64_t, 64)

/* x + step or x - step, as the bits of rows (R, L) say, of which every model has so many; for every byte of them the
 * table (256, 8) has the steps. */
#define FLOAT(F, BITS)                                                                                                  \
    typedef F eight##BITS __attribute__((vector_size(8 * sizeof(F)), aligned(sizeof(F)), may_alias));                   \
                                                                                                                        \
    void add##BITS(const uint64_t *words, count down, count rows, count length, const F *table,                         \
                   F *const *models, count per, count threads)                                                          \
    {                                                                                                                   \
        const count wide = (length + WORD - 1) / WORD, total = rows * wide;                                             \
        SHARED()                                                                                                        \
        for (count thread = 0; thread < threads; thread++) {                                                            \
            const count end = total * (thread + 1) / threads;                                                           \
            for (count at = total * thread / threads; at < end;) {                                                      \
                const count row = at / wide;                                                                            \
                count first = at % wide;                                                                                \
                const count last = least_of(wide, first + end - at);                                                    \
                F *x = models[row / per] + row % per * length;                                                          \
                for (; first < last; first++, at++) {                                                                   \
                    const count entries = least_of(length - first * WORD, WORD);                                        \
                    uint64_t word = words[row * down + first];                                                          \
                    F *to = x + first * WORD;                                                                           \
                    ask(to, WORD * (int)sizeof(F));                                                                     \
                    count j = 0;                                                                                        \
                    for (; j + 8 <= entries; j += 8, word >>= 8)                                                        \
                        *(eight##BITS *)(to + j) += *(const eight##BITS *)(table + 8 * (word & 255));                   \
                    for (const F *step = table + 8 * (word & 255); j < entries; j++)                                    \
                        to[j] += *step++;                                                                               \
                }                                                                                                       \
            }                                                                                                           \
        }                                                                                                               \
    }

FLOAT(float, 32)
FLOAT(double, 64)

/* The bfloat16 nearest to a float (ties to even), as a float; a NaN stays one. */
static inline float nearest(float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    u = (u & 0x7fffffffu) > 0x7f800000u ? u | 0x400000u : u + 0x7fffu + (u >> 16 & 1);
    u &= 0xffff0000u;
    memcpy(&x, &u, 4);
    return x;
}

/* x c + y b, each product and the sum a float, or x alone where there is no y, rounded to bfloat16. */
void bfloat16(float *x, float c, const float *y, float b, count length, count threads)
{
    if (!y) {
        SHARED()
        for (count j = 0; j < length; j++)
            x[j] = nearest(x[j]);
        return;
    }
    SHARED()
    for (count j = 0; j < length; j++)
        x[j] = nearest(x[j] * c + y[j] * b);
}

/* Blocks of so many bytes, one behind the other. */
void gather(const char *const *blocks, count many, count bytes, char *out, count threads)
{
    SHARED()
    for (count i = 0; i < many; i++)
        memcpy(out + i * bytes, blocks[i], (size_t)bytes);
}
