// The kernels, compiled once for each instruction set, and the choice among them.
#include "tables.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define HAS_X86_SETS 1
#include <immintrin.h>
#endif

// Of each set: the numbers in a vector; bytes made 32-bit numbers (GCC 12 takes a dozen instructions
// where x86 has one); half precision made single; the upper halves of bytes; to each sum four
// products of a byte with a signed byte of a word; and which numbers are above another.
#define LANES 4
#define WIDEN(bytes) __builtin_convertvector(bytes, Ints)
#define FROM_HALF(half) from_half(half)
#define HALVED(bytes) (bytes >> 4)
#define ADD_FOUR(sums, bytes, word) add_four(sums, bytes, word)
#define ABOVE(values, least) above_mask(values, least)
namespace plain {
#include "rows.inc"
#include "dots.inc"
template <typename Sums, typename Codes>
inline Sums add_four(Sums sums, Codes codes, int32_t word) {
  for (int lane = 0; lane < LANES; ++lane) {
    for (int at = 0; at < 4; ++at) sums[lane] += codes[4 * lane + at] * int8_t(word >> (8 * at));
  }
  return sums;
}
template <typename Values>
inline uint32_t above_mask(Values values, float least) {
  uint32_t mask = 0;
  for (int lane = 0; lane < LANES; ++lane) mask |= uint32_t(values[lane] > least) << lane;
  return mask;
}
#include "scan.inc"
constexpr Kernels kKernels{"plain", within, look_up_any, pool_any, dots, score_any, above, product};
}  // namespace plain
#undef LANES
#undef WIDEN
#undef FROM_HALF
#undef HALVED
#undef ADD_FOUR
#undef ABOVE

#ifdef HAS_X86_SETS
#define FROM_HALF(half) _cvtsh_ss(half)

#pragma GCC push_options
#pragma GCC target("avx2,f16c")
#define LANES 8
#define WIDEN(bytes) _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(int64_t(bytes)))
#define HALVED(bytes) \
  (Quads) _mm256_and_si256(_mm256_srli_epi16((__m256i)bytes, 4), _mm256_set1_epi8(15))
#define ADD_FOUR(sums, bytes, word) (Ints) add_four((__m256i)sums, (__m256i)bytes, word)
#define ABOVE(values, least) \
  uint32_t(_mm256_movemask_ps(_mm256_cmp_ps(values, _mm256_set1_ps(least), _CMP_GT_OQ)))
namespace avx2 {
#include "rows.inc"
#include "dots.inc"
// In 16 bits the first and third of four, then the others: nothing is cut off.
inline __m256i add_four(__m256i sums, __m256i codes, int32_t word) {
  const __m256i all = _mm256_set1_epi32(word), low = _mm256_set1_epi16(255);
  const __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(all, 8), 8);
  const __m256i odd = _mm256_srai_epi16(all, 8);
  sums = _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_and_si256(codes, low), even));
  return _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_srli_epi16(codes, 8), odd));
}
#include "scan.inc"
constexpr Kernels kKernels{"avx2", within, look_up_any, pool_any, dots, score_any, above, product};
}  // namespace avx2
#undef LANES
#undef WIDEN
#undef HALVED
#undef ADD_FOUR
#undef ABOVE
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,prefer-vector-width=512")
#define LANES 16
#define WIDEN(bytes) _mm512_cvtepu8_epi32((__m128i)bytes)
#define HALVED(bytes) \
  (Quads) _mm512_and_si512(_mm512_srli_epi16((__m512i)bytes, 4), _mm512_set1_epi8(15))
#define ADD_FOUR(sums, bytes, word) \
  (Ints) _mm512_dpbusd_epi32((__m512i)sums, (__m512i)bytes, _mm512_set1_epi32(word))
#define ABOVE(values, least) \
  uint32_t(_mm512_cmp_ps_mask(values, _mm512_set1_ps(least), _CMP_GT_OQ))
namespace avx512 {
#include "rows.inc"
#include "dots.inc"
#include "scan.inc"
constexpr Kernels kKernels{"avx512",  within,    look_up_any, pool_any,
                           dots,      score_any, above,       product};
}  // namespace avx512
#undef LANES
#pragma GCC pop_options
#endif

namespace {

// Those that run here, the narrowest first.
const Kernels* const* found(int* count) {
  static const Kernels* all[3];
  static const int known = [] {
    int at = 0;
    all[at++] = &plain::kKernels;
#ifdef HAS_X86_SETS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c")) all[at++] = &avx2::kKernels;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vnni")) {
      all[at++] = &avx512::kKernels;
    }
#endif
    return at;
  }();
  *count = known;
  return all;
}

int chosen = -1;

}  // namespace

const Kernels& kernels() {
  int count;
  const Kernels* const* all = found(&count);
  return *all[chosen >= 0 && chosen < count ? chosen : count - 1];
}

extern "C" {

// How many sets of kernels run here.
int recsys_sets() {
  int count;
  found(&count);
  return count;
}

// Use the kernels ``at`` from now on (-1: the widest); gives their name. For tests.
const char* recsys_use(int at) {
  chosen = at;
  return kernels().name;
}

}  // extern "C"
