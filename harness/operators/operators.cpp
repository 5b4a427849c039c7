// The operators of the domain "recsys" and their registration with onnxruntime.
//
// Lookup(table, ids) -> (..., dim); Bag(table, ids[, weights]) -> sums over the last axis of ids.
// Tables of Lookup and Bag are bytes: codes, scale and offset of a row one after the other.
// FloatBag is Bag of a table in floats; both leave out the id ``padding`` (-1: none). Dots(table, ids, given, shared) -> features of a dot
// interaction: the candidates' ``given`` vectors (requests, candidates, given, dim), all products of
// these and of the vectors of ``ids`` (requests, candidates, fields) with the requests' ``shared``
// ones (requests, shared, dim), and all products among them, below the diagonal, row by row.
// ``weights``, ``given`` and ``shared`` are optional.
// Scan(queries, codes, scales, vectors, hidden, bias) -> scores and items, (requests, top) each: the
// best ``candidates`` items by their codes of ``bits``, in the order of their exact scores; without
// the item ``padding`` and a request's ``hidden`` ones. ``hidden`` and ``bias`` are optional; codes
// are (groups, bytes), see ``scan.h``; scales and bias are as long as whole groups.
#include <cstdio>
#include <memory>
#include <mutex>
#include <vector>

#include "abi.h"
#include "pages.h"
#include "tables.h"

namespace {

constexpr int64_t kGrain = 1 << 15;  // numbers looked up by one task

enum class Kind { kLookup, kBag, kFloatBag, kDots, kScan };

struct Operator : ort::Operator {
  Kind kind;
  const char* label;
};

struct Kernel {
  const ort::Api* api;
  Kind kind;
  int64_t bits = 32, dim = 0, scale_bytes = 0, padding = -1, candidates = 0, top = 0;
  mutable std::once_flag settled;  // whose table is in large pages, if it can be
};

struct Tensor {
  void* data = nullptr;
  std::vector<int64_t> sizes;

  int64_t count(size_t first, size_t last) const {
    int64_t all = 1;
    for (size_t at = first; at < last; ++at) all *= sizes[at];
    return all;
  }
};

ort::Status* fault(const ort::Api* api, const char* told) {
  constexpr int kInvalidArgument = 2;
  return api->call<ort::Status*>(ort::kCreateStatus, kInvalidArgument, told);
}

Tensor tensor_of(const ort::Api* api, const ort::Value* value) {
  Tensor tensor;
  if (!value) return tensor;
  ort::Shape* shape = nullptr;
  size_t rank = 0;
  api->call<ort::Status*>(ort::kShapeOf, value, &shape);
  api->call<ort::Status*>(ort::kRank, static_cast<const ort::Shape*>(shape), &rank);
  tensor.sizes.resize(rank);
  api->call<ort::Status*>(ort::kSizes, static_cast<const ort::Shape*>(shape), tensor.sizes.data(),
                          rank);
  api->call<void>(ort::kReleaseShape, shape);
  api->call<ort::Status*>(ort::kData, const_cast<ort::Value*>(value), &tensor.data);
  return tensor;
}

Tensor input(const ort::Api* api, ort::Context* context, size_t at) {
  const ort::Value* value = nullptr;
  api->call<ort::Status*>(ort::kInput, static_cast<const ort::Context*>(context), at, &value);
  return tensor_of(api, value);
}

// An output of the running operator, or null with ``status`` set.
template <typename Number = float>
Number* output(const ort::Api* api, ort::Context* context, const std::vector<int64_t>& sizes,
               ort::Status** status, size_t at = 0) {
  ort::Value* value = nullptr;
  void* data = nullptr;
  *status = api->call<ort::Status*>(ort::kOutput, context, at,
                                    static_cast<const int64_t*>(sizes.data()), sizes.size(), &value);
  if (!*status) *status = api->call<ort::Status*>(ort::kData, value, &data);
  return static_cast<Number*>(data);
}

ort::Status* check_ids(const ort::Api* api, const Tensor& ids, int64_t rows) {
  const int64_t* read = static_cast<const int64_t*>(ids.data);
  const int64_t count = ids.count(0, ids.sizes.size());
  if (kernels().within(read, count, rows)) return nullptr;
  for (int64_t at = 0; at < count; ++at) {
    if (uint64_t(read[at]) < uint64_t(rows)) continue;
    char told[120];
    std::snprintf(told, sizeof told, "recsys: id %lld is outside the table's %lld rows",
                  static_cast<long long>(read[at]), static_cast<long long>(rows));
    return fault(api, told);
  }
  return nullptr;
}

// Puts an operator's table into large pages, once.
void settle(const Kernel& kernel, const Table& table) {
  std::call_once(kernel.settled,
                 [&] { use_large_pages(table.rows, size_t(table.count * table.stride)); });
}

// Has ``work(first, last)`` done for all results, by tasks of so many numbers; ``each`` are read or
// made for one result.
template <typename Work>
ort::Status* run(const ort::Api* api, ort::Context* context, int64_t results, int64_t each,
                 const Work& work) {
  struct Shared {
    const Work& work;
    int64_t results, grain;
  } shared{work, results, each < kGrain ? kGrain / (each > 0 ? each : 1) : 1};
  const size_t tasks = size_t((results + shared.grain - 1) / shared.grain);
  if (tasks == 1) work(0, results);
  if (tasks <= 1) return nullptr;
  void (*const task)(void*, size_t) = [](void* data, size_t at) {
    const Shared& all = *static_cast<const Shared*>(data);
    const int64_t first = int64_t(at) * all.grain, last = first + all.grain;
    all.work(first, last < all.results ? last : all.results);
  };
  return api->call<ort::Status*>(ort::kParallelFor, static_cast<const ort::Context*>(context), task,
                                 tasks, size_t(0), static_cast<void*>(&shared));
}

ort::Status* compute_dots(const Kernel& kernel, ort::Context* context) {
  const ort::Api* api = kernel.api;
  const Tensor rows = input(api, context, 0), ids = input(api, context, 1);
  const Tensor given = input(api, context, 2), shared = input(api, context, 3);
  if (rows.sizes.size() != 2 || ids.sizes.size() != 3) {
    return fault(api, "recsys: Dots takes a table of rank 2 and ids of rank 3");
  }
  const int64_t dim = rows.sizes[1], requests = ids.sizes[0], candidates = ids.sizes[1];
  const bool gives = !given.sizes.empty(), shares = !shared.sizes.empty();  // both are optional
  const std::vector<int64_t>& g = given.sizes;
  const std::vector<int64_t>& s = shared.sizes;
  if (gives && (g.size() != 4 || g[0] != requests || g[1] != candidates || g[3] != dim)) {
    return fault(api, "recsys: Dots' given vectors aren't (requests, candidates, any, dim)");
  }
  if (shares && (s.size() != 3 || s[0] != requests || s[2] != dim)) {
    return fault(api, "recsys: Dots' shared vectors aren't (requests, any, dim)");
  }
  if (auto* status = check_ids(api, ids, rows.sizes[0])) return status;
  const Table table{static_cast<const uint8_t*>(rows.data), rows.sizes[0], dim * 4, dim, dim, 4};
  settle(kernel, table);
  const Dots dots{table, static_cast<const int64_t*>(ids.data), ids.sizes[2],
                  static_cast<const float*>(given.data), gives ? g[2] : 0,
                  static_cast<const float*>(shared.data), shares ? s[1] : 0, dim, candidates};
  ort::Status* status = nullptr;
  float* out = output(api, context, {requests, candidates, dots.width()}, &status);
  if (status) return status;
  return run(api, context, requests * candidates, dots.width() * dim,
             [&](int64_t first, int64_t last) { kernels().dots(dots, first, last, out); });
}

ort::Status* compute_rows(const Kernel& kernel, ort::Context* context) {
  const ort::Api* api = kernel.api;
  const bool bags = kernel.kind != Kind::kLookup, narrow = kernel.bits != 32;
  const Tensor rows = input(api, context, 0), ids = input(api, context, 1);
  const Tensor weights = bags ? input(api, context, 2) : Tensor{};
  if (rows.sizes.size() != 2 || (bags && ids.sizes.empty())) return fault(api, "recsys: rank");
  const int64_t width = rows.sizes[1], dim = narrow ? kernel.dim : width;
  // Four-bit columns [0, half) and [half, 2 x half): ``stored`` counts both.
  const int64_t stored = kernel.bits == 4 ? (dim + 1) / 2 * 2 : dim;
  if (narrow && width != stored * kernel.bits / 8 + 2 * kernel.scale_bytes) {
    return fault(api, "recsys: a row isn't as wide as its codes, scale and offset");
  }
  if (weights.data && weights.sizes != ids.sizes) {
    return fault(api, "recsys: weights and ids have different shapes");
  }
  if (auto* status = check_ids(api, ids, rows.sizes[0])) return status;
  std::vector<int64_t> sizes(ids.sizes.begin(), ids.sizes.end() - (bags ? 1 : 0));
  sizes.push_back(dim);
  ort::Status* status = nullptr;
  float* out = output(api, context, sizes, &status);
  if (status) return status;
  const Table table{static_cast<const uint8_t*>(rows.data), rows.sizes[0],
                    narrow ? width : width * 4, dim, stored, int(kernel.scale_bytes)};
  settle(kernel, table);
  const int64_t size = bags ? ids.sizes.back() : 1;
  const int64_t results = ids.count(0, ids.sizes.size() - (bags ? 1 : 0));
  const int64_t* read = static_cast<const int64_t*>(ids.data);
  const float* scaled = static_cast<const float*>(weights.data);
  return run(api, context, results, dim * (size > 0 ? size : 1), [&](int64_t first, int64_t last) {
    if (bags) {
      kernels().pool(table, int(kernel.bits), read, scaled, kernel.padding, size, first, last, out);
    } else {
      kernels().look_up(table, int(kernel.bits), read, first, last, out);
    }
  });
}

ort::Status* compute_scan(const Kernel& kernel, ort::Context* context) {
  const ort::Api* api = kernel.api;
  const Tensor queries = input(api, context, 0), codes = input(api, context, 1);
  const Tensor scales = input(api, context, 2), vectors = input(api, context, 3);
  const Tensor hidden = input(api, context, 4), bias = input(api, context, 5);
  const bool hides = !hidden.sizes.empty(), biased = !bias.sizes.empty();  // both are optional
  if (queries.sizes.size() != 2 || codes.sizes.size() != 2 || vectors.sizes.size() != 2) {
    return fault(api, "recsys: Scan takes queries, codes and vectors of rank 2");
  }
  const int64_t requests = queries.sizes[0], items = vectors.sizes[0];
  const Catalogue catalogue{static_cast<const uint8_t*>(codes.data),
                            static_cast<const float*>(scales.data),
                            static_cast<const float*>(vectors.data),
                            biased ? static_cast<const float*>(bias.data) : nullptr,
                            items, vectors.sizes[1], int(kernel.bits)};
  const std::vector<int64_t> whole{catalogue.groups() * kGroup};
  if (queries.sizes[1] != catalogue.dim || codes.sizes[0] != catalogue.groups() ||
      codes.sizes[1] != catalogue.stride() || scales.sizes != whole ||
      (biased && bias.sizes != whole)) {
    return fault(api, "recsys: Scan's queries, codes, scales or bias don't fit the vectors");
  }
  if (hides && (hidden.sizes.size() != 2 || hidden.sizes[0] != requests)) {
    return fault(api, "recsys: Scan's hidden items aren't (requests, any)");
  }
  if (items > INT32_MAX) return fault(api, "recsys: Scan takes at most 2^31 - 1 items");
  std::call_once(kernel.settled, [&] {
    use_large_pages(codes.data, size_t(codes.count(0, 2)));
    use_large_pages(vectors.data, size_t(vectors.count(0, 2)) * sizeof(float));
  });
  ort::Status* status = nullptr;
  float* scores = output(api, context, {requests, kernel.top}, &status);
  if (status) return status;
  int64_t* found = output<int64_t>(api, context, {requests, kernel.top}, &status, 1);
  if (status) return status;
  const Asked asked{static_cast<const float*>(queries.data),
                    hides ? static_cast<const int64_t*>(hidden.data) : nullptr,
                    requests, hides ? hidden.sizes[1] : 0, kernel.padding, kernel.candidates,
                    kernel.top};
  Search search(catalogue, asked);
  search.encode();
  // Any task is worth a thread of its own; what a request's end takes is a hundredth of that.
  status = run(api, context, search.tasks(), kGrain, [&](int64_t first, int64_t last) {
    for (int64_t task = first; task < last; ++task) search.scan(task);
  });
  if (status) return status;
  return run(api, context, requests, kernel.candidates * catalogue.dim,
             [&](int64_t first, int64_t last) {
               for (int64_t at = first; at < last; ++at) {
                 search.finish(at, scores + at * kernel.top, found + at * kernel.top);
               }
             });
}

ort::Status* compute(void* data, ort::Context* context) {
  const Kernel& kernel = *static_cast<const Kernel*>(data);
  if (kernel.kind == Kind::kScan) return compute_scan(kernel, context);
  return kernel.kind == Kind::kDots ? compute_dots(kernel, context) : compute_rows(kernel, context);
}

ort::Status* create(const ort::Operator* made, const ort::Api* api, const ort::Info* info,
                    void** data) {
  const Operator* op = static_cast<const Operator*>(made);
  std::unique_ptr<Kernel> kernel(new Kernel{api, op->kind});
  const bool narrow = op->kind == Kind::kLookup || op->kind == Kind::kBag;
  const bool bags = op->kind == Kind::kBag || op->kind == Kind::kFloatBag;
  const bool scans = op->kind == Kind::kScan;
  const struct {
    const char* name;
    int64_t* value;
    bool read;
  } attributes[] = {{"bits", &kernel->bits, narrow || scans},
                    {"dim", &kernel->dim, narrow},
                    {"scale_bytes", &kernel->scale_bytes, narrow},
                    {"padding", &kernel->padding, bags || scans},
                    {"candidates", &kernel->candidates, scans},
                    {"top", &kernel->top, scans}};
  for (const auto& attribute : attributes) {
    if (!attribute.read) continue;
    ort::Status* status =
        api->call<ort::Status*>(ort::kAttribute, info, attribute.name, attribute.value);
    if (status) return status;
  }
  if (narrow && ((kernel->bits != 4 && kernel->bits != 8) || kernel->dim < 1 ||
                 (kernel->scale_bytes != 2 && kernel->scale_bytes != 4))) {
    return fault(api, "recsys: bits are 4 or 8, dim at least 1, scale_bytes 2 or 4");
  }
  if (scans && ((kernel->bits != 4 && kernel->bits != 8) || kernel->top < 1 ||
                kernel->candidates < kernel->top)) {
    return fault(api, "recsys: bits are 4 or 8, top at least 1, candidates at least top");
  }
  *data = kernel.release();
  return nullptr;
}

Operator operator_of(Kind kind, const char* label) {
  Operator op;
  op.kind = kind;
  op.label = label;
  op.name = [](const ort::Operator* self) { return static_cast<const Operator*>(self)->label; };
  op.provider = [](const ort::Operator*) -> const char* { return nullptr; };
  op.inputs = [](const ort::Operator* self) -> size_t {
    const Kind kind = static_cast<const Operator*>(self)->kind;
    return kind == Kind::kScan ? 6 : kind == Kind::kLookup ? 2 : kind == Kind::kDots ? 4 : 3;
  };
  op.input_type = [](const ort::Operator* self, size_t at) {
    const Kind kind = static_cast<const Operator*>(self)->kind;
    if (kind == Kind::kScan) return at == 1 ? ort::kUint8 : at == 4 ? ort::kInt64 : ort::kFloat;
    if (at == 1) return ort::kInt64;
    return at == 0 && (kind == Kind::kLookup || kind == Kind::kBag) ? ort::kUint8 : ort::kFloat;
  };
  op.outputs = [](const ort::Operator* self) -> size_t {
    return static_cast<const Operator*>(self)->kind == Kind::kScan ? 2 : 1;
  };
  op.output_type = [](const ort::Operator*, size_t at) { return at ? ort::kInt64 : ort::kFloat; };
  op.input_kind = [](const ort::Operator* self, size_t at) {
    const size_t needed = static_cast<const Operator*>(self)->kind == Kind::kScan ? 4 : 2;
    return at >= needed ? 1 : 0;  // optional
  };
  op.output_kind = [](const ort::Operator*, size_t) { return 0; };
  op.input_memory = [](const ort::Operator*, size_t) { return 0; };
  op.fewest_inputs = [](const ort::Operator*) { return 1; };
  op.inputs_alike = [](const ort::Operator*) { return 1; };
  op.fewest_outputs = [](const ort::Operator*) { return 1; };
  op.outputs_alike = [](const ort::Operator*) { return 1; };
  op.create = create;
  op.compute = compute;
  op.destroy = [](void* data) { delete static_cast<Kernel*>(data); };
  return op;
}

}  // namespace

extern "C" ort::Status* RegisterCustomOps(ort::Options* options, const ort::Base* base) {
  static const Operator operators[] = {operator_of(Kind::kLookup, "Lookup"),
                                       operator_of(Kind::kBag, "Bag"),
                                       operator_of(Kind::kFloatBag, "FloatBag"),
                                       operator_of(Kind::kDots, "Dots"),
                                       operator_of(Kind::kScan, "Scan")};
  static ort::Domain* domain = nullptr;  // as long as the process: sessions keep pointing at it
  const ort::Api* api = base->api(ort::kVersion);
  if (!api) {
    // Its first version has functions to say so with.
    return fault(base->api(1), "recsys: needs onnxruntime 1.18 or newer");
  }
  if (!domain) {
    if (auto* s = api->call<ort::Status*>(ort::kCreateDomain, "recsys", &domain)) return s;
    for (const Operator& op : operators) {
      auto* status = api->call<ort::Status*>(ort::kAddToDomain, domain,
                                             static_cast<const ort::Operator*>(&op));
      if (status) return status;
    }
  }
  return api->call<ort::Status*>(ort::kAddDomain, options, domain);
}
