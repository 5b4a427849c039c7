// A catalogue searched: all items in codes, the best of them exactly.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

constexpr int64_t kGroup = 16;  // items whose codes lie side by side

// Items in codes of ``bits``: of each group of 16 items four numbers of every item, then the next
// four (in 4 bits the upper halves hold the next four). A number is (code - zero) x the item's scale.
// ``scales`` and ``bias`` are as long as whole groups.
struct Catalogue {
  const uint8_t* codes;
  const float* scales;
  const float* vectors;  // (items, dim)
  const float* bias;     // null: none
  int64_t items;
  int64_t dim;
  int bits;

  int64_t groups() const { return (items + kGroup - 1) / kGroup; }
  int64_t words() const { return bits == 8 ? (dim + 3) / 4 : (dim + 7) / 8 * 2; }
  int64_t stride() const { return words() * kGroup * bits / 2; }  // bytes of a group
  int32_t zero() const { return bits == 8 ? 128 : 8; }
};

// A query in codes from -127 to 127, four to a word; a number is code x step.
struct Query {
  const int32_t* words;
  int32_t sum;  // of the codes
  float step;
};

struct Asked {
  const float* queries;   // (requests, dim)
  const int64_t* hidden;  // (requests, hides): items that may not be found; null: none
  int64_t requests;
  int64_t hides;
  int64_t padding;        // an item that never may, or -1
  int64_t candidates;     // how many are scored exactly
  int64_t top;            // places of a list
};

struct Found {
  float score;
  int32_t item;
};

// Searches in three steps: ``encode`` once, ``scan`` for every task and ``finish`` for every request,
// in any order and on any thread.
class Search {
 public:
  Search(const Catalogue& catalogue, const Asked& asked);
  void encode();
  int64_t tasks() const;
  void scan(int64_t task);
  // The list of a request: scores and items, ``top`` each; places that nothing is left for have
  // item 0.
  void finish(int64_t request, float* scores, int64_t* items) const;

 private:
  bool hidden(int64_t request, int32_t item) const;

  const Catalogue& catalogue_;
  const Asked& asked_;
  int64_t parts_, group_parts_;
  std::vector<int32_t> words_;
  std::vector<Query> queries_;
  std::vector<int64_t> hidden_;            // sorted, request by request
  std::vector<std::vector<Found>> found_;  // (requests, parts)
  std::unique_ptr<std::atomic<float>[]> least_;  // the same: the least that a later part must beat
};
