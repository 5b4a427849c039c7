// A table as the operators read it, and which instruction sets there are kernels for.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "scan.h"

constexpr int64_t kLine = 64;   // bytes of a cache line
constexpr int64_t kWidest = 16;  // numbers worked on at a time, at most
constexpr int64_t kAhead = 16;   // rows asked for before they are read

// Rows of ``stride`` bytes one after the other: ``stored`` codes of 4 or 8 bits and then the row's
// scale and offset of ``scale_bytes`` each, or ``dim`` floats (32 bits).
struct Table {
  const uint8_t* rows;
  int64_t count;
  int64_t stride;
  int64_t dim;
  int64_t stored;
  int scale_bytes;

  const uint8_t* row(int64_t id) const { return rows + id * stride; }
};

// A half-precision float in single precision.
inline float from_half(uint16_t half) {
  const uint32_t sign = uint32_t(half & 0x8000) << 16, rest = half & 0x7fff;
  if (rest < 0x0400) {  // subnormal, or zero: a multiple of 2^-24
    const float value = float(rest) * 0x1p-24f;
    return sign ? -value : value;
  }
  const uint32_t bits =
      sign | (rest >= 0x7c00 ? 0x7f800000 | (rest & 0x3ff) << 13 : (rest << 13) + 0x38000000);
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

// ``count`` up to a multiple of what any kernel works on at a time.
inline int64_t padded(int64_t count) { return (count + kWidest - 1) / kWidest * kWidest; }

// Candidates, ``candidates`` a request, of ``extras`` vectors given and ``fields`` looked up in a
// table of floats; ``shares`` vectors belong to the request.
struct Dots {
  Table table;
  const int64_t* ids;
  int64_t fields;
  const float* extra;
  int64_t extras;
  const float* shared;
  int64_t shares;
  int64_t dim;
  int64_t candidates;

  int64_t own() const { return extras + fields; }
  // What comes out: the given vectors, all pairs with shared ones, all pairs among the own.
  int64_t width() const { return extras * dim + own() * shares + own() * (own() - 1) / 2; }
  // Zeroed: what pads the vectors stays zero.
  float* scratch() const {
    const int64_t all = padded(own() * dim) + padded(own()) * dim + padded(shares) * dim;
    return static_cast<float*>(std::calloc(all + padded(width()) + kWidest, sizeof(float)));
  }
  void release(float* scratch) const { std::free(scratch); }
};

struct Kernels {
  const char* name;
  bool (*within)(const int64_t* ids, int64_t count, int64_t rows);
  void (*look_up)(const Table&, int bits, const int64_t* ids, int64_t first, int64_t last,
                  float* out);
  void (*pool)(const Table&, int bits, const int64_t* ids, const float* weights, int64_t padding,
               int64_t size, int64_t first, int64_t last, float* out);
  void (*dots)(const Dots&, int64_t first, int64_t last, float* out);
  void (*score)(const Catalogue&, const Query* queries, int64_t count, int64_t first, int64_t last,
                int64_t width, float* out);
  int64_t (*above)(const float* scores, int64_t count, float least, int32_t* places);
  float (*product)(const float* a, const float* b, int64_t dim);
};

// The kernels in use; the widest that the processor has unless ``recsys_use`` chose others.
const Kernels& kernels();
