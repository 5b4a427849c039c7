// The kernels, compiled once for each instruction set, and the choice among them.
#include "tables.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define HAS_X86_SETS 1
#include <immintrin.h>
#endif

// Of each set: the numbers in a vector, bytes made 32-bit numbers, half precision made single.
// GCC 12 takes a dozen instructions to widen bytes where x86 has one.
#define LANES 4
#define WIDEN(bytes) __builtin_convertvector(bytes, Ints)
#define FROM_HALF(half) from_half(half)
namespace plain {
#include "rows.inc"
#include "dots.inc"
constexpr Kernels kKernels{"plain", within, look_up_any, pool_any, dots};
}  // namespace plain
#undef LANES
#undef WIDEN
#undef FROM_HALF

#ifdef HAS_X86_SETS
#pragma GCC push_options
#pragma GCC target("avx2,f16c")
#define LANES 8
#define WIDEN(bytes) _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(int64_t(bytes)))
#define FROM_HALF(half) _cvtsh_ss(half)
namespace avx2 {
#include "rows.inc"
#include "dots.inc"
constexpr Kernels kKernels{"avx2", within, look_up_any, pool_any, dots};
}  // namespace avx2
#undef LANES
#undef WIDEN
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("f16c,avx512f,avx512bw,avx512dq,avx512vl,prefer-vector-width=512")
#define LANES 16
#define WIDEN(bytes) _mm512_cvtepu8_epi32((__m128i)bytes)
namespace avx512 {
#include "rows.inc"
#include "dots.inc"
constexpr Kernels kKernels{"avx512", within, look_up_any, pool_any, dots};
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
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
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
