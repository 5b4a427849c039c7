// What is used of onnxruntime's C interface, whose wheels bring no headers: places of functions in
// OrtApi and of the callbacks in OrtCustomOp, both fixed for good once a version is released
// (onnxruntime asserts it in core/session/onnxruntime_c_api.cc).
#pragma once
#include <cstddef>
#include <cstdint>

namespace ort {

constexpr uint32_t kVersion = 18;  // the first that has all of the functions below

struct Api;
struct Context;
struct Domain;
struct Info;
struct Options;
struct Shape;
struct Status;
struct Value;

struct Base {
  const Api* (*api)(uint32_t version);
  const char* (*version)();
};

enum Place : size_t {
  kCreateStatus = 0,
  kCreateDomain = 26,
  kAddToDomain = 27,
  kAddDomain = 28,
  kData = 51,
  kRank = 61,
  kSizes = 62,
  kShapeOf = 65,
  kAttribute = 86,
  kInput = 90,
  kOutput = 91,
  kReleaseShape = 99,
  kParallelFor = 274,
  kPlaces = 275,
};

struct Api {
  void* functions[kPlaces];

  template <typename Result, typename... Given>
  Result call(Place place, Given... given) const {
    return reinterpret_cast<Result (*)(Given...)>(functions[place])(given...);
  }
};

enum Type : int { kFloat = 1, kUint8 = 2, kInt64 = 7 };  // ONNX's TensorProto.DataType

struct Operator {
  uint32_t version = kVersion;
  void* (*create_v1)(const Operator*, const Api*, const Info*) = nullptr;
  const char* (*name)(const Operator*) = nullptr;
  const char* (*provider)(const Operator*) = nullptr;
  Type (*input_type)(const Operator*, size_t) = nullptr;
  size_t (*inputs)(const Operator*) = nullptr;
  Type (*output_type)(const Operator*, size_t) = nullptr;
  size_t (*outputs)(const Operator*) = nullptr;
  void (*compute_v1)(void*, Context*) = nullptr;
  void (*destroy)(void*) = nullptr;
  int (*input_kind)(const Operator*, size_t) = nullptr;
  int (*output_kind)(const Operator*, size_t) = nullptr;
  int (*input_memory)(const Operator*, size_t) = nullptr;
  int (*fewest_inputs)(const Operator*) = nullptr;
  int (*inputs_alike)(const Operator*) = nullptr;
  int (*fewest_outputs)(const Operator*) = nullptr;
  int (*outputs_alike)(const Operator*) = nullptr;
  Status* (*create)(const Operator*, const Api*, const Info*, void**) = nullptr;
  Status* (*compute)(void*, Context*) = nullptr;
  Status* (*infer)(const Operator*, void*) = nullptr;
  int (*first_version)(const Operator*) = nullptr;
  int (*last_version)(const Operator*) = nullptr;
  size_t (*in_place)(int**, int**) = nullptr;
  void (*release_in_place)(int*, int*) = nullptr;
  size_t (*aliases)(int**, int**) = nullptr;
  void (*release_aliases)(int*, int*) = nullptr;
};

}  // namespace ort
