// The search of a catalogue around the kernels of ``scan.inc``.
#include "scan.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tables.h"

namespace {

constexpr int64_t kBlock = 64;        // groups of items that stay in the cache for all queries
constexpr int64_t kTogether = 8;      // queries whose scores of a block are kept
constexpr int64_t kRequests = 64;     // requests of a task
constexpr int64_t kPart = 1 << 16;    // items of a task, at least
constexpr int64_t kMostParts = 16;
constexpr float kNothingLeft = -1e4f;  // the score of a place that nothing is left for
constexpr float kNone = -std::numeric_limits<float>::infinity();

// Of equal scores the lower item comes first.
bool before(const Found& a, const Found& b) {
  return a.score != b.score ? a.score > b.score : a.item < b.item;
}

// Leaves the ``count`` first of what was found, in no order; gives the score that others must beat.
float keep(std::vector<Found>& found, int64_t count) {
  if (int64_t(found.size()) < count) return kNone;
  std::nth_element(found.begin(), found.begin() + (count - 1), found.end(), before);
  found.resize(count);
  return found.back().score;
}

}  // namespace

Search::Search(const Catalogue& catalogue, const Asked& asked)
    : catalogue_(catalogue), asked_(asked) {
  parts_ = std::clamp<int64_t>(catalogue.items / kPart, 1, kMostParts);
  group_parts_ = (catalogue.groups() + parts_ - 1) / parts_;
  found_.resize(asked.requests * parts_);
  least_.reset(new std::atomic<float>[found_.size()]);
  for (size_t at = 0; at < found_.size(); ++at) least_[at] = kNone;
}

void Search::encode() {
  const int64_t words = catalogue_.words(), dim = catalogue_.dim;
  words_.resize(asked_.requests * words);
  queries_.resize(asked_.requests);
  for (int64_t request = 0; request < asked_.requests; ++request) {
    const float* numbers = asked_.queries + request * dim;
    int32_t* own = words_.data() + request * words;
    int8_t* codes = reinterpret_cast<int8_t*>(own);
    float largest = 0;
    for (int64_t at = 0; at < dim; ++at) largest = std::max(largest, std::fabs(numbers[at]));
    const float step = largest > 0 ? largest / 127 : 1;
    int32_t sum = 0;
    for (int64_t at = 0; at < dim; ++at) sum += codes[at] = int8_t(std::nearbyint(numbers[at] / step));
    queries_[request] = {own, sum, step};
  }
  if (!asked_.hidden) return;
  hidden_.assign(asked_.hidden, asked_.hidden + asked_.requests * asked_.hides);
  for (int64_t request = 0; request < asked_.requests; ++request) {
    auto own = hidden_.begin() + request * asked_.hides;
    std::sort(own, own + asked_.hides);
  }
}

bool Search::hidden(int64_t request, int32_t item) const {
  if (item == asked_.padding) return true;
  auto own = hidden_.begin() + request * asked_.hides;
  return asked_.hidden && std::binary_search(own, own + asked_.hides, int64_t(item));
}

int64_t Search::tasks() const { return (asked_.requests + kRequests - 1) / kRequests * parts_; }

void Search::scan(int64_t task) {
  const int64_t part = task % parts_, start = task / parts_ * kRequests;
  const int64_t end = std::min(start + kRequests, asked_.requests);
  const int64_t first = part * group_parts_;
  const int64_t last = std::min(first + group_parts_, catalogue_.groups());
  const int64_t most = std::max<int64_t>(2 * asked_.candidates, 64);
  std::vector<float> least(end - start, kNone);
  // What was found among the items before must be beaten here too: of equal scores theirs come first.
  for (int64_t request = start; request < end; ++request) {
    for (int64_t before = 0; before < part; ++before) {
      float& own = least[request - start];
      own = std::max(own, least_[request * parts_ + before].load(std::memory_order_relaxed));
    }
  }
  std::vector<float> scores(kTogether * kBlock * kGroup);
  std::vector<int32_t> places(kBlock * kGroup);
  for (int64_t block = first; block < last; block += kBlock) {
    const int64_t stop = std::min(block + kBlock, last), width = (stop - block) * kGroup;
    for (int64_t query = start; query < end; query += kTogether) {
      const int64_t count = std::min(kTogether, end - query);
      kernels().score(catalogue_, &queries_[query], count, block, stop, width, scores.data());
      for (int64_t at = 0; at < count; ++at) {
        const int64_t request = query + at;
        const float* own = scores.data() + at * width;
        std::vector<Found>& found = found_[request * parts_ + part];
        const int64_t above = kernels().above(own, width, least[request - start], places.data());
        for (int64_t hit = 0; hit < above; ++hit) {
          const int64_t item = block * kGroup + places[hit];
          const float score = own[places[hit]];
          if (!(score > least[request - start]) || item >= catalogue_.items) continue;
          if (hidden(request, int32_t(item))) continue;
          found.push_back({score, int32_t(item)});
          if (int64_t(found.size()) >= most) {
            least[request - start] = keep(found, asked_.candidates);
          }
        }
      }
    }
  }
  for (int64_t request = start; request < end; ++request) {
    float& own = least[request - start];
    own = std::max(own, keep(found_[request * parts_ + part], asked_.candidates));
    least_[request * parts_ + part].store(own, std::memory_order_relaxed);
  }
}

void Search::finish(int64_t request, float* scores, int64_t* items) const {
  std::vector<Found> all;
  for (int64_t part = 0; part < parts_; ++part) {
    const std::vector<Found>& found = found_[request * parts_ + part];
    all.insert(all.end(), found.begin(), found.end());
  }
  keep(all, asked_.candidates);
  const float* query = asked_.queries + request * catalogue_.dim;
  const auto vector = [&](size_t at) { return catalogue_.vectors + all[at].item * catalogue_.dim; };
  for (size_t at = 0; at < all.size(); ++at) {
    if (at + 4 < all.size()) {
      const char* next = reinterpret_cast<const char*>(vector(at + 4));
      for (int64_t byte = 0; byte < catalogue_.dim * 4; byte += kLine) __builtin_prefetch(next + byte);
    }
    all[at].score = kernels().product(vector(at), query, catalogue_.dim);
    if (catalogue_.bias) all[at].score += catalogue_.bias[all[at].item];
  }
  const int64_t count = std::min<int64_t>(asked_.top, int64_t(all.size()));
  std::partial_sort(all.begin(), all.begin() + count, all.end(), before);
  for (int64_t place = 0; place < asked_.top; ++place) {
    scores[place] = place < count ? all[place].score : kNothingLeft;
    items[place] = place < count ? all[place].item : 0;
  }
}
