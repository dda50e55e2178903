// A stand-in for TensorRT on the CPU: the part of its interface that m2d_encoder.hpp calls.
//
// Its plan is a line of numbers: the width of its vectors, the number of its inputs, and for each profile the smallest
// and the largest shape (texts, tokens). Its vectors are sums over the pooled tokens, as in test_cpp_trt.py.
#pragma once

#include <cstdint>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "cuda_runtime_api.h"

namespace nvinfer1 {

struct Dims {
  std::int32_t nbDims = -1;
  std::int64_t d[8] = {};
};
struct Dims2 : Dims {
  Dims2(std::int64_t first, std::int64_t second) {
    nbDims = 2;
    d[0] = first;
    d[1] = second;
  }
};
enum class DataType : std::int32_t { kFLOAT, kINT64 };
enum class TensorIOMode : std::int32_t { kINPUT, kOUTPUT };
enum class OptProfileSelector : std::int32_t { kMIN, kMAX };

class ILogger {
 public:
  enum class Severity : std::int32_t { kINTERNAL_ERROR, kERROR, kWARNING };
  virtual void log(Severity severity, const char* message) noexcept = 0;
  virtual ~ILogger() = default;
};

struct Plan {
  std::int64_t width = 0;
  std::vector<std::string> tensors;
  std::vector<std::pair<Dims2, Dims2>> profiles;
  int gpu = 0;
};

class IExecutionContext {
 public:
  IExecutionContext(const Plan& plan, ILogger& log) : plan_(plan), log_(log) {}

  bool setOptimizationProfileAsync(std::int32_t profile, cudaStream_t) noexcept {
    profile_ = static_cast<std::size_t>(profile);
    shapes_.clear();
    return !failed("the profile");
  }

  bool setInputShape(const char* name, const Dims& shape) noexcept {
    const auto& [least, most] = plan_.profiles.at(profile_);
    for (int axis = 0; axis < 2; ++axis) {
      if (shape.d[axis] < least.d[axis] || shape.d[axis] > most.d[axis]) return !said("the shape is not in the profile");
    }
    shapes_.insert_or_assign(name, Dims2(shape.d[0], shape.d[1]));
    return !failed("the shape");
  }

  bool setTensorAddress(const char* name, void* memory) noexcept {
    addresses_[name] = memory;
    return !failed("the address");
  }

  bool enqueueV3(cudaStream_t stream) noexcept {
    if (failed("the batch")) return false;
    standin::demand(standin::current.gpu == plan_.gpu && stream->gpu == plan_.gpu, "an engine of another GPU");
    const Dims2 shape = shapes_.at("input_ids");
    const auto size = static_cast<std::size_t>(shape.d[0] * shape.d[1]);
    for (const std::string& name : plan_.tensors) {
      const bool input = &name != &plan_.tensors.back();
      if (input) standin::demand(shapes_.at(name).d[0] == shape.d[0] && shapes_.at(name).d[1] == shape.d[1], "shapes");
      const std::size_t bytes = input ? size * 8 : static_cast<std::size_t>(shape.d[0] * plan_.width) * 4;
      standin::demand(standin::on_gpu(addresses_.at(name), bytes), "memory is too small, or not the GPU's");
    }
    stream->waiting.push_back([this, shape] { run(shape); });
    return true;
  }

 private:
  void run(const Dims& shape) const {
    const auto numbers = [this](const char* name) { return static_cast<const std::int64_t*>(addresses_.at(name)); };
    const auto *ids = numbers("input_ids"), *attended = numbers("attention_mask");
    const auto* pooled = plan_.tensors.size() == 4 ? numbers("pooling_mask") : attended;
    auto* vector = static_cast<float*>(addresses_.at(plan_.tensors.back()));
    for (std::int64_t row = 0; row < shape.d[0]; ++row) {
      for (std::int64_t number = 0; number < plan_.width; ++number) {
        std::int64_t sum = 0;
        for (std::int64_t token = 0; token < shape.d[1]; ++token) {
          const std::int64_t place = row * shape.d[1] + token;
          sum += attended[place] * pooled[place] * ((ids[place] * 31 + token * 7 + number * 13) % 101 - 50);
        }
        *vector++ = static_cast<float>(sum);
      }
    }
  }

  bool failed(const char* what) noexcept { return standin::fails() && said(what); }
  bool said(const char* what) noexcept {
    log_.log(ILogger::Severity::kERROR, what);
    return true;
  }

  const Plan& plan_;
  ILogger& log_;
  std::size_t profile_ = 0;
  std::map<std::string, Dims2> shapes_;
  std::map<std::string, void*> addresses_;
};

class ICudaEngine {
 public:
  ICudaEngine(Plan plan, ILogger& log) : plan_(std::move(plan)), log_(log) {}

  std::int32_t getNbIOTensors() const noexcept { return static_cast<std::int32_t>(plan_.tensors.size()); }
  const char* getIOTensorName(std::int32_t place) const noexcept { return plan_.tensors.at(std::size_t(place)).c_str(); }
  Dims getTensorShape(const char* name) const noexcept { return Dims2(-1, is_output(name) ? plan_.width : -1); }
  DataType getTensorDataType(const char* name) const noexcept {
    return is_output(name) ? DataType::kFLOAT : DataType::kINT64;
  }
  TensorIOMode getTensorIOMode(const char* name) const noexcept {
    return is_output(name) ? TensorIOMode::kOUTPUT : TensorIOMode::kINPUT;
  }
  std::int32_t getNbOptimizationProfiles() const noexcept { return static_cast<std::int32_t>(plan_.profiles.size()); }
  Dims getProfileShape(const char*, std::int32_t profile, OptProfileSelector which) const noexcept {
    const auto& [least, most] = plan_.profiles.at(std::size_t(profile));
    if (standin::fails()) return {};
    return which == OptProfileSelector::kMIN ? least : most;
  }
  IExecutionContext* createExecutionContext() noexcept {
    return standin::fails() ? nullptr : new IExecutionContext(plan_, log_);
  }

 private:
  bool is_output(const char* name) const { return plan_.tensors.back() == name; }

  Plan plan_;
  ILogger& log_;
};

class IRuntime {
 public:
  explicit IRuntime(ILogger& log) : log_(log) {}

  ICudaEngine* deserializeCudaEngine(const void* blob, std::size_t size) noexcept {
    std::istringstream numbers(std::string(static_cast<const char*>(blob), size));
    Plan plan;
    int inputs = 0;
    numbers >> plan.width >> inputs;
    for (std::int64_t texts, tokens, most_texts, most_tokens; numbers >> texts >> tokens >> most_texts >> most_tokens;) {
      plan.profiles.emplace_back(Dims2(texts, tokens), Dims2(most_texts, most_tokens));
    }
    if (plan.profiles.empty() || standin::fails()) {
      log_.log(ILogger::Severity::kERROR, "the plan is none of this library");
      return nullptr;
    }
    plan.tensors = {"input_ids", "attention_mask"};
    if (inputs == 3) plan.tensors.emplace_back("pooling_mask");
    plan.tensors.emplace_back("full_embedding");
    plan.gpu = standin::current.gpu;
    return new ICudaEngine(std::move(plan), log_);
  }

 private:
  ILogger& log_;
};

inline IRuntime* createInferRuntime(ILogger& log) noexcept { return standin::fails() ? nullptr : new IRuntime(log); }

}  // namespace nvinfer1
